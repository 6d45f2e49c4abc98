//! What would run, and what ran before: reprocessing, restating, estimates; listing and watching all backfills.

use std::collections::HashMap;

use hindcast::pb::{
    self, BackfillState, PartitionAction, PartitionState, ReprocessBehavior,
    watch_backfills_response::Message,
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::backfill_support::{at, daily, days, january, over_events};

fn reason_of(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}

/// The labels of the partitions that would run.
fn to_run(plan: &pb::Plan) -> Vec<&str> {
    let runs = plan.partitions.iter();
    runs.filter(|it| it.action() == PartitionAction::Run)
        .map(|it| &it.label[8..])
        .collect()
}

#[tokio::test]
async fn what_was_published_or_failed_is_left_out_as_asked() {
    let mut rig = january(6).await;
    let sql = "SELECT 12 / (v - 2) AS q FROM events";
    rig.clients
        .register(over_events("some", sql))
        .await
        .expect("registered");
    let ended = rig
        .clients
        .run(days("some", "2013-01-01", "2013-01-04"))
        .await;
    assert_eq!(ended.backfill.state(), BackfillState::PartiallySucceeded);
    let all = days("some", "2013-01-01", "2013-01-07");
    let with = |reprocess: ReprocessBehavior| pb::BackfillSpec {
        reprocess_behavior: reprocess.into(),
        ..all.clone()
    };
    for (reprocess, expected) in [
        (ReprocessBehavior::None, vec!["04", "05", "06"]),
        (ReprocessBehavior::Failed, vec!["02", "04", "05", "06"]),
        (
            ReprocessBehavior::Completed,
            vec!["01", "02", "03", "04", "05", "06"],
        ),
        (
            ReprocessBehavior::Unspecified,
            vec!["01", "02", "03", "04", "05", "06"],
        ),
    ] {
        let plan = rig.clients.plan(with(reprocess)).await.expect("planned");
        assert_eq!(to_run(&plan), expected, "{reprocess:?}");
    }
    let plan = rig.clients.plan(with(ReprocessBehavior::None)).await;
    let plan = plan.expect("planned");
    let name = &ended.backfill.name;
    assert_eq!(
        plan.partitions[0].skip_reason,
        format!("{name} published it already")
    );
    assert!(plan.partitions[1].skip_reason.contains("failed in"));

    let rest = rig.clients.run(with(ReprocessBehavior::None)).await;
    assert_eq!(rest.backfill.state(), BackfillState::Succeeded);
    assert_eq!(rest.states()[..3], [PartitionState::Skipped; 3]);
    let moved = pb::CreateBackfillRequest {
        spec: Some(with(ReprocessBehavior::None)),
        expected_plan_hash: plan.plan_hash,
        ..pb::CreateBackfillRequest::default()
    };
    let refused = rig.clients.backfills.create_backfill(moved).await;
    assert_eq!(reason_of(&refused.expect_err("it moved")), "PLAN_MOVED");
    let refused = rig.clients.create(with(ReprocessBehavior::None)).await;
    let refused = refused.expect_err("nothing is left");
    assert_eq!(reason_of(&refused), "NOTHING_TO_RUN");
    assert!(
        refused.message().contains("published it already"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_plan_knows_how_long_it_took_before_and_who_is_in_the_way() {
    let mut rig = january(5).await;
    rig.clients
        .register(over_events("timed", "SELECT v FROM events"))
        .await
        .expect("registered");
    let range = days("timed", "2013-01-01", "2013-01-06");
    let first = rig.clients.plan(range.clone()).await.expect("planned");
    assert_eq!(first.estimate, None);
    rig.clients.run_well(range.clone()).await;
    let plan = rig.clients.plan(range.clone()).await.expect("planned");
    let estimate = plan.estimate.expect("an estimate");
    assert_eq!(estimate.sample_count, 5);
    assert!(estimate.same_revision);
    assert_eq!(plan.plan_hash, first.plan_hash, "it names the world alone");

    let sql = "SELECT sum(a.value * b.value) AS v FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    rig.clients
        .register(daily("endless", sql))
        .await
        .expect("registered");
    let range = days("endless", "2013-01-01", "2013-01-06");
    let name = rig.clients.create(range).await.expect("created").name;
    for (to, in_the_way) in [("2013-01-02", vec![name.clone()]), ("2013-01-06", vec![])] {
        let from = if in_the_way.is_empty() {
            "2013-01-06"
        } else {
            "2013-01-01"
        };
        let to = if in_the_way.is_empty() {
            "2013-01-07"
        } else {
            to
        };
        let request = pb::PlanBackfillRequest {
            spec: Some(days("endless", from, to)),
        };
        let response = rig.clients.backfills.plan_backfill(request).await;
        assert_eq!(
            response.expect("planned").into_inner().in_the_way,
            in_the_way
        );
    }
    rig.clients.cancel(&name).await.expect("cancelled");
}

#[tokio::test]
async fn restating_keeps_settings_and_line_and_runs_on_where_prior_is_read() {
    let mut rig = january(5).await;
    let sql = "SELECT v + coalesce((SELECT max(total) FROM prior), 0) AS total FROM events";
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        output_columns: vec!["total int64".to_owned()],
        ..over_events("total", sql)
    };
    rig.clients.register(transform).await.expect("registered");
    let mut range = days("total", "2013-01-01", "2013-01-06");
    range.labels = HashMap::from([("team".to_owned(), "data".to_owned())]);
    let parent = rig.clients.run_well(range).await.backfill;
    assert_eq!((parent.parent.as_str(), parent.root.as_str()), ("", ""));
    let rows = rig.clients.rows("total").await;

    let request = |validate_only| pb::RestateBackfillRequest {
        name: parent.name.clone(),
        range: Some(pb::TimeRange {
            from: Some(at("2013-01-03T00:00:00Z")),
            to: Some(at("2013-01-04T00:00:00Z")),
        }),
        validate_only,
        request_id: "again".to_owned(),
        ..pb::RestateBackfillRequest::default()
    };
    let planned = rig.clients.restate(request(true)).await.expect("planned");
    assert_eq!(planned.backfill, None);
    let plan = planned.plan.expect("a plan");
    assert_eq!(to_run(&plan), ["03", "04", "05"]);
    assert!(
        plan.warnings
            .iter()
            .any(|warning| warning.contains("the 2 that follow")),
        "{:?}",
        plan.warnings
    );
    let restated = rig.clients.restate(request(false)).await.expect("restated");
    let restated = restated.backfill.expect("a backfill");
    assert_eq!(restated.parent, parent.name);
    assert_eq!(restated.root, parent.name);
    let ended = rig.clients.ended(&restated.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert_eq!(ended.partitions.len(), 3);
    assert_eq!(rig.clients.rows("total").await, rows, "BF-2");
    let same = rig.clients.restate(request(false)).await.expect("the same");
    assert_eq!(same.backfill.expect("a backfill").name, restated.name);

    let second = pb::RestateBackfillRequest {
        name: restated.name.clone(),
        ..pb::RestateBackfillRequest::default()
    };
    let second = rig.clients.restate(second).await.expect("restated");
    let second = second.backfill.expect("a backfill");
    assert_eq!(second.parent, restated.name);
    assert_eq!(second.root, parent.name);
    assert_eq!(second.spec.expect("a spec").labels["team"], "data");
    rig.clients.ended(&second.name).await;

    let line = pb::ListBackfillsRequest {
        root: parent.name.clone(),
        ..pb::ListBackfillsRequest::default()
    };
    let listed = rig.clients.backfills.list_backfills(line).await;
    let listed = listed.expect("listed").into_inner().backfills;
    let names: Vec<_> = listed.into_iter().map(|it| it.name).collect();
    assert_eq!(names, [second.name, restated.name.clone(), parent.name]);

    let outside = pb::RestateBackfillRequest {
        name: restated.name,
        range: Some(pb::TimeRange {
            from: Some(at("2013-01-01T00:00:00Z")),
            to: None,
        }),
        ..pb::RestateBackfillRequest::default()
    };
    let refused = rig.clients.restate(outside).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(reason_of(&refused), "RESTATE_OUTSIDE");
}

#[tokio::test]
async fn running_a_part_of_a_line_of_priors_says_what_reads_it() {
    let mut rig = january(5).await;
    let sql = "SELECT v + coalesce((SELECT max(total) FROM prior), 0) AS total FROM events";
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 0 }),
        output_columns: vec!["total int64".to_owned()],
        ..over_events("line", sql)
    };
    rig.clients.register(transform).await.expect("registered");
    rig.clients
        .run_well(days("line", "2013-01-01", "2013-01-05"))
        .await;
    let part = days("line", "2013-01-02", "2013-01-03");
    let plan = rig.clients.plan(part).await.expect("planned");
    let warning = &plan.warnings[0];
    assert!(warning.contains("read what it changes: 2"), "{warning}");

    // With NONE, nothing before the first new partition runs; what follows it does.
    let mut rest = days("line", "2013-01-03", "2013-01-06");
    rest.reprocess_behavior = ReprocessBehavior::None.into();
    let plan = rig.clients.plan(rest).await.expect("planned");
    assert_eq!(to_run(&plan), ["05"]);
}

#[tokio::test]
async fn all_backfills_are_watched_and_listed_by_label() {
    let mut rig = january(3).await;
    for name in ["mine", "theirs", "later"] {
        rig.clients
            .register(over_events(name, "SELECT v FROM events"))
            .await
            .expect("registered");
    }
    let labelled = |name: &str, team: &str| pb::BackfillSpec {
        labels: HashMap::from([("team".to_owned(), team.to_owned())]),
        ..days(name, "2013-01-01", "2013-01-04")
    };
    let before = rig.clients.run_well(labelled("mine", "a")).await.backfill;
    let watch = |include_ended| pb::WatchBackfillsRequest {
        labels: HashMap::from([("team".to_owned(), "a".to_owned())]),
        include_ended,
        ..pb::WatchBackfillsRequest::default()
    };
    let watched = rig.clients.backfills.watch_backfills(watch(true)).await;
    let mut stream = watched.expect("watched").into_inner();
    let mut next = async || {
        let item = stream.message().await.expect("goes on").expect("an item");
        item.message.expect("a message")
    };
    assert_eq!(next().await, Message::Backfill(before.clone()));
    assert_eq!(
        next().await,
        Message::InitialDone(pb::InitialDone { backfill_count: 1 })
    );
    rig.clients.run_well(labelled("theirs", "b")).await;
    let after = rig.clients.run_well(labelled("later", "a")).await.backfill;
    loop {
        match next().await {
            Message::Backfill(told) => {
                assert_eq!(told.name, after.name, "of the other team nothing is told");
                if told.state() == BackfillState::Succeeded {
                    assert_eq!(told, after);
                    break;
                }
            }
            Message::InitialDone(_) => panic!("it comes once"),
            Message::Heartbeat(_) => {}
        }
    }
    let watched = rig.clients.backfills.watch_backfills(watch(false)).await;
    let mut stream = watched.expect("watched").into_inner();
    let first = stream.message().await.expect("goes on").expect("an item");
    assert_eq!(
        first.message,
        Some(Message::InitialDone(pb::InitialDone { backfill_count: 0 })),
        "those that ended are not told"
    );

    let list = pb::ListBackfillsRequest {
        labels: HashMap::from([("team".to_owned(), "a".to_owned())]),
        ..pb::ListBackfillsRequest::default()
    };
    let listed = rig.clients.backfills.list_backfills(list).await;
    let listed = listed.expect("listed").into_inner().backfills;
    assert_eq!(listed, [after, before]);
}

#[tokio::test]
async fn attempts_tell_what_they_read_and_wrote() {
    let mut rig = january(3).await;
    rig.clients
        .register(over_events("told", "SELECT v FROM events"))
        .await
        .expect("registered");
    let ended = rig
        .clients
        .run_well(days("told", "2013-01-01", "2013-01-04"))
        .await;
    let request = pb::ListPartitionsRequest {
        backfill: ended.backfill.name.clone(),
        states: vec![PartitionState::Succeeded.into()],
        page_size: 2,
        include_attempts: true,
        ..pb::ListPartitionsRequest::default()
    };
    let listed = rig.clients.backfills.list_partitions(request).await;
    let listed = listed.expect("listed").into_inner();
    assert_eq!(listed.partitions.len(), 2);
    assert_ne!(listed.next_page_token, "");
    for partition in &listed.partitions {
        let [attempt] = partition.attempts.as_slice() else {
            panic!("{partition:?}");
        };
        assert_eq!(attempt.state(), PartitionState::Succeeded);
        assert_eq!(attempt.rows_written, 1);
        assert!(attempt.bytes_written > 0);
        assert_eq!(attempt.bytes_written, partition.bytes_written);
        assert!(attempt.staged_time.is_some() && attempt.end_time.is_some());
    }
}
