//! What a partition may see of a table, cut out where the rows are read.
//!
//! An optimizer may compute an expression below a filter, for it takes filters to be about speed. Here they are about
//! truth: `<type>_at(id, ts)` fails on a row after the partition's end, and such a row must never reach it. So the filter
//! stands inside of the scan, and nothing moves through [`CutExec`] from above.

use std::{any::Any, fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::Session,
    common::{DFSchema, internal_err},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::Expr,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, filter::FilterExecBuilder,
    },
};

/// Which columns to read for a cut: those asked for, and those that it names.
///
/// **Shape**: indices of the table's columns, and where in them those asked for stand.
pub(super) fn columns_to_read(
    schema: &SchemaRef,
    cut: &Expr,
    asked: Option<&Vec<usize>>,
) -> Result<(Vec<usize>, Vec<usize>)> {
    let asked = asked
        .cloned()
        .unwrap_or_else(|| (0..schema.fields().len()).collect());
    let mut read = asked.clone();
    for column in cut.column_refs() {
        let index = schema.index_of(column.name())?;
        if !read.contains(&index) {
            read.push(index);
        }
    }
    let kept = (0..asked.len()).collect();
    Ok((read, kept))
}

/// The rows of `input` that `cut` accepts, with the columns at `kept`.
pub(super) fn cut_out(
    state: &dyn Session,
    input: Arc<dyn ExecutionPlan>,
    cut: &Expr,
    kept: Vec<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = DFSchema::try_from(input.schema())?;
    let predicate = state.create_physical_expr(cut.clone(), &schema)?;
    let filter = FilterExecBuilder::new(predicate, input)
        .apply_projection(Some(kept))?
        .build()?;
    Ok(Arc::new(CutExec {
        input: Arc::new(filter),
    }))
}

/// Hands on its input's rows. What it is for is what it does not do: let a projection or a filter through.
#[derive(Debug)]
struct CutExec {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for CutExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CutExec")
    }
}

impl ExecutionPlan for CutExec {
    fn name(&self) -> &'static str {
        "CutExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.pop()) {
            (Some(input), None) => Ok(Arc::new(Self { input })),
            _ => internal_err!("CutExec has one child"),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
