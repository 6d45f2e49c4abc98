//! Plans and backfills, for people.

use crate::{
    cli::{
        error::Error,
        json::enum_name,
        output::{self, Columns, row},
        style::Style,
        times, watch,
    },
    pb::{self, BackfillState, DependencyShape, Knowledge, PartitionAction},
};

/// How many partitions of a plan a table shows at each end unless told otherwise.
const PLAN_EDGE: usize = 5;

pub(super) fn show_plan(plan: &pb::Plan, all: bool) -> Result<(), Error> {
    let run_count = plan
        .partitions
        .iter()
        .filter(|partition| partition.action() == PartitionAction::Run)
        .count();
    output::facts(&[
        (
            "transform",
            format!("{} revision {}", plan.transform, plan.revision),
        ),
        (
            "output",
            output_words(&plan.output_table, &plan.output_entity_type),
        ),
        ("knowledge", knowledge_words(plan.knowledge()).to_owned()),
        (
            "partitions",
            format!(
                "{run_count} to run, {} to skip",
                plan.partitions.len() - run_count
            ),
        ),
        (
            "order",
            order_words(
                plan.dependency_shape(),
                plan.max_active_partitions,
                plan.run_backwards,
            ),
        ),
        ("attempts", attempts_words(plan)),
        (
            "estimate",
            plan.estimate
                .as_ref()
                .map_or_else(String::new, estimate_words),
        ),
        ("plan hash", plan.plan_hash.clone()),
    ])?;
    show_warnings(&plan.warnings)?;
    output::line("")?;
    let mut columns = Columns::new(&[
        "partition",
        "start",
        "end",
        "action",
        "basis",
        ">files",
        "~why",
    ]);
    let count = plan.partitions.len();
    let cut = if all || count <= 4 * PLAN_EDGE {
        count..count
    } else {
        PLAN_EDGE..count - PLAN_EDGE
    };
    // Where few run among many, these are shown wherever they are.
    let few_run = run_count <= 2 * PLAN_EDGE;
    let is_hidden = |index: usize, partition: &pb::PlannedPartition| {
        let runs = partition.action() == PartitionAction::Run;
        cut.contains(&index) && !(few_run && runs)
    };
    let mut hidden = 0usize;
    for (index, partition) in plan.partitions.iter().enumerate() {
        if is_hidden(index, partition) {
            hidden += 1;
        } else {
            if hidden > 0 {
                columns.row(row!["…", format!("{hidden} more: --all shows them")]);
                hidden = 0;
            }
            columns.row(row![
                &partition.label,
                times::show_or_dash(partition.start.as_ref()),
                times::show_or_dash(partition.end.as_ref()),
                enum_name::<PartitionAction>(partition.action).to_lowercase(),
                times::show_or_dash(partition.basis.as_ref()),
                partition.file_count.to_string(),
                // One of the two is empty.
                format!("{}{}", partition.skip_reason, partition.run_reason),
            ]);
        }
    }
    columns.print("no partitions")
}

/// `table totals`, `entity type totals`.
pub(super) fn output_words(table: &str, entity_type: &str) -> String {
    if entity_type.is_empty() {
        format!("table {table}")
    } else {
        format!("entity type {entity_type}")
    }
}

/// Warnings go to standard error: they are no part of the answer.
pub(super) fn show_warnings(warnings: &[String]) -> Result<(), Error> {
    let style = Style::stderr();
    for warning in warnings {
        eprintln!("{} {warning}", style.yellow("warning:"));
    }
    Ok(())
}

pub(super) fn knowledge_words(knowledge: Knowledge) -> &'static str {
    match knowledge {
        Knowledge::AsKnownThen => "as known then",
        Knowledge::AsKnownNow => "as known now",
        Knowledge::AtBasis => "at basis",
        Knowledge::Unspecified => "unknown",
    }
}

/// `3 per partition, each within 10 m 00 s; stops on the first failure`.
fn attempts_words(plan: &pb::Plan) -> String {
    let mut text = format!("{} per partition", plan.max_attempts);
    if let Some(timeout) = &plan.attempt_timeout {
        let timeout = times::show_duration(times::from_wire_duration(timeout));
        text += &format!(", each within {timeout}");
    }
    if plan.stop_on_first_failure {
        text += "; stops on the first failure";
    }
    text
}

/// `12.0 s; 0.1 s per partition, as 90 earlier ones took`.
fn estimate_words(estimate: &pb::PlanEstimate) -> String {
    let show = |duration: &Option<prost_types::Duration>| {
        duration.as_ref().map_or_else(String::new, |duration| {
            times::show_duration(times::from_wire_duration(duration))
        })
    };
    format!(
        "{}; {} per partition, as {} earlier ones{} took",
        show(&estimate.total),
        show(&estimate.per_partition),
        output::count(u64::from(estimate.sample_count)),
        if estimate.same_revision {
            ""
        } else {
            " of another revision"
        }
    )
}

/// Backfills that keep a plan from being created, on standard error.
pub(super) fn show_in_the_way(names: &[String]) -> Result<(), Error> {
    let warnings: Vec<_> = names
        .iter()
        .map(|name| {
            format!("{name} is active on these partitions: `create` is refused until it ends")
        })
        .collect();
    show_warnings(&warnings)
}

fn order_words(shape: DependencyShape, max_active_partitions: u32, backwards: bool) -> String {
    match shape {
        DependencyShape::Independent if backwards => {
            format!("independent, the latest first, {max_active_partitions} at once")
        }
        DependencyShape::Independent => format!("independent, {max_active_partitions} at once"),
        DependencyShape::Sequential => {
            "in order, one at a time: each reads what the earlier ones wrote".to_owned()
        }
        DependencyShape::Unspecified => String::new(),
    }
}

/// `bf-01k5: 90 partitions of daily_punctuality revision 1, as known now`.
pub(super) fn describe_created(backfill: &pb::Backfill) -> String {
    let count = watch::total(backfill.partition_counts.as_ref());
    let spec = backfill.spec.clone().unwrap_or_default();
    format!(
        "{}: {} of {} revision {}, {}",
        backfill.name,
        output::counted(count, "partition"),
        spec.transform,
        spec.revision,
        knowledge_words(spec.knowledge())
    )
}

pub(super) fn show(backfill: &pb::Backfill) -> Result<(), Error> {
    let spec = backfill.spec.clone().unwrap_or_default();
    let zone = times::zone(&backfill.time_zone)?;
    let local = |time: Option<prost_types::Timestamp>| {
        time.map_or_else(String::new, |t| times::show_local(&t, zone))
    };
    let mut labels: Vec<String> = spec
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort_unstable();
    let optional =
        |time: Option<prost_types::Timestamp>| time.as_ref().map_or_else(String::new, times::show);
    let delay = spec
        .availability_delay
        .as_ref()
        .map(times::from_wire_duration)
        .map(times::show_duration);
    output::facts(&[
        ("name", backfill.name.clone()),
        (
            "state",
            enum_name::<BackfillState>(backfill.state)
                .to_lowercase()
                .replace('_', "-"),
        ),
        (
            "transform",
            format!("{} revision {}", spec.transform, spec.revision),
        ),
        (
            "output",
            output_words(&backfill.output_table, &backfill.output_entity_type),
        ),
        (
            "range",
            format!("{} to {}", local(spec.from), local(spec.to)),
        ),
        (
            "partitions",
            format!(
                "{} ({})",
                enum_name::<pb::Grain>(backfill.grain).to_lowercase(),
                backfill.time_zone
            ),
        ),
        ("knowledge", knowledge_words(spec.knowledge()).to_owned()),
        ("basis", optional(spec.basis)),
        ("availability delay", delay.unwrap_or_default()),
        (
            "order",
            order_words(
                backfill.dependency_shape(),
                spec.max_active_partitions,
                spec.run_backwards,
            ),
        ),
        (
            "progress",
            watch::describe_counts(backfill.partition_counts.as_ref()),
        ),
        ("rows read", output::count(backfill.rows_read)),
        ("rows written", output::count(backfill.rows_written)),
        ("created", optional(backfill.create_time)),
        ("started", optional(backfill.start_time)),
        ("ended", optional(backfill.end_time)),
        ("last event", backfill.last_sequence.to_string()),
        ("labels", labels.join(" ")),
        ("restates", backfill.parent.clone()),
        ("first of its line", backfill.root.clone()),
    ])
}
