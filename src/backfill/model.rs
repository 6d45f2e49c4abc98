//! The words of a backfill.

use std::{collections::BTreeMap, fmt, time::Duration};

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{Output, RetryPolicy},
    engine::SourceFile,
    store::Replaced,
    time::{Grain, Partition, SysTime, ValidTime},
};

/// Which basis a partition reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Knowledge {
    /// The partition's end plus a delay: what a pipeline running then would have known.
    AsKnownThen {
        /// How long after the partition's end it ran.
        availability_delay_micros: i64,
    },
    /// The latest basis when the backfill is created.
    AsKnownNow,
    /// A basis that is given.
    AtBasis(SysTime),
}

impl fmt::Display for Knowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsKnownThen {
                availability_delay_micros: 0,
            } => f.write_str("as known then"),
            Self::AsKnownThen {
                availability_delay_micros: micros,
            } => {
                let delay = Duration::from_micros(micros.unsigned_abs());
                write!(f, "as known then with a delay of {delay:?}")
            }
            Self::AsKnownNow => f.write_str("as known now"),
            Self::AtBasis(basis) => write!(f, "at basis {basis}"),
        }
    }
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillSpec {
    /// What to run, by name, each once; at least one.
    pub transforms: Vec<TransformRef>,
    /// Start of the first partition.
    pub from: ValidTime,
    /// End of the last one, exclusive.
    pub to: ValidTime,
    /// What partitions may know.
    pub knowledge: Knowledge,
    /// `None`: the server's default.
    pub max_active_partitions: Option<u32>,
    /// Neighbouring partitions that one task computes. `None`: one.
    #[serde(default)]
    pub partitions_per_task: Option<u32>,
    /// `None`: the transform's.
    pub max_attempts: Option<u32>,
    /// How long one attempt may take. `None`: as the transform says.
    #[serde(default)]
    pub attempt_timeout: Option<Duration>,
    /// Nothing new starts once a partition failed for good.
    #[serde(default)]
    pub stop_on_first_failure: bool,
    /// The latest partition first.
    #[serde(default)]
    pub run_backwards: bool,
    /// Which partitions of the range run.
    #[serde(default)]
    pub reprocess: Reprocess,
    /// Backfills of a higher one get the server's free slots first.
    #[serde(default)]
    pub priority: i64,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
}

/// A transform to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformRef {
    /// Its name.
    pub name: String,
    /// `None`: the latest.
    pub revision: Option<u32>,
}

/// Which partitions of a range run, by what earlier backfills of the transform made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reprocess {
    /// Those that no earlier backfill published or failed at.
    None,
    /// Those, and the ones that failed last time.
    Failed,
    /// All.
    #[default]
    Completed,
    /// Those that are published and stale.
    Stale,
}

/// The backfill that another one restates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// It.
    pub name: String,
    /// The first of the line: the parent's root, or the parent itself.
    pub root: String,
}

/// How partitions of one transform depend on one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DependencyShape {
    /// Not at all.
    Independent,
    /// Each on the ones before it: ascending, one at a time.
    Sequential,
}

/// One partition of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPartition {
    /// Its slice of valid time and label.
    pub partition: Partition,
    /// The basis it reads.
    pub basis: SysTime,
    /// Why it does not run; `None`: it runs.
    pub skip_reason: Option<String>,
    /// Source files it opens.
    pub file_count: u32,
    /// Why it runs, where only some do; `None`: it was asked for, or it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_reason: Option<String>,
    /// The place of its transform in the plan.
    #[serde(default)]
    pub transform: u32,
}

/// A source as it was when the backfill was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenSource {
    /// Its name.
    pub source: String,
    /// How far before a partition's start it reaches, in microseconds.
    pub lookback_micros: i64,
    /// The files that any of the partitions may open, by path.
    pub files: Vec<SourceFile>,
}

/// Another transform's table as it was when the backfill was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenTable {
    /// Its name.
    pub table: String,
    /// How far before a partition's start it reaches, in microseconds.
    pub lookback_micros: i64,
    /// The length of its partitions.
    pub grain: Grain,
    /// Their zone.
    pub zone: Tz,
    /// The place in the plan of the transform that writes it; `None`: this backfill does not.
    pub writer: Option<u32>,
    /// What partitions that this backfill does not publish are read at; `None`: nothing was published.
    pub snapshot_id: Option<i64>,
}

/// What a backfill would do with one of its transforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformPlan {
    /// The transform's name.
    pub transform: String,
    /// Its revision.
    pub revision: u32,
    /// What it writes.
    #[serde(flatten)]
    pub output: Output,
    /// The length of its partitions.
    pub grain: Grain,
    /// Their zone.
    pub zone: Tz,
    /// How partitions depend on one another.
    pub shape: DependencyShape,
    /// How they are retried, and how long each attempt may take.
    pub retry: RetryPolicy,
    /// How many partitions it has in the plan.
    pub partition_count: u32,
    /// Ascending by input.
    pub sources: Vec<FrozenSource>,
    /// As in the definition.
    #[serde(default)]
    pub tables: Vec<FrozenTable>,
}

/// What a backfill would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Each after those whose tables it reads, otherwise by name; at least one.
    pub transforms: Vec<TransformPlan>,
    /// As asked.
    pub knowledge: Knowledge,
    /// How many tasks compute at once.
    pub max_active_partitions: u32,
    /// Neighbouring partitions that one task computes, at most.
    #[serde(default = "one")]
    pub partitions_per_task: u32,
    /// Nothing new starts once a partition failed for good.
    #[serde(default)]
    pub stop_on_first_failure: bool,
    /// The latest partition first.
    #[serde(default)]
    pub run_backwards: bool,
    /// By end; of those that end together, in the order of `transforms`: none comes before one that it reads.
    pub partitions: Vec<PlannedPartition>,
    /// What would surprise.
    pub warnings: Vec<String>,
}

const fn one() -> u32 {
    1
}

/// A backfill's frozen part: written once, at creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// As asked.
    pub spec: BackfillSpec,
    /// What was planned then.
    pub plan: Plan,
    /// What it restates; `None`: it is the first of its line.
    #[serde(default)]
    pub parent: Option<Parent>,
    /// Microseconds since the Unix epoch.
    pub create_time_micros: i64,
}

/// The life of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "DESIGN's states; the proto says what each means"
)]
pub enum BackfillState {
    Pending,
    Running,
    Paused,
    Cancelling,
    Succeeded,
    PartiallySucceeded,
    Failed,
    Cancelled,
}

impl BackfillState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Running,
        Self::Paused,
        Self::Cancelling,
        Self::Succeeded,
        Self::PartiallySucceeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// It, as metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::PartiallySucceeded => "partially_succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// It, for a sentence.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::PartiallySucceeded => "partially succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will happen any more.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Paused | Self::Cancelling => false,
            Self::Succeeded | Self::PartiallySucceeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// The life of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "DESIGN's states; the proto says what each means"
)]
pub enum PartitionState {
    Pending,
    Blocked,
    Running,
    WaitingRetry,
    Succeeded,
    Failed,
    UpstreamFailed,
    Skipped,
    Cancelled,
}

impl PartitionState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Blocked,
        Self::Running,
        Self::WaitingRetry,
        Self::Succeeded,
        Self::Failed,
        Self::UpstreamFailed,
        Self::Skipped,
        Self::Cancelled,
    ];

    /// It, as metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Blocked => "blocked",
            Self::Running => "running",
            Self::WaitingRetry => "waiting_retry",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::UpstreamFailed => "upstream_failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will happen to it any more.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Blocked | Self::Running | Self::WaitingRetry => false,
            Self::Succeeded
            | Self::Failed
            | Self::UpstreamFailed
            | Self::Skipped
            | Self::Cancelled => true,
        }
    }
}

/// One entry of a backfill's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Dense, from 1.
    pub sequence: u64,
    /// Microseconds since the Unix epoch.
    pub time_micros: i64,
    /// What changed.
    pub change: Change,
}

/// What an event changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The backfill is there. Always the first event.
    Created,
    /// The backfill is in another state.
    State(BackfillState),
    /// A partition is in another state.
    Partition(PartitionChange),
    /// So many partitions may compute at once from now on.
    Concurrency(u32),
    /// The server came back; so many attempts were fenced off.
    Resumed {
        /// Attempts that were running when it went away.
        fenced_attempt_count: u32,
    },
}

/// A partition's new state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChange {
    /// Its place in the plan.
    pub index: u32,
    /// Its state from now on.
    pub state: PartitionState,
    /// The attempt that this is about; 0 before the first.
    pub attempt: u32,
    /// Of that attempt.
    pub rows_read: u64,
    /// Of that attempt.
    pub rows_written: u64,
    /// Of that attempt's data files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_written: u64,
    /// Most working memory that its query had reserved at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub peak_memory_bytes: u64,
    /// RUNNING: how long it waited for a slot.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slot_wait_micros: u64,
    /// When it began to compute, if its task computed others before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at_micros: Option<i64>,
    /// When its rows were computed and staged; from then on it waited for its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_at_micros: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_micros: Option<i64>,
    /// What published it, of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<i64>,
    /// What publishing it changed, of an entity type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entities: Option<EntityChanges>,
}

/// What tells of a partition's publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receipt {
    /// The table's snapshot that has it.
    Snapshot(i64),
    /// What it changed of the entity type.
    Entities(EntityChanges),
}

impl Receipt {
    pub(super) fn snapshot_id(self) -> Option<i64> {
        match self {
            Self::Snapshot(id) => Some(id),
            Self::Entities(_) => None,
        }
    }

    pub(super) fn entities(self) -> Option<EntityChanges> {
        match self {
            Self::Snapshot(_) => None,
            Self::Entities(changes) => Some(changes),
        }
    }
}

/// What publishing a partition did to its entity type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityChanges {
    /// How many entities it changed.
    #[serde(flatten)]
    pub replaced: Replaced,
    /// A basis at which all of it is there.
    pub basis: SysTime,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl PartitionChange {
    /// A change to `state` that says nothing else.
    pub fn plain(index: u32, state: PartitionState, attempt: u32) -> Self {
        Self {
            index,
            state,
            attempt,
            rows_read: 0,
            rows_written: 0,
            bytes_written: 0,
            peak_memory_bytes: 0,
            slot_wait_micros: 0,
            began_at_micros: None,
            staged_at_micros: None,
            message: None,
            retry_at_micros: None,
            snapshot_id: None,
            entities: None,
        }
    }
}
