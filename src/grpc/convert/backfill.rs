//! Backfills: wire to domain and back.

use std::time::Duration;

use super::{catalog::grain_to_wire, duration, invalid::Invalid, time};
use crate::{
    backfill::{
        BackfillSpec, BackfillState, Change, Counts, DependencyShape, Event, Knowledge,
        PartitionState, Plan, PlannedPartition, Progress, Record, State, WatchItem,
    },
    error::Violation,
    pb,
    time::{SysTime, ValidTime},
};

/// Longest request id.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What a request asks to run.
pub(in crate::grpc) fn spec(wire: Option<pb::BackfillSpec>) -> Result<BackfillSpec, Invalid> {
    let Some(wire) = wire else {
        return Err(Violation::new("spec", "it is required").into());
    };
    let pb::BackfillSpec {
        transform,
        revision,
        from,
        to,
        knowledge,
        basis,
        availability_delay,
        max_active_partitions,
        max_attempts,
        labels,
    } = wire;
    if transform.is_empty() {
        return Err(Violation::new("spec.transform", "it is required").into());
    }
    Ok(BackfillSpec {
        transform,
        revision: non_zero(revision),
        from: required("spec.from", from)?,
        to: required("spec.to", to)?,
        knowledge: knowledge_from_wire(knowledge, basis, availability_delay)?,
        max_active_partitions: non_zero(max_active_partitions),
        max_attempts: non_zero(max_attempts),
        labels: labels.into_iter().collect(),
    })
}

fn required(field: &str, wire: Option<prost_types::Timestamp>) -> Result<ValidTime, Violation> {
    time::from_wire(field, wire)?.ok_or_else(|| Violation::new(field, "it is required"))
}

fn knowledge_from_wire(
    knowledge: i32,
    basis: Option<prost_types::Timestamp>,
    availability_delay: Option<prost_types::Duration>,
) -> Result<Knowledge, Violation> {
    let basis: Option<SysTime> = time::from_wire("spec.basis", basis)?;
    let delay = duration::from_wire("spec.availability_delay", availability_delay)?;
    let mode = pb::Knowledge::try_from(knowledge).unwrap_or(pb::Knowledge::Unspecified);
    if basis.is_some() && mode != pb::Knowledge::AtBasis {
        return Err(Violation::new(
            "spec.basis",
            "it goes with KNOWLEDGE_AT_BASIS only",
        ));
    }
    if delay.is_some() && mode != pb::Knowledge::AsKnownThen {
        return Err(Violation::new(
            "spec.availability_delay",
            "it goes with KNOWLEDGE_AS_KNOWN_THEN only",
        ));
    }
    match mode {
        pb::Knowledge::AsKnownThen => Ok(Knowledge::AsKnownThen {
            availability_delay_micros: duration::to_micros(
                "spec.availability_delay",
                delay.unwrap_or_default(),
            )?,
        }),
        pb::Knowledge::AsKnownNow => Ok(Knowledge::AsKnownNow),
        pb::Knowledge::AtBasis => basis
            .map(Knowledge::AtBasis)
            .ok_or_else(|| Violation::new("spec.basis", "KNOWLEDGE_AT_BASIS needs it")),
        pb::Knowledge::Unspecified => Err(Violation::new(
            "spec.knowledge",
            "it is required, for the wrong one is silently wrong: KNOWLEDGE_AS_KNOWN_THEN (what a pipeline would have known then), KNOWLEDGE_AS_KNOWN_NOW (later corrections included) or KNOWLEDGE_AT_BASIS",
        )),
    }
}

fn non_zero(value: u32) -> Option<u32> {
    (value > 0).then_some(value)
}

/// The request id, if there is one.
pub(in crate::grpc) fn request_id(text: String) -> Result<Option<String>, Invalid> {
    if text.len() > MAX_REQUEST_ID_BYTES {
        return Err(Violation::new(
            "request_id",
            format!(
                "it is {} bytes long, of {MAX_REQUEST_ID_BYTES} at most",
                text.len()
            ),
        )
        .into());
    }
    Ok((!text.is_empty()).then_some(text))
}

fn spec_to_wire(record: &Record) -> pb::BackfillSpec {
    let BackfillSpec {
        transform,
        revision: _,
        from,
        to,
        knowledge,
        max_active_partitions: _,
        max_attempts: _,
        labels,
    } = &record.spec;
    let (basis, availability_delay) = match knowledge {
        Knowledge::AtBasis(basis) => (Some(time::to_wire(*basis)), None),
        // What was left open: the basis that was pinned.
        Knowledge::AsKnownNow => (
            record
                .plan
                .partitions
                .first()
                .map(|planned| time::to_wire(planned.basis)),
            None,
        ),
        Knowledge::AsKnownThen {
            availability_delay_micros,
        } => (
            None,
            Some(duration::micros_to_wire(*availability_delay_micros)),
        ),
    };
    pb::BackfillSpec {
        transform: transform.clone(),
        revision: record.plan.revision,
        from: Some(time::to_wire(*from)),
        to: Some(time::to_wire(*to)),
        knowledge: knowledge_to_wire(*knowledge).into(),
        basis,
        availability_delay,
        max_active_partitions: record.plan.max_active_partitions,
        max_attempts: record.plan.retry.max_attempts,
        labels: labels.clone().into_iter().collect(),
    }
}

fn knowledge_to_wire(knowledge: Knowledge) -> pb::Knowledge {
    match knowledge {
        Knowledge::AsKnownThen { .. } => pb::Knowledge::AsKnownThen,
        Knowledge::AsKnownNow => pb::Knowledge::AsKnownNow,
        Knowledge::AtBasis(_) => pb::Knowledge::AtBasis,
    }
}

fn shape_to_wire(shape: DependencyShape) -> pb::DependencyShape {
    match shape {
        DependencyShape::Independent => pb::DependencyShape::Independent,
        DependencyShape::Sequential => pb::DependencyShape::Sequential,
    }
}

/// A backfill as the wire shows it.
pub(in crate::grpc) fn backfill_to_wire(record: &Record, state: &State) -> pb::Backfill {
    pb::Backfill {
        name: record.name.clone(),
        state: state_to_wire(state.state).into(),
        spec: Some(spec_to_wire(record)),
        output_table: record.plan.output_table.clone(),
        time_zone: record.plan.zone.name().to_owned(),
        grain: grain_to_wire(record.plan.grain).into(),
        dependency_shape: shape_to_wire(record.plan.shape).into(),
        partition_counts: Some(counts_to_wire(state.counts())),
        create_time: Some(micros(record.create_time_micros)),
        start_time: state.start_micros.map(micros),
        end_time: state.end_micros.map(micros),
        rows_read: state.rows_read,
        rows_written: state.rows_written,
        last_sequence: state.last_sequence,
    }
}

/// A plan as the wire shows it.
pub(in crate::grpc) fn plan_to_wire(plan: &Plan, plan_hash: String) -> pb::Plan {
    pb::Plan {
        transform: plan.transform.clone(),
        revision: plan.revision,
        output_table: plan.output_table.clone(),
        knowledge: knowledge_to_wire(plan.knowledge).into(),
        dependency_shape: shape_to_wire(plan.shape).into(),
        max_active_partitions: plan.max_active_partitions,
        partitions: plan.partitions.iter().map(planned_to_wire).collect(),
        warnings: plan.warnings.clone(),
        plan_hash,
    }
}

fn planned_to_wire(planned: &PlannedPartition) -> pb::PlannedPartition {
    let action = match planned.skip_reason {
        None => pb::PartitionAction::Run,
        Some(_) => pb::PartitionAction::Skip,
    };
    pb::PlannedPartition {
        label: planned.partition.label.clone(),
        start: Some(time::to_wire(planned.partition.start)),
        end: Some(time::to_wire(planned.partition.end)),
        action: action.into(),
        skip_reason: planned.skip_reason.clone().unwrap_or_default(),
        basis: Some(time::to_wire(planned.basis)),
        file_count: planned.file_count,
    }
}

/// Partitions `skip`, … of a backfill that are in one of `states`, `limit` at most, and where the next page starts.
pub(in crate::grpc) fn partitions_to_wire(
    record: &Record,
    state: &State,
    states: &[PartitionState],
    skip: usize,
    limit: usize,
) -> (Vec<pb::Partition>, Option<usize>) {
    let mut partitions = Vec::new();
    let all = record
        .plan
        .partitions
        .iter()
        .zip(&state.partitions)
        .enumerate();
    for (index, (planned, run)) in all.skip(skip) {
        if !states.is_empty() && !states.contains(&run.state) {
            continue;
        }
        if partitions.len() == limit {
            return (partitions, Some(index));
        }
        partitions.push(pb::Partition {
            label: planned.partition.label.clone(),
            start: Some(time::to_wire(planned.partition.start)),
            end: Some(time::to_wire(planned.partition.end)),
            state: partition_state_to_wire(run.state).into(),
            basis: Some(time::to_wire(planned.basis)),
            attempt_count: run.attempt,
            start_time: run.start_micros.map(micros),
            end_time: run.end_micros.map(micros),
            rows_read: run.rows_read,
            rows_written: run.rows_written,
            message: run.message.clone().unwrap_or_default(),
            snapshot_id: run.snapshot_id.unwrap_or(0),
        });
    }
    (partitions, None)
}

/// What a watcher receives, as the wire shows it.
pub(in crate::grpc) fn watch_item_to_wire(
    record: &Record,
    item: WatchItem,
) -> pb::WatchBackfillResponse {
    use pb::watch_backfill_response::Message;
    let message = match item {
        WatchItem::Event(event) => Message::Event(event_to_wire(record, event)),
        WatchItem::Progress(progress) => Message::Progress(progress_to_wire(&progress)),
        WatchItem::Heartbeat(time_micros) => Message::Heartbeat(pb::Heartbeat {
            time: Some(micros(time_micros)),
        }),
    };
    pb::WatchBackfillResponse {
        message: Some(message),
    }
}

fn progress_to_wire(progress: &Progress) -> pb::Progress {
    pb::Progress {
        state: state_to_wire(progress.state).into(),
        partition_counts: Some(counts_to_wire(&progress.counts)),
        rows_read: progress.rows_read,
        rows_written: progress.rows_written,
        rows_per_second: progress.rows_per_second,
        partitions_per_second: progress.partitions_per_second,
        eta: progress.eta.map(duration::to_wire),
        elapsed: Some(duration::to_wire(rounded(progress.elapsed))),
        sequence: progress.sequence,
    }
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn event_to_wire(record: &Record, event: Event) -> pb::Event {
    use pb::event::Change as Wire;
    let Event {
        sequence,
        time_micros,
        change,
    } = event;
    let change = match change {
        Change::Created => Wire::BackfillCreated(pb::BackfillCreated {
            partition_count: u32::try_from(record.plan.partitions.len()).unwrap_or(u32::MAX),
            run_count: u32::try_from(record.plan.run_count()).unwrap_or(u32::MAX),
            warnings: record.plan.warnings.clone(),
        }),
        Change::State(state) => Wire::BackfillStateChanged(pb::BackfillStateChanged {
            state: state_to_wire(state).into(),
        }),
        Change::Resumed {
            fenced_attempt_count,
        } => Wire::BackfillResumed(pb::BackfillResumed {
            fenced_attempt_count,
        }),
        Change::Partition(change) => {
            let planned = record.plan.partitions.get(change.index as usize);
            Wire::PartitionChanged(pb::PartitionChanged {
                label: planned
                    .map(|planned| planned.partition.label.clone())
                    .unwrap_or_default(),
                start: planned.map(|planned| time::to_wire(planned.partition.start)),
                state: partition_state_to_wire(change.state).into(),
                attempt: change.attempt,
                rows_read: change.rows_read,
                rows_written: change.rows_written,
                message: change.message.unwrap_or_default(),
                retry_time: change.retry_at_micros.map(micros),
                snapshot_id: change.snapshot_id.unwrap_or(0),
            })
        }
    };
    pb::Event {
        sequence,
        time: Some(micros(time_micros)),
        change: Some(change),
    }
}

fn counts_to_wire(counts: &Counts) -> pb::PartitionCounts {
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

fn micros(micros: i64) -> prost_types::Timestamp {
    time::to_wire(SysTime::from_micros(micros))
}

fn state_to_wire(state: BackfillState) -> pb::BackfillState {
    match state {
        BackfillState::Pending => pb::BackfillState::Pending,
        BackfillState::Running => pb::BackfillState::Running,
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
        Ok(pb::BackfillState::Cancelling) => Ok(BackfillState::Cancelling),
        Ok(pb::BackfillState::Succeeded) => Ok(BackfillState::Succeeded),
        Ok(pb::BackfillState::PartiallySucceeded) => Ok(BackfillState::PartiallySucceeded),
        Ok(pb::BackfillState::Failed) => Ok(BackfillState::Failed),
        Ok(pb::BackfillState::Cancelled) => Ok(BackfillState::Cancelled),
        Ok(pb::BackfillState::Unspecified) | Err(_) => Err(not_a_state(field, index, value)),
    };
    wire.iter().enumerate().map(state).collect()
}

fn partition_state_to_wire(state: PartitionState) -> pb::PartitionState {
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
