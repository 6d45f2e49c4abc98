//! Transforms that write entity types beside others: what may be in one backfill, and what is refused.

use hindcast::pb::{self, AttributeKind, PartitionState};
use tonic::Code;

use crate::{
    backfill_stale_support::reason_of,
    backfill_support::{Rig, days, entity_input, january, over_events, seconds},
    entity_output::into_type,
};

const NOON: &str = "2013-01-02T12:00:00Z";

fn both(names: [&str; 2]) -> pb::BackfillSpec {
    let named = names.iter().map(|name| pb::TransformRevision {
        transform: (*name).to_owned(),
        revision: 0,
    });
    pb::BackfillSpec {
        transform: String::new(),
        transforms: named.collect(),
        ..days("", "2013-01-01", "2013-01-05")
    }
}

/// Four numbered days, and types `one` and `two`.
async fn days_and_types() -> Rig {
    let mut rig = january(4).await;
    for name in ["one", "two"] {
        let attributes = [("v", AttributeKind::Int64)];
        rig.clients.create_type(name, &attributes).await;
    }
    rig
}

/// Writes `entity_type` of what `day` says, a day back included.
fn from_table(entity_type: &str) -> pb::Transform {
    let sql = "SELECT 'x' AS id, sum(v) AS v FROM day";
    pb::Transform {
        sources: Vec::new(),
        tables: vec![pb::TableInput {
            table: "day".to_owned(),
            lookback: Some(seconds(86_400)),
        }],
        ..into_type("kept", entity_type, sql)
    }
}

#[tokio::test]
async fn a_type_is_made_of_a_table_of_the_same_backfill() {
    let mut rig = days_and_types().await;
    let day = over_events("day", "SELECT v FROM events");
    for transform in [day, from_table("one")] {
        rig.clients.register(transform).await.expect("registered");
    }
    let spec = both(["kept", "day"]);
    let plan = rig.clients.plan(spec.clone()).await.expect("planned");
    let outputs: Vec<_> = plan
        .transforms
        .iter()
        .map(|it| (it.output_table.as_str(), it.output_entity_type.as_str()))
        .collect();
    assert_eq!(outputs, [("day", ""), ("", "one")]);
    assert_eq!(plan.output_entity_type, "", "there are several");
    let ended = rig.clients.run_well(spec).await;
    for partition in &ended.partitions {
        let of_type = partition.transform == "kept";
        assert_eq!(partition.entity_changes.is_some(), of_type, "{partition:?}");
        assert_eq!(partition.snapshot_id == 0, of_type, "{partition:?}");
    }
    assert_eq!(rig.clients.state("one", NOON).await, ["x 3"], "1 + 2");
    assert!(rig.reasons("kept").await.is_empty());

    // What it is made of is published again.
    rig.clients
        .run_well(days("day", "2013-01-02", "2013-01-03"))
        .await;
    assert_eq!(rig.reasons("kept").await, ["02 day<02", "03 day<02"]);
    let stale = pb::BackfillSpec {
        reprocess_behavior: pb::ReprocessBehavior::Stale.into(),
        ..days("kept", "2013-01-01", "2013-01-05")
    };
    let ended = rig.clients.run_well(stale).await;
    let ran = ended.partitions.iter();
    let ran = ran.filter(|it| it.state() == PartitionState::Succeeded);
    let unchanged: Vec<_> = ran
        .filter_map(|it| it.entity_changes)
        .map(|it| it.unchanged)
        .collect();
    assert_eq!(unchanged, [1, 1]);
    assert!(rig.reasons("kept").await.is_empty());
}

#[tokio::test]
async fn a_reader_of_a_type_runs_after_its_writer_and_not_beside_it() {
    let mut rig = days_and_types().await;
    let writer = into_type("writer", "one", "SELECT 'x' AS id, v FROM events");
    let reader = pb::Transform {
        entities: vec![entity_input("one")],
        ..over_events("reader", "SELECT one_at('x', ts)['v'] AS v FROM events")
    };
    for transform in [writer, reader] {
        rig.clients.register(transform).await.expect("registered");
    }
    for names in [["writer", "reader"], ["reader", "writer"]] {
        let spec = both(names);
        let refused = rig.clients.plan(spec.clone()).await;
        let refused = refused.expect_err("it would read what is not there yet");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason_of(&refused), "UPSTREAM_ENTITY_TYPE");
        let way = "let a backfill of writer end first, and create one of reader after it";
        assert!(refused.message().contains(way), "{refused}");
        let refused = rig.clients.create(spec).await.expect_err("as the plan");
        assert_eq!(reason_of(&refused), "UPSTREAM_ENTITY_TYPE");
    }
    for name in ["writer", "reader"] {
        let spec = days(name, "2013-01-01", "2013-01-05");
        rig.clients.run_well(spec).await;
    }
    let rows = rig.clients.rows("reader").await;
    assert_eq!(rows[1], "2013-01-02 v=2", "{rows:?}");
}

#[tokio::test]
async fn circles_over_entity_types_are_refused() {
    let mut rig = days_and_types().await;
    let reading = |of: &str, transform: pb::Transform| pb::Transform {
        entities: vec![entity_input(of)],
        ..transform
    };
    let sql = |of: &str| format!("SELECT 'x' AS id, {of}_at('x', ts)['v'] AS v FROM events");
    let first = reading("two", into_type("first", "one", &sql("two")));
    rig.clients.register(first).await.expect("registered");
    let back = reading("one", into_type("second", "two", &sql("one")));
    let refused = rig.clients.register(back).await.expect_err("a circle");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&refused), "TRANSFORM_CYCLE");
    let way = "second reads first reads second";
    assert!(refused.message().contains(way), "{refused}");

    // Over a table too: `kept` writes what `first` reads.
    let table = reading("one", over_events("day", "SELECT v FROM events"));
    rig.clients.register(table).await.expect("registered");
    let refused = rig.clients.register(from_table("two")).await;
    let refused = refused.expect_err("a circle");
    assert_eq!(reason_of(&refused), "TRANSFORM_CYCLE");
    let way = "kept reads day reads first reads kept";
    assert!(refused.message().contains(way), "{refused}");
    let request = pb::ListTransformsRequest::default();
    let listed = rig.clients.catalog.list_transforms(request).await;
    let names = listed.expect("listed").into_inner().transforms;
    assert_eq!(names.len(), 2, "nothing of what was refused is there");
}
