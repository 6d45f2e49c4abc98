//! What happens around the state machine, at random.

use proptest::prelude::*;

use super::{
    super::*,
    world::{World, failed, take},
};

/// What happens around the state machine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Staged,
    FailedForNow,
    FailedForGood,
    Commit,
    CommitFailed,
    CommitReported,
    RetryDue,
    OldNews,
    Pause,
    Resume,
    SetConcurrency,
    Retry,
    Cancel,
    Release,
    Crash,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Happening {
    pub(super) op: Op,
    pub(super) pick: usize,
    /// Of the command's events, how many reach the disk before a crash; `None`: no crash.
    pub(super) torn_after: Option<usize>,
}

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    let op = prop_oneof![
        12 => Just(Op::Staged),
        4 => Just(Op::FailedForNow),
        1 => Just(Op::FailedForGood),
        10 => Just(Op::Commit),
        1 => Just(Op::CommitFailed),
        10 => Just(Op::CommitReported),
        4 => Just(Op::RetryDue),
        2 => Just(Op::OldNews),
        1 => Just(Op::Pause),
        3 => Just(Op::Resume),
        1 => Just(Op::SetConcurrency),
        3 => Just(Op::Retry),
        1 => Just(Op::Release),
        1 => Just(Op::Crash),
    ];
    let torn = prop_oneof![30 => Just(None), 1 => (0usize..4).prop_map(Some)];
    let rare = prop_oneof![60 => op, 1 => Just(Op::Cancel)];
    (rare, any::<usize>(), torn).prop_map(|(op, pick, torn_after)| Happening {
        op,
        pick,
        torn_after,
    })
}

impl World {
    pub(super) fn step(&mut self, happening: Happening) {
        self.torn_after = happening.torn_after;
        let pick = happening.pick;
        match happening.op {
            Op::Staged => {
                if let Some((index, attempt)) = take(&mut self.computing, pick) {
                    self.send(Command::Staged { index, attempt });
                }
            }
            Op::FailedForNow => self.fail_computing(pick, true),
            Op::FailedForGood => self.fail_computing(pick, false),
            Op::Commit => self.commit(pick),
            Op::CommitFailed => {
                if let Some((index, attempt)) = take(&mut self.waiting, pick) {
                    self.send(failed(index, attempt, true));
                }
            }
            Op::CommitReported => {
                if let Some((index, attempt)) = take(&mut self.committed, pick) {
                    let published = self.published(index, attempt);
                    self.send(Command::Published(published));
                }
            }
            Op::RetryDue => {
                if let Some((index, attempt)) = take(&mut self.timers, pick) {
                    self.send(Command::RetryDue { index, attempt });
                }
            }
            Op::OldNews => self.old_news(pick),
            Op::Pause => self.send(Command::Pause),
            Op::Resume => self.send(Command::Resume),
            Op::SetConcurrency => {
                let count = 1 + (pick % 5) as u32;
                self.most_active = self.most_active.max(count);
                self.send(Command::SetConcurrency(count));
            }
            Op::Retry => self.retry(),
            Op::Cancel => self.send(Command::Cancel),
            Op::Release => self.send(Command::Release),
            Op::Crash => self.restart(),
        }
        self.torn_after = None;
        let at_rest =
            self.computing.is_empty() && self.waiting.is_empty() && self.committed.is_empty();
        if self.state.released && at_rest {
            self.restart();
        }
        self.check_going();
    }

    /// The executor refuses what did not end in failure.
    pub(super) fn retry(&mut self) {
        let ended = self.state.state;
        let before = self.state.last_sequence;
        let torn = self.torn_after.is_some();
        self.send(Command::Retry);
        if torn {
            // What reached the disk of it decides.
            return;
        }
        if matches!(
            ended,
            BackfillState::PartiallySucceeded | BackfillState::Failed
        ) {
            assert!(self.state.last_sequence > before, "nothing was retried");
        }
    }

    pub(super) fn fail_computing(&mut self, pick: usize, retryable: bool) {
        if let Some((index, attempt)) = take(&mut self.computing, pick) {
            self.send(failed(index, attempt, retryable));
        }
    }

    pub(super) fn commit(&mut self, pick: usize) {
        if let Some((index, attempt)) = take(&mut self.waiting, pick) {
            self.table.entry(index).or_default().push(attempt);
            self.snapshots += 1;
            self.snapshot_of.insert((index, attempt), self.snapshots);
            let rows = self.read[&index].clone();
            let before = self.rows.entry(index).or_insert_with(|| rows.clone());
            assert_eq!(*before, rows, "BF-2");
            self.committed.push((index, attempt));
        }
    }

    /// A report of an attempt that is over.
    pub(super) fn old_news(&mut self, pick: usize) {
        let index = (pick % self.state.partitions.len()) as u32;
        let current = self.state.partitions[index as usize].attempt;
        let Some(attempt) = current.checked_sub(1) else {
            return;
        };
        let sequence = self.state.last_sequence;
        self.torn_after = None;
        self.send(Command::Staged { index, attempt });
        self.send(failed(index, attempt, true));
        self.send(Command::Stopped { index, attempt });
        self.send(Command::RetryDue { index, attempt });
        assert_eq!(self.state.last_sequence, sequence, "a fenced attempt moved");
    }

    /// Lets everything end well.
    pub(super) fn run_out(&mut self) {
        for pick in 0..10_000 {
            if self.state.state.is_terminal() {
                return;
            }
            if self.state.released {
                self.restart();
            }
            if self.state.state == BackfillState::Paused {
                self.send(Command::Resume);
            }
            for op in [Op::RetryDue, Op::Staged, Op::Commit, Op::CommitReported] {
                self.step(Happening {
                    op,
                    pick,
                    torn_after: None,
                });
            }
        }
        panic!("it never ends: {:?}", self.state);
    }
}
