//! Which functions a transform may call: those whose value depends on their arguments alone.

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, Volatility},
};

use super::{Error, Result, calls};

/// Refuses a plan that calls a function whose answer depends on when or where it runs.
///
/// # Errors
/// [`Error::Definition`] naming the function.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let mut offender = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                // What an outside system answered is kept: it does not change any more.
                offender = match calls::is_call(part) {
                    Some(_) => None,
                    None => unstable_function(part),
                };
                Ok::<_, DataFusionError>(if offender.is_some() {
                    TreeNodeRecursion::Stop
                } else {
                    TreeNodeRecursion::Continue
                })
            })
        })
    })?;
    match offender {
        None => Ok(()),
        Some(name) => Err(Error::definition(
            "transform.sql",
            format!(
                "{name}() gives another answer each time it runs, so no partition could be computed twice alike; use $partition_start or $partition_end for time, and columns of the inputs for all else"
            ),
        )),
    }
}

pub(super) fn unstable_function(expression: &Expr) -> Option<String> {
    let (name, volatility) = if let Expr::ScalarFunction(call) = expression {
        (call.func.name(), call.func.signature().volatility)
    } else if let Expr::AggregateFunction(call) = expression {
        (call.func.name(), call.func.signature().volatility)
    } else if let Expr::WindowFunction(call) = expression {
        (call.fun.name(), call.fun.signature().volatility)
    } else {
        return None;
    };
    (volatility != Volatility::Immutable).then(|| name.to_owned())
}
