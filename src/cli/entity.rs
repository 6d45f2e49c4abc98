//! `hindcast entity`: writing and reading entities on two time axes.

use std::path::PathBuf;

use super::{
    client::Client,
    entity_type,
    error::Error,
    json::Listed,
    load,
    output::{self, Columns, Format, row},
    times::{self, TimeArg},
    values,
};
use crate::pb::{self, EntityOutcome, end, mutation::Operation, put};

/// How many entities a table shows unless told otherwise.
const TABLE_LIMIT: usize = 50;
/// Versions per page of a history.
const HISTORY_PAGE_SIZE: u32 = 10_000;

const TIMES: &str = "Times: RFC 3339 (2013-02-08T07:00:00-05:00), or 2013-02-08 or 2013-02-08T12:00, taken as UTC.\n\
    Valid time is when something is true in the world; the basis is the system time up to which hindcast knew about it.";

/// Entities: what is true when, and since when hindcast knows it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Gives an entity these attributes over a range of valid time
    #[command(after_help = PUT_HELP)]
    Put(PutArgs),
    /// Says that there is no such entity over a range of valid time
    End(EndArgs),
    /// Shows one entity as of a point in time
    #[command(after_help = GET_HELP)]
    Get(GetArgs),
    /// Shows every version of an entity, corrected ones included
    History(HistoryArgs),
    /// Shows every entity of a type as of a point in time
    Scan(ScanArgs),
    /// Loads entities from a file, one JSON object per line
    #[command(after_help = LOAD_HELP)]
    Load(LoadArgs),
}

const PUT_HELP: &str = "Attributes that are not named are null. Without --to and --forever the values hold until the \
    timeline next changes.\nPutting what is there already writes nothing.\n\n\
    Examples:\n  hindcast entity put aircraft N14228 model=737-824 seats=149 --from 1999-01-01 --forever\n  \
    hindcast entity put airport_weather JFK temp=31.5 --from 2013-02-08T12:00 --to 2013-02-08T13:00";

const GET_HELP: &str = "Examples:\n  hindcast entity get airport_weather JFK --at 2013-02-08T12:00\n  \
    hindcast entity get airport_weather JFK --at 2013-02-08T12:00 --basis 2026-03-01T00:00:00Z";

const LOAD_HELP: &str = r#"Each line is one mutation:
  {"entity_type": "aircraft", "entity_id": "N14228", "attributes": {"seats": 149},
   "valid_from": "1999-01-01T00:00:00Z", "until": "forever"}

  op           "put" (the default) or "end"
  attributes   of a put; null is the same as leaving one out ("value" is another name for it)
  valid_from   inclusive; without it: the time of the commit
  valid_to     exclusive; or "until": "forever" or "next_change" (the default)

Decimals may be strings, timestamps and dates are strings, bytes are base64. Lines are sent in batches, each of them all
or nothing; loading the same file again writes nothing.

Example:
  hindcast entity load examples/flights/entities/aircraft.ndjson"#;

#[derive(Debug, clap::Args)]
#[command(after_help = TIMES)]
pub(crate) struct Range {
    /// Valid from, inclusive; without it: the time of the commit
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArg>,
    /// Valid to, exclusive; without it and --forever: until the timeline next changes
    #[arg(long, value_name = "TIME", conflicts_with = "forever")]
    to: Option<TimeArg>,
    /// No end
    #[arg(long)]
    forever: bool,
}

/// Arguments of `entity put`.
#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    #[arg(value_name = "TYPE")]
    entity_type: String,
    #[arg(value_name = "ID")]
    entity_id: String,
    /// Values, read by the attributes' declared kinds (bytes as base64)
    #[arg(required = true, value_name = "ATTRIBUTE=VALUE")]
    attributes: Vec<String>,
    #[command(flatten)]
    range: Range,
    /// The same id again returns the first answer and writes nothing
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    request_id: String,
}

/// Arguments of `entity end`.
#[derive(Debug, clap::Args)]
pub(crate) struct EndArgs {
    #[arg(value_name = "TYPE")]
    entity_type: String,
    #[arg(value_name = "ID")]
    entity_id: String,
    #[command(flatten)]
    range: Range,
    /// The same id again returns the first answer and writes nothing
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    request_id: String,
}

/// Arguments of `entity get`.
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// One id, or several
    #[arg(value_name = "ID", required = true)]
    entity_ids: Vec<String>,
    #[command(flatten)]
    point: Point,
}

/// A point on both time axes.
#[derive(Debug, clap::Args)]
pub(crate) struct Point {
    /// Valid time; without it: now
    #[arg(long, value_name = "TIME")]
    at: Option<TimeArg>,
    /// What was known then; without it: what is known now
    #[arg(long, value_name = "TIME")]
    basis: Option<TimeArg>,
}

/// Arguments of `entity history`.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    #[arg(value_name = "TYPE")]
    entity_type: String,
    #[arg(value_name = "ID")]
    entity_id: String,
    /// Only versions valid after this
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArg>,
    /// Only versions valid before this
    #[arg(long, value_name = "TIME")]
    to: Option<TimeArg>,
    /// What was known then; without it: what is known now
    #[arg(long, value_name = "TIME")]
    basis: Option<TimeArg>,
}

/// Arguments of `entity scan`.
#[derive(Debug, clap::Args)]
pub(crate) struct ScanArgs {
    #[arg(value_name = "TYPE")]
    entity_type: String,
    #[command(flatten)]
    point: Point,
    /// At most this many; without it: 50 in a table, all as JSON (one object per line)
    #[arg(long)]
    limit: Option<usize>,
    /// Only ids after this one
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    after: String,
}

/// Arguments of `entity load`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// NDJSON files, in this order; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::Put(args) => put(args, client, format).await,
        Command::End(args) => end(args, client, format).await,
        Command::Get(args) => get(args, client, format).await,
        Command::History(args) => history(args, client, format).await,
        Command::Scan(args) => scan(args, client, format).await,
        Command::Load(args) => load_files(args, client, format).await,
    }
}

fn utc(time: Option<&TimeArg>) -> Option<prost_types::Timestamp> {
    time.map(|time| times::timestamp(time.utc()))
}

async fn put(args: &PutArgs, client: &Client, format: Format) -> Result<(), Error> {
    let entity_type = entity_type::get(client, &args.entity_type).await?;
    let until = match (&args.range.to, args.range.forever) {
        (Some(to), _) => put::Until::ValidTo(times::timestamp(to.utc())),
        (None, true) => put::Until::Forever(pb::Forever {}),
        (None, false) => put::Until::UntilNextChange(pb::UntilNextChange {}),
    };
    let operation = Operation::Put(pb::Put {
        attributes: values::from_assignments(&entity_type, &args.attributes)?,
        valid_from: utc(args.range.from.as_ref()),
        until: Some(until),
    });
    write(
        client,
        format,
        &args.entity_type,
        &args.entity_id,
        operation,
        &args.request_id,
    )
    .await
}

async fn end(args: &EndArgs, client: &Client, format: Format) -> Result<(), Error> {
    let until = match (&args.range.to, args.range.forever) {
        (Some(to), _) => end::Until::ValidTo(times::timestamp(to.utc())),
        (None, true) => end::Until::Forever(pb::Forever {}),
        (None, false) => end::Until::UntilNextChange(pb::UntilNextChange {}),
    };
    let operation = Operation::End(pb::End {
        valid_from: utc(args.range.from.as_ref()),
        until: Some(until),
    });
    write(
        client,
        format,
        &args.entity_type,
        &args.entity_id,
        operation,
        &args.request_id,
    )
    .await
}

async fn write(
    client: &Client,
    format: Format,
    entity_type: &str,
    entity_id: &str,
    operation: Operation,
    request_id: &str,
) -> Result<(), Error> {
    let mutation = pb::Mutation {
        entity_type: entity_type.to_owned(),
        entity_id: entity_id.to_owned(),
        operation: Some(operation),
    };
    let request = pb::WriteRequest {
        mutations: vec![mutation],
        request_id: request_id.to_owned(),
    };
    let response = client.store().write(request).await?.into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let basis = times::show_or_dash(response.system_time.as_ref());
    output::line(match (response.replayed, response.versions_written) {
        (true, _) => format!("this request was done before, at basis {basis}"),
        (false, 0) => format!("nothing to write: that is known already (basis {basis})"),
        (false, written) => format!(
            "{} written, at basis {basis}",
            output::counted(written, "version")
        ),
    })
}

async fn get(args: &GetArgs, client: &Client, format: Format) -> Result<(), Error> {
    let (valid_time, basis) = (utc(args.point.at.as_ref()), utc(args.point.basis.as_ref()));
    let entity_type = args.entity_type.clone();
    let [entity_id] = args.entity_ids.as_slice() else {
        let entity_ids = args.entity_ids.clone();
        let request = pb::BatchGetEntitiesRequest {
            entity_type,
            entity_ids,
            valid_time,
            basis,
        };
        let response = client
            .store()
            .batch_get_entities(request)
            .await?
            .into_inner();
        return show_batch(&response, format);
    };
    let request = pb::GetEntityRequest {
        entity_type,
        entity_id: entity_id.clone(),
        valid_time,
        basis,
    };
    let response = client.store().get_entity(request).await?.into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    show_entity(&args.entity_type, entity_id, &response)
}

fn show_entity(
    entity_type: &str,
    entity_id: &str,
    response: &pb::GetEntityResponse,
) -> Result<(), Error> {
    output::line(format!(
        "{entity_type} {entity_id} at {}, as known at {}",
        times::show_or_dash(response.valid_time.as_ref()),
        times::show_or_dash(response.basis.as_ref())
    ))?;
    let Some(version) = &response.version else {
        return output::line(describe(response.outcome()));
    };
    let mut facts = vec![
        (
            "valid",
            format!(
                "{} to {}",
                times::show_or_dash(version.valid_from.as_ref()),
                open_end(version.valid_to)
            ),
        ),
        (
            "known since",
            times::show_or_dash(version.system_from.as_ref()),
        ),
    ];
    if version.ended {
        facts.push(("state", describe(EntityOutcome::Ended).to_owned()));
    }
    let mut attributes: Vec<_> = version.attributes.iter().collect();
    attributes.sort_unstable_by_key(|(name, _)| *name);
    facts.extend(
        attributes
            .into_iter()
            .map(|(name, value)| (name.as_str(), values::show(value))),
    );
    output::facts(&facts)
}

fn show_batch(response: &pb::BatchGetEntitiesResponse, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(response);
    }
    let mut columns = Columns::new(&["entity", "valid from", "valid to", "state"]);
    for entity in &response.entities {
        match (&entity.version, entity.outcome()) {
            (Some(version), EntityOutcome::Value) => columns.row(row![
                &entity.entity_id,
                times::show_or_dash(version.valid_from.as_ref()),
                open_end(version.valid_to),
                values::show_attributes(&version.attributes),
            ]),
            (_, outcome) => columns.row(row![&entity.entity_id, "-", "-", describe(outcome)]),
        }
    }
    columns.print("no entities")
}

fn describe(outcome: EntityOutcome) -> &'static str {
    match outcome {
        EntityOutcome::Value => "has a value",
        EntityOutcome::NotKnown => "not known: nothing was said about this point",
        EntityOutcome::Ended => "ended: it was said that there is no such entity at this point",
        EntityOutcome::Erased => "erased",
        EntityOutcome::Unspecified => "unknown outcome; this client may be older than the server",
    }
}

fn open_end(instant: Option<prost_types::Timestamp>) -> String {
    instant
        .as_ref()
        .map_or_else(|| "open".to_owned(), times::show)
}

async fn history(args: &HistoryArgs, client: &Client, format: Format) -> Result<(), Error> {
    let mut request = pb::ListHistoryRequest {
        entity_type: args.entity_type.clone(),
        entity_id: args.entity_id.clone(),
        valid_range: Some(pb::TimeRange {
            from: utc(args.from.as_ref()),
            to: utc(args.to.as_ref()),
        }),
        system_range: None,
        basis: utc(args.basis.as_ref()),
        page_size: HISTORY_PAGE_SIZE,
        page_token: String::new(),
    };
    let mut versions = Vec::new();
    loop {
        let page = client
            .store()
            .list_history(request.clone())
            .await?
            .into_inner();
        versions.extend(page.versions);
        if page.next_page_token.is_empty() {
            break;
        }
        // All pages are of one world.
        (request.page_token, request.basis) = (page.next_page_token, page.basis);
    }
    if format == Format::Json {
        return output::json(&Listed {
            field: "versions",
            items: &versions,
        });
    }
    let mut columns = Columns::new(&["valid from", "valid to", "known from", "known to", "state"]);
    for version in &versions {
        columns.row(row![
            times::show_or_dash(version.valid_from.as_ref()),
            open_end(version.valid_to),
            times::show_or_dash(version.system_from.as_ref()),
            open_end(version.system_to),
            if version.ended {
                "(ended)".to_owned()
            } else {
                values::show_attributes(&version.attributes)
            },
        ]);
    }
    columns.print("nothing is known about it in this range")
}

async fn scan(args: &ScanArgs, client: &Client, format: Format) -> Result<(), Error> {
    let entity_type = entity_type::get(client, &args.entity_type).await?;
    let request = pb::ScanEntitiesRequest {
        entity_type: args.entity_type.clone(),
        valid_time: utc(args.point.at.as_ref()),
        basis: utc(args.point.basis.as_ref()),
        after_entity_id: args.after.clone(),
    };
    let limit = args.limit.unwrap_or(if format == Format::Json {
        usize::MAX
    } else {
        TABLE_LIMIT
    });
    let names: Vec<&str> = entity_type
        .attributes
        .iter()
        .map(|attribute| attribute.name.as_str())
        .collect();
    let mut columns = Columns::new(&[&["entity", "valid from"], names.as_slice()].concat());
    let mut stream = client.store().scan_entities(request).await?.into_inner();
    let (mut shown, mut last_id) = (0, String::new());
    while let Some(message) = stream.message().await? {
        for version in message.versions {
            if shown == limit {
                return cut_scan(&columns, format, &last_id);
            }
            match format {
                Format::Json => output::json_line(&version)?,
                Format::Table => columns.row(scan_row(&version, &names)),
            }
            shown += 1;
            last_id = version.entity_id;
        }
    }
    if format == Format::Json {
        Ok(())
    } else {
        columns.print("no entity has a value at this point")
    }
}

fn scan_row(version: &pb::Version, names: &[&str]) -> Vec<output::Field> {
    let attributes = names.iter().map(|name| {
        version
            .attributes
            .get(*name)
            .map_or("-".to_owned(), values::show)
    });
    [
        version.entity_id.clone(),
        times::show_or_dash(version.valid_from.as_ref()),
    ]
    .into_iter()
    .chain(attributes)
    .map(output::Field::from)
    .collect()
}

fn cut_scan(columns: &Columns, format: Format, last_id: &str) -> Result<(), Error> {
    if format == Format::Json {
        return Ok(());
    }
    columns.print("none shown")?;
    output::line(format!(
        "… there are more: --limit N shows more, --after {last_id} goes on from here"
    ))
}

async fn load_files(args: &LoadArgs, client: &Client, format: Format) -> Result<(), Error> {
    for path in &args.files {
        let report = load::load(client, path).await?;
        match format {
            Format::Json => output::json_value_line(&report)?,
            Format::Table => output::line(format!("{}: {}", path.display(), report.describe()))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_ends_are_named() {
        assert_eq!(open_end(None), "open");
        assert_eq!(
            open_end(Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 0
            })),
            "1970-01-01T00:00:00Z"
        );
    }
}
