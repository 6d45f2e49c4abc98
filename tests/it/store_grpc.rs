//! The entity store over gRPC: a real server on a free port.

use std::collections::HashMap;

use hindcast::pb::{self, mutation, put};
use prost_types::Timestamp;
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    store_support::Rig,
    store_wire::{Client, fields, run},
};

/// Runs a test against a fresh server whose type `station` has a float, a string and a decimal.
fn with_client(test: impl AsyncFnOnce(Client)) {
    let rig = Rig::new();
    rig.clock.set(1_000_000_000);
    run(&rig, async |mut client| {
        let declared = client
            .create_entity_type(pb::CreateEntityTypeRequest {
                entity_type: Some(station()),
            })
            .await
            .expect("declared");
        assert!(declared.into_inner().created);
        test(client).await;
    });
}

fn station() -> pb::EntityType {
    let attribute = |name: &str, kind: pb::AttributeKind, precision, scale| pb::Attribute {
        name: name.to_owned(),
        kind: kind.into(),
        precision,
        scale,
        description: "a reading".to_owned(),
        ..Default::default()
    };
    pb::EntityType {
        name: "station".to_owned(),
        attributes: vec![
            attribute("temp", pb::AttributeKind::Float64, 0, 0),
            attribute("sky", pb::AttributeKind::String, 0, 0),
            attribute("price", pb::AttributeKind::Decimal, 6, 2),
        ],
        description: "weather".to_owned(),
        create_time: None,
        first_known_time: None,
        ..Default::default()
    }
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn temp(value: f64) -> HashMap<String, pb::Value> {
    let kind = Some(pb::value::Kind::Float64Value(value));
    HashMap::from([("temp".to_owned(), pb::Value { kind })])
}

fn put_temp(id: &str, value: f64, from: i64) -> pb::Mutation {
    pb::Mutation {
        entity_type: "station".to_owned(),
        entity_id: id.to_owned(),
        operation: Some(mutation::Operation::Put(pb::Put {
            attributes: temp(value),
            valid_from: at(from),
            until: None,
        })),
        ..Default::default()
    }
}

fn write(mutations: Vec<pb::Mutation>) -> pb::WriteRequest {
    pb::WriteRequest {
        mutations,
        request_id: String::new(),
        ..Default::default()
    }
}

fn get(id: &str, valid: i64) -> pb::GetEntityRequest {
    pb::GetEntityRequest {
        entity_type: "station".to_owned(),
        entity_id: id.to_owned(),
        valid_time: at(valid),
        basis: None,
    }
}

#[test]
fn a_value_is_read_back_at_the_old_and_the_new_basis() {
    with_client(async |mut client| {
        let first = client
            .write(write(vec![put_temp("JFK", 39.0, 100)]))
            .await
            .expect("written")
            .into_inner();
        assert_eq!(first.versions_written, 1);
        client
            .write(write(vec![put_temp("JFK", 41.5, 100)]))
            .await
            .expect("written");
        let mut request = get("JFK", 150);
        let now = client
            .get_entity(request.clone())
            .await
            .expect("read")
            .into_inner();
        assert_eq!(now.outcome(), pb::EntityOutcome::Value);
        assert_eq!(now.version.expect("a version").attributes, temp(41.5));
        request.basis = first.system_time;
        let then = client.get_entity(request).await.expect("read").into_inner();
        let version = then.version.expect("a version");
        assert_eq!(version.attributes, temp(39.0));
        assert_eq!(
            (version.valid_from, version.valid_to, version.system_to),
            (at(100), None, None)
        );
        assert_eq!((then.basis, then.valid_time), (first.system_time, at(150)));
        let unknown = client
            .get_entity(get("LGA", 150))
            .await
            .expect("read")
            .into_inner();
        assert_eq!(
            (unknown.outcome(), unknown.version),
            (pb::EntityOutcome::NotKnown, None)
        );
        let types = client
            .list_entity_types(pb::ListEntityTypesRequest {})
            .await
            .expect("listed")
            .into_inner();
        let known: Vec<_> = types
            .entity_types
            .iter()
            .map(|found| (found.name.as_str(), found.first_known_time))
            .collect();
        assert_eq!(known, [("station", first.system_time), ("thing", None)]);
    });
}

#[test]
fn ended_and_null_are_different_answers() {
    with_client(async |mut client| {
        let nothing = pb::Mutation {
            operation: Some(mutation::Operation::Put(pb::Put {
                attributes: HashMap::new(),
                valid_from: at(10),
                until: Some(put::Until::Forever(pb::Forever {})),
            })),
            ..put_temp("JFK", 0.0, 0)
        };
        let ended = pb::Mutation {
            operation: Some(mutation::Operation::End(pb::End {
                valid_from: at(20),
                until: None,
            })),
            ..put_temp("JFK", 0.0, 0)
        };
        client
            .write(write(vec![nothing, ended]))
            .await
            .expect("written");
        let asked = pb::BatchGetEntitiesRequest {
            entity_type: "station".to_owned(),
            entity_ids: vec!["JFK".to_owned(), "LGA".to_owned(), "JFK".to_owned()],
            valid_time: at(15),
            basis: None,
        };
        let answers = client
            .batch_get_entities(asked.clone())
            .await
            .expect("read")
            .into_inner();
        let outcomes: Vec<_> = answers
            .entities
            .iter()
            .map(|entity| entity.outcome())
            .collect();
        assert_eq!(
            outcomes,
            [
                pb::EntityOutcome::Value,
                pb::EntityOutcome::NotKnown,
                pb::EntityOutcome::Value
            ]
        );
        let later = pb::BatchGetEntitiesRequest {
            valid_time: at(25),
            ..asked
        };
        let answers = client
            .batch_get_entities(later)
            .await
            .expect("read")
            .into_inner();
        assert_eq!(answers.entities[0].outcome(), pb::EntityOutcome::Ended);
        assert!(
            answers.entities[0]
                .version
                .as_ref()
                .expect("a version")
                .ended
        );
    });
}

#[test]
fn scans_come_whole_and_go_on_after_an_id() {
    with_client(async |mut client| {
        let batch = (0..2_500)
            .map(|station| put_temp(&format!("S{station:04}"), 1.0, 0))
            .collect();
        client.write(write(batch)).await.expect("written");
        let mut asked = pb::ScanEntitiesRequest {
            entity_type: "station".to_owned(),
            valid_time: at(5),
            basis: None,
            after_entity_id: String::new(),
            ..Default::default()
        };
        for (after, count) in [("", 2_500), ("S2000", 499), ("S9999", 0)] {
            asked.after_entity_id = after.to_owned();
            let mut stream = client
                .scan_entities(asked.clone())
                .await
                .expect("scans")
                .into_inner();
            let mut ids = Vec::new();
            let mut messages = 0;
            while let Some(message) = stream.message().await.expect("scans") {
                assert!(message.basis.is_some() && message.valid_time.is_some());
                ids.extend(
                    message
                        .versions
                        .into_iter()
                        .map(|version| version.entity_id),
                );
                messages += 1;
            }
            assert!(messages >= 1 && ids.is_sorted());
            assert_eq!(ids.len(), count, "after {after:?}");
        }
    });
}

#[test]
fn history_comes_in_pages_at_one_basis() {
    with_client(async |mut client| {
        for round in 0..25 {
            client
                .write(write(vec![put_temp("JFK", f64::from(round), 0)]))
                .await
                .expect("written");
        }
        let mut asked = pb::ListHistoryRequest {
            entity_type: "station".to_owned(),
            entity_id: "JFK".to_owned(),
            page_size: 10,
            ..Default::default()
        };
        let mut told = Vec::new();
        loop {
            let page = client
                .list_history(asked.clone())
                .await
                .expect("listed")
                .into_inner();
            told.extend(
                page.versions
                    .into_iter()
                    .map(|version| version.attributes["temp"].clone()),
            );
            // A write between two pages is not in the listing.
            client
                .write(write(vec![put_temp("JFK", 1_000.0 + told.len() as f64, 0)]))
                .await
                .expect("written");
            if page.next_page_token.is_empty() {
                break;
            }
            asked.page_token = page.next_page_token;
        }
        let expected: Vec<_> = (0..25)
            .map(|round| temp(f64::from(round))["temp"].clone())
            .collect();
        assert_eq!(told, expected);
        asked.entity_id = "LGA".to_owned();
        let refused = client
            .list_history(asked.clone())
            .await
            .expect_err("of another listing");
        assert_eq!(fields(&refused), ["page_token"]);
        asked.page_token = "é".repeat(28);
        assert_eq!(
            fields(
                &client
                    .list_history(asked.clone())
                    .await
                    .expect_err("no token")
            ),
            ["page_token"]
        );
        asked.page_token.clear();
        asked.page_size = 10_001;
        assert_eq!(
            fields(
                &client
                    .list_history(asked.clone())
                    .await
                    .expect_err("too large")
            ),
            ["page_size"]
        );
        asked.page_size = 0;
        asked.valid_range = Some(pb::TimeRange {
            from: at(5),
            to: at(5),
        });
        assert_eq!(
            fields(&client.list_history(asked).await.expect_err("empty")),
            ["valid_range.to"]
        );
    });
}

#[test]
fn bad_input_is_named_and_harms_nothing() {
    with_client(async |mut client| {
        let with = |name: &str, kind| {
            let mut mutation = put_temp("JFK", 1.0, 0);
            if let Some(mutation::Operation::Put(put)) = &mut mutation.operation {
                put.attributes
                    .insert(name.to_owned(), pb::Value { kind: Some(kind) });
            }
            mutation
        };
        let late = Some(Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        });
        let beyond = pb::Mutation {
            operation: Some(mutation::Operation::Put(pb::Put {
                valid_from: late,
                ..Default::default()
            })),
            ..put_temp("JFK", 1.0, 0)
        };
        let cases = [
            (vec![], "mutations"),
            (vec![put_temp("JFK", 1.0, 0); 10_001], "mutations"),
            (
                vec![put_temp("JFK", f64::NAN, 0)],
                "mutations[0].put.attributes[\"temp\"]",
            ),
            (
                vec![with(
                    "price",
                    pb::value::Kind::DecimalValue("1e9".to_owned()),
                )],
                "mutations[0].put.attributes[\"price\"]",
            ),
            (
                vec![with("nothing", pb::value::Kind::BoolValue(true))],
                "mutations[0].put.attributes[\"nothing\"]",
            ),
            (vec![beyond], "mutations[0].put.valid_from"),
            (
                vec![pb::Mutation {
                    operation: None,
                    ..put_temp("JFK", 1.0, 0)
                }],
                "mutations[0].operation",
            ),
            (
                vec![with(
                    "sky",
                    pb::value::Kind::StringValue("x".repeat(5 << 20)),
                )],
                "mutations",
            ),
        ];
        for (mutations, field) in cases {
            let refused = client.write(write(mutations)).await.expect_err("refused");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert_eq!(fields(&refused), [field]);
        }
        let mut request = get("JFK", 0);
        request.basis = at(5_000);
        assert_eq!(
            client
                .get_entity(request)
                .await
                .expect_err("in the future")
                .code(),
            Code::OutOfRange
        );
        let mut request = get("JFK", 0);
        request.entity_type = "nothing".to_owned();
        let missing = client.get_entity(request).await.expect_err("not there");
        assert_eq!(missing.code(), Code::NotFound);
        let details = missing.get_error_details();
        let resource = details.resource_info().expect("names it");
        assert_eq!(
            (
                resource.resource_type.as_str(),
                resource.resource_name.as_str()
            ),
            ("entity_type", "nothing")
        );
        let mut other = station();
        other.attributes.pop();
        let asked = pb::CreateEntityTypeRequest {
            entity_type: Some(other),
        };
        assert_eq!(
            client
                .create_entity_type(asked)
                .await
                .expect_err("differs")
                .code(),
            Code::AlreadyExists
        );
        let mut unspecified = station();
        unspecified.attributes[1].kind = 0;
        let asked = pb::CreateEntityTypeRequest {
            entity_type: Some(unspecified),
        };
        let refused = client.create_entity_type(asked).await.expect_err("no kind");
        assert_eq!(fields(&refused), ["entity_type.attributes[1].kind"]);
        let answer = client
            .get_entity(get("JFK", 0))
            .await
            .expect("read")
            .into_inner();
        assert_eq!(
            answer.outcome(),
            pb::EntityOutcome::NotKnown,
            "nothing was written"
        );
    });
}
