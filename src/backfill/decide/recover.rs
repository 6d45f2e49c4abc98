//! What a restart of the server does with a backfill that was under way.

use super::*;

impl Step<'_> {
    pub(super) fn recover(&mut self, published: &[PublishedAttempt]) {
        if self.state.state.is_terminal() {
            return;
        }
        if self.state.state == BackfillState::Pending {
            self.start();
            return;
        }
        self.take_up_published(published);
        let fenced: Vec<_> = self.under_way();
        let fenced_attempt_count = u32::try_from(fenced.len()).unwrap_or(u32::MAX);
        if self.state.state == BackfillState::Cancelling {
            for (index, attempt) in fenced {
                self.cancel_partition(index, attempt, None);
            }
            self.cancel_waiting(None);
            self.finish_if_done();
            return;
        }
        for (index, attempt) in fenced {
            self.requeue(index, attempt);
        }
        self.fail_downstream_again();
        self.stop_if_failed();
        self.unblock_all();
        self.change(Change::Resumed {
            fenced_attempt_count,
        });
        self.wait_again();
        self.finish_if_done();
    }

    /// What was committed before the server could journal it. `BF-1` holds because the table itself says which attempts it
    /// has.
    fn take_up_published(&mut self, published: &[PublishedAttempt]) {
        for found in published {
            let unknown = self
                .run(found.index)
                .is_some_and(|run| !run.state.is_terminal() && run.attempt == found.attempt);
            if unknown {
                self.succeed(found);
                self.unblock_after(found.index);
            }
        }
    }

    /// A crash may leave the first events of a turn on disk without the rest: a failure without what it means for those that
    /// read its output.
    fn fail_downstream_again(&mut self) {
        let failed = [PartitionState::Failed, PartitionState::UpstreamFailed];
        if failed.iter().all(|state| self.state.count(*state) == 0) {
            return;
        }
        let indices: Vec<_> = (0u32..)
            .zip(&self.state.partitions)
            .filter(|(_, run)| failed.contains(&run.state))
            .map(|(index, _)| index)
            .collect();
        for index in indices {
            self.fail_downstream(index);
        }
    }

    pub(super) fn under_way(&self) -> Vec<(u32, u32)> {
        let attempts = self.state.running.iter();
        attempts
            .filter_map(|&index| Some((index, self.run(index)?.attempt)))
            .collect()
    }

    /// `pending` does not hold blocked partitions that were free to run when the server went away.
    fn unblock_all(&mut self) {
        let count = u32::try_from(self.state.partitions.len()).unwrap_or(u32::MAX);
        if self.state.count(PartitionState::Blocked) > 0 {
            (0..count).for_each(|index| self.free_if_unblocked(index));
        }
        for index in &self.state.pending {
            self.state.ready_micros.insert(*index, self.now_micros);
        }
    }

    fn wait_again(&mut self) {
        let waiting: Vec<_> = (0u32..)
            .zip(&self.state.partitions)
            .filter(|(_, run)| run.state == PartitionState::WaitingRetry)
            .map(|(index, run)| {
                (
                    index,
                    run.attempt,
                    run.retry_at_micros.unwrap_or(self.now_micros),
                )
            })
            .collect();
        for (index, attempt, at_micros) in waiting {
            self.act(Action::WaitRetry {
                index,
                attempt,
                at_micros,
            });
        }
    }
}
