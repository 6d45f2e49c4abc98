//! Computing one partition in a pinned session.
//!
//! The SQL of a transform runs in a session that holds nothing but its declared inputs, each cut to what the partition may
//! see (invariant `PT-1`): there is no name for current state. [`check`] plans a transform once, at registration; an
//! [`Engine`] runs it, partition by partition.
//!
//! What this module leaves to others: which partitions run, and at which basis (`backfill`); what becomes of the rows
//! (`lake`).

mod as_of;
mod calls;
pub mod check;
mod embedded;
mod entity_filter;
mod entity_output;
mod entity_rules;
mod entity_table;
mod error;
mod file_table;
mod filter_barrier;
mod filter_clause;
mod function_rules;
mod memory;
mod metronome;
mod nesting;
mod only_child;
mod parameters;
mod priority;
mod reads;
mod sequential;
mod session;
mod shared_scan;
pub mod source;
mod table_view;
mod time_cut;
mod yielding;

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use embedded::{Embedded, EmbeddedConfig};
pub use entity_filter::{EntityFilter, FilterPlanner, MAX_FILTER_BYTES};
pub use error::Error;
pub use memory::PeakMemory;
pub use reads::{EVERY_ATTRIBUTE, EntityRead, FileDigest, FileSet, Reads, Sight, TableRead};
pub use session::{EngineUsage, Sessions, prior_range};
pub use shared_scan::SharedScans;
pub use source::{PinnedSource, SourceFile};
pub use table_view::{PinnedTable, PublishedView, TableView};

use crate::{
    calls::CallWork,
    catalog::Transform,
    lake::{AttemptId, Staged},
    store::{EntityType, StagedRows},
    time::{Interval, Partition, SysTime, ValidTime},
};

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An entity type as a session shows it.
#[derive(Debug, Clone)]
pub struct PinnedEntity {
    /// Its schema.
    pub entity_type: Arc<EntityType>,
    /// The table shows entities at the partition's start, not at its last instant.
    pub at_partition_start: bool,
}

impl PinnedEntity {
    /// The instant at which a partition over `window` is shown its entities.
    fn shown_at(&self, window: Interval<ValidTime>) -> ValidTime {
        if self.at_partition_start {
            window.from
        } else {
            let end = window.to.unwrap_or(window.from);
            end.saturating_add_micros(-1)
        }
    }
}

/// What all partitions of a backfill share: the transform revision and what its names mean.
#[derive(Debug, Clone)]
pub struct PinnedInputs {
    /// The revision.
    pub transform: Arc<Transform>,
    /// Its sources, with the files that were there when the backfill was created.
    pub sources: Vec<PinnedSource>,
    /// Its entity types.
    pub entities: Vec<PinnedEntity>,
    /// Its tables, as in the definition.
    pub tables: Vec<PinnedTable>,
    /// The entity type that it writes, as the revision sees it; `None`: it writes a table.
    pub output_type: Option<Arc<EntityType>>,
}

impl PinnedInputs {
    /// The entity type that the transform writes.
    fn output_type(&self) -> Result<&Arc<EntityType>> {
        self.output_type.as_ref().ok_or_else(|| Error::Broken {
            cause: "the entity type that is written was not pinned".to_owned(),
        })
    }
}

/// One try at one partition.
#[derive(Debug, Clone)]
pub struct PartitionWork {
    /// What it reads.
    pub inputs: Arc<PinnedInputs>,
    /// Which slice of valid time it may see.
    pub partition: Partition,
    /// What it may know.
    pub basis: SysTime,
    /// Source rows that became available after it are not there; `None`: all are.
    pub available_by: Option<SysTime>,
    /// By table input: what of it may be seen.
    pub tables: Vec<TableView>,
    /// Which try.
    pub attempt: AttemptId,
    /// Where its peak of working memory is told, also if it fails.
    pub memory: Arc<PeakMemory>,
    /// What it shares with others that are computed before and after it.
    pub scans: Arc<SharedScans>,
    /// What its external calls go by, and are told to.
    pub calls: CallWork,
}

/// What a try produced.
#[derive(Debug)]
pub struct Computed {
    /// Its rows, where nobody sees them yet.
    pub staged: StagedOutput,
    /// Rows that came out of sources, tables and `prior`.
    pub rows_read: u64,
    /// What its query read.
    pub reads: Reads,
}

/// A partition's rows that wait to be published.
#[derive(Debug)]
pub enum StagedOutput {
    /// Data files of a table.
    Files(Staged),
    /// Entities.
    Rows(StagedRows),
}

impl StagedOutput {
    /// How many rows they are.
    pub fn row_count(&self) -> u64 {
        match self {
            Self::Files(staged) => staged.row_count,
            Self::Rows(rows) => rows.row_count,
        }
    }

    /// What they take, in files or as rows of entities.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Files(staged) => staged.size_bytes,
            Self::Rows(rows) => rows.size_bytes,
        }
    }
}

/// Runs pinned work.
#[async_trait]
pub trait Engine: Send + Sync + std::fmt::Debug + 'static {
    /// Computes one partition and stages its rows.
    ///
    /// The same work gives the same set of rows, whenever and how often it runs. When `cancel` fires, the work is abandoned
    /// and what it staged is removed before this returns [`Error::Stopped`].
    ///
    /// # Errors
    /// [`Error::retryable`] tells whether another try can help.
    async fn run(&self, work: PartitionWork, cancel: CancellationToken) -> Result<Computed>;
}
