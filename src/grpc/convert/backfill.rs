//! Backfills: wire to domain and back. What is asked and what is frozen; `state` has the states and their counts, `event` what
//! watchers receive, `partition` the partitions and their attempts, `stale` those that would come out otherwise.

mod event;
mod partition;
mod stale;
mod state;

pub(in crate::grpc) use event::{watch_all_item_to_wire, watch_item_to_wire};
pub(in crate::grpc) use partition::{Wanted, attempts_to_wire, partitions_to_wire};
pub(in crate::grpc) use stale::{stale_page_to_wire, stale_query};
use state::{counts_to_wire, partition_state_to_wire, state_to_wire};
pub(in crate::grpc) use state::{partition_states_from_wire, states_from_wire};

use super::{catalog::grain_to_wire, duration, invalid::Invalid, time};
use crate::{
    backfill::{
        BackfillSpec, DependencyShape, EntityChanges, Estimate, Knowledge, Parent, Plan, Planned,
        PlannedPartition, Record, Reprocess, Restatement, State, TransformPlan, TransformRef,
    },
    error::Violation,
    pb,
    store::Replaced,
    time::{SysTime, ValidTime},
};

/// Longest request id.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Most transforms in one backfill.
const MAX_TRANSFORMS: usize = 32;

/// What a request asks to run.
pub(in crate::grpc) fn spec(wire: Option<pb::BackfillSpec>) -> Result<BackfillSpec, Invalid> {
    let Some(wire) = wire else {
        return Err(Violation::new("spec", "it is required").into());
    };
    let pb::BackfillSpec {
        transform,
        revision,
        from,
        to,
        knowledge,
        basis,
        availability_delay,
        max_active_partitions,
        max_attempts,
        labels,
        attempt_timeout,
        stop_on_first_failure,
        run_backwards,
        reprocess_behavior,
        priority,
        transforms,
        partitions_per_task,
        refresh_calls,
    } = wire;
    Ok(BackfillSpec {
        transforms: transforms_from_wire(transform, revision, transforms)?,
        from: required("spec.from", from)?,
        to: required("spec.to", to)?,
        knowledge: knowledge_from_wire(knowledge, basis, availability_delay)?,
        max_active_partitions: non_zero(max_active_partitions),
        partitions_per_task: non_zero(partitions_per_task),
        max_attempts: non_zero(max_attempts),
        attempt_timeout: duration::attempt_timeout("spec.attempt_timeout", attempt_timeout)?,
        stop_on_first_failure,
        run_backwards,
        reprocess: reprocess_from_wire(reprocess_behavior)?,
        priority,
        labels: labels.into_iter().collect(),
        refresh_calls,
    })
}

/// The transforms to run, by name: their order says nothing.
fn transforms_from_wire(
    transform: String,
    revision: u32,
    transforms: Vec<pb::TransformRevision>,
) -> Result<Vec<TransformRef>, Violation> {
    if transforms.is_empty() {
        if transform.is_empty() {
            return Err(Violation::new("spec.transform", "it is required"));
        }
        return Ok(vec![TransformRef {
            name: transform,
            revision: non_zero(revision),
        }]);
    }
    if !transform.is_empty() || revision > 0 {
        return Err(Violation::new(
            "spec.transform",
            "it does not go with spec.transforms",
        ));
    }
    if transforms.len() > MAX_TRANSFORMS {
        return Err(Violation::new(
            "spec.transforms",
            format!(
                "there are {}, of {MAX_TRANSFORMS} at most",
                transforms.len()
            ),
        ));
    }
    let mut named = Vec::with_capacity(transforms.len());
    for (index, wire) in transforms.into_iter().enumerate() {
        let pb::TransformRevision {
            transform,
            revision,
        } = wire;
        if transform.is_empty() {
            return Err(Violation::new(
                format!("spec.transforms[{index}].transform"),
                "it is required",
            ));
        }
        named.push(TransformRef {
            name: transform,
            revision: non_zero(revision),
        });
    }
    named.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(named)
}

/// What of a backfill is to be restated.
pub(in crate::grpc) fn restatement(
    range: Option<pb::TimeRange>,
    revision: u32,
) -> Result<Restatement, Invalid> {
    let pb::TimeRange { from, to } = range.unwrap_or_default();
    Ok(Restatement {
        from: time::from_wire("range.from", from)?,
        to: time::from_wire("range.to", to)?,
        revision: non_zero(revision),
    })
}

fn reprocess_from_wire(wire: i32) -> Result<Reprocess, Violation> {
    match pb::ReprocessBehavior::try_from(wire) {
        Ok(pb::ReprocessBehavior::None) => Ok(Reprocess::None),
        Ok(pb::ReprocessBehavior::Failed) => Ok(Reprocess::Failed),
        Ok(pb::ReprocessBehavior::Completed | pb::ReprocessBehavior::Unspecified) => {
            Ok(Reprocess::Completed)
        }
        Ok(pb::ReprocessBehavior::Stale) => Ok(Reprocess::Stale),
        Err(_) => Err(Violation::new(
            "spec.reprocess_behavior",
            format!("{wire} is not a reprocess behavior"),
        )),
    }
}

fn reprocess_to_wire(reprocess: Reprocess) -> pb::ReprocessBehavior {
    match reprocess {
        Reprocess::None => pb::ReprocessBehavior::None,
        Reprocess::Failed => pb::ReprocessBehavior::Failed,
        Reprocess::Completed => pb::ReprocessBehavior::Completed,
        Reprocess::Stale => pb::ReprocessBehavior::Stale,
    }
}

fn required(field: &str, wire: Option<prost_types::Timestamp>) -> Result<ValidTime, Violation> {
    time::from_wire(field, wire)?.ok_or_else(|| Violation::new(field, "it is required"))
}

fn knowledge_from_wire(
    knowledge: i32,
    basis: Option<prost_types::Timestamp>,
    availability_delay: Option<prost_types::Duration>,
) -> Result<Knowledge, Violation> {
    let basis: Option<SysTime> = time::from_wire("spec.basis", basis)?;
    let delay = duration::from_wire("spec.availability_delay", availability_delay)?;
    let mode = pb::Knowledge::try_from(knowledge).unwrap_or(pb::Knowledge::Unspecified);
    if basis.is_some() && mode != pb::Knowledge::AtBasis {
        return Err(Violation::new(
            "spec.basis",
            "it goes with KNOWLEDGE_AT_BASIS only",
        ));
    }
    if delay.is_some() && mode != pb::Knowledge::AsKnownThen {
        return Err(Violation::new(
            "spec.availability_delay",
            "it goes with KNOWLEDGE_AS_KNOWN_THEN only",
        ));
    }
    match mode {
        pb::Knowledge::AsKnownThen => Ok(Knowledge::AsKnownThen {
            availability_delay_micros: duration::to_micros(
                "spec.availability_delay",
                delay.unwrap_or_default(),
            )?,
        }),
        pb::Knowledge::AsKnownNow => Ok(Knowledge::AsKnownNow),
        pb::Knowledge::AtBasis => basis
            .map(Knowledge::AtBasis)
            .ok_or_else(|| Violation::new("spec.basis", "KNOWLEDGE_AT_BASIS needs it")),
        pb::Knowledge::Unspecified => Err(Violation::new(
            "spec.knowledge",
            "it is required, for the wrong one is silently wrong: KNOWLEDGE_AS_KNOWN_THEN (what a pipeline would have known then), KNOWLEDGE_AS_KNOWN_NOW (later corrections included) or KNOWLEDGE_AT_BASIS",
        )),
    }
}

fn non_zero(value: u32) -> Option<u32> {
    (value > 0).then_some(value)
}

/// The request id, if there is one.
pub(in crate::grpc) fn request_id(text: String) -> Result<Option<String>, Invalid> {
    if text.len() > MAX_REQUEST_ID_BYTES {
        return Err(Violation::new(
            "request_id",
            format!(
                "it is {} bytes long, of {MAX_REQUEST_ID_BYTES} at most",
                text.len()
            ),
        )
        .into());
    }
    Ok((!text.is_empty()).then_some(text))
}

fn spec_to_wire(record: &Record, state: &State) -> pb::BackfillSpec {
    let BackfillSpec {
        transforms: _,
        from,
        to,
        knowledge,
        max_active_partitions: _,
        partitions_per_task: _,
        max_attempts,
        attempt_timeout,
        stop_on_first_failure,
        run_backwards,
        reprocess,
        priority,
        labels,
        refresh_calls,
    } = &record.spec;
    let (basis, availability_delay) = match knowledge {
        Knowledge::AtBasis(basis) => (Some(time::to_wire(*basis)), None),
        // What was left open: the basis that was pinned.
        Knowledge::AsKnownNow => (
            record
                .plan
                .partitions
                .first()
                .map(|planned| time::to_wire(planned.basis)),
            None,
        ),
        Knowledge::AsKnownThen {
            availability_delay_micros,
        } => (
            None,
            Some(duration::micros_to_wire(*availability_delay_micros)),
        ),
    };
    let (only, several) = only_or_several(&record.plan);
    let retry = only.map(|one| one.retry);
    pb::BackfillSpec {
        transform: only.map_or_else(String::new, |one| one.transform.clone()),
        revision: only.map_or(0, |one| one.revision),
        transforms: several
            .iter()
            .map(|one| pb::TransformRevision {
                transform: one.transform.clone(),
                revision: one.revision,
            })
            .collect(),
        partitions_per_task: record.plan.partitions_per_task,
        from: Some(time::to_wire(*from)),
        to: Some(time::to_wire(*to)),
        knowledge: knowledge_to_wire(*knowledge).into(),
        basis,
        availability_delay,
        max_active_partitions: state.max_active(&record.plan),
        max_attempts: retry.map_or(max_attempts.unwrap_or(0), |retry| retry.max_attempts),
        labels: labels.clone().into_iter().collect(),
        attempt_timeout: retry
            .map_or(*attempt_timeout, |retry| retry.attempt_timeout)
            .map(duration::to_wire),
        stop_on_first_failure: *stop_on_first_failure,
        run_backwards: *run_backwards,
        reprocess_behavior: reprocess_to_wire(*reprocess).into(),
        priority: *priority,
        refresh_calls: *refresh_calls,
    }
}

/// The transform of a plan that has one; otherwise all of them.
fn only_or_several(plan: &Plan) -> (Option<&TransformPlan>, &[TransformPlan]) {
    match plan.transforms.as_slice() {
        [only] => (Some(only), &[]),
        several => (None, several),
    }
}

fn knowledge_to_wire(knowledge: Knowledge) -> pb::Knowledge {
    match knowledge {
        Knowledge::AsKnownThen { .. } => pb::Knowledge::AsKnownThen,
        Knowledge::AsKnownNow => pb::Knowledge::AsKnownNow,
        Knowledge::AtBasis(_) => pb::Knowledge::AtBasis,
    }
}

fn shape_to_wire(shape: DependencyShape) -> pb::DependencyShape {
    match shape {
        DependencyShape::Independent => pb::DependencyShape::Independent,
        DependencyShape::Sequential => pb::DependencyShape::Sequential,
    }
}

/// A backfill as the wire shows it.
pub(in crate::grpc) fn backfill_to_wire(record: &Record, state: &State) -> pb::Backfill {
    let (only, _) = only_or_several(&record.plan);
    pb::Backfill {
        name: record.name.clone(),
        state: state_to_wire(state.state).into(),
        spec: Some(spec_to_wire(record, state)),
        output_table: only.map_or_else(String::new, output_table),
        output_entity_type: only.map_or_else(String::new, output_entity_type),
        time_zone: only.map_or_else(String::new, |one| one.zone.name().to_owned()),
        grain: only.map_or(0, |one| grain_to_wire(one.grain).into()),
        dependency_shape: only.map_or(0, |one| shape_to_wire(one.shape).into()),
        transforms: transforms_to_wire(&record.plan),
        partition_counts: Some(counts_to_wire(state.counts())),
        create_time: Some(micros(record.create_time_micros)),
        start_time: state.start_micros.map(micros),
        end_time: state.end_micros.map(micros),
        rows_read: state.rows_read,
        rows_written: state.rows_written,
        last_sequence: state.last_sequence,
        parent: parent(record, |parent| &parent.name),
        root: parent(record, |parent| &parent.root),
    }
}

fn output_table(plan: &TransformPlan) -> String {
    plan.output.table().unwrap_or_default().to_owned()
}

fn output_entity_type(plan: &TransformPlan) -> String {
    plan.output.entity_type().unwrap_or_default().to_owned()
}

fn entities_to_wire(changes: EntityChanges) -> pb::EntityChanges {
    let EntityChanges { replaced, basis } = changes;
    let Replaced {
        written,
        ended,
        unchanged,
    } = replaced;
    pb::EntityChanges {
        written,
        ended,
        unchanged,
        basis: Some(time::to_wire(basis)),
    }
}

fn parent(record: &Record, name: impl FnOnce(&Parent) -> &String) -> String {
    record
        .parent
        .as_ref()
        .map_or_else(String::new, |parent| name(parent).clone())
}

/// A plan as the wire shows it.
pub(in crate::grpc) fn plan_to_wire(planned: &Planned, plan_hash: String) -> pb::Plan {
    let plan: &Plan = &planned.plan;
    let (only, _) = only_or_several(plan);
    let partitions = (0u32..).zip(&plan.partitions);
    pb::Plan {
        transform: only.map_or_else(String::new, |one| one.transform.clone()),
        revision: only.map_or(0, |one| one.revision),
        output_table: only.map_or_else(String::new, output_table),
        output_entity_type: only.map_or_else(String::new, output_entity_type),
        knowledge: knowledge_to_wire(plan.knowledge).into(),
        dependency_shape: only.map_or(0, |one| shape_to_wire(one.shape).into()),
        max_active_partitions: plan.max_active_partitions,
        partitions: partitions
            .map(|(index, planned)| planned_to_wire(plan, index, planned))
            .collect(),
        warnings: plan.warnings.clone(),
        plan_hash,
        estimate: planned.estimate.map(estimate_to_wire),
        max_attempts: only.map_or(0, |one| one.retry.max_attempts),
        attempt_timeout: only
            .and_then(|one| one.retry.attempt_timeout)
            .map(duration::to_wire),
        stop_on_first_failure: plan.stop_on_first_failure,
        run_backwards: plan.run_backwards,
        transforms: transforms_to_wire(plan),
        partitions_per_task: plan.partitions_per_task,
    }
}

fn transforms_to_wire(plan: &Plan) -> Vec<pb::PlannedTransform> {
    let transforms = plan.transforms.iter();
    transforms.map(|one| transform_to_wire(plan, one)).collect()
}

fn transform_to_wire(plan: &Plan, one: &TransformPlan) -> pb::PlannedTransform {
    let writer = |place: u32| plan.transforms.get(place as usize);
    pb::PlannedTransform {
        transform: one.transform.clone(),
        revision: one.revision,
        output_table: output_table(one),
        output_entity_type: output_entity_type(one),
        dependency_shape: shape_to_wire(one.shape).into(),
        grain: grain_to_wire(one.grain).into(),
        time_zone: one.zone.name().to_owned(),
        max_attempts: one.retry.max_attempts,
        attempt_timeout: one.retry.attempt_timeout.map(duration::to_wire),
        tables: one
            .tables
            .iter()
            .map(|table| pb::PlannedTable {
                table: table.table.clone(),
                lookback: Some(duration::micros_to_wire(table.lookback_micros)),
                transform: table
                    .writer
                    .and_then(writer)
                    .map_or_else(String::new, |writer| writer.transform.clone()),
                snapshot_id: table.snapshot_id.unwrap_or(0),
            })
            .collect(),
        partition_count: one.partition_count,
    }
}

fn estimate_to_wire(estimate: Estimate) -> pb::PlanEstimate {
    let Estimate {
        sample_count,
        same_revision,
        per_partition,
        total,
    } = estimate;
    pb::PlanEstimate {
        per_partition: Some(duration::to_wire(per_partition)),
        total: Some(duration::to_wire(total)),
        sample_count,
        same_revision,
    }
}

fn planned_to_wire(plan: &Plan, index: u32, planned: &PlannedPartition) -> pb::PlannedPartition {
    let action = match planned.skip_reason {
        None => pb::PartitionAction::Run,
        Some(_) => pb::PartitionAction::Skip,
    };
    pb::PlannedPartition {
        label: planned.partition.label.clone(),
        start: Some(time::to_wire(planned.partition.start)),
        end: Some(time::to_wire(planned.partition.end)),
        action: action.into(),
        skip_reason: planned.skip_reason.clone().unwrap_or_default(),
        basis: Some(time::to_wire(planned.basis)),
        file_count: planned.file_count,
        run_reason: planned.run_reason.clone().unwrap_or_default(),
        transform: plan
            .transform_of(planned)
            .map_or_else(String::new, |one| one.transform.clone()),
        upstream_count: u32::try_from(plan.upstream_of(index).count()).unwrap_or(u32::MAX),
    }
}

fn micros(micros: i64) -> prost_types::Timestamp {
    time::to_wire(SysTime::from_micros(micros))
}
