//! Partitions and their attempts.

use std::{collections::BTreeMap, time::Duration};

use super::{duration, entities_to_wire, micros, partition_state_to_wire, time};
use crate::{
    backfill::{Attempt, PartitionState, Record, State},
    calls::CallCounts,
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

/// Which partitions are wanted; what is empty lets all through.
#[derive(Debug, Clone, Copy)]
pub(in crate::grpc) struct Wanted<'a> {
    pub(in crate::grpc) states: &'a [PartitionState],
    pub(in crate::grpc) transform: &'a str,
    /// Tell what they read of other transforms' tables.
    pub(in crate::grpc) with_tables: bool,
}

/// Partitions `skip`, … of a backfill that are wanted, `limit` at most.
pub(in crate::grpc) fn partitions_to_wire(
    record: &Record,
    state: &State,
    wanted: Wanted<'_>,
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
        let transform = record.plan.transform_of(planned);
        let transform = transform.map_or("", |one| one.transform.as_str());
        let Wanted {
            states,
            transform: named,
            with_tables,
        } = wanted;
        if !(states.is_empty() || states.contains(&run.state))
            || !(named.is_empty() || named == transform)
        {
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
            transform: transform.to_owned(),
            tables: if with_tables {
                tables_to_wire(record, state, index)
            } else {
                Vec::new()
            },
            entity_changes: run.entities.map(entities_to_wire),
            calls: calls_to_wire(run.calls),
            waits_for_limit: run.waits_for_limit.clone().unwrap_or_default(),
        });
    }
    page
}

/// What a partition that has begun reads of other transforms' tables.
fn tables_to_wire(record: &Record, state: &State, index: usize) -> Vec<pb::TableRead> {
    let begun = state
        .partitions
        .get(index)
        .is_some_and(|run| run.attempt > 0);
    let planned = record.plan.partitions.get(index).filter(|_| begun);
    let Some(transform) = planned.and_then(|planned| record.plan.transform_of(planned)) else {
        return Vec::new();
    };
    let views = record
        .plan
        .views(state, u32::try_from(index).unwrap_or(u32::MAX));
    let mut reads = Vec::new();
    for (frozen, view) in transform.tables.iter().zip(views) {
        let read = |snapshot_id, own_partition_count| pb::TableRead {
            table: frozen.table.clone(),
            snapshot_id,
            own_partition_count,
        };
        reads.extend(
            view.published
                .map(|published| read(published.snapshot_id, 0)),
        );
        let mut own: BTreeMap<i64, u32> = BTreeMap::new();
        for snapshot_id in view.own.into_values() {
            *own.entry(snapshot_id).or_default() += 1;
        }
        reads.extend(
            own.into_iter()
                .map(|(snapshot_id, count)| read(snapshot_id, count)),
        );
    }
    reads
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
        peak_memory_bytes,
        slot_wait_micros,
        calls,
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
        peak_memory_bytes,
        slot_wait: Some(duration::to_wire(Duration::from_micros(slot_wait_micros))),
        entity_changes: entities.map(entities_to_wire),
        calls: calls_to_wire(calls),
    }
}

/// What external calls came to, as the wire shows it; `None`: there were none.
pub(super) fn calls_to_wire(counts: CallCounts) -> Option<pb::CallCounts> {
    let CallCounts {
        requests,
        answers,
        remembered,
        waited_micros,
    } = counts;
    (!counts.is_empty()).then(|| pb::CallCounts {
        request_count: requests,
        answer_count: answers,
        remembered_count: remembered,
        limit_wait: Some(duration::to_wire(Duration::from_micros(waited_micros))),
    })
}
