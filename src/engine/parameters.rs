//! `$partition_start` and `$partition_end`, put into the query as typed literals before it is planned.

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::Statement,
    sqlparser::{
        ast::{self, Expr, Value, visit_expressions_mut},
        dialect::GenericDialect,
        parser::Parser,
    },
};

use super::{Error, Result};
use crate::time::{Interval, ValidTime};

const START: &str = "$partition_start";
const END: &str = "$partition_end";

/// Puts the ends of `window` where the parameters stand.
///
/// # Errors
/// [`Error::Definition`] for a statement that is no query, and for any other parameter.
pub(super) fn bind(statement: Statement, window: &Interval<ValidTime>) -> Result<Statement> {
    let not_a_query = || {
        Error::definition(
            "transform.sql",
            "it must be one query (SELECT … or WITH … SELECT …)",
        )
    };
    let Statement::Statement(mut statement) = statement else {
        return Err(not_a_query());
    };
    if !matches!(*statement, ast::Statement::Query(_)) {
        return Err(not_a_query());
    }
    let start = literal(window.from)?;
    let end = literal(window.to.unwrap_or(window.from))?;
    let outcome = visit_expressions_mut(statement.as_mut(), |expression| {
        let Expr::Value(value) = expression else {
            return ControlFlow::Continue(());
        };
        let Value::Placeholder(name) = &value.value else {
            return ControlFlow::Continue(());
        };
        match name.as_str() {
            START => *expression = start.clone(),
            END => *expression = end.clone(),
            other => return ControlFlow::Break(other.to_owned()),
        }
        ControlFlow::Continue(())
    });
    match outcome {
        ControlFlow::Continue(()) => Ok(Statement::Statement(statement)),
        ControlFlow::Break(name) => Err(Error::definition(
            "transform.sql",
            format!("there is no parameter {name}; there are {START} and {END}"),
        )),
    }
}

fn literal(instant: ValidTime) -> Result<Expr> {
    let text = format!("arrow_cast('{instant}', 'Timestamp(Microsecond, Some(\"UTC\"))')");
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql(&text)
        .and_then(|mut parser| parser.parse_expr());
    parsed.map_err(|error| Error::Broken {
        cause: format!("{text}: {error}"),
    })
}
