//! `hindcast source`: data sets that transforms read.

use std::{collections::HashMap, path::PathBuf};

use super::{
    client::{Client, required},
    definitions,
    error::Error,
    json::enum_name,
    output::{self, Columns, Format, row},
    times,
};
use crate::pb;

/// Sources: time-stamped rows in files that transforms read
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Declares a source; the same declaration again changes nothing
    #[command(
        after_help = "Example:\n  hindcast source create flights --format parquet --location ./flights \\\n    \
        --event-time sched_dep_utc --hive-column dt --hive-grain daily --hive-time-zone America/New_York"
    )]
    Create(Box<CreateArgs>),
    /// Shows one source with its columns
    Get {
        /// Its name
        name: String,
    },
    /// Lists all sources
    List,
}

/// Arguments of `source create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Lower case, digits and underscores: it is a table name in SQL
    name: String,
    /// parquet or csv
    #[arg(long, value_parser = definitions::parse_format)]
    format: pb::SourceFormat,
    /// A file or a folder on the server's disk; relative to where this command runs
    #[arg(long, value_name = "PATH")]
    location: PathBuf,
    /// The column that says when a row happened
    #[arg(long, value_name = "COLUMN")]
    event_time: String,
    /// The column that says when a row could first be read
    #[arg(
        long,
        value_name = "COLUMN",
        default_value = "",
        hide_default_value = true
    )]
    available_at: String,
    /// Folders are named COLUMN=value, one per slice of time
    #[arg(long, value_name = "COLUMN", requires = "hive_grain")]
    hive_column: Option<String>,
    /// The slices: hourly, daily, weekly, monthly or yearly
    #[arg(long, value_name = "GRAIN", requires = "hive_column", value_parser = definitions::parse_grain)]
    hive_grain: Option<pb::Grain>,
    /// IANA zone of the slices; without it: UTC
    #[arg(
        long,
        value_name = "ZONE",
        requires = "hive_column",
        default_value = "",
        hide_default_value = true
    )]
    hive_time_zone: String,
    /// How the value is written, such as %Y-%m-%d; without it: the usual form of the grain
    #[arg(
        long,
        value_name = "FORMAT",
        requires = "hive_column",
        default_value = "",
        hide_default_value = true
    )]
    hive_format: String,
    /// CSV: the separator; without it: a comma
    #[arg(
        long,
        value_name = "CHARACTER",
        default_value = "",
        hide_default_value = true
    )]
    csv_delimiter: String,
    /// CSV: a column's type, where the inferred one is wrong; may be repeated
    #[arg(long = "csv-type", value_name = "COLUMN=TYPE")]
    csv_types: Vec<String>,
    /// For people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::Create(args) => create(args, client, format).await,
        Command::Get { name } => get(name, client, format).await,
        Command::List => list(client, format).await,
    }
}

async fn create(args: &CreateArgs, client: &Client, format: Format) -> Result<(), Error> {
    let location = std::path::absolute(&args.location).map_err(|cause| Error::File {
        path: args.location.clone(),
        cause,
    })?;
    let hive = args
        .hive_column
        .as_ref()
        .zip(args.hive_grain)
        .map(|(column, grain)| pb::HivePartition {
            column: column.clone(),
            format: args.hive_format.clone(),
            grain: grain.into(),
            time_zone: args.hive_time_zone.clone(),
        });
    let source = pb::Source {
        name: args.name.clone(),
        format: args.format.into(),
        location: location.to_string_lossy().into_owned(),
        event_time_column: args.event_time.clone(),
        available_at_column: args.available_at.clone(),
        hive,
        csv_delimiter: args.csv_delimiter.clone(),
        csv_types: csv_types(&args.csv_types)?,
        description: args.description.clone(),
        ..Default::default()
    };
    let response = client
        .catalog()
        .create_source(pb::CreateSourceRequest {
            source: Some(source),
        })
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let outcome = if response.created {
        "created"
    } else {
        "unchanged"
    };
    let source = required(response.source, "source")?;
    output::line(format!(
        "{outcome} {}: {}",
        source.name,
        describe_files(&source)
    ))
}

fn csv_types(arguments: &[String]) -> Result<HashMap<String, String>, Error> {
    let pair = |argument: &String| {
        let (column, kind) = argument.split_once('=')?;
        Some((column.to_owned(), kind.to_owned()))
    };
    arguments
        .iter()
        .map(|argument| {
            pair(argument).ok_or_else(|| Error::Usage(format!("{argument:?} is not COLUMN=TYPE")))
        })
        .collect()
}

fn describe_files(source: &pb::Source) -> String {
    format!(
        "{}, {}",
        output::counted(source.file_count, "file"),
        times::show_size(source.size_bytes)
    )
}

async fn get(name: &str, client: &Client, format: Format) -> Result<(), Error> {
    let request = pb::GetSourceRequest {
        name: name.to_owned(),
    };
    let source = required(
        client
            .catalog()
            .get_source(request)
            .await?
            .into_inner()
            .source,
        "source",
    )?;
    if format == Format::Json {
        return output::json(&source);
    }
    let hive = source.hive.as_ref().map_or_else(String::new, |hive| {
        let zone = if hive.time_zone.is_empty() {
            "UTC"
        } else {
            &hive.time_zone
        };
        format!(
            "{}=…, {} in {zone}",
            hive.column,
            enum_name::<pb::Grain>(hive.grain).to_lowercase()
        )
    });
    output::facts(&[
        ("name", source.name.clone()),
        ("description", source.description.clone()),
        (
            "format",
            enum_name::<pb::SourceFormat>(source.format).to_lowercase(),
        ),
        ("location", source.location.clone()),
        ("files", describe_files(&source)),
        ("event time", source.event_time_column.clone()),
        ("available at", source.available_at_column.clone()),
        ("folders", hive),
        ("created", times::show_or_dash(source.create_time.as_ref())),
    ])?;
    output::line("")?;
    print_columns(&source.columns)
}

/// The columns of a source or table.
pub(crate) fn print_columns(columns: &[pb::Column]) -> Result<(), Error> {
    let mut table = Columns::new(&["column", "type", "null"]);
    for column in columns {
        table.row(row![
            &column.name,
            &column.r#type,
            if column.nullable { "yes" } else { "no" }
        ]);
    }
    table.print("no columns")
}

async fn list(client: &Client, format: Format) -> Result<(), Error> {
    let response = client
        .catalog()
        .list_sources(pb::ListSourcesRequest {})
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let mut columns = Columns::new(&[
        "name",
        "format",
        ">files",
        ">size",
        "event time",
        "location",
    ]);
    for source in &response.sources {
        columns.row(row![
            &source.name,
            enum_name::<pb::SourceFormat>(source.format).to_lowercase(),
            output::count(source.file_count),
            times::show_size(source.size_bytes),
            &source.event_time_column,
            &source.location,
        ]);
    }
    columns.print("no sources yet; `hindcast source create --help` shows how to declare one")
}
