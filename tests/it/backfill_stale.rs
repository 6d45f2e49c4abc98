//! Which published partitions are stale: each reason, and what is no reason.

use hindcast::{
    kv::Database,
    pb::{self, Knowledge, PartitionAction, ReprocessBehavior, mutation::Operation},
};
use tonic::Code;

use crate::{
    backfill_stale_support::{
        ALL, EVENTS, HISTORY, LOOKUP, STATE, end, in_short, learned_at, patch, put, reason_of, rig,
    },
    backfill_support::{at, csv_source, daily, days, seconds, source_input, then},
};

#[tokio::test]
async fn a_correction_makes_the_days_stale_that_saw_it() {
    let mut rig = rig().await;
    for (name, sql) in [("state", STATE), ("lookup", LOOKUP), ("history", HISTORY)] {
        rig.register(name, sql).await;
        rig.clients.run_well(days(name, ALL.0, ALL.1)).await;
        assert!(rig.reasons(name).await.is_empty(), "{name}");
    }
    // From the morning of the 3rd to the morning of the 5th.
    let correction = patch(
        "2013-01-03T06:00:00Z",
        "2013-01-05T06:00:00Z",
        &[("temp", 2.0)],
    );
    let learned = rig.say("a", correction).await;
    assert_eq!(
        rig.reasons("state").await,
        [
            "03 a.temp@2013-01-03T23:59:59.999999Z",
            "04 a.temp@2013-01-04T23:59:59.999999Z"
        ]
    );
    assert_eq!(
        rig.reasons("lookup").await,
        ["03 a.temp@2013-01-03T12:00:00Z"],
        "on the 4th it asks at noon, when a is not asked for, but b is: {:?}",
        rig.stale("lookup").await
    );
    assert_eq!(
        rig.reasons("history").await,
        [
            "03 a.temp@2013-01-03T06:00:00Z",
            "04 a.temp@2013-01-04T00:00:00Z",
            "05 a.temp@2013-01-05T00:00:00Z"
        ]
    );
    for name in ["state", "lookup", "history"] {
        for stale in rig.stale(name).await.partitions {
            assert_eq!(learned_at(&stale), learned, "{stale:?}");
        }
    }
    // What came later is not what made it stale.
    let later = patch("2013-01-02", "2013-01-06", &[("wind", 5.0)]);
    rig.say("a", later).await;
    let page = rig.stale("state").await;
    assert_eq!(learned_at(&page.partitions[0]), learned);
    let message = &page.partitions[0].reasons[0].message;
    assert!(
        message.contains("sensor \"a\": temp differs at 2013-01-03T23"),
        "{message}"
    );

    let before = rig.clients.rows("state").await;
    let spec = pb::BackfillSpec {
        reprocess_behavior: ReprocessBehavior::Stale.into(),
        ..days("state", ALL.0, ALL.1)
    };
    let plan = rig.clients.plan(spec.clone()).await.expect("planned");
    let actions: Vec<_> = plan.partitions.iter().map(|it| it.action()).collect();
    let (run, skip) = (PartitionAction::Run, PartitionAction::Skip);
    assert_eq!(actions, [skip, skip, run, run, skip, skip]);
    assert!(plan.partitions[2].run_reason.contains("temp differs"));
    assert_eq!(plan.partitions[2].skip_reason, "");
    assert!(
        plan.partitions[0]
            .skip_reason
            .contains("it is up to date: bf-")
    );
    rig.clients.run_well(spec.clone()).await;
    let after = rig.clients.rows("state").await;
    let changed: Vec<_> = before.iter().zip(&after).map(|(a, b)| a != b).collect();
    assert_eq!(changed, [false, false, true, true, false, false]);
    assert!(rig.reasons("state").await.is_empty());
    let refused = rig.clients.create(spec).await.expect_err("nothing is left");
    assert_eq!(reason_of(&refused), "NOTHING_TO_RUN");
    assert!(refused.message().contains("it is up to date"), "{refused}");
}

#[tokio::test]
async fn what_was_not_seen_and_what_changes_nothing_is_no_reason() {
    let mut rig = rig().await;
    for (name, sql) in [("state", STATE), ("lookup", LOOKUP), ("history", HISTORY)] {
        rig.register(name, sql).await;
        rig.clients.run_well(days(name, ALL.0, ALL.1)).await;
    }
    // Another attribute, of all versions that are seen.
    rig.say("a", patch("2012-06-01", "2014-01-01", &[("wind", 9.0)]))
        .await;
    // Other valid times: before, after, and between two last instants.
    for (from, to) in [("2012-07-01", "2013-01-01"), ("2013-01-07", "2013-05-01")] {
        rig.say("a", put(from, Some(to), &[("temp", 7.0), ("wind", 9.0)]))
            .await;
        rig.say("new", put(from, Some(to), &[("temp", 7.0)])).await;
    }
    // The same again, and there and back.
    let (noon, evening) = ("2013-01-03T11:00:00Z", "2013-01-03T13:00:00Z");
    let same = [("temp", 1.0), ("wind", 9.0)];
    rig.say("a", put(noon, Some(evening), &same)).await;
    for name in ["state", "lookup", "history"] {
        assert!(rig.reasons(name).await.is_empty(), "{name}");
    }
    for temp in [4.0, 1.0] {
        rig.say("a", patch(noon, evening, &[("temp", temp)])).await;
    }
    assert!(rig.reasons("state").await.is_empty());
    assert!(rig.reasons("lookup").await.is_empty());
    assert_eq!(
        rig.reasons("history").await.len(),
        1,
        "there are more versions now, and their rows are counted"
    );
    // In the middle of a day, where no last instant is.
    rig.say("a", patch(noon, evening, &[("temp", 6.0)])).await;
    assert!(rig.reasons("state").await.is_empty());
    assert_eq!(
        rig.reasons("lookup").await,
        ["03 a.temp@2013-01-03T12:00:00Z"]
    );
}

#[tokio::test]
async fn coming_going_and_whole_versions_are_seen_where_they_are_read() {
    let mut rig = rig().await;
    rig.register("counted", "SELECT count(*) AS n FROM sensor")
        .await;
    rig.register("since", "SELECT entity_id, valid_from FROM sensor")
        .await;
    rig.register(
        "whole",
        "SELECT sensor_at(id, ts) IS NULL AS there, v FROM events",
    )
    .await;
    rig.register(
        "constant",
        "SELECT sensor_at('a', TIMESTAMP '2012-12-24T00:00:00Z')['temp'] AS t",
    )
    .await;
    let names = ["counted", "since", "whole", "constant"];
    for name in names {
        rig.clients.run_well(days(name, ALL.0, ALL.1)).await;
    }
    // A version cut in two, long before: only who reads its beginning sees it.
    rig.say("a", put("2012-05-01", Some("2012-06-01"), &[("temp", 3.0)]))
        .await;
    assert_eq!(rig.reasons("since").await.len(), 6);
    assert_eq!(
        rig.reasons("since").await[0],
        "01 a.valid_from@2013-01-01T23:59:59.999999Z"
    );
    for name in ["counted", "whole", "constant"] {
        assert!(rig.reasons(name).await.is_empty(), "{name}");
    }
    let learned = rig.say("b", end("2013-01-04", "2013-01-05")).await;
    assert_eq!(
        rig.reasons("counted").await,
        ["04 b?@2013-01-04T23:59:59.999999Z"]
    );
    assert_eq!(rig.reasons("whole").await, ["04 b?@2013-01-04T12:00:00Z"]);
    let page = rig.stale("whole").await;
    assert_eq!(learned_at(&page.partitions[0]), learned);
    rig.say("new", put("2013-01-02", Some("2013-01-03"), &[]))
        .await;
    assert_eq!(rig.reasons("counted").await.len(), 2);
    assert!(rig.reasons("constant").await.is_empty());
    rig.say("a", patch("2012-12-20", "2012-12-30", &[("temp", 2.0)]))
        .await;
    assert_eq!(
        rig.reasons("constant").await.len(),
        6,
        "it asks for that day"
    );
}

#[tokio::test]
async fn an_erasure_makes_stale_who_may_have_seen_the_entity() {
    let mut rig = rig().await;
    rig.register("state", STATE).await;
    let ran = rig
        .say("early", put("2020-01-01", None, &[("temp", 1.0)]))
        .await;
    rig.clients.run_well(days("state", ALL.0, ALL.1)).await;
    rig.say("late", put("2020-01-01", None, &[("temp", 1.0)]))
        .await;
    let erase = Operation::Erase(pb::Erase {});
    rig.say("late", erase.clone()).await;
    assert!(
        rig.reasons("state").await.is_empty(),
        "nobody knew it when they ran"
    );
    let erased = rig.say("early", erase.clone()).await;
    let page = rig.stale("state").await;
    assert_eq!(
        page.partitions.len(),
        6,
        "nobody knows any more where it was"
    );
    assert_eq!(in_short(&page.partitions[0]), "01 early!");
    assert_eq!(learned_at(&page.partitions[0]), erased);
    assert_ne!(ran, erased);
    rig.clients.run_well(days("state", ALL.0, ALL.1)).await;
    assert!(
        rig.reasons("state").await.is_empty(),
        "erased before it ran"
    );
}

#[tokio::test]
async fn what_is_learned_later_is_no_reason_for_partitions_as_known_then() {
    let mut rig = rig().await;
    rig.register("state", STATE).await;
    let spec = then("state", ALL.0, ALL.1);
    let ended = rig.clients.run_well(spec.clone()).await;
    rig.say("a", put("2012-01-01", None, &[("temp", 50.0)]))
        .await;
    assert!(rig.reasons("state").await.is_empty());
    rig.stop().await;
    rig.start().await;
    assert!(rig.reasons("state").await.is_empty());
    let only_stale = pb::BackfillSpec {
        reprocess_behavior: ReprocessBehavior::Stale.into(),
        ..spec.clone()
    };
    let refused = rig.clients.create(only_stale.clone()).await;
    assert_eq!(
        reason_of(&refused.expect_err("nothing is stale")),
        "NOTHING_TO_RUN"
    );
    // But they are not what is asked for as known now.
    let now = pb::BackfillSpec {
        knowledge: Knowledge::AsKnownNow.into(),
        ..only_stale.clone()
    };
    let plan = rig.clients.plan(now).await.expect("planned");
    let reason = &plan.partitions[0].run_reason;
    assert_eq!(reason, "it was computed as known then, not as known now");
    // An erasure reaches every basis.
    rig.say("a", Operation::Erase(pb::Erase {})).await;
    let page = rig.stale("state").await;
    assert_eq!(page.partitions.len(), 6);
    assert_eq!(in_short(&page.partitions[5]), "06 a!");
    assert_eq!(page.partitions[5].knowledge(), Knowledge::AsKnownThen);
    assert_eq!(page.partitions[5].backfill, ended.backfill.name);
    rig.clients.run_well(only_stale).await;
    assert!(rig.reasons("state").await.is_empty());
}

#[tokio::test]
async fn files_and_revisions_and_their_windows() {
    let mut rig = rig().await;
    let folder = rig.folder.path().join("sources/daily");
    for day in 1..=6 {
        let rows = format!("ts,v\n2013-01-0{day}T12:00:00,{day}\n");
        rig.write(&format!("daily/dt=2013-01-0{day}/part.csv"), &rows);
    }
    let source = pb::Source {
        hive: Some(pb::HivePartition {
            column: "dt".to_owned(),
            format: "%Y-%m-%d".to_owned(),
            grain: pb::Grain::Daily.into(),
            time_zone: "UTC".to_owned(),
        }),
        ..csv_source("sliced", &folder, &[("v", "int64")])
    };
    rig.clients.create_source(source).await.expect("created");
    let transform = |name: &str, lookback, sql: &str| pb::Transform {
        sources: vec![
            pb::SourceInput {
                source: "sliced".to_owned(),
                lookback,
            },
            source_input("events"),
        ],
        ..daily(name, sql)
    };
    let sum = "SELECT sum(v) AS v FROM sliced";
    let mut own = transform("own", None, sum);
    let trailing = transform("trailing", Some(seconds(86_400)), sum);
    for transform in [own.clone(), trailing] {
        rig.clients.register(transform).await.expect("registered");
    }
    for name in ["own", "trailing"] {
        rig.clients.run_well(days(name, ALL.0, ALL.1)).await;
        assert!(rig.reasons(name).await.is_empty(), "{name}");
    }
    // A source that is declared and not read, and a slice that nobody reads.
    rig.write("events.csv", "ts,id,v\n2013-01-01T12:00:00,a,1\n");
    rig.write(
        "daily/dt=2013-02-01/part.csv",
        "ts,v\n2013-02-01T12:00:00,1\n",
    );
    assert!(rig.reasons("own").await.is_empty());

    rig.write(
        "daily/dt=2013-01-02/more.csv",
        "ts,v\n2013-01-02T13:00:00,7\n",
    );
    rig.write(
        "daily/dt=2013-01-02/part.csv",
        "ts,v\n2013-01-02T12:00:00,20\n",
    );
    std::fs::remove_file(folder.join("dt=2013-01-06/part.csv")).expect("removed");
    assert_eq!(
        rig.reasons("own").await,
        ["02 more.csv added*2", "06 part.csv removed*1"]
    );
    assert_eq!(
        rig.reasons("trailing").await,
        [
            "02 more.csv added*2",
            "03 more.csv added*2",
            "06 part.csv removed*1"
        ]
    );
    let spec = pb::BackfillSpec {
        reprocess_behavior: ReprocessBehavior::Stale.into(),
        ..days("own", ALL.0, ALL.1)
    };
    rig.clients.run_well(spec).await;
    assert!(rig.reasons("own").await.is_empty());

    // A revision that computes the same is none.
    own.description = "as before".to_owned();
    let second = rig.clients.register(own.clone()).await.expect("registered");
    assert_eq!(second.revision, 2);
    assert!(rig.reasons("own").await.is_empty());
    own.sql = "SELECT sum(v) + 0 AS v FROM sliced".to_owned();
    rig.clients.register(own).await.expect("registered");
    assert_eq!(rig.reasons("own").await.len(), 6);
    assert_eq!(rig.reasons("own").await[0], "01 r1->r3");
    let with_first = pb::ListStalePartitionsRequest {
        transform: "own".to_owned(),
        revision: 1,
        ..pb::ListStalePartitionsRequest::default()
    };
    let page = rig.stale_page(with_first).await.expect("listed");
    assert!(page.partitions.is_empty());
}

#[tokio::test]
async fn partitions_that_read_prior_are_stale_when_it_was_published_again() {
    let mut rig = rig().await;
    let sql = "SELECT sum(v) + coalesce((SELECT max(total) FROM prior), 0) AS total FROM events";
    let transform = |name: &str, partitions| pb::Transform {
        sources: vec![source_input("events")],
        prior: Some(pb::PriorInput { partitions }),
        output_columns: vec!["total int64".to_owned()],
        ..daily(name, sql)
    };
    for (name, partitions) in [("all", 0), ("one", 1)] {
        let registered = rig.clients.register(transform(name, partitions)).await;
        registered.expect("registered");
        rig.clients.run_well(days(name, ALL.0, ALL.1)).await;
        assert!(rig.reasons(name).await.is_empty(), "{name}");
        rig.clients
            .run_well(days(name, "2013-01-03", "2013-01-04"))
            .await;
    }
    assert_eq!(rig.reasons("all").await, ["04 <03", "05 <03", "06 <03"]);
    assert_eq!(rig.reasons("one").await, ["04 <03"]);
    let spec = pb::BackfillSpec {
        reprocess_behavior: ReprocessBehavior::Stale.into(),
        ..days("one", ALL.0, ALL.1)
    };
    let plan = rig.clients.plan(spec.clone()).await.expect("planned");
    let runs = plan.partitions.iter().map(|it| it.run_reason.as_str());
    let runs: Vec<_> = runs.collect();
    assert_eq!(runs[..3], ["", "", ""]);
    assert!(runs[3].contains("partition 2013-01-03, which it reads, was published again"));
    assert_eq!(runs[4..], ["an earlier partition, which it reads, runs"; 2]);
    rig.clients.run_well(spec).await;
    assert!(rig.reasons("one").await.is_empty());
}

#[tokio::test]
async fn pages_hold_together_and_ranges_cut() {
    let mut rig = rig().await;
    rig.register("state", STATE).await;
    rig.clients.run_well(days("state", ALL.0, ALL.1)).await;
    rig.say("a", put("2012-01-01", None, &[("temp", 3.0)]))
        .await;
    let mut request = pb::ListStalePartitionsRequest {
        transform: "state".to_owned(),
        page_size: 4,
        ..pb::ListStalePartitionsRequest::default()
    };
    let first = rig.stale_page(request.clone()).await.expect("listed");
    assert_eq!(first.partitions.len(), 4);
    request.page_token.clone_from(&first.next_page_token);
    rig.say("b", put("2012-01-01", None, &[("temp", 3.0)]))
        .await;
    let second = rig.stale_page(request.clone()).await.expect("listed");
    assert_eq!(second.basis, first.basis);
    let labels: Vec<_> = [first, second]
        .iter()
        .flat_map(|page| page.partitions.iter().map(|it| it.label[8..].to_owned()))
        .collect();
    assert_eq!(labels, ["01", "02", "03", "04", "05", "06"]);
    request.page_token = String::new();
    request.range = Some(pb::TimeRange {
        from: Some(at("2013-01-02T06:00:00Z")),
        to: Some(at("2013-01-04T00:00:00Z")),
    });
    let cut = rig.stale_page(request.clone()).await.expect("listed");
    let labels: Vec<_> = cut.partitions.iter().map(|it| &it.label[8..]).collect();
    assert_eq!(labels, ["02", "03"]);
    assert_eq!(cut.published_count, 2);

    for (request, code) in [
        (
            pb::ListStalePartitionsRequest::default(),
            Code::InvalidArgument,
        ),
        (
            pb::ListStalePartitionsRequest {
                transform: "none".to_owned(),
                ..request.clone()
            },
            Code::NotFound,
        ),
        (
            pb::ListStalePartitionsRequest {
                revision: 7,
                ..request.clone()
            },
            Code::NotFound,
        ),
        (
            pb::ListStalePartitionsRequest {
                page_token: "abc".to_owned(),
                ..request.clone()
            },
            Code::InvalidArgument,
        ),
        (
            pb::ListStalePartitionsRequest {
                page_size: 10_001,
                ..request.clone()
            },
            Code::InvalidArgument,
        ),
        (
            pb::ListStalePartitionsRequest {
                range: Some(pb::TimeRange {
                    from: Some(at("2013-01-02T00:00:00Z")),
                    to: Some(at("2013-01-02T00:00:00Z")),
                }),
                ..request.clone()
            },
            Code::InvalidArgument,
        ),
    ] {
        let refused = rig.stale_page(request.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
    }
    // Nothing is published.
    rig.register("fresh", STATE).await;
    let page = rig.stale("fresh").await;
    assert_eq!((page.partitions.len(), page.published_count), (0, 0));
    let spec = pb::BackfillSpec {
        reprocess_behavior: ReprocessBehavior::Stale.into(),
        ..days("fresh", ALL.0, ALL.1)
    };
    let refused = rig.clients.create(spec).await.expect_err("nothing");
    assert_eq!(reason_of(&refused), "NOTHING_TO_RUN");
    assert!(
        refused.message().contains("no backfill published it yet"),
        "{refused}"
    );
}

#[tokio::test]
async fn entities_that_were_not_written_to_where_it_looked_are_not_read() {
    let mut rig = rig().await;
    rig.register("lookup", LOOKUP).await;
    rig.clients.run_well(days("lookup", ALL.0, ALL.1)).await;
    // Thousands of changes in the future of every partition, of many entities.
    for batch in 0..30 {
        let ids: Vec<_> = (0..200).map(|n| format!("other{n}")).collect();
        let say = |id| (id, put("2013-02-01", None, &[("temp", f64::from(batch))]));
        let all: Vec<_> = ids.iter().map(String::as_str).map(say).collect();
        rig.say_all(&all).await;
    }
    let page = rig.stale("lookup").await;
    assert!(page.partitions.is_empty());
    assert_eq!((page.commit_count, page.comparison_count), (30, 0));
    rig.say("b", patch("2013-01-02", "2013-01-03", &[("temp", 2.0)]))
        .await;
    rig.say("b", patch("2013-01-04", "2013-01-05", &[("wind", 2.0)]))
        .await;
    let page = rig.stale("lookup").await;
    assert_eq!(
        in_short(&page.partitions[0]),
        "02 b.temp@2013-01-02T12:00:00Z"
    );
    assert_eq!(page.partitions.len(), 1);
    assert_eq!((page.commit_count, page.comparison_count), (32, 1));
    rig.stop().await;
    rig.start().await;
    let again = rig.stale("lookup").await;
    assert_eq!(again, page, "it is the same after a restart");
}

#[tokio::test]
async fn what_ran_before_reads_were_recorded_is_taken_for_a_reader_of_all() {
    let mut rig = rig().await;
    rig.register("state", STATE).await;
    rig.clients.run_well(days("state", ALL.0, ALL.1)).await;
    rig.stop().await;
    {
        let folder = rig.folder.path().join("data/db");
        let database = Database::open(&folder, 16 << 20).expect("opens");
        let inputs = database.keyspace("backfill_inputs").expect("a keyspace");
        let keys: Vec<_> = inputs.large_keys().collect::<Result<_, _>>().expect("read");
        assert_eq!(keys.len(), 6);
        for key in keys {
            inputs.remove_large(&key).expect("removed");
        }
        database.flush().expect("flushed");
    }
    rig.start().await;
    assert!(rig.reasons("state").await.is_empty());
    rig.say("new", put("2013-01-04", None, &[("wind", 1.0)]))
        .await;
    assert_eq!(
        rig.reasons("state").await,
        [
            "04 new?@2013-01-04T00:00:00Z",
            "05 new?@2013-01-04T00:00:00Z",
            "06 new?@2013-01-04T00:00:00Z"
        ]
    );
}

#[tokio::test]
async fn an_entity_type_as_output_is_stale_when_its_prior_came_out_otherwise() {
    let mut rig = rig().await;
    let entity_type = pb::EntityType {
        name: "level".to_owned(),
        attributes: vec![pb::Attribute {
            name: "v".to_owned(),
            kind: pb::AttributeKind::Int64.into(),
            ..pb::Attribute::default()
        }],
        ..pb::EntityType::default()
    };
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type),
    };
    let created = rig.clients.entities.create_entity_type(request).await;
    created.expect("created");
    let running = "
        WITH today AS (SELECT id, sum(v) AS v FROM events GROUP BY id)
        SELECT coalesce(prior.id, today.id) AS id, coalesce(prior.v, 0) + coalesce(today.v, 0) AS v
        FROM prior FULL OUTER JOIN today ON prior.id = today.id";
    let transform = pb::Transform {
        sources: vec![source_input("events")],
        prior: Some(pb::PriorInput { partitions: 1 }),
        output_table: String::new(),
        output_entity: Some(pb::EntityOutput {
            entity_type: "level".to_owned(),
            key: vec!["id".to_owned()],
        }),
        ..daily("levels", running)
    };
    rig.clients.register(transform).await.expect("registered");
    rig.clients.run_well(days("levels", ALL.0, ALL.1)).await;
    assert!(rig.reasons("levels").await.is_empty());
    rig.write("events.csv", &EVENTS.replace("a,3", "a,30"));
    rig.clients
        .run_well(days("levels", "2013-01-03", "2013-01-04"))
        .await;
    let file = "events.csv changed*1";
    let prior = "a.v@2013-01-03T23:59:59.999999Z";
    assert_eq!(
        rig.reasons("levels").await,
        [
            format!("01 {file}"),
            format!("02 {file}"),
            format!("04 {prior} {file}"),
            format!("05 {file}"),
            format!("06 {file}"),
        ]
    );
    let spec = pb::BackfillSpec {
        reprocess_behavior: ReprocessBehavior::Stale.into(),
        ..days("levels", ALL.0, ALL.1)
    };
    rig.clients.run_well(spec).await;
    assert!(rig.reasons("levels").await.is_empty());
}
