//! The child of a plan node that has one.

use std::sync::Arc;

use datafusion::{common::internal_err, error::Result, physical_plan::ExecutionPlan};

/// The one child that the optimizer gives the node of this name.
pub(super) fn only_child(
    name: &str,
    mut children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match (children.pop(), children.pop()) {
        (Some(child), None) => Ok(child),
        _ => internal_err!("{name} has one child"),
    }
}
