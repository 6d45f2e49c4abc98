//! Entity types as output: what a run writes, what the next one changes, who else may write, and what is refused.

use std::collections::{BTreeMap, HashMap};

use hindcast::pb::{self, AttributeKind, BackfillState, PartitionState, value::Kind};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::backfill_support::{
    Clients, Rig, SLOW, at, at_basis, daily, days, entity_input, micros, over_events, source_input,
    then,
};

const NOW: &str = "2013-12-31T00:00:00Z";
const NOON: [&str; 3] = [
    "2013-01-01T12:00:00Z",
    "2013-01-02T12:00:00Z",
    "2013-01-03T12:00:00Z",
];

/// Readings of three days: `b` is missing on the second, `c` comes on the third.
const READINGS: &str = "ts,id,v
2013-01-01T10:00:00,a,1
2013-01-01T11:00:00,b,10
2013-01-02T10:00:00,a,2
2013-01-03T10:00:00,a,3
2013-01-03T11:00:00,b,30
2013-01-03T12:00:00,c,300
";

impl Clients {
    pub(crate) async fn create_type(&mut self, name: &str, attributes: &[(&str, AttributeKind)]) {
        let attribute = |(name, kind): &(&str, AttributeKind)| pb::Attribute {
            name: (*name).to_owned(),
            kind: (*kind).into(),
            ..pb::Attribute::default()
        };
        let entity_type = pb::EntityType {
            name: name.to_owned(),
            attributes: attributes.iter().map(attribute).collect(),
            ..pb::EntityType::default()
        };
        let request = pb::CreateEntityTypeRequest {
            entity_type: Some(entity_type),
        };
        let created = self.entities.create_entity_type(request).await;
        created.expect("declared");
    }

    /// What is there of a type at a valid time and basis, each as "id v".
    pub(crate) async fn state_at(
        &mut self,
        entity_type: &str,
        valid: &str,
        basis: Option<Timestamp>,
    ) -> Vec<String> {
        let request = pb::ScanEntitiesRequest {
            entity_type: entity_type.to_owned(),
            valid_time: Some(at(valid)),
            basis,
            ..pb::ScanEntitiesRequest::default()
        };
        let scanned = self.entities.scan_entities(request).await;
        let mut stream = scanned.expect("scanned").into_inner();
        let mut found = Vec::new();
        while let Some(response) = stream.message().await.expect("goes on") {
            found.extend(response.versions.iter().map(show));
        }
        found
    }

    pub(crate) async fn state(&mut self, entity_type: &str, valid: &str) -> Vec<String> {
        self.state_at(entity_type, valid, None).await
    }

    pub(crate) async fn history(&mut self, entity_type: &str, id: &str) -> Vec<pb::Version> {
        let request = pb::ListHistoryRequest {
            entity_type: entity_type.to_owned(),
            entity_id: id.to_owned(),
            ..pb::ListHistoryRequest::default()
        };
        let history = self.entities.list_history(request).await;
        history.expect("listed").into_inner().versions
    }

    pub(crate) async fn latest_basis(&mut self) -> Timestamp {
        let request = pb::BatchGetEntitiesRequest {
            entity_type: "level".to_owned(),
            entity_ids: vec!["a".to_owned()],
            ..pb::BatchGetEntitiesRequest::default()
        };
        let read = self.entities.batch_get_entities(request).await;
        read.expect("read").into_inner().basis.expect("a basis")
    }
}

fn show(version: &pb::Version) -> String {
    let attributes: BTreeMap<_, _> = version.attributes.iter().collect();
    let values = attributes.values().map(|value| match &value.kind {
        Some(Kind::Int64Value(value)) => value.to_string(),
        Some(Kind::Float64Value(value)) => value.to_string(),
        Some(Kind::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    });
    let words: Vec<_> = std::iter::once(version.entity_id.clone())
        .chain(values)
        .collect();
    words.join(" ")
}

/// A daily transform over `events` that writes `entity_type` by `id`.
pub(crate) fn into_type(name: &str, entity_type: &str, sql: &str) -> pb::Transform {
    pb::Transform {
        output_table: String::new(),
        output_entity: Some(pb::EntityOutput {
            entity_type: entity_type.to_owned(),
            key: vec!["id".to_owned()],
        }),
        ..over_events(name, sql)
    }
}

/// A server with `events` and the type `level`.
async fn readings() -> Rig {
    let mut rig = Rig::at(NOW).await;
    let types = [("v", "int64"), ("id", "string")];
    rig.csv("events", READINGS, &types).await;
    let attributes = [("v", AttributeKind::Int64)];
    rig.clients.create_type("level", &attributes).await;
    rig
}

async fn with_levels(sql: &str) -> Rig {
    let mut rig = readings().await;
    let transform = into_type("levels", "level", sql);
    rig.clients.register(transform).await.expect("registered");
    rig
}

fn january() -> pb::BackfillSpec {
    days("levels", "2013-01-01", "2013-01-04")
}

/// Written, ended and unchanged entities of each partition.
fn changes(partitions: &[pb::Partition]) -> Vec<(u64, u64, u64)> {
    let changes = partitions.iter().map(|partition| {
        let changes = partition.entity_changes.expect("told");
        (changes.written, changes.ended, changes.unchanged)
    });
    changes.collect()
}

fn reason_of(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}

fn put(entity_type: &str, id: &str) -> pb::Mutation {
    let value = pb::Value {
        kind: Some(Kind::Int64Value(7)),
    };
    mutation(
        entity_type,
        id,
        pb::mutation::Operation::Put(pb::Put {
            attributes: HashMap::from([("v".to_owned(), value)]),
            valid_from: Some(at(NOON[0])),
            until: None,
        }),
    )
}

fn mutation(entity_type: &str, id: &str, operation: pb::mutation::Operation) -> pb::Mutation {
    pb::Mutation {
        entity_type: entity_type.to_owned(),
        entity_id: id.to_owned(),
        operation: Some(operation),
        ..pb::Mutation::default()
    }
}

fn write(mutation: pb::Mutation) -> pb::WriteRequest {
    pb::WriteRequest {
        mutations: vec![mutation],
        ..pb::WriteRequest::default()
    }
}

/// How a bulk load of one mutation is refused.
async fn ingest(clients: &mut Clients, stream: &str, mutation: pb::Mutation) -> Status {
    use pb::ingest_request::Message;
    let start = Message::Start(pb::IngestStart {
        stream: stream.to_owned(),
    });
    let batch = Message::Batch(pb::IngestBatch {
        offset: 1,
        mutations: vec![mutation],
        ..pb::IngestBatch::default()
    });
    let messages = [start, batch].map(|message| pb::IngestRequest {
        message: Some(message),
    });
    match clients.entities.ingest(tokio_stream::iter(messages)).await {
        Err(refused) => refused,
        Ok(response) => {
            let mut answers = response.into_inner();
            loop {
                match answers.message().await {
                    Ok(answer) => assert!(answer.is_some(), "it was not refused"),
                    Err(refused) => return refused,
                }
            }
        }
    }
}

const PLAIN: &str = "SELECT id, v FROM events";

#[tokio::test]
async fn rows_become_versions_over_their_partition_and_no_longer() {
    let mut rig = with_levels(PLAIN).await;
    let plan = rig.clients.plan(january()).await.expect("planned");
    assert_eq!(
        (plan.output_table.as_str(), plan.output_entity_type.as_str()),
        ("", "level")
    );
    let ended = rig.clients.run_well(january()).await;
    assert_eq!(
        changes(&ended.partitions),
        [(2, 0, 0), (1, 0, 0), (3, 0, 0)]
    );
    assert_eq!(ended.backfill.output_entity_type, "level");
    assert_eq!(ended.backfill.rows_written, 6);
    assert!(ended.partitions.iter().all(|it| it.snapshot_id == 0));
    assert!(ended.partitions.iter().all(|it| it.bytes_written > 0));

    assert_eq!(rig.clients.state("level", NOON[0]).await, ["a 1", "b 10"]);
    assert_eq!(rig.clients.state("level", NOON[1]).await, ["a 2"]);
    let third = ["a 3", "b 30", "c 300"];
    assert_eq!(rig.clients.state("level", NOON[2]).await, third);
    for outside in ["2012-12-31T23:59:59Z", "2013-01-04T00:00:00Z"] {
        assert_eq!(
            rig.clients.state("level", outside).await,
            [""; 0],
            "{outside}"
        );
    }
    let written = &rig.clients.history("level", "b").await[0];
    assert_eq!(written.valid_from, Some(at("2013-01-01T00:00:00Z")));
    assert_eq!(written.valid_to, Some(at("2013-01-02T00:00:00Z")));

    let request = pb::GetEntityTypeRequest {
        name: "level".to_owned(),
    };
    let told = rig.clients.entities.get_entity_type(request).await;
    let told = told.expect("found").into_inner().entity_type.expect("it");
    assert_eq!(told.written_by, "levels");
}

#[tokio::test]
async fn the_same_rows_again_write_nothing() {
    let mut rig = with_levels(PLAIN).await;
    let first = rig.clients.run_well(january()).await;
    let basis = rig.clients.latest_basis().await;
    rig.clock.set(micros("2013-12-31T01:00:00Z"));
    let again = rig.clients.run_well(january()).await;
    assert_eq!(
        changes(&again.partitions),
        [(0, 0, 2), (0, 0, 1), (0, 0, 3)]
    );
    assert_eq!(again.backfill.rows_written, 6, "BF-2");
    let name = first.backfill.name;
    let request = pb::RestateBackfillRequest {
        name,
        ..pb::RestateBackfillRequest::default()
    };
    let restated = rig.clients.restate(request).await.expect("restated");
    let name = restated.backfill.expect("a backfill").name;
    let restated = rig.clients.ended(&name).await;
    assert_eq!(changes(&restated.partitions)[2], (0, 0, 3));
    assert_eq!(
        rig.clients.latest_basis().await,
        basis,
        "nothing was written"
    );
    assert_eq!(rig.clients.history("level", "a").await.len(), 3);
}

#[tokio::test]
async fn a_changed_transform_changes_what_differs_and_ends_what_is_gone() {
    let mut rig = with_levels(PLAIN).await;
    rig.clients.run_well(january()).await;
    let before = rig.clients.latest_basis().await;
    let sql = "SELECT id, CASE WHEN v = 30 THEN 31 ELSE v END AS v FROM events WHERE id <> 'a'";
    let changed = into_type("levels", "level", sql);
    let revision = rig.clients.register(changed).await.expect("registered");
    assert_eq!(revision.revision, 2);
    let ended = rig.clients.run_well(january()).await;
    assert_eq!(
        changes(&ended.partitions),
        [(0, 1, 1), (0, 1, 0), (1, 1, 1)]
    );
    assert_eq!(rig.clients.state("level", NOON[0]).await, ["b 10"]);
    assert_eq!(rig.clients.state("level", NOON[1]).await, [""; 0]);
    assert_eq!(rig.clients.state("level", NOON[2]).await, ["b 31", "c 300"]);
    let then = rig.clients.state_at("level", NOON[2], Some(before)).await;
    assert_eq!(then, ["a 3", "b 30", "c 300"], "BT-2");

    // Back again, and only for one day.
    let one = pb::BackfillSpec {
        revision: 1,
        ..days("levels", "2013-01-02", "2013-01-03")
    };
    let restored = rig.clients.run_well(one).await;
    assert_eq!(changes(&restored.partitions), [(1, 0, 0)]);
    assert_eq!(rig.clients.state("level", NOON[0]).await, ["b 10"]);
    assert_eq!(rig.clients.state("level", NOON[1]).await, ["a 2"]);
    let told = restored.partitions[0].entity_changes.expect("told");
    let there = rig.clients.state_at("level", NOON[1], told.basis).await;
    assert_eq!(there, ["a 2"], "at the basis that it tells");
}

/// The quickstart's running total, kept as entities.
const RUNNING: &str = "
    WITH today AS (SELECT id, sum(v) AS v FROM events GROUP BY id)
    SELECT coalesce(prior.id, today.id) AS id, coalesce(prior.v, 0) + coalesce(today.v, 0) AS v
    FROM prior FULL OUTER JOIN today ON prior.id = today.id";

#[tokio::test]
async fn a_running_total_is_kept_and_read_as_of_any_day() {
    let mut rig = readings().await;
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        ..into_type("levels", "level", RUNNING)
    };
    rig.clients
        .register(transform.clone())
        .await
        .expect("registered");
    let ended = rig.clients.run_well(january()).await;
    assert_eq!(
        changes(&ended.partitions),
        [(2, 0, 0), (2, 0, 0), (3, 0, 0)]
    );
    let first = ["a 1", "b 10"];
    assert_eq!(rig.clients.state("level", NOON[0]).await, first);
    assert_eq!(rig.clients.state("level", NOON[1]).await, ["a 3", "b 10"]);
    let third = ["a 6", "b 40", "c 300"];
    assert_eq!(rig.clients.state("level", NOON[2]).await, third);

    // A first day that counts double goes through to the end of the range.
    let doubled = RUNNING.replace(
        "sum(v) AS v",
        "sum(v) * CASE WHEN $partition_start = TIMESTAMP '2013-01-01T00:00:00Z' THEN 2 ELSE 1 END AS v",
    );
    let transform = pb::Transform {
        sql: doubled,
        ..transform
    };
    rig.clients.register(transform).await.expect("registered");
    let request = pb::RestateBackfillRequest {
        name: ended.backfill.name,
        range: Some(pb::TimeRange {
            from: None,
            to: Some(at("2013-01-02T00:00:00Z")),
        }),
        revision: 2,
        ..pb::RestateBackfillRequest::default()
    };
    let restated = rig.clients.restate(request).await.expect("restated");
    let name = restated.backfill.expect("a backfill").name;
    let restated = rig.clients.ended(&name).await;
    assert_eq!(
        changes(&restated.partitions),
        [(2, 0, 0), (2, 0, 0), (2, 0, 1)]
    );
    assert_eq!(rig.clients.state("level", NOON[1]).await, ["a 4", "b 20"]);
    let third = ["a 7", "b 50", "c 300"];
    assert_eq!(rig.clients.state("level", NOON[2]).await, third);
}

#[tokio::test]
async fn prior_has_the_keys_columns_as_the_query_gives_them() {
    let mut rig = readings().await;
    let attributes = [("n", AttributeKind::Int64)];
    rig.clients.create_type("streak", &attributes).await;
    let sql = "
        WITH today AS (SELECT id, v FROM events)
        SELECT today.id AS id, today.v % 10 AS digit, 1 + coalesce(max(prior.n), 0) AS n FROM today
        LEFT JOIN prior ON prior.id = today.id AND prior.digit < today.v % 10 GROUP BY today.id, today.v % 10";
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 1 }),
        output_entity: Some(pb::EntityOutput {
            entity_type: "streak".to_owned(),
            key: vec!["id".to_owned(), "digit".to_owned()],
        }),
        ..into_type("levels", "streak", sql)
    };
    let refused = rig.clients.register(transform.clone()).await;
    let refused = refused.expect_err("a string is not what the query gives");
    assert!(
        refused.message().contains("key column \"digit\""),
        "{refused}"
    );
    let transform = pb::Transform {
        output_columns: ["id string", "digit int64", "n int64"]
            .map(str::to_owned)
            .to_vec(),
        ..transform
    };
    rig.clients.register(transform).await.expect("registered");
    rig.clients.run_well(january()).await;
    let first = ["a/1 1", "b/0 1"];
    assert_eq!(rig.clients.state("streak", NOON[0]).await, first);
    assert_eq!(rig.clients.state("streak", NOON[1]).await, ["a/2 2"]);
    let third = ["a/3 3", "b/0 1", "c/0 1"];
    assert_eq!(rig.clients.state("streak", NOON[2]).await, third);
}

#[tokio::test]
async fn another_transform_reads_the_type_like_any_other() {
    let mut rig = with_levels(PLAIN).await;
    let reader = pb::Transform {
        sources: vec![source_input("events")],
        entities: vec![entity_input("level")],
        ..daily(
            "read",
            "SELECT id, level_at(id, ts)['v'] + 1000 AS v FROM events",
        )
    };
    rig.clients.register(reader).await.expect("registered");
    let blind = rig.clients.plan(days("read", "2013-01-01", "2013-01-04"));
    let blind = blind.await.expect("planned");
    assert!(blind.warnings[0].contains("holds nothing yet"), "{blind:?}");
    rig.clients.run_well(january()).await;
    let basis = rig.clients.latest_basis().await;
    let range = days("read", "2013-01-01", "2013-01-04");
    rig.clients.run_well(range.clone()).await;
    let rows = rig.clients.rows("read").await;
    assert_eq!(rows.len(), 6);
    assert!(rows.contains(&"2013-01-03 id=c v=1300".to_owned()));

    // It was learned long after those days, and stays readable as it was.
    rig.clients
        .run_well(then("read", "2013-01-03", "2013-01-04"))
        .await;
    let rows = rig.clients.rows("read").await;
    assert!(rows.contains(&"2013-01-03 id=c v=null".to_owned()), "PT-1");
    let none = into_type("levels", "level", "SELECT id, v FROM events WHERE v < 0");
    rig.clients.register(none).await.expect("registered");
    rig.clients.run_well(january()).await;
    assert_eq!(rig.clients.state("level", NOON[2]).await, [""; 0]);
    rig.clients.run_well(at_basis(&range, basis)).await;
    let rows = rig.clients.rows("read").await;
    assert!(rows.contains(&"2013-01-03 id=c v=1300".to_owned()));
}

#[tokio::test]
async fn nobody_else_writes_the_type_but_everyone_may_erase() {
    let mut rig = with_levels(PLAIN).await;
    rig.clients.run_well(january()).await;
    for restarts in [false, true] {
        if restarts {
            rig.stop().await;
            rig.start().await;
        }
        let refused = rig.clients.entities.write(write(put("level", "a"))).await;
        let refused = refused.expect_err("owned");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason_of(&refused), "ENTITY_TYPE_OWNED");
        assert!(refused.message().contains("\"levels\""), "{refused}");
        let refused = rig
            .clients
            .register(into_type("others", "level", PLAIN))
            .await
            .expect_err("owned");
        assert_eq!(reason_of(&refused), "ENTITY_TYPE_OWNED");
    }
    for (stream, batch, reason) in [
        ("load", put("level", "a"), "ENTITY_TYPE_OWNED"),
        ("\0bf-1/0", put("level", "a"), "INVALID_REQUEST"),
    ] {
        let refused = ingest(&mut rig.clients, stream, batch).await;
        assert_eq!(reason_of(&refused), reason, "{refused}");
    }
    let erase = mutation("level", "a", pb::mutation::Operation::Erase(pb::Erase {}));
    rig.clients
        .entities
        .write(write(erase))
        .await
        .expect("erased");
    assert_eq!(rig.clients.state("level", NOON[1]).await, [""; 0]);
    let again = rig.clients.run_well(january()).await;
    assert_eq!(
        changes(&again.partitions),
        [(1, 0, 1), (1, 0, 0), (1, 0, 2)]
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_an_entity_fails_its_partition_and_writes_nothing_of_it() {
    let mut rig = readings().await;
    let attributes = [("v", AttributeKind::Float64)];
    rig.clients.create_type("odd", &attributes).await;
    let start = rig.clients.latest_basis().await;
    let cases = [
        (
            "SELECT 'same' AS id, CAST(v AS DOUBLE) AS v FROM events",
            "two rows have the key \"same\"",
        ),
        (
            "SELECT CASE WHEN id = 'a' THEN NULL ELSE id END AS id, CAST(v AS DOUBLE) AS v FROM events",
            "a row has null in key column \"id\"",
        ),
        (
            "SELECT repeat(id, 513) AS id, CAST(v AS DOUBLE) AS v FROM events",
            "has 513 bytes: 1 to 512 are possible",
        ),
        (
            "SELECT CASE WHEN id = 'a' THEN '' ELSE id END AS id, CAST(v AS DOUBLE) AS v FROM events",
            "key \"\" has 0 bytes",
        ),
        (
            "SELECT id, CASE WHEN id = 'b' THEN CAST('NaN' AS DOUBLE) ELSE 1.0 END AS v FROM events",
            "attribute \"v\" of \"b\" NaN is not a finite number",
        ),
    ];
    for (sql, expected) in cases {
        let transform = into_type("oddities", "odd", sql);
        let transform = pb::Transform {
            retry: None,
            ..transform
        };
        rig.clients.register(transform).await.expect("registered");
        let first_day = days("oddities", "2013-01-01", "2013-01-02");
        let ended = rig.clients.run(first_day).await;
        assert_eq!(ended.backfill.state(), BackfillState::Failed, "{sql}");
        let partition = &ended.partitions[0];
        assert!(
            partition.message.contains(expected),
            "{}",
            partition.message
        );
        assert!(partition.message.contains("\"odd\""));
        assert_eq!(partition.attempt_count, 1, "it would fail again");
        assert_eq!(partition.entity_changes, None);
    }
    assert_eq!(rig.clients.latest_basis().await, start);

    let two = pb::Transform {
        output_entity: Some(pb::EntityOutput {
            entity_type: "odd".to_owned(),
            key: vec!["id".to_owned(), "x".to_owned()],
        }),
        ..into_type(
            "oddities",
            "odd",
            "SELECT id || '/' AS id, 1 AS x, CAST(v AS DOUBLE) AS v FROM events",
        )
    };
    rig.clients.register(two).await.expect("registered");
    let ended = rig
        .clients
        .run(days("oddities", "2013-01-01", "2013-01-02"))
        .await;
    let message = &ended.partitions[0].message;
    assert!(message.contains("separates the columns"), "{message}");
}

#[tokio::test]
async fn what_does_not_fit_the_type_is_refused_when_it_is_registered() {
    let mut rig = readings().await;
    let attributes = [("v", AttributeKind::Int64), ("w", AttributeKind::String)];
    rig.clients.create_type("wide", &attributes).await;
    let wide = |sql: &str| into_type("t", "wide", sql);
    let with_key = |key: &[&str]| pb::Transform {
        output_entity: Some(pb::EntityOutput {
            entity_type: "level".to_owned(),
            key: key.iter().map(|it| (*it).to_owned()).collect(),
        }),
        ..into_type("t", "level", PLAIN)
    };
    let prior = |partitions| pb::Transform {
        prior: Some(pb::PriorInput { partitions }),
        ..into_type("t", "level", RUNNING)
    };
    let both = pb::Transform {
        output_table: "t".to_owned(),
        ..with_key(&["id"])
    };
    let neither = pb::Transform {
        output_entity: None,
        ..with_key(&["id"])
    };
    let itself = pb::Transform {
        entities: vec![entity_input("level")],
        ..with_key(&["id"])
    };
    let cases = [
        (
            both,
            "transform.output_entity",
            "a transform writes one of both",
        ),
        (
            neither,
            "transform.output_table",
            "or output_entity in its place",
        ),
        (itself, "transform.entities[0].entity_type", "as prior"),
        (
            with_key(&[]),
            "transform.output_entity.key",
            "names 0 columns",
        ),
        (
            with_key(&["x"]),
            "transform.output_entity.key[0]",
            "gives no column \"x\"",
        ),
        (
            with_key(&["id", "id"]),
            "transform.output_entity.key[1]",
            "named twice",
        ),
        (
            into_type("t", "level", "SELECT 1.5 AS id, v FROM events"),
            "transform.output_entity.key[0]",
            "CAST(id AS VARCHAR)",
        ),
        (
            into_type("t", "unheard", "SELECT id, v, ts AS seen FROM events"),
            "transform.output_entity.entity_type",
            "{ name = \"v\", kind = \"int64\" }, { name = \"seen\", kind = \"timestamp\" }",
        ),
        (
            into_type("t", "Level", PLAIN),
            "transform.output_entity.entity_type",
            "is not a name",
        ),
        (
            into_type("t", "level", "SELECT id, v, 1 AS x FROM events"),
            "transform.sql",
            "it has no attribute \"x\"",
        ),
        (
            into_type(
                "t",
                "level",
                "SELECT id, CAST(v AS DOUBLE) AS v FROM events",
            ),
            "transform.sql",
            "is int64, and the query gives Float64 (CAST(v AS BIGINT))",
        ),
        (
            wide(PLAIN),
            "transform.sql",
            "no column for its attribute \"w\" (CAST(NULL AS VARCHAR) leaves it null)",
        ),
        (prior(0), "transform.prior.partitions", "only 1 is possible"),
        (prior(2), "transform.prior.partitions", "only 1 is possible"),
    ];
    for (transform, field, expected) in cases {
        let refused = rig.clients.register(transform).await.expect_err(expected);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let details = refused.get_error_details();
        let found = &details.bad_request().expect("a field").field_violations[0];
        assert_eq!(found.field, field, "{refused}");
        assert!(found.description.contains(expected), "{refused}");
    }

    // What clients wrote is not taken over, and what is being imported cannot be written.
    let written = rig.clients.entities.write(write(put("wide", "a"))).await;
    written.expect("written");
    let sql = "SELECT id, v, CAST(NULL AS VARCHAR) AS w FROM events";
    let validated = pb::RegisterTransformRequest {
        transform: Some(wide(sql)),
        validate_only: true,
    };
    let validated = rig.clients.catalog.register_transform(validated).await;
    for refused in [
        validated.expect_err("not empty"),
        rig.clients
            .register(wide(sql))
            .await
            .expect_err("not empty"),
    ] {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason_of(&refused), "ENTITY_TYPE_NOT_EMPTY");
    }

    // A revision cannot move to another output.
    let level = into_type("moving", "level", PLAIN);
    rig.clients.register(level).await.expect("registered");
    let moved = rig.clients.register(over_events("moving", PLAIN)).await;
    assert_eq!(reason_of(&moved.expect_err("moved")), "OUTPUT_MOVED");
}

#[tokio::test]
async fn types_that_grow_take_what_earlier_revisions_gave() {
    let mut rig = with_levels(PLAIN).await;
    rig.clients.run_well(january()).await;
    let update = pb::UpdateEntityTypeRequest {
        name: "level".to_owned(),
        add_attributes: vec![pb::Attribute {
            name: "w".to_owned(),
            kind: AttributeKind::String.into(),
            ..pb::Attribute::default()
        }],
        deprecate_attributes: vec!["v".to_owned()],
        ..pb::UpdateEntityTypeRequest::default()
    };
    let updated = rig.clients.entities.update_entity_type(update).await;
    updated.expect("updated");
    let again = rig.clients.run_well(january()).await;
    assert_eq!(changes(&again.partitions)[2], (0, 0, 3), "frozen");
    let refused = rig
        .clients
        .register(into_type(
            "levels",
            "level",
            "SELECT id, v, id AS w FROM events",
        ))
        .await
        .expect_err("deprecated");
    assert!(refused.message().contains("is deprecated"), "{refused}");
    let words = into_type("levels", "level", "SELECT id, id AS w FROM events");
    rig.clients.register(words).await.expect("registered");
    let ended = rig.clients.run_well(january()).await;
    assert_eq!(
        changes(&ended.partitions),
        [(2, 0, 0), (1, 0, 0), (3, 0, 0)]
    );
    assert_eq!(rig.clients.state("level", NOON[1]).await, ["a a"]);
}

#[tokio::test]
async fn an_attempt_that_was_stopped_writes_nothing() {
    let slow = format!("SELECT id, v + CAST({SLOW} AS BIGINT) * 0 AS v FROM events");
    let mut rig = with_levels(&slow).await;
    let start = rig.clients.latest_basis().await;
    let created = rig.clients.create(january()).await.expect("created");
    rig.clients.cancel(&created.name).await.expect("cancelled");
    let ended = rig.clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Cancelled);
    let written = ended
        .partitions
        .iter()
        .any(|it| it.state() == PartitionState::Succeeded);
    assert!(!written, "too fast to be stopped");
    assert_eq!(rig.clients.latest_basis().await, start);

    let mut limited = january();
    limited.attempt_timeout = Some(prost_types::Duration {
        seconds: 0,
        nanos: 1_000_000,
    });
    let created = rig.clients.create(limited).await.expect("created");
    rig.clock.set(micros("2013-12-31T00:00:01Z"));
    let ended = rig.clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Failed);
    assert_eq!(rig.clients.latest_basis().await, start);
}

#[tokio::test]
async fn two_backfills_do_not_write_the_same_partitions_at_once() {
    let slow = format!("SELECT id, v + CAST({SLOW} AS BIGINT) * 0 AS v FROM events");
    let mut rig = with_levels(&slow).await;
    let first = rig.clients.create(january()).await.expect("created");
    let refused = rig.clients.create(january()).await.expect_err("overlaps");
    assert_eq!(reason_of(&refused), "BACKFILL_OVERLAP");
    assert!(
        refused.message().contains("entity type \"level\""),
        "{refused}"
    );
    rig.clients.cancel(&first.name).await.expect("cancelled");
}
