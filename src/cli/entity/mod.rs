//! `hindcast entity`: writing and reading entities on two time axes.

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

const LOAD_HELP: &str = r#"Each line is one mutation:
  {"entity_type": "aircraft", "entity_id": "N14228", "attributes": {"seats": 149},
   "valid_from": "1999-01-01T00:00:00Z", "until": "forever"}

  op           "put" (the default) or "end"
  attributes   of a put; null is the same as leaving one out ("value" is another name for it)
  valid_from   inclusive; without it: the time of the commit
  valid_to     exclusive; or "until": "forever" or "next_change" (the default)

Decimals may be strings, timestamps and dates are strings, bytes are base64.
Lines are sent in batches, each of them all or nothing; loading the same file
again writes nothing.

Example:
  hindcast entity load examples/flights/entities/aircraft.ndjson"#;

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
        Command::Put(args) => write::put(args, client, format).await,
        Command::End(args) => write::end(args, client, format).await,
        Command::Patch(args) => write::patch(args, client, format).await,
        Command::Erase(args) => write::erase(args, client, format).await,
        Command::Get(args) => read::get(args, client, format).await,
        Command::History(args) => read::history(args, client, format).await,
        Command::Scan(args) => read::scan(args, client, format).await,
        Command::Load(args) => load_files(args, client, format).await,
    }
}

fn utc(time: Option<&TimeArg>) -> Option<prost_types::Timestamp> {
    time.map(|time| times::timestamp(time.utc()))
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
