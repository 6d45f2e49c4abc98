//! Scans with conditions and projections, joined histories, and answers that are too large.

use std::collections::BTreeMap;

use hindcast::{
    pb::{self, value::Kind},
    store::{AttributeKind, Decimal, Mutation, Operation, Until, Value},
};
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::{
    store_support::{Rig, end, put, spec, until},
    store_wire::{Client, fields, instant, run},
};

/// 2,500 planes, every seventh without a model, half of them re-fitted at 50, every hundredth ended at 80.
fn rig() -> Rig {
    let rig = Rig::new();
    let decimal = AttributeKind::Decimal {
        precision: 9,
        scale: 2,
    };
    rig.declare(spec(
        "plane",
        &[
            ("seats", AttributeKind::Int64),
            ("model", AttributeKind::String),
            ("price", decimal),
            ("built", AttributeKind::Date),
        ],
    ));
    let plane = |n: i64, seats: i64, from: i64, until: Until| {
        let price = Decimal {
            unscaled: i128::from(n) * 25,
            scale: 2,
        };
        let mut attributes = BTreeMap::from([
            ("seats".to_owned(), Some(Value::Int64(seats))),
            ("price".to_owned(), Some(Value::Decimal(price))),
            (
                "built".to_owned(),
                Some(Value::Date(i32::try_from(n).expect("small"))),
            ),
        ]);
        if n % 7 != 0 {
            let model = if n % 2 == 0 { "737-800" } else { "A320" };
            attributes.insert("model".to_owned(), Some(Value::String(model.to_owned())));
        }
        Mutation {
            entity_type: "plane".to_owned(),
            operation: Operation::Put(attributes),
            ..put(&format!("N{n:05}"), None, from, until)
        }
    };
    let all = (0..2_500)
        .map(|n| plane(n, n % 300, 10, Until::Forever))
        .collect();
    rig.write_at(1_000, all).expect("written");
    let refitted = (0..2_500)
        .step_by(2)
        .map(|n| plane(n, n % 300 + 7, 50, Until::Forever));
    rig.write_at(1_010, refitted.collect()).expect("written");
    let ended = (0..2_500).step_by(100).map(|n| Mutation {
        entity_type: "plane".to_owned(),
        ..end(&format!("N{n:05}"), 80, Until::Forever)
    });
    rig.write_at(1_020, ended.collect()).expect("written");
    rig
}

fn request(valid: i64, basis: i64) -> pb::ScanEntitiesRequest {
    pb::ScanEntitiesRequest {
        entity_type: "plane".to_owned(),
        valid_time: Some(instant(valid)),
        basis: Some(instant(basis)),
        ..Default::default()
    }
}

async fn scan(
    client: &mut Client,
    request: pb::ScanEntitiesRequest,
) -> Result<Vec<pb::Version>, Status> {
    let mut stream = client.scan_entities(request).await?.into_inner();
    let mut versions = Vec::new();
    while let Some(message) = stream.message().await? {
        assert!(message.basis.is_some() && message.valid_time.is_some());
        versions.extend(message.versions);
    }
    Ok(versions)
}

fn int(version: &pb::Version, name: &str) -> Option<i64> {
    match version.attributes.get(name)?.kind.as_ref() {
        None => None,
        Some(Kind::Int64Value(value)) => Some(*value),
        Some(other) => panic!("{other:?}"),
    }
}

fn model(version: &pb::Version) -> Option<String> {
    match version.attributes.get("model")?.kind.as_ref() {
        None => None,
        Some(Kind::StringValue(value)) => Some(value.clone()),
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_scan_tells_what_reads_one_by_one_tell() {
    let rig = rig();
    run(&rig, async |mut client| {
        for (valid, basis) in [
            (60, 1_020),
            (60, 1_000),
            (10, 1_020),
            (9, 1_020),
            (90, 1_020),
            (60, 999),
        ] {
            let scanned = scan(&mut client, request(valid, basis))
                .await
                .expect("scanned");
            let ids = (0..2_500).map(|n| format!("N{n:05}")).collect();
            let read = client
                .batch_get_entities(pb::BatchGetEntitiesRequest {
                    entity_type: "plane".to_owned(),
                    entity_ids: ids,
                    valid_time: Some(instant(valid)),
                    basis: Some(instant(basis)),
                })
                .await
                .expect("read")
                .into_inner();
            let expected: Vec<_> = read
                .entities
                .into_iter()
                .filter_map(|entity| entity.version)
                .filter(|version| !version.ended)
                .collect();
            assert_eq!(scanned, expected, "at {valid} as of {basis}");
        }
    });
}

#[test]
fn a_condition_keeps_the_entities_for_which_it_is_true() {
    let rig = rig();
    run(&rig, async |mut client| {
        let all = scan(&mut client, request(60, 1_020))
            .await
            .expect("scanned");
        type Holds = fn(&pb::Version) -> bool;
        let cases: [(&str, Holds); 7] = [
            ("seats > 290", |v| {
                int(v, "seats").is_some_and(|seats| seats > 290)
            }),
            ("model = 'A320' AND seats < 20", |v| {
                model(v).as_deref() == Some("A320")
                    && int(v, "seats").is_some_and(|seats| seats < 20)
            }),
            ("model <> 'A320'", |v| {
                model(v).is_some_and(|model| model != "A320")
            }),
            ("model IS NULL", |v| model(v).is_none()),
            ("entity_id BETWEEN 'N00100' AND 'N00102'", |v| {
                ["N00100", "N00101", "N00102"].contains(&v.entity_id.as_str())
            }),
            ("valid_from > '1970-01-01T00:00:00.000040Z'", |v| {
                v.valid_from == Some(instant(50))
            }),
            ("price >= 624.50 AND built > DATE '1976-01-01'", |v| {
                v.entity_id.as_str() >= "N02498"
            }),
        ];
        for (filter, holds) in cases {
            let asked = pb::ScanEntitiesRequest {
                filter: filter.to_owned(),
                ..request(60, 1_020)
            };
            let kept = scan(&mut client, asked).await.expect(filter);
            let expected: Vec<_> = all
                .iter()
                .filter(|version| holds(version))
                .cloned()
                .collect();
            assert!(!expected.is_empty(), "{filter}");
            assert_eq!(kept, expected, "{filter}");
        }
        let nothing = pb::ScanEntitiesRequest {
            filter: "seats > 9000".to_owned(),
            ..request(60, 1_020)
        };
        let mut stream = client
            .scan_entities(nothing)
            .await
            .expect("scanned")
            .into_inner();
        let first = stream.message().await.expect("told").expect("a message");
        assert!(first.versions.is_empty());
        assert_eq!(
            first.basis,
            Some(instant(1_020)),
            "an empty scan tells its point too"
        );
    });
}

#[test]
fn only_the_asked_attributes_come_and_the_condition_may_read_others() {
    let rig = rig();
    run(&rig, async |mut client| {
        let asked = pb::ScanEntitiesRequest {
            filter: "built = DATE '1970-01-04' OR model LIKE 'A%' AND seats = 299".to_owned(),
            attributes: vec!["price".to_owned(), "seats".to_owned()],
            after_entity_id: "N00003".to_owned(),
            ..request(60, 1_020)
        };
        let kept = scan(&mut client, asked).await.expect("scanned");
        let ids: Vec<_> = kept
            .iter()
            .map(|version| version.entity_id.as_str())
            .collect();
        let expected: Vec<_> = (0..2_500)
            .filter(|n| n % 300 == 299 && n % 7 != 0)
            .map(|n| format!("N{n:05}"))
            .collect();
        assert_eq!(ids, expected);
        for version in &kept {
            let mut names: Vec<_> = version.attributes.keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["price", "seats"]);
        }
    });
}

#[test]
fn malformed_scans_are_refused_with_the_field() {
    let rig = rig();
    run(&rig, async |mut client| {
        for filter in [
            "seats >",
            "no_such = 1",
            "seats",
            "now() > valid_from",
            "seats IN (SELECT 1)",
            "valid_to IS NULL",
        ] {
            let asked = pb::ScanEntitiesRequest {
                filter: filter.to_owned(),
                ..request(60, 1_020)
            };
            let status = scan(&mut client, asked).await.expect_err(filter);
            assert_eq!(
                (status.code(), fields(&status)),
                (Code::InvalidArgument, vec!["filter".to_owned()]),
                "{filter}"
            );
        }
        for attributes in [
            vec!["seats", "no_such"],
            vec!["seats", "seats"],
            vec!["seats", "entity_id"],
        ] {
            let attributes = attributes.into_iter().map(str::to_owned).collect();
            let asked = pb::ScanEntitiesRequest {
                attributes,
                ..request(60, 1_020)
            };
            let status = scan(&mut client, asked)
                .await
                .map(drop)
                .expect_err("refused");
            assert_eq!(
                (status.code(), fields(&status)),
                (Code::InvalidArgument, vec!["attributes[1]".to_owned()])
            );
        }
        let asked = pb::ScanEntitiesRequest {
            filter: "100 / seats > 1".to_owned(),
            ..request(20, 1_020)
        };
        let status = scan(&mut client, asked).await.expect_err("divides by zero");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().contains("ivide by zero"),
            "{}",
            status.message()
        );
    });
}

#[test]
fn answers_that_no_client_takes_are_refused_with_advice() {
    let rig = Rig::new();
    let long = "x".repeat(3_000);
    let batch = (0..1_000)
        .map(|n| put(&n.to_string(), Some(&long), 0, Until::Forever))
        .collect();
    rig.write_at(1_000, batch).expect("written");
    run(&rig, async |client| {
        let mut client = client.max_decoding_message_size(4 << 20);
        let asked = |times: usize| pb::BatchGetEntitiesRequest {
            entity_type: "thing".to_owned(),
            entity_ids: (0..1_000 * times)
                .map(|n| (n % 1_000).to_string())
                .collect(),
            ..Default::default()
        };
        let answered = client
            .batch_get_entities(asked(1))
            .await
            .expect("fits")
            .into_inner();
        assert_eq!(answered.entities.len(), 1_000);
        let status = client
            .batch_get_entities(asked(2))
            .await
            .expect_err("too large");
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["entity_ids".to_owned()])
        );
        assert!(status.message().contains("Lookup"), "{}", status.message());
    });
}

#[test]
fn equal_neighbours_of_a_history_are_joined_on_request() {
    let rig = Rig::new();
    let steps = [
        (1_000, put("e", Some("a"), 0, until(100))),
        (1_010, put("e", Some("b"), 20, until(40))),
        (1_020, put("e", Some("a"), 20, until(30))),
        (1_030, put("e", Some("a"), 30, until(40))),
        (1_040, end("e", 100, until(110))),
        (1_050, end("e", 110, until(120))),
        (1_060, put("e", Some("c"), 90, until(95))),
    ];
    for (at, mutation) in steps {
        rig.write_at(at, vec![mutation]).expect("written");
    }
    run(&rig, async |mut client| {
        let list = async |client: &mut Client, basis: i64, coalesce, page_size| {
            let mut told = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = pb::ListHistoryRequest {
                    entity_type: "thing".to_owned(),
                    entity_id: "e".to_owned(),
                    basis: Some(instant(basis)),
                    coalesce,
                    page_size,
                    page_token: page_token.clone(),
                    ..Default::default()
                };
                let page = client
                    .list_history(request)
                    .await
                    .expect("listed")
                    .into_inner();
                told.extend(page.versions.into_iter().map(|version| {
                    let value = version
                        .attributes
                        .get("v")
                        .map(|value| format!("{:?}", value.kind));
                    let micros = |at: Option<Timestamp>| at.map(|at| i64::from(at.nanos) / 1_000);
                    let valid = (micros(version.valid_from), micros(version.valid_to));
                    (
                        valid,
                        micros(version.system_from),
                        micros(version.system_to),
                        value,
                    )
                }));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return told;
                }
            }
        };
        let value = |text: &str| Some(format!("{:?}", Some(Kind::StringValue(text.to_owned()))));
        let version = |from, to, learned, replaced, text: Option<&str>| {
            (
                (Some(from), Some(to)),
                Some(learned),
                replaced,
                text.and_then(value),
            )
        };
        let joined = list(&mut client, 1_060, true, 0).await;
        let expected = [
            version(0, 90, 1_030, None, Some("a")),
            version(20, 30, 1_010, Some(1_020), Some("b")),
            version(20, 40, 1_000, Some(1_010), Some("a")),
            version(30, 40, 1_010, Some(1_030), Some("b")),
            version(90, 95, 1_000, Some(1_060), Some("a")),
            version(90, 95, 1_060, None, Some("c")),
            version(95, 100, 1_000, None, Some("a")),
            version(100, 120, 1_050, None, None),
        ];
        let mut sorted = expected.to_vec();
        sorted.sort_by_key(|version| (version.0.0, version.1));
        assert_eq!(joined, sorted);
        assert_eq!(
            list(&mut client, 1_060, true, 1).await,
            joined,
            "page by page"
        );
        let apart = list(&mut client, 1_060, false, 0).await;
        assert!(apart.len() > joined.len());
        let before = list(&mut client, 1_005, true, 0).await;
        assert_eq!(before, [version(0, 100, 1_000, None, Some("a"))]);
    });
}
