//! Every try at a partition, as the log tells it. Pure.

use std::collections::BTreeMap;

use super::model::{Change, EntityChanges, Event, PartitionChange, PartitionState, PartitionWaits};
use crate::calls::CallCounts;

/// One try at one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1, 2, 3, …
    pub attempt: u32,
    /// Running, succeeded, failed, or cancelled: it ended without a result.
    pub state: PartitionState,
    /// In microseconds since the Unix epoch, as all times here.
    pub start_micros: i64,
    /// When its rows were staged.
    pub staged_at_micros: Option<i64>,
    /// When it ended.
    pub end_micros: Option<i64>,
    /// What it read.
    pub rows_read: u64,
    /// What it wrote.
    pub rows_written: u64,
    /// What it wrote.
    pub bytes_written: u64,
    /// What publishing it changed, of an entity type.
    pub entities: Option<EntityChanges>,
    /// Why it failed.
    pub message: Option<String>,
    /// When the next one was due.
    pub retry_at_micros: Option<i64>,
    /// Most working memory that its query had reserved at once.
    pub peak_memory_bytes: u64,
    /// How long it waited for a slot.
    pub slot_wait_micros: u64,
    /// What its external calls came to.
    pub calls: CallCounts,
}

/// The attempts of some partitions, by partition.
#[derive(Debug, Default)]
pub(super) struct Attempts(pub(super) BTreeMap<u32, Vec<Attempt>>);

impl Attempts {
    /// Of the partitions at `indices` in the plan, before the first event.
    pub(super) fn of(indices: &[u32]) -> Self {
        Self(indices.iter().map(|index| (*index, Vec::new())).collect())
    }

    /// Folds one event in. Events come in order, each once.
    pub(super) fn apply(&mut self, event: &Event) {
        let change = match &event.change {
            Change::Partition(change) => change,
            Change::Waits(waits) => return self.waits(waits),
            Change::Created
            | Change::State(_)
            | Change::Concurrency(_)
            | Change::Resumed { .. } => return,
        };
        let Some(attempts) = self.0.get_mut(&change.index) else {
            return;
        };
        if change.state == PartitionState::Running {
            attempts.push(begun(change, event.time_micros));
        } else if let Some(last) = attempts.last_mut()
            && last.state == PartitionState::Running
        {
            end(last, change, event.time_micros);
        }
    }
}

impl Attempts {
    /// What is known of a running attempt's calls.
    fn waits(&mut self, waits: &PartitionWaits) {
        let attempts = self.0.get_mut(&waits.index);
        if let Some(last) = attempts.and_then(|attempts| attempts.last_mut())
            && last.attempt == waits.attempt
        {
            last.calls = waits.calls;
        }
    }
}

fn begun(change: &PartitionChange, time_micros: i64) -> Attempt {
    Attempt {
        attempt: change.attempt,
        state: PartitionState::Running,
        start_micros: time_micros,
        staged_at_micros: None,
        end_micros: None,
        rows_read: 0,
        rows_written: 0,
        bytes_written: 0,
        entities: None,
        message: None,
        retry_at_micros: None,
        peak_memory_bytes: 0,
        slot_wait_micros: change.slot_wait_micros,
        calls: CallCounts::default(),
    }
}

fn end(attempt: &mut Attempt, change: &PartitionChange, time_micros: i64) {
    attempt.end_micros = Some(time_micros);
    attempt.start_micros = change.began_at_micros.unwrap_or(attempt.start_micros);
    if !change.calls.is_empty() {
        attempt.calls = change.calls;
    }
    attempt.peak_memory_bytes = change.peak_memory_bytes;
    attempt.state = match change.state {
        PartitionState::Succeeded => PartitionState::Succeeded,
        PartitionState::Failed | PartitionState::WaitingRetry => PartitionState::Failed,
        PartitionState::Pending
        | PartitionState::Blocked
        | PartitionState::Running
        | PartitionState::UpstreamFailed
        | PartitionState::Skipped
        | PartitionState::Cancelled => PartitionState::Cancelled,
    };
    attempt.staged_at_micros = change.staged_at_micros;
    attempt.rows_read = change.rows_read;
    attempt.rows_written = change.rows_written;
    attempt.bytes_written = change.bytes_written;
    attempt.entities = change.entities;
    attempt.message.clone_from(&change.message);
    attempt.retry_at_micros = change.retry_at_micros;
}
