//! Writes: what is refused and how it is named, request ids, bases.

use std::collections::BTreeMap;

use hindcast::{
    error::{Classify, ErrorKind},
    store::{
        Answer, AttributeKind, Batch, Decimal, Error, MAX_MUTATIONS, MAX_ROW_BYTES, Mutation,
        Operation, Until, Value,
    },
    time::SysTime,
};

use crate::store_support::{CLOCK_START, Rig, end, put, spec, text, until};

fn refused_fields(rig: &Rig, mutations: Vec<Mutation>) -> Vec<String> {
    let error = rig.write(mutations).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    error
        .violations()
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

fn typed(rig: &Rig, attribute: &str, value: Value) -> Mutation {
    rig.declare(spec(
        "typed",
        &[
            ("flag", AttributeKind::Bool),
            ("temp", AttributeKind::Float64),
            (
                "price",
                AttributeKind::Decimal {
                    precision: 5,
                    scale: 2,
                },
            ),
            ("note", AttributeKind::Json),
            ("text", AttributeKind::String),
        ],
    ));
    Mutation {
        entity_type: "typed".to_owned(),
        operation: Operation::Put(BTreeMap::from([(attribute.to_owned(), Some(value))])),
        ..put("a", None, 0, Until::Forever)
    }
}

#[test]
fn faults_are_named_by_their_field() {
    let rig = Rig::new();
    let good = || put("a", Some("x"), 0, Until::Forever);
    let cases = [
        (put("a", None, 5, until(5)), "mutations[1].put.valid_to"),
        (put("a", None, 5, until(4)), "mutations[1].put.valid_to"),
        (end("a", 5, until(4)), "mutations[1].end.valid_to"),
        (put("", None, 5, until(6)), "mutations[1].entity_id"),
        (
            put(&"i".repeat(513), None, 5, until(6)),
            "mutations[1].entity_id",
        ),
        (
            put("a", Some(&"x".repeat(MAX_ROW_BYTES)), 5, until(6)),
            "mutations[1].put.attributes",
        ),
        (
            typed(&rig, "temp", Value::Float64(f64::NAN)),
            "mutations[1].put.attributes[\"temp\"]",
        ),
        (
            typed(&rig, "temp", Value::Float64(f64::INFINITY)),
            "mutations[1].put.attributes[\"temp\"]",
        ),
        (
            typed(&rig, "temp", Value::Int64(1)),
            "mutations[1].put.attributes[\"temp\"]",
        ),
        (
            typed(&rig, "other", Value::Int64(1)),
            "mutations[1].put.attributes[\"other\"]",
        ),
        (
            typed(&rig, "note", Value::Json("{".to_owned())),
            "mutations[1].put.attributes[\"note\"]",
        ),
        (
            typed(
                &rig,
                "price",
                Value::Decimal(Decimal::parse("1.234").expect("decimal")),
            ),
            "mutations[1].put.attributes[\"price\"]",
        ),
        (
            typed(
                &rig,
                "price",
                Value::Decimal(Decimal::parse("1000").expect("decimal")),
            ),
            "mutations[1].put.attributes[\"price\"]",
        ),
    ];
    for (bad, field) in cases {
        assert_eq!(refused_fields(&rig, vec![good(), bad]), [field]);
    }
    assert_eq!(refused_fields(&rig, vec![]), ["mutations"]);
    assert_eq!(
        refused_fields(&rig, vec![good(); MAX_MUTATIONS + 1]),
        ["mutations"]
    );
    assert_eq!(
        rig.get("a", 0, rig.store().latest_basis().micros()),
        Answer::NotKnown,
        "nothing is written"
    );
    rig.write(vec![good(); MAX_MUTATIONS])
        .expect("the largest batch");
    rig.write(vec![put(&"i".repeat(512), None, 5, until(6))])
        .expect("the longest id");
}

#[test]
fn a_default_start_with_an_earlier_end_is_refused_by_name() {
    let rig = Rig::new();
    rig.clock.set(1_000);
    let mutation = Mutation {
        valid_from: None,
        ..put("a", Some("x"), 0, until(900))
    };
    assert_eq!(
        refused_fields(&rig, vec![mutation]),
        ["mutations[0].put.valid_to"]
    );
}

#[test]
fn values_are_kept_in_canonical_form() {
    let rig = Rig::new();
    rig.clock.set(1_000);
    let price = Value::Decimal(Decimal::parse("-1.5").expect("decimal"));
    let note = Value::Json("{\"b\": [1, {\"d\": 1, \"c\": 2}], \"a\": null}".to_owned());
    rig.write(vec![typed(&rig, "price", price)])
        .expect("written");
    rig.clock.set(2_000);
    rig.write(vec![typed(&rig, "note", note)]).expect("written");
    let entity_type = rig.store().entity_type("typed").expect("declared");
    let read = |basis| match rig.store().get(
        &entity_type,
        "a",
        hindcast::time::ValidTime::from_micros(0),
        SysTime::from_micros(basis),
    ) {
        Ok(Answer::Value(version)) => version.attributes,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        read(1_000)[2],
        Some(Value::Decimal(Decimal {
            unscaled: -150,
            scale: 2
        }))
    );
    assert_eq!(
        read(2_000)[3],
        Some(Value::Json(
            "{\"a\":null,\"b\":[1,{\"c\":2,\"d\":1}]}".to_owned()
        ))
    );
}

#[test]
fn unknown_types_are_not_found() {
    let rig = Rig::new();
    let mutation = Mutation {
        entity_type: "nothing".to_owned(),
        ..put("a", None, 0, Until::Forever)
    };
    let error = rig.write(vec![mutation]).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.resource(),
        Some(("entity_type", "nothing".to_owned()))
    );
}

#[test]
fn a_type_is_declared_once() {
    let mut rig = Rig::new();
    let declare = |rig: &Rig, spec| rig.runtime.block_on(rig.store().create_entity_type(spec));
    let thing = || spec("thing", &[("v", AttributeKind::String)]);
    assert!(!declare(&rig, thing()).expect("equal").1);
    let other = spec("thing", &[("v", AttributeKind::Int64)]);
    assert!(matches!(
        declare(&rig, other.clone()),
        Err(Error::TypeExists { .. })
    ));
    rig.reopen().expect("opens");
    assert!(!declare(&rig, thing()).expect("equal").1);
    assert!(matches!(
        declare(&rig, other),
        Err(Error::TypeExists { .. })
    ));
    for bad in [
        spec("Thing", &[("v", AttributeKind::Int64)]),
        spec("t", &[]),
        spec("t", &[("valid_from", AttributeKind::Int64)]),
        spec(
            "t",
            &[("v", AttributeKind::Int64), ("v", AttributeKind::Int64)],
        ),
        spec(
            "t",
            &[(
                "v",
                AttributeKind::Decimal {
                    precision: 3,
                    scale: 4,
                },
            )],
        ),
    ] {
        assert!(matches!(declare(&rig, bad), Err(Error::Invalid { .. })));
    }
}

#[test]
fn the_first_commit_that_wrote_to_a_type_is_known_after_restart() {
    let mut rig = Rig::new();
    assert_eq!(rig.store().first_known(&rig.thing()), None);
    rig.write_at(1_000, vec![put("a", Some("x"), 0, Until::Forever)])
        .expect("written");
    rig.write_at(2_000, vec![put("b", Some("x"), 0, Until::Forever)])
        .expect("written");
    for _ in 0..2 {
        assert_eq!(
            rig.store().first_known(&rig.thing()),
            Some(SysTime::from_micros(1_000))
        );
        rig.reopen().expect("opens");
    }
}

#[test]
fn a_request_id_is_answered_once_and_remembered_for_a_day() {
    let mut rig = Rig::new();
    let batch = |value| Batch {
        mutations: vec![put("a", Some(value), 0, Until::Forever)],
        request_id: Some("r".to_owned()),
        ..Default::default()
    };
    rig.clock.set(1_000);
    let first = rig.write_batch(batch("x")).expect("written");
    assert!(!first.replayed);
    rig.write_at(2_000, vec![put("a", Some("y"), 0, Until::Forever)])
        .expect("written");
    rig.reopen().expect("opens");
    let day = 24 * 3600 * 1_000_000;
    rig.write_at(1_000 + day, vec![put("b", Some("z"), 0, Until::Forever)])
        .expect("written");
    let again = rig.write_batch(batch("x")).expect("answered");
    assert!(again.replayed);
    assert_eq!(
        (again.system_time, again.versions_written),
        (first.system_time, 1)
    );
    let Answer::Value(version) = rig.get("a", 0, rig.store().latest_basis().micros()) else {
        panic!("a value");
    };
    assert_eq!(text(&version), "y", "nothing was written again");
    let error = rig.write_batch(batch("other")).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    rig.write_at(1_001 + day, vec![put("b", Some("w"), 0, Until::Forever)])
        .expect("written");
    assert!(
        !rig.write_batch(batch("other"))
            .expect("forgotten by now")
            .replayed
    );
}

#[test]
fn a_served_basis_stays_stable_whatever_the_clock_does() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.store().latest_basis(),
        SysTime::from_micros(CLOCK_START)
    );
    rig.write_at(1_000, vec![put("a", Some("x"), 0, Until::Forever)])
        .expect("written");
    rig.clock.set(5_000);
    assert!(matches!(rig.pin(5_001), Err(Error::BasisInFuture { .. })));
    rig.pin(5_000).expect("now");
    rig.clock.set(2_000);
    rig.reopen().expect("opens");
    let committed = rig
        .write(vec![put("a", Some("y"), 0, Until::Forever)])
        .expect("written");
    assert_eq!(committed.system_time, SysTime::from_micros(5_001));
    let Answer::Value(version) = rig.get("a", 0, 5_000) else {
        panic!("a value");
    };
    assert_eq!(text(&version), "x");
    rig.clock.set(9_000);
    let unpinned = rig.store().get(
        &rig.thing(),
        "a",
        hindcast::time::ValidTime::from_micros(0),
        SysTime::from_micros(8_000),
    );
    assert!(matches!(unpinned, Err(Error::BasisNotPinned { .. })));
}

#[test]
fn loading_changes_in_any_order_gives_one_timeline() {
    let changes = [
        put("a", Some("v1"), 10, Until::NextChange),
        end("a", 20, Until::NextChange),
        put("a", Some("v2"), 30, Until::NextChange),
        put("a", Some("v3"), 40, Until::NextChange),
    ];
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]];
    for order in orders {
        let rig = Rig::new();
        for (step, &which) in order.iter().enumerate() {
            rig.write_at(1_000 + step as i64, vec![changes[which].clone()])
                .expect("written");
        }
        let told: Vec<_> = [5, 15, 25, 35, 45]
            .map(|point| match rig.get("a", point, 1_003) {
                Answer::Value(version) => text(&version),
                Answer::Ended(_) => "ended".to_owned(),
                Answer::NotKnown => "unknown".to_owned(),
                Answer::Erased => "erased".to_owned(),
            })
            .into();
        assert_eq!(told, ["unknown", "v1", "ended", "v2", "v3"], "{order:?}");
    }
}

#[test]
fn an_empty_end_writes_nothing() {
    let rig = Rig::new();
    let committed = rig
        .write_at(1_000, vec![end("a", 5, until(5))])
        .expect("written");
    assert_eq!(committed.versions_written, 0);
    rig.pin(1_000).expect("pinned");
    assert_eq!(rig.get("a", 5, 1_000), Answer::NotKnown);
}

#[test]
fn many_writers_at_once_get_increasing_times() {
    let rig = Rig::new();
    let store = rig.store().clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("runtime");
    let mut times = runtime.block_on(async move {
        let writers: Vec<_> = (0..64)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let batch = Batch {
                        mutations: vec![put(&format!("e{writer}"), Some("x"), 0, Until::Forever)],
                        request_id: None,
                        ..Default::default()
                    };
                    store.write(batch).await.expect("written").system_time
                })
            })
            .collect();
        let mut times = Vec::new();
        for writer in writers {
            times.push(writer.await.expect("ends"));
        }
        times
    });
    times.sort();
    times.dedup();
    assert_eq!(times.len(), 64);
    assert_eq!(Some(&rig.store().latest_basis()), times.last());
}
