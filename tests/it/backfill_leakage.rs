//! `PT-1`: for every kind of input, a value that a partition must not see is planted, and none sees it.

use hindcast::pb::{self, BackfillState, Knowledge, PartitionState};

use crate::backfill_support::{
    Rig, at, at_basis, csv_source, daily, days, entity_input, micros, seconds, source_input, spec,
    then,
};

const EVENTS: &str = "\
ts,available_at,id,v
2013-01-01T00:00:00,2013-01-01T01:00:00,s1,1
2013-01-01T23:59:59.999999,2013-01-09T00:00:00,s1,10
2013-01-02T00:00:00,2013-01-02T01:00:00,s1,100
2013-01-03T12:00:00,2013-01-04T00:00:00,s1,1000
2013-01-04T00:00:00,2013-01-04T00:00:00.000001,s1,10000
";
const EVENT_TYPES: [(&str, &str); 3] = [
    ("available_at", "timestamp"),
    ("id", "string"),
    ("v", "int64"),
];

#[tokio::test]
async fn source_rows_are_cut_to_the_window() {
    let mut rig = Rig::at("2013-02-01T00:00:00Z").await;
    rig.csv("events", EVENTS, &EVENT_TYPES).await;
    let own = pb::Transform {
        sources: vec![source_input("events")],
        ..daily("own", "SELECT sum(v) AS v FROM events")
    };
    rig.clients.register(own).await.expect("registered");
    rig.clients
        .run_well(days("own", "2013-01-01", "2013-01-05"))
        .await;
    assert_eq!(
        rig.clients.rows("own").await,
        [
            "2013-01-01 v=11",
            "2013-01-02 v=100",
            "2013-01-03 v=1000",
            "2013-01-04 v=10000"
        ]
    );
    let trailing = pb::Transform {
        sources: vec![pb::SourceInput {
            lookback: Some(seconds(86_400)),
            ..source_input("events")
        }],
        ..daily("trailing", "SELECT sum(v) AS v FROM events")
    };
    rig.clients.register(trailing).await.expect("registered");
    rig.clients
        .run_well(days("trailing", "2013-01-01", "2013-01-05"))
        .await;
    assert_eq!(
        rig.clients.rows("trailing").await,
        [
            "2013-01-01 v=11",
            "2013-01-02 v=111",
            "2013-01-03 v=1100",
            "2013-01-04 v=11000"
        ]
    );
}

#[tokio::test]
async fn source_rows_that_came_later_are_not_there() {
    let mut rig = Rig::at("2012-12-01T00:00:00Z").await;
    rig.clock.set(micros("2013-02-01T00:00:00Z"));
    let path = rig.write("events.csv", EVENTS);
    let source = pb::Source {
        available_at_column: "available_at".to_owned(),
        ..csv_source("events", &path, &EVENT_TYPES)
    };
    rig.clients.create_source(source).await.expect("created");
    let transform = pb::Transform {
        sources: vec![source_input("events")],
        ..daily("own", "SELECT sum(v) AS v FROM events")
    };
    rig.clients.register(transform).await.expect("registered");
    let then = then("own", "2013-01-01", "2013-01-05");
    rig.clients.run_well(then.clone()).await;
    let that_night = [
        "2013-01-01 v=1",
        "2013-01-02 v=100",
        "2013-01-03 v=1000",
        "2013-01-04 v=10000",
    ];
    assert_eq!(rig.clients.rows("own").await, that_night);
    // At the instant itself a row is there; a microsecond earlier it is not.
    let known = at_basis(&then, at("2013-01-04T00:00:00Z"));
    rig.clients.run_well(known).await;
    assert_eq!(
        rig.clients.rows("own").await,
        [
            "2013-01-01 v=1",
            "2013-01-02 v=100",
            "2013-01-03 v=1000",
            "2013-01-04 v=null"
        ]
    );
    // As known now, all of it came in long ago, though the entity store has not learned a thing since.
    rig.clients
        .run_well(days("own", "2013-01-01", "2013-01-05"))
        .await;
    assert_eq!(
        rig.clients.rows("own").await,
        [
            "2013-01-01 v=11",
            "2013-01-02 v=100",
            "2013-01-03 v=1000",
            "2013-01-04 v=10000"
        ]
    );
}

/// A station that changes each day at midnight, known since long ago.
async fn changing_station(rig: &mut Rig) {
    rig.clients.create_stations().await;
    for (day, temp) in [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)] {
        let from = format!("2013-01-0{day}T00:00:00Z");
        rig.clients.put_station("s1", &from, temp).await;
    }
    rig.clients
        .put_station("later", "2013-01-03T00:00:00Z", 99.0)
        .await;
    rig.clock.set(micros("2013-02-01T00:00:00Z"));
}

#[tokio::test]
async fn entity_tables_end_with_the_partition() {
    let mut rig = Rig::at("2012-01-01T00:00:00Z").await;
    changing_station(&mut rig).await;
    let last = pb::Transform {
        entities: vec![entity_input("station")],
        ..daily(
            "last",
            "SELECT count(*) AS n, max(temp) AS temp, max(valid_from) AS since FROM station",
        )
    };
    let mut first = pb::Transform {
        sql: "SELECT count(*) AS n, max(temp) AS temp FROM station".to_owned(),
        ..daily("first", "")
    };
    first.entities = vec![pb::EntityInput {
        at_partition_start: true,
        ..entity_input("station")
    }];
    rig.clients.register(last).await.expect("registered");
    rig.clients.register(first).await.expect("registered");
    for knowledge in [Knowledge::AsKnownThen, Knowledge::AsKnownNow] {
        for name in ["last", "first"] {
            let mut spec = days(name, "2012-12-31", "2013-01-04");
            spec.knowledge = knowledge.into();
            rig.clients.run_well(spec).await;
        }
        assert_eq!(
            rig.clients.rows("last").await,
            [
                "2012-12-31 n=0 temp=null since=null",
                "2013-01-01 n=1 temp=1 since=2013-01-01",
                "2013-01-02 n=1 temp=2 since=2013-01-02",
                "2013-01-03 n=2 temp=99 since=2013-01-03"
            ]
        );
        assert_eq!(
            rig.clients.rows("first").await,
            [
                "2012-12-31 n=0 temp=null",
                "2013-01-01 n=1 temp=1",
                "2013-01-02 n=1 temp=2",
                "2013-01-03 n=2 temp=99"
            ]
        );
    }
}

#[tokio::test]
async fn histories_are_clipped_to_the_partition() {
    let mut rig = Rig::at("2012-01-01T00:00:00Z").await;
    changing_station(&mut rig).await;
    let sql = "SELECT entity_id AS id, temp, valid_from, valid_to FROM station_history";
    let mut transform = daily("history", sql);
    transform.entities = vec![entity_input("station")];
    transform.grain = pb::Grain::Weekly.into();
    rig.clients.register(transform).await.expect("registered");
    let week = spec(
        "history",
        "2012-12-24T00:00:00Z",
        "2013-01-07T00:00:00Z",
        Knowledge::AsKnownNow,
    );
    rig.clients.run_well(week).await;
    // The last versions are open-ended: their end is the partition's.
    assert_eq!(
        rig.clients.rows("history").await,
        [
            "2012-12-31 id=later temp=99 valid_from=2013-01-03 valid_to=2013-01-07",
            "2012-12-31 id=s1 temp=1 valid_from=2013-01-01 valid_to=2013-01-02",
            "2012-12-31 id=s1 temp=2 valid_from=2013-01-02 valid_to=2013-01-03",
            "2012-12-31 id=s1 temp=3 valid_from=2013-01-03 valid_to=2013-01-04",
            "2012-12-31 id=s1 temp=4 valid_from=2013-01-04 valid_to=2013-01-07"
        ]
    );
    let daily = pb::Transform {
        entities: vec![entity_input("station")],
        ..daily("history_of_day", sql)
    };
    rig.clients.register(daily).await.expect("registered");
    rig.clients
        .run_well(days("history_of_day", "2013-01-02", "2013-01-03"))
        .await;
    assert_eq!(
        rig.clients.rows("history_of_day").await,
        ["2013-01-02 id=s1 temp=2 valid_from=2013-01-02 valid_to=2013-01-03"]
    );
}

#[tokio::test]
async fn looking_ahead_fails_that_partition_alone() {
    let mut rig = Rig::at("2012-01-01T00:00:00Z").await;
    changing_station(&mut rig).await;
    // The event of 2 January asks for the first instant that it may not see, the one of 3 January for the last that it may.
    let text = "\
ts,peek
2013-01-01T12:00:00,2013-01-01T12:00:00
2013-01-02T12:00:00,2013-01-03T00:00:00
2013-01-03T12:00:00,2013-01-03T23:59:59.999999
";
    rig.csv("events", text, &[("peek", "timestamp")]).await;
    let transform = pb::Transform {
        sources: vec![source_input("events")],
        entities: vec![entity_input("station")],
        retry: None,
        ..daily(
            "peeks",
            "SELECT station_at('s1', peek)['temp'] AS temp FROM events",
        )
    };
    rig.clients.register(transform).await.expect("registered");
    let ended = rig
        .clients
        .run(days("peeks", "2013-01-01", "2013-01-04"))
        .await;
    assert_eq!(ended.backfill.state(), BackfillState::PartiallySucceeded);
    assert_eq!(
        ended.states(),
        [
            PartitionState::Succeeded,
            PartitionState::Failed,
            PartitionState::Succeeded
        ]
    );
    let message = &ended.partitions[1].message;
    assert!(
        message.starts_with("look-ahead: station_at(id, 2013-01-03T00:00:00Z)")
            && message.contains("2013-01-02"),
        "{message}"
    );
    assert_eq!(
        ended.partitions[1].attempt_count, 1,
        "another try is no help"
    );
    let failures: Vec<_> = ended
        .changes("2013-01-02")
        .into_iter()
        .filter(|change| change.state() == PartitionState::Failed)
        .map(|change| &change.message)
        .collect();
    assert_eq!(failures, [message]);
    assert_eq!(
        rig.clients.rows("peeks").await,
        ["2013-01-01 temp=1", "2013-01-03 temp=3"]
    );

    let constant = pb::Transform {
        entities: vec![entity_input("station")],
        ..daily(
            "constant",
            "SELECT station_at('s1', $partition_end)['temp'] AS temp",
        )
    };
    rig.clients.register(constant).await.expect("registered");
    let ended = rig
        .clients
        .run(days("constant", "2013-01-01", "2013-01-02"))
        .await;
    assert_eq!(ended.backfill.state(), BackfillState::Failed);
    let message = &ended.partitions[0].message;
    assert!(message.starts_with("look-ahead: "), "{message}");
}

#[tokio::test]
async fn rows_of_other_partitions_in_the_same_file_cannot_fail_this_one() {
    let mut rig = Rig::at("2012-01-01T00:00:00Z").await;
    changing_station(&mut rig).await;
    let text = "\
ts,v
2013-01-01T12:00:00,1
2013-01-02T12:00:00,0
2013-01-03T12:00:00,5
";
    rig.csv("events", text, &[("v", "int64")]).await;
    let transform = pb::Transform {
        sources: vec![source_input("events")],
        entities: vec![entity_input("station")],
        ..daily(
            "kept",
            "SELECT v FROM events WHERE 10 / v > 1 AND station_at('s1', ts)['temp'] > 0",
        )
    };
    rig.clients.register(transform).await.expect("registered");
    let ended = rig
        .clients
        .run(days("kept", "2013-01-01", "2013-01-04"))
        .await;
    assert_eq!(
        ended.states(),
        [
            PartitionState::Succeeded,
            PartitionState::Failed,
            PartitionState::Succeeded
        ],
        "{:?}",
        ended.partitions
    );
    assert!(
        ended.partitions[1].message.contains("ivide by zero"),
        "{}",
        ended.partitions[1].message
    );
    assert_eq!(
        rig.clients.rows("kept").await,
        ["2013-01-01 v=1", "2013-01-03 v=5"]
    );
}

#[tokio::test]
async fn prior_never_shows_what_comes_later() {
    let mut rig = Rig::at("2013-02-01T00:00:00Z").await;
    let transform = |name: &str, partitions: u32| pb::Transform {
        prior: Some(pb::PriorInput { partitions }),
        output_columns: vec!["n int64".to_owned()],
        ..daily(name, "SELECT count(*) AS n FROM prior")
    };
    rig.clients
        .register(transform("all", 0))
        .await
        .expect("registered");
    rig.clients
        .register(transform("two", 2))
        .await
        .expect("registered");
    for name in ["all", "two"] {
        rig.clients
            .run_well(days(name, "2013-01-01", "2013-01-05"))
            .await;
    }
    let all = [
        "2013-01-01 n=0",
        "2013-01-02 n=1",
        "2013-01-03 n=2",
        "2013-01-04 n=3",
    ];
    assert_eq!(rig.clients.rows("all").await, all);
    assert_eq!(
        rig.clients.rows("two").await,
        [
            "2013-01-01 n=0",
            "2013-01-02 n=1",
            "2013-01-03 n=2",
            "2013-01-04 n=2"
        ]
    );
    // All four are published now; a restatement still sees only the ones before.
    for (from, to) in [("2013-01-02", "2013-01-03"), ("2013-01-01", "2013-01-05")] {
        rig.clients.run_well(days("all", from, to)).await;
        assert_eq!(rig.clients.rows("all").await, all, "from {from}");
    }
}
