//! What a backfill would do: pure. One code path for planning and for creating.

mod whole;

use super::{
    Error, Result,
    history::History,
    model::{
        BackfillSpec, DependencyShape, FrozenSource, Knowledge, Plan, PlannedPartition, Reprocess,
        TransformPlan,
    },
    stale::{Standing, Standings},
    upstream::{self, TableKnowledge},
};
use crate::{
    catalog::Transform,
    engine::PinnedSource,
    time::{Interval, MAX_PARTITIONS, Partition, SysTime, ValidTime},
};

/// Most partitions that may run at once.
pub(super) const MAX_ACTIVE_PARTITIONS: u32 = 64;
/// Most partitions that one task computes.
const MAX_PARTITIONS_PER_TASK: u32 = 1_000;
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

/// All that a plan of one transform is made of.
#[derive(Debug)]
pub(super) struct PlanInput<'a> {
    pub(super) spec: &'a BackfillSpec,
    pub(super) transform: &'a Transform,
    /// Its place in the plan: it comes after those whose tables it reads.
    pub(super) place: u32,
    /// All files of each source.
    pub(super) sources: Vec<PinnedSource>,
    pub(super) entities: Vec<EntityKnowledge>,
    /// By table input.
    pub(super) tables: Vec<TableKnowledge>,
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

impl PlanInput<'_> {
    pub(super) fn shape(&self) -> DependencyShape {
        match self.transform.spec.prior {
            Some(_) => DependencyShape::Sequential,
            None => DependencyShape::Independent,
        }
    }
}

/// Makes the plan. `inputs`: of each transform, upstream first; at least one.
///
/// # Errors
/// A field of the spec that is out of its bounds, or a range that is not made of partitions, by its field path;
/// [`Error::UpstreamKnowsMore`].
pub(super) fn make(inputs: &[PlanInput<'_>]) -> Result<Plan> {
    let Some(first) = inputs.first() else {
        return Err(Error::invalid("spec.transform", "it is required"));
    };
    let spec = first.spec;
    check_bounds(spec)?;
    check_order(inputs)?;
    check_aligned(inputs)?;
    if spec.from.micros() > first.now_micros {
        return Err(Error::FromInFuture {
            from: spec.from,
            now: ValidTime::from_micros(first.now_micros),
        });
    }
    let mut partitions: Vec<PlannedPartition> = Vec::new();
    let mut warnings = Vec::new();
    let mut transforms = Vec::new();
    for input in inputs {
        let slices = slices(spec, input.transform, inputs.len() > 1)?;
        let mut own: Vec<_> = slices
            .into_iter()
            .map(|partition| planned(input, partition))
            .collect();
        leave_out(input, &partitions, &mut own);
        upstream::check_knowledge(input, &partitions, &own)?;
        let name = (inputs.len() > 1).then_some(&input.transform.spec.name);
        let found = self::warnings(input, &own);
        let found = found
            .into_iter()
            .chain(upstream::warnings(input, &partitions, &own));
        warnings.extend(found.map(|text| match name {
            Some(name) => format!("{name}: {text}"),
            None => text,
        }));
        transforms.push(transform_plan(input, &own));
        partitions.append(&mut own);
    }
    if partitions.len() > MAX_PARTITIONS {
        return Err(Error::invalid(
            "spec.to",
            format!(
                "the range holds {} partitions of all transforms together, of {MAX_PARTITIONS} at most",
                partitions.len()
            ),
        ));
    }
    partitions.sort_by_key(|planned| (planned.partition.end, planned.transform));
    let max_active_partitions = match (first.shape(), inputs.len()) {
        (DependencyShape::Sequential, 1) => 1,
        (DependencyShape::Sequential | DependencyShape::Independent, _) => spec
            .max_active_partitions
            .unwrap_or(first.default_max_active),
    };
    Ok(Plan {
        transforms,
        knowledge: spec.knowledge,
        max_active_partitions,
        partitions_per_task: spec.partitions_per_task.unwrap_or(1),
        stop_on_first_failure: spec.stop_on_first_failure,
        run_backwards: spec.run_backwards,
        partitions,
        warnings,
    })
}

fn transform_plan(input: &PlanInput<'_>, partitions: &[PlannedPartition]) -> TransformPlan {
    let PlanInput {
        spec, transform, ..
    } = input;
    let mut retry = transform.spec.retry;
    retry.max_attempts = spec.max_attempts.unwrap_or(retry.max_attempts);
    retry.attempt_timeout = spec.attempt_timeout.or(retry.attempt_timeout);
    TransformPlan {
        transform: transform.spec.name.clone(),
        revision: transform.revision,
        output: transform.spec.output.clone(),
        grain: transform.spec.grain,
        zone: transform.spec.zone,
        shape: input.shape(),
        retry,
        partition_count: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
        sources: frozen_sources(input, partitions),
        tables: input.tables.iter().map(TableKnowledge::freeze).collect(),
    }
}

/// What `prior` does not go with.
fn check_order(inputs: &[PlanInput<'_>]) -> Result<()> {
    let mut with_prior = inputs
        .iter()
        .filter(|input| input.shape() == DependencyShape::Sequential);
    let Some(first) = with_prior.next() else {
        return Ok(());
    };
    let transform = first.transform.spec.name.clone();
    if first.spec.run_backwards {
        return Err(Error::BackwardsWithPrior { transform });
    }
    let all = with_prior.count() + 1 == inputs.len();
    match first.spec.partitions_per_task {
        Some(count) if count > 1 && all => Err(Error::TaskWithPrior { transform, count }),
        Some(_) | None => Ok(()),
    }
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
    if let Some(count) = spec.partitions_per_task
        && !(1..=MAX_PARTITIONS_PER_TASK).contains(&count)
    {
        return Err(Error::invalid(
            "spec.partitions_per_task",
            format!("{count} is not in 1 to {MAX_PARTITIONS_PER_TASK}"),
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

/// The range must start and end at a boundary of some transform's calendar.
fn check_aligned(inputs: &[PlanInput<'_>]) -> Result<()> {
    let Some(first) = inputs.first() else {
        return Ok(());
    };
    let spec = first.spec;
    if spec.from >= spec.to {
        return Err(Error::EmptyRange {
            from: spec.from,
            to: spec.to,
        });
    }
    for (field, instant) in [("spec.from", spec.from), ("spec.to", spec.to)] {
        let mut calendars = inputs.iter().map(|input| input.transform.spec.calendar());
        if calendars.any(|calendar| calendar.is_boundary(instant)) {
            continue;
        }
        // A range up to the instant itself fails for the same reason, and says which boundaries are nearest.
        let calendar = first.transform.spec.calendar();
        calendar
            .partitions(instant, instant.saturating_add_micros(1))
            .map_err(|error| Error::Calendar { field, error })?;
    }
    Ok(())
}

/// The transform's partitions in the range; with `within`, those that lie wholly in it, which may be none.
fn slices(spec: &BackfillSpec, transform: &Transform, within: bool) -> Result<Vec<Partition>> {
    let calendar = transform.spec.calendar();
    let failed = |error| Error::Calendar {
        field: "spec.to",
        error,
    };
    let (mut from, mut to) = (spec.from, spec.to);
    if within {
        let first = calendar.partition_containing(from).map_err(failed)?;
        from = if first.start == from { from } else { first.end };
        to = calendar.partition_containing(to).map_err(failed)?.start;
        if from >= to {
            return Ok(Vec::new());
        }
    }
    calendar.partitions(from, to).map_err(failed)
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
        transform: input.place,
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

/// Leaves out what `reprocess` does not ask for. What reads the output of a partition that runs is run too: of another
/// transform of `upstream`, and where each partition reads the earlier ones' output, all that follow the first that runs.
fn leave_out(
    input: &PlanInput<'_>,
    upstream: &[PlannedPartition],
    partitions: &mut [PlannedPartition],
) {
    if input.spec.reprocess == Reprocess::Stale {
        return leave_out_unless_stale(input, upstream, partitions);
    }
    for planned in partitions {
        if planned.skip_reason.is_some() {
            continue;
        }
        let reason = reason_to_leave_out(input, planned)
            .filter(|_| !upstream::reads_one_that_runs(input, upstream, planned));
        if reason.is_none() && input.shape() == DependencyShape::Sequential {
            return;
        }
        planned.skip_reason = reason;
    }
}

/// Leaves out what is not published, and what is up to date unless it reads what runs.
fn leave_out_unless_stale(
    input: &PlanInput<'_>,
    upstream: &[PlannedPartition],
    partitions: &mut [PlannedPartition],
) {
    let mut earlier_runs = false;
    for planned in partitions {
        if planned.skip_reason.is_some() {
            continue;
        }
        let reads_earlier = input.shape() == DependencyShape::Sequential && earlier_runs;
        let reads_what_runs =
            reads_earlier || upstream::reads_one_that_runs(input, upstream, planned);
        match input.standings.get(&planned.partition.start) {
            None => planned.skip_reason = Some("no backfill published it yet".to_owned()),
            Some(Standing::Stale(reason)) => planned.run_reason = Some(reason.clone()),
            Some(Standing::UpToDate { .. }) if reads_what_runs => {
                planned.run_reason = Some("a partition that it reads runs".to_owned());
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

fn warnings(input: &PlanInput<'_>, partitions: &[PlannedPartition]) -> Vec<String> {
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
    if input.spec.refresh_calls && !input.transform.spec.calls.is_empty() {
        warnings.push(
            "outside systems are asked again: answers from before this backfill do not count"
                .to_owned(),
        );
    }
    for call in &input.transform.spec.calls {
        if call.allow_current_state {
            warnings.push(format!(
                "CURRENT STATE: {}() asks {} for what is true now, not at the partition's time: what came later shows in all {} \
                 partitions (allow_current_state)",
                call.name,
                call.url.split('?').next().unwrap_or_default(),
                running.len()
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
    if partitions.is_empty() {
        warnings.push(format!(
            "no {} partition lies wholly in the range",
            input.transform.spec.grain
        ));
    }
    let one_per_task = input
        .spec
        .partitions_per_task
        .is_none_or(|count| count == 1);
    if input.shape() == DependencyShape::Sequential && !one_per_task {
        warnings.push(
            "each partition reads what the earlier ones wrote, so its tasks hold one partition each"
                .to_owned(),
        );
    }
    if input.shape() == DependencyShape::Sequential && !running.is_empty() {
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
