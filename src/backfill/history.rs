//! What earlier backfills made of a table's partitions, and how long it took them. Pure.
//!
//! A table is written by the backfills of one transform alone, so their states say which partitions are published; a partition
//! that was published empty counts too, though the table holds no file of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    model::{PartitionState, Record},
    state::{PartitionRun, State},
};
use crate::time::ValidTime;

/// Attempts that an estimate is made of, at most: the latest.
const SAMPLES: usize = 512;

/// What the latest backfill that came to an end with a partition made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The backfill.
    pub(super) backfill: Arc<str>,
    /// Whether it published the partition; otherwise it failed.
    pub(super) published: bool,
    end_micros: i64,
}

/// What is known of the partitions of one table.
#[derive(Debug, Default)]
pub(super) struct History {
    outcomes: BTreeMap<ValidTime, Outcome>,
    /// Of the revision asked for, in microseconds, latest backfills first.
    samples: Vec<i64>,
    /// Of other revisions.
    other_samples: Vec<i64>,
}

impl History {
    /// Adds what a backfill whose transform at `place` writes the table made of its partitions. **Cost**: its partitions.
    pub(super) fn add_outcomes(&mut self, record: &Record, state: &State, place: u32) {
        let backfill: Arc<str> = record.name.as_str().into();
        let runs = record.plan.partitions.iter().zip(&state.partitions);
        for (planned, run) in runs.filter(|(planned, _)| planned.transform == place) {
            let Some(published) = outcome(run) else {
                continue;
            };
            // One that never ran has no end of its own.
            let end_micros = run.end_micros.or(state.end_micros);
            let end_micros = end_micros.unwrap_or(record.create_time_micros);
            let latest = self.outcomes.get(&planned.partition.start);
            if latest.is_none_or(|latest| latest.end_micros < end_micros) {
                let outcome = Outcome {
                    backfill: Arc::clone(&backfill),
                    published,
                    end_micros,
                };
                self.outcomes.insert(planned.partition.start, outcome);
            }
        }
    }

    /// Adds how long a backfill whose transform at `place` writes the table took. `revision` is the one that is planned. Later
    /// backfills come first.
    pub(super) fn add_samples(
        &mut self,
        record: &Record,
        state: &State,
        place: u32,
        revision: u32,
    ) {
        let ran = record.plan.transforms.get(place as usize);
        let samples = if ran.is_some_and(|ran| ran.revision == revision) {
            &mut self.samples
        } else {
            &mut self.other_samples
        };
        let runs = record.plan.partitions.iter().zip(&state.partitions).rev();
        let own = runs.filter(|(planned, _)| planned.transform == place);
        let taken = own.filter_map(|(_, run)| took_micros(run));
        samples.extend(taken.take(SAMPLES.saturating_sub(samples.len())));
    }

    /// What became of the partition that starts at `start`.
    pub(super) fn outcome(&self, start: ValidTime) -> Option<&Outcome> {
        self.outcomes.get(&start)
    }

    /// The published partitions that start at `from` or later.
    pub(super) fn published_from(&self, from: ValidTime) -> impl Iterator<Item = ValidTime> {
        self.outcomes
            .range(from..)
            .filter(|(_, outcome)| outcome.published)
            .map(|(start, _)| *start)
    }

    /// How long `run_count` partitions will take, `at_once` at a time. `None`: nothing like it ran before.
    pub(super) fn estimate(&self, run_count: usize, at_once: u32) -> Option<Estimate> {
        let mut samples = if self.samples.is_empty() {
            self.other_samples.clone()
        } else {
            self.samples.clone()
        };
        samples.sort_unstable();
        let median_micros = *samples.get(samples.len() / 2)?;
        let per_partition = Duration::from_micros(u64::try_from(median_micros).unwrap_or(0));
        let turns = run_count.div_ceil(at_once.max(1) as usize);
        Some(Estimate {
            sample_count: u32::try_from(samples.len()).unwrap_or(u32::MAX),
            same_revision: !self.samples.is_empty(),
            per_partition,
            total: per_partition.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX)),
        })
    }
}

/// How long a backfill will take, as earlier ones of its transform did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Published partitions that it is made of.
    pub sample_count: u32,
    /// Whether they were of the planned revision; otherwise of others.
    pub same_revision: bool,
    /// Median of one partition, from its attempt's start until it was published.
    pub per_partition: Duration,
    /// Of all that would run.
    pub total: Duration,
}

impl Estimate {
    /// Of several transforms: each with how many of its partitions run.
    pub(super) fn together(estimates: &[(Self, usize)]) -> Option<Self> {
        let count: usize = estimates.iter().map(|(_, run_count)| run_count).sum();
        let work: Duration = estimates
            .iter()
            .map(|(one, run_count)| {
                let run_count = u32::try_from(*run_count).unwrap_or(u32::MAX);
                one.per_partition.saturating_mul(run_count)
            })
            .sum();
        let ones = || estimates.iter().map(|(one, _)| one);
        Some(Self {
            sample_count: ones().map(|one| one.sample_count).sum(),
            same_revision: ones().all(|one| one.same_revision),
            per_partition: work.checked_div(u32::try_from(count).ok()?)?,
            total: ones().map(|one| one.total).sum(),
        })
    }
}

/// Whether the partition was published; `None`: it came to no end that counts.
fn outcome(run: &PartitionRun) -> Option<bool> {
    match run.state {
        PartitionState::Succeeded => Some(true),
        PartitionState::Failed | PartitionState::UpstreamFailed => Some(false),
        PartitionState::Pending
        | PartitionState::Blocked
        | PartitionState::Running
        | PartitionState::WaitingRetry
        | PartitionState::Skipped
        | PartitionState::Cancelled => None,
    }
}

fn took_micros(run: &PartitionRun) -> Option<i64> {
    if run.state != PartitionState::Succeeded {
        return None;
    }
    Some((run.end_micros? - run.start_micros?).max(0))
}
