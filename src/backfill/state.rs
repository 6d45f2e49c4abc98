//! How a backfill stands: the fold of its events. Pure.
//!
//! [`State::apply`] folds events in, and nothing else changes a backfill. What a command leads to is in
//! [`decide`](super::decide).

use std::collections::{BTreeMap, BTreeSet};

use super::model::{
    BackfillState, Change, EntityChanges, Event, PartitionChange, PartitionState, Plan, Record,
};
use crate::calls::CallCounts;

/// Staged partitions that may wait to be published before no more attempts start.
const MAX_STAGED: usize = 64;

/// Partitions by state.
pub type Counts = BTreeMap<PartitionState, u32>;

/// What is known of one partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionRun {
    /// Where it is.
    pub state: PartitionState,
    /// The number of its last attempt; 0 before the first.
    pub attempt: u32,
    /// Attempts that failed. Attempts that a stop of the server ended do not count.
    pub failure_count: u32,
    /// Of the last attempt, in microseconds since the Unix epoch.
    pub start_micros: Option<i64>,
    /// Of the last attempt.
    pub end_micros: Option<i64>,
    /// Of the attempt that was published.
    pub rows_read: u64,
    /// Of the attempt that was published.
    pub rows_written: u64,
    /// Of the attempt that was published; 0 where a restart found it on the table.
    #[serde(default)]
    pub bytes_written: u64,
    /// Why the last failed attempt failed, or why it was skipped.
    pub message: Option<String>,
    /// When it is tried again.
    pub retry_at_micros: Option<i64>,
    /// What published it, of a table.
    pub snapshot_id: Option<i64>,
    /// What publishing it changed, of an entity type.
    #[serde(default)]
    pub entities: Option<EntityChanges>,
    /// What the external calls of the last attempt came to, as far as that was told.
    #[serde(default, skip_serializing_if = "CallCounts::is_empty")]
    pub calls: CallCounts,
    /// Running: the rate limit that its calls waited for when that was last told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_limit: Option<String>,
}

/// A backfill's changing part.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct State {
    /// Where it is.
    pub state: BackfillState,
    /// As in the plan.
    pub partitions: Vec<PartitionRun>,
    /// The sequence of the last event; 0 before the first.
    pub last_sequence: u64,
    /// When the first attempt started.
    pub start_micros: Option<i64>,
    /// When it ended.
    pub end_micros: Option<i64>,
    /// Of published partitions.
    pub rows_read: u64,
    /// Of published partitions.
    pub rows_written: u64,
    /// How many partitions may compute at once, where that was changed; `None`: as planned.
    #[serde(default)]
    pub concurrency: Option<u32>,
    counts: Counts,
    /// Indices that may start now, ascending.
    pub(super) pending: BTreeSet<u32>,
    /// Indices whose attempt is under way.
    pub(super) running: BTreeSet<u32>,
    /// When each of `pending` became free to run, in microseconds since the Unix epoch. Not journalled: after a restart they
    /// wait from then on.
    #[serde(skip)]
    pub(super) ready_micros: BTreeMap<u32, i64>,
    /// Attempts that compute, by partition, with the number of their task. Not journalled: a restart ends them.
    #[serde(skip)]
    computing: BTreeMap<u32, u64>,
    /// How many attempts of each task still compute. A partition may be tried again while its old task goes on.
    #[serde(skip)]
    tasks: BTreeMap<u64, usize>,
    /// The number of the next task in this process.
    #[serde(skip)]
    next_task: u64,
    /// Of `running`: computed, and waiting to be published. Not journalled: after a restart they are computed again.
    #[serde(skip)]
    pub(super) staged: BTreeSet<u32>,
    /// The server stops: nothing more starts in this process. Not journalled: a restart goes on.
    #[serde(skip)]
    pub(super) released: bool,
}

impl State {
    /// The state before the first event.
    pub(super) fn new(record: &Record) -> Self {
        let mut state = Self {
            state: BackfillState::Pending,
            partitions: Vec::with_capacity(record.plan.partitions.len()),
            last_sequence: 0,
            start_micros: None,
            end_micros: None,
            rows_read: 0,
            rows_written: 0,
            concurrency: None,
            counts: Counts::new(),
            pending: BTreeSet::new(),
            running: BTreeSet::new(),
            ready_micros: BTreeMap::new(),
            computing: BTreeMap::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            staged: BTreeSet::new(),
            released: false,
        };
        for (index, planned) in (0u32..).zip(&record.plan.partitions) {
            let run_state = match &planned.skip_reason {
                Some(_) => PartitionState::Skipped,
                None if waits_for_any(&record.plan, index) => PartitionState::Blocked,
                None => PartitionState::Pending,
            };
            if run_state == PartitionState::Pending {
                state.free(index, record.create_time_micros);
            }
            *state.counts.entry(run_state).or_default() += 1;
            state.partitions.push(PartitionRun {
                state: run_state,
                attempt: 0,
                failure_count: 0,
                start_micros: None,
                end_micros: None,
                rows_read: 0,
                rows_written: 0,
                bytes_written: 0,
                message: planned.skip_reason.clone(),
                retry_at_micros: None,
                snapshot_id: None,
                entities: None,
                calls: CallCounts::default(),
                waits_for_limit: None,
            });
        }
        state
    }

    /// Folds one event in. Events come in order, each once.
    pub(super) fn apply(&mut self, event: &Event) {
        debug_assert_eq!(
            event.sequence,
            self.last_sequence + 1,
            "PR-1: events are dense"
        );
        self.last_sequence = event.sequence;
        match &event.change {
            Change::Created | Change::Resumed { .. } => {}
            Change::State(state) => {
                self.state = *state;
                self.end_micros = state.is_terminal().then_some(event.time_micros);
            }
            Change::Waits(waits) => {
                if let Some(run) = self.partitions.get_mut(waits.index as usize) {
                    run.waits_for_limit = Some(waits.limit.clone());
                    run.calls = waits.calls;
                }
            }
            Change::Concurrency(count) => self.concurrency = Some(*count),
            Change::Partition(change) => self.apply_partition(change, event.time_micros),
        }
    }

    fn apply_partition(&mut self, change: &PartitionChange, time_micros: i64) {
        let Some(before) = self.partitions.get(change.index as usize) else {
            debug_assert!(false, "an event names partition {} of none", change.index);
            return;
        };
        if let Some(count) = self.counts.get_mut(&before.state) {
            *count = count.saturating_sub(1);
        }
        *self.counts.entry(change.state).or_default() += 1;
        self.pending.remove(&change.index);
        self.ready_micros.remove(&change.index);
        self.running.remove(&change.index);
        self.staged.remove(&change.index);
        self.computed(change.index);
        let Some(run) = self.partitions.get_mut(change.index as usize) else {
            return;
        };
        if run.state.is_terminal() && !change.state.is_terminal() {
            // It is tried anew: earlier failures do not count, and what kept it from running is over.
            run.failure_count = 0;
            if run.state != PartitionState::Failed {
                run.message = None;
            }
        }
        run.state = change.state;
        run.waits_for_limit = None;
        if change.state == PartitionState::Running || !change.calls.is_empty() {
            run.calls = change.calls;
        }
        run.attempt = change.attempt;
        run.retry_at_micros = change.retry_at_micros;
        if change.message.is_some() {
            run.message.clone_from(&change.message);
        }
        if change.began_at_micros.is_some() {
            run.start_micros = change.began_at_micros;
        }
        match change.state {
            PartitionState::Pending => self.free(change.index, time_micros),
            PartitionState::Running => {
                self.running.insert(change.index);
                run.start_micros = Some(time_micros);
                run.end_micros = None;
                self.start_micros.get_or_insert(time_micros);
            }
            PartitionState::Succeeded => {
                run.end_micros = Some(time_micros);
                run.message = None;
                run.snapshot_id = change.snapshot_id;
                run.entities = change.entities;
                run.rows_read = change.rows_read;
                run.rows_written = change.rows_written;
                run.bytes_written = change.bytes_written;
                self.rows_read += change.rows_read;
                self.rows_written += change.rows_written;
            }
            PartitionState::WaitingRetry | PartitionState::Failed => {
                run.end_micros = Some(time_micros);
                run.failure_count += 1;
            }
            PartitionState::Cancelled => {
                run.end_micros = run.start_micros.map(|_| time_micros);
            }
            PartitionState::Blocked | PartitionState::UpstreamFailed | PartitionState::Skipped => {}
        }
    }

    /// Partitions by state; states without partitions may be missing.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many partitions are in `state`.
    pub fn count(&self, state: PartitionState) -> u32 {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// Whether `attempt` is the one that partition `index` waits for. Any other is fenced off.
    pub(super) fn is_current(&self, index: u32, attempt: u32) -> bool {
        self.partitions
            .get(index as usize)
            .is_some_and(|run| run.state == PartitionState::Running && run.attempt == attempt)
    }

    /// How many tasks are computing.
    pub(super) fn computing_count(&self) -> usize {
        self.tasks.len()
    }

    /// A partition may run from now on.
    pub(super) fn free(&mut self, index: u32, now_micros: i64) {
        self.pending.insert(index);
        self.ready_micros.insert(index, now_micros);
    }

    /// These attempts compute as one task.
    pub(super) fn compute(&mut self, indices: &[u32]) {
        if indices.is_empty() {
            return;
        }
        let task = self.next_task;
        self.next_task += 1;
        for index in indices {
            self.computing.insert(*index, task);
        }
        self.tasks.insert(task, indices.len());
    }

    /// The attempt at a partition computes no more. The task's slot is free with its last one.
    pub(super) fn computed(&mut self, index: u32) {
        let Some(task) = self.computing.remove(&index) else {
            return;
        };
        let Some(count) = self.tasks.get_mut(&task) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.tasks.remove(&task);
        }
    }

    /// Whether all that a partition reads of this backfill is published.
    pub(super) fn is_free(&self, plan: &Plan, index: u32) -> bool {
        let published = |index: u32| {
            let run = self.partitions.get(index as usize);
            run.is_some_and(|run| run.state == PartitionState::Succeeded)
        };
        plan.predecessor_of(index).is_none_or(published) && plan.upstream_of(index).all(published)
    }

    /// How many tasks may compute at once.
    pub fn max_active(&self, plan: &Plan) -> u32 {
        if plan.is_sequential() {
            return 1;
        }
        self.concurrency.unwrap_or(plan.max_active_partitions)
    }

    /// How many more tasks it would start now, if all slots of the server were free.
    pub(super) fn wanted(&self, plan: &Plan) -> usize {
        let may_start = self.state == BackfillState::Running
            && !self.released
            && self.staged.len() < MAX_STAGED;
        if !may_start {
            return 0;
        }
        let limit = self.max_active(plan) as usize;
        limit
            .saturating_sub(self.computing_count())
            .min(self.pending.len())
    }

    /// Partitions that will not change any more.
    pub fn finished_count(&self) -> u32 {
        self.counts
            .iter()
            .filter(|(state, _)| state.is_terminal())
            .map(|(_, count)| count)
            .sum()
    }
}

/// Whether a partition reads what this backfill is to publish.
fn waits_for_any(plan: &Plan, index: u32) -> bool {
    plan.predecessor_of(index).is_some() || plan.upstream_of(index).next().is_some()
}
