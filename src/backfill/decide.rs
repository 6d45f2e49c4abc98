//! What a command leads to: pure.
//!
//! [`decide`] says which events a command makes and what is to be done once they are journalled. After a restart the state
//! is the fold of the journal, and [`Command::Recover`] takes up what was under way. No command but [`Command::Fill`] starts
//! an attempt: who may start how many is shared out among all backfills, in [`slots`](super::slots).
//!
//! Here is the life of attempts; which start is in `tasks`, what becomes of those that read them in `readers`, what people ask
//! of a backfill in `control`, what a restart does in `recover`.

mod control;
mod readers;
mod recover;
mod tasks;

use super::{
    model::{
        BackfillState, Change, Event, PartitionChange, PartitionState, Plan, PlannedPartition,
        Receipt, Record,
    },
    retry,
    state::{PartitionRun, State},
};

/// Something that happened or is asked for.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Begin.
    Start,
    /// So many tasks may start now.
    Fill {
        /// At most what [`State::wanted`] says.
        count: usize,
    },
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
        /// What it took.
        cost: Cost,
    },
    /// An attempt ended because it was told to.
    Stopped {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
    },
    /// An attempt ended because the disk is full. It does not count.
    NoRoom {
        /// Its partition.
        index: u32,
        /// Its number.
        attempt: u32,
        /// What could not be written.
        message: String,
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
    /// Start nothing new until [`Command::Resume`].
    Pause,
    /// Go on.
    Resume,
    /// So many partitions may compute at once from now on.
    SetConcurrency(u32),
    /// Take up what an ended backfill did not publish.
    Retry,
    /// Stop everything for good.
    Cancel,
    /// The server came back. What the table says of this backfill comes with it.
    Recover {
        /// Attempts that were published, whether the journal knows it or not.
        published: Vec<PublishedAttempt>,
    },
    /// The server stops: attempts under way go back to the queue.
    Release,
}

/// What an attempt took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Most working memory that its query had reserved at once.
    pub(super) peak_memory_bytes: u64,
    /// When it began to compute, if its task computed others before. In microseconds since the Unix epoch.
    pub(super) began_at_micros: Option<i64>,
}

/// An attempt whose rows are where they belong.
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
    /// What it wrote; 0 where only the table tells of it.
    pub(super) bytes_written: u64,
    /// When its rows were staged, if that is known.
    pub(super) staged_at_micros: Option<i64>,
    /// What published it.
    pub(super) receipt: Receipt,
    /// What it took, if that is known.
    pub(super) cost: Cost,
}

/// What is to be done once the events are journalled. All of it may be done twice without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Run attempts, one after the other.
    StartTask {
        /// Of each its partition and its number.
        attempts: Vec<(u32, u32)>,
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
        Command::Fill { count } => step.fill(count),
        Command::Staged { index, attempt } => step.staged(index, attempt),
        Command::Failed {
            index,
            attempt,
            message,
            retryable,
            jitter,
            cost,
        } => step.failed(index, attempt, message, retryable.then_some(jitter), cost),
        Command::Stopped { index, attempt } => step.stopped(index, attempt),
        Command::NoRoom {
            index,
            attempt,
            message,
        } => step.no_room(index, attempt, &message),
        Command::Published(published) => step.published(&published),
        Command::RetryDue { index, attempt } => step.retry_due(index, attempt),
        Command::Pause => step.pause(),
        Command::Resume => step.resume(),
        Command::SetConcurrency(count) => step.set_concurrency(count),
        Command::Retry => step.retry(),
        Command::Cancel => step.cancel(),
        Command::Recover { published } => step.recover(&published),
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

    fn planned(&self, index: u32) -> Option<&PlannedPartition> {
        self.record.plan.partitions.get(index as usize)
    }

    fn staged(&mut self, index: u32, attempt: u32) {
        let goes_on = matches!(
            self.state.state,
            BackfillState::Running | BackfillState::Paused
        );
        let accepted = goes_on && self.state.is_current(index, attempt);
        if !accepted {
            self.act(Action::Discard { index, attempt });
            self.stopped(index, attempt);
            return;
        }
        self.state.computed(index);
        self.state.staged.insert(index);
        self.act(Action::Publish { index, attempt });
    }

    fn published(&mut self, published: &PublishedAttempt) {
        if !self.state.is_current(published.index, published.attempt) {
            return;
        }
        self.succeed(published);
        self.unblock_after(published.index);
        self.finish_if_done();
    }

    fn succeed(&mut self, published: &PublishedAttempt) {
        self.change(Change::Partition(PartitionChange {
            rows_read: published.rows_read,
            rows_written: published.rows_written,
            bytes_written: published.bytes_written,
            peak_memory_bytes: published.cost.peak_memory_bytes,
            began_at_micros: published.cost.began_at_micros,
            staged_at_micros: published.staged_at_micros,
            snapshot_id: published.receipt.snapshot_id(),
            entities: published.receipt.entities(),
            ..PartitionChange::plain(
                published.index,
                PartitionState::Succeeded,
                published.attempt,
            )
        }));
    }

    fn failed(
        &mut self,
        index: u32,
        attempt: u32,
        message: String,
        // `None`: another try cannot help.
        jitter: Option<f64>,
        cost: Cost,
    ) {
        if !self.state.is_current(index, attempt) {
            return;
        }
        if self.state.state == BackfillState::Cancelling {
            self.stopped(index, attempt);
            return;
        }
        let failed = PartitionChange {
            message: Some(message),
            peak_memory_bytes: cost.peak_memory_bytes,
            began_at_micros: cost.began_at_micros,
            ..PartitionChange::plain(index, PartitionState::Failed, attempt)
        };
        match self.retry_at(index, jitter) {
            Some(at_micros) => {
                self.change(Change::Partition(PartitionChange {
                    state: PartitionState::WaitingRetry,
                    retry_at_micros: Some(at_micros),
                    ..failed
                }));
                self.act(Action::WaitRetry {
                    index,
                    attempt,
                    at_micros,
                });
            }
            None => {
                self.change(Change::Partition(failed));
                self.fail_downstream(index);
                self.stop_if_failed();
            }
        }
        self.finish_if_done();
    }

    /// When a partition that failed now is tried again; `None`: never.
    fn retry_at(&self, index: u32, jitter: Option<f64>) -> Option<i64> {
        let planned = self.planned(index)?;
        let policy = &self.record.plan.transform_of(planned)?.retry;
        let failure_count = self.run(index)?.failure_count + 1;
        if failure_count >= policy.max_attempts || self.stops_on_failure() {
            return None;
        }
        let wait = retry::backoff(policy, failure_count, jitter?);
        let wait_micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        Some(self.now_micros.saturating_add(wait_micros))
    }

    /// Whether nothing new may start because a partition failed for good.
    fn stops_on_failure(&self) -> bool {
        self.record.plan.stop_on_first_failure && self.state.count(PartitionState::Failed) > 0
    }

    /// Leaves out what has not started, if the backfill stops on the first failure. Attempts under way go on.
    fn stop_if_failed(&mut self) {
        if !self.stops_on_failure() {
            return;
        }
        let failed = (0u32..)
            .zip(&self.state.partitions)
            .find(|(_, run)| run.state == PartitionState::Failed);
        let label = failed.and_then(|(index, _)| self.planned(index));
        let label = label.map_or_else(String::new, |planned| planned.partition.label.clone());
        let message =
            format!("partition {label} failed, and this backfill stops on the first failure");
        self.cancel_waiting(Some(&message));
    }

    fn retry_due(&mut self, index: u32, attempt: u32) {
        let waits = self
            .run(index)
            .is_some_and(|run| run.state == PartitionState::WaitingRetry && run.attempt == attempt);
        if waits {
            self.requeue(index, attempt);
        }
    }

    fn requeue(&mut self, index: u32, attempt: u32) {
        self.change(Change::Partition(PartitionChange::plain(
            index,
            PartitionState::Pending,
            attempt,
        )));
    }

    /// An attempt ended without a result because it was told to.
    fn stopped(&mut self, index: u32, attempt: u32) {
        if !self.state.is_current(index, attempt) {
            return;
        }
        if self.state.state == BackfillState::Cancelling {
            self.cancel_partition(index, attempt, None);
            self.finish_if_done();
        } else {
            self.requeue(index, attempt);
            self.stop_if_failed();
            self.finish_if_done();
        }
    }

    /// The partition goes back into the queue, and says why it waits.
    fn no_room(&mut self, index: u32, attempt: u32, message: &str) {
        if !self.state.is_current(index, attempt) || self.state.state == BackfillState::Cancelling {
            self.stopped(index, attempt);
            return;
        }
        self.change(Change::Partition(PartitionChange {
            message: Some(format!("waits for room on the disk: {message}")),
            ..PartitionChange::plain(index, PartitionState::Pending, attempt)
        }));
        self.stop_if_failed();
        self.finish_if_done();
    }

    fn finish_if_done(&mut self) {
        if self.state.state.is_terminal() || self.state.finished_count() < self.total() {
            return;
        }
        let succeeded = self.state.count(PartitionState::Succeeded) > 0;
        // Cancelled without a cancel: left out after a failure.
        let failed = [
            PartitionState::Failed,
            PartitionState::UpstreamFailed,
            PartitionState::Cancelled,
        ];
        let failed = failed.into_iter().any(|state| self.state.count(state) > 0);
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
