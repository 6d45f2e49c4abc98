//! What holds after each event and each step.

use super::{super::*, world::World};
use crate::backfill::model::{DependencyShape, PlannedPartition};

impl World {
    pub(super) fn check_event(&self, before: &State, event: &Event) {
        assert_eq!(event.sequence, before.last_sequence + 1, "PR-1");
        if before.state.is_terminal() {
            assert_eq!(
                event.change,
                Change::State(BackfillState::Running),
                "a retry"
            );
            assert!(matches!(
                before.state,
                BackfillState::PartiallySucceeded | BackfillState::Failed
            ));
        }
        let Change::Partition(change) = &event.change else {
            return;
        };
        let run = &before.partitions[change.index as usize];
        if run.state.is_terminal() {
            let retried = matches!(
                run.state,
                PartitionState::Failed | PartitionState::UpstreamFailed | PartitionState::Cancelled
            );
            let waits = matches!(
                change.state,
                PartitionState::Pending | PartitionState::Blocked
            );
            assert!(retried && waits, "{event:?} after {:?}", run.state);
        }
        assert!(change.attempt >= run.attempt, "{event:?}");
        if change.state == PartitionState::Running {
            assert_eq!(
                change.attempt,
                run.attempt + 1,
                "attempts are dense: {event:?}"
            );
            assert_eq!(before.state, BackfillState::Running);
            assert!(
                !self.record.plan.stop_on_first_failure
                    || before.count(PartitionState::Failed) == 0,
                "{event:?} after a failure"
            );
            if self.record.plan.run_backwards {
                let partitions = &self.record.plan.partitions;
                let transform = |index: u32| partitions[index as usize].transform;
                let later = before.pending.range(change.index + 1..);
                // A task passes over the other transforms.
                let later = later.filter(|later| transform(**later) == transform(change.index));
                assert_eq!(later.count(), 0, "{event:?} before a later one");
            }
            for upstream in self.reads_of(change.index) {
                assert_eq!(
                    before.partitions[upstream as usize].state,
                    PartitionState::Succeeded,
                    "{event:?} before {upstream}, which it reads"
                );
            }
        }
        if change.state == PartitionState::UpstreamFailed {
            let failed = |index: &u32| {
                matches!(
                    before.partitions[*index as usize].state,
                    PartitionState::Failed | PartitionState::UpstreamFailed
                )
            };
            let cause = self.reads_of(change.index).iter().any(failed);
            assert!(cause, "{event:?} without a cause");
        }
    }

    pub(super) fn reads_of(&self, index: u32) -> Vec<u32> {
        self.reads[index as usize].clone()
    }

    /// What a partition reads of this backfill, found by comparing it with every other one.
    pub(super) fn find_reads(record: &Record, index: u32) -> Vec<u32> {
        let plan = &record.plan;
        let planned = &plan.partitions[index as usize];
        let transform = &plan.transforms[planned.transform as usize];
        let reads = |place: usize, other: &PlannedPartition| {
            if other.skip_reason.is_some() || place == index as usize {
                return false;
            }
            if other.transform == planned.transform {
                return transform.shape == DependencyShape::Sequential
                    && other.partition.end <= planned.partition.start;
            }
            transform.tables.iter().any(|table| {
                let from = planned.partition.start.micros() - table.lookback_micros;
                table.writer == Some(other.transform)
                    && other.partition.end.micros() > from
                    && other.partition.end <= planned.partition.end
            })
        };
        let others = plan.partitions.iter().enumerate();
        let found = others.filter(|(place, other)| reads(*place, other));
        found.map(|(place, _)| place as u32).collect()
    }

    pub(super) fn check_state(&self) {
        let state = &self.state;
        let all_ended = state.partitions.iter().all(|run| run.state.is_terminal());
        assert_eq!(state.state.is_terminal(), all_ended, "{state:?}");
        assert!(state.computing_count() <= self.most_active as usize);
        for (&counted, &count) in state.counts() {
            let found = state.partitions.iter().filter(|run| run.state == counted);
            assert_eq!(found.count(), count as usize, "{counted:?}");
        }
        for (index, run) in (0u32..).zip(&state.partitions) {
            let failed = |upstream: &u32| {
                matches!(
                    state.partitions[*upstream as usize].state,
                    PartitionState::Failed | PartitionState::UpstreamFailed
                )
            };
            if !run.state.is_terminal() && !state.released {
                let cause = self.reads_of(index).into_iter().find(failed);
                assert_eq!(cause, None, "{index} waits for what failed: {state:?}");
            }
        }
        for (index, attempts) in &self.table {
            assert!(attempts.len() <= 1, "BF-1: partition {index}: {attempts:?}");
        }
    }

    /// Something will move it on, or it has ended.
    pub(super) fn check_going(&self) {
        let idle = self.computing.is_empty()
            && self.waiting.is_empty()
            && self.committed.is_empty()
            && self.timers.is_empty();
        assert!(
            !idle
                || self.state.state.is_terminal()
                || self.state.released
                || self.state.state == BackfillState::Paused,
            "stuck: {:?}",
            self.state
        );
    }

    pub(super) fn check_neighbours(&self, attempts: &[(u32, u32)]) {
        let planned = |index: u32| &self.record.plan.partitions[index as usize];
        for pair in attempts.windows(2) {
            let (one, other) = (planned(pair[0].0), planned(pair[1].0));
            assert_eq!(one.transform, other.transform);
            let (one, other) = (&one.partition, &other.partition);
            assert!(
                one.end == other.start || other.end == one.start,
                "{attempts:?}"
            );
        }
    }

    pub(super) fn check_end(&self) {
        for (index, run) in (0u32..).zip(&self.state.partitions) {
            let on_table = self
                .table
                .get(&index)
                .is_some_and(|found| !found.is_empty());
            assert_eq!(run.state == PartitionState::Succeeded, on_table, "{run:?}");
        }
        let mut folded = State::new(&self.record);
        for event in &self.journal {
            folded.apply(event);
        }
        assert_eq!(folded.partitions, self.state.partitions);
        assert_eq!(folded.state, self.state.state);
        assert_eq!(folded.concurrency, self.state.concurrency);
    }
}
