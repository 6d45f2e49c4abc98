//! Which published partitions of an entity type are stale, and running just those.

use hindcast::pb::{self, AttributeKind, PartitionAction, ReprocessBehavior, mutation::Operation};

use crate::{
    backfill_stale_support::{ALL, EVENTS, learned_at, patch, reason_of, rig},
    backfill_support::{Rig, days, entity_input},
    entity_output::into_type,
};

/// The readings of each sensor, with its `temp` at that instant.
const LOOKUP: &str = "SELECT id, v, sensor_at(id, ts)['temp'] AS t FROM events";
/// The sum of each sensor's readings times its `temp` so far.
const RUNNING: &str = "
    WITH today AS (SELECT id, sum(v * CAST(sensor_at(id, ts)['temp'] AS BIGINT)) AS v FROM events GROUP BY id)
    SELECT coalesce(prior.id, today.id) AS id, coalesce(prior.v, 0) + coalesce(today.v, 0) AS v
    FROM prior FULL OUTER JOIN today ON prior.id = today.id";
const STALE: ReprocessBehavior = ReprocessBehavior::Stale;

/// Sensors and their readings, a type `level`, and `levels`, which writes it, run over all days.
async fn published(attributes: &[(&str, AttributeKind)], transform: pb::Transform) -> Rig {
    let mut rig = rig().await;
    rig.clients.create_type("level", attributes).await;
    register(&mut rig, transform).await;
    rig.clients.run_well(days("levels", ALL.0, ALL.1)).await;
    assert!(rig.reasons("levels").await.is_empty());
    rig
}

async fn register(rig: &mut Rig, transform: pb::Transform) {
    let transform = pb::Transform {
        entities: vec![entity_input("sensor")],
        ..transform
    };
    rig.clients.register(transform).await.expect("registered");
}

async fn lookups() -> Rig {
    let attributes = [("v", AttributeKind::Int64), ("t", AttributeKind::Float64)];
    published(&attributes, into_type("levels", "level", LOOKUP)).await
}

async fn running() -> Rig {
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        ..into_type("levels", "level", RUNNING)
    };
    published(&[("v", AttributeKind::Int64)], transform).await
}

fn stale_ones() -> pb::BackfillSpec {
    pb::BackfillSpec {
        reprocess_behavior: STALE.into(),
        ..days("levels", ALL.0, ALL.1)
    }
}

/// The days that the stale ones' plan runs.
async fn to_run(rig: &mut Rig) -> Vec<String> {
    let plan = rig.clients.plan(stale_ones()).await.expect("planned");
    let run = plan.partitions.iter();
    run.filter(|partition| partition.action() == PartitionAction::Run)
        .map(|partition| partition.label[8..].to_owned())
        .collect()
}

#[tokio::test]
async fn a_correction_makes_stale_what_saw_it_and_running_that_writes_it() {
    let mut rig = lookups().await;
    let noon = "2013-01-03T12:00:00Z";
    assert_eq!(rig.clients.state("level", noon).await, ["a 1 3"]);
    // Where nothing was looked at, in what was not looked at, and on the 3rd.
    for (from, to, name) in [
        ("2013-01-03T13:00:00Z", "2013-01-05T06:00:00Z", "temp"),
        ("2013-01-01", "2013-01-07", "wind"),
    ] {
        rig.say("a", patch(from, to, &[(name, 2.0)])).await;
        assert!(rig.reasons("levels").await.is_empty(), "{name}");
    }
    let correction = patch("2013-01-03", "2013-01-04", &[("temp", 2.0)]);
    let learned = rig.say("a", correction).await;
    let expected = ["03 a.temp@2013-01-03T12:00:00Z"];
    assert_eq!(rig.reasons("levels").await, expected);
    let page = rig.stale("levels").await;
    assert_eq!(learned_at(&page.partitions[0]), learned);

    assert_eq!(to_run(&mut rig).await, ["03"]);
    let ended = rig.clients.run_well(stale_ones()).await;
    let changed = ended.partitions.iter().filter_map(|it| it.entity_changes);
    let changed: Vec<_> = changed.map(|it| (it.written, it.ended)).collect();
    assert_eq!(changed, [(1, 0)]);
    assert_eq!(rig.clients.state("level", noon).await, ["a 2 3"]);
    assert!(rig.reasons("levels").await.is_empty());
    let refused = rig.clients.create(stale_ones()).await;
    assert_eq!(
        reason_of(&refused.expect_err("nothing is left")),
        "NOTHING_TO_RUN"
    );
}

#[tokio::test]
async fn revisions_files_and_erasures_make_stale_too() {
    let mut rig = lookups().await;
    rig.say("b", Operation::Erase(pb::Erase {})).await;
    assert_eq!(rig.reasons("levels").await, ["02 b!", "04 b!", "06 b!"]);
    rig.clients.run_well(stale_ones()).await;
    assert!(rig.reasons("levels").await.is_empty());

    let with_more = format!("{}2013-01-05T13:00:00,c,7\n", EVENTS);
    rig.write("events.csv", &with_more);
    let reasons = rig.reasons("levels").await;
    assert_eq!(reasons.len(), 6, "one file holds all days: {reasons:?}");
    assert!(reasons[0].ends_with("events.csv changed*1"), "{reasons:?}");
    rig.clients.run_well(stale_ones()).await;
    assert!(rig.reasons("levels").await.is_empty());
    let found = rig.clients.state("level", "2013-01-05T12:00:00Z").await;
    assert_eq!(found.len(), 2, "{found:?}");

    // The same query; the entities have other ids.
    let mut by_reading = into_type("levels", "level", LOOKUP);
    if let Some(output) = &mut by_reading.output_entity {
        output.key.push("v".to_owned());
    }
    register(&mut rig, by_reading).await;
    assert_eq!(rig.reasons("levels").await[0], "01 r1->r2");
    assert_eq!(to_run(&mut rig).await.len(), 6);
    rig.clients.run_well(stale_ones()).await;
    let first = rig.clients.state("level", "2013-01-01T12:00:00Z").await;
    assert_eq!(first, ["a/1 1 1"]);
    assert!(rig.reasons("levels").await.is_empty());
}

#[tokio::test]
async fn a_prior_that_came_out_otherwise_makes_the_next_day_stale() {
    let mut rig = running().await;
    let (third, last) = ("2013-01-03T12:00:00Z", "2013-01-06T12:00:00Z");
    assert_eq!(rig.clients.state("level", last).await, ["a 9", "b 12"]);
    // The same again is no reason, although all of it was published again.
    let second = || days("levels", "2013-01-02", "2013-01-03");
    rig.clients.run_well(second()).await;
    assert!(rig.reasons("levels").await.is_empty());

    let correction = patch("2013-01-02", "2013-01-03", &[("temp", 10.0)]);
    rig.say("b", correction).await;
    let expected = ["02 b.temp@2013-01-02T12:00:00Z"];
    assert_eq!(rig.reasons("levels").await, expected);
    rig.clients.run_well(second()).await;
    assert_eq!(
        rig.reasons("levels").await,
        ["03 b.v@2013-01-02T23:59:59.999999Z"],
        "only the next one reads it"
    );
    let message = rig.stale("levels").await.partitions[0].reasons[0]
        .message
        .clone();
    assert!(message.contains("level \"b\": v differs"), "{message}");

    assert_eq!(to_run(&mut rig).await, ["03", "04", "05", "06"]);
    rig.clients.run_well(stale_ones()).await;
    assert_eq!(rig.clients.state("level", third).await, ["a 4", "b 20"]);
    assert_eq!(rig.clients.state("level", last).await, ["a 9", "b 30"]);
    assert!(rig.reasons("levels").await.is_empty());

    // Also after a restart; and what is gone from it was read.
    rig.stop().await;
    rig.start().await;
    assert!(rig.reasons("levels").await.is_empty());
    let erase = pb::Mutation {
        entity_type: "level".to_owned(),
        entity_id: "a".to_owned(),
        operation: Some(Operation::Erase(pb::Erase {})),
        ..pb::Mutation::default()
    };
    let request = pb::WriteRequest {
        mutations: vec![erase],
        ..pb::WriteRequest::default()
    };
    rig.clients.entities.write(request).await.expect("erased");
    let reasons = rig.reasons("levels").await;
    assert_eq!(reasons.last().map(String::as_str), Some("06 a!"));
    assert!(reasons.len() >= 5, "{reasons:?}");
}

#[tokio::test]
async fn what_does_not_look_at_prior_does_not_depend_on_it() {
    let mut rig = rig().await;
    rig.clients
        .create_type("level", &[("v", AttributeKind::Int64)])
        .await;
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        ..into_type(
            "levels",
            "level",
            "SELECT id, v * CAST(sensor_at(id, ts)['temp'] AS BIGINT) AS v FROM events",
        )
    };
    register(&mut rig, transform).await;
    rig.clients.run_well(days("levels", ALL.0, ALL.1)).await;
    let correction = patch("2013-01-02", "2013-01-03", &[("temp", 10.0)]);
    rig.say("b", correction).await;
    rig.clients
        .run_well(days("levels", "2013-01-02", "2013-01-03"))
        .await;
    assert!(rig.reasons("levels").await.is_empty());
}

#[tokio::test]
async fn files_and_a_prior_that_came_out_otherwise_are_both_told() {
    let mut rig = running().await;
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
    rig.clients.run_well(stale_ones()).await;
    assert!(rig.reasons("levels").await.is_empty());
}
