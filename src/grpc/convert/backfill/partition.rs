//! Partitions and their attempts.

use super::{entities_to_wire, micros, partition_state_to_wire, time};
use crate::{
    backfill::{Attempt, PartitionState, Record, State},
    pb,
};

/// A page of a backfill's partitions.
pub(in crate::grpc) struct Page {
    pub(in crate::grpc) partitions: Vec<pb::Partition>,
    /// Of each of them, its place in the plan.
    pub(in crate::grpc) indices: Vec<u32>,
    /// Where the next page starts.
    pub(in crate::grpc) next: Option<usize>,
}

/// Partitions `skip`, … of a backfill that are in one of `states`, `limit` at most.
pub(in crate::grpc) fn partitions_to_wire(
    record: &Record,
    state: &State,
    states: &[PartitionState],
    skip: usize,
    limit: usize,
) -> Page {
    let mut page = Page {
        partitions: Vec::new(),
        indices: Vec::new(),
        next: None,
    };
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
        if page.partitions.len() == limit {
            page.next = Some(index);
            return page;
        }
        page.indices.extend(u32::try_from(index));
        page.partitions.push(pb::Partition {
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
            bytes_written: run.bytes_written,
            attempts: Vec::new(),
            entity_changes: run.entities.map(entities_to_wire),
        });
    }
    page
}

/// Attempts as the wire shows them.
pub(in crate::grpc) fn attempts_to_wire(attempts: Vec<Attempt>) -> Vec<pb::Attempt> {
    attempts.into_iter().map(attempt_to_wire).collect()
}

fn attempt_to_wire(attempt: Attempt) -> pb::Attempt {
    let Attempt {
        attempt,
        state,
        start_micros,
        staged_at_micros,
        end_micros,
        rows_read,
        rows_written,
        bytes_written,
        entities,
        message,
        retry_at_micros,
    } = attempt;
    pb::Attempt {
        attempt,
        state: partition_state_to_wire(state).into(),
        start_time: Some(micros(start_micros)),
        staged_time: staged_at_micros.map(micros),
        end_time: end_micros.map(micros),
        rows_read,
        rows_written,
        bytes_written,
        message: message.unwrap_or_default(),
        retry_time: retry_at_micros.map(micros),
        entity_changes: entities.map(entities_to_wire),
    }
}
