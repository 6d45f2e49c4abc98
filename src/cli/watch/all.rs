//! Following all backfills, a line for each change.

use std::collections::HashMap;

use super::describe_counts;
use crate::{
    cli::{
        Outcome,
        client::Client,
        error::Error,
        json::enum_name,
        output::{self, Format},
    },
    pb::{self, BackfillState, watch_backfills_response::Message},
};

/// Runs `backfill watch --all`: until it is interrupted, or the server ends it.
pub(crate) async fn run_all(
    client: &Client,
    transform: &str,
    labels: HashMap<String, String>,
    format: Format,
) -> Result<Outcome, Error> {
    let request = pb::WatchBackfillsRequest {
        transform: transform.to_owned(),
        labels,
        include_ended: false,
    };
    let mut stream = client
        .backfills()
        .watch_backfills(request)
        .await?
        .into_inner();
    loop {
        let response = tokio::select! {
            response = stream.message() => response?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(Outcome::Done);
            }
        };
        match response {
            Some(response) if format == Format::Json => output::json_line(&response)?,
            Some(response) => {
                if let Some(line) = describe(&response) {
                    output::line(line)?;
                }
            }
            None => return Ok(Outcome::Done),
        }
    }
}

/// `bf-01k5 daily_punctuality running: 88 succeeded, 2 running`.
fn describe(response: &pb::WatchBackfillsResponse) -> Option<String> {
    match response.message.as_ref()? {
        Message::Backfill(backfill) => {
            let spec = backfill.spec.clone().unwrap_or_default();
            let state = enum_name::<BackfillState>(backfill.state)
                .to_lowercase()
                .replace('_', " ");
            let counts = describe_counts(backfill.partition_counts.as_ref());
            Some(format!(
                "{} {} {state}: {counts}",
                backfill.name, spec.transform
            ))
        }
        Message::InitialDone(done) if done.backfill_count == 0 => {
            Some("no backfill is active; waiting for what comes".to_owned())
        }
        Message::InitialDone(_) | Message::Heartbeat(_) => None,
    }
}
