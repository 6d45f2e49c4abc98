//! Backfills: planned, frozen, journalled, run partition by partition, published.
//!
//! Pure: `plan` (what would run), `upstream` (what partitions read of other transforms), `history` (what ran before), `state`
//! (how it stands), `decide` (what a command leads to), `slots` (who may start), `retry`. Durable: `journal`, `inputs` (what
//! each attempt read). `stale` tells which published partitions would come out otherwise now. The
//! `actor` is the only writer: it journals first and acts after; `executor` starts it and speaks for it. `model` holds the words.
//!
//! Invariants: `PT-2` (all attempts of a partition read the same world: everything is frozen in the [`Record`]), `BF-1` (a
//! partition is published at most once per backfill: attempts are numbered and fenced, and the table's snapshots, or the marks
//! in the entity store, say which attempt they hold), `PR-1` (events are dense: the journal is the event log).

mod actor;
mod attempts;
mod blocking;
mod decide;
mod error;
mod executor;
mod history;
mod inputs;
mod journal;
mod meter;
mod model;
mod plan;
mod planner;
mod publish;
mod retry;
mod slots;
mod stale;
mod state;
mod upstream;
mod watch;
mod watch_all;

pub use attempts::Attempt;
pub use error::Error;
pub use executor::{Executor, ExecutorConfig, Handle, Planned, Restatement};
pub use history::Estimate;
pub use model::{
    BackfillSpec, BackfillState, Change, DependencyShape, EntityChanges, Event, FrozenSource,
    FrozenTable, Knowledge, Parent, PartitionChange, PartitionState, Plan, PlannedPartition,
    Record, Reprocess, TransformPlan, TransformRef,
};
pub use stale::{Differs, FileChange, StalePage, StalePartition, StaleQuery, StaleReason};
pub use state::{Counts, PartitionRun, State};
pub use watch::{Progress, WatchItem, WatchSettings};
pub use watch_all::WatchAllItem;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;
