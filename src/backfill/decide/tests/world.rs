//! A backfill's surroundings: what runs, what the journal holds, what lies on the table, who watches. After each step it
//! asserts the invariants.

use std::collections::BTreeMap;

use super::{super::*, records::OUTSIDE_SNAPSHOT};
use crate::{backfill::model::DependencyShape, engine::TableView, time::SysTime};

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
    pub(super) read: BTreeMap<u32, Read>,
    /// The table's rows: of each partition, what they were computed from.
    pub(super) rows: BTreeMap<u32, Read>,
    /// Commits made so far: each has a snapshot of its own.
    pub(super) snapshots: i64,
    /// The snapshot that published each attempt.
    pub(super) snapshot_of: BTreeMap<(u32, u32), i64>,
    /// What a watcher that comes back after each crash has seen, by sequence.
    pub(super) watched: Vec<Event>,
    pub(super) torn_after: Option<usize>,
    /// Partitions that were ever allowed at once.
    pub(super) most_active: u32,
    /// What each partition reads of the backfill.
    pub(super) reads: Vec<Vec<u32>>,
}

/// What an attempt read: its basis, how much there was of its own earlier output, and the other tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    basis: SysTime,
    prior: usize,
    views: Vec<TableView>,
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
        let indices = 0..record.plan.partitions.len() as u32;
        let reads = indices
            .map(|index| Self::find_reads(&record, index))
            .collect();
        let mut world = Self {
            reads,
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
            snapshots: OUTSIDE_SNAPSHOT,
            snapshot_of: BTreeMap::new(),
            watched: Vec::new(),
            torn_after: None,
            most_active,
        };
        world.send(Command::Start);
        world
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

    /// What an attempt at a partition reads now.
    pub(super) fn world_of(&self, index: u32) -> Read {
        let plan = &self.record.plan;
        let planned = &plan.partitions[index as usize];
        let views = plan.views(&self.state, index);
        let tables = &plan.transforms[planned.transform as usize].tables;
        for (table, view) in tables.iter().zip(&views) {
            let of_table = self.reads_of(index).into_iter();
            let of_table = of_table.map(|upstream| &plan.partitions[upstream as usize]);
            let expected: Vec<_> = of_table
                .filter(|upstream| Some(upstream.transform) == table.writer)
                .map(|upstream| upstream.partition.start)
                .collect();
            let found: Vec<_> = view.own.keys().copied().collect();
            assert_eq!(found, expected, "all that it waits for, and nothing else");
        }
        Read {
            basis: planned.basis,
            prior: match plan.transforms[planned.transform as usize].shape {
                DependencyShape::Independent => 0,
                DependencyShape::Sequential => self
                    .rows
                    .range(..index)
                    .filter(|(earlier, _)| {
                        plan.partitions[**earlier as usize].transform == planned.transform
                    })
                    .count(),
            },
            views,
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::StartTask { attempts } => {
                assert!(attempts.len() <= self.record.plan.partitions_per_task as usize);
                self.check_neighbours(&attempts);
                for (index, attempt) in attempts {
                    let world = self.world_of(index);
                    let first = self.read.entry(index).or_insert_with(|| world.clone());
                    assert_eq!(*first, world, "PT-2");
                    self.computing.push((index, attempt));
                }
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
            .map(|(index, attempt)| self.published(index, attempt))
            .collect();
        self.send(Command::Recover { published });
    }

    pub(super) fn published(&self, index: u32, attempt: u32) -> PublishedAttempt {
        PublishedAttempt {
            receipt: Receipt::Snapshot(self.snapshot_of[&(index, attempt)]),
            ..published(index, attempt)
        }
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
        cost: Cost::default(),
    }
}

pub(super) fn failed(index: u32, attempt: u32, retryable: bool) -> Command {
    Command::Failed {
        index,
        attempt,
        message: "it broke".to_owned(),
        retryable,
        jitter: 0.5,
        cost: Cost::default(),
    }
}
