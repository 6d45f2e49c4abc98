//! One scan for several partitions: what the first one of a task reads of a file that they all read whole, the others find in
//! memory.
//!
//! Only CSV is shared. It has no index, so every partition would decode all of it; of Parquet each one opens the row groups that
//! it needs. The batches are those that the file's own scan gives, cut to the partition afterwards: a partition computes the
//! same, to the last bit, whether it finds them or reads them.

use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    error::Result,
    execution::{
        RecordBatchStream, SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
    },
};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use super::{PartitionWork, only_child::only_child};
use crate::{
    catalog::SourceFormat,
    time::{Interval, ValidTime},
};

/// The name of [`SharedScanExec`] in plans.
pub(super) const SHARED_SCAN: &str = "SharedScanExec";
/// Most bytes of decoded rows that are kept of one source for one task; beyond it each partition reads for itself.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// A source and some of its columns.
type SourceColumns = (String, Vec<usize>);

/// The rows that the partitions of one task share. They are kept as long as this is.
#[derive(Debug, Default)]
pub struct SharedScans {
    /// Sources of which all of these partitions read the same files.
    sources: BTreeSet<String>,
    /// By source and columns.
    slots: Mutex<HashMap<SourceColumns, Arc<Slot>>>,
}

impl SharedScans {
    /// Of partitions that are computed one after the other.
    pub fn of<'a>(works: impl Iterator<Item = &'a PartitionWork> + Clone) -> Arc<Self> {
        let mut sources = BTreeSet::new();
        if works.clone().count() > 1
            && let Some(first) = works.clone().next()
        {
            let csv = (0..).zip(&first.inputs.sources);
            let csv = csv.filter(|(_, it)| it.source.format == SourceFormat::Csv);
            for (index, source) in csv {
                if works.clone().all(|work| reads_alike(index, first, work)) {
                    sources.insert(source.source.name.clone());
                }
            }
        }
        Arc::new(Self {
            sources,
            slots: Mutex::default(),
        })
    }

    /// Where the rows of these columns of a source are kept; `None`: they are not shared.
    pub(super) fn slot(&self, source: &str, columns: &[usize]) -> Option<Arc<Slot>> {
        if !self.sources.contains(source) {
            return None;
        }
        let key = (source.to_owned(), columns.to_vec());
        Some(Arc::clone(self.slots.lock().entry(key).or_default()))
    }
}

/// Whether two partitions read the same files of the source at `index`.
fn reads_alike(index: usize, one: &PartitionWork, other: &PartitionWork) -> bool {
    let window = |work: &PartitionWork| -> Interval<ValidTime> {
        Interval::new(work.partition.start, work.partition.end)
    };
    let (Some(source), Some(same)) = (
        one.inputs.sources.get(index),
        other.inputs.sources.get(index),
    ) else {
        return false;
    };
    source
        .files_in(&source.window(window(one)))
        .eq(same.files_in(&same.window(window(other))))
}

/// Rows that one scan found.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Kept>);

#[derive(Debug, Default)]
enum Kept {
    /// The next scan fills it.
    #[default]
    Nothing,
    /// A scan is under way. Another one at the same time, of the same query, reads for itself: it must not wait for one that
    /// may wait for it.
    Filling,
    /// All of them.
    Rows {
        batches: Arc<Vec<RecordBatch>>,
        /// Given back with the rows.
        _reservation: MemoryReservation,
    },
    /// They are too many.
    TooMany,
}

/// The rows of its input, kept for the next one or found where an earlier one kept them.
#[derive(Debug)]
pub(super) struct SharedScanExec {
    input: Arc<dyn ExecutionPlan>,
    slot: Arc<Slot>,
    metrics: ExecutionPlanMetricsSet,
}

impl SharedScanExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, slot: Arc<Slot>) -> Self {
        Self {
            input,
            slot,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for SharedScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHARED_SCAN)
    }
}

impl ExecutionPlan for SharedScanExec {
    fn name(&self) -> &'static str {
        SHARED_SCAN
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

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child(self.name(), children)?;
        Ok(Arc::new(Self::new(input, Arc::clone(&self.slot))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let mut kept = self.slot.0.lock();
        let (rows, filling) = match &*kept {
            Kept::Rows { batches, .. } => {
                let batches = Arc::clone(batches);
                let found = (0..batches.len()).map(move |index| Ok(batches.get(index).cloned()));
                let found = futures::stream::iter(found.filter_map(Result::transpose));
                (found.boxed(), None)
            }
            Kept::Nothing => {
                let consumer = MemoryConsumer::new("rows that a task's partitions share");
                let filling = Filling {
                    slot: Arc::clone(&self.slot),
                    batches: Vec::new(),
                    reservation: Some(consumer.register(context.memory_pool())),
                };
                *kept = Kept::Filling;
                (
                    self.input.execute(partition, context)?.boxed(),
                    Some(filling),
                )
            }
            Kept::Filling | Kept::TooMany => {
                (self.input.execute(partition, context)?.boxed(), None)
            }
        };
        Ok(Box::pin(SharedRows {
            schema: self.input.schema(),
            rows,
            filling,
            metrics: BaselineMetrics::new(&self.metrics, partition),
        }))
    }
}

/// Rows on their way into a slot. Dropped before the end, it leaves the slot to the next scan.
struct Filling {
    slot: Arc<Slot>,
    batches: Vec<RecordBatch>,
    /// `None`: handed on.
    reservation: Option<MemoryReservation>,
}

impl Filling {
    /// Whether there is room for it.
    fn keep(&mut self, batch: &RecordBatch) -> bool {
        let Some(reservation) = &mut self.reservation else {
            return false;
        };
        let size = batch.get_array_memory_size();
        let fits =
            reservation.size() + size <= MAX_KEPT_BYTES && reservation.try_grow(size).is_ok();
        if fits {
            self.batches.push(batch.clone());
        } else {
            self.reservation = None;
            *self.slot.0.lock() = Kept::TooMany;
        }
        fits
    }

    fn finish(mut self) {
        if let Some(reservation) = self.reservation.take() {
            *self.slot.0.lock() = Kept::Rows {
                batches: Arc::new(std::mem::take(&mut self.batches)),
                _reservation: reservation,
            };
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.reservation.is_some() {
            *self.slot.0.lock() = Kept::Nothing;
        }
    }
}

struct SharedRows {
    schema: SchemaRef,
    rows: futures::stream::BoxStream<'static, Result<RecordBatch>>,
    filling: Option<Filling>,
    metrics: BaselineMetrics,
}

impl Stream for SharedRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.rows.poll_next_unpin(context));
        match &next {
            Some(Ok(batch)) => {
                let fits = self
                    .filling
                    .as_mut()
                    .is_some_and(|filling| filling.keep(batch));
                if !fits {
                    self.filling = None;
                }
            }
            // The next partition tries again.
            Some(Err(_)) => self.filling = None,
            None => {
                if let Some(filling) = self.filling.take() {
                    filling.finish();
                }
            }
        }
        self.metrics.record_poll(Poll::Ready(next))
    }
}

impl RecordBatchStream for SharedRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
