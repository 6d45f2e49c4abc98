//! Turns events into metrics. Pure but for the counting.

use super::{
    model::{Change, Event, PartitionChange, PartitionState},
    state::State,
};
use crate::telemetry::{BackfillMetrics, Outcome};

/// Counts what `event` says. `before` is the state that it is about to change.
pub(super) fn record(metrics: &BackfillMetrics, event: &Event, before: &State) {
    let Change::Partition(change) = &event.change else {
        return;
    };
    if change.state == PartitionState::Running {
        metrics.started(change.slot_wait_micros);
    }
    let Some(run) = before.partitions.get(change.index as usize) else {
        return;
    };
    if run.state != PartitionState::Running {
        return;
    }
    let Some(outcome) = outcome(change) else {
        return;
    };
    let start_micros = change.began_at_micros.or(run.start_micros);
    let duration_micros = event.time_micros - start_micros.unwrap_or(event.time_micros);
    metrics.ended(outcome, u64::try_from(duration_micros).unwrap_or(0));
    if outcome == Outcome::Succeeded {
        metrics.published(change.rows_read, change.rows_written, change.bytes_written);
    }
}

/// How an attempt ended whose partition changes like this.
fn outcome(change: &PartitionChange) -> Option<Outcome> {
    match change.state {
        PartitionState::Succeeded => Some(Outcome::Succeeded),
        PartitionState::WaitingRetry => Some(Outcome::Retried),
        PartitionState::Failed => Some(Outcome::Failed),
        PartitionState::Cancelled => Some(Outcome::Cancelled),
        PartitionState::Pending => Some(Outcome::Released),
        PartitionState::Blocked
        | PartitionState::Running
        | PartitionState::UpstreamFailed
        | PartitionState::Skipped => None,
    }
}
