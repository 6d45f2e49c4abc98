//! Definitions that cannot be: transforms, entity types and ranges of partitions are refused by field, and none of them ends
//! the server.

use std::path::Path;

use hindcast::{
    pb::{self, AttributeKind, Grain, Knowledge, Mutation, SourceFormat, mutation, value::Kind},
    time::SystemClock,
};
use prost_types::{Duration, Timestamp};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    bad_input::{INVALID, refused},
    support::{Service, at, put},
};

const DEFINITION: &str = "INVALID_DEFINITION";

/// A service with a source `orders` of two days and a type `customer`; the folder holds the source's file.
async fn service() -> (Service, TempDir) {
    let mut service = Service::start(SystemClock::shared()).await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("orders.csv");
    let rows = "at,customer,amount\n2024-03-01T10:00:00Z,c1,10\n2024-03-02T06:00:00Z,c1,20\n";
    std::fs::write(&file, rows).expect("written");
    service.create_source(orders(&file)).await;
    let attributes = [("plan", AttributeKind::String)];
    service.create_type("customer", &attributes).await;
    (service, folder)
}

fn orders(file: &Path) -> pb::Source {
    pb::Source {
        name: "orders".to_owned(),
        format: SourceFormat::Csv.into(),
        location: file.display().to_string(),
        event_time_column: "at".to_owned(),
        csv_types: [("at".to_owned(), "timestamp".to_owned())].into(),
        ..Default::default()
    }
}

fn totals(sql: &str) -> pb::Transform {
    pb::Transform {
        name: "totals".to_owned(),
        sql: sql.to_owned(),
        sources: vec![input("orders", None)],
        entities: vec![pb::EntityInput {
            entity_type: "customer".to_owned(),
            at_partition_start: false,
        }],
        output_table: "totals".to_owned(),
        grain: Grain::Daily.into(),
        ..Default::default()
    }
}

fn input(source: &str, lookback: Option<Duration>) -> pb::SourceInput {
    pb::SourceInput {
        source: source.to_owned(),
        lookback,
    }
}

fn register(transform: pb::Transform) -> pb::RegisterTransformRequest {
    pb::RegisterTransformRequest {
        transform: Some(transform),
        validate_only: false,
    }
}

const USUAL: &str = "SELECT sum(amount) AS amount FROM orders";

#[tokio::test(flavor = "multi_thread")]
async fn only_one_query_over_declared_inputs_is_a_transform() {
    let (mut service, folder) = service().await;
    let file = folder.path().join("orders.csv");
    let leak = folder.path().join("leak.csv");
    let texts = [
        format!("COPY (SELECT 1 AS a) TO '{}'", leak.display()),
        format!("SELECT * FROM '{}'", file.display()),
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/hosts'".to_owned(),
        "INSERT INTO orders SELECT * FROM orders".to_owned(),
        "DROP TABLE orders".to_owned(),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "EXPLAIN SELECT 1 AS a".to_owned(),
        "SELECT amount INTO x FROM orders".to_owned(),
        "SELECT 1 AS a; SELECT 2 AS b".to_owned(),
        "SELECT * FROM information_schema.tables".to_owned(),
        "SELECT now() AS a".to_owned(),
        "SELECT amount FROM orders WHERE random() < 0.5".to_owned(),
        "SELECT $partition AS a".to_owned(),
        "SELECT NULL AS a".to_owned(),
        "SELECT nothing FROM orders".to_owned(),
        "SELEC 1".to_owned(),
        " ".to_owned(),
    ];
    for sql in texts {
        let call = service.catalog.register_transform(register(totals(&sql)));
        refused(call, Code::InvalidArgument, DEFINITION, "transform.sql").await;
    }
    assert!(!leak.exists(), "nothing was run");
    let listed = service
        .catalog
        .list_transforms(pb::ListTransformsRequest {})
        .await;
    assert_eq!(listed.expect("answers").into_inner().transforms, []);
    service.stop().await;
}

/// Each of these once ended the process: the planner recursed until a thread had no stack left.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nests_too_deep_is_refused_and_the_server_lives() {
    let (mut service, _folder) = service().await;
    let texts = [
        format!("SELECT 1{} AS a", "+1".repeat(32_000)),
        format!("SELECT amount{} AS a FROM orders", "::int".repeat(10_000)),
        format!("SELECT {}1 AS a", "- ".repeat(20_000)),
        format!("SELECT 1 AS a{}", " UNION SELECT 1".repeat(4_000)),
        format!("SELECT 1 AS a FROM orders{}", ",orders".repeat(4_000)),
        format!("SELECT {}1{} AS a", "(".repeat(20_000), ")".repeat(20_000)),
    ];
    for sql in texts {
        let call = service.catalog.register_transform(register(totals(&sql)));
        refused(call, Code::InvalidArgument, DEFINITION, "transform.sql").await;
    }
    let long = totals(&format!("{USUAL} -- {}", "x".repeat(64 << 10)));
    let call = service.catalog.register_transform(register(long));
    refused(call, Code::InvalidArgument, INVALID, "transform.sql").await;
    let deep = format!("SELECT amount{} AS a FROM orders", "+amount".repeat(300));
    service.register(totals(&deep)).await;
    let backfill = service.run_well(two_days()).await;
    assert_eq!(backfill.rows_written, 2);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transforms_that_cannot_be_registered_name_the_field() {
    let (mut service, _folder) = service().await;
    let negative = Some(Duration {
        seconds: -1,
        nanos: 0,
    });
    type Change = fn(&mut pb::Transform);
    let definitions: Vec<(Change, &str)> = vec![
        (|t| t.name = "a/b".to_owned(), "transform.name"),
        (
            |t| t.output_table = "../x".to_owned(),
            "transform.output_table",
        ),
        (|t| t.output_table.clear(), "transform.output_table"),
        (
            |t| t.sources.push(input("nothing", None)),
            "transform.sources[1].source",
        ),
        (
            |t| t.sources.push(input("orders", None)),
            "transform.sources[1].source",
        ),
        (
            |t| t.entities[0].entity_type = "nothing".to_owned(),
            "transform.entities[0].entity_type",
        ),
        (
            |t| t.prior = Some(pb::PriorInput { partitions: 1 }),
            "transform.output_columns",
        ),
        (
            |t| t.output_columns = vec!["amount".to_owned()],
            "transform.output_columns[0]",
        ),
        (
            |t| t.output_columns = vec!["amount int7".to_owned()],
            "transform.output_columns[0]",
        ),
        (
            |t| t.output_columns = vec!["other int64".to_owned()],
            "transform.output_columns",
        ),
    ];
    let requests: Vec<(Change, &str)> = vec![
        (|t| t.grain = 0, "transform.grain"),
        (|t| t.grain = 99, "transform.grain"),
        (
            |t| t.time_zone = "Mars/Olympus".to_owned(),
            "transform.time_zone",
        ),
        (
            |t| t.description = "x".repeat(4_097),
            "transform.description",
        ),
        (
            |t| t.sources = vec![input("orders", None); 65],
            "transform.sources",
        ),
    ];
    for (reason, cases) in [(DEFINITION, definitions), (INVALID, requests)] {
        for (change, field) in cases {
            let mut transform = totals(USUAL);
            change(&mut transform);
            let call = service.catalog.register_transform(register(transform));
            refused(call, Code::InvalidArgument, reason, field).await;
        }
    }
    let mut lookback = totals(USUAL);
    lookback.sources = vec![input("orders", negative)];
    let mut backoff = totals(USUAL);
    backoff.retry = Some(pb::RetryPolicy {
        initial_backoff: negative,
        ..Default::default()
    });
    for (transform, field) in [
        (lookback, "transform.sources[0].lookback"),
        (backoff, "transform.retry.initial_backoff"),
    ] {
        let call = service.catalog.register_transform(register(transform));
        refused(call, Code::InvalidArgument, INVALID, field).await;
    }
    let none = pb::RegisterTransformRequest::default();
    let call = service.catalog.register_transform(none);
    refused(call, Code::InvalidArgument, INVALID, "transform").await;

    service.register(totals(USUAL)).await;
    let moved = pb::Transform {
        output_table: "elsewhere".to_owned(),
        ..totals(USUAL)
    };
    let call = service.catalog.register_transform(register(moved));
    refused(call, Code::FailedPrecondition, "OUTPUT_MOVED", "").await;
    let owned = pb::Transform {
        name: "other".to_owned(),
        ..totals(USUAL)
    };
    let call = service.catalog.register_transform(register(owned));
    refused(call, Code::FailedPrecondition, "TABLE_OWNED", "").await;
    service.stop().await;
}

fn two_days() -> pb::BackfillSpec {
    pb::BackfillSpec {
        transform: "totals".to_owned(),
        from: Some(at("2024-03-01T00:00:00Z")),
        to: Some(at("2024-03-03T00:00:00Z")),
        knowledge: Knowledge::AsKnownNow.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_settings_of_a_backfill_are_bounded() {
    let (mut service, _folder) = service().await;
    service.register(totals(USUAL)).await;
    type Change = fn(&mut pb::BackfillSpec);
    let cases: Vec<(Change, &str)> = vec![
        (|s| s.to = s.from, "spec.to"),
        (|s| s.to = Some(at("2024-02-01T00:00:00Z")), "spec.to"),
        (|s| s.to = Some(at("2024-03-02T01:00:00Z")), "spec.to"),
        (|s| s.from = Some(at("2024-03-01T01:00:00Z")), "spec.from"),
        (|s| s.from = Some(at("0002-01-01T00:00:00Z")), "spec.to"),
        (
            |s| s.max_active_partitions = 65,
            "spec.max_active_partitions",
        ),
        (|s| s.max_attempts = 101, "spec.max_attempts"),
        (
            |s| {
                s.labels = (0..33)
                    .map(|key| (key.to_string(), String::new()))
                    .collect()
            },
            "spec.labels",
        ),
        (
            |s| s.labels = [("k".to_owned(), "v".repeat(129))].into(),
            "spec.labels[\"k\"]",
        ),
    ];
    for (change, field) in cases {
        let mut spec = two_days();
        change(&mut spec);
        let request = pb::PlanBackfillRequest { spec: Some(spec) };
        let call = service.backfills.plan_backfill(request);
        refused(call, Code::InvalidArgument, "INVALID_BACKFILL", field).await;
    }
    let ahead = pb::BackfillSpec {
        knowledge: Knowledge::AtBasis.into(),
        basis: Some(at("2990-01-01T00:00:00Z")),
        ..two_days()
    };
    let request = pb::PlanBackfillRequest { spec: Some(ahead) };
    let call = service.backfills.plan_backfill(request);
    refused(call, Code::OutOfRange, "BASIS_IN_FUTURE", "").await;
    let to_come = pb::BackfillSpec {
        from: Some(at("2990-01-01T00:00:00Z")),
        to: Some(at("2990-01-02T00:00:00Z")),
        ..two_days()
    };
    let create = |spec| pb::CreateBackfillRequest {
        spec: Some(spec),
        ..Default::default()
    };
    let call = service.backfills.create_backfill(create(to_come));
    refused(call, Code::FailedPrecondition, "NOTHING_TO_RUN", "").await;
    let moved = pb::CreateBackfillRequest {
        expected_plan_hash: "another".to_owned(),
        ..create(two_days())
    };
    let call = service.backfills.create_backfill(moved);
    refused(call, Code::FailedPrecondition, "PLAN_MOVED", "").await;
    let listed = service
        .backfills
        .list_backfills(pb::ListBackfillsRequest::default())
        .await;
    assert_eq!(listed.expect("answers").into_inner().backfills, []);

    let name = service.run_well(two_days()).await.name;
    for page_token in ["1".to_owned(), format!("{name}.2"), format!("x{name}.1")] {
        let request = pb::ListPartitionsRequest {
            backfill: name.clone(),
            page_token,
            ..Default::default()
        };
        let call = service.backfills.list_partitions(request);
        refused(call, Code::InvalidArgument, INVALID, "page_token").await;
    }
    let watch = pb::WatchBackfillRequest {
        name: name.clone(),
        after_sequence: u64::MAX,
    };
    let call = service.backfills.watch_backfill(watch);
    refused(call, Code::OutOfRange, "SEQUENCE_AHEAD", "").await;
    let call = service
        .backfills
        .cancel_backfill(pb::CancelBackfillRequest { name });
    refused(call, Code::FailedPrecondition, "BACKFILL_ENDED", "").await;
    let read = |snapshot_id, to| pb::ReadTableRequest {
        name: "totals".to_owned(),
        partition_range: Some(pb::TimeRange {
            from: Some(at("2024-03-02T00:00:00Z")),
            to: Some(to),
        }),
        snapshot_id,
        limit: 0,
    };
    let call = service
        .catalog
        .read_table(read(0, at("2024-03-01T00:00:00Z")));
    refused(call, Code::InvalidArgument, INVALID, "partition_range.to").await;
    let call = service
        .catalog
        .read_table(read(5, at("2024-03-03T00:00:00Z")));
    refused(call, Code::NotFound, "SNAPSHOT_NOT_FOUND", "").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entity_types_that_cannot_be_name_the_field() {
    let (mut service, _folder) = service().await;
    let attribute = |name: &str, kind: AttributeKind, precision, scale| pb::Attribute {
        name: name.to_owned(),
        kind: kind.into(),
        precision,
        scale,
        ..Default::default()
    };
    let (bool, decimal) = (AttributeKind::Bool, AttributeKind::Decimal);
    let first = |field: &str| format!("entity_type.attributes[0].{field}");
    let cases = [
        (vec![], "entity_type.attributes".to_owned()),
        (
            vec![attribute("a", bool, 0, 0); 257],
            "entity_type.attributes".to_owned(),
        ),
        (
            vec![attribute("a", bool, 0, 0); 2],
            "entity_type.attributes[1].name".to_owned(),
        ),
        (vec![attribute("valid_from", bool, 0, 0)], first("name")),
        (vec![attribute("a", decimal, 0, 0)], first("precision")),
        (vec![attribute("a", decimal, 39, 0)], first("precision")),
        (vec![attribute("a", decimal, 2, 3)], first("scale")),
        (vec![attribute("a", decimal, 2, 300)], first("scale")),
        (
            vec![pb::Attribute {
                kind: 99,
                ..attribute("a", bool, 0, 0)
            }],
            first("kind"),
        ),
    ];
    for (attributes, field) in cases {
        let request = pb::CreateEntityTypeRequest {
            entity_type: Some(pb::EntityType {
                name: "thing".to_owned(),
                attributes,
                ..Default::default()
            }),
        };
        let call = service.entities.create_entity_type(request);
        refused(call, Code::InvalidArgument, INVALID, &field).await;
    }
    let inverted = Some(pb::TimeRange {
        from: Some(at("2024-03-02T00:00:00Z")),
        to: Some(at("2024-03-01T00:00:00Z")),
    });
    let history = pb::ListHistoryRequest {
        entity_type: "customer".to_owned(),
        entity_id: "c1".to_owned(),
        ..Default::default()
    };
    let by_valid = pb::ListHistoryRequest {
        valid_range: inverted,
        ..history.clone()
    };
    let by_system = pb::ListHistoryRequest {
        system_range: inverted,
        ..history
    };
    for (request, field) in [(by_valid, "valid_range.to"), (by_system, "system_range.to")] {
        let call = service.entities.list_history(request);
        refused(call, Code::InvalidArgument, INVALID, field).await;
    }
    service.stop().await;
}

/// A status travels in headers, which clients bound: an answer that quotes a long value whole would never arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_value_is_quoted_in_short() {
    let (mut service, folder) = service().await;
    let long = "ü".repeat(50_000);
    let put_plan = |plan: Kind, valid_from: Timestamp| -> Mutation {
        put("customer", "c1", [("plan", plan)], valid_from, None)
    };
    let decimals = vec![put_plan(Kind::DecimalValue(long.clone()), at("2024-01-01T00:00:00Z")); 30];
    let write = pb::WriteRequest {
        mutations: decimals,
        request_id: String::new(),
        ..Default::default()
    };
    refused(
        service.entities.write(write),
        Code::InvalidArgument,
        INVALID,
        "mutations[0].put.attributes[\"plan\"]",
    )
    .await;
    let wrong = vec![put_plan(Kind::BoolValue(true), at("2024-01-01T00:00:00Z")); 1_000];
    let write = pb::WriteRequest {
        mutations: wrong,
        request_id: String::new(),
        ..Default::default()
    };
    refused(
        service.entities.write(write),
        Code::InvalidArgument,
        INVALID,
        "",
    )
    .await;
    let mut unknown = put_plan(Kind::BoolValue(true), at("2024-01-01T00:00:00Z"));
    unknown.entity_type = long.clone();
    if let Some(mutation::Operation::Put(put)) = &mut unknown.operation {
        put.attributes.clear();
    }
    let write = pb::WriteRequest {
        mutations: vec![unknown],
        request_id: String::new(),
        ..Default::default()
    };
    let call = service.entities.write(write);
    refused(call, Code::NotFound, "ENTITY_TYPE_NOT_FOUND", "").await;
    let call = service
        .catalog
        .get_source(pb::GetSourceRequest { name: long.clone() });
    refused(call, Code::NotFound, "SOURCE_NOT_FOUND", "").await;
    let far = pb::Source {
        name: "far".to_owned(),
        ..orders(&folder.path().join(&long))
    };
    let request = pb::CreateSourceRequest { source: Some(far) };
    let call = service.catalog.create_source(request);
    refused(call, Code::FailedPrecondition, "SOURCE_UNUSABLE", "").await;
    let around = pb::Source {
        name: "around".to_owned(),
        ..orders(&folder.path().join("../orders.csv"))
    };
    let request = pb::CreateSourceRequest {
        source: Some(around),
    };
    let call = service.catalog.create_source(request);
    refused(call, Code::InvalidArgument, INVALID, "source.location").await;
    service.stop().await;
}
