//! Patches, preconditions, erasures, and what writes nothing.

use std::collections::BTreeMap;

use hindcast::{
    error::{Classify, ErrorKind},
    store::{
        Answer, AttributeKind, Batch, Condition, Error, Expectation, MAX_EXPECTATIONS,
        MAX_ROW_BYTES, Mutation, Operation, Until, Value,
    },
    time::{SysTime, ValidTime},
};

use crate::store_support::{Rig, end, put, spec, text, until};

/// A rig with the type `pair` of two string attributes.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.declare(spec(
        "pair",
        &[("a", AttributeKind::String), ("b", AttributeKind::String)],
    ));
    rig
}

fn values(pairs: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<Value>> {
    let value = |text: &Option<&str>| text.map(|text| Value::String(text.to_owned()));
    pairs
        .iter()
        .map(|(name, text)| ((*name).to_owned(), value(text)))
        .collect()
}

fn put_pair(pairs: &[(&str, Option<&str>)], from: i64, until: Until) -> Mutation {
    Mutation {
        entity_type: "pair".to_owned(),
        operation: Operation::Put(values(pairs)),
        ..put("p", None, from, until)
    }
}

fn patch_pair(pairs: &[(&str, Option<&str>)], from: i64, until: Until) -> Mutation {
    Mutation {
        operation: Operation::Patch(values(pairs)),
        ..put_pair(&[], from, until)
    }
}

/// `a/b` at each of the points, `-` for null, `.` where there is no value.
fn pairs(rig: &Rig, points: &[i64], basis: i64) -> Vec<String> {
    let pair = rig.store().entity_type("pair").expect("declared");
    let shown = |value: &Option<Value>| match value {
        Some(Value::String(text)) => text.clone(),
        _ => "-".to_owned(),
    };
    points
        .iter()
        .map(|&point| {
            let (valid, basis) = (ValidTime::from_micros(point), SysTime::from_micros(basis));
            match rig.store().get(&pair, "p", valid, basis).expect("reads") {
                Answer::Value(version) => {
                    let shown: Vec<_> = version.attributes.iter().map(shown).collect();
                    shown.join("/")
                }
                _ => ".".to_owned(),
            }
        })
        .collect()
}

fn refused(rig: &Rig, mutations: Vec<Mutation>) -> (ErrorKind, Vec<String>) {
    let error = rig.write(mutations).expect_err("refused");
    let fields = error.violations().into_iter().map(|found| found.field);
    (error.kind(), fields.collect())
}

fn expecting(mutation: Mutation, valid_time: Option<i64>, condition: Condition) -> Mutation {
    let expectation = Expectation {
        valid_time: valid_time.map(ValidTime::from_micros),
        condition,
    };
    Mutation {
        expect: vec![expectation],
        ..mutation
    }
}

#[test]
fn a_patch_merges_into_values_and_leaves_the_rest() {
    let rig = rig();
    rig.write_at(
        100,
        vec![
            put_pair(&[("a", Some("1")), ("b", Some("x"))], 10, until(20)),
            put_pair(&[("a", Some("2"))], 20, until(30)),
            Mutation {
                operation: Operation::End,
                ..put_pair(&[], 30, until(40))
            },
            put_pair(&[("b", Some("y"))], 50, until(60)),
        ],
    )
    .expect("written");
    let committed = rig
        .write_at(
            200,
            vec![patch_pair(&[("b", Some("z"))], 15, Until::Forever)],
        )
        .expect("written");
    assert_eq!(committed.versions_written, 3);
    let points = [5, 10, 14, 15, 19, 20, 30, 45, 50, 59, 60];
    assert_eq!(
        pairs(&rig, &points, 200),
        [
            ".", "1/x", "1/x", "1/z", "1/z", "2/z", ".", ".", "-/z", "-/z", "."
        ]
    );
    assert_eq!(
        pairs(&rig, &points, 199),
        [
            ".", "1/x", "1/x", "1/x", "1/x", "2/-", ".", ".", "-/y", "-/y", "."
        ],
        "an earlier basis sees what it saw"
    );
    let again = rig.write(vec![patch_pair(&[("b", Some("z"))], 15, Until::Forever)]);
    let again = again.expect("accepted");
    assert_eq!(
        (again.versions_written, again.system_time.micros()),
        (0, 200)
    );
}

#[test]
fn a_patch_sets_null_and_ends_at_the_next_change_by_default() {
    let rig = rig();
    rig.write_at(
        100,
        vec![
            put_pair(&[("a", Some("1")), ("b", Some("x"))], 10, until(20)),
            put_pair(&[("a", Some("2")), ("b", Some("x"))], 20, until(30)),
        ],
    )
    .expect("written");
    rig.write_at(200, vec![patch_pair(&[("b", None)], 12, Until::NextChange)])
        .expect("written");
    assert_eq!(
        pairs(&rig, &[11, 12, 19, 20], 200),
        ["1/x", "1/-", "1/-", "2/x"]
    );
}

#[test]
fn a_later_mutation_patches_what_an_earlier_one_put() {
    let mut rig = rig();
    rig.write_at(
        100,
        vec![
            put_pair(&[("a", Some("1"))], 10, until(20)),
            patch_pair(&[("b", Some("x"))], 0, Until::Forever),
            patch_pair(&[("a", Some("2"))], 15, Until::Forever),
        ],
    )
    .expect("written");
    let expected = [".", "1/x", "2/x", "."];
    assert_eq!(pairs(&rig, &[9, 10, 15, 20], 100), expected);
    rig.reopen().expect("opens");
    assert_eq!(pairs(&rig, &[9, 10, 15, 20], 100), expected);
}

#[test]
fn neighbours_that_a_patch_makes_equal_are_one_version() {
    let rig = rig();
    rig.write_at(
        100,
        vec![
            put_pair(&[("a", Some("1"))], 10, until(20)),
            put_pair(&[("a", Some("2"))], 20, until(30)),
        ],
    )
    .expect("written");
    let patched = rig
        .write_at(
            200,
            vec![patch_pair(&[("a", Some("3"))], 0, Until::Forever)],
        )
        .expect("written");
    assert_eq!(patched.versions_written, 1);
}

#[test]
fn bad_patches_are_named_and_write_nothing() {
    let rig = rig();
    let half = "x".repeat(MAX_ROW_BYTES / 2 + 10);
    let good = || put_pair(&[("a", Some(&half))], 10, until(20));
    let committed = rig.write_at(100, vec![good()]).expect("written");
    let cases = [
        (
            patch_pair(&[], 0, Until::Forever),
            "mutations[1].patch.attributes",
        ),
        (
            patch_pair(&[("c", None)], 0, Until::Forever),
            "mutations[1].patch.attributes[\"c\"]",
        ),
        (
            patch_pair(&[("b", Some("y"))], 5, until(4)),
            "mutations[1].patch.valid_to",
        ),
        (
            patch_pair(&[("b", Some(&half))], 0, Until::Forever),
            "mutations[1].patch.attributes",
        ),
    ];
    for (bad, field) in cases {
        let first = put_pair(&[("a", Some("other"))], 50, Until::Forever);
        assert_eq!(
            refused(&rig, vec![first, bad]),
            (ErrorKind::InvalidArgument, vec![field.to_owned()])
        );
    }
    assert_eq!(rig.store().latest_basis(), committed.system_time);
    assert_eq!(pairs(&rig, &[50], 100), ["."]);
    let empty = patch_pair(&[("b", Some("y"))], 5, until(5));
    assert_eq!(rig.write(vec![empty]).expect("a no-op").versions_written, 0);
}

#[test]
fn expectations_are_checked_against_what_the_batch_has_made_so_far() {
    let rig = rig();
    let value = |text: &str| Condition::Value(values(&[("v", Some(text))]));
    rig.write_at(100, vec![put("e", Some("1"), 10, until(20))])
        .expect("written");
    let chain = vec![
        expecting(put("e", Some("2"), 10, until(20)), None, value("1")),
        expecting(put("e", Some("3"), 10, until(20)), Some(19), value("2")),
        expecting(end("e", 15, until(20)), Some(20), Condition::Absent),
        expecting(put("e", Some("4"), 15, until(20)), None, Condition::Absent),
    ];
    rig.write_at(200, chain).expect("all hold");
    let failing = [
        (value("1"), "there is a value, written at"),
        (Condition::Absent, "there is a value, written at"),
        (
            Condition::UnchangedSince(SysTime::from_micros(199)),
            "there is a value, written at",
        ),
    ];
    for (condition, found) in failing {
        let other = put("f", Some("f"), 0, Until::Forever);
        let failed = expecting(put("e", Some("5"), 10, until(20)), Some(16), condition);
        let error = rig.write(vec![other, failed]).expect_err("does not hold");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.reason(), "EXPECTATION_FAILED");
        let words = error.to_string();
        assert!(
            words.contains("expectation 0 of mutation 1") && words.contains(found),
            "{words}"
        );
        assert_eq!(rig.get("f", 0, 200), Answer::NotKnown, "nothing is written");
    }
    let holds = Condition::UnchangedSince(SysTime::from_micros(200));
    rig.write_at(
        300,
        vec![expecting(put("e", Some("6"), 10, until(20)), None, holds)],
    )
    .expect("holds");
}

#[test]
fn null_is_a_value_and_what_ended_or_was_never_known_is_absent() {
    let rig = rig();
    rig.write_at(
        100,
        vec![
            put("e", None, 10, until(20)),
            put("e", Some("x"), 20, until(30)),
            end("e", 20, until(30)),
        ],
    )
    .expect("written");
    let probe = |point, condition| {
        let write = expecting(put("w", Some("w"), 0, Until::Forever), None, condition);
        let write = Mutation {
            entity_id: "e".to_owned(),
            valid_from: Some(ValidTime::from_micros(point)),
            until: until(point + 1),
            operation: Operation::Patch(values(&[("v", None)])),
            ..write
        };
        rig.write(vec![write]).map(|_| ())
    };
    let null = || Condition::Value(values(&[("v", None)]));
    assert!(probe(10, null()).is_ok());
    assert!(probe(10, Condition::Value(BTreeMap::new())).is_ok());
    assert!(probe(10, Condition::Absent).is_err());
    for point in [5, 20, 40] {
        assert!(probe(point, Condition::Absent).is_ok(), "{point}");
        assert!(probe(point, null()).is_err(), "{point}");
    }
    let since = |basis| Condition::UnchangedSince(SysTime::from_micros(basis));
    assert!(probe(5, since(1)).is_ok(), "never known is unchanged");
    assert!(probe(20, since(100)).is_ok());
    assert!(probe(20, since(99)).is_err(), "ended since");
}

#[test]
fn bad_expectations_are_refused() {
    let rig = rig();
    let good = || put("e", Some("x"), 0, Until::Forever);
    let unknown = Condition::Value(values(&[("other", Some("x"))]));
    assert_eq!(
        refused(&rig, vec![good(), expecting(good(), None, unknown)]),
        (
            ErrorKind::InvalidArgument,
            vec!["mutations[1].expect[0].value.attributes[\"other\"]".to_owned()]
        )
    );
    let many = Mutation {
        expect: vec![
            Expectation {
                valid_time: None,
                condition: Condition::Absent
            };
            MAX_EXPECTATIONS + 1
        ],
        ..good()
    };
    assert_eq!(
        refused(&rig, vec![many.clone()]),
        (
            ErrorKind::InvalidArgument,
            vec!["mutations[0].expect".to_owned()]
        )
    );
    let fits = Mutation {
        expect: many.expect[1..].to_vec(),
        ..good()
    };
    let basis = rig.write_at(100, vec![fits]).expect("16 hold").system_time;
    let later = Condition::UnchangedSince(SysTime::from_micros(basis.micros() + 1));
    let error = rig
        .write(vec![expecting(good(), None, later.clone())])
        .expect_err("not served yet");
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    rig.clock.set(500);
    rig.pin(400).expect("pinned");
    let pinned = Condition::UnchangedSince(SysTime::from_micros(400));
    rig.write(vec![expecting(
        put("e", Some("y"), 0, Until::Forever),
        None,
        pinned,
    )])
    .expect("a basis that was served");
}

#[test]
fn a_batch_that_changes_nothing_writes_nothing() {
    let mut rig = rig();
    let floor = rig.store().latest_basis();
    let nothing = rig.write(vec![end("e", 5, until(5))]).expect("accepted");
    assert_eq!((nothing.system_time, nothing.versions_written), (floor, 0));
    let first = rig
        .write_at(100, vec![put("e", Some("x"), 0, Until::Forever)])
        .expect("written");
    rig.clock.set(200);
    let again = rig
        .write(vec![put("e", Some("x"), 5, until(7))])
        .expect("accepted");
    assert_eq!(
        (again.system_time, again.versions_written, again.replayed),
        (first.system_time, 0, false)
    );
    assert_eq!(rig.store().latest_basis(), first.system_time);
    rig.reopen().expect("opens");
    assert_eq!(rig.store().latest_basis(), first.system_time);
    let named = Batch {
        mutations: vec![put("e", Some("x"), 5, until(7))],
        request_id: Some("r".to_owned()),
        ..Default::default()
    };
    let remembered = rig.write_batch(named.clone()).expect("accepted");
    assert_eq!(
        (remembered.replayed, remembered.versions_written),
        (false, 0)
    );
    rig.write(vec![put("e", Some("y"), 5, until(7))])
        .expect("written");
    let replayed = rig.write_batch(named).expect("accepted");
    assert_eq!(
        (replayed.replayed, replayed.system_time),
        (true, remembered.system_time)
    );
}

#[test]
fn the_same_request_id_with_another_expectation_is_another_request() {
    let rig = rig();
    let batch = |expect| Batch {
        mutations: vec![Mutation {
            expect,
            ..put("e", Some("x"), 0, Until::Forever)
        }],
        request_id: Some("r".to_owned()),
        ..Default::default()
    };
    rig.write_batch(batch(Vec::new())).expect("written");
    let absent = Expectation {
        valid_time: None,
        condition: Condition::Absent,
    };
    let error = rig.write_batch(batch(vec![absent])).expect_err("another");
    assert!(matches!(error, Error::RequestIdReused { .. }), "{error}");
    let erase = Batch {
        mutations: vec![erase("e")],
        ..batch(Vec::new())
    };
    let error = rig.write_batch(erase).expect_err("another");
    assert!(matches!(error, Error::RequestIdReused { .. }), "{error}");
}

fn erase(id: &str) -> Mutation {
    Mutation {
        operation: Operation::Erase,
        valid_from: None,
        ..put(id, None, 0, Until::default())
    }
}

/// Every log record's bytes.
fn log(rig: &Rig) -> Vec<Vec<u8>> {
    let log = rig.database().keyspace("log").expect("keyspace");
    log.large_prefix(&[])
        .map(|entry| entry.expect("reads").1)
        .collect()
}

fn mentions(records: &[Vec<u8>], word: &str) -> Vec<bool> {
    let holds = |record: &Vec<u8>| {
        record
            .windows(word.len())
            .any(|window| window == word.as_bytes())
    };
    records.iter().map(holds).collect()
}

#[test]
fn an_erasure_redacts_the_log_and_keeps_the_others() {
    let mut rig = rig();
    rig.write_at(100, vec![put("alice", Some("secret1"), 0, until(50))])
        .expect("written");
    rig.write_at(
        110,
        vec![
            put("bob", Some("kept1"), 0, until(50)),
            put("alice", Some("secret2"), 10, until(20)),
        ],
    )
    .expect("written");
    rig.write_at(120, vec![put("bob", Some("kept2"), 10, until(20))])
        .expect("written");
    rig.write_at(130, vec![end("alice", 30, until(40))])
        .expect("written");
    rig.write_at(140, vec![erase("alice")]).expect("erased");
    let check = |rig: &Rig| {
        let records = log(rig);
        assert_eq!(
            mentions(&records, "alice"),
            [false, false, false, false, true]
        );
        assert!(!mentions(&records, "secret").contains(&true));
        assert_eq!(mentions(&records, "bob"), [false, true, true, false, false]);
        assert!(rig.history("alice", 140).is_empty());
        let told: Vec<_> = rig.history("bob", 140).iter().map(text).collect();
        assert_eq!(told, ["kept1", "kept1", "kept2", "kept1"]);
    };
    check(&rig);
    rig.reopen().expect("the hash chain still holds");
    check(&rig);
    rig.write_at(150, vec![put("alice", Some("fresh"), 60, until(70))])
        .expect("starts clean");
    assert!(matches!(rig.get("alice", 65, 150), Answer::Value(_)));
    rig.write_at(160, vec![erase("alice")])
        .expect("erased again");
    assert!(!mentions(&log(&rig), "fresh").contains(&true));
}

#[test]
fn an_erasure_takes_what_its_own_batch_said_before_it() {
    let mut rig = rig();
    rig.write_at(
        100,
        vec![
            put("alice", Some("secret"), 0, until(50)),
            put("bob", Some("kept"), 0, until(50)),
            erase("alice"),
            put("alice", Some("after"), 0, until(10)),
        ],
    )
    .expect("written");
    for _ in 0..2 {
        assert!(!mentions(&log(&rig), "secret").contains(&true));
        let told: Vec<_> = rig.history("alice", 100).iter().map(text).collect();
        assert_eq!(told, ["after"]);
        rig.reopen().expect("opens");
    }
}

#[test]
fn erasing_what_never_was_writes_nothing() {
    let rig = rig();
    let before = rig.store().latest_basis();
    let nothing = rig.write(vec![erase("nobody")]).expect("accepted");
    assert_eq!((nothing.system_time, nothing.versions_written), (before, 0));
    assert!(log(&rig).is_empty());
}

#[test]
fn an_erasure_whose_redaction_a_crash_cut_off_is_finished_at_the_next_start() {
    let mut rig = rig();
    rig.write_at(100, vec![put("alice", Some("secret"), 0, until(50))])
        .expect("written");
    rig.write_at(110, vec![put("bob", Some("kept"), 0, until(50))])
        .expect("written");
    let (log_keys, checkpoint) = raw(&rig);
    rig.write_at(120, vec![erase("alice")]).expect("erased");
    rig.store().close();
    // As if the process had died after the record of the erasure: the old record and checkpoint are back.
    for (key, value) in log_keys {
        let keyspace = rig.database().keyspace("log").expect("keyspace");
        keyspace.insert(&key, &value).expect("put back");
    }
    {
        let meta = rig.database().keyspace("meta").expect("keyspace");
        meta.insert(b"checkpoint", &checkpoint).expect("put back");
    }
    assert!(mentions(&log(&rig), "secret").contains(&true));
    rig.reopen().expect("opens");
    assert!(!mentions(&log(&rig), "secret").contains(&true));
    assert_eq!(mentions(&log(&rig), "alice"), [false, false, true]);
    assert!(rig.history("alice", 120).is_empty());
    assert_eq!(rig.history("bob", 120).len(), 1);
}

type Raw = Vec<(Vec<u8>, Vec<u8>)>;

/// The log's parts and the checkpoint, as they are stored.
fn raw(rig: &Rig) -> (Raw, Vec<u8>) {
    let log = rig.database().keyspace("log").expect("keyspace");
    let meta = rig.database().keyspace("meta").expect("keyspace");
    let parts = log.prefix(&[]).map(|entry| {
        let (key, value) = entry.expect("reads");
        (key.to_vec(), value.to_vec())
    });
    let checkpoint = meta.get(b"checkpoint").expect("reads").expect("there");
    (parts.collect(), checkpoint.to_vec())
}

#[test]
fn an_erasure_finds_records_among_many() {
    let rig = rig();
    for at in 0..200 {
        let id = if at % 37 == 5 { "alice" } else { "bob" };
        let value = format!("{id}-{at}-text");
        rig.write_at(
            1_000 + 3 * at,
            vec![put(id, Some(&value), at, until(at + 9))],
        )
        .expect("written");
    }
    rig.write_at(2_000, vec![erase("alice")]).expect("erased");
    let records = log(&rig);
    assert!(!mentions(&records[..200], "alice").contains(&true));
    let bobs = mentions(&records, "bob").into_iter().filter(|held| *held);
    assert_eq!(bobs.count(), 194);
}
