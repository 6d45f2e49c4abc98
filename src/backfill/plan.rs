//! What a backfill would do: pure. One code path for planning and for creating.

use sha2::{Digest, Sha256};

use super::{
    Error, Result,
    history::History,
    model::{
        BackfillSpec, DependencyShape, FrozenSource, Knowledge, Plan, PlannedPartition, Reprocess,
    },
    stale::{Standing, Standings},
};
use crate::{
    catalog::Transform,
    engine::PinnedSource,
    time::{Interval, Partition, SysTime, ValidTime},
};

/// Most partitions that may run at once.
pub(super) const MAX_ACTIVE_PARTITIONS: u32 = 64;
/// Most tries of one partition.
const MAX_ATTEMPTS: u32 = 100;
/// Most labels of a backfill, and the longest key or value.
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 128;
/// Bounds of a priority, either side of 0.
const MAX_PRIORITY: i64 = 1_000;

/// What is known of an entity type that a transform reads.
#[derive(Debug, Clone)]
pub(super) struct EntityKnowledge {
    pub(super) entity_type: String,
    /// The first basis at which it held anything.
    pub(super) first_known: Option<SysTime>,
    /// An active backfill whose output it is.
    pub(super) being_written_by: Option<String>,
}

/// All that a plan is made of.
#[derive(Debug)]
pub(super) struct PlanInput<'a> {
    pub(super) spec: &'a BackfillSpec,
    pub(super) transform: &'a Transform,
    /// All files of each source.
    pub(super) sources: Vec<PinnedSource>,
    pub(super) entities: Vec<EntityKnowledge>,
    /// What earlier backfills made of the output's partitions.
    pub(super) history: &'a History,
    /// How the published partitions stand, by start. Only for [`Reprocess::Stale`].
    pub(super) standings: &'a Standings,
    /// Microseconds since the Unix epoch.
    pub(super) now_micros: i64,
    /// The latest basis, for [`Knowledge::AsKnownNow`].
    pub(super) latest_basis: SysTime,
    pub(super) default_max_active: u32,
}

/// Makes the plan.
///
/// # Errors
/// A field of the spec that is out of its bounds, or a range that is not made of partitions, by its field path.
pub(super) fn make(input: &PlanInput<'_>) -> Result<Plan> {
    let PlanInput {
        spec, transform, ..
    } = input;
    check_bounds(spec)?;
    let shape = match transform.spec.prior {
        Some(_) => DependencyShape::Sequential,
        None => DependencyShape::Independent,
    };
    if spec.run_backwards && shape == DependencyShape::Sequential {
        return Err(Error::BackwardsWithPrior {
            transform: transform.spec.name.clone(),
        });
    }
    let slices = slices(spec, transform)?;
    if spec.from.micros() > input.now_micros {
        return Err(Error::FromInFuture {
            from: spec.from,
            now: ValidTime::from_micros(input.now_micros),
        });
    }
    let mut partitions: Vec<_> = slices
        .into_iter()
        .map(|partition| planned(input, partition))
        .collect();
    leave_out(input, shape, &mut partitions);
    let max_active_partitions = match shape {
        DependencyShape::Sequential => 1,
        DependencyShape::Independent => spec
            .max_active_partitions
            .unwrap_or(input.default_max_active),
    };
    let mut retry = transform.spec.retry;
    retry.max_attempts = spec.max_attempts.unwrap_or(retry.max_attempts);
    retry.attempt_timeout = spec.attempt_timeout.or(retry.attempt_timeout);
    Ok(Plan {
        transform: transform.spec.name.clone(),
        revision: transform.revision,
        output: transform.spec.output.clone(),
        grain: transform.spec.grain,
        zone: transform.spec.zone,
        knowledge: spec.knowledge,
        shape,
        max_active_partitions,
        retry,
        stop_on_first_failure: spec.stop_on_first_failure,
        run_backwards: spec.run_backwards,
        warnings: warnings(input, shape, &partitions),
        sources: frozen_sources(input, &partitions),
        partitions,
    })
}

fn check_bounds(spec: &BackfillSpec) -> Result<()> {
    if let Some(count) = spec.max_active_partitions
        && !(1..=MAX_ACTIVE_PARTITIONS).contains(&count)
    {
        return Err(Error::invalid(
            "spec.max_active_partitions",
            format!("{count} is not in 1 to {MAX_ACTIVE_PARTITIONS}"),
        ));
    }
    if let Some(count) = spec.max_attempts
        && !(1..=MAX_ATTEMPTS).contains(&count)
    {
        return Err(Error::invalid(
            "spec.max_attempts",
            format!("{count} is not in 1 to {MAX_ATTEMPTS}"),
        ));
    }
    if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&spec.priority) {
        return Err(Error::invalid(
            "spec.priority",
            format!(
                "{} is not in -{MAX_PRIORITY} to {MAX_PRIORITY}",
                spec.priority
            ),
        ));
    }
    if spec.labels.len() > MAX_LABELS {
        return Err(Error::invalid(
            "spec.labels",
            format!(
                "there are {} labels, of {MAX_LABELS} at most",
                spec.labels.len()
            ),
        ));
    }
    let too_long = |text: &String| text.is_empty() || text.len() > MAX_LABEL_BYTES;
    if let Some((key, _)) = spec
        .labels
        .iter()
        .find(|(key, value)| too_long(key) || value.len() > MAX_LABEL_BYTES)
    {
        return Err(Error::invalid(
            format!("spec.labels[{key:?}]"),
            format!("keys are 1 to {MAX_LABEL_BYTES} bytes long, values at most {MAX_LABEL_BYTES}"),
        ));
    }
    Ok(())
}

fn slices(spec: &BackfillSpec, transform: &Transform) -> Result<Vec<Partition>> {
    if spec.from >= spec.to {
        return Err(Error::EmptyRange {
            from: spec.from,
            to: spec.to,
        });
    }
    let calendar = transform.spec.calendar();
    for (field, instant) in [("spec.from", spec.from), ("spec.to", spec.to)] {
        // A range up to the instant itself fails for the same reason, and says which boundaries are nearest.
        if !calendar.is_boundary(instant)
            && let Err(error) = calendar.partitions(instant, instant.saturating_add_micros(1))
        {
            return Err(Error::Calendar { field, error });
        }
    }
    calendar
        .partitions(spec.from, spec.to)
        .map_err(|error| Error::Calendar {
            field: "spec.to",
            error,
        })
}

fn planned(input: &PlanInput<'_>, partition: Partition) -> PlannedPartition {
    let basis = match input.spec.knowledge {
        Knowledge::AsKnownThen {
            availability_delay_micros,
        } => SysTime::from_micros(partition.end.micros())
            .saturating_add_micros(availability_delay_micros),
        Knowledge::AsKnownNow => input.latest_basis,
        Knowledge::AtBasis(basis) => basis,
    };
    let window = Interval::new(partition.start, partition.end);
    let file_count: usize = input
        .sources
        .iter()
        .map(|source| source.files_in(&source.window(window)).count())
        .sum();
    PlannedPartition {
        skip_reason: skip_reason(input, &partition, basis),
        file_count: u32::try_from(file_count).unwrap_or(u32::MAX),
        partition,
        basis,
        run_reason: None,
    }
}

fn skip_reason(input: &PlanInput<'_>, partition: &Partition, basis: SysTime) -> Option<String> {
    if partition.end.micros() > input.now_micros {
        return Some(format!("it is not over before {}", partition.end));
    }
    if basis.micros() > input.now_micros {
        return Some(format!("its basis {basis} is still to come"));
    }
    None
}

/// Leaves out what `reprocess` does not ask for. Where each partition reads the earlier ones' output, all that follow the
/// first that runs are run too.
fn leave_out(input: &PlanInput<'_>, shape: DependencyShape, partitions: &mut [PlannedPartition]) {
    if input.spec.reprocess == Reprocess::Stale {
        return leave_out_unless_stale(input, shape, partitions);
    }
    for planned in partitions {
        if planned.skip_reason.is_some() {
            continue;
        }
        let reason = reason_to_leave_out(input, planned);
        if reason.is_none() && shape == DependencyShape::Sequential {
            return;
        }
        planned.skip_reason = reason;
    }
}

/// Leaves out what is not published, and what is up to date unless it reads what runs.
fn leave_out_unless_stale(
    input: &PlanInput<'_>,
    shape: DependencyShape,
    partitions: &mut [PlannedPartition],
) {
    let mut earlier_runs = false;
    for planned in partitions {
        if planned.skip_reason.is_some() {
            continue;
        }
        let reads_what_runs = shape == DependencyShape::Sequential && earlier_runs;
        match input.standings.get(&planned.partition.start) {
            None => planned.skip_reason = Some("no backfill published it yet".to_owned()),
            Some(Standing::Stale(reason)) => planned.run_reason = Some(reason.clone()),
            Some(Standing::UpToDate { .. }) if reads_what_runs => {
                planned.run_reason = Some("an earlier partition, which it reads, runs".to_owned());
            }
            Some(Standing::UpToDate { backfill }) => {
                planned.skip_reason = Some(format!("it is up to date: {backfill} published it"));
            }
        }
        earlier_runs |= planned.skip_reason.is_none();
    }
}

fn reason_to_leave_out(input: &PlanInput<'_>, planned: &PlannedPartition) -> Option<String> {
    let outcome = input.history.outcome(planned.partition.start)?;
    let backfill = &outcome.backfill;
    match (input.spec.reprocess, outcome.published) {
        (Reprocess::Completed | Reprocess::Stale, _) | (Reprocess::Failed, false) => None,
        (Reprocess::None | Reprocess::Failed, true) => {
            Some(format!("{backfill} published it already"))
        }
        (Reprocess::None, false) => Some(format!(
            "it failed in {backfill}, and what failed is not asked for"
        )),
    }
}

/// Of each source, the files that some partition that runs may open.
fn frozen_sources(input: &PlanInput<'_>, partitions: &[PlannedPartition]) -> Vec<FrozenSource> {
    let windows: Vec<_> = partitions
        .iter()
        .filter(|planned| planned.skip_reason.is_none())
        .map(|planned| Interval::new(planned.partition.start, planned.partition.end))
        .collect();
    let whole = match (windows.first(), windows.last()) {
        (Some(first), Some(last)) => Interval {
            from: first.from,
            to: last.to,
        },
        _ => return Vec::new(),
    };
    input
        .sources
        .iter()
        .map(|source| FrozenSource {
            source: source.source.name.clone(),
            lookback_micros: source.lookback_micros,
            files: source.files_in(&source.window(whole)).cloned().collect(),
        })
        .collect()
}

fn warnings(
    input: &PlanInput<'_>,
    shape: DependencyShape,
    partitions: &[PlannedPartition],
) -> Vec<String> {
    let running: Vec<_> = partitions
        .iter()
        .filter(|planned| planned.skip_reason.is_none())
        .collect();
    let mut warnings = Vec::new();
    for entity in &input.entities {
        if let Some(backfill) = &entity.being_written_by {
            warnings.push(format!(
                "{}: {backfill} is writing it: partitions read what is there of it at their basis, which may be a part",
                entity.entity_type
            ));
        }
        let blind = running
            .iter()
            .filter(|planned| entity.first_known.is_none_or(|first| planned.basis < first))
            .count();
        if blind == 0 {
            continue;
        }
        let name = &entity.entity_type;
        let total = running.len();
        warnings.push(match entity.first_known {
            Some(first) => format!(
                "{name}: nothing was known before {first}: {blind} of {total} partitions would read no entity"
            ),
            None => format!("{name}: it holds nothing yet: {blind} of {total} partitions would read no entity"),
        });
    }
    for source in &input.sources {
        let without_files: Vec<_> = running
            .iter()
            .filter(|planned| {
                let window = source.window(Interval::new(
                    planned.partition.start,
                    planned.partition.end,
                ));
                source.files_in(&window).next().is_none()
            })
            .collect();
        if let Some(first) = without_files.first() {
            warnings.push(format!(
                "{}: there is no file for {} of {} partitions, the first of them {}",
                source.source.name,
                without_files.len(),
                running.len(),
                first.partition.label
            ));
        }
    }
    let skipped = partitions.len() - running.len();
    if skipped > 0 {
        warnings.push(format!(
            "{skipped} of {} partitions are skipped",
            partitions.len()
        ));
    }
    if shape == DependencyShape::Sequential && !running.is_empty() {
        warnings.extend(later_readers(input));
    }
    warnings
}

/// Published partitions after the range read what it changes.
fn later_readers(input: &PlanInput<'_>) -> Option<String> {
    let mut later = input.history.published_from(input.spec.to);
    let first = later.next()?;
    let (count, last) = later.fold((1u32, first), |(count, _), start| (count + 1, start));
    Some(format!(
        "published partitions after the range read what it changes: {count}, from {first} to the one that starts at {last}; \
         let the range reach over them to bring them up to date"
    ))
}

impl Plan {
    /// Names everything in the plan: equal plans have equal hashes.
    ///
    /// # Errors
    /// The plan cannot be encoded.
    pub fn hash(&self) -> Result<String> {
        let bytes = serde_json::to_vec(self).map_err(|error| Error::Journal {
            name: self.transform.clone(),
            cause: error.to_string(),
        })?;
        let digest = Sha256::digest(&bytes);
        Ok(digest
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    /// When source rows must have become available for `planned` to read them. As known now, all that came in did: the
    /// latest basis says when the entity store last learned something, and nothing of the sources.
    pub(super) fn available_by(&self, planned: &PlannedPartition) -> Option<SysTime> {
        match self.knowledge {
            Knowledge::AsKnownThen { .. } | Knowledge::AtBasis(_) => Some(planned.basis),
            Knowledge::AsKnownNow => None,
        }
    }

    /// Whether this and `other` may not be active at the same time. Two active backfills may not write the same partitions of
    /// a table or entity type. Those of a transform that reads its own output may not run beside each other at all: what one reads, the
    /// other writes.
    pub(super) fn collides_with(&self, other: &Self) -> bool {
        self.output.is_same_place(&other.output)
            && (self.shape == DependencyShape::Sequential || other.range().overlaps(&self.range()))
    }

    /// Why nothing would run; `None`: something would.
    pub(super) fn why_nothing_runs(&self) -> Option<String> {
        if self.run_count() > 0 {
            return None;
        }
        let mut reasons = self
            .partitions
            .iter()
            .filter_map(|planned| Some((planned, planned.skip_reason.as_deref()?)));
        let Some((first, reason)) = reasons.next() else {
            return Some("the range holds no partition".to_owned());
        };
        let mut text = format!("partition {}: {reason}", first.partition.label);
        if let Some((last, reason)) = reasons.next_back() {
            let count = self.partitions.len();
            text += &format!("; of {count}, the last, {}: {reason}", last.partition.label);
        }
        Some(text)
    }

    /// How many partitions run.
    pub fn run_count(&self) -> usize {
        self.partitions
            .iter()
            .filter(|planned| planned.skip_reason.is_none())
            .count()
    }

    /// The valid time of all partitions together.
    pub fn range(&self) -> Interval<ValidTime> {
        match (self.partitions.first(), self.partitions.last()) {
            (Some(first), Some(last)) => Interval::new(first.partition.start, last.partition.end),
            _ => Interval::new(ValidTime::from_micros(0), ValidTime::from_micros(0)),
        }
    }
}
