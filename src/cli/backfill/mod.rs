//! `hindcast backfill`: planning, starting and looking after backfills.

mod args;
mod control;
mod list;
mod show;
mod stale;
mod transforms;

use std::sync::Arc;

use self::args::{CreateArgs, PlanArgs, RestateArgs, WatchArgs};
pub(crate) use self::transforms::short_names;
use super::{
    Outcome,
    client::{Client, required},
    error::Error,
    output::{self, Format},
    watch,
};
use crate::{pb, time::Clock};

const RANGE_HELP: &str = "\
Times: --from and --to are partition boundaries, 2013-01-01 or 2013-01-01T05:00
in the transform's time zone, or RFC 3339. A local time that occurs twice, where
clocks are set back, is the earlier one; one that clocks skip is refused.

--knowledge says which world the partitions see. It has no default, because the
wrong one is silently wrong:
  as-known-then   what was known at each partition's end plus
                  --availability-delay: what a pipeline running that night
                  would have computed; training data without leaks
  as-known-now    what is known when the backfill is created, later corrections
                  included: what really was true
  at-basis        what was known at --basis: the exact re-run of an earlier
                  backfill

Examples:
  hindcast backfill plan daily_punctuality --from 2013-01-01 --to 2013-04-01 \\
    --knowledge as-known-now
  hindcast backfill create daily_punctuality --from 2013-01-01 --to 2013-04-01 \\
    --knowledge as-known-now --watch
  hindcast backfill create daily_punctuality --from 2013-02-08 --to 2013-02-09 \\
    --knowledge at-basis --basis 2026-03-01T12:00:00Z

Several transforms run as one backfill: a partition waits for those partitions of
the others that it reads. Where their calendars differ, --from and --to lie on one
of them, and the others run the partitions that lie wholly between:
  hindcast backfill create daily_delays weekly_delays \\
    --from 2013-01-07 --to 2013-04-01 --knowledge as-known-now --watch";

/// Backfills: one transform over a range of partitions, all pinned at creation
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
    List(list::ListArgs),
    /// Lists the partitions of a backfill, by start
    Partitions(list::PartitionsArgs),
    /// Lists published partitions that would come out otherwise now, and why
    #[command(after_help = stale::HELP)]
    Stale(stale::StaleArgs),
    /// Stops a backfill: nothing new starts, published partitions stay
    Cancel {
        /// Its name
        name: String,
    },
    /// Lets nothing new start; running attempts go on
    Pause {
        /// Its name
        name: String,
    },
    /// Lets a paused backfill go on
    Resume {
        /// Its name
        name: String,
    },
    /// Sets how many partitions may compute at once, while it runs
    SetConcurrency {
        /// Its name
        name: String,
        /// 1 to 64
        max_active_partitions: u32,
    },
    /// Takes up again what an ended backfill failed to publish, in the same pinned world
    #[command(
        after_help = "Failed and upstream-failed partitions run again, and those left out by --stop-on-first-failure; \
        attempts are numbered on.\n\nExample:\n  hindcast backfill retry bf-01k5 --watch"
    )]
    Retry {
        /// Its name
        name: String,
        /// Follow it to its end, as `backfill watch` does
        #[arg(long, short)]
        watch: bool,
    },
    /// Runs all or a part of a backfill's range anew, as a new backfill with its settings
    #[command(
        after_help = "Every partition of the range runs. Where each reads what the earlier ones wrote, all up to the end of \
        the backfill's range run; --plan shows it.\n\n\
        Example:\n  hindcast backfill restate bf-01k5 --from 2013-02-08 --to 2013-02-10 --plan"
    )]
    Restate(RestateArgs),
    /// Follows a backfill to its end: exit code 0 if it succeeded, 1 otherwise
    #[command(
        after_help = "On a terminal: a bar with counts, rate and time left. Otherwise a line per event; with \
        `-o json` an object per message.\nInterrupting leaves the backfill running.\n\n\
        Example:\n  hindcast backfill watch bf-01k5 --after-sequence 120"
    )]
    Watch(WatchArgs),
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
        Command::List(args) => list::list(args, client, format).await.map(Outcome::from),
        Command::Partitions(args) => list::partitions(args, client, format)
            .await
            .map(Outcome::from),
        Command::Stale(args) => stale::stale(args, client, format).await.map(Outcome::from),
        Command::Cancel { name } => control::cancel(name, client, format)
            .await
            .map(Outcome::from),
        Command::Pause { name } => control::pause(name, client, format)
            .await
            .map(Outcome::from),
        Command::Resume { name } => control::resume(name, client, format)
            .await
            .map(Outcome::from),
        Command::SetConcurrency {
            name,
            max_active_partitions,
        } => control::set_concurrency(name, *max_active_partitions, client, format)
            .await
            .map(Outcome::from),
        Command::Retry { name, watch } => control::retry(name, *watch, client, format, clock).await,
        Command::Restate(args) => control::restate(args, client, format, clock).await,
        Command::Watch(args) => match &args.name {
            Some(name) => watch::run(client, name, args.after_sequence, format, clock).await,
            None => {
                let labels = args::labels(&args.labels)?;
                watch::run_all(client, &args.transform, labels, format, clock).await
            }
        },
    }
}

async fn plan(args: &PlanArgs, client: &Client, format: Format) -> Result<(), Error> {
    let spec = args::spec(&args.spec, client).await?;
    let request = pb::PlanBackfillRequest { spec: Some(spec) };
    let response = client
        .backfills()
        .plan_backfill(request)
        .await?
        .into_inner();
    let plan = required(response.plan, "plan")?;
    if format == Format::Json {
        return output::json(&plan);
    }
    show::show_plan(&plan, args.all)?;
    show::show_in_the_way(&response.in_the_way)
}

async fn create(
    args: &CreateArgs,
    client: &Client,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    let request = pb::CreateBackfillRequest {
        spec: Some(args::spec(&args.spec, client).await?),
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
        Format::Table => show::show_warnings(&response.warnings)?,
    }
    let backfill = required(response.backfill, "backfill")?;
    if format == Format::Table {
        output::line(show::describe_created(&backfill))?;
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
        show::show(&backfill)
    }
}
