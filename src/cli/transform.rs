//! `hindcast transform`: named, versioned computations.

use std::{path::PathBuf, time::Duration};

use super::{
    client::{Client, required},
    definitions,
    error::Error,
    json::enum_name,
    output::{self, Columns, Format, row},
    source, times,
};
use crate::pb;

const SQL_HELP: &str = "\
The SQL (DataFusion's dialect) sees the declared inputs only, each cut to what a partition may see:
  flights              a source: event time in [partition start - lookback,
                       partition end)
  aircraft             an entity type: one row per entity, its state at the
                       partition's last instant
  aircraft_history     its versions in the window, with valid_from and valid_to
  aircraft_at(id, ts)  its state at each row's own instant; looking past the
                       partition's end fails the partition
  delays               another transform's table: its partitions that overlap
                       [partition start - lookback, partition end) and are over
                       by then
  rate(currency, ts)   an external call of a definitions file: what an outside
                       system answers, as a struct; docs/calls.md
  prior                the transform's own earlier output, with --prior; needs
                       --output-column. Of an entity type: its state just
                       before the partition, with --prior 1
  $partition_start, $partition_end

Example:
  hindcast transform register daily_flights --source flights \\
    --entity aircraft --grain daily --time-zone America/New_York --output-table daily_flights \\
    --sql 'SELECT carrier, count(*) AS flights FROM flights GROUP BY carrier'";

/// Transforms: SQL with declared inputs, in immutable revisions
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Plans, checks and stores a transform; a changed one becomes a new revision
    #[command(after_help = SQL_HELP)]
    Register(Box<RegisterArgs>),
    /// Shows one transform with its SQL
    Get {
        /// Its name
        name: String,
        /// Its revision; without it: the latest
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        revision: u32,
    },
    /// Lists the latest revision of every transform
    List,
}

/// Arguments of `transform register`.
#[derive(Debug, clap::Args)]
pub(crate) struct RegisterArgs {
    /// Its name
    name: String,
    /// The query
    #[arg(
        long,
        required_unless_present = "sql_file",
        conflicts_with = "sql_file"
    )]
    sql: Option<String>,
    /// A file with the query
    #[arg(long, value_name = "FILE")]
    sql_file: Option<PathBuf>,
    /// A source, with an optional lookback such as flights:6d; may be repeated
    #[arg(long = "source", value_name = "NAME[:LOOKBACK]")]
    sources: Vec<String>,
    /// An entity type; @start shows its table as of the partition's start instead of its end; may be repeated
    #[arg(long = "entity", value_name = "TYPE[@start]")]
    entities: Vec<String>,
    /// Another transform's table, with an optional lookback such as delays:6d; may be repeated
    #[arg(long = "table", value_name = "NAME[:LOOKBACK]")]
    tables: Vec<String>,
    /// Reads its own earlier output, this many partitions back; without a number: all of it
    #[arg(long, value_name = "PARTITIONS", num_args = 0..=1, default_missing_value = "0")]
    prior: Option<u32>,
    /// A column of the output, such as 'flights int64'; may be repeated
    #[arg(long = "output-column", value_name = "'NAME TYPE'")]
    output_columns: Vec<String>,
    /// The Iceberg table that this transform alone writes
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME",
        required_unless_present = "output_entity",
        conflicts_with = "output_entity"
    )]
    output_table: String,
    /// The entity type that this transform alone writes, in place of a table; it must be declared already
    #[arg(long, value_name = "TYPE", requires = "key")]
    output_entity: Option<String>,
    /// A column of the query that entity ids are made of; may be repeated
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "output_entity",
        conflicts_with = "output_table"
    )]
    key: Vec<String>,
    /// hourly, daily, weekly, monthly or yearly
    #[arg(long, value_parser = definitions::parse_grain)]
    grain: pb::Grain,
    /// IANA zone of the partitions; without it: UTC
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "ZONE"
    )]
    time_zone: String,
    /// Tries per partition, the first included; without it: 3
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    max_attempts: u32,
    /// Wait before the second try; it doubles from there; without it: 1s
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    initial_backoff: Option<Duration>,
    /// Longest wait between tries; without it: 60s
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    max_backoff: Option<Duration>,
    /// How long one attempt may take, such as 10m; without it: as long as it takes
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    attempt_timeout: Option<Duration>,
    /// For people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Plan and check, store nothing
    #[arg(long)]
    validate_only: bool,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::Register(args) => register(args, client, format).await,
        Command::Get { name, revision } => show(&get(client, name, *revision).await?, format),
        Command::List => list(client, format).await,
    }
}

/// Revision `revision` of `name`; 0 is the latest.
pub(crate) async fn get(
    client: &Client,
    name: &str,
    revision: u32,
) -> Result<pb::Transform, Error> {
    let request = pb::GetTransformRequest {
        name: name.to_owned(),
        revision,
    };
    required(
        client
            .catalog()
            .get_transform(request)
            .await?
            .into_inner()
            .transform,
        "transform",
    )
}

async fn register(args: &RegisterArgs, client: &Client, format: Format) -> Result<(), Error> {
    let request = pb::RegisterTransformRequest {
        transform: Some(definition(args)?),
        validate_only: args.validate_only,
    };
    let response = client
        .catalog()
        .register_transform(request)
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let transform = required(response.transform, "transform")?;
    output::line(match (args.validate_only, response.created) {
        (true, _) => format!("{} is valid; nothing was stored", transform.name),
        (false, true) => format!(
            "registered {} revision {}",
            transform.name, transform.revision
        ),
        (false, false) => format!(
            "unchanged: {} revision {}",
            transform.name, transform.revision
        ),
    })
}

fn definition(args: &RegisterArgs) -> Result<pb::Transform, Error> {
    let sql = match (&args.sql, &args.sql_file) {
        (_, Some(path)) => std::fs::read_to_string(path).map_err(|cause| Error::File {
            path: path.clone(),
            cause,
        })?,
        (sql, None) => sql.clone().unwrap_or_default(),
    };
    let retry = pb::RetryPolicy {
        max_attempts: args.max_attempts,
        initial_backoff: args.initial_backoff.map(times::wire_duration),
        max_backoff: args.max_backoff.map(times::wire_duration),
        attempt_timeout: args.attempt_timeout.map(times::wire_duration),
    };
    Ok(pb::Transform {
        name: args.name.clone(),
        sql,
        sources: args
            .sources
            .iter()
            .map(|text| source_input(text))
            .collect::<Result<_, _>>()?,
        entities: args
            .entities
            .iter()
            .map(|text| entity_input(text))
            .collect(),
        tables: args
            .tables
            .iter()
            .map(|text| table_input(text))
            .collect::<Result<_, _>>()?,
        prior: args.prior.map(|partitions| pb::PriorInput { partitions }),
        output_table: args.output_table.clone(),
        output_entity: args
            .output_entity
            .clone()
            .map(|entity_type| pb::EntityOutput {
                entity_type,
                key: args.key.clone(),
            }),
        grain: args.grain.into(),
        time_zone: args.time_zone.clone(),
        retry: (retry != pb::RetryPolicy::default()).then_some(retry),
        description: args.description.clone(),
        output_columns: args.output_columns.clone(),
        ..Default::default()
    })
}

/// `flights` or `flights:6d`.
fn source_input(text: &str) -> Result<pb::SourceInput, Error> {
    let (source, lookback) = with_lookback(text)?;
    Ok(pb::SourceInput {
        source: source.to_owned(),
        lookback,
    })
}

/// `delays` or `delays:6d`.
fn table_input(text: &str) -> Result<pb::TableInput, Error> {
    let (table, lookback) = with_lookback(text)?;
    Ok(pb::TableInput {
        table: table.to_owned(),
        lookback,
    })
}

fn with_lookback(text: &str) -> Result<(&str, Option<prost_types::Duration>), Error> {
    Ok(match text.split_once(':') {
        Some((name, lookback)) => (
            name,
            Some(times::wire_duration(times::parse_duration(lookback)?)),
        ),
        None => (text, None),
    })
}

/// `aircraft` or `aircraft@start`.
fn entity_input(text: &str) -> pb::EntityInput {
    let (entity_type, at_partition_start) = match text.strip_suffix("@start") {
        Some(entity_type) => (entity_type, true),
        None => (text, false),
    };
    pb::EntityInput {
        entity_type: entity_type.to_owned(),
        at_partition_start,
    }
}

fn show(transform: &pb::Transform, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(transform);
    }
    output::facts(&[
        ("name", transform.name.clone()),
        ("revision", transform.revision.to_string()),
        ("description", transform.description.clone()),
        ("inputs", describe_inputs(transform)),
        ("output", describe_output(transform)),
        ("partitions", describe_partitions(transform)),
        (
            "retry",
            transform
                .retry
                .as_ref()
                .map_or_else(String::new, describe_retry),
        ),
        (
            "created",
            times::show_or_dash(transform.create_time.as_ref()),
        ),
    ])?;
    output::line("")?;
    source::print_columns(&transform.columns)?;
    output::line(format!("\n{}", transform.sql.trim_end()))
}

fn describe_inputs(transform: &pb::Transform) -> String {
    let back = |lookback: &Option<prost_types::Duration>| {
        let lookback = lookback.as_ref().map(times::from_wire_duration);
        lookback
            .filter(|lookback| !lookback.is_zero())
            .map_or_else(String::new, |lookback| {
                format!(" and {} back", times::show_duration(lookback))
            })
    };
    let source =
        |input: &pb::SourceInput| format!("{} (source{})", input.source, back(&input.lookback));
    let table =
        |input: &pb::TableInput| format!("{} (table{})", input.table, back(&input.lookback));
    let entity = |input: &pb::EntityInput| {
        let point = if input.at_partition_start {
            ", at partition start"
        } else {
            ""
        };
        format!("{} (entity type{point})", input.entity_type)
    };
    let prior = |input: &pb::PriorInput| match input.partitions {
        0 => "prior (all of it)".to_owned(),
        partitions => format!(
            "prior ({} back)",
            output::counted(u64::from(partitions), "partition")
        ),
    };
    let call = |call: &pb::Call| {
        let now = if call.allow_current_state {
            ", current state"
        } else {
            ""
        };
        format!(
            "{}() (call, limited by {}{now})",
            call.name, call.rate_limit
        )
    };
    let sources = transform.sources.iter().map(source);
    let inputs = sources
        .chain(transform.entities.iter().map(entity))
        .chain(transform.tables.iter().map(table))
        .chain(transform.calls.iter().map(call))
        .chain(transform.prior.iter().map(prior));
    inputs.collect::<Vec<_>>().join(", ")
}

/// `table totals`, `entity type totals, by carrier/origin`.
fn describe_output(transform: &pb::Transform) -> String {
    match &transform.output_entity {
        None => format!("table {}", transform.output_table),
        Some(output) => format!(
            "entity type {}, by {}",
            output.entity_type,
            output.key.join("/")
        ),
    }
}

fn describe_partitions(transform: &pb::Transform) -> String {
    let zone = if transform.time_zone.is_empty() {
        "UTC"
    } else {
        &transform.time_zone
    };
    format!(
        "{}, {zone}",
        enum_name::<pb::Grain>(transform.grain).to_lowercase()
    )
}

fn describe_retry(retry: &pb::RetryPolicy) -> String {
    let mut parts = Vec::new();
    if retry.max_attempts > 0 {
        parts.push(output::counted(u64::from(retry.max_attempts), "attempt"));
    }
    let backoff = [
        ("from", &retry.initial_backoff),
        ("to", &retry.max_backoff),
        ("each within", &retry.attempt_timeout),
    ];
    for (word, duration) in backoff {
        if let Some(duration) = duration {
            parts.push(format!(
                "{word} {}",
                times::show_duration(times::from_wire_duration(duration))
            ));
        }
    }
    parts.join(" ")
}

async fn list(client: &Client, format: Format) -> Result<(), Error> {
    let response = client
        .catalog()
        .list_transforms(pb::ListTransformsRequest {})
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let mut columns = Columns::new(&["name", ">revision", "output", "partitions", "~inputs"]);
    for transform in &response.transforms {
        columns.row(row![
            &transform.name,
            transform.revision.to_string(),
            describe_output(transform),
            describe_partitions(transform),
            describe_inputs(transform),
        ]);
    }
    columns.print("no transforms yet; `hindcast transform register --help` shows how to make one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_from_arguments() {
        assert_eq!(
            source_input("flights:6d").ok(),
            Some(pb::SourceInput {
                source: "flights".to_owned(),
                lookback: Some(prost_types::Duration {
                    seconds: 518_400,
                    nanos: 0
                }),
            })
        );
        assert!(source_input("flights:6").is_err());
        assert!(entity_input("aircraft@start").at_partition_start);
        assert!(!entity_input("aircraft").at_partition_start);
    }
}
