//! Where the SQL may call out: in columns that it gives, and in conditions on rows. Everything else evaluates functions where
//! nothing can be waited for.

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan},
};

use super::is_call;
use crate::{
    calls::{Fault, Refused},
    engine::{Error, Result},
};

/// Checks an optimised plan.
///
/// # Errors
/// [`Error::Call`] naming the call that cannot stand where it does.
pub(in crate::engine) fn check(plan: &LogicalPlan) -> Result<()> {
    let mut offender = None;
    plan.apply_with_subqueries(|node| {
        let may_call = matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Filter(_));
        node.apply_expressions(|expression| {
            offender = if may_call {
                nested(expression)
            } else {
                first(expression).map(|name| {
                    format!(
                        "{name}() stands in a join's condition, an aggregate, a window or an ORDER BY; call it in a subquery of its own: WITH asked AS (SELECT *, {name}(…) AS answer FROM …) SELECT … FROM asked"
                    )
                })
            };
            Ok(match offender {
                Some(_) => TreeNodeRecursion::Stop,
                None => TreeNodeRecursion::Continue,
            })
        })
    })?;
    match offender {
        None => Ok(()),
        Some(problem) => {
            let refused = Refused::new(Fault::Place, "transform.sql", problem);
            Err(Error::Call(refused))
        }
    }
}

/// A call within a call.
fn nested(expression: &Expr) -> Option<String> {
    let mut found = None;
    let visited = expression.apply(|part| {
        if let Some(outer) = is_call(part) {
            let mut inner = None;
            part.apply_children(|child| {
                inner = first(child);
                Ok::<_, DataFusionError>(match inner {
                    Some(_) => TreeNodeRecursion::Stop,
                    None => TreeNodeRecursion::Continue,
                })
            })?;
            found = inner.map(|inner| {
                format!(
                    "{outer}() is asked with what {inner}() answers: put an aggregate or a DISTINCT between them, so that one is over before the other begins"
                )
            });
        }
        Ok::<_, DataFusionError>(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    });
    debug_assert!(visited.is_ok(), "nothing in it fails");
    found
}

/// The first call in an expression.
pub(super) fn first(expression: &Expr) -> Option<String> {
    let mut found = None;
    let visited = expression.apply(|part| {
        found = is_call(part).map(str::to_owned);
        Ok::<_, DataFusionError>(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    });
    debug_assert!(visited.is_ok(), "nothing in it fails");
    found
}
