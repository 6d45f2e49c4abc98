//! What partitions of one transform read of another's: which they wait for, and what they see. Pure.
//!
//! A partition sees, of another transform's table, the partitions that overlap `[start - lookback, end)` and are over by `end`:
//! what is under way then would tell it of what comes after (invariant `PT-1`). Those that its own backfill runs it waits for,
//! and reads at the snapshot that published them; all others as they were published when the backfill was created. So all
//! attempts read the same (invariant `PT-2`), and the journal says what.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    Error, Result,
    model::{DependencyShape, FrozenTable, Knowledge, Plan, PlannedPartition},
    plan::PlanInput,
    state::State,
};
use crate::{
    catalog::TableInput,
    engine::{PublishedView, TableView},
    time::{Grain, Interval, Partition, PartitionCalendar, SysTime, ValidTime},
};

/// What is known of another transform's table that a transform reads.
#[derive(Debug)]
pub(super) struct TableKnowledge {
    pub(super) input: TableInput,
    /// The length of its partitions.
    pub(super) grain: Grain,
    /// Their zone.
    pub(super) zone: chrono_tz::Tz,
    /// The place of the transform that writes it, if this backfill runs that.
    pub(super) writer: Option<u32>,
    /// The snapshot that is current.
    pub(super) snapshot_id: Option<i64>,
    /// Its published partitions.
    pub(super) published: Published,
}

impl FrozenTable {
    /// The valid time of its partitions that `partition` sees, first start to last end; `None`: it sees none.
    pub(super) fn seen_by(&self, partition: &Partition) -> Option<Interval<ValidTime>> {
        let calendar = PartitionCalendar::new(self.grain, self.zone);
        seen(calendar, self.lookback_micros, partition)
    }
}

impl TableKnowledge {
    pub(super) fn freeze(&self) -> FrozenTable {
        FrozenTable {
            table: self.input.table.clone(),
            lookback_micros: self.input.lookback_micros,
            grain: self.grain,
            zone: self.zone,
            writer: self.writer,
            snapshot_id: self.snapshot_id,
        }
    }
}

/// The published partitions of a table.
#[derive(Debug, Default)]
pub(super) struct Published(BTreeMap<ValidTime, Publication>);

/// Who published a partition last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) backfill: String,
    /// What it knew.
    pub(super) basis: SysTime,
    pub(super) end_micros: i64,
}

impl Published {
    /// Adds that a partition was published; the latest counts.
    pub(super) fn add(&mut self, start: ValidTime, publication: Publication) {
        let latest = self.0.get(&start);
        if latest.is_none_or(|latest| latest.end_micros <= publication.end_micros) {
            self.0.insert(start, publication);
        }
    }
}

/// The valid time of the partitions of a table that `partition` sees, first start to last end; `None`: it sees none.
fn seen(
    calendar: PartitionCalendar,
    lookback_micros: i64,
    partition: &Partition,
) -> Option<Interval<ValidTime>> {
    let from = partition.start.saturating_add_micros(-lookback_micros);
    let first = calendar.partition_containing(from).ok()?;
    let last = calendar
        .partition_containing(partition.end.saturating_add_micros(-1))
        .ok()?;
    let to = if last.end == partition.end {
        last.end
    } else {
        last.start
    };
    (first.start < to).then(|| Interval::new(first.start, to))
}

/// Whether `upstream`, a partition of a table that is read with this lookback, is one that `partition` sees.
fn sees(lookback_micros: i64, partition: &Partition, upstream: &Partition) -> bool {
    upstream.end <= partition.end
        && partition.start.saturating_add_micros(-lookback_micros) < upstream.end
}

/// Whether `planned` reads one of `upstream` that runs.
pub(super) fn reads_one_that_runs(
    input: &PlanInput<'_>,
    upstream: &[PlannedPartition],
    planned: &PlannedPartition,
) -> bool {
    let reads = |table: &TableKnowledge, other: &PlannedPartition| {
        table.writer == Some(other.transform)
            && sees(
                table.input.lookback_micros,
                &planned.partition,
                &other.partition,
            )
    };
    let mut running = upstream.iter().filter(|other| other.skip_reason.is_none());
    running.any(|other| input.tables.iter().any(|table| reads(table, other)))
}

/// The starts of the partitions of a table that some of `partitions` see and this backfill does not run. **Cost**: their
/// windows overlap, and each start is looked at once.
fn seen_as_published(
    table: &TableKnowledge,
    own: &BTreeSet<ValidTime>,
    partitions: &[PlannedPartition],
) -> Vec<ValidTime> {
    let calendar = PartitionCalendar::new(table.grain, table.zone);
    let mut starts = Vec::new();
    let mut done = ValidTime::MIN;
    for planned in running(partitions) {
        let window = seen(calendar, table.input.lookback_micros, &planned.partition);
        let Some((from, to)) = window.and_then(|window| Some((window.from, window.to?))) else {
            continue;
        };
        // Both ends of the windows ascend with the partitions. One that holds too many to tell is not told.
        if let Ok(slices) = calendar.partitions(from.max(done), to) {
            starts.extend(slices.into_iter().map(|upstream| upstream.start));
        }
        done = done.max(to);
    }
    starts.retain(|start| !own.contains(start));
    starts
}

/// The starts of the partitions of a table that this backfill runs.
fn own_starts(table: &TableKnowledge, upstream: &[PlannedPartition]) -> BTreeSet<ValidTime> {
    upstream
        .iter()
        .filter(|other| table.writer == Some(other.transform) && other.skip_reason.is_none())
        .map(|other| other.partition.start)
        .collect()
}

fn running(partitions: &[PlannedPartition]) -> impl Iterator<Item = &PlannedPartition> {
    partitions.iter().filter(|it| it.skip_reason.is_none())
}

/// What a partition reads must not have been computed with more knowledge than it has itself (invariant `PT-1`).
///
/// # Errors
/// [`Error::UpstreamKnowsMore`].
pub(super) fn check_knowledge(
    input: &PlanInput<'_>,
    upstream: &[PlannedPartition],
    partitions: &[PlannedPartition],
) -> Result<()> {
    // The latest basis is never before that of what was published.
    if input.spec.knowledge == Knowledge::AsKnownNow {
        return Ok(());
    }
    for table in &input.tables {
        let own = own_starts(table, upstream);
        let calendar = PartitionCalendar::new(table.grain, table.zone);
        for planned in running(partitions) {
            let window = seen(calendar, table.input.lookback_micros, &planned.partition);
            let Some((from, to)) = window.and_then(|window| Some((window.from, window.to?))) else {
                continue;
            };
            let mut published = table.published.0.range(from..to);
            let knows_more =
                published.find(|(start, one)| one.basis > planned.basis && !own.contains(*start));
            if let Some((start, one)) = knows_more {
                return Err(Error::UpstreamKnowsMore {
                    transform: input.transform.spec.name.clone(),
                    label: planned.partition.label.clone(),
                    basis: planned.basis,
                    table: table.input.table.clone(),
                    start: *start,
                    backfill: one.backfill.clone(),
                    upstream_basis: one.basis,
                });
            }
        }
    }
    Ok(())
}

/// What would surprise about the tables that a transform reads.
pub(super) fn warnings(
    input: &PlanInput<'_>,
    upstream: &[PlannedPartition],
    partitions: &[PlannedPartition],
) -> Vec<String> {
    let mut warnings = Vec::new();
    for table in &input.tables {
        let own = own_starts(table, upstream);
        let calendar = PartitionCalendar::new(table.grain, table.zone);
        let name = &table.input.table;
        let starts = seen_as_published(table, &own, partitions);
        let (outside, missing): (Vec<_>, Vec<_>) = starts
            .into_iter()
            .partition(|start| table.published.0.contains_key(start));
        let lookback_micros = table.input.lookback_micros;
        let sees_none =
            |it: &&PlannedPartition| seen(calendar, lookback_micros, &it.partition).is_none();
        let blind = running(partitions).filter(sees_none).count();
        let count = running(partitions).count();
        if blind > 0 {
            warnings.push(format!(
                "{name}: {blind} of {count} partitions would see no {} partition of it, because none that they overlap is \
                 over by their end; a lookback would show them earlier ones",
                table.grain
            ));
        }
        if let Some(first) = outside.first() {
            warnings.push(format!(
                "{name}: {} of its partitions are not run by this backfill and are read as they are published now, the \
                 first of them {}",
                outside.len(),
                label(calendar, *first)
            ));
        }
        if let Some(first) = missing.first() {
            warnings.push(format!(
                "{name}: {} of its partitions would be read that were never published, the first of them {}",
                missing.len(),
                label(calendar, *first)
            ));
        }
    }
    warnings
}

fn label(calendar: PartitionCalendar, start: ValidTime) -> String {
    calendar.label(start).unwrap_or_else(|_| start.to_string())
}

impl Plan {
    /// The partitions of this backfill's other transforms that `index` reads, and so waits for. **Cost**: those of all
    /// transforms that end in its window.
    pub fn upstream_of(&self, index: u32) -> impl Iterator<Item = u32> + '_ {
        let planned = self.partitions.get(index as usize);
        let reads = planned.and_then(|planned| Some((planned, self.transform_of(planned)?)));
        reads.into_iter().flat_map(move |(planned, transform)| {
            let tables = transform.tables.iter();
            tables.flat_map(move |table| self.written_for(table, &planned.partition))
        })
    }

    /// The partitions of `table` that this backfill runs and `partition` sees.
    fn written_for(
        &self,
        table: &FrozenTable,
        partition: &Partition,
    ) -> impl Iterator<Item = u32> + '_ {
        let writer = table.writer;
        let after = partition
            .start
            .saturating_add_micros(-table.lookback_micros);
        let ends_by = |end: ValidTime| {
            self.partitions
                .partition_point(|planned| planned.partition.end <= end)
        };
        let window: Range<usize> = match writer {
            Some(_) => ends_by(after)..ends_by(partition.end),
            None => 0..0,
        };
        let found = self.partitions.get(window.clone()).unwrap_or_default();
        let indices = u32::try_from(window.start).unwrap_or(u32::MAX)..;
        indices
            .zip(found)
            .filter(move |(_, it)| Some(it.transform) == writer && it.skip_reason.is_none())
            .map(|(index, _)| index)
    }

    /// The partitions of this backfill's other transforms that read `index`. **Cost**: as of [`Plan::upstream_of`], for the
    /// longest partition among them.
    pub(super) fn downstream_of(&self, index: u32) -> Vec<u32> {
        let Some(upstream) = self.partitions.get(index as usize) else {
            return Vec::new();
        };
        let first = self
            .partitions
            .partition_point(|planned| planned.partition.end < upstream.partition.end);
        let mut found = Vec::new();
        for (place, transform) in (0u32..).zip(&self.transforms) {
            let tables = transform.tables.iter();
            let read = tables.filter(|table| table.writer == Some(upstream.transform));
            let Some(lookback) = read.map(|table| table.lookback_micros).max() else {
                continue;
            };
            let after = (first..).zip(self.partitions.iter().skip(first));
            let readers = after
                .filter(|(_, it)| it.transform == place)
                .take_while(|(_, it)| sees(lookback, &it.partition, &upstream.partition))
                .filter(|(_, it)| it.skip_reason.is_none());
            found.extend(readers.filter_map(|(index, _)| u32::try_from(index).ok()));
        }
        found
    }

    /// The partition of the same transform that runs before `index`, where it reads what that wrote.
    pub(super) fn predecessor_of(&self, index: u32) -> Option<u32> {
        let planned = self.partitions.get(index as usize)?;
        let shape = self.transform_of(planned)?.shape;
        if shape == DependencyShape::Independent {
            return None;
        }
        let earlier = self.partitions.get(..index as usize)?.iter();
        let place = earlier
            .enumerate()
            .rev()
            .find(|(_, it)| it.transform == planned.transform && it.skip_reason.is_none());
        u32::try_from(place?.0).ok()
    }

    /// The partitions of the same transform that run after `index`, where they read what it wrote.
    pub(super) fn successors_of(&self, index: u32) -> impl Iterator<Item = u32> + '_ {
        let planned = self.partitions.get(index as usize).filter(|planned| {
            self.transform_of(planned)
                .is_some_and(|one| one.shape == DependencyShape::Sequential)
        });
        let later = (index..).zip(self.partitions.iter().skip(index as usize));
        later
            .skip(1)
            .filter(move |(_, it)| {
                planned.is_some_and(|planned| it.transform == planned.transform)
                    && it.skip_reason.is_none()
            })
            .map(|(index, _)| index)
    }

    /// By table input, what the partition at `index` sees. All that it waits for must be published.
    pub fn views(&self, state: &State, index: u32) -> Vec<TableView> {
        let Some(planned) = self.partitions.get(index as usize) else {
            return Vec::new();
        };
        let tables = self.transform_of(planned).map(|one| one.tables.as_slice());
        let tables = tables.unwrap_or_default().iter();
        tables
            .map(|table| self.view(table, state, &planned.partition))
            .collect()
    }

    fn view(&self, table: &FrozenTable, state: &State, partition: &Partition) -> TableView {
        let calendar = PartitionCalendar::new(table.grain, table.zone);
        let window = seen(calendar, table.lookback_micros, partition);
        let own = self.written_for(table, partition).filter_map(|index| {
            let start = self.partitions.get(index as usize)?.partition.start;
            let snapshot_id = state.partitions.get(index as usize)?.snapshot_id?;
            Some((start, snapshot_id))
        });
        let published = table.snapshot_id.zip(window);
        TableView {
            own: own.collect(),
            // What starts before a partition's end starts in the window too.
            published: published.map(|(snapshot_id, starts)| PublishedView {
                snapshot_id,
                starts,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> ValidTime {
        ValidTime::parse(text).expect("an instant")
    }

    fn partition(grain: Grain, zone: chrono_tz::Tz, start: &str) -> Partition {
        PartitionCalendar::new(grain, zone)
            .partition_at(at(start))
            .expect("a partition")
    }

    fn seen_days(lookback_days: i64, partition: &Partition) -> Option<(String, String)> {
        let days = PartitionCalendar::new(Grain::Daily, chrono_tz::UTC);
        let window = seen(days, lookback_days * 86_400_000_000, partition)?;
        Some((window.from.to_string(), window.to?.to_string()))
    }

    #[test]
    fn a_partition_sees_what_overlaps_it_and_is_over() {
        let day = partition(Grain::Daily, chrono_tz::UTC, "2013-01-10T00:00:00Z");
        let range = |from: &str, to: &str| {
            Some((
                at(&format!("{from}T00:00:00Z")).to_string(),
                at(&format!("{to}T00:00:00Z")).to_string(),
            ))
        };
        assert_eq!(seen_days(0, &day), range("2013-01-10", "2013-01-11"));
        assert_eq!(seen_days(6, &day), range("2013-01-04", "2013-01-11"));
        let month = partition(Grain::Monthly, chrono_tz::UTC, "2013-02-01T00:00:00Z");
        assert_eq!(seen_days(0, &month), range("2013-02-01", "2013-03-01"));

        let hour = partition(Grain::Hourly, chrono_tz::UTC, "2013-01-10T05:00:00Z");
        assert_eq!(seen_days(0, &hour), None, "the day is still under way");
        assert_eq!(seen_days(1, &hour), range("2013-01-09", "2013-01-10"));
        let last = partition(Grain::Hourly, chrono_tz::UTC, "2013-01-10T23:00:00Z");
        assert_eq!(seen_days(0, &last), range("2013-01-10", "2013-01-11"));

        // Midnight to midnight in New York is five hours later.
        let zone = chrono_tz::America::New_York;
        let elsewhere = partition(Grain::Daily, zone, "2013-01-10T05:00:00Z");
        assert_eq!(seen_days(0, &elsewhere), range("2013-01-10", "2013-01-11"));
    }
}
