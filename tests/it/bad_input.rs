//! Bad input gets a clear error and loses nothing: code, stable reason and the field at fault, for every service; and the
//! server still answers afterwards.

use std::{collections::HashMap, future::Future, path::Path};

use hindcast::{
    pb::{
        self, AttributeKind, Grain, Knowledge, Mutation, SourceFormat, Value, mutation, put,
        value::Kind,
    },
    time::SystemClock,
};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use crate::support::{Service, at};

pub(crate) const INVALID: &str = "INVALID_REQUEST";

/// Asserts that a call is refused with `code` and `reason`, and, unless `field` is empty, that `BadRequest` names the field.
pub(crate) async fn refused<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
    code: Code,
    reason: &str,
    field: &str,
) -> Status {
    let Err(status) = call.await else {
        panic!("{reason} {field}: it was accepted");
    };
    let info = status.get_details_error_info().expect("ErrorInfo");
    let told = format!("{status:?}");
    assert_eq!(
        (status.code(), info.reason.as_str()),
        (code, reason),
        "{field}: {told}"
    );
    assert_eq!(info.domain, "hindcast.dev");
    assert!(!status.message().is_empty());
    if !field.is_empty() {
        let fields: Vec<_> = status
            .get_details_bad_request()
            .expect("BadRequest")
            .field_violations
            .into_iter()
            .map(|violation| violation.field)
            .collect();
        assert!(fields.iter().any(|found| found == field), "{field}: {told}");
    }
    status
}

async fn service() -> Service {
    let mut service = Service::start(SystemClock::shared()).await;
    let attributes = [
        ("count", AttributeKind::Int64),
        ("ratio", AttributeKind::Float64),
        ("seen", AttributeKind::Date),
        ("extra", AttributeKind::Json),
    ];
    service.create_type("thing", &attributes).await;
    service
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn put_of(attribute: &str, kind: Kind) -> pb::Put {
    pb::Put {
        attributes: HashMap::from([(attribute.to_owned(), value(kind))]),
        valid_from: Some(at("2024-01-01T00:00:00Z")),
        until: None,
    }
}

fn mutation(operation: mutation::Operation) -> Mutation {
    Mutation {
        entity_type: "thing".to_owned(),
        entity_id: "a".to_owned(),
        operation: Some(operation),
        ..Default::default()
    }
}

fn write(mutations: Vec<Mutation>) -> pb::WriteRequest {
    pb::WriteRequest {
        mutations,
        request_id: String::new(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_are_malformed_name_the_field_and_write_nothing() {
    let mut service = service().await;
    let put = |attribute: &str, kind| mutation(mutation::Operation::Put(put_of(attribute, kind)));
    let until = |until| {
        mutation(mutation::Operation::Put(pb::Put {
            until: Some(until),
            ..put_of("count", Kind::Int64Value(1))
        }))
    };
    let good = put("count", Kind::Int64Value(1));
    let bad_nanos = Timestamp {
        seconds: 0,
        nanos: -1,
    };
    let id = |entity_id: String| Mutation {
        entity_id,
        ..good.clone()
    };
    let cases: Vec<(Mutation, &str)> = vec![
        (
            put("count", Kind::StringValue("x".to_owned())),
            "mutations[1].put.attributes[\"count\"]",
        ),
        (
            put("ratio", Kind::Float64Value(f64::NAN)),
            "mutations[1].put.attributes[\"ratio\"]",
        ),
        (
            put("ratio", Kind::Float64Value(f64::INFINITY)),
            "mutations[1].put.attributes[\"ratio\"]",
        ),
        (
            put("seen", Kind::DateValue("2024-13-01".to_owned())),
            "mutations[1].put.attributes[\"seen\"]",
        ),
        (
            put("extra", Kind::JsonValue("{".to_owned())),
            "mutations[1].put.attributes[\"extra\"]",
        ),
        (
            put("unknown", Kind::BoolValue(true)),
            "mutations[1].put.attributes[\"unknown\"]",
        ),
        (
            until(put::Until::ValidTo(at("2024-01-01T00:00:00Z"))),
            "mutations[1].put.valid_to",
        ),
        (
            until(put::Until::ValidTo(at("2023-01-01T00:00:00Z"))),
            "mutations[1].put.valid_to",
        ),
        (
            until(put::Until::ValidTo(bad_nanos)),
            "mutations[1].put.valid_to",
        ),
        (id(String::new()), "mutations[1].entity_id"),
        (id("x".repeat(513)), "mutations[1].entity_id"),
        (
            Mutation {
                operation: None,
                ..good.clone()
            },
            "mutations[1].operation",
        ),
    ];
    for (bad, field) in cases {
        let batch = write(vec![good.clone(), bad]);
        refused(
            service.entities.write(batch),
            Code::InvalidArgument,
            INVALID,
            field,
        )
        .await;
    }
    let unknown_type = Mutation {
        entity_type: "nothing".to_owned(),
        ..good.clone()
    };
    let status = refused(
        service
            .entities
            .write(write(vec![good.clone(), unknown_type])),
        Code::NotFound,
        "ENTITY_TYPE_NOT_FOUND",
        "",
    )
    .await;
    assert!(status.message().contains("nothing"), "{status:?}");
    for batch in [
        Vec::new(),
        vec![good.clone(); 10_001],
        vec![id("y".repeat(500)); 9_000],
    ] {
        refused(
            service.entities.write(write(batch)),
            Code::InvalidArgument,
            INVALID,
            "mutations",
        )
        .await;
    }
    let request = pb::GetEntityRequest {
        entity_type: "thing".to_owned(),
        entity_id: "a".to_owned(),
        ..Default::default()
    };
    let read = service.entities.get_entity(request).await.expect("answers");
    assert_eq!(
        read.into_inner().outcome(),
        pb::EntityOutcome::NotKnown,
        "nothing was written"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_are_malformed_name_the_field() {
    let mut service = service().await;
    let get = |entity_type: &str, entity_id: &str| pb::GetEntityRequest {
        entity_type: entity_type.to_owned(),
        entity_id: entity_id.to_owned(),
        ..Default::default()
    };
    let status = refused(
        service.entities.get_entity(get("nothing", "a")),
        Code::NotFound,
        "ENTITY_TYPE_NOT_FOUND",
        "",
    )
    .await;
    let resource = status.get_details_resource_info().expect("ResourceInfo");
    assert_eq!(resource.resource_name, "nothing");
    refused(
        service.entities.get_entity(get("thing", "")),
        Code::InvalidArgument,
        INVALID,
        "entity_id",
    )
    .await;
    let future = pb::GetEntityRequest {
        basis: Some(at("2999-01-01T00:00:00Z")),
        ..get("thing", "a")
    };
    refused(
        service.entities.get_entity(future),
        Code::OutOfRange,
        "BASIS_IN_FUTURE",
        "",
    )
    .await;
    let out_of_range = pb::GetEntityRequest {
        valid_time: Some(Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
        ..get("thing", "a")
    };
    refused(
        service.entities.get_entity(out_of_range),
        Code::InvalidArgument,
        INVALID,
        "valid_time",
    )
    .await;
    let batch = pb::BatchGetEntitiesRequest {
        entity_type: "thing".to_owned(),
        ..Default::default()
    };
    refused(
        service.entities.batch_get_entities(batch),
        Code::InvalidArgument,
        INVALID,
        "entity_ids",
    )
    .await;
    let history = pb::ListHistoryRequest {
        entity_type: "thing".to_owned(),
        entity_id: "a".to_owned(),
        page_size: 10_001,
        ..Default::default()
    };
    refused(
        service.entities.list_history(history.clone()),
        Code::InvalidArgument,
        INVALID,
        "page_size",
    )
    .await;
    let foreign = pb::ListHistoryRequest {
        page_size: 0,
        page_token: "mine".to_owned(),
        ..history
    };
    refused(
        service.entities.list_history(foreign),
        Code::InvalidArgument,
        INVALID,
        "page_token",
    )
    .await;
    for (name, kind) in [
        ("Bad-Name", AttributeKind::Bool),
        ("fine", AttributeKind::Unspecified),
    ] {
        let request = pb::CreateEntityTypeRequest {
            entity_type: Some(pb::EntityType {
                name: name.to_owned(),
                attributes: vec![pb::Attribute {
                    name: "x".to_owned(),
                    kind: kind.into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
        };
        refused(
            service.entities.create_entity_type(request),
            Code::InvalidArgument,
            INVALID,
            "",
        )
        .await;
    }
    let listed = service
        .entities
        .list_entity_types(pb::ListEntityTypesRequest {})
        .await
        .expect("still answers");
    assert_eq!(listed.into_inner().entity_types.len(), 1);
    service.stop().await;
}

fn csv(name: &str, location: &Path) -> pb::Source {
    pb::Source {
        name: name.to_owned(),
        format: SourceFormat::Csv.into(),
        location: location.display().to_string(),
        event_time_column: "at".to_owned(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_cannot_be_used_are_refused_when_they_are_declared() {
    let mut service = service().await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("rows.csv");
    std::fs::write(&file, "at,n\nsoon,1\n").expect("written");
    let broken = folder.path().join("broken.parquet");
    std::fs::write(&broken, "this is no Parquet").expect("written");
    let hive = folder.path().join("hive/dt=never");
    std::fs::create_dir_all(&hive).expect("made");
    std::fs::write(hive.join("rows.csv"), "at,n\n2024-01-01T00:00:00Z,1\n").expect("written");
    let daily = |time_zone: &str, grain: Grain| {
        Some(pb::HivePartition {
            column: "dt".to_owned(),
            grain: grain.into(),
            time_zone: time_zone.to_owned(),
            format: String::new(),
        })
    };
    let usual = csv("rows", &file);
    let invalid: Vec<(pb::Source, &str, &str)> = vec![
        (
            pb::Source {
                name: "../rows".to_owned(),
                ..usual.clone()
            },
            INVALID,
            "source.name",
        ),
        (
            pb::Source {
                format: 0,
                ..usual.clone()
            },
            INVALID,
            "source.format",
        ),
        (
            pb::Source {
                location: "rows.csv".to_owned(),
                ..usual.clone()
            },
            INVALID,
            "source.location",
        ),
        (
            pb::Source {
                event_time_column: String::new(),
                ..usual.clone()
            },
            INVALID,
            "source.event_time_column",
        ),
        (
            pb::Source {
                csv_delimiter: ";;".to_owned(),
                ..usual.clone()
            },
            INVALID,
            "source.csv_delimiter",
        ),
        (
            pb::Source {
                csv_types: HashMap::from([("n".to_owned(), "number".to_owned())]),
                ..usual.clone()
            },
            INVALID,
            "source.csv_types[\"n\"]",
        ),
        (
            pb::Source {
                hive: daily("Mars/Olympus", Grain::Daily),
                ..usual.clone()
            },
            INVALID,
            "source.hive.time_zone",
        ),
        (
            pb::Source {
                hive: daily("UTC", Grain::Unspecified),
                ..usual.clone()
            },
            INVALID,
            "source.hive.grain",
        ),
        (
            usual.clone(),
            "INVALID_DEFINITION",
            "source.event_time_column",
        ),
        (
            pb::Source {
                event_time_column: "when".to_owned(),
                ..usual.clone()
            },
            "INVALID_DEFINITION",
            "source.event_time_column",
        ),
    ];
    for (source, reason, field) in invalid {
        let request = pb::CreateSourceRequest {
            source: Some(source),
        };
        refused(
            service.catalog.create_source(request),
            Code::InvalidArgument,
            reason,
            field,
        )
        .await;
    }
    let parquet = pb::Source {
        format: SourceFormat::Parquet.into(),
        ..csv("broken", &broken)
    };
    let unusable = [
        csv("missing", &folder.path().join("missing")),
        parquet,
        pb::Source {
            hive: daily("UTC", Grain::Daily),
            ..csv("sliced", &folder.path().join("hive"))
        },
    ];
    for source in unusable {
        let name = source.name.clone();
        let request = pb::CreateSourceRequest {
            source: Some(source),
        };
        let call = service.catalog.create_source(request);
        let status = refused(call, Code::FailedPrecondition, "SOURCE_UNUSABLE", "").await;
        assert!(status.message().contains(&name), "{status:?}");
    }
    let listed = service
        .catalog
        .list_sources(pb::ListSourcesRequest {})
        .await
        .expect("still answers");
    assert_eq!(listed.into_inner().sources, []);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_unknown_or_missing_are_told() {
    let mut service = service().await;
    let name = || "nothing".to_owned();
    let missing = Code::NotFound;
    let calls = &mut service.catalog;
    refused(
        calls.get_source(pb::GetSourceRequest { name: name() }),
        missing,
        "SOURCE_NOT_FOUND",
        "",
    )
    .await;
    let transform = pb::GetTransformRequest {
        name: name(),
        revision: 0,
    };
    refused(
        calls.get_transform(transform),
        missing,
        "TRANSFORM_NOT_FOUND",
        "",
    )
    .await;
    refused(
        calls.get_table(pb::GetTableRequest { name: name() }),
        missing,
        "TABLE_NOT_FOUND",
        "",
    )
    .await;
    let read = pb::ReadTableRequest {
        name: name(),
        ..Default::default()
    };
    refused(calls.read_table(read), missing, "TABLE_NOT_FOUND", "").await;
    let path = pb::GetTableRequest {
        name: "../../etc".to_owned(),
    };
    refused(calls.get_table(path), missing, "TABLE_NOT_FOUND", "").await;
    let unnamed = pb::GetSourceRequest {
        name: String::new(),
    };
    refused(
        calls.get_source(unnamed),
        Code::InvalidArgument,
        INVALID,
        "name",
    )
    .await;

    let calls = &mut service.backfills;
    let reason = "BACKFILL_NOT_FOUND";
    refused(
        calls.get_backfill(pb::GetBackfillRequest { name: name() }),
        missing,
        reason,
        "",
    )
    .await;
    refused(
        calls.cancel_backfill(pb::CancelBackfillRequest { name: name() }),
        missing,
        reason,
        "",
    )
    .await;
    let watch = pb::WatchBackfillRequest {
        name: name(),
        after_sequence: 0,
    };
    refused(calls.watch_backfill(watch), missing, reason, "").await;
    let partitions = pb::ListPartitionsRequest {
        backfill: name(),
        ..Default::default()
    };
    refused(calls.list_partitions(partitions), missing, reason, "").await;
    let states = pb::ListBackfillsRequest {
        states: vec![99],
        ..Default::default()
    };
    refused(
        calls.list_backfills(states),
        Code::InvalidArgument,
        "UNKNOWN_STATE",
        "states[0]",
    )
    .await;
    let size = pb::ListBackfillsRequest {
        page_size: 1_001,
        ..Default::default()
    };
    refused(
        calls.list_backfills(size),
        Code::InvalidArgument,
        INVALID,
        "page_size",
    )
    .await;
    let token = pb::ListBackfillsRequest {
        page_token: name(),
        ..Default::default()
    };
    refused(
        calls.list_backfills(token),
        Code::InvalidArgument,
        INVALID,
        "page_token",
    )
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backfills_that_cannot_be_planned_name_the_field() {
    let mut service = service().await;
    let usual = pb::BackfillSpec {
        transform: "nothing".to_owned(),
        from: Some(at("2024-01-01T00:00:00Z")),
        to: Some(at("2024-01-02T00:00:00Z")),
        knowledge: Knowledge::AsKnownNow.into(),
        ..Default::default()
    };
    let negative = Duration {
        seconds: -1,
        nanos: 0,
    };
    let cases: Vec<(Option<pb::BackfillSpec>, &str)> = vec![
        (None, "spec"),
        (
            Some(pb::BackfillSpec {
                transform: String::new(),
                ..usual.clone()
            }),
            "spec.transform",
        ),
        (
            Some(pb::BackfillSpec {
                from: None,
                ..usual.clone()
            }),
            "spec.from",
        ),
        (
            Some(pb::BackfillSpec {
                to: None,
                ..usual.clone()
            }),
            "spec.to",
        ),
        (
            Some(pb::BackfillSpec {
                knowledge: 0,
                ..usual.clone()
            }),
            "spec.knowledge",
        ),
        (
            Some(pb::BackfillSpec {
                knowledge: 77,
                ..usual.clone()
            }),
            "spec.knowledge",
        ),
        (
            Some(pb::BackfillSpec {
                basis: usual.from,
                ..usual.clone()
            }),
            "spec.basis",
        ),
        (
            Some(pb::BackfillSpec {
                knowledge: Knowledge::AtBasis.into(),
                ..usual.clone()
            }),
            "spec.basis",
        ),
        (
            Some(pb::BackfillSpec {
                knowledge: Knowledge::AsKnownThen.into(),
                availability_delay: Some(negative),
                ..usual.clone()
            }),
            "spec.availability_delay",
        ),
        (
            Some(pb::BackfillSpec {
                transforms: vec![pb::TransformRevision::default()],
                ..usual.clone()
            }),
            "spec.transform",
        ),
        (
            Some(pb::BackfillSpec {
                transform: String::new(),
                transforms: vec![pb::TransformRevision::default()],
                ..usual.clone()
            }),
            "spec.transforms[0].transform",
        ),
        (
            Some(pb::BackfillSpec {
                transform: String::new(),
                transforms: vec![
                    pb::TransformRevision {
                        transform: "one".to_owned(),
                        revision: 0,
                    };
                    33
                ],
                ..usual.clone()
            }),
            "spec.transforms",
        ),
    ];
    for (spec, field) in cases {
        let plan = pb::PlanBackfillRequest { spec: spec.clone() };
        refused(
            service.backfills.plan_backfill(plan),
            Code::InvalidArgument,
            INVALID,
            field,
        )
        .await;
        let create = pb::CreateBackfillRequest {
            spec,
            ..Default::default()
        };
        refused(
            service.backfills.create_backfill(create),
            Code::InvalidArgument,
            INVALID,
            field,
        )
        .await;
    }
    let plan = pb::PlanBackfillRequest { spec: Some(usual) };
    let call = service.backfills.plan_backfill(plan);
    refused(call, Code::NotFound, "TRANSFORM_NOT_FOUND", "").await;
    service.stop().await;
}

#[test]
fn every_reason_is_listed_with_cause_and_remedy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/errors.md")).expect("the list");
    let mut reasons = Vec::new();
    collect_reasons(&root.join("src"), &mut reasons);
    assert!(reasons.len() > 40, "{reasons:?}");
    for reason in reasons {
        assert!(
            page.contains(&format!("| `{reason}` |")),
            "{reason} is not in docs/errors.md"
        );
    }
}

/// The string literals in every `fn reason`.
fn collect_reasons(folder: &Path, reasons: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect_reasons(&path, reasons);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source file");
        for body in text.split("fn reason(&self)").skip(1) {
            let end = body.find("\n    }\n").unwrap_or(body.len());
            let literals = body[..end].split('"').skip(1).step_by(2);
            reasons.extend(literals.map(str::to_owned));
        }
    }
}
