//! `hindcast quickstart`: the whole of hindcast on real data, told as a story on screen.
//!
//! It uses the API as any client would; only the server runs in this process. Safe to run again: definitions are
//! unchanged, entities are known already, partitions are replaced by equal ones, and backfills that an interrupted run
//! left behind are waited for.

mod correction;
mod rows;
mod runs;
mod story;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use self::story::Story;
use super::{
    apply,
    client::{Client, Credentials},
    definitions,
    error::Error,
    load, output, times,
};
use crate::{
    pb::{self, Knowledge},
    server::{self, ServerConfig},
    time::Clock,
};

/// Where the quickstart keeps its data unless told otherwise.
const DEFAULT_DATA_DIR: &str = "hindcast-quickstart";
/// The example that is part of the source tree.
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/flights");
/// The zone in which the example's days begin.
const ZONE: chrono_tz::Tz = chrono_tz::America::New_York;
/// The example's days, [from, to).
const DAYS: (&str, &str) = ("2013-01-01", "2013-04-01");
/// The transform whose days stand alone.
const PUNCTUALITY: &str = "daily_punctuality";
/// The transform whose days build on each other.
const TOTALS: &str = "aircraft_totals";

/// Shows all of hindcast on real data, in under a minute
///
/// Starts a server on a free port of this machine, loads New York's flights, aircraft and weather of early 2013, runs two
/// backfills with progress on screen, and shows what a bitemporal store is good for: correct the past, and still get the
/// old answer.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Safe to run again. Examples:\n  hindcast quickstart\n  hindcast quickstart --data-dir /tmp/hq"
)]
pub(crate) struct Args {
    /// The folder for everything that it makes
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The port of its server on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The folder with the example's data; without it: examples/flights of the source tree
    #[arg(long, value_name = "DIR")]
    examples: Option<PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(args: &Args, clock: Arc<dyn Clock>) -> Result<(), Error> {
    let examples = find_examples(args.examples.as_deref())?;
    let mut config = ServerConfig::new(args.data_dir.clone());
    config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let mut story = Story::new(Arc::clone(&clock));
    let server = server::start(config, Arc::clone(&clock)).await?;
    story.title("hindcast: run today's model on yesterday's world")?;
    let url = format!("http://{}", server.local_addr());
    // The server stops in order, whatever comes of the story.
    let told = tokio::select! {
        told = tell(&mut story, &url, &examples, args, &clock) => told,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(Error::from).and(Err(Error::Failed("interrupted; it is safe to run again".to_owned())))
        }
    };
    let stopped = server.shutdown().await;
    told?;
    Ok(stopped?)
}

fn find_examples(given: Option<&Path>) -> Result<PathBuf, Error> {
    let folder = given.unwrap_or(Path::new(EXAMPLES));
    if folder.join("hindcast.toml").is_file() {
        return Ok(folder.to_owned());
    }
    Err(Error::Configuration(format!(
        "the example's data is not in {}: run this in a checkout of hindcast, or name its examples/flights folder with \
         --examples",
        folder.display()
    )))
}

async fn tell(
    story: &mut Story,
    url: &str,
    examples: &Path,
    args: &Args,
    clock: &Arc<dyn Clock>,
) -> Result<(), Error> {
    story.step("A server")?;
    story.say(&format!(
        "It runs in this process at {url} and keeps everything in {}.",
        story::short_path(&args.data_dir)
    ))?;
    let client = Client::connect(url, &Credentials::default()).await?;
    define(story, &client, examples).await?;
    load_entities(story, &client, examples).await?;
    run_backfills(story, &client, clock).await?;
    correction::tell(story, &client, clock).await?;
    end(story, &client, args).await
}

async fn define(story: &mut Story, client: &Client, examples: &Path) -> Result<(), Error> {
    let file = examples.join("hindcast.toml");
    story.step("Definitions")?;
    story.say(&format!("hindcast apply -f {}", story::short_path(&file)))?;
    story.say(
        "Each transform is planned now: a wrong column is an error here, not in partition 57.",
    )?;
    apply::apply(client, definitions::read(&file)?, |applied| {
        story.show(&applied.describe())
    })
    .await
}

async fn load_entities(story: &mut Story, client: &Client, examples: &Path) -> Result<(), Error> {
    story.step("Entities: what was true, when")?;
    story.say(
        "Aircraft, and the weather at three airports: each hourly reading is valid until the next one. Every write is on \
         disk before it is acknowledged; writing what is known already writes nothing.",
    )?;
    let corrected_before = correction::is_in_place(client).await?;
    for file in ["aircraft.ndjson", "airport_weather.ndjson"] {
        let started = story.now();
        let path = examples.join("entities").join(file);
        let report = load::load(client, &path, &load::Options::default()).await?;
        story.show(&format!(
            "{file}: {} ({})",
            report.describe(),
            story.since(started)
        ))?;
    }
    if corrected_before {
        story.say(
            "An earlier run corrected one reading; the file has the original, so loading puts that back, as one more \
             version. Its whole history stays.",
        )?;
    }
    Ok(())
}

async fn run_backfills(
    story: &mut Story,
    client: &Client,
    clock: &Arc<dyn Clock>,
) -> Result<(), Error> {
    story.step("A backfill in parallel")?;
    story.say(
        "daily_punctuality, 90 days: each flight joined to the weather at its own departure time, and to its aircraft. \
         No day can see anything that happened after it. Days stand alone, so they run side by side.",
    )?;
    let all_days = |transform| spec(transform, DAYS, Knowledge::AsKnownNow, None);
    runs::run(story, client, clock, all_days(PUNCTUALITY)?).await?;
    story.step("A backfill in order")?;
    story.say(
        "aircraft_totals, 90 days: each aircraft's flights so far. A day needs the day before (`prior`), so they run one \
         after the other, each reading what the last one wrote.",
    )?;
    runs::run(story, client, clock, all_days(TOTALS)?).await
}

/// A backfill over whole days of the example.
fn spec(
    transform: &str,
    (from, to): (&str, &str),
    knowledge: Knowledge,
    basis: Option<prost_types::Timestamp>,
) -> Result<pb::BackfillSpec, Error> {
    let instant =
        |text: &str| -> Result<_, Error> { Ok(text.parse::<times::TimeArg>()?.resolve(ZONE)?) };
    Ok(pb::BackfillSpec {
        transform: transform.to_owned(),
        from: Some(times::timestamp(instant(from)?)),
        to: Some(times::timestamp(instant(to)?)),
        knowledge: knowledge.into(),
        basis,
        ..Default::default()
    })
}

async fn end(story: &mut Story, client: &Client, args: &Args) -> Result<(), Error> {
    story.step("What there is now")?;
    let tables = client
        .catalog()
        .list_tables(pb::ListTablesRequest {})
        .await?
        .into_inner()
        .tables;
    for table in &tables {
        let size = times::show_size(table.size_bytes);
        story.show(&format!(
            "table {}: {}, {size}",
            table.name,
            output::counted(table.row_count, "row")
        ))?;
        story.show(&format!(
            "  Iceberg, for any reader, in {}",
            output::local_path(&table.location)
        ))?;
    }
    let hindcast = story::program();
    let data_dir = story::short_path(&args.data_dir);
    story.step("What to type next")?;
    story.command(
        &format!("{hindcast} serve --data-dir {data_dir} &"),
        "the same data, served at 127.0.0.1:4780",
    )?;
    story.command(
        &format!(
            "{hindcast} table rows {PUNCTUALITY} --from {} --to {}",
            correction::DAY.0,
            correction::DAY.1
        ),
        "one day's rows",
    )?;
    story.command(
        &format!("{hindcast} {}", correction::HISTORY_COMMAND),
        "the corrected reading, every version",
    )?;
    story.command(
        &format!("{hindcast} backfill list"),
        "every backfill so far",
    )?;
    story.command(&format!("{hindcast} --help"), "all the rest")?;
    story.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_examples_are_named() {
        let error = find_examples(Some(Path::new("/nowhere"))).expect_err("not there");
        assert_eq!(error.exit_code(), 64);
        assert!(error.to_string().contains("is not in /nowhere"));
    }

    #[test]
    fn days_are_new_yorks() {
        let spec = spec(PUNCTUALITY, DAYS, Knowledge::AsKnownNow, None).expect("valid");
        assert_eq!(
            spec.from.as_ref().map(times::show).as_deref(),
            Some("2013-01-01T05:00:00Z")
        );
        assert_eq!(
            spec.to.as_ref().map(times::show).as_deref(),
            Some("2013-04-01T04:00:00Z")
        );
    }
}
