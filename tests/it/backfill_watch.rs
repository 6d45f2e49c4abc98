//! Watching backfills: `PR-1`, heartbeats, and a server that stops and comes back.

use std::time::Duration;

use hindcast::pb::{self, BackfillState, watch_backfill_response::Message};
use tonic::Code;

use crate::backfill_support::{Rig, assert_dense, daily, days, partition_changes};

/// Takes a moment for each partition.
const SLOW: &str = "SELECT sum(a.value * b.value) AS v FROM generate_series(1, 1500) a, generate_series(1, 1500) b";

#[expect(clippy::disallowed_methods, reason = "a test's stopwatch")]
fn begin() -> std::time::Instant {
    std::time::Instant::now()
}

/// Until it is cancelled.
const ENDLESS: &str = "SELECT sum(a.value * b.value) AS v FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";

fn sequences(events: &[pb::Event]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

fn state_of(event: &pb::Event) -> Option<BackfillState> {
    match &event.change {
        Some(pb::event::Change::BackfillStateChanged(change)) => Some(change.state()),
        _ => None,
    }
}

#[tokio::test]
async fn events_are_dense_and_a_resumed_watcher_gets_exactly_the_rest() {
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    rig.clients
        .register(daily("one", "SELECT 1 AS one"))
        .await
        .expect("registered");
    let created = rig
        .clients
        .create(days("one", "2013-01-01", "2013-01-21"))
        .await
        .expect("created");
    let live = rig.clients.events(&created.name, 0).await;
    assert_dense(&live);
    assert!(matches!(
        live[0].change,
        Some(pb::event::Change::BackfillCreated(_))
    ));
    let last = live.last().expect("events");
    assert_eq!(state_of(last), Some(BackfillState::Succeeded));
    let ends = live.iter().filter_map(state_of).filter(|state| {
        !matches!(
            state,
            BackfillState::Pending | BackfillState::Running | BackfillState::Cancelling
        )
    });
    assert_eq!(ends.count(), 1);
    assert_eq!(
        rig.clients.get(&created.name).await.last_sequence,
        last.sequence
    );

    // It has ended: a watch replays, from anywhere, and ends.
    for after in [0, 1, 7, last.sequence - 1, last.sequence] {
        let rest = rig.clients.events(&created.name, after).await;
        assert_eq!(rest, live[after as usize..], "after {after}");
    }
    let request = pb::WatchBackfillRequest {
        name: created.name.clone(),
        after_sequence: last.sequence + 1,
    };
    let refused = rig
        .clients
        .backfills
        .watch_backfill(request)
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange);

    rig.stop().await;
    rig.start().await;
    assert_eq!(rig.clients.events(&created.name, 0).await, live);
}

#[tokio::test]
async fn progress_says_where_it_stands_after_the_events_it_counts() {
    let begun = begin();
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    rig.clients
        .register(daily("one", "SELECT 1 AS one"))
        .await
        .expect("registered");
    let created = rig
        .clients
        .create(days("one", "2013-01-01", "2013-01-06"))
        .await
        .expect("created");
    let mut stream = rig.clients.watch(&created.name, 0).await;
    let (mut seen, mut last, mut snapshots) = (0, None, 0);
    while let Some(item) = stream.message().await.expect("goes on") {
        match item.message.expect("a message") {
            Message::Event(event) => seen = event.sequence,
            Message::Progress(progress) => {
                assert!(progress.sequence >= seen, "{} < {seen}", progress.sequence);
                last = Some(progress);
                snapshots += 1;
            }
            Message::Heartbeat(_) => {}
        }
    }
    let last = last.expect("progress");
    // The first, the last, and four a second at most between them.
    let millis = begun.elapsed().as_millis();
    assert!(snapshots <= 2 + millis / 250, "{snapshots} in {millis} ms");
    assert_eq!(last.state(), BackfillState::Succeeded);
    assert_eq!(last.sequence, seen);
    assert_eq!(last.rows_written, 5);
    assert_eq!(last.eta, None);
    assert_eq!(last.partition_counts.expect("counts").succeeded, 5);
}

#[tokio::test]
async fn an_idle_watch_has_a_heartbeat() {
    let mut rig = Rig::with_heartbeat("2013-12-31T00:00:00Z", Duration::from_millis(30)).await;
    rig.clients
        .register(daily("slow", ENDLESS))
        .await
        .expect("registered");
    let created = rig
        .clients
        .create(days("slow", "2013-01-01", "2013-01-03"))
        .await
        .expect("created");
    let mut stream = rig.clients.watch(&created.name, 0).await;
    let mut heartbeats = 0;
    while heartbeats < 2 {
        let item = stream.message().await.expect("goes on").expect("an item");
        heartbeats += u32::from(matches!(item.message, Some(Message::Heartbeat(_))));
    }
    rig.clients.cancel(&created.name).await.expect("cancelled");
    // A query in the middle of its work stops too.
    let ended = rig.clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Cancelled);
}

#[tokio::test]
async fn a_stopped_server_goes_on_where_it_was() {
    for prior in [false, true] {
        let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
        let mut transform = daily("slow", SLOW);
        if prior {
            transform.prior = Some(pb::PriorInput { partitions: 1 });
            transform.output_columns = vec!["v int64".to_owned()];
        }
        rig.clients.register(transform).await.expect("registered");
        let mut range = days("slow", "2013-01-01", "2013-01-09");
        range.max_active_partitions = 2;
        let created = rig.clients.create(range).await.expect("created");

        let mut stream = rig.clients.watch(&created.name, 0).await;
        let (first, seen) = tokio::sync::oneshot::channel();
        let watching = tokio::spawn(async move {
            let mut events = Vec::new();
            let mut first = Some(first);
            loop {
                match stream.message().await {
                    Ok(Some(item)) => {
                        if let Some(Message::Event(event)) = item.message {
                            events.push(event);
                        }
                    }
                    Ok(None) => return (events, None),
                    Err(status) => return (events, Some(status)),
                }
                let succeeded = partition_changes(&events)
                    .any(|change| change.state() == pb::PartitionState::Succeeded);
                if succeeded && let Some(first) = first.take() {
                    first.send(()).expect("waited for");
                }
            }
        });
        seen.await.expect("a partition is published");
        rig.stop().await;
        let (mut events, status) = watching.await.expect("watched");
        let status = status.expect("the stream says why it ended");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let done = partition_changes(&events)
            .filter(|change| change.state() == pb::PartitionState::Succeeded);
        assert!(
            done.count() < 8,
            "a stop does not wait for the whole backfill"
        );

        rig.start().await;
        let after = events.last().expect("events").sequence;
        let rest = rig.clients.events(&created.name, after).await;
        events.extend(rest);
        assert_dense(&events);
        assert_eq!(
            sequences(&events),
            sequences(&rig.clients.events(&created.name, 0).await)
        );
        assert!(
            events
                .iter()
                .any(|event| matches!(event.change, Some(pb::event::Change::BackfillResumed(_))))
        );
        let ended = rig.clients.ended(&created.name).await;
        assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
        assert_eq!(rig.clients.rows("slow").await.len(), 8);
        let published = partition_changes(&events)
            .filter(|change| change.state() == pb::PartitionState::Succeeded);
        assert_eq!(published.count(), 8, "BF-1");
    }
}
