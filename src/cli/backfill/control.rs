//! `hindcast backfill cancel | pause | resume | set-concurrency | retry | restate`: changing what runs.

use std::sync::Arc;

use super::{args::RestateArgs, show, transforms};
use crate::{
    cli::{
        Outcome,
        client::{Client, required},
        error::Error,
        json::enum_name,
        output::{self, Format},
        times, watch,
    },
    pb::{self, BackfillState},
    time::Clock,
};

pub(super) async fn cancel(name: &str, client: &Client, format: Format) -> Result<(), Error> {
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
    let state = state_word(&backfill);
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

pub(super) async fn pause(name: &str, client: &Client, format: Format) -> Result<(), Error> {
    let request = pb::PauseBackfillRequest {
        name: name.to_owned(),
    };
    let response = client.backfills().pause_backfill(request).await?;
    let backfill = required(response.into_inner().backfill, "backfill")?;
    let running = backfill.partition_counts.map_or(0, |counts| counts.running);
    let text = match running {
        0 => String::new(),
        running => format!(
            "; {} under way {} on",
            output::counted(u64::from(running), "partition"),
            if running == 1 { "goes" } else { "go" }
        ),
    };
    tell(&backfill, &text, format)
}

pub(super) async fn resume(name: &str, client: &Client, format: Format) -> Result<(), Error> {
    let request = pb::ResumeBackfillRequest {
        name: name.to_owned(),
    };
    let response = client.backfills().resume_backfill(request).await?;
    let backfill = required(response.into_inner().backfill, "backfill")?;
    tell(&backfill, "", format)
}

pub(super) async fn set_concurrency(
    name: &str,
    max_active_partitions: u32,
    client: &Client,
    format: Format,
) -> Result<(), Error> {
    let request = pb::SetBackfillConcurrencyRequest {
        name: name.to_owned(),
        max_active_partitions,
    };
    let response = client.backfills().set_backfill_concurrency(request).await?;
    let backfill = required(response.into_inner().backfill, "backfill")?;
    let at_once = backfill
        .spec
        .as_ref()
        .map_or(0, |spec| spec.max_active_partitions);
    tell(
        &backfill,
        &format!(", {at_once} at once from now on"),
        format,
    )
}

pub(super) async fn retry(
    name: &str,
    watch: bool,
    client: &Client,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    // Watching goes on after the end that is retried.
    let after_sequence = super::fetch(client, name).await?.last_sequence;
    let request = pb::RetryBackfillRequest {
        name: name.to_owned(),
    };
    let response = client.backfills().retry_backfill(request).await?;
    let backfill = required(response.into_inner().backfill, "backfill")?;
    let counts = watch::describe_counts(backfill.partition_counts.as_ref());
    tell(&backfill, &format!(" again: {counts}"), format)?;
    if watch {
        return watch::run(client, name, after_sequence, format, clock).await;
    }
    Ok(Outcome::Done)
}

pub(super) async fn restate(
    args: &RestateArgs,
    client: &Client,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    let zone = transforms::zone(&super::fetch(client, &args.name).await?.transforms)?;
    let resolve = |time: &Option<times::TimeArg>| -> Result<_, Error> {
        match time {
            Some(time) => Ok(Some(times::timestamp(time.resolve(zone)?))),
            None => Ok(None),
        }
    };
    let request = pb::RestateBackfillRequest {
        name: args.name.clone(),
        range: Some(pb::TimeRange {
            from: resolve(&args.from)?,
            to: resolve(&args.to)?,
        }),
        revision: args.revision,
        validate_only: args.plan,
        request_id: args.request_id.clone(),
        expected_plan_hash: args.expected_plan_hash.clone(),
    };
    let response = client.backfills().restate_backfill(request).await?;
    let response = response.into_inner();
    if args.plan {
        let plan = required(response.plan, "plan")?;
        match format {
            Format::Json => output::json(&plan)?,
            Format::Table => show::show_plan(&plan, args.all)?,
        }
        return Ok(Outcome::Done);
    }
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
    Ok(Outcome::Done)
}

fn state_word(backfill: &pb::Backfill) -> String {
    enum_name::<BackfillState>(backfill.state)
        .to_lowercase()
        .replace('_', " ")
}

/// `bf-01k5 is paused; 2 partitions under way go on`.
fn tell(backfill: &pb::Backfill, more: &str, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(backfill);
    }
    output::line(format!(
        "{} is {}{more}",
        backfill.name,
        state_word(backfill)
    ))
}
