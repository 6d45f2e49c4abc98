//! Backfills: wire to domain and back. What is asked and what is frozen; `state` has the states and their counts, `event` what
//! watchers receive, `partition` the partitions and their attempts, `stale` those that would come out otherwise.

mod event;
mod partition;
mod stale;
mod state;

pub(in crate::grpc) use event::{watch_all_item_to_wire, watch_item_to_wire};
pub(in crate::grpc) use partition::{attempts_to_wire, partitions_to_wire};
pub(in crate::grpc) use stale::{stale_page_to_wire, stale_query};
use state::{counts_to_wire, partition_state_to_wire, state_to_wire};
pub(in crate::grpc) use state::{partition_states_from_wire, states_from_wire};

use super::{catalog::grain_to_wire, duration, invalid::Invalid, time};
use crate::{
    backfill::{
        BackfillSpec, DependencyShape, EntityChanges, Estimate, Knowledge, Parent, Plan, Planned,
        PlannedPartition, Record, Reprocess, Restatement, State,
    },
    error::Violation,
    pb,
    store::Replaced,
    time::{SysTime, ValidTime},
};

/// Longest request id.
const MAX_REQUEST_ID_BYTES: usize = 128;

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
    } = wire;
    if transform.is_empty() {
        return Err(Violation::new("spec.transform", "it is required").into());
    }
    Ok(BackfillSpec {
        transform,
        revision: non_zero(revision),
        from: required("spec.from", from)?,
        to: required("spec.to", to)?,
        knowledge: knowledge_from_wire(knowledge, basis, availability_delay)?,
        max_active_partitions: non_zero(max_active_partitions),
        max_attempts: non_zero(max_attempts),
        attempt_timeout: duration::attempt_timeout("spec.attempt_timeout", attempt_timeout)?,
        stop_on_first_failure,
        run_backwards,
        reprocess: reprocess_from_wire(reprocess_behavior)?,
        priority,
        labels: labels.into_iter().collect(),
    })
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
        transform,
        revision: _,
        from,
        to,
        knowledge,
        max_active_partitions: _,
        max_attempts: _,
        attempt_timeout: _,
        stop_on_first_failure,
        run_backwards,
        reprocess,
        priority,
        labels,
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
    pb::BackfillSpec {
        transform: transform.clone(),
        revision: record.plan.revision,
        from: Some(time::to_wire(*from)),
        to: Some(time::to_wire(*to)),
        knowledge: knowledge_to_wire(*knowledge).into(),
        basis,
        availability_delay,
        max_active_partitions: state.max_active(&record.plan),
        max_attempts: record.plan.retry.max_attempts,
        labels: labels.clone().into_iter().collect(),
        attempt_timeout: record.plan.retry.attempt_timeout.map(duration::to_wire),
        stop_on_first_failure: *stop_on_first_failure,
        run_backwards: *run_backwards,
        reprocess_behavior: reprocess_to_wire(*reprocess).into(),
        priority: *priority,
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
    pb::Backfill {
        name: record.name.clone(),
        state: state_to_wire(state.state).into(),
        spec: Some(spec_to_wire(record, state)),
        output_table: output_table(&record.plan),
        output_entity_type: output_entity_type(&record.plan),
        time_zone: record.plan.zone.name().to_owned(),
        grain: grain_to_wire(record.plan.grain).into(),
        dependency_shape: shape_to_wire(record.plan.shape).into(),
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

fn output_table(plan: &Plan) -> String {
    plan.output.table().unwrap_or_default().to_owned()
}

fn output_entity_type(plan: &Plan) -> String {
    let output = plan.output.entities();
    output.map_or_else(String::new, |output| output.entity_type.clone())
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
    pb::Plan {
        transform: plan.transform.clone(),
        revision: plan.revision,
        output_table: output_table(plan),
        output_entity_type: output_entity_type(plan),
        knowledge: knowledge_to_wire(plan.knowledge).into(),
        dependency_shape: shape_to_wire(plan.shape).into(),
        max_active_partitions: plan.max_active_partitions,
        partitions: plan.partitions.iter().map(planned_to_wire).collect(),
        warnings: plan.warnings.clone(),
        plan_hash,
        estimate: planned.estimate.map(estimate_to_wire),
        max_attempts: plan.retry.max_attempts,
        attempt_timeout: plan.retry.attempt_timeout.map(duration::to_wire),
        stop_on_first_failure: plan.stop_on_first_failure,
        run_backwards: plan.run_backwards,
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

fn planned_to_wire(planned: &PlannedPartition) -> pb::PlannedPartition {
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
    }
}

fn micros(micros: i64) -> prost_types::Timestamp {
    time::to_wire(SysTime::from_micros(micros))
}
