//! Running backfills: partitions, failures, cancelling, and what is refused before anything runs.

use std::time::Duration;

use hindcast::pb::{self, BackfillState, PartitionState};
use tonic::Code;

use crate::backfill_support::{
    Rig, SLOW, at, daily, days, january, over_events, partition_changes, source_input, spec,
};

#[tokio::test]
async fn days_of_23_and_25_hours_hold_their_own_rows() {
    let mut rig = Rig::at("2014-01-01T00:00:00Z").await;
    let mut text = "ts,v\n".to_owned();
    // One row per hour of UTC, around both changes of the clock.
    for (month, day) in [(3, 9), (3, 10), (3, 11), (11, 2), (11, 3), (11, 4)] {
        for hour in 0..24 {
            text.push_str(&format!("2013-{month:02}-{day:02}T{hour:02}:00:00,1\n"));
        }
    }
    rig.csv("events", &text, &[("v", "int64")]).await;
    let sql = "SELECT count(*) AS n, min(ts) AS first, \
               (CAST($partition_end AS BIGINT) - CAST($partition_start AS BIGINT)) / 3600000000 AS hours FROM events";
    let transform = pb::Transform {
        time_zone: "America/New_York".to_owned(),
        ..over_events("hours", sql)
    };
    rig.clients.register(transform).await.expect("registered");
    for (from, to) in [
        ("2013-03-10T05:00:00Z", "2013-03-11T04:00:00Z"),
        ("2013-11-03T04:00:00Z", "2013-11-04T05:00:00Z"),
    ] {
        let ended = rig
            .clients
            .run_well(spec("hours", from, to, pb::Knowledge::AsKnownNow))
            .await;
        assert_eq!(ended.partitions.len(), 1);
        assert_eq!(ended.partitions[0].label, from[..10]);
    }
    assert_eq!(
        rig.clients.rows("hours").await,
        [
            "2013-03-10T05:00:00Z n=23 first=2013-03-10T05:00:00Z hours=23",
            "2013-11-03T04:00:00Z n=25 first=2013-11-03T04:00:00Z hours=25"
        ]
    );
}

#[tokio::test]
async fn a_second_run_leaves_the_same_rows_and_an_empty_one_clears_them() {
    let mut rig = january(3).await;
    let all = over_events("kept", "SELECT v FROM events");
    rig.clients.register(all).await.expect("registered");
    let range = days("kept", "2013-01-01", "2013-01-04");
    rig.clients.run_well(range.clone()).await;
    let rows = rig.clients.rows("kept").await;
    assert_eq!(rows, ["2013-01-01 v=1", "2013-01-02 v=2", "2013-01-03 v=3"]);
    let again = rig.clients.run_well(range.clone()).await;
    assert_eq!(rig.clients.rows("kept").await, rows, "BF-2");
    assert_eq!(again.backfill.rows_written, 3);

    let odd = over_events("kept", "SELECT v FROM events WHERE v % 2 = 1");
    let second = rig.clients.register(odd).await.expect("registered");
    assert_eq!(second.revision, 2);
    let cleared = rig.clients.run_well(range).await;
    assert_eq!(cleared.partitions[1].rows_written, 0);
    assert_ne!(cleared.partitions[1].snapshot_id, 0);
    assert_eq!(
        rig.clients.rows("kept").await,
        ["2013-01-01 v=1", "2013-01-03 v=3"]
    );
    let table = rig.clients.table("kept").await;
    let starts: Vec<_> = table.partitions.iter().map(|it| it.start).collect();
    assert_eq!(
        starts,
        [
            Some(at("2013-01-01T00:00:00Z")),
            Some(at("2013-01-03T00:00:00Z"))
        ]
    );
}

#[tokio::test]
async fn a_failure_stays_in_its_partition() {
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    let text = "\
ts,d,t
2013-01-01T12:00:00,1,1
2013-01-02T12:00:00,0,2
2013-01-03T12:00:00,1,three
2013-01-04T12:00:00,2,4
";
    rig.csv("events", text, &[("d", "int64"), ("t", "string")])
        .await;
    let transform = over_events(
        "risky",
        "SELECT 10 / d AS q, CAST(t AS BIGINT) AS n FROM events",
    );
    rig.clients.register(transform).await.expect("registered");
    let ended = rig
        .clients
        .run(days("risky", "2013-01-01", "2013-01-05"))
        .await;
    assert_eq!(ended.backfill.state(), BackfillState::PartiallySucceeded);
    assert_eq!(
        ended.states(),
        [
            PartitionState::Succeeded,
            PartitionState::Failed,
            PartitionState::Failed,
            PartitionState::Succeeded
        ]
    );
    for (label, index, part) in [
        ("2013-01-02", 1, "ivide by zero"),
        ("2013-01-03", 2, "three"),
    ] {
        let partition: &pb::Partition = &ended.partitions[index];
        assert!(partition.message.contains(part), "{}", partition.message);
        assert_eq!(partition.snapshot_id, 0);
        let last = *ended.changes(label).last().expect("changed");
        assert_eq!(last.state(), PartitionState::Failed);
        assert_eq!(last.message, partition.message);
    }
    assert_eq!(
        rig.clients.rows("risky").await,
        ["2013-01-01 q=10 n=1", "2013-01-04 q=5 n=4"]
    );
}

#[tokio::test]
async fn prior_runs_in_order_and_a_failure_stops_what_follows() {
    let mut rig = january(5).await;
    let sql = "SELECT coalesce((SELECT max(total) FROM prior), 0) + 12 / (4 - (SELECT max(v) FROM events)) AS total";
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        output_columns: vec!["total int64".to_owned()],
        ..over_events("total", sql)
    };
    rig.clients.register(transform).await.expect("registered");
    let mut range = days("total", "2013-01-01", "2013-01-06");
    range.max_active_partitions = 4;
    let ended = rig.clients.run(range).await;
    assert_eq!(ended.backfill.state(), BackfillState::PartiallySucceeded);
    assert_eq!(
        ended.backfill.dependency_shape(),
        pb::DependencyShape::Sequential
    );
    assert_eq!(
        ended.states(),
        [
            PartitionState::Succeeded,
            PartitionState::Succeeded,
            PartitionState::Succeeded,
            PartitionState::Failed,
            PartitionState::UpstreamFailed
        ]
    );
    assert_eq!(
        ended.partitions[4].message,
        "partition 2013-01-04, which it reads, failed"
    );
    assert_eq!(ended.partitions[4].attempt_count, 0);
    assert_eq!(
        rig.clients.rows("total").await,
        [
            "2013-01-01 total=4",
            "2013-01-02 total=10",
            "2013-01-03 total=22"
        ]
    );
    let order: Vec<_> = partition_changes(&ended.events)
        .filter(|change| {
            matches!(
                change.state(),
                PartitionState::Running | PartitionState::Succeeded
            )
        })
        .map(|change| (change.label[8..].to_owned(), change.state()))
        .collect();
    let expected: Vec<_> = ["01", "02", "03"]
        .into_iter()
        .flat_map(|day| {
            [PartitionState::Running, PartitionState::Succeeded]
                .map(|state| (day.to_owned(), state))
        })
        .chain([("04".to_owned(), PartitionState::Running)])
        .collect();
    assert_eq!(order, expected);
}

#[tokio::test]
async fn cancelling_keeps_what_is_published_and_removes_the_rest() {
    let mut rig = january(20).await;
    let sql = format!("SELECT v, CASE WHEN v > 2 THEN {SLOW} ELSE 0 END > 0 AS slow FROM events");
    rig.clients
        .register(over_events("stopped", &sql))
        .await
        .expect("registered");
    let mut range = days("stopped", "2013-01-01", "2013-01-21");
    range.max_active_partitions = 2;
    let created = rig.clients.create(range.clone()).await.expect("created");
    let refused = rig
        .clients
        .create(range.clone())
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&created.name), "{refused}");
    let mut stream = rig.clients.watch(&created.name, 0).await;
    let mut succeeded = 0;
    while succeeded < 2 {
        let item = stream.message().await.expect("goes on").expect("an item");
        if let Some(pb::watch_backfill_response::Message::Event(event)) = item.message
            && let Some(pb::event::Change::PartitionChanged(change)) = event.change
            && change.state() == PartitionState::Succeeded
        {
            succeeded += 1;
        }
    }
    rig.clients.cancel(&created.name).await.expect("cancelled");
    let ended = rig.clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Cancelled);
    let counts = ended.backfill.partition_counts.expect("counts");
    assert!(counts.succeeded >= 2 && counts.cancelled > 0, "{counts:?}");
    assert_eq!(counts.succeeded + counts.cancelled, 20);
    let rows = rig.clients.rows("stopped").await;
    assert_eq!(rows.len() as u32, counts.succeeded);
    let again = rig.clients.cancel(&created.name).await.expect("no change");
    assert_eq!(again.state(), BackfillState::Cancelled);

    // Leftovers are removed after the end is told.
    for _ in 0..100 {
        if rig.data_files().len() == rows.len() {
            break;
        }
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(20)))
            .await
            .expect("slept");
    }
    assert_eq!(rig.data_files().len(), rows.len(), "{:?}", rig.data_files());
    let next = rig.clients.create(range).await.expect("the range is free");
    rig.clients.cancel(&next.name).await.expect("cancelled");
}

#[tokio::test]
async fn a_backfill_that_ended_is_not_cancelled() {
    let mut rig = january(1).await;
    rig.clients
        .register(over_events("done", "SELECT v FROM events"))
        .await
        .expect("registered");
    let ended = rig
        .clients
        .run_well(days("done", "2013-01-01", "2013-01-02"))
        .await;
    let refused = rig
        .clients
        .cancel(&ended.backfill.name)
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = rig.clients.cancel("bf-none").await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn a_request_id_makes_one_backfill() {
    let mut rig = january(2).await;
    rig.clients
        .register(over_events("once", "SELECT v FROM events"))
        .await
        .expect("registered");
    let request = |spec: pb::BackfillSpec, hash: &str| pb::CreateBackfillRequest {
        spec: Some(spec),
        request_id: "r1".to_owned(),
        expected_plan_hash: hash.to_owned(),
    };
    let range = days("once", "2013-01-01", "2013-01-03");
    let plan = rig.clients.plan(range.clone()).await.expect("planned");
    let moved = rig
        .clients
        .backfills
        .create_backfill(request(range.clone(), "0123456789abcdef"))
        .await
        .expect_err("refused");
    assert_eq!(moved.code(), Code::FailedPrecondition);
    assert!(moved.message().contains(&plan.plan_hash), "{moved}");

    let mut names = Vec::new();
    for _ in 0..2 {
        let response = rig
            .clients
            .backfills
            .create_backfill(request(range.clone(), &plan.plan_hash))
            .await
            .expect("created");
        names.push(response.into_inner().backfill.expect("a backfill").name);
        rig.clients.ended(&names[0]).await;
    }
    assert_eq!(names[0], names[1]);
    rig.stop().await;
    rig.start().await;
    let response = rig
        .clients
        .backfills
        .create_backfill(request(range, ""))
        .await
        .expect("after a restart too");
    let name = response.into_inner().backfill.expect("a backfill").name;
    assert_eq!(name, names[0]);
    let other = days("once", "2013-01-01", "2013-01-02");
    let refused = rig
        .clients
        .backfills
        .create_backfill(request(other, ""))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn ranges_that_make_no_partitions_are_refused() {
    let mut rig = january(1).await;
    let transform = pb::Transform {
        time_zone: "America/New_York".to_owned(),
        ..over_events("local", "SELECT v FROM events")
    };
    rig.clients.register(transform).await.expect("registered");
    let now = pb::Knowledge::AsKnownNow;
    let cases = [
        (
            spec("local", "2013-01-01T00:00:00Z", "2013-01-02T05:00:00Z", now),
            Code::InvalidArgument,
            "2013-01-01T05:00:00Z",
        ),
        (
            spec("local", "2013-01-01T05:00:00Z", "2013-01-02T00:00:00Z", now),
            Code::InvalidArgument,
            "2013-01-02T05:00:00Z",
        ),
        (
            spec("local", "2013-01-01T05:00:00Z", "2013-01-01T05:00:00Z", now),
            Code::InvalidArgument,
            "must lie after from",
        ),
        (
            spec("local", "2013-01-02T05:00:00Z", "2013-01-01T05:00:00Z", now),
            Code::InvalidArgument,
            "must lie after from",
        ),
        (
            spec("local", "2014-01-02T05:00:00Z", "2014-01-03T05:00:00Z", now),
            Code::OutOfRange,
            "nothing would run: from 2014-01-02T05:00:00Z lies in the future",
        ),
        (
            spec(
                "nobody",
                "2013-01-01T05:00:00Z",
                "2013-01-02T05:00:00Z",
                now,
            ),
            Code::NotFound,
            "nobody",
        ),
    ];
    for (spec, code, part) in cases {
        let refused = rig.clients.create(spec).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(part), "{refused}");
    }
}

#[tokio::test]
async fn sql_that_cannot_be_computed_twice_alike_is_refused() {
    let mut rig = january(1).await;
    let cases = [
        ("SELECT\n  nothing FROM events", "line 2, column 3"),
        (
            "SELECT v FROM flights",
            "the transform's inputs are: events",
        ),
        ("SELECT now() AS t FROM events", "now()"),
        ("SELECT random() AS r FROM events", "random()"),
        ("SELECT current_date AS d FROM events", "current_date"),
        (
            "SELECT v FROM events WHERE v > (SELECT random())",
            "random()",
        ),
        ("INSERT INTO events VALUES (1)", "one query"),
        ("CREATE TABLE t AS SELECT v FROM events", "one query"),
        ("SELECT v FROM events; SELECT v FROM events", ""),
        (
            "SELECT $partition_middle AS m FROM events",
            "$partition_middle",
        ),
        ("SELECT FROM WHERE", ""),
        ("", "empty"),
        ("SELECT v FROM 'events.csv'", ""),
        ("SELECT * FROM information_schema.tables", ""),
        ("SELECT v AS partition_start FROM events", "partition_start"),
        ("SELECT v, v FROM events", ""),
        ("SELECT INTERVAL '1 day' AS i", ""),
        ("SELECT null AS nothing", ""),
    ];
    for (sql, part) in cases {
        let refused = rig.clients.register(over_events("t", sql)).await;
        let refused = refused.expect_err(sql);
        assert_eq!(refused.code(), Code::InvalidArgument, "{sql}: {refused}");
        assert!(refused.message().contains(part), "{sql}: {refused}");
        assert!(!refused.message().is_empty(), "{sql}");
    }
    let missing = pb::Transform {
        sources: vec![source_input("nowhere")],
        ..daily("t", "SELECT 1 AS one")
    };
    let refused = rig.clients.register(missing).await.expect_err("refused");
    assert!(refused.message().contains("nowhere"), "{refused}");
}

#[tokio::test]
async fn a_revision_may_add_a_column() {
    let mut rig = january(2).await;
    rig.clients
        .register(over_events("grows", "SELECT v FROM events"))
        .await
        .expect("registered");
    rig.clients
        .run_well(days("grows", "2013-01-01", "2013-01-03"))
        .await;
    rig.clients
        .register(over_events("grows", "SELECT v, v * 2 AS twice FROM events"))
        .await
        .expect("registered");
    rig.clients
        .run_well(days("grows", "2013-01-02", "2013-01-03"))
        .await;
    assert_eq!(
        rig.clients.rows("grows").await,
        ["2013-01-01 v=1 twice=null", "2013-01-02 v=2 twice=4"]
    );
    // What an older revision gives no longer fills the table: that is said, and nothing is lost.
    let mut first = days("grows", "2013-01-02", "2013-01-03");
    first.revision = 1;
    let refused = rig.clients.create(first).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("\"twice\""), "{refused}");
}
