//! Following a backfill to its end, over broken connections, and showing it.
//!
//! Events carry dense sequence numbers, so a watcher that lost its stream goes on exactly where it was; the views below
//! see every event once and in order.

mod all;
mod view;

use std::{sync::Arc, time::Duration};

pub(crate) use all::run_all;
pub(crate) use view::{BarView, View};

use super::{
    Outcome, backfill,
    client::Client,
    error::Error,
    json::enum_name,
    output::{self, Format},
    style::Style,
    times,
};
use crate::{
    pb::{self, BackfillState, watch_backfill_response::Message},
    time::Clock,
};

/// Waits between tries to come back; after the last one the watcher gives up. 61.5 s in all.
const RECONNECT_WAITS_MS: [u64; 10] = [
    500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 10_000, 10_000, 10_000,
];

/// From how many partitions on their rate is worth a word.
const MIN_RATED_PARTITIONS: u64 = 10;

/// How a watch ended.
pub(crate) enum Watched {
    /// The backfill is over.
    Ended(Box<pb::Backfill>),
    /// The user had enough; the last sequence seen.
    Interrupted(u64),
}

/// Runs `backfill watch`.
pub(crate) async fn run(
    client: &Client,
    name: &str,
    after_sequence: u64,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    let mut view = view::choose(format);
    let watched = tokio::select! {
        watched = follow(client, name, after_sequence, view.as_mut(), clock) => watched,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Watched::Interrupted(view.last_sequence()))
        }
    };
    view.close();
    match watched? {
        Watched::Ended(backfill) => {
            if format == Format::Table {
                output::line(describe_end(&backfill))?;
            }
            Ok(if backfill.state() == BackfillState::Succeeded {
                Outcome::Done
            } else {
                Outcome::Unsuccessful
            })
        }
        Watched::Interrupted(sequence) => {
            eprintln!("{name} goes on without you; come back with");
            eprintln!("  hindcast backfill watch {name} --after-sequence {sequence}");
            Ok(Outcome::Unsuccessful)
        }
    }
}

/// Shows the backfill's events after `after_sequence` until it is over.
///
/// # Errors
/// The server refuses, or stays unreachable for [`RECONNECT_WAITS_MS`].
pub(crate) async fn follow(
    client: &Client,
    name: &str,
    after_sequence: u64,
    view: &mut dyn View,
    clock: &Arc<dyn Clock>,
) -> Result<Watched, Error> {
    view.set_last_sequence(after_sequence);
    let mut waits = RECONNECT_WAITS_MS.into_iter();
    loop {
        let before = view.last_sequence();
        let end = match stream_once(client, name, view).await {
            Ok(()) => backfill::fetch(client, name).await,
            Err(error) => Err(error),
        };
        let reason = match end {
            Ok(backfill) if is_over(backfill.state()) => {
                return Ok(Watched::Ended(Box::new(backfill)));
            }
            Ok(_) => "the server ended the stream".to_owned(),
            Err(error) if error.is_connection_loss() => error.to_string(),
            Err(error) => return Err(error),
        };
        if view.last_sequence() > before {
            waits = RECONNECT_WAITS_MS.into_iter();
        }
        let Some(wait) = waits.next().map(Duration::from_millis) else {
            return Err(Error::Failed(format!(
                "lost the connection to {}: {reason}; the backfill may go on there: hindcast backfill watch {name} \
                 --after-sequence {}",
                client.url(),
                view.last_sequence()
            )));
        };
        view.note(&describe_loss(&reason, wait))?;
        clock.sleep(wait).await;
    }
}

/// `no connection: the server is stopping; trying again in 500 ms`.
fn describe_loss(reason: &str, wait: Duration) -> String {
    // What follows is advice to clients that do not come back by themselves.
    let cause = reason.split(';').next().unwrap_or(reason);
    format!(
        "no connection: {cause}; trying again in {}",
        times::show_duration(wait)
    )
}

/// Shows one stream until it ends, cleanly or not.
async fn stream_once(client: &Client, name: &str, view: &mut dyn View) -> Result<(), Error> {
    if backfill::fetch(client, name).await?.transforms.len() > 1 {
        view.set_several();
    }
    let request = pb::WatchBackfillRequest {
        name: name.to_owned(),
        after_sequence: view.last_sequence(),
    };
    let mut stream = client
        .backfills()
        .watch_backfill(request)
        .await?
        .into_inner();
    while let Some(response) = stream.message().await? {
        if let Some(Message::Event(event)) = &response.message {
            // A server that repeats itself must not be believed twice.
            if event.sequence <= view.last_sequence() {
                continue;
            }
            view.set_last_sequence(event.sequence);
        }
        view.show(&response)?;
    }
    Ok(())
}

fn is_over(state: BackfillState) -> bool {
    match state {
        BackfillState::Succeeded
        | BackfillState::PartiallySucceeded
        | BackfillState::Failed
        | BackfillState::Cancelled => true,
        BackfillState::Unspecified
        | BackfillState::Pending
        | BackfillState::Running
        | BackfillState::Paused
        | BackfillState::Cancelling => false,
    }
}

/// Partitions in all, the skipped ones included.
pub(crate) fn total(counts: Option<&pb::PartitionCounts>) -> u64 {
    states(counts)
        .iter()
        .map(|(_, count)| u64::from(*count))
        .sum()
}

/// Every state's count, in the order in which people want to see them.
fn states(counts: Option<&pb::PartitionCounts>) -> [(&'static str, u32); 9] {
    let pb::PartitionCounts {
        pending,
        blocked,
        running,
        waiting_retry,
        succeeded,
        failed,
        upstream_failed,
        skipped,
        cancelled,
    } = counts.copied().unwrap_or_default();
    [
        ("succeeded", succeeded),
        ("failed", failed),
        ("upstream failed", upstream_failed),
        ("running", running),
        ("waiting to retry", waiting_retry),
        ("pending", pending),
        ("blocked", blocked),
        ("skipped", skipped),
        ("cancelled", cancelled),
    ]
}

/// `88 succeeded, 2 failed`: the states that occur.
pub(crate) fn describe_counts(counts: Option<&pb::PartitionCounts>) -> String {
    let parts: Vec<String> = states(counts)
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{} {name}", output::count(u64::from(*count))))
        .collect();
    if parts.is_empty() {
        "no partitions".to_owned()
    } else {
        parts.join(", ")
    }
}

/// How long the backfill took, once it is over.
pub(crate) fn wall_time(backfill: &pb::Backfill) -> Option<Duration> {
    between(backfill.start_time.as_ref()?, backfill.end_time.as_ref()?)
}

/// From `start` to `end`; `None` if that is negative.
pub(crate) fn between(
    start: &prost_types::Timestamp,
    end: &prost_types::Timestamp,
) -> Option<Duration> {
    let seconds = end.seconds.checked_sub(start.seconds)?;
    let nanos =
        i128::from(seconds) * 1_000_000_000 + i128::from(end.nanos) - i128::from(start.nanos);
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// How a backfill ended, on two lines or four.
///
/// ```text
/// bf-01k5 succeeded in 3.2 s
///   90 succeeded · 81,234 rows read · 1,234 rows written · 28 partitions/s
/// ```
pub(crate) fn describe_end(backfill: &pb::Backfill) -> String {
    let style = Style::stdout();
    let state = enum_name::<BackfillState>(backfill.state)
        .to_lowercase()
        .replace('_', " ");
    let state = match backfill.state() {
        BackfillState::Succeeded => style.green(&state),
        BackfillState::Failed | BackfillState::PartiallySucceeded => style.red(&state),
        BackfillState::Unspecified
        | BackfillState::Pending
        | BackfillState::Running
        | BackfillState::Paused
        | BackfillState::Cancelling
        | BackfillState::Cancelled => style.yellow(&state),
    };
    let took = wall_time(backfill).map_or_else(String::new, |took| {
        format!(" in {}", times::show_duration(took))
    });
    let mut text = format!(
        "{} {state}{took}\n  {}",
        backfill.name,
        describe_work(backfill)
    );
    if backfill
        .partition_counts
        .is_some_and(|counts| counts.failed > 0)
    {
        text += &format!(
            "\n  what failed: hindcast backfill partitions {} --state failed\n  \
             after a fix: hindcast backfill retry {}",
            backfill.name, backfill.name
        );
    }
    text
}

/// `90 succeeded · 81,234 rows read · 1,234 rows written · 28 partitions/s`.
pub(crate) fn describe_work(backfill: &pb::Backfill) -> String {
    let counts = backfill.partition_counts.as_ref();
    let mut parts = vec![
        describe_counts(counts),
        format!("{} read", output::counted(backfill.rows_read, "row")),
        format!("{} written", output::counted(backfill.rows_written, "row")),
    ];
    let rate = wall_time(backfill)
        .filter(|took| !took.is_zero())
        .map(|took| total(counts) as f64 / took.as_secs_f64());
    // The rate of a handful, or of a backfill that waited for its server, says nothing.
    if let Some(rate) = rate.filter(|rate| *rate >= 2.0 && total(counts) >= MIN_RATED_PARTITIONS) {
        parts.push(format!("{rate:.0} partitions/s"));
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_was_done() {
        let backfill = pb::Backfill {
            name: "bf-1".to_owned(),
            state: BackfillState::PartiallySucceeded.into(),
            partition_counts: Some(pb::PartitionCounts {
                succeeded: 1_234,
                failed: 2,
                ..Default::default()
            }),
            start_time: Some(prost_types::Timestamp {
                seconds: 10,
                nanos: 900_000_000,
            }),
            end_time: Some(prost_types::Timestamp {
                seconds: 12,
                nanos: 400_000_000,
            }),
            rows_read: 336_776,
            rows_written: 5,
            ..Default::default()
        };
        assert_eq!(
            describe_end(&backfill),
            "bf-1 partially succeeded in 1.5 s\n  \
             1,234 succeeded, 2 failed · 336,776 rows read · 5 rows written · 824 partitions/s\n  \
             what failed: hindcast backfill partitions bf-1 --state failed\n  \
             after a fix: hindcast backfill retry bf-1"
        );
    }
}
