//! `hindcast table`: what backfills published.

use super::{
    client::{Client, required},
    error::Error,
    json::RowJson,
    output::{self, Columns, Field, Format, row},
    source,
    times::{self, TimeArg},
    transform, values,
};
use crate::pb;

/// How many rows a table shows unless told otherwise.
const TABLE_LIMIT: u64 = 50;
/// How many of the newest snapshots `show` lists.
const SHOWN_SNAPSHOTS: usize = 10;

/// Tables: what backfills published, as Iceberg tables
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Lists all output tables
    List,
    /// Shows where a table stands: Iceberg metadata, columns, snapshots, partitions
    Show(ShowArgs),
    /// Reads published rows, partition by partition
    #[command(
        after_help = "Times: 2013-02-08 or 2013-02-08T05:00 in the transform's time zone, or RFC 3339.\n\n\
        Examples:\n  hindcast table rows daily_punctuality --from 2013-02-08 --to 2013-02-09\n  \
        hindcast table rows daily_punctuality -o json"
    )]
    Rows(RowsArgs),
}

/// Arguments of `table show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Its name
    name: String,
    /// List the partitions too
    #[arg(long)]
    partitions: bool,
}

/// Arguments of `table rows`.
#[derive(Debug, clap::Args)]
pub(crate) struct RowsArgs {
    /// The table's name
    name: String,
    /// Only partitions that start at or after this
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArg>,
    /// Only partitions that start before this
    #[arg(long, value_name = "TIME")]
    to: Option<TimeArg>,
    /// The rows as they were at this snapshot; without it: as they are
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "SNAPSHOT"
    )]
    snapshot_id: i64,
    /// At most this many; without it: 50 in a table, all as JSON (one object per line); 0 is all
    #[arg(long)]
    limit: Option<u64>,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::List => list(client, format).await,
        Command::Show(args) => show(args, client, format).await,
        Command::Rows(args) => rows(args, client, format).await,
    }
}

/// The table `name` with its snapshots and partitions.
pub(crate) async fn get(client: &Client, name: &str) -> Result<pb::Table, Error> {
    let request = pb::GetTableRequest {
        name: name.to_owned(),
    };
    required(
        client
            .catalog()
            .get_table(request)
            .await?
            .into_inner()
            .table,
        "table",
    )
}

async fn list(client: &Client, format: Format) -> Result<(), Error> {
    let response = client
        .catalog()
        .list_tables(pb::ListTablesRequest {})
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let mut columns = Columns::new(&["name", "transform", ">rows", ">files", ">size", "location"]);
    for table in &response.tables {
        columns.row(row![
            &table.name,
            &table.transform,
            output::count(table.row_count),
            output::count(table.file_count),
            times::show_size(table.size_bytes),
            output::local_path(&table.location),
        ]);
    }
    columns.print("no tables yet: a transform's first backfill makes its table")
}

async fn show(args: &ShowArgs, client: &Client, format: Format) -> Result<(), Error> {
    let table = get(client, &args.name).await?;
    if format == Format::Json {
        return output::json(&table);
    }
    let snapshot = match table.current_snapshot_id {
        0 => "none: nothing was published yet".to_owned(),
        id => id.to_string(),
    };
    output::facts(&[
        ("name", table.name.clone()),
        ("transform", table.transform.clone()),
        ("location", table.location.clone()),
        ("metadata", table.metadata_location.clone()),
        ("snapshot", snapshot),
        ("rows", output::count(table.row_count)),
        (
            "files",
            format!(
                "{}, {}",
                output::count(table.file_count),
                times::show_size(table.size_bytes)
            ),
        ),
        ("partitions", output::count(table.partitions.len() as u64)),
    ])?;
    output::line("")?;
    source::print_columns(&table.columns)?;
    if !table.snapshots.is_empty() {
        output::line("")?;
        show_snapshots(&table.snapshots)?;
    }
    if args.partitions {
        output::line("")?;
        show_partitions(&table).await?;
    }
    Ok(())
}

fn show_snapshots(snapshots: &[pb::TableSnapshot]) -> Result<(), Error> {
    let mut columns = Columns::new(&[
        "snapshot",
        "committed",
        "operation",
        ">partitions",
        ">rows",
        "backfill",
    ]);
    for snapshot in snapshots.iter().rev().take(SHOWN_SNAPSHOTS) {
        columns.row(row![
            snapshot.snapshot_id.to_string(),
            times::show_or_dash(snapshot.commit_time.as_ref()),
            &snapshot.operation,
            output::count(u64::from(snapshot.partition_count)),
            output::count(snapshot.row_count),
            &snapshot.backfill,
        ]);
    }
    columns.print("no snapshots")?;
    match snapshots.len().saturating_sub(SHOWN_SNAPSHOTS) {
        0 => Ok(()),
        older => output::line(format!("… and {older} older: -o json shows all")),
    }
}

async fn show_partitions(table: &pb::Table) -> Result<(), Error> {
    let mut columns = Columns::new(&["partition start", ">rows", ">files", ">size"]);
    for partition in &table.partitions {
        columns.row(row![
            times::show_or_dash(partition.start.as_ref()),
            output::count(partition.row_count),
            output::count(partition.file_count),
            times::show_size(partition.size_bytes),
        ]);
    }
    columns.print("no partition holds rows")
}

/// The range of partition starts, local times being read in the writing transform's zone.
async fn partition_range(args: &RowsArgs, client: &Client) -> Result<Option<pb::TimeRange>, Error> {
    let bounds = [&args.from, &args.to];
    if bounds.iter().all(|bound| bound.is_none()) {
        return Ok(None);
    }
    let zone = if bounds.into_iter().flatten().any(TimeArg::needs_zone) {
        let table = get(client, &args.name).await?;
        times::zone(&transform::get(client, &table.transform, 0).await?.time_zone)?
    } else {
        chrono_tz::Tz::UTC
    };
    let resolve = |bound: &Option<TimeArg>| -> Result<Option<prost_types::Timestamp>, Error> {
        Ok(bound
            .as_ref()
            .map(|bound| bound.resolve(zone))
            .transpose()?
            .map(times::timestamp))
    };
    Ok(Some(pb::TimeRange {
        from: resolve(&args.from)?,
        to: resolve(&args.to)?,
    }))
}

async fn rows(args: &RowsArgs, client: &Client, format: Format) -> Result<(), Error> {
    let limit = args.limit.unwrap_or(if format == Format::Json {
        0
    } else {
        TABLE_LIMIT
    });
    let request = pb::ReadTableRequest {
        name: args.name.clone(),
        partition_range: partition_range(args, client).await?,
        snapshot_id: args.snapshot_id,
        limit,
    };
    let mut stream = client.catalog().read_table(request).await?.into_inner();
    let mut columns: Vec<pb::Column> = Vec::new();
    let mut table = Columns::new(&[]);
    let mut count = 0;
    while let Some(message) = stream.message().await? {
        if !message.columns.is_empty() {
            columns = message.columns;
            let headings = headings(&columns);
            table = Columns::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
        }
        count += message.rows.len() as u64;
        for row in &message.rows {
            match format {
                Format::Json => output::json_line(&RowJson {
                    columns: &columns,
                    values: &row.values,
                })?,
                Format::Table => table.row(
                    row.values
                        .iter()
                        .map(|value| Field::from(values::show(value))),
                ),
            }
        }
    }
    if format == Format::Json {
        return Ok(());
    }
    table.print("no rows")?;
    if args.limit.is_none() && count == limit {
        output::line(format!(
            "… only the first {limit} rows are shown: --limit 0 shows all"
        ))?;
    }
    Ok(())
}

/// Column names, numbers to the right.
fn headings(columns: &[pb::Column]) -> Vec<String> {
    columns
        .iter()
        .map(|column| {
            let is_number = ["Int", "UInt", "Float", "Decimal"]
                .iter()
                .any(|kind| column.r#type.starts_with(kind));
            format!("{}{}", if is_number { ">" } else { "" }, column.name)
        })
        .collect()
}
