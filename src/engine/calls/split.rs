//! Conditions apart: those that need no call come first, and spare what they leave out its calls.

use datafusion::{
    common::tree_node::Transformed,
    error::Result,
    logical_expr::{
        Filter, LogicalPlan,
        utils::{conjunction, split_conjunction_owned},
    },
};

use super::place;

/// The same plan, with each filter that has conditions of both kinds as two, the one with calls above the other. The optimiser
/// puts neighbouring filters together, and all calls of a filter are made before it.
///
/// # Errors
/// None of its own.
pub(in crate::engine) fn conditions_apart(plan: LogicalPlan) -> Result<LogicalPlan> {
    let split = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Filter(filter) = node else {
            return Ok(Transformed::no(node));
        };
        let conditions = split_conjunction_owned(filter.predicate.clone());
        let (calling, plain): (Vec<_>, Vec<_>) = conditions
            .into_iter()
            .partition(|condition| place::first(condition).is_some());
        let (Some(calling), Some(plain)) = (conjunction(calling), conjunction(plain)) else {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        };
        let below = LogicalPlan::Filter(Filter::try_new(plain, filter.input)?);
        let above = Filter::try_new(calling, below.into())?;
        Ok(Transformed::yes(LogicalPlan::Filter(above)))
    })?;
    Ok(split.data)
}
