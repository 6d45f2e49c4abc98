//! `hindcast backfill`: planning, starting and looking after backfills.

use std::{collections::HashMap, sync::Arc, time::Duration};

use clap::ValueEnum;

use super::{
    Outcome,
    client::{Client, required},
    error::Error,
    json::{Listed, enum_name},
    output::{self, Columns, Field, Format, row},
    style::Style,
    times::{self, TimeArg},
    transform, watch,
};
use crate::{
    pb::{self, BackfillState, DependencyShape, Knowledge, PartitionAction, PartitionState},
    time::Clock,
};

/// Backfills per page.
const BACKFILL_PAGE_SIZE: u32 = 1_000;
/// Partitions per page.
const PARTITION_PAGE_SIZE: u32 = 10_000;
/// How many partitions of a plan a table shows at each end unless told otherwise.
const PLAN_EDGE: usize = 5;

const RANGE_HELP: &str = "\
--from and --to are partition boundaries: 2013-01-01 or 2013-01-01T05:00 in the transform's time zone, or RFC 3339. A
local time that occurs twice, where clocks are set back, is the earlier one; one that clocks skip is refused.

--knowledge says which world the partitions see, and has no default, because the wrong one is silently wrong:
  as-known-then   what was known at each partition's end plus --availability-delay: what a pipeline running that night
                  would have computed; training data without leaks
  as-known-now    what is known when the backfill is created, later corrections included: what really was true
  at-basis        what was known at --basis: the exact re-run of an earlier backfill

Examples:
  hindcast backfill plan daily_punctuality --from 2013-01-01 --to 2013-04-01 --knowledge as-known-now
  hindcast backfill create daily_punctuality --from 2013-01-01 --to 2013-04-01 --knowledge as-known-now --watch
  hindcast backfill create daily_punctuality --from 2013-02-08 --to 2013-02-09 \\
    --knowledge at-basis --basis 2026-03-01T12:00:00Z";

/// Backfills: one transform over a range of partitions, with everything pinned at creation
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Shows what `create` would do, and stores nothing
    #[command(after_help = RANGE_HELP)]
    Plan(PlanArgs),
    /// Starts a backfill
    #[command(after_help = RANGE_HELP)]
    Create(CreateArgs),
    /// Shows one backfill
    Get {
        /// Its name, such as bf-01k5…
        name: String,
    },
    /// Lists backfills, newest first
    List(ListArgs),
    /// Lists the partitions of a backfill, by start
    Partitions(PartitionsArgs),
    /// Stops a backfill: nothing new starts, published partitions stay
    Cancel {
        /// Its name
        name: String,
    },
    /// Follows a backfill to its end: exit code 0 if it succeeded, 1 otherwise
    #[command(
        after_help = "On a terminal: a bar with counts, rate and time left. Otherwise a line per event; with \
        `-o json` an object per message.\nInterrupting leaves the backfill running.\n\n\
        Example:\n  hindcast backfill watch bf-01k5 --after-sequence 120"
    )]
    Watch(WatchArgs),
}

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// The transform's name
    transform: String,
    /// First partition's start, inclusive
    #[arg(long, value_name = "TIME")]
    from: TimeArg,
    /// Last partition's end, exclusive
    #[arg(long, value_name = "TIME")]
    to: TimeArg,
    /// Which world the partitions see; see below
    #[arg(long, value_enum)]
    knowledge: KnowledgeArg,
    /// With at-basis: the system time to read at (RFC 3339, or local forms taken as UTC)
    #[arg(long, value_name = "TIME", required_if_eq("knowledge", "at-basis"))]
    basis: Option<TimeArg>,
    /// With as-known-then: how long after a partition's end its pipeline ran, such as 6h
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    availability_delay: Option<Duration>,
    /// The transform's revision; without it: the latest
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    revision: u32,
    /// Partitions that may run at once, 1 to 64; without it: the server's default
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    max_active_partitions: u32,
    /// Tries per partition; without it: the transform's
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    max_attempts: u32,
    /// A free label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

/// [`Knowledge`] as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KnowledgeArg {
    /// Each partition's end plus the availability delay
    AsKnownThen,
    /// Pinned once, at creation
    AsKnownNow,
    /// Pinned to --basis
    AtBasis,
}

impl From<KnowledgeArg> for Knowledge {
    fn from(knowledge: KnowledgeArg) -> Self {
        match knowledge {
            KnowledgeArg::AsKnownThen => Self::AsKnownThen,
            KnowledgeArg::AsKnownNow => Self::AsKnownNow,
            KnowledgeArg::AtBasis => Self::AtBasis,
        }
    }
}

/// Arguments of `backfill plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    spec: SpecArgs,
    /// Show every partition, however many
    #[arg(long)]
    all: bool,
}

/// Arguments of `backfill create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    spec: SpecArgs,
    /// The same id again returns the backfill that it made first
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
    /// Refuse to start unless the plan still has this hash (`backfill plan` shows it)
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "HASH"
    )]
    expected_plan_hash: String,
    /// Follow it to its end, as `backfill watch` does
    #[arg(long, short)]
    watch: bool,
}

/// Arguments of `backfill list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only backfills of this transform
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    transform: String,
    /// Only backfills in this state, such as running; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = parse_backfill_state)]
    states: Vec<BackfillState>,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Arguments of `backfill partitions`.
#[derive(Debug, clap::Args)]
pub(crate) struct PartitionsArgs {
    /// The backfill's name
    name: String,
    /// Only partitions in this state, such as failed; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = parse_partition_state)]
    states: Vec<PartitionState>,
}

/// Arguments of `backfill watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// The backfill's name
    name: String,
    /// Only events after this one
    #[arg(long, default_value_t = 0, value_name = "N")]
    after_sequence: u64,
}

fn parse_backfill_state(text: &str) -> Result<BackfillState, String> {
    let name = format!("BACKFILL_STATE_{}", text.to_uppercase().replace('-', "_"));
    BackfillState::from_str_name(&name).filter(|state| *state != BackfillState::Unspecified).ok_or_else(|| {
        "the states are pending, running, cancelling, succeeded, partially-succeeded, failed and cancelled".to_owned()
    })
}

fn parse_partition_state(text: &str) -> Result<PartitionState, String> {
    let name = format!("PARTITION_STATE_{}", text.to_uppercase().replace('-', "_"));
    PartitionState::from_str_name(&name).filter(|state| *state != PartitionState::Unspecified).ok_or_else(|| {
        "the states are pending, blocked, running, waiting-retry, succeeded, failed, upstream-failed, skipped and cancelled"
            .to_owned()
    })
}

/// Runs the command.
pub(crate) async fn run(
    command: &Command,
    client: &Client,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    match command {
        Command::Plan(args) => plan(args, client, format).await.map(Outcome::from),
        Command::Create(args) => create(args, client, format, clock).await,
        Command::Get { name } => get(name, client, format).await.map(Outcome::from),
        Command::List(args) => list(args, client, format).await.map(Outcome::from),
        Command::Partitions(args) => partitions(args, client, format).await.map(Outcome::from),
        Command::Cancel { name } => cancel(name, client, format).await.map(Outcome::from),
        Command::Watch(args) => {
            watch::run(client, &args.name, args.after_sequence, format, clock).await
        }
    }
}

/// The spec for the wire. Asks the server for the transform's zone only where a time needs it.
async fn spec(args: &SpecArgs, client: &Client) -> Result<pb::BackfillSpec, Error> {
    let zone = if args.from.needs_zone() || args.to.needs_zone() {
        times::zone(
            &transform::get(client, &args.transform, args.revision)
                .await?
                .time_zone,
        )?
    } else {
        chrono_tz::Tz::UTC
    };
    let knowledge = Knowledge::from(args.knowledge);
    if args.basis.is_some() && knowledge != Knowledge::AtBasis {
        return Err(Error::Usage(
            "--basis goes with --knowledge at-basis only".to_owned(),
        ));
    }
    if args.availability_delay.is_some() && knowledge != Knowledge::AsKnownThen {
        return Err(Error::Usage(
            "--availability-delay goes with --knowledge as-known-then only".to_owned(),
        ));
    }
    Ok(pb::BackfillSpec {
        transform: args.transform.clone(),
        revision: args.revision,
        from: Some(times::timestamp(args.from.resolve(zone)?)),
        to: Some(times::timestamp(args.to.resolve(zone)?)),
        knowledge: knowledge.into(),
        basis: args
            .basis
            .as_ref()
            .map(|basis| times::timestamp(basis.utc())),
        availability_delay: args.availability_delay.map(times::wire_duration),
        max_active_partitions: args.max_active_partitions,
        max_attempts: args.max_attempts,
        labels: labels(&args.labels)?,
    })
}

fn labels(arguments: &[String]) -> Result<HashMap<String, String>, Error> {
    let mut labels = HashMap::new();
    for argument in arguments {
        let (key, value) = argument.split_once('=').ok_or_else(|| {
            Error::Usage(format!("label {argument:?} is not of the form KEY=VALUE"))
        })?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::Usage(format!("label {key} is given twice")));
        }
    }
    Ok(labels)
}

async fn plan(args: &PlanArgs, client: &Client, format: Format) -> Result<(), Error> {
    let spec = spec(&args.spec, client).await?;
    let request = pb::PlanBackfillRequest { spec: Some(spec) };
    let plan = required(
        client
            .backfills()
            .plan_backfill(request)
            .await?
            .into_inner()
            .plan,
        "plan",
    )?;
    if format == Format::Json {
        return output::json(&plan);
    }
    show_plan(&plan, args.all)
}

fn show_plan(plan: &pb::Plan, all: bool) -> Result<(), Error> {
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
        ("output", format!("table {}", plan.output_table)),
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
            order_words(plan.dependency_shape(), plan.max_active_partitions),
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
        "why",
    ]);
    let count = plan.partitions.len();
    let cut = if all || count <= 4 * PLAN_EDGE {
        count..count
    } else {
        PLAN_EDGE..count - PLAN_EDGE
    };
    for (index, partition) in plan.partitions.iter().enumerate() {
        if index == cut.start && !cut.is_empty() {
            columns.row(row!["…", format!("{} more: --all shows them", cut.len())]);
        }
        if !cut.contains(&index) {
            columns.row(row![
                &partition.label,
                times::show_or_dash(partition.start.as_ref()),
                times::show_or_dash(partition.end.as_ref()),
                enum_name::<PartitionAction>(partition.action),
                times::show_or_dash(partition.basis.as_ref()),
                partition.file_count.to_string(),
                &partition.skip_reason,
            ]);
        }
    }
    columns.print("no partitions")
}

/// Warnings go to standard error: they are no part of the answer.
fn show_warnings(warnings: &[String]) -> Result<(), Error> {
    let style = Style::stderr();
    for warning in warnings {
        eprintln!("{} {warning}", style.yellow("warning:"));
    }
    Ok(())
}

fn knowledge_words(knowledge: Knowledge) -> &'static str {
    match knowledge {
        Knowledge::AsKnownThen => "as known then",
        Knowledge::AsKnownNow => "as known now",
        Knowledge::AtBasis => "at a given basis",
        Knowledge::Unspecified => "unknown",
    }
}

fn order_words(shape: DependencyShape, max_active_partitions: u32) -> String {
    match shape {
        DependencyShape::Independent => format!("independent, {max_active_partitions} at once"),
        DependencyShape::Sequential => {
            "in order, one at a time: each reads what the earlier ones wrote".to_owned()
        }
        DependencyShape::Unspecified => String::new(),
    }
}

async fn create(
    args: &CreateArgs,
    client: &Client,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    let request = pb::CreateBackfillRequest {
        spec: Some(spec(&args.spec, client).await?),
        request_id: args.request_id.clone(),
        expected_plan_hash: args.expected_plan_hash.clone(),
    };
    let response = client
        .backfills()
        .create_backfill(request)
        .await?
        .into_inner();
    match format {
        Format::Json if args.watch => output::json_line(&response)?,
        Format::Json => output::json(&response)?,
        Format::Table => show_warnings(&response.warnings)?,
    }
    let backfill = required(response.backfill, "backfill")?;
    if format == Format::Table {
        output::line(describe_created(&backfill))?;
    }
    if args.watch {
        return watch::run(client, &backfill.name, 0, format, clock).await;
    }
    if format == Format::Table {
        output::line(format!(
            "follow it: hindcast backfill watch {}",
            backfill.name
        ))?;
    }
    Ok(Outcome::Done)
}

/// `bf-01k5: 90 partitions of daily_punctuality revision 1, as known now`.
fn describe_created(backfill: &pb::Backfill) -> String {
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

/// The backfill `name` as it stands.
pub(crate) async fn fetch(client: &Client, name: &str) -> Result<pb::Backfill, Error> {
    let request = pb::GetBackfillRequest {
        name: name.to_owned(),
    };
    required(
        client
            .backfills()
            .get_backfill(request)
            .await?
            .into_inner()
            .backfill,
        "backfill",
    )
}

async fn get(name: &str, client: &Client, format: Format) -> Result<(), Error> {
    let backfill = fetch(client, name).await?;
    if format == Format::Json {
        output::json(&backfill)
    } else {
        show(&backfill)
    }
}

fn show(backfill: &pb::Backfill) -> Result<(), Error> {
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
        ("state", enum_name::<BackfillState>(backfill.state)),
        (
            "transform",
            format!("{} revision {}", spec.transform, spec.revision),
        ),
        ("output", format!("table {}", backfill.output_table)),
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
            order_words(backfill.dependency_shape(), spec.max_active_partitions),
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
    ])
}

async fn list(args: &ListArgs, client: &Client, format: Format) -> Result<(), Error> {
    let mut request = pb::ListBackfillsRequest {
        transform: args.transform.clone(),
        states: args.states.iter().map(|state| i32::from(*state)).collect(),
        page_size: u32::try_from(args.limit)
            .unwrap_or(u32::MAX)
            .clamp(1, BACKFILL_PAGE_SIZE),
        page_token: String::new(),
    };
    let mut backfills = Vec::new();
    while backfills.len() < args.limit {
        let page = client
            .backfills()
            .list_backfills(request.clone())
            .await?
            .into_inner();
        backfills.extend(page.backfills);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    backfills.truncate(args.limit);
    if format == Format::Json {
        return output::json(&Listed {
            field: "backfills",
            items: &backfills,
        });
    }
    let mut columns = Columns::new(&[
        "name",
        "transform",
        "from",
        "to",
        "knowledge",
        "state",
        "partitions",
        ">rows written",
        "created",
    ]);
    for backfill in &backfills {
        let spec = backfill.spec.clone().unwrap_or_default();
        columns.row(row![
            &backfill.name,
            format!("{}@{}", spec.transform, spec.revision),
            times::show_or_dash(spec.from.as_ref()),
            times::show_or_dash(spec.to.as_ref()),
            knowledge_words(spec.knowledge()),
            Field::state(&enum_name::<BackfillState>(backfill.state)),
            watch::describe_counts(backfill.partition_counts.as_ref()),
            output::count(backfill.rows_written),
            times::show_or_dash(backfill.create_time.as_ref()),
        ]);
    }
    columns.print("no backfills yet; `hindcast backfill create --help` shows how to start one")
}

async fn partitions(args: &PartitionsArgs, client: &Client, format: Format) -> Result<(), Error> {
    let mut request = pb::ListPartitionsRequest {
        backfill: args.name.clone(),
        states: args.states.iter().map(|state| i32::from(*state)).collect(),
        page_size: PARTITION_PAGE_SIZE,
        page_token: String::new(),
    };
    let mut partitions = Vec::new();
    loop {
        let page = client
            .backfills()
            .list_partitions(request.clone())
            .await?
            .into_inner();
        partitions.extend(page.partitions);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if format == Format::Json {
        return output::json(&Listed {
            field: "partitions",
            items: &partitions,
        });
    }
    let mut columns = Columns::new(&[
        "partition",
        "start",
        "state",
        ">attempts",
        ">rows read",
        ">rows written",
        "basis",
        "message",
    ]);
    for partition in &partitions {
        columns.row(row![
            &partition.label,
            times::show_or_dash(partition.start.as_ref()),
            Field::state(&enum_name::<PartitionState>(partition.state)),
            partition.attempt_count.to_string(),
            output::count(partition.rows_read),
            output::count(partition.rows_written),
            times::show_or_dash(partition.basis.as_ref()),
            &partition.message,
        ]);
    }
    columns.print("no such partitions")
}

async fn cancel(name: &str, client: &Client, format: Format) -> Result<(), Error> {
    let request = pb::CancelBackfillRequest {
        name: name.to_owned(),
    };
    let backfill = required(
        client
            .backfills()
            .cancel_backfill(request)
            .await?
            .into_inner()
            .backfill,
        "backfill",
    )?;
    if format == Format::Json {
        return output::json(&backfill);
    }
    let state = enum_name::<BackfillState>(backfill.state).to_lowercase();
    let succeeded = u64::from(
        backfill
            .partition_counts
            .map_or(0, |counts| counts.succeeded),
    );
    output::line(format!(
        "{name} is {state}; {} published before stay",
        output::counted(succeeded, "partition")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_people_write_them() {
        assert_eq!(
            parse_backfill_state("partially-succeeded"),
            Ok(BackfillState::PartiallySucceeded)
        );
        assert_eq!(
            parse_partition_state("WAITING_RETRY"),
            Ok(PartitionState::WaitingRetry)
        );
        assert!(parse_partition_state("unspecified").is_err());
        assert!(parse_backfill_state("done").is_err());
    }

    #[test]
    fn labels_have_keys() {
        let given = ["team=data".to_owned(), "why=a=b".to_owned()];
        assert_eq!(
            labels(&given)
                .map(|labels| labels["why"].clone())
                .ok()
                .as_deref(),
            Some("a=b")
        );
        assert!(labels(&["team".to_owned()]).is_err());
        assert!(labels(&["a=1".to_owned(), "a=2".to_owned()]).is_err());
    }
}
