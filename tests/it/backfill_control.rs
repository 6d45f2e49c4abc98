//! Changing what runs: pause, resume, concurrency, retry, time limits, order, and the server's slots.

use std::path::PathBuf;

use hindcast::pb::{self, BackfillState, PartitionState, watch_backfill_response::Message};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    backfill_sources::daily_files,
    backfill_support::{
        Clients, Ended, Rig, SLOW, Settings, assert_dense, daily, days, over_events,
        partition_changes,
    },
};

const NOW: &str = "2013-12-31T00:00:00Z";

/// Until it is stopped.
const ENDLESS: &str = "SELECT sum(a.value * b.value) AS v FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";

/// Six daily files, of which the first takes a moment to compute.
async fn six_days(name: &str) -> Rig {
    let mut rig = Rig::at(NOW).await;
    daily_files(&mut rig, 6).await;
    let sql =
        format!("SELECT v, CASE WHEN v = 1 THEN {SLOW} ELSE 0 END > 0 AS slow, dt FROM events");
    rig.clients
        .register(over_events(name, &sql))
        .await
        .expect("registered");
    rig
}

fn file_of(rig: &Rig, day: u32) -> PathBuf {
    let path = format!("sources/events/dt=2013-01-{day:02}/part.csv");
    rig.folder.path().join(path)
}

/// Runs six days one by one, with the third day's file gone from when it is read until the end.
async fn run_without_third_day(rig: &mut Rig, name: &str, stop_on_first_failure: bool) -> Ended {
    let mut range = days(name, "2013-01-01", "2013-01-07");
    range.max_active_partitions = 1;
    range.stop_on_first_failure = stop_on_first_failure;
    let created = rig.clients.create(range).await.expect("created");
    let away = rig.folder.path().join("away.csv");
    std::fs::rename(file_of(rig, 3), &away).expect("moved away");
    let ended = rig.clients.ended(&created.name).await;
    std::fs::rename(&away, file_of(rig, 3)).expect("put back");
    ended
}

fn reason_of(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}

/// Waits until as many partitions of a backfill are in `state`.
async fn wait_for(clients: &mut Clients, name: &str, state: PartitionState, count: usize) {
    let mut stream = clients.watch(name, 0).await;
    let mut seen = 0;
    while seen < count {
        let item = stream.message().await.expect("goes on").expect("an item");
        if let Some(Message::Event(event)) = item.message
            && let Some(pb::event::Change::PartitionChanged(change)) = event.change
        {
            seen += usize::from(change.state() == state);
        }
    }
}

#[tokio::test]
async fn it_stops_at_the_first_failure_and_a_retry_goes_on_after_the_fix() {
    let mut rig = six_days("halting").await;
    let ended = run_without_third_day(&mut rig, "halting", true).await;
    let name = ended.backfill.name.clone();
    assert_eq!(ended.backfill.state(), BackfillState::PartiallySucceeded);
    let (done, left_out) = (PartitionState::Succeeded, PartitionState::Cancelled);
    assert_eq!(
        ended.states(),
        [
            done,
            done,
            PartitionState::Failed,
            left_out,
            left_out,
            left_out
        ]
    );
    assert!(ended.partitions[4].message.contains("2013-01-03 failed"));
    assert_eq!(ended.partitions[4].attempt_count, 0);

    let retried = rig.clients.retry(&name).await.expect("retried");
    assert_eq!(retried.state(), BackfillState::Running);
    assert!(retried.end_time.is_none());
    let rest = rig
        .clients
        .events(&name, ended.backfill.last_sequence)
        .await;
    let again = rig.clients.ended(&name).await;
    assert_eq!(again.backfill.state(), BackfillState::Succeeded);
    assert_eq!(again.partitions[2].attempt_count, 2, "numbered on");
    assert_eq!(again.events[ended.events.len()..], rest, "PR-1");
    assert_eq!(again.events[..ended.events.len()], ended.events, "PR-1");
    let published = partition_changes(&again.events).filter(|it| it.state() == done);
    assert_eq!(published.count(), 6, "BF-1");
    assert_eq!(rig.clients.rows("halting").await.len(), 6);
    assert_eq!(again.partitions[2].basis, ended.partitions[2].basis, "PT-2");

    let refused = rig.clients.retry(&name).await.expect_err("all is done");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&refused), "NOTHING_TO_RETRY");
    rig.stop().await;
    rig.start().await;
    let after = rig.clients.ended(&name).await;
    assert_eq!(after.backfill, again.backfill);
    assert_eq!(after.partitions, again.partitions);
    assert_eq!(after.events, again.events);
}

#[tokio::test]
async fn a_retry_survives_a_restart_and_is_refused_while_it_is_active() {
    let mut rig = six_days("kept_on").await;
    let ended = run_without_third_day(&mut rig, "kept_on", false).await;
    let name = ended.backfill.name.clone();
    assert_eq!(ended.backfill.partition_counts.expect("counts").failed, 1);
    // Another one holds its partitions.
    let other = days("kept_on", "2013-01-01", "2013-01-02");
    let other = rig.clients.create(other).await.expect("created").name;
    rig.clients.pause(&other).await.expect("paused");
    if rig.clients.get(&other).await.state() == BackfillState::Paused {
        let refused = rig.clients.retry(&name).await.expect_err("in the way");
        assert_eq!(reason_of(&refused), "BACKFILL_OVERLAP");
        assert_eq!(
            rig.clients.get(&name).await,
            ended.backfill,
            "nothing changed"
        );
    }
    rig.clients.cancel(&other).await.expect("cancelled");
    rig.clients.ended(&other).await;

    // The file is gone again, until it is retried a second time.
    let away = rig.folder.path().join("away.csv");
    std::fs::rename(file_of(&rig, 3), &away).expect("moved away");
    rig.clients.retry(&name).await.expect("retried");
    let failed = rig.clients.ended(&name).await;
    assert_eq!(failed.backfill.state(), BackfillState::PartiallySucceeded);
    rig.stop().await;
    std::fs::rename(&away, file_of(&rig, 3)).expect("put back");
    rig.start().await;
    rig.clients.retry(&name).await.expect("retried");
    rig.stop().await;
    rig.start().await;
    let again = rig.clients.ended(&name).await;
    assert_eq!(again.backfill.state(), BackfillState::Succeeded);
    assert!(again.partitions[2].attempt_count >= 3);
    assert_eq!(rig.clients.rows("kept_on").await.len(), 6);
}

#[tokio::test]
async fn a_paused_backfill_starts_nothing_and_stays_paused_over_a_restart() {
    let mut rig = Rig::at(NOW).await;
    let sql = format!("SELECT {SLOW} AS v");
    rig.clients
        .register(daily("pausing", &sql))
        .await
        .expect("registered");
    let mut range = days("pausing", "2013-01-01", "2013-01-09");
    range.max_active_partitions = 2;
    let name = rig.clients.create(range).await.expect("created").name;
    let paused = rig.clients.pause(&name).await.expect("paused");
    assert_eq!(paused.state(), BackfillState::Paused);
    let under_way = paused.partition_counts.expect("counts").running;
    assert_eq!(under_way, 2, "attempts under way go on");
    wait_for(&mut rig.clients, &name, PartitionState::Succeeded, 2).await;
    let idle = rig.clients.pause(&name).await.expect("no change");
    let counts = idle.partition_counts.expect("counts");
    assert_eq!((counts.succeeded, counts.pending), (2, 6), "{counts:?}");
    let refused = rig.clients.retry(&name).await.expect_err("it is active");
    assert_eq!(reason_of(&refused), "BACKFILL_ACTIVE");

    rig.stop().await;
    rig.start().await;
    let still = rig.clients.get(&name).await;
    assert_eq!(still.state(), BackfillState::Paused);
    let counts = still.partition_counts.expect("counts");
    assert_eq!((counts.succeeded, counts.running), (2, 0), "{counts:?}");

    let set = rig.clients.set_concurrency(&name, 3).await.expect("set");
    assert_eq!(set.spec.expect("a spec").max_active_partitions, 3);
    let resumed = rig.clients.resume(&name).await.expect("resumed");
    assert_eq!(resumed.state(), BackfillState::Running);
    assert_eq!(resumed.partition_counts.expect("counts").running, 3);
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    for call in [
        rig.clients.pause(&name).await,
        rig.clients.resume(&name).await,
        rig.clients.set_concurrency(&name, 2).await,
    ] {
        let refused = call.expect_err("it ended");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason_of(&refused), "BACKFILL_ENDED");
    }
    let refused = rig.clients.set_concurrency(&name, 65).await;
    assert_eq!(refused.expect_err("bounded").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_paused_backfill_can_be_cancelled() {
    let mut rig = Rig::at(NOW).await;
    rig.clients
        .register(daily("held", ENDLESS))
        .await
        .expect("registered");
    let name = rig
        .clients
        .create(days("held", "2013-01-01", "2013-01-09"))
        .await
        .expect("created")
        .name;
    rig.clients.pause(&name).await.expect("paused");
    rig.clients.cancel(&name).await.expect("cancelled");
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Cancelled);
    let refused = rig.clients.retry(&name).await.expect_err("cancelled");
    assert_eq!(reason_of(&refused), "NOTHING_TO_RETRY");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_fails_and_is_tried_again() {
    let mut rig = Rig::at(NOW).await;
    let transform = pb::Transform {
        retry: Some(pb::RetryPolicy {
            max_attempts: 2,
            initial_backoff: Some(millis(1)),
            max_backoff: Some(millis(1)),
            attempt_timeout: Some(millis(3_600_000)),
        }),
        ..daily("slow", ENDLESS)
    };
    rig.clients.register(transform).await.expect("registered");
    let mut range = days("slow", "2013-01-01", "2013-01-02");
    range.attempt_timeout = Some(millis(50));
    let ended = rig.clients.run(range).await;
    assert_eq!(ended.backfill.state(), BackfillState::Failed);
    let spec = ended.backfill.spec.clone().expect("a spec");
    assert_eq!(spec.attempt_timeout, Some(millis(50)));
    assert_eq!(
        ended.partitions[0].message,
        "it took longer than 0.05 s, which is its limit"
    );
    let request = pb::ListPartitionsRequest {
        backfill: ended.backfill.name.clone(),
        include_attempts: true,
        ..pb::ListPartitionsRequest::default()
    };
    let listed = rig.clients.backfills.list_partitions(request).await;
    let attempts = &listed.expect("listed").into_inner().partitions[0].attempts;
    let numbers: Vec<_> = attempts.iter().map(|it| it.attempt).collect();
    assert_eq!(numbers, [1, 2]);
    assert!(
        attempts
            .iter()
            .all(|it| it.state() == PartitionState::Failed)
    );
    assert!(attempts[0].retry_time.is_some() && attempts[1].retry_time.is_none());
    assert!(attempts[0].message.contains("longer"));
    assert_eq!(rig.data_files(), Vec::<PathBuf>::new());
}

fn millis(count: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: count / 1_000,
        nanos: (count % 1_000 * 1_000_000) as i32,
    }
}

#[tokio::test]
async fn backwards_runs_the_latest_first_and_never_with_prior() {
    let mut rig = Rig::at(NOW).await;
    rig.clients
        .register(daily("back", "SELECT 1 AS one"))
        .await
        .expect("registered");
    let mut range = days("back", "2013-01-01", "2013-01-06");
    range.max_active_partitions = 1;
    range.run_backwards = true;
    let ended = rig.clients.run_well(range.clone()).await;
    let started: Vec<_> = partition_changes(&ended.events)
        .filter(|change| change.state() == PartitionState::Running)
        .map(|change| change.label.as_str())
        .collect();
    let expected = [
        "2013-01-05",
        "2013-01-04",
        "2013-01-03",
        "2013-01-02",
        "2013-01-01",
    ];
    assert_eq!(started, expected);

    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        output_columns: vec!["one int64".to_owned()],
        ..daily("forth", "SELECT 1 AS one")
    };
    rig.clients.register(transform).await.expect("registered");
    range.transform = "forth".to_owned();
    let refused = rig.clients.create(range).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(reason_of(&refused), "BACKWARDS_WITH_PRIOR");

    let range = days("forth", "2013-01-01", "2013-01-06");
    let name = rig.clients.create(range).await.expect("created").name;
    rig.clients.pause(&name).await.expect("paused");
    if rig.clients.get(&name).await.state() == BackfillState::Paused {
        let refused = rig.clients.set_concurrency(&name, 2).await;
        assert_eq!(reason_of(&refused.expect_err("refused")), "ONE_AT_A_TIME");
        rig.clients
            .set_concurrency(&name, 1)
            .await
            .expect("it is 1");
        rig.clients.resume(&name).await.expect("resumed");
    }
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
}

#[tokio::test]
async fn the_servers_slots_go_to_the_higher_priority_and_fairly_to_equals() {
    let settings = Settings {
        server_active_partitions: 1,
        ..Settings::default()
    };
    let mut rig = Rig::with(NOW, settings).await;
    let sql = format!("SELECT {SLOW} AS v");
    let mut names = Vec::new();
    for (transform, priority) in [("low", -5), ("first", 0), ("second", 0)] {
        rig.clients
            .register(daily(transform, &sql))
            .await
            .expect("registered");
        let mut range = days(transform, "2013-01-01", "2013-01-07");
        range.priority = priority;
        range.max_active_partitions = 4;
        names.push(rig.clients.create(range).await.expect("created").name);
    }
    rig.clients.events(&names[1], 0).await;
    let second = rig.clients.get(&names[2]).await;
    let ahead = second.partition_counts.expect("counts").succeeded;
    assert!((4..=6).contains(&ahead), "they take turns: {ahead} of 6");
    rig.clients.events(&names[2], 0).await;
    let low = rig.clients.get(&names[0]).await;
    let counts = low.partition_counts.expect("counts");
    assert!(counts.succeeded <= 2, "it waits for the others: {counts:?}");
    let ended = rig.clients.ended(&names[0]).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert_dense(&ended.events);
}
