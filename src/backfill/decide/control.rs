//! What people ask of a backfill: start, pause, resume, concurrency, retry, cancel; and the server's stop.

use super::*;

impl Step<'_> {
    pub(super) fn start(&mut self) {
        if self.state.state == BackfillState::Pending {
            self.change(Change::State(BackfillState::Running));
            self.wait_from_now();
        }
    }

    /// What may run waits for a slot from now on: before, the backfill was not running.
    fn wait_from_now(&mut self) {
        for ready_micros in self.state.ready_micros.values_mut() {
            *ready_micros = self.now_micros;
        }
    }

    /// Nothing new starts; attempts under way go on, waits too.
    pub(super) fn pause(&mut self) {
        if self.state.state == BackfillState::Running {
            self.change(Change::State(BackfillState::Paused));
        }
    }

    pub(super) fn resume(&mut self) {
        if self.state.state == BackfillState::Paused {
            self.change(Change::State(BackfillState::Running));
            self.wait_from_now();
        }
    }

    /// Attempts under way beyond the new limit go on.
    pub(super) fn set_concurrency(&mut self, count: u32) {
        if !self.state.state.is_terminal() && self.state.max_active(&self.record.plan) != count {
            self.change(Change::Concurrency(count));
        }
    }

    /// What failed, and what never ran because of it, is to run again. A crash may cut these events anywhere: what is not
    /// journalled stays failed, and can be retried again.
    pub(super) fn retry(&mut self) {
        let failed = matches!(
            self.state.state,
            BackfillState::PartiallySucceeded | BackfillState::Failed
        );
        if !failed {
            return;
        }
        let again: Vec<_> = (0u32..)
            .zip(&self.state.partitions)
            .filter(|(_, run)| {
                matches!(
                    run.state,
                    PartitionState::Failed
                        | PartitionState::UpstreamFailed
                        | PartitionState::Cancelled
                )
            })
            .map(|(index, run)| (index, run.attempt))
            .collect();
        self.change(Change::State(BackfillState::Running));
        for (index, attempt) in again {
            // What it reads comes before it, and was taken up already.
            let state = if self.state.is_free(&self.record.plan, index) {
                PartitionState::Pending
            } else {
                PartitionState::Blocked
            };
            self.change(Change::Partition(PartitionChange::plain(
                index, state, attempt,
            )));
        }
    }

    pub(super) fn cancel(&mut self) {
        let active = matches!(
            self.state.state,
            BackfillState::Pending | BackfillState::Running | BackfillState::Paused
        );
        if !active {
            return;
        }
        self.change(Change::State(BackfillState::Cancelling));
        self.cancel_waiting(None);
        self.act(Action::StopAttempts);
        self.finish_if_done();
    }

    /// Cancels what is not under way; `why` is for people.
    pub(super) fn cancel_waiting(&mut self, why: Option<&str>) {
        let waiting: Vec<_> = (0u32..)
            .zip(&self.state.partitions)
            .filter(|(_, run)| !run.state.is_terminal() && run.state != PartitionState::Running)
            // Why its last attempt failed says more.
            .map(|(index, run)| (index, run.attempt, why.filter(|_| run.message.is_none())))
            .collect();
        for (index, attempt, why) in waiting {
            self.cancel_partition(index, attempt, why);
        }
    }

    pub(super) fn cancel_partition(&mut self, index: u32, attempt: u32, why: Option<&str>) {
        self.change(Change::Partition(PartitionChange {
            message: why.map(str::to_owned),
            ..PartitionChange::plain(index, PartitionState::Cancelled, attempt)
        }));
    }

    pub(super) fn release(&mut self) {
        if self.state.state.is_terminal() {
            return;
        }
        self.state.released = true;
        // What is staged is on its way to the table; the executor waits for it.
        let computing = self
            .under_way()
            .into_iter()
            .filter(|(index, _)| !self.state.staged.contains(index))
            .collect::<Vec<_>>();
        for (index, attempt) in computing {
            self.requeue(index, attempt);
        }
        self.act(Action::StopAttempts);
    }
}
