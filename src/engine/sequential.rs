//! Makes a plan's result independent of timing.
//!
//! Where the engine merges parallel streams it takes batches as they come. A sum of floats then differs in its last bits
//! from run to run, and the same partition computed twice would not be the same rows. Within one partition of a backfill
//! streams are therefore read one after the other; parallelism is across partitions.

use std::{any::Any, fmt, sync::Arc};

use datafusion::{
    common::{
        config::ConfigOptions,
        internal_err,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::EquivalenceProperties,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
        PlanProperties, coalesce_partitions::CoalescePartitionsExec, limit::GlobalLimitExec,
        repartition::RepartitionExec, sorts::sort_preserving_merge::SortPreservingMergeExec,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, TryStreamExt};

use super::only_child::only_child;

/// Replaces every operator that merges streams as they come by one that does not.
#[derive(Debug)]
pub(super) struct SequentialMerges;

impl PhysicalOptimizerRule for SequentialMerges {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rewritten = plan.transform_up(|node| Ok(replace(node)))?;
        Ok(sequential(rewritten.data))
    }

    fn name(&self) -> &'static str {
        "sequential_merges"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `plan` as one stream.
fn sequential(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.output_partitioning().partition_count() == 1 {
        return plan;
    }
    Arc::new(SequentialExec::new(plan))
}

fn replace(node: Arc<dyn ExecutionPlan>) -> Transformed<Arc<dyn ExecutionPlan>> {
    if let Some(merge) = node.as_any().downcast_ref::<CoalescePartitionsExec>() {
        let single = sequential(Arc::clone(merge.input()));
        return Transformed::yes(match merge.fetch() {
            None => single,
            fetch => Arc::new(GlobalLimitExec::new(single, 0, fetch)),
        });
    }
    if let Some(exchange) = node.as_any().downcast_ref::<RepartitionExec>()
        && exchange.partitioning().partition_count() == 1
    {
        return Transformed::yes(sequential(Arc::clone(exchange.input())));
    }
    if let Some(merge) = node.as_any().downcast_ref::<SortPreservingMergeExec>() {
        // Among equal keys the lower stream wins, rather than the less busy one.
        let stable = SortPreservingMergeExec::new(merge.expr().clone(), Arc::clone(merge.input()))
            .with_fetch(merge.fetch())
            .with_round_robin_repartition(false);
        return Transformed::yes(Arc::new(stable));
    }
    Transformed::no(node)
}

/// All input streams as one: the first to its end, then the second, and so on.
#[derive(Debug)]
struct SequentialExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SequentialExec {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(1),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for SequentialExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SequentialExec")
    }
}

impl ExecutionPlan for SequentialExec {
    fn name(&self) -> &'static str {
        "SequentialExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child(self.name(), children)?;
        Ok(Arc::new(Self::new(input)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("SequentialExec has one partition, not {partition}");
        }
        let input = Arc::clone(&self.input);
        let count = input.output_partitioning().partition_count();
        // Opened one by one, as the one before ends: nothing runs ahead.
        let streams = futures::stream::iter(0..count)
            .map(move |index| input.execute(index, Arc::clone(&context)))
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            streams,
        )))
    }
}
