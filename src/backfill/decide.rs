//! What a command leads to: pure.
//!
//! [`decide`] says which events a command makes and what is to be done once they are journalled. After a restart the state
//! is the fold of the journal, and [`Command::Resume`] takes up what was under way.

use super::{
    model::{
        BackfillState, Change, DependencyShape, Event, PartitionChange, PartitionState, Record,
    },
    retry,
    state::{PartitionRun, State},
};

/// Staged partitions that may wait to be published before no more attempts start.
const MAX_STAGED: usize = 64;

/// Something that happened or is asked for.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Begin.
    Start,
    /// An attempt's rows are staged.
    Staged {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
    },
    /// An attempt failed, or its rows could not be published.
    Failed {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
        /// Why.
        message: String,
        /// Whether another try can help.
        retryable: bool,
        /// In `[0, 1)`: of the backoff's bound.
        jitter: f64,
    },
    /// An attempt ended because it was told to.
    Stopped {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
    },
    /// An attempt's rows are on the table.
    Published(PublishedAttempt),
    /// A wait is over.
    RetryDue {
        /// Its partition.
        index: u32,
        /// The attempt that failed before it.
        attempt: u32,
    },
    /// Stop everything for good.
    Cancel,
    /// The server came back. What the table says of this backfill comes with it.
    Resume {
        /// Attempts that were published, whether the journal knows it or not.
        published: Vec<PublishedAttempt>,
    },
    /// The server stops: attempts under way go back to the queue.
    Release,
}

/// An attempt whose rows are on the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublishedAttempt {
    /// Its partition.
    pub(super) index: u32,
    /// Its number.
    pub(super) attempt: u32,
    /// What it read.
    pub(super) rows_read: u64,
    /// What it wrote.
    pub(super) rows_written: u64,
    /// What published it.
    pub(super) snapshot_id: i64,
}

/// What is to be done once the events are journalled. All of it may be done twice without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Run an attempt.
    StartAttempt {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
    },
    /// Put an attempt's staged rows on the table.
    Publish {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
    },
    /// Remove what an attempt staged: it is fenced off.
    Discard {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
    },
    /// Come back with [`Command::RetryDue`].
    WaitRetry {
        /// Its partition.
        index: u32,
        /// The attempt that failed.
        attempt: u32,
        /// When, in microseconds since the Unix epoch.
        at_micros: i64,
    },
    /// Stop all attempts under way that are not being published.
    StopAttempts,
    /// The backfill ended.
    Finish,
}

/// What a command leads to.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// To be journalled, in order. The state that was decided on has them already.
    pub(super) events: Vec<Event>,
    /// To be done after that, in order.
    pub(super) actions: Vec<Action>,
}

/// What `command` leads to in `state`, at `now_micros`. `state` moves on as its events say.
pub(super) fn decide(
    record: &Record,
    state: &mut State,
    now_micros: i64,
    command: Command,
) -> Decision {
    let mut step = Step {
        record,
        state: &mut *state,
        now_micros,
        decision: Decision::default(),
    };
    match command {
        Command::Start => step.start(),
        Command::Staged { index, attempt } => step.staged(index, attempt),
        Command::Failed {
            index,
            attempt,
            message,
            retryable,
            jitter,
        } => step.failed(index, attempt, message, retryable, jitter),
        Command::Stopped { index, attempt } => {
            step.stopped(index, attempt);
            step.fill_slots();
        }
        Command::Published(published) => step.published(&published),
        Command::RetryDue { index, attempt } => step.retry_due(index, attempt),
        Command::Cancel => step.cancel(),
        Command::Resume { published } => step.resume(&published),
        Command::Release => step.release(),
    }
    step.decision
}

/// One decision in the making. Each event is applied as it is made, so that what follows sees it.
struct Step<'a> {
    record: &'a Record,
    state: &'a mut State,
    now_micros: i64,
    decision: Decision,
}

impl Step<'_> {
    fn change(&mut self, change: Change) {
        let event = Event {
            sequence: self.state.last_sequence + 1,
            time_micros: self.now_micros,
            change,
        };
        self.state.apply(&event);
        self.decision.events.push(event);
    }

    fn act(&mut self, action: Action) {
        self.decision.actions.push(action);
    }

    fn run(&self, index: u32) -> Option<&PartitionRun> {
        self.state.partitions.get(index as usize)
    }

    fn start(&mut self) {
        if self.state.state == BackfillState::Pending {
            self.change(Change::State(BackfillState::Running));
            self.fill_slots();
        }
    }

    /// Starts as many pending partitions as may run.
    fn fill_slots(&mut self) {
        if self.state.state != BackfillState::Running || self.state.released {
            return;
        }
        let limit = match self.record.plan.shape {
            DependencyShape::Independent => self.record.plan.max_active_partitions as usize,
            DependencyShape::Sequential => 1,
        };
        while self.state.computing_count() < limit && self.state.staged.len() < MAX_STAGED {
            let Some(&index) = self.state.pending.first() else {
                break;
            };
            let attempt = self.run(index).map_or(0, |run| run.attempt) + 1;
            self.start_attempt(index, attempt);
        }
    }

    fn start_attempt(&mut self, index: u32, attempt: u32) {
        self.change(Change::Partition(PartitionChange::plain(
            index,
            PartitionState::Running,
            attempt,
        )));
        self.act(Action::StartAttempt { index, attempt });
    }

    fn staged(&mut self, index: u32, attempt: u32) {
        let accepted =
            self.state.is_current(index, attempt) && self.state.state == BackfillState::Running;
        if !accepted {
            self.act(Action::Discard { index, attempt });
            self.stopped(index, attempt);
            return;
        }
        self.state.staged.insert(index);
        self.act(Action::Publish { index, attempt });
        self.fill_slots();
    }

    fn published(&mut self, published: &PublishedAttempt) {
        if !self.state.is_current(published.index, published.attempt) {
            return;
        }
        self.succeed(published);
        self.unblock_after(published.index);
        self.fill_slots();
        self.finish_if_done();
    }

    fn succeed(&mut self, published: &PublishedAttempt) {
        self.change(Change::Partition(PartitionChange {
            rows_read: published.rows_read,
            rows_written: published.rows_written,
            snapshot_id: Some(published.snapshot_id),
            ..PartitionChange::plain(
                published.index,
                PartitionState::Succeeded,
                published.attempt,
            )
        }));
    }

    /// The next partition that reads what `index` wrote may run now. Nothing is journalled for it before it runs: it goes
    /// from BLOCKED to RUNNING.
    fn unblock_after(&mut self, index: u32) {
        let next = (index + 1..)
            .zip(self.state.partitions.iter().skip(index as usize + 1))
            .find(|(_, run)| !run.state.is_terminal())
            .filter(|(_, run)| run.state == PartitionState::Blocked)
            .map(|(next, _)| next);
        if let Some(next) = next {
            self.state.pending.insert(next);
        }
    }

    fn failed(&mut self, index: u32, attempt: u32, message: String, retryable: bool, jitter: f64) {
        if !self.state.is_current(index, attempt) {
            return;
        }
        if self.state.state == BackfillState::Cancelling {
            self.stopped(index, attempt);
            return;
        }
        let policy = &self.record.plan.retry;
        let failure_count = self.run(index).map_or(0, |run| run.failure_count) + 1;
        if retryable && failure_count < policy.max_attempts {
            let wait = retry::backoff(policy, failure_count, jitter);
            let at_micros = self
                .now_micros
                .saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
            self.change(Change::Partition(PartitionChange {
                message: Some(message),
                retry_at_micros: Some(at_micros),
                ..PartitionChange::plain(index, PartitionState::WaitingRetry, attempt)
            }));
            self.act(Action::WaitRetry {
                index,
                attempt,
                at_micros,
            });
        } else {
            self.change(Change::Partition(PartitionChange {
                message: Some(message),
                ..PartitionChange::plain(index, PartitionState::Failed, attempt)
            }));
            self.fail_downstream(index);
        }
        self.fill_slots();
        self.finish_if_done();
    }

    /// What reads the output of a failed partition never runs.
    fn fail_downstream(&mut self, index: u32) {
        if self.record.plan.shape == DependencyShape::Independent {
            return;
        }
        let label = self
            .record
            .plan
            .partitions
            .get(index as usize)
            .map(|planned| planned.partition.label.clone())
            .unwrap_or_default();
        let count = u32::try_from(self.state.partitions.len()).unwrap_or(u32::MAX);
        for later in index + 1..count {
            let Some(run) = self.run(later).filter(|run| !run.state.is_terminal()) else {
                continue;
            };
            let attempt = run.attempt;
            self.change(Change::Partition(PartitionChange {
                message: Some(format!("partition {label}, which it reads, failed")),
                ..PartitionChange::plain(later, PartitionState::UpstreamFailed, attempt)
            }));
        }
    }

    fn retry_due(&mut self, index: u32, attempt: u32) {
        let waits = self
            .run(index)
            .is_some_and(|run| run.state == PartitionState::WaitingRetry && run.attempt == attempt);
        if waits && self.state.state == BackfillState::Running {
            self.requeue(index, attempt);
            self.fill_slots();
        }
    }

    fn requeue(&mut self, index: u32, attempt: u32) {
        self.change(Change::Partition(PartitionChange::plain(
            index,
            PartitionState::Pending,
            attempt,
        )));
    }

    fn cancel(&mut self) {
        if !matches!(
            self.state.state,
            BackfillState::Pending | BackfillState::Running
        ) {
            return;
        }
        self.change(Change::State(BackfillState::Cancelling));
        self.cancel_waiting();
        self.act(Action::StopAttempts);
        self.finish_if_done();
    }

    fn cancel_waiting(&mut self) {
        let waiting: Vec<_> = (0u32..)
            .zip(&self.state.partitions)
            .filter(|(_, run)| !run.state.is_terminal() && run.state != PartitionState::Running)
            .map(|(index, run)| (index, run.attempt))
            .collect();
        for (index, attempt) in waiting {
            self.cancel_partition(index, attempt);
        }
    }

    fn cancel_partition(&mut self, index: u32, attempt: u32) {
        self.change(Change::Partition(PartitionChange::plain(
            index,
            PartitionState::Cancelled,
            attempt,
        )));
    }

    /// An attempt ended without a result because it was told to.
    fn stopped(&mut self, index: u32, attempt: u32) {
        if !self.state.is_current(index, attempt) {
            return;
        }
        if self.state.state == BackfillState::Cancelling {
            self.cancel_partition(index, attempt);
            self.finish_if_done();
        } else {
            self.requeue(index, attempt);
        }
    }

    fn resume(&mut self, published: &[PublishedAttempt]) {
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
        for (index, attempt) in fenced {
            self.stopped(index, attempt);
        }
        if self.state.state == BackfillState::Cancelling {
            self.cancel_waiting();
            self.finish_if_done();
            return;
        }
        self.fail_downstream_again();
        self.unblock_first();
        self.change(Change::Resumed {
            fenced_attempt_count,
        });
        self.wait_again();
        self.fill_slots();
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
        let failed = (0u32..)
            .zip(&self.state.partitions)
            .find(|(_, run)| run.state == PartitionState::Failed)
            .map(|(index, _)| index);
        if let Some(index) = failed {
            self.fail_downstream(index);
        }
    }

    fn under_way(&self) -> Vec<(u32, u32)> {
        let attempts = self.state.running.iter();
        attempts
            .filter_map(|&index| Some((index, self.run(index)?.attempt)))
            .collect()
    }

    /// `pending` does not hold blocked partitions that were free to run when the server went away.
    fn unblock_first(&mut self) {
        if self.record.plan.shape == DependencyShape::Independent {
            return;
        }
        let first = (0u32..)
            .zip(&self.state.partitions)
            .find(|(_, run)| !run.state.is_terminal());
        if let Some((index, run)) = first
            && run.state == PartitionState::Blocked
        {
            self.state.pending.insert(index);
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

    fn release(&mut self) {
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

    fn finish_if_done(&mut self) {
        if self.state.state.is_terminal() || self.state.finished_count() < self.total() {
            return;
        }
        let succeeded = self.state.count(PartitionState::Succeeded) > 0;
        let failed = self.state.count(PartitionState::Failed)
            + self.state.count(PartitionState::UpstreamFailed)
            > 0;
        let end = match (self.state.state, succeeded, failed) {
            (BackfillState::Cancelling, _, _) => BackfillState::Cancelled,
            (_, _, false) => BackfillState::Succeeded,
            (_, true, true) => BackfillState::PartiallySucceeded,
            (_, false, true) => BackfillState::Failed,
        };
        self.change(Change::State(end));
        self.act(Action::Finish);
    }

    fn total(&self) -> u32 {
        u32::try_from(self.state.partitions.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
