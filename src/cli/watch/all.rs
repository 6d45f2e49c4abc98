//! Following all backfills, a line for each change, over broken connections.
//!
//! What was told is remembered by its sequence: a watcher that comes back tells what changed meanwhile, and nothing twice.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{RECONNECT_WAITS_MS, describe_counts, describe_loss, is_over};
use crate::{
    cli::{
        Outcome,
        backfill::short_names,
        client::Client,
        error::Error,
        json::enum_name,
        output::{self, Format},
    },
    pb::{self, BackfillState, watch_backfills_response::Message},
    time::Clock,
};

/// Runs `backfill watch --all`: until it is interrupted, or the server stays unreachable for [`RECONNECT_WAITS_MS`].
pub(crate) async fn run_all(
    client: &Client,
    transform: &str,
    labels: HashMap<String, String>,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    let request = pb::WatchBackfillsRequest {
        transform: transform.to_owned(),
        labels,
        include_ended: false,
    };
    let mut told = Told {
        newest: newest(client).await?,
        sequences: BTreeMap::new(),
        format,
    };
    tokio::select! {
        lost = follow(client, request, &mut told, clock) => lost,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Outcome::Done)
        }
    }
}

async fn follow(
    client: &Client,
    mut request: pb::WatchBackfillsRequest,
    told: &mut Told,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    let mut waits = RECONNECT_WAITS_MS.into_iter();
    loop {
        let reason = match stream_once(client, &request, told, &mut waits).await {
            Ok(()) => "the server ended the stream".to_owned(),
            Err(error) if error.is_connection_loss() => error.to_string(),
            Err(error) => return Err(error),
        };
        let Some(wait) = waits.next().map(Duration::from_millis) else {
            return Err(Error::Failed(format!(
                "lost the connection to {}: {reason}",
                client.url()
            )));
        };
        // What ended meanwhile is told too.
        request.include_ended = true;
        eprintln!("{}", describe_loss(&reason, wait));
        clock.sleep(wait).await;
    }
}

/// Tells one stream until it ends, cleanly or not. Once it is there the waits for the next one begin anew.
async fn stream_once(
    client: &Client,
    request: &pb::WatchBackfillsRequest,
    told: &mut Told,
    waits: &mut std::array::IntoIter<u64, { RECONNECT_WAITS_MS.len() }>,
) -> Result<(), Error> {
    let comes_back = request.include_ended;
    told.begin();
    let mut stream = client
        .backfills()
        .watch_backfills(request.clone())
        .await?
        .into_inner();
    let mut initial = true;
    while let Some(response) = stream.message().await? {
        *waits = RECONNECT_WAITS_MS.into_iter();
        match &response.message {
            Some(Message::Backfill(backfill)) => {
                let is_news = !initial || told.is_news(backfill, comes_back);
                told.remember(backfill);
                if is_news {
                    told.tell(&response)?;
                }
            }
            Some(Message::InitialDone(_)) => {
                initial = false;
                if !comes_back {
                    told.tell(&response)?;
                }
            }
            Some(Message::Heartbeat(_)) | None => told.tell(&response)?,
        }
    }
    Ok(())
}

/// The name of the newest backfill; none is like one before all.
async fn newest(client: &Client) -> Result<String, Error> {
    let request = pb::ListBackfillsRequest {
        page_size: 1,
        ..Default::default()
    };
    let listed = client.backfills().list_backfills(request).await?;
    let first = listed.into_inner().backfills.into_iter().next();
    Ok(first.map_or_else(String::new, |backfill| backfill.name))
}

/// What was told so far.
struct Told {
    /// The newest backfill there was when it began, or that was told since. Names sort by creation.
    newest: String,
    /// The last event of each that was told.
    sequences: BTreeMap<String, u64>,
    format: Format,
}

impl Told {
    /// Whether the state of a backfill that was there when the stream began is news. One that ended before the watch is not.
    fn is_news(&self, backfill: &pb::Backfill, comes_back: bool) -> bool {
        match self.sequences.get(&backfill.name) {
            Some(sequence) => *sequence != backfill.last_sequence,
            None => !comes_back || backfill.name > self.newest || !is_over(backfill.state()),
        }
    }

    fn remember(&mut self, backfill: &pb::Backfill) {
        let sequence = backfill.last_sequence;
        self.sequences.insert(backfill.name.clone(), sequence);
    }

    /// A stream begins: what is newer than all that was told so far came meanwhile.
    fn begin(&mut self) {
        let last = self.sequences.keys().next_back();
        if let Some(last) = last.filter(|last| **last > self.newest) {
            self.newest.clone_from(last);
        }
    }

    fn tell(&self, response: &pb::WatchBackfillsResponse) -> Result<(), Error> {
        match self.format {
            Format::Json => output::json_line(response),
            Format::Table => match describe(response) {
                Some(line) => output::line(line),
                None => Ok(()),
            },
        }
    }
}

/// `bf-01k5 daily_punctuality running: 88 succeeded, 2 running`.
fn describe(response: &pb::WatchBackfillsResponse) -> Option<String> {
    match response.message.as_ref()? {
        Message::Backfill(backfill) => {
            let state = enum_name::<BackfillState>(backfill.state)
                .to_lowercase()
                .replace('_', " ");
            let counts = describe_counts(backfill.partition_counts.as_ref());
            Some(format!(
                "{} {} {state}: {counts}",
                backfill.name,
                short_names(&backfill.transforms)
            ))
        }
        Message::InitialDone(done) if done.backfill_count == 0 => {
            Some("no backfill is active; waiting for what comes".to_owned())
        }
        Message::InitialDone(_) | Message::Heartbeat(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backfill(name: &str, state: BackfillState, last_sequence: u64) -> pb::Backfill {
        pb::Backfill {
            name: name.to_owned(),
            state: state.into(),
            last_sequence,
            ..Default::default()
        }
    }

    #[test]
    fn who_comes_back_hears_what_changed_and_nothing_twice() {
        let mut told = Told {
            newest: "bf-2".to_owned(),
            sequences: BTreeMap::new(),
            format: Format::Table,
        };
        let (running, done) = (BackfillState::Running, BackfillState::Succeeded);
        assert!(told.is_news(&backfill("bf-2", running, 3), false));
        told.remember(&backfill("bf-2", running, 3));
        assert!(!told.is_news(&backfill("bf-1", done, 9), true), "long over");
        assert!(
            told.is_news(&backfill("bf-1", running, 11), true),
            "retried"
        );
        assert!(!told.is_news(&backfill("bf-2", running, 3), true));
        assert!(told.is_news(&backfill("bf-2", done, 7), true));
        told.remember(&backfill("bf-4", running, 2));
        assert!(told.is_news(&backfill("bf-3", done, 7), true), "missed");
        told.begin();
        assert!(!told.is_news(&backfill("bf-3", done, 7), true));
    }
}
