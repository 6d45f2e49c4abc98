//! States of backfills and partitions, and their counts.

use crate::{
    backfill::{BackfillState, Counts, PartitionState},
    error::Violation,
    pb,
};

pub(super) fn counts_to_wire(counts: &Counts) -> pb::PartitionCounts {
    let count = |state| counts.get(&state).copied().unwrap_or(0);
    pb::PartitionCounts {
        pending: count(PartitionState::Pending),
        blocked: count(PartitionState::Blocked),
        running: count(PartitionState::Running),
        waiting_retry: count(PartitionState::WaitingRetry),
        succeeded: count(PartitionState::Succeeded),
        failed: count(PartitionState::Failed),
        upstream_failed: count(PartitionState::UpstreamFailed),
        skipped: count(PartitionState::Skipped),
        cancelled: count(PartitionState::Cancelled),
    }
}

pub(super) fn state_to_wire(state: BackfillState) -> pb::BackfillState {
    match state {
        BackfillState::Pending => pb::BackfillState::Pending,
        BackfillState::Running => pb::BackfillState::Running,
        BackfillState::Paused => pb::BackfillState::Paused,
        BackfillState::Cancelling => pb::BackfillState::Cancelling,
        BackfillState::Succeeded => pb::BackfillState::Succeeded,
        BackfillState::PartiallySucceeded => pb::BackfillState::PartiallySucceeded,
        BackfillState::Failed => pb::BackfillState::Failed,
        BackfillState::Cancelled => pb::BackfillState::Cancelled,
    }
}

/// The backfill states at `field`.
pub(in crate::grpc) fn states_from_wire(
    field: &str,
    wire: &[i32],
) -> Result<Vec<BackfillState>, Violation> {
    let state = |(index, &value): (usize, &i32)| match pb::BackfillState::try_from(value) {
        Ok(pb::BackfillState::Pending) => Ok(BackfillState::Pending),
        Ok(pb::BackfillState::Running) => Ok(BackfillState::Running),
        Ok(pb::BackfillState::Paused) => Ok(BackfillState::Paused),
        Ok(pb::BackfillState::Cancelling) => Ok(BackfillState::Cancelling),
        Ok(pb::BackfillState::Succeeded) => Ok(BackfillState::Succeeded),
        Ok(pb::BackfillState::PartiallySucceeded) => Ok(BackfillState::PartiallySucceeded),
        Ok(pb::BackfillState::Failed) => Ok(BackfillState::Failed),
        Ok(pb::BackfillState::Cancelled) => Ok(BackfillState::Cancelled),
        Ok(pb::BackfillState::Unspecified) | Err(_) => Err(not_a_state(field, index, value)),
    };
    wire.iter().enumerate().map(state).collect()
}

pub(super) fn partition_state_to_wire(state: PartitionState) -> pb::PartitionState {
    match state {
        PartitionState::Pending => pb::PartitionState::Pending,
        PartitionState::Blocked => pb::PartitionState::Blocked,
        PartitionState::Running => pb::PartitionState::Running,
        PartitionState::WaitingRetry => pb::PartitionState::WaitingRetry,
        PartitionState::Succeeded => pb::PartitionState::Succeeded,
        PartitionState::Failed => pb::PartitionState::Failed,
        PartitionState::UpstreamFailed => pb::PartitionState::UpstreamFailed,
        PartitionState::Skipped => pb::PartitionState::Skipped,
        PartitionState::Cancelled => pb::PartitionState::Cancelled,
    }
}

/// The partition states at `field`.
pub(in crate::grpc) fn partition_states_from_wire(
    field: &str,
    wire: &[i32],
) -> Result<Vec<PartitionState>, Violation> {
    let state = |(index, &value): (usize, &i32)| match pb::PartitionState::try_from(value) {
        Ok(pb::PartitionState::Pending) => Ok(PartitionState::Pending),
        Ok(pb::PartitionState::Blocked) => Ok(PartitionState::Blocked),
        Ok(pb::PartitionState::Running) => Ok(PartitionState::Running),
        Ok(pb::PartitionState::WaitingRetry) => Ok(PartitionState::WaitingRetry),
        Ok(pb::PartitionState::Succeeded) => Ok(PartitionState::Succeeded),
        Ok(pb::PartitionState::Failed) => Ok(PartitionState::Failed),
        Ok(pb::PartitionState::UpstreamFailed) => Ok(PartitionState::UpstreamFailed),
        Ok(pb::PartitionState::Skipped) => Ok(PartitionState::Skipped),
        Ok(pb::PartitionState::Cancelled) => Ok(PartitionState::Cancelled),
        Ok(pb::PartitionState::Unspecified) | Err(_) => Err(not_a_state(field, index, value)),
    };
    wire.iter().enumerate().map(state).collect()
}

fn not_a_state(field: &str, index: usize, value: i32) -> Violation {
    Violation::new(
        format!("{field}[{index}]"),
        format!("{value} is not a state"),
    )
}
