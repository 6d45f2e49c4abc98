//! `count(*) FILTER (WHERE x)` where `x` may be null.
//!
//! DataFusion 53 looks at the bits of a filter without its nulls when it counts, so a row whose predicate is null may be
//! counted (`accumulate_indices` in `datafusion-functions-aggregate-common`). A predicate that is never null is safe: every
//! `FILTER (WHERE x)` becomes `FILTER (WHERE (x) IS TRUE)`, which means the same.

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::Statement,
    sqlparser::ast::{Expr, visit_expressions_mut},
};

/// Makes the predicate of every aggregate's filter one that is never null.
pub(super) fn never_null(mut statement: Statement) -> Statement {
    if let Statement::Statement(inner) = &mut statement {
        let _: ControlFlow<()> = visit_expressions_mut(inner.as_mut(), |expression| {
            if let Expr::Function(call) = expression
                && let Some(predicate) = call.filter.take()
            {
                let nested = Box::new(Expr::Nested(predicate));
                call.filter = Some(Box::new(Expr::IsTrue(nested)));
            }
            ControlFlow::Continue(())
        });
    }
    statement
}
