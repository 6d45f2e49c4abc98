//! What watchers receive.

use std::time::Duration;

use super::{
    counts_to_wire, duration, entities_to_wire, micros, partition::calls_to_wire,
    partition_state_to_wire, state_to_wire, time,
};
use crate::{
    backfill::{Change, Event, Progress, Record, WatchAllItem, WatchItem},
    pb,
};

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

/// What a watcher of all backfills receives, as the wire shows it.
pub(in crate::grpc) fn watch_all_item_to_wire(
    item: WatchAllItem<pb::Backfill>,
) -> pb::WatchBackfillsResponse {
    use pb::watch_backfills_response::Message;
    let message = match item {
        WatchAllItem::Backfill(backfill) => Message::Backfill(backfill),
        WatchAllItem::InitialDone(backfill_count) => {
            Message::InitialDone(pb::InitialDone { backfill_count })
        }
        WatchAllItem::Heartbeat(time_micros) => Message::Heartbeat(pb::Heartbeat {
            time: Some(micros(time_micros)),
        }),
    };
    pb::WatchBackfillsResponse {
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
        Change::Concurrency(count) => {
            Wire::BackfillConcurrencyChanged(pb::BackfillConcurrencyChanged {
                max_active_partitions: count,
            })
        }
        Change::Resumed {
            fenced_attempt_count,
        } => Wire::BackfillResumed(pb::BackfillResumed {
            fenced_attempt_count,
        }),
        Change::Partition(change) => {
            let planned = record.plan.partitions.get(change.index as usize);
            Wire::PartitionChanged(pb::PartitionChanged {
                transform: planned
                    .and_then(|planned| record.plan.transform_of(planned))
                    .map(|one| one.transform.clone())
                    .unwrap_or_default(),
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
                bytes_written: change.bytes_written,
                staged_time: change.staged_at_micros.map(micros),
                entity_changes: change.entities.map(entities_to_wire),
                calls: calls_to_wire(change.calls),
                waits_for_limit: String::new(),
            })
        }
        Change::Waits(waits) => {
            let planned = record.plan.partitions.get(waits.index as usize);
            let transform = planned.and_then(|planned| record.plan.transform_of(planned));
            let partition = planned.map(|planned| &planned.partition);
            Wire::PartitionChanged(pb::PartitionChanged {
                transform: transform.map_or_else(String::new, |one| one.transform.clone()),
                label: partition.map_or_else(String::new, |it| it.label.clone()),
                start: partition.map(|it| time::to_wire(it.start)),
                state: pb::PartitionState::Running.into(),
                attempt: waits.attempt,
                calls: calls_to_wire(waits.calls),
                waits_for_limit: waits.limit,
                ..Default::default()
            })
        }
    };
    pb::Event {
        sequence,
        time: Some(micros(time_micros)),
        change: Some(change),
    }
}
