//! What becomes of the partitions that read another one's output, once that is published or has failed.

use std::collections::VecDeque;

use super::*;

impl Step<'_> {
    /// What reads what `index` wrote, and waits for nothing else, may run now. Nothing is journalled for it before it runs: it
    /// goes from BLOCKED to RUNNING.
    pub(super) fn unblock_after(&mut self, index: u32) {
        let plan = &self.record.plan;
        let next = plan.successors_of(index).next();
        let readers = next.into_iter().chain(plan.downstream_of(index));
        for reader in readers {
            self.free_if_unblocked(reader);
        }
    }

    pub(super) fn free_if_unblocked(&mut self, index: u32) {
        let is_blocked = self
            .run(index)
            .is_some_and(|run| run.state == PartitionState::Blocked);
        if is_blocked && self.state.is_free(&self.record.plan, index) {
            self.state.free(index, self.now_micros);
        }
    }

    /// What reads the output of a failed partition never runs, and neither does what reads theirs.
    pub(super) fn fail_downstream(&mut self, index: u32) {
        let plan = &self.record.plan;
        // Of each, whether what follows it in its own transform is still to be told.
        let mut failed = VecDeque::from([(index, true)]);
        while let Some((index, with_successors)) = failed.pop_front() {
            if with_successors {
                for reader in plan.successors_of(index) {
                    if self.fail_reader(reader, index) {
                        failed.push_back((reader, false));
                    }
                }
            }
            for reader in plan.downstream_of(index) {
                if self.fail_reader(reader, index) {
                    failed.push_back((reader, true));
                }
            }
        }
    }

    /// Whether `reader` was still to run.
    fn fail_reader(&mut self, reader: u32, failed: u32) -> bool {
        let Some(run) = self.run(reader).filter(|run| !run.state.is_terminal()) else {
            return false;
        };
        let attempt = run.attempt;
        let upstream = self.name_for(failed, reader);
        let how = match self.run(failed).map(|run| run.state) {
            Some(PartitionState::UpstreamFailed) => "did not run",
            _ => "failed",
        };
        self.change(Change::Partition(PartitionChange {
            message: Some(format!("partition {upstream}, which it reads, {how}")),
            ..PartitionChange::plain(reader, PartitionState::UpstreamFailed, attempt)
        }));
        true
    }

    /// The name of a partition, for another one's message.
    fn name_for(&self, index: u32, reader: u32) -> String {
        let (Some(planned), Some(reader)) = (self.planned(index), self.planned(reader)) else {
            return String::new();
        };
        let label = &planned.partition.label;
        match self.record.plan.transform_of(planned) {
            Some(one) if planned.transform != reader.transform => {
                format!("{label} of {}", one.transform)
            }
            Some(_) | None => label.clone(),
        }
    }
}
