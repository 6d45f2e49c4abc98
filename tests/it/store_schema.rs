//! Revisions of an entity type's schema.

use std::{collections::BTreeMap, sync::Arc};

use hindcast::{
    error::{Classify, ErrorKind},
    store::{
        Answer, Attribute, AttributeKind, EntityType, EntityTypeUpdate, Error, MAX_ATTRIBUTES,
        Mutation, Operation, Until, Value,
    },
    time::{SysTime, ValidTime},
};

use crate::store_support::{Rig, put, spec, until};

fn update(rig: &Rig, update: EntityTypeUpdate) -> Result<(Arc<EntityType>, bool), Error> {
    rig.runtime
        .block_on(rig.store().update_entity_type("thing", update))
}

fn attribute(name: &str, kind: AttributeKind) -> Attribute {
    Attribute {
        name: name.to_owned(),
        kind,
        description: String::new(),
    }
}

fn adding(name: &str, kind: AttributeKind) -> EntityTypeUpdate {
    EntityTypeUpdate {
        add_attributes: vec![attribute(name, kind)],
        ..Default::default()
    }
}

fn deprecating(name: &str) -> EntityTypeUpdate {
    EntityTypeUpdate {
        deprecate: vec![name.to_owned()],
        ..Default::default()
    }
}

fn restoring(name: &str) -> EntityTypeUpdate {
    EntityTypeUpdate {
        restore: vec![name.to_owned()],
        ..Default::default()
    }
}

fn put_n(id: &str, n: i64, from: i64) -> Mutation {
    let values = BTreeMap::from([("n".to_owned(), Some(Value::Int64(n)))]);
    Mutation {
        operation: Operation::Put(values),
        ..put(id, None, from, Until::Forever)
    }
}

fn fields(outcome: Result<(Arc<EntityType>, bool), Error>) -> Vec<String> {
    let error = outcome.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let violations = error.violations().into_iter();
    violations.map(|violation| violation.field).collect()
}

#[test]
fn what_was_written_before_reads_what_was_added_as_null() {
    let mut rig = Rig::new();
    rig.write_at(100, vec![put("a", Some("x"), 0, Until::Forever)])
        .expect("written");
    let before = rig.thing();
    rig.clock.set(200);
    let (updated, is_new) = update(&rig, adding("n", AttributeKind::Int64)).expect("updated");
    assert!(is_new);
    assert_eq!(
        (updated.revision(), updated.revision_time().micros()),
        (2, 200)
    );
    rig.write_at(300, vec![put_n("a", 7, 10)]).expect("written");
    rig.reopen().expect("opens");
    let values = |entity_type: &EntityType, valid: i64| {
        let (valid, basis) = (ValidTime::from_micros(valid), SysTime::from_micros(300));
        match rig.store().get(entity_type, "a", valid, basis) {
            Ok(Answer::Value(version)) => version.attributes,
            other => panic!("{other:?}"),
        }
    };
    let text = Some(Value::String("x".to_owned()));
    assert_eq!(values(&rig.thing(), 5), [text.clone(), None]);
    assert_eq!(values(&rig.thing(), 15), [None, Some(Value::Int64(7))]);
    assert_eq!(
        (values(&before, 5), values(&before, 15)),
        (vec![text], vec![None]),
        "an earlier revision reads what was written under a later one"
    );
    let batches = rig.store().scan_batches(
        &before,
        ValidTime::from_micros(15),
        SysTime::from_micros(300),
        None,
        10,
    );
    let rows: usize = batches.map(|batch| batch.expect("reads").num_rows()).sum();
    assert_eq!(rows, 1);
}

#[test]
fn revisions_are_kept_in_order_with_their_times() {
    let mut rig = Rig::new();
    let created = rig.thing().create_time().micros();
    rig.clock.set(100);
    update(&rig, adding("n", AttributeKind::Int64)).expect("updated");
    rig.clock.set(50);
    update(&rig, deprecating("v")).expect("updated");
    rig.clock.set(300);
    update(&rig, restoring("v")).expect("updated");
    let description = EntityTypeUpdate {
        description: Some("things".to_owned()),
        ..Default::default()
    };
    update(&rig, description).expect("updated");
    rig.reopen().expect("opens");
    let revisions = rig.store().entity_type_revisions("thing").expect("there");
    let told: Vec<_> = revisions
        .iter()
        .map(|revision| {
            (
                revision.revision(),
                revision.revision_time().micros(),
                revision.attributes().len(),
                revision.is_deprecated(0),
                revision.description(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, created, 1, false, ""),
            (2, 100, 2, false, ""),
            (3, 100, 2, true, ""),
            (4, 300, 2, false, ""),
            (5, 300, 2, false, "things"),
        ]
    );
}

#[test]
fn an_update_that_changes_nothing_makes_no_revision() {
    let rig = Rig::new();
    let same = EntityTypeUpdate {
        add_attributes: vec![attribute("v", AttributeKind::String)],
        restore: vec!["v".to_owned()],
        description: Some(String::new()),
        ..Default::default()
    };
    for nothing in [same, EntityTypeUpdate::default()] {
        let (unchanged, is_new) = update(&rig, nothing).expect("accepted");
        assert_eq!((unchanged.revision(), is_new), (1, false));
    }
}

#[test]
fn bad_updates_are_named_and_change_nothing() {
    let rig = Rig::new();
    let both = EntityTypeUpdate {
        restore: vec!["v".to_owned()],
        ..deprecating("v")
    };
    let many = EntityTypeUpdate {
        add_attributes: (0..MAX_ATTRIBUTES)
            .map(|index| attribute(&format!("a{index}"), AttributeKind::Bool))
            .collect(),
        ..Default::default()
    };
    let long = EntityTypeUpdate {
        description: Some("x".repeat(5_000)),
        ..Default::default()
    };
    let decimal = AttributeKind::Decimal {
        precision: 3,
        scale: 4,
    };
    let cases = [
        (adding("v", AttributeKind::Int64), "add_attributes[0].kind"),
        (adding("No", AttributeKind::Int64), "add_attributes[0].name"),
        (
            adding("valid_to", AttributeKind::Int64),
            "add_attributes[0].name",
        ),
        (adding("d", decimal), "add_attributes[0].scale"),
        (deprecating("w"), "deprecate_attributes[0]"),
        (restoring("w"), "restore_attributes[0]"),
        (both, "restore_attributes[0]"),
        (many, "add_attributes"),
        (long, "description"),
    ];
    for (bad, field) in cases {
        assert_eq!(fields(update(&rig, bad)), [field]);
    }
    assert_eq!(rig.thing().revision(), 1);
    let unknown = rig.store().update_entity_type("no", deprecating("v"));
    let unknown = rig.runtime.block_on(unknown).expect_err("unknown");
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[test]
fn a_deprecated_attribute_keeps_its_values_and_takes_no_new_ones() {
    let rig = Rig::new();
    rig.write_at(100, vec![put("a", Some("x"), 0, Until::Forever)])
        .expect("written");
    update(&rig, adding("n", AttributeKind::Int64)).expect("updated");
    update(&rig, deprecating("v")).expect("updated");
    let put_v = || put("a", Some("y"), 10, until(20));
    let patch_v = |value: Option<&str>| {
        let value = value.map(|text| Value::String(text.to_owned()));
        Mutation {
            operation: Operation::Patch(BTreeMap::from([("v".to_owned(), value)])),
            ..put("a", None, 30, until(40))
        }
    };
    for (bad, field) in [
        (put_v(), "mutations[0].put.attributes[\"v\"]"),
        (patch_v(Some("y")), "mutations[0].patch.attributes[\"v\"]"),
    ] {
        let error = rig.write(vec![bad]).expect_err("refused");
        assert_eq!(error.violations()[0].field, field);
        assert!(error.to_string().contains("deprecated"), "{error}");
    }
    let patch_n = Mutation {
        operation: Operation::Patch(BTreeMap::from([("n".to_owned(), Some(Value::Int64(1)))])),
        ..put("a", None, 0, Until::Forever)
    };
    rig.write_at(200, vec![patch_n]).expect("another attribute");
    let Answer::Value(version) = rig.get("a", 35, 200) else {
        panic!("a value");
    };
    let kept = Some(Value::String("x".to_owned()));
    assert_eq!(version.attributes, [kept, Some(Value::Int64(1))]);
    rig.write_at(300, vec![patch_v(None)])
        .expect("null is no value");
    update(&rig, restoring("v")).expect("updated");
    rig.write_at(400, vec![put_v()]).expect("restored");
}

#[test]
fn earlier_declarations_are_still_the_same_type() {
    let rig = Rig::new();
    let first = spec("thing", &[("v", AttributeKind::String)]);
    update(&rig, adding("n", AttributeKind::Int64)).expect("updated");
    let both = spec(
        "thing",
        &[("v", AttributeKind::String), ("n", AttributeKind::Int64)],
    );
    for same in [first, both] {
        let declared = rig
            .runtime
            .block_on(rig.store().create_entity_type(same))
            .expect("the same type");
        assert_eq!((declared.0.revision(), declared.1), (2, false));
    }
    let other = spec("thing", &[("n", AttributeKind::Int64)]);
    let refused = rig.runtime.block_on(rig.store().create_entity_type(other));
    let error = refused.expect_err("another declaration");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("update"), "{error}");
}
