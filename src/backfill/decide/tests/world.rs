//! A backfill's surroundings for random lives: what was asked, what runs, what the journal holds, who watches. After each step
//! it asserts the invariants.

use std::{collections::BTreeMap, time::Duration};

use chrono_tz::UTC;
use proptest::prelude::*;

use super::super::*;
use crate::{
    backfill::model::{BackfillSpec, Knowledge, Plan, PlannedPartition, Reprocess},
    catalog::{Output, RetryPolicy},
    time::{Grain, PartitionCalendar, SysTime, ValidTime},
};

pub(super) const DAY_MICROS: i64 = 86_400_000_000;

pub(super) fn record(
    shape: DependencyShape,
    max_active_partitions: u32,
    skipped: &[bool],
) -> Record {
    record_with(shape, max_active_partitions, skipped, Settings::default())
}

pub(super) fn record_with(
    shape: DependencyShape,
    max_active_partitions: u32,
    skipped: &[bool],
    settings: Settings,
) -> Record {
    let from = ValidTime::from_micros(0);
    let to = ValidTime::from_micros(DAY_MICROS * skipped.len() as i64);
    let slices = PartitionCalendar::new(Grain::Daily, UTC)
        .partitions(from, to)
        .expect("days");
    let partitions = slices
        .into_iter()
        .zip(skipped)
        .map(|(partition, &skip)| PlannedPartition {
            basis: SysTime::from_micros(partition.end.micros()),
            partition,
            skip_reason: skip.then(|| "left out".to_owned()),
            file_count: 0,
            run_reason: None,
        })
        .collect();
    Record {
        name: "bf-1".to_owned(),
        spec: BackfillSpec {
            transform: "t".to_owned(),
            revision: None,
            from,
            to,
            knowledge: Knowledge::AsKnownNow,
            max_active_partitions: None,
            max_attempts: None,
            attempt_timeout: None,
            stop_on_first_failure: settings.stop,
            run_backwards: settings.backwards,
            reprocess: Reprocess::Completed,
            priority: 0,
            labels: BTreeMap::new(),
        },
        plan: Plan {
            transform: "t".to_owned(),
            revision: 1,
            output: Output::Table("t".to_owned()),
            grain: Grain::Daily,
            zone: UTC,
            knowledge: Knowledge::AsKnownNow,
            shape,
            max_active_partitions,
            retry: RetryPolicy {
                max_attempts: 3,
                initial_backoff: Duration::from_secs(1),
                max_backoff: Duration::from_secs(2),
                attempt_timeout: None,
            },
            stop_on_first_failure: settings.stop,
            run_backwards: settings.backwards,
            partitions,
            sources: Vec::new(),
            warnings: Vec::new(),
        },
        parent: None,
        create_time_micros: 0,
    }
}

/// Settings that change what happens.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settings {
    pub(super) stop: bool,
    pub(super) backwards: bool,
}

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

/// The executor, the disk and the table, reduced to what the state machine can tell.
pub(super) struct World {
    pub(super) record: Record,
    pub(super) state: State,
    pub(super) journal: Vec<Event>,
    /// Attempts that compute.
    pub(super) computing: Vec<(u32, u32)>,
    /// Staged attempts that wait for a commit.
    pub(super) waiting: Vec<(u32, u32)>,
    /// Attempts on the table whose commit is not reported yet.
    pub(super) committed: Vec<(u32, u32)>,
    pub(super) timers: Vec<(u32, u32)>,
    /// Of each partition, the attempts that were ever put on the table.
    pub(super) table: BTreeMap<u32, Vec<u32>>,
    /// What each partition's first attempt read.
    pub(super) read: BTreeMap<u32, (SysTime, u32)>,
    /// The table's rows: of each partition, what they were computed from.
    pub(super) rows: BTreeMap<u32, (SysTime, u32)>,
    /// What a watcher that comes back after each crash has seen, by sequence.
    pub(super) watched: Vec<Event>,
    pub(super) torn_after: Option<usize>,
    /// Partitions that were ever allowed at once.
    pub(super) most_active: u32,
}

impl World {
    pub(super) fn new(record: Record) -> Self {
        let created = Event {
            sequence: 1,
            time_micros: 0,
            change: Change::Created,
        };
        let mut state = State::new(&record);
        state.apply(&created);
        let most_active = record.plan.max_active_partitions;
        let mut world = Self {
            record,
            state,
            journal: vec![created],
            computing: Vec::new(),
            waiting: Vec::new(),
            committed: Vec::new(),
            timers: Vec::new(),
            table: BTreeMap::new(),
            read: BTreeMap::new(),
            rows: BTreeMap::new(),
            watched: Vec::new(),
            torn_after: None,
            most_active,
        };
        world.send(Command::Start);
        world
    }

    pub(super) fn sequential(&self) -> bool {
        self.record.plan.shape == DependencyShape::Sequential
    }

    /// A command, and the slots that are free after it.
    pub(super) fn send(&mut self, command: Command) {
        let journalled = self.decide(command);
        if journalled {
            let count = self.state.wanted(&self.record.plan);
            self.decide(Command::Fill { count });
        }
        self.watch();
    }

    /// Whether all events reached the disk.
    pub(super) fn decide(&mut self, command: Command) -> bool {
        let mut before = self.state.clone();
        let decision = decide(&self.record, &mut self.state, 0, command);
        for event in &decision.events {
            self.check_event(&before, event);
            before.apply(event);
        }
        if let Some(kept) = self.torn_after.take()
            && kept < decision.events.len()
        {
            self.journal.extend(decision.events.into_iter().take(kept));
            self.restart();
            return false;
        }
        self.journal.extend(decision.events);
        self.check_state();
        for action in decision.actions {
            self.act(action);
        }
        true
    }

    /// A watcher that is served what is on disk after what it has.
    pub(super) fn watch(&mut self) {
        let seen = self.watched.len();
        let on_disk = self
            .journal
            .get(seen..)
            .expect("PR-1: an event it saw is lost");
        self.watched.extend(on_disk.iter().cloned());
        let numbers = (1u64..).zip(&self.watched);
        for (number, event) in numbers.skip(seen) {
            assert_eq!(event.sequence, number, "PR-1");
        }
    }

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
                let later = before.pending.range(change.index + 1..);
                assert_eq!(later.count(), 0, "{event:?} before a later one");
            }
            if self.sequential() {
                let earlier = &before.partitions[..change.index as usize];
                assert!(
                    earlier.iter().all(|run| matches!(
                        run.state,
                        PartitionState::Succeeded | PartitionState::Skipped
                    )),
                    "{event:?} before what it reads"
                );
            }
        }
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

    /// What an attempt at a partition reads now: its basis, and of its own output how many partitions are there before it.
    pub(super) fn world_of(&self, index: u32) -> (SysTime, u32) {
        let basis = self.record.plan.partitions[index as usize].basis;
        if !self.sequential() {
            return (basis, 0);
        }
        let earlier = self.rows.range(..index).count();
        (basis, u32::try_from(earlier).expect("few"))
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::StartAttempt { index, attempt } => {
                let world = self.world_of(index);
                assert_eq!(*self.read.entry(index).or_insert(world), world, "PT-2");
                self.computing.push((index, attempt));
            }
            Action::Publish { index, attempt } => self.waiting.push((index, attempt)),
            Action::Discard { index, attempt } => {
                assert!(!self.waiting.contains(&(index, attempt)));
            }
            Action::WaitRetry { index, attempt, .. } => self.timers.push((index, attempt)),
            Action::StopAttempts => {
                let stopped = self.computing.drain(..).chain(self.waiting.drain(..));
                for (index, attempt) in stopped.collect::<Vec<_>>() {
                    self.send(Command::Stopped { index, attempt });
                }
            }
            Action::Finish => {
                assert!(self.state.state.is_terminal());
                assert!(self.waiting.is_empty() && self.committed.is_empty());
            }
        }
    }

    pub(super) fn restart(&mut self) {
        self.computing.clear();
        self.waiting.clear();
        self.committed.clear();
        self.timers.clear();
        self.state = State::new(&self.record);
        for event in &self.journal {
            self.state.apply(event);
        }
        if self.state.state.is_terminal() {
            return;
        }
        let published = self
            .table
            .iter()
            .flat_map(|(&index, attempts)| attempts.iter().map(move |&attempt| (index, attempt)))
            .map(|(index, attempt)| published(index, attempt))
            .collect();
        self.send(Command::Recover { published });
    }

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
                    self.send(Command::Published(published(index, attempt)));
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
            let rows = self.read[&index];
            let before = *self.rows.entry(index).or_insert(rows);
            assert_eq!(before, rows, "BF-2");
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

pub(super) fn take(from: &mut Vec<(u32, u32)>, pick: usize) -> Option<(u32, u32)> {
    (!from.is_empty()).then(|| from.swap_remove(pick % from.len()))
}

pub(super) fn published(index: u32, attempt: u32) -> PublishedAttempt {
    PublishedAttempt {
        index,
        attempt,
        rows_read: 2,
        rows_written: 1,
        bytes_written: 0,
        staged_at_micros: None,
        receipt: Receipt::Snapshot(7),
    }
}

pub(super) fn failed(index: u32, attempt: u32, retryable: bool) -> Command {
    Command::Failed {
        index,
        attempt,
        message: "it broke".to_owned(),
        retryable,
        jitter: 0.5,
    }
}
