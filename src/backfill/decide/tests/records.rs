//! Backfills whose lives are tried: what was asked and planned.

use std::{collections::BTreeMap, time::Duration};

use chrono_tz::UTC;

use super::super::*;
use crate::{
    backfill::model::{
        BackfillSpec, DependencyShape, FrozenTable, Knowledge, Plan, PlannedPartition, Reprocess,
        TransformPlan,
    },
    catalog::{Output, RetryPolicy},
    time::{Grain, PartitionCalendar, SysTime, ValidTime},
};

pub(super) const DAY_MICROS: i64 = 86_400_000_000;
/// The first Monday: 1970-01-05.
const WEEK_START_MICROS: i64 = 4 * DAY_MICROS;
/// What partitions that the backfill does not publish are read at.
pub(super) const OUTSIDE_SNAPSHOT: i64 = 1;

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
    let only = Member {
        shape,
        grain: Grain::Daily,
        reads: Vec::new(),
    };
    let days = skipped.len();
    record_of(&[only], days, max_active_partitions, skipped, settings)
}

/// A transform of a backfill.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) shape: DependencyShape,
    pub(super) grain: Grain,
    /// The places of earlier ones whose tables it reads, and how many days back.
    pub(super) reads: Vec<(u32, i64)>,
}

/// A backfill of several transforms over `days`, of which it skips each partition whose turn in `skipped` says so.
pub(super) fn record_of(
    members: &[Member],
    days: usize,
    max_active_partitions: u32,
    skipped: &[bool],
    settings: Settings,
) -> Record {
    let from = ValidTime::from_micros(0);
    let to = ValidTime::from_micros(DAY_MICROS * days as i64);
    let mut partitions = Vec::new();
    for (place, member) in (0u32..).zip(members) {
        // Weeks begin on a Monday: those that lie wholly in the range.
        let (first, last) = if member.grain == Grain::Weekly {
            let week = 7 * DAY_MICROS;
            let weeks = (to.micros() - WEEK_START_MICROS).div_euclid(week);
            let last = WEEK_START_MICROS + weeks * week;
            (ValidTime::from_micros(WEEK_START_MICROS), last)
        } else {
            (from, to.micros())
        };
        if first.micros() >= last {
            continue;
        }
        let slices = PartitionCalendar::new(member.grain, UTC)
            .partitions(first, ValidTime::from_micros(last))
            .expect("a range");
        partitions.extend(slices.into_iter().map(|partition| PlannedPartition {
            basis: SysTime::from_micros(partition.end.micros()),
            partition,
            skip_reason: None,
            file_count: 0,
            run_reason: None,
            transform: place,
        }));
    }
    partitions.sort_by_key(|planned| (planned.partition.end, planned.transform));
    for (planned, &skip) in partitions.iter_mut().zip(skipped.iter().cycle()) {
        planned.skip_reason = skip.then(|| "left out".to_owned());
    }
    let transforms = (0u32..).zip(members).map(|(place, member)| TransformPlan {
        transform: format!("t{place}"),
        revision: 1,
        output: Output::Table(format!("t{place}")),
        grain: member.grain,
        zone: UTC,
        shape: member.shape,
        retry: RetryPolicy {
            max_attempts: 3,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(2),
            attempt_timeout: None,
        },
        partition_count: 0,
        sources: Vec::new(),
        tables: member
            .reads
            .iter()
            .map(|(writer, days)| FrozenTable {
                table: format!("t{writer}"),
                lookback_micros: days * DAY_MICROS,
                grain: members[*writer as usize].grain,
                zone: UTC,
                writer: Some(*writer),
                snapshot_id: Some(OUTSIDE_SNAPSHOT),
            })
            .collect(),
    });
    let transforms: Vec<_> = transforms.collect();
    Record {
        name: "bf-1".to_owned(),
        spec: BackfillSpec {
            transforms: Vec::new(),
            from,
            to,
            knowledge: Knowledge::AsKnownNow,
            max_active_partitions: None,
            partitions_per_task: None,
            max_attempts: None,
            attempt_timeout: None,
            stop_on_first_failure: settings.stop,
            run_backwards: settings.backwards,
            reprocess: Reprocess::Completed,
            priority: 0,
            refresh_calls: false,
            labels: BTreeMap::new(),
        },
        plan: Plan {
            transforms,
            knowledge: Knowledge::AsKnownNow,
            max_active_partitions,
            partitions_per_task: settings.per_task,
            stop_on_first_failure: settings.stop,
            run_backwards: settings.backwards,
            partitions,
            warnings: Vec::new(),
        },
        parent: None,
        create_basis: None,
        create_time_micros: 0,
    }
}

/// Settings that change what happens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) stop: bool,
    pub(super) backwards: bool,
    pub(super) per_task: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stop: false,
            backwards: false,
            per_task: 1,
        }
    }
}
