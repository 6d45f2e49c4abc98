//! `hindcast entity`: writing and reading entities on two time axes.

mod changes;
mod lookup;
mod read;
mod write;

use std::path::PathBuf;

use super::{
    client::Client,
    error::Error,
    load,
    output::{self, Format},
    times::{self, TimeArg},
};

const TIMES: &str = "\
Times: RFC 3339 (2013-02-08T07:00:00-05:00), or 2013-02-08 or 2013-02-08T12:00,
taken as UTC. Valid time is when something is true in the world; the basis is
the system time up to which hindcast knew about it.";

/// Entities: what is true when, and since when hindcast knows it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Gives an entity these attributes over a range of valid time
    #[command(after_help = format!("{TIMES}\n\n{PUT_HELP}"))]
    Put(write::PutArgs),
    /// Says that there is no such entity over a range of valid time
    #[command(after_help = TIMES)]
    End(write::EndArgs),
    /// Changes some attributes wherever the entity has values over a range of valid time
    #[command(after_help = format!("{TIMES}\n\n{PATCH_HELP}"))]
    Patch(write::PatchArgs),
    /// Removes an entity for good: all its versions at every basis, for privacy law
    #[command(after_help = ERASE_HELP)]
    Erase(write::EraseArgs),
    /// Shows one entity as of a point in time
    #[command(after_help = format!("{TIMES}\n\n{GET_HELP}"))]
    Get(read::GetArgs),
    /// Shows every version of an entity, corrected ones included
    #[command(after_help = TIMES)]
    History(read::HistoryArgs),
    /// Shows every entity of a type as of a point in time
    #[command(after_help = TIMES)]
    Scan(read::ScanArgs),
    /// Looks up many entities, each at its own instant, in the order of a file
    #[command(after_help = format!("{LOOKUP_HELP}\n\n{TIMES}"))]
    Lookup(lookup::LookupArgs),
    /// Shows what commits changed, and what they changed it to
    #[command(after_help = TIMES)]
    Changes(changes::ChangesArgs),
    /// Loads entities from a file, one JSON object per line
    #[command(after_help = LOAD_HELP)]
    Load(LoadArgs),
}

const PUT_HELP: &str = "\
Attributes that are not named are null. Without --to and --forever the values
hold until the timeline next changes. Putting what is there already writes
nothing.

Examples:
  hindcast entity put aircraft N14228 model=737-824 seats=149 \\
    --from 1999-01-01 --forever
  hindcast entity put airport_weather JFK temp=31.5 \\
    --from 2013-02-08T12:00 --to 2013-02-08T13:00";

const PATCH_HELP: &str = "\
Attributes that are not named stay as they are. Where there is no value, nothing
happens.

Example:
  hindcast entity patch aircraft N14228 seats=150 --from 2013-01-01 --forever";

const ERASE_HELP: &str = "\
What is left is a mark that the entity was erased, with its type and id, and the
digests of what the log said of it. It cannot be undone. Bytes in the data
folder's files go when the storage engine reuses their place; restoring a backup
into a new folder leaves none.

Example:
  hindcast entity erase customer 4711";

const GET_HELP: &str = "\
Examples:
  hindcast entity get airport_weather JFK --at 2013-02-08T12:00
  hindcast entity get airport_weather JFK --at 2013-02-08T12:00 \\
    --basis 2026-03-01T00:00:00Z";

const LOOKUP_HELP: &str = r#"Each row names an entity and an instant, as a JSON object per line or as CSV with
a heading (a file whose name ends in .csv, or --csv):
  {"entity_id": "JFK", "valid_time": "2013-02-08T12:00:00Z"}

  entity_id    required
  valid_time   required: RFC 3339, or a date or time that is taken as UTC
  basis        what was known then; without it: --basis

Examples:
  hindcast entity lookup airport_weather --rows departures.csv --max-age 2h
  hindcast entity lookup aircraft --rows - --strict --attributes seats < rows.ndjson"#;

const LOAD_HELP: &str = r#"Each line is one mutation:
  {"entity_type": "aircraft", "entity_id": "N14228", "attributes": {"seats": 149},
   "valid_from": "1999-01-01T00:00:00Z", "until": "forever"}

  op           "put" (the default), "patch", "end" or "erase"
  attributes   of a put, where null is the same as leaving one out, or of a patch, where
               null sets null ("value" is another name for it)
  valid_from   inclusive; without it: the time of the commit
  valid_to     exclusive; or "until": "forever" or "next_change" (the default)
  system_time  of types that are being imported, and required for them: when this was
               learned where it comes from; never earlier than in the line before

Decimals may be strings, timestamps and dates are strings, bytes are base64.
Files that end in .gz are read as such. Lines are sent in batches, each of them all
or nothing, and acknowledged when they are on disk. A load that was cut off says how
to go on after the last line that is on disk; loading a whole file again writes
nothing, unless its type is being imported: then it is refused.

Examples:
  hindcast entity load examples/flights/entities/aircraft.ndjson
  hindcast entity load --resume nightly-07 readings.ndjson.gz"#;

/// Arguments of `entity load`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// NDJSON files, in this order; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Goes on with the load of this name after its last line that is on disk, or starts it; for one file
    #[arg(long, value_name = "NAME")]
    resume: Option<String>,
    /// A field of the lines that says nothing; may be given more than once
    #[arg(long, value_name = "FIELD")]
    ignore: Vec<String>,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::Put(args) => write::put(args, client, format).await,
        Command::End(args) => write::end(args, client, format).await,
        Command::Patch(args) => write::patch(args, client, format).await,
        Command::Erase(args) => write::erase(args, client, format).await,
        Command::Get(args) => read::get(args, client, format).await,
        Command::History(args) => read::history(args, client, format).await,
        Command::Scan(args) => read::scan(args, client, format).await,
        Command::Lookup(args) => lookup::lookup(args, client, format).await,
        Command::Changes(args) => changes::changes(args, client, format).await,
        Command::Load(args) => load_files(args, client, format).await,
    }
}

fn utc(time: Option<&TimeArg>) -> Option<prost_types::Timestamp> {
    time.map(|time| times::timestamp(time.utc()))
}

async fn load_files(args: &LoadArgs, client: &Client, format: Format) -> Result<(), Error> {
    if args.resume.is_some() && args.files.len() > 1 {
        return Err(Error::Usage(
            "--resume goes with one file: a load's name belongs to one".to_owned(),
        ));
    }
    let options = load::Options {
        resume: args.resume.clone(),
        ignore: args.ignore.clone(),
    };
    for path in &args.files {
        let report = load::load(client, path, &options).await?;
        match format {
            Format::Json => output::json_value_line(&report)?,
            Format::Table => output::line(format!("{}: {}", path.display(), report.describe()))?,
        }
    }
    Ok(())
}
