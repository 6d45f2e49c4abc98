//! Several transforms in one backfill: what waits for what, what each reads, and what a failure means for the others.

use std::collections::HashMap;

use hindcast::pb::{self, BackfillState, PartitionState};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    backfill_sources::daily_files,
    backfill_support::{
        Ended, Rig, SLOW, at, daily, days, january, over_events, partition_changes, seconds, then,
    },
};

/// A week that sums up the days of table `day`.
const SUM: &str = "SELECT sum(v) AS total, count(*) AS n FROM day";

fn reason_of(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}

fn reads(table: &str, lookback_days: i64) -> Vec<pb::TableInput> {
    vec![pb::TableInput {
        table: table.to_owned(),
        lookback: Some(seconds(lookback_days * 86_400)),
    }]
}

fn weekly(name: &str, sql: &str, lookback_days: i64) -> pb::Transform {
    pb::Transform {
        grain: pb::Grain::Weekly.into(),
        tables: reads("day", lookback_days),
        ..daily(name, sql)
    }
}

fn all_of(names: &[&str], spec: pb::BackfillSpec) -> pb::BackfillSpec {
    let named = names.iter().map(|name| pb::TransformRevision {
        transform: (*name).to_owned(),
        revision: 0,
    });
    pb::BackfillSpec {
        transform: String::new(),
        transforms: named.collect(),
        ..spec
    }
}

/// `day` and `week` over January 2013, whose first whole week begins on the 7th.
async fn days_and_weeks(sql: &str) -> Rig {
    let mut rig = january(28).await;
    for transform in [over_events("day", sql), weekly("week", SUM, 0)] {
        rig.clients.register(transform).await.expect("registered");
    }
    rig
}

/// The states of the partitions of one transform.
fn states_of(ended: &Ended, transform: &str) -> Vec<PartitionState> {
    let own = ended.partitions.iter();
    own.filter(|partition| partition.transform == transform)
        .map(pb::Partition::state)
        .collect()
}

#[tokio::test]
async fn weeks_wait_for_the_days_that_they_read() {
    let mut rig = days_and_weeks("SELECT v FROM events").await;
    let spec = all_of(&["week", "day"], days("", "2013-01-07", "2013-01-21"));
    let plan = rig.clients.plan(spec.clone()).await.expect("planned");
    let named: Vec<_> = plan.transforms.iter().map(|it| &it.transform).collect();
    assert_eq!(named, ["day", "week"], "upstream first");
    assert_eq!(plan.transforms[1].tables[0].transform, "day");
    let week = plan.partitions.iter().find(|it| it.transform == "week");
    let week = week.expect("planned");
    assert_eq!((week.label.as_str(), week.upstream_count), ("2013-W02", 7));
    assert_eq!(plan.warnings, Vec::<String>::new());
    let other_way = all_of(&["day", "week"], days("", "2013-01-07", "2013-01-21"));
    let same = rig.clients.plan(other_way).await.expect("planned");
    assert_eq!(same.plan_hash, plan.plan_hash, "the order says nothing");

    let ended = rig.clients.run_well(spec).await;
    assert_eq!(ended.partitions.len(), 16);
    assert_eq!(
        rig.clients.rows("week").await,
        ["2013-01-07 total=70 n=7", "2013-01-14 total=119 n=7"]
    );
    let mut published = 0;
    for change in partition_changes(&ended.events) {
        match (change.transform.as_str(), change.state()) {
            ("day", PartitionState::Succeeded) if change.label.as_str() < "2013-01-14" => {
                published += 1;
            }
            ("week", PartitionState::Running) if change.label == "2013-W02" => {
                assert_eq!(published, 7);
            }
            _ => {}
        }
    }
    let request = pb::ListPartitionsRequest {
        backfill: ended.backfill.name.clone(),
        include_attempts: true,
        ..pb::ListPartitionsRequest::default()
    };
    let listed = rig.clients.backfills.list_partitions(request).await;
    let listed = listed.expect("listed").into_inner().partitions;
    let read = |label: &str| {
        let partition = listed.iter().find(|it| it.label == label);
        partition.expect("there").tables.clone()
    };
    assert_eq!(read("2013-01-07"), []);
    let of_week = read("2013-W02");
    let own: u32 = of_week.iter().map(|it| it.own_partition_count).sum();
    assert_eq!(own, 7);
    let snapshots = rig.clients.table("day").await.snapshots;
    let known = |id: i64| snapshots.iter().any(|it| it.snapshot_id == id);
    assert!(of_week.iter().all(|it| known(it.snapshot_id)));

    let listed = pb::ListPartitionsRequest {
        backfill: ended.backfill.name.clone(),
        transform: "week".to_owned(),
        ..pb::ListPartitionsRequest::default()
    };
    let listed = rig.clients.backfills.list_partitions(listed).await;
    let listed = listed.expect("listed").into_inner().partitions;
    assert_eq!(listed.len(), 2);
    for (transform, count) in [("week", 1), ("day", 1), ("neither", 0)] {
        let list = pb::ListBackfillsRequest {
            transform: transform.to_owned(),
            ..pb::ListBackfillsRequest::default()
        };
        let found = rig.clients.backfills.list_backfills(list).await;
        let found = found.expect("listed").into_inner().backfills;
        assert_eq!(found.len(), count, "{transform}");
    }
}

#[tokio::test]
async fn a_failed_day_fails_its_week_alone_and_a_retry_takes_up_both() {
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    daily_files(&mut rig, 21).await;
    let sql = format!("SELECT v, CASE WHEN v = 7 THEN {SLOW} ELSE 0 END > 0 AS slow FROM events");
    for transform in [over_events("day", &sql), weekly("week", SUM, 0)] {
        rig.clients.register(transform).await.expect("registered");
    }
    let mut spec = all_of(&["day", "week"], days("", "2013-01-07", "2013-01-21"));
    spec.max_active_partitions = 1;
    let name = rig.clients.create(spec).await.expect("created").name;
    let file = rig
        .folder
        .path()
        .join("sources/events/dt=2013-01-10/part.csv");
    let away = rig.folder.path().join("away.csv");
    std::fs::rename(&file, &away).expect("moved away");
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::PartiallySucceeded);
    let (done, upstream_failed) = (PartitionState::Succeeded, PartitionState::UpstreamFailed);
    assert_eq!(states_of(&ended, "week"), [upstream_failed, done]);
    let week = ended.partitions.iter().find(|it| it.label == "2013-W02");
    assert_eq!(
        week.expect("there").message,
        "partition 2013-01-10 of day, which it reads, failed"
    );

    std::fs::rename(&away, &file).expect("put back");
    rig.stop().await;
    rig.start().await;
    rig.clients.retry(&name).await.expect("retried");
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert_eq!(
        rig.clients.rows("week").await,
        ["2013-01-07 total=70 n=7", "2013-01-14 total=119 n=7"]
    );
    let counted: HashMap<_, _> = ended
        .partitions
        .iter()
        .map(|it| (it.label.as_str(), it.attempt_count))
        .collect();
    assert_eq!(
        (
            counted["2013-01-10"],
            counted["2013-W02"],
            counted["2013-W03"]
        ),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn a_restatement_runs_all_of_them_again() {
    let mut rig = days_and_weeks("SELECT v FROM events").await;
    let spec = all_of(&["day", "week"], days("", "2013-01-07", "2013-01-21"));
    let parent = rig.clients.run_well(spec).await.backfill;
    let request = |revision| pb::RestateBackfillRequest {
        name: parent.name.clone(),
        range: Some(pb::TimeRange {
            from: None,
            to: Some(at("2013-01-14T00:00:00Z")),
        }),
        revision,
        ..pb::RestateBackfillRequest::default()
    };
    let refused = rig.clients.restate(request(1)).await.expect_err("refused");
    assert_eq!(reason_of(&refused), "INVALID_BACKFILL");
    rig.clients
        .register(over_events("day", "SELECT v * 2 AS v FROM events"))
        .await
        .expect("registered");
    let restated = rig.clients.restate(request(0)).await.expect("restated");
    let name = restated.backfill.expect("a backfill").name;
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.partitions.len(), 8);
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert_eq!(ended.backfill.parent, parent.name);
    assert_eq!(
        rig.clients.rows("week").await,
        ["2013-01-07 total=70 n=7", "2013-01-14 total=119 n=7"],
        "the revisions are the parent's"
    );
}

#[tokio::test]
async fn backfills_of_either_table_are_in_the_way() {
    let mut rig = january(28).await;
    let sql = format!("SELECT v, {SLOW} > 0 AS slow FROM events");
    for transform in [over_events("day", &sql), weekly("week", SUM, 0)] {
        rig.clients.register(transform).await.expect("registered");
    }
    let both = all_of(&["day", "week"], days("", "2013-01-07", "2013-01-21"));
    let name = rig.clients.create(both).await.expect("created").name;
    rig.clients.pause(&name).await.expect("paused");
    for (transform, from, to) in [
        ("day", "2013-01-20", "2013-01-22"),
        ("week", "2013-01-14", "2013-01-28"),
    ] {
        let other = rig.clients.create(days(transform, from, to)).await;
        let refused = other.expect_err("in the way");
        assert_eq!(reason_of(&refused), "BACKFILL_OVERLAP", "{transform}");
    }
    rig.clients
        .run_well(days("day", "2013-01-21", "2013-01-22"))
        .await;
    let cancelled = rig.clients.cancel(&name).await.expect("cancelled");
    assert_eq!(cancelled.name, name);
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Cancelled);
    assert_eq!(states_of(&ended, "week"), [PartitionState::Cancelled; 2]);
}

#[tokio::test]
async fn what_is_outside_is_read_as_it_was_when_the_backfill_was_created() {
    let mut rig = january(28).await;
    let sql = format!("SELECT v, {SLOW} > 0 AS slow FROM events");
    rig.clients
        .register(over_events("day", &sql))
        .await
        .expect("registered");
    rig.clients
        .register(weekly("week", SUM, 7))
        .await
        .expect("registered");
    let both = all_of(&["week", "day"], days("", "2013-01-14", "2013-01-21"));
    let plan = rig.clients.plan(both.clone()).await.expect("planned");
    assert_eq!(
        plan.warnings,
        [
            "week: day: 7 of its partitions would be read that were never published, the first of them 2013-01-07"
        ]
    );
    rig.clients
        .run_well(days("day", "2013-01-07", "2013-01-14"))
        .await;
    let moved = rig.clients.plan(both.clone()).await.expect("planned");
    assert_ne!(moved.plan_hash, plan.plan_hash, "its table has a snapshot");
    assert_eq!(
        moved.warnings,
        [
            "week: day: 7 of its partitions are not run by this backfill and are read as they are published now, the first of them 2013-01-07"
        ]
    );

    let name = rig.clients.create(both).await.expect("created").name;
    rig.clients.pause(&name).await.expect("paused");
    let tenfold = sql.replace("SELECT v,", "SELECT v * 10 AS v,");
    rig.clients
        .register(over_events("day", &tenfold))
        .await
        .expect("registered");
    rig.clients
        .run_well(days("day", "2013-01-07", "2013-01-14"))
        .await;
    rig.clients.resume(&name).await.expect("resumed");
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert_eq!(
        rig.clients.rows("week").await,
        ["2013-01-14 total=189 n=14"]
    );
    // Alone, it reads what is published now.
    rig.clients
        .run_well(days("week", "2013-01-14", "2013-01-21"))
        .await;
    assert_eq!(
        rig.clients.rows("week").await,
        ["2013-01-14 total=819 n=14"]
    );
}

#[tokio::test]
async fn no_partition_sees_a_later_one_of_another_table() {
    let mut rig = january(28).await;
    let sums = pb::Transform {
        grain: pb::Grain::Weekly.into(),
        ..over_events("sums", "SELECT sum(v) AS total FROM events")
    };
    rig.clients.register(sums).await.expect("registered");
    // Each day sees the weeks that are over by its end.
    let day = |name: &str, zone: &str, lookback_days: i64| pb::Transform {
        tables: reads("sums", lookback_days),
        time_zone: zone.to_owned(),
        ..daily(
            name,
            "SELECT count(*) AS weeks, max(total) AS total FROM sums",
        )
    };
    for transform in [day("utc", "", 0), day("trailing", "", 6)] {
        rig.clients.register(transform).await.expect("registered");
    }
    let range = days("", "2013-01-07", "2013-01-21");
    let plan = rig
        .clients
        .plan(all_of(&["utc", "sums"], range.clone()))
        .await;
    let warnings = plan.expect("planned").warnings;
    assert!(
        warnings[0].starts_with("utc: sums: 12 of 14 partitions would see no weekly partition"),
        "{warnings:?}"
    );
    let spec = all_of(&["utc", "trailing", "sums"], range);
    rig.clients.run_well(spec).await;
    let utc = rig.clients.rows("utc").await;
    let (sunday, next) = (&utc[6], &utc[7]);
    assert_eq!(sunday, "2013-01-13 weeks=1 total=70");
    assert_eq!(next, "2013-01-14 weeks=0 total=null");
    assert_eq!(
        utc[5], "2013-01-12 weeks=0 total=null",
        "not before it is over"
    );
    let trailing = rig.clients.rows("trailing").await;
    assert_eq!(trailing[7], "2013-01-14 weeks=1 total=70");
    assert_eq!(trailing[12], "2013-01-19 weeks=1 total=70");
    assert_eq!(trailing[13], "2013-01-20 weeks=1 total=119");
    assert_eq!(trailing[5], "2013-01-12 weeks=0 total=null");

    // In New York the week is over five hours before the day is.
    rig.clients
        .register(day("york", "America/New_York", 0))
        .await
        .expect("registered");
    let range = days("", "2013-01-07", "2013-01-21");
    rig.clients.run_well(all_of(&["york", "sums"], range)).await;
    let york = rig.clients.rows("york").await;
    assert_eq!(york.len(), 13, "the days that lie wholly in the range");
    assert_eq!(york[6], "2013-01-13T05:00:00Z weeks=1 total=70");
    assert_eq!(york[5], "2013-01-12T05:00:00Z weeks=0 total=null");
}

#[tokio::test]
async fn what_was_learned_later_is_not_read_from_another_table() {
    let mut rig = days_and_weeks("SELECT v FROM events").await;
    rig.clients
        .run_well(days("day", "2013-01-07", "2013-01-14"))
        .await;
    let alone = then("week", "2013-01-07", "2013-01-14");
    let refused = rig.clients.plan(alone.clone()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&refused), "UPSTREAM_KNOWS_MORE");
    assert!(refused.message().contains("2013-W02 of week"), "{refused}");
    let both = all_of(&["week", "day"], alone);
    rig.clients.run_well(both).await;
    assert_eq!(rig.clients.rows("week").await, ["2013-01-07 total=70 n=7"]);
    // Now the days know no more than the week.
    rig.clients
        .run_well(then("week", "2013-01-07", "2013-01-14"))
        .await;
}

#[tokio::test]
async fn circles_and_unknown_tables_are_refused() {
    let mut rig = days_and_weeks("SELECT v FROM events").await;
    let back = pb::Transform {
        tables: reads("week", 0),
        ..over_events("day", "SELECT v + total AS v FROM events, week")
    };
    let refused = rig.clients.register(back).await.expect_err("a circle");
    assert_eq!(reason_of(&refused), "TRANSFORM_CYCLE");
    assert!(
        refused
            .message()
            .ends_with("in a circle: day reads week reads day"),
        "{refused}"
    );
    let unknown = pb::Transform {
        tables: reads("nowhere", 0),
        ..daily("lost", "SELECT * FROM nowhere")
    };
    let own = pb::Transform {
        tables: reads("own", 0),
        ..daily("own", "SELECT * FROM own")
    };
    for (transform, text) in [
        (unknown, "no transform writes table \"nowhere\""),
        (own, "declare prior to read it"),
        (weekly("wrong", "SELECT nothing FROM day", 0), "nothing"),
    ] {
        let refused = rig.clients.register(transform).await.expect_err("refused");
        assert_eq!(reason_of(&refused), "INVALID_DEFINITION");
        assert!(refused.message().contains(text), "{refused}");
    }
    let twice = all_of(&["day", "day"], days("", "2013-01-07", "2013-01-14"));
    let refused = rig.clients.plan(twice).await.expect_err("refused");
    assert!(refused.message().contains("named twice"), "{refused}");
    let neither = all_of(&["day", "week"], days("", "2013-01-07", "2013-01-14"));
    let neither = pb::BackfillSpec {
        transform: "day".to_owned(),
        ..neither
    };
    let refused = rig.clients.plan(neither).await.expect_err("refused");
    assert_eq!(reason_of(&refused), "INVALID_REQUEST");
}

#[tokio::test]
async fn what_reads_a_partition_that_runs_is_run_again() {
    let mut rig = days_and_weeks("SELECT v FROM events").await;
    let range = |to: &str| {
        let mut spec = all_of(&["day", "week"], days("", "2013-01-07", to));
        spec.reprocess_behavior = pb::ReprocessBehavior::None.into();
        spec
    };
    rig.clients
        .run_well(days("day", "2013-01-07", "2013-01-13"))
        .await;
    rig.clients
        .run_well(days("week", "2013-01-07", "2013-01-14"))
        .await;
    assert_eq!(
        rig.clients.rows("week").await,
        ["2013-01-07 total=57 n=6"],
        "Sunday was missing"
    );
    let ended = rig.clients.run_well(range("2013-01-14")).await;
    assert_eq!(rig.clients.rows("week").await, ["2013-01-07 total=70 n=7"]);
    let run = |state: PartitionState| {
        let partitions = ended.partitions.iter();
        partitions.filter(|it| it.state() == state).count()
    };
    assert_eq!(run(PartitionState::Succeeded), 2, "Sunday and its week");
    assert_eq!(run(PartitionState::Skipped), 6);
    let again = rig.clients.create(range("2013-01-14")).await;
    assert_eq!(
        reason_of(&again.expect_err("nothing is left")),
        "NOTHING_TO_RUN"
    );
}

#[tokio::test]
async fn a_task_computes_neighbours_and_one_that_fails_fails_alone() {
    let mut rig = january(20).await;
    let sql = "SELECT 12 / (v - 6) AS q FROM events";
    for name in ["together", "alone"] {
        rig.clients
            .register(over_events(name, sql))
            .await
            .expect("registered");
    }
    let spec = |name: &str, partitions_per_task: u32| pb::BackfillSpec {
        partitions_per_task,
        max_active_partitions: 1,
        ..days(name, "2013-01-01", "2013-01-21")
    };
    let together = rig.clients.run(spec("together", 10)).await;
    let alone = rig.clients.run(spec("alone", 1)).await;
    assert_eq!(together.states(), alone.states());
    assert_eq!(together.backfill.state(), BackfillState::PartiallySucceeded);
    assert_eq!(together.states()[5], PartitionState::Failed);
    assert_eq!(
        rig.clients.rows("together").await,
        rig.clients.rows("alone").await
    );
    let snapshots = rig.clients.table("together").await.snapshots;
    assert_eq!(snapshots.len(), 2, "a commit for each task");
    assert_eq!(snapshots[0].partition_count, 9);

    let line = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        output_columns: vec!["v int64".to_owned()],
        ..over_events("line", "SELECT v FROM events")
    };
    rig.clients.register(line).await.expect("registered");
    let refused = rig
        .clients
        .plan(spec("line", 2))
        .await
        .expect_err("refused");
    assert_eq!(reason_of(&refused), "TASK_WITH_PRIOR");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = rig.clients.plan(spec("alone", 1_001)).await;
    let refused = refused.expect_err("refused");
    assert_eq!(reason_of(&refused), "INVALID_BACKFILL");
    assert!(refused.message().contains("1001 is not in 1 to 1000"));
    let beside = all_of(&["line", "alone"], spec("", 2));
    let plan = rig.clients.plan(beside).await.expect("planned");
    assert!(plan.warnings[0].starts_with("line: each partition reads what the earlier ones wrote"));
}

#[tokio::test]
async fn attempts_tell_their_memory_and_how_long_they_waited() {
    let mut rig = january(3).await;
    let sql = format!("SELECT v, {SLOW} AS slow FROM events ORDER BY v");
    rig.clients
        .register(over_events("slow", &sql))
        .await
        .expect("registered");
    let mut spec = days("slow", "2013-01-01", "2013-01-03");
    spec.max_active_partitions = 1;
    let name = rig.clients.create(spec).await.expect("created").name;
    rig.clock
        .set(crate::backfill_support::micros("2013-12-31T00:00:05Z"));
    rig.clients.ended(&name).await;
    let request = pb::ListPartitionsRequest {
        backfill: name,
        include_attempts: true,
        ..pb::ListPartitionsRequest::default()
    };
    let listed = rig.clients.backfills.list_partitions(request).await;
    let listed = listed.expect("listed").into_inner().partitions;
    let attempts: Vec<_> = listed.iter().map(|it| &it.attempts[0]).collect();
    assert!(
        attempts.iter().all(|it| it.peak_memory_bytes > 0),
        "{attempts:?}"
    );
    let waited = attempts[1].slot_wait.expect("told");
    assert_eq!(waited.seconds, 5, "{attempts:?}");
}

#[tokio::test]
async fn a_task_reads_one_file_once_and_computes_the_same() {
    let mut rig = january(20).await;
    let queries = [
        ("plain", "SELECT v FROM events"),
        (
            "floats",
            "SELECT sum(v / 7.0) AS f, count(*) AS n FROM events",
        ),
        ("limited", "SELECT v FROM events LIMIT 1"),
        (
            "twice",
            "SELECT a.v, b.v AS w FROM events a JOIN events b ON a.v >= b.v",
        ),
    ];
    for (name, sql) in queries {
        let mut told = Vec::new();
        for partitions_per_task in [1, 8] {
            let table = format!("{name}_{partitions_per_task}");
            let transform = pb::Transform {
                sources: vec![pb::SourceInput {
                    source: "events".to_owned(),
                    lookback: Some(seconds(3 * 86_400)),
                }],
                ..daily(&table, sql)
            };
            rig.clients.register(transform).await.expect("registered");
            let spec = pb::BackfillSpec {
                partitions_per_task,
                ..days(&table, "2013-01-01", "2013-01-21")
            };
            let ended = rig.clients.run_well(spec).await;
            let read = ended.backfill.rows_read;
            told.push((rig.clients.rows(&table).await, read));
            let request = pb::ListPartitionsRequest {
                backfill: ended.backfill.name,
                include_attempts: true,
                page_size: 1,
                ..pb::ListPartitionsRequest::default()
            };
            let listed = rig.clients.backfills.list_partitions(request).await;
            let first = listed.expect("listed").into_inner().partitions.remove(0);
            if name == "plain" {
                let kept = first.attempts[0].peak_memory_bytes > 0;
                assert_eq!(kept, partitions_per_task > 1, "its rows are kept");
            }
        }
        assert_eq!(told[0], told[1], "{name}");
    }
}
