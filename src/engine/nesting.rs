//! How deep a query may nest.
//!
//! The parser, the planner and the operators walk a query by recursion, and a thread that runs out of stack takes the whole
//! process with it. So queries are planned and run on threads with [`STACK_BYTES`], and one that nests deeper than those
//! stacks surely bear is refused.

use std::ops::ControlFlow;

use datafusion::{
    logical_expr::LogicalPlan,
    sql::{
        parser::Statement,
        sqlparser::ast::{Expr, Query, SetExpr, Visit, Visitor},
    },
};

use super::{Error, Result};

/// The stack of a thread that plans or runs queries. Only what is touched of it takes memory. A level of an expression takes
/// some 7 KiB of it in an unoptimized build.
pub(super) const STACK_BYTES: usize = 64 << 20;
/// The deepest expression: `a + b + c` is 2 deep.
const MAX_EXPRESSION_DEPTH: usize = 1_000;
/// The most operators from the output down to an input: `a JOIN b JOIN c` is 2 joins deep.
const MAX_PLAN_DEPTH: usize = 256;

/// Refuses a statement whose expressions nest too deep, or that puts too many queries in a row: planning those takes time
/// that grows with the square of their number.
///
/// # Errors
/// [`Error::Definition`].
pub(super) fn check_statement(statement: &Statement) -> Result<()> {
    let Statement::Statement(statement) = statement else {
        return Ok(());
    };
    match statement.visit(&mut Depth(0)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// How many expressions are open.
struct Depth(usize);

impl Visitor for Depth {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let named = query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        if named.max(queries_in_a_row(&query.body)) > MAX_PLAN_DEPTH {
            return ControlFlow::Break(too_many_queries());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<Error> {
        self.0 += 1;
        if self.0 > MAX_EXPRESSION_DEPTH {
            return ControlFlow::Break(Error::definition(
                "transform.sql",
                format!(
                    "an expression in it is more than {MAX_EXPRESSION_DEPTH} operators deep; compare with a list (IN), or compute it in steps (WITH)"
                ),
            ));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Error> {
        self.0 -= 1;
        ControlFlow::Continue(())
    }
}

/// Operands of a chain of UNION, EXCEPT and INTERSECT, or tables of a FROM clause. Chains lean to the left; what is in
/// parentheses is a query of its own.
fn queries_in_a_row(body: &SetExpr) -> usize {
    let mut count = 1;
    let mut body = body;
    while let SetExpr::SetOperation { left, .. } = body {
        count += 1;
        body = left;
    }
    let SetExpr::Select(select) = body else {
        return count;
    };
    let tables = select.from.iter().map(|table| 1 + table.joins.len()).sum();
    count.max(tables)
}

fn too_many_queries() -> Error {
    Error::definition(
        "transform.sql",
        format!("it joins, unites or nests more than {MAX_PLAN_DEPTH} queries in a row"),
    )
}

/// Refuses a plan that is too deep. Does not recurse itself.
///
/// # Errors
/// [`Error::Definition`].
pub(super) fn check_plan(plan: &LogicalPlan) -> Result<()> {
    let mut to_see = vec![(plan, 1)];
    while let Some((plan, depth)) = to_see.pop() {
        if depth > MAX_PLAN_DEPTH {
            return Err(too_many_queries());
        }
        to_see.extend(plan.inputs().into_iter().map(|input| (input, depth + 1)));
    }
    Ok(())
}
