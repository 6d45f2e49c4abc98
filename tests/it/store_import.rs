//! Imports with the caller's system times, and bulk loads that go on where they were cut off.

use hindcast::{
    error::{Classify, ErrorKind},
    store::{
        Answer, AttributeKind, Batch, Committed, EntityType, EntityTypeSpec, EntityTypeState,
        Error, IngestMark, MAX_STREAM_BYTES, Mutation, Operation, Until,
    },
    time::{Interval, SysTime, ValidTime},
};

use crate::store_support::{Rig, end, put, spec, text, until};

const DAY: i64 = 24 * 3600 * 1_000_000;

/// A rig at time 1,000 with the type `old`, which is being imported.
pub(crate) fn rig() -> Rig {
    let rig = Rig::new();
    rig.clock.set(1_000);
    let declared = rig.declare(EntityTypeSpec {
        state: EntityTypeState::Importing,
        ..spec("old", &[("v", AttributeKind::String)])
    });
    assert_eq!(declared.state(), EntityTypeState::Importing);
    rig
}

fn old(mutation: Mutation) -> Mutation {
    Mutation {
        entity_type: "old".to_owned(),
        ..mutation
    }
}

pub(crate) fn import(rig: &Rig, at: i64, mutations: Vec<Mutation>) -> Result<Committed, Error> {
    rig.write_batch(Batch {
        mutations: mutations.into_iter().map(old).collect(),
        import_time: Some(SysTime::from_micros(at)),
        ..Default::default()
    })
}

pub(crate) fn finish(rig: &Rig) -> Result<(), Error> {
    let sealed = rig.runtime.block_on(rig.store().finish_import("old"))?;
    assert_eq!(sealed.state(), EntityTypeState::Active);
    Ok(())
}

pub(crate) fn old_type(rig: &Rig) -> std::sync::Arc<EntityType> {
    rig.store().entity_type("old").expect("declared")
}

fn told(rig: &Rig, id: &str, valid: i64, basis: i64) -> String {
    let (valid, basis) = (ValidTime::from_micros(valid), SysTime::from_micros(basis));
    let found = rig.store().get(&old_type(rig), id, valid, basis);
    match found.expect("reads") {
        Answer::Value(version) => format!("{} @{}", text(&version), version.system.from.micros()),
        Answer::Ended(version) => format!("ended @{}", version.system.from.micros()),
        Answer::NotKnown => "not known".to_owned(),
        Answer::Erased => "erased".to_owned(),
    }
}

#[test]
fn an_import_keeps_the_system_times_of_where_it_comes_from() {
    let mut rig = rig();
    let first = import(&rig, 10, vec![put("a", Some("x"), 0, until(50))]).expect("imported");
    assert!(
        first.system_time.micros() >= 1_000,
        "the commit is made now: {first:?}"
    );
    import(&rig, 20, vec![put("a", Some("y"), 10, until(20))]).expect("imported");
    let again = import(
        &rig,
        20,
        vec![put("a", Some("z"), 15, until(20)), end("b", 0, until(9))],
    );
    assert_eq!(again.expect("the same time again").versions_written, 2);
    rig.reopen().expect("opens");
    import(&rig, 30, vec![end("a", 0, until(5))]).expect("goes on after a restart");
    finish(&rig).expect("finished");
    for _ in 0..2 {
        assert_eq!(told(&rig, "a", 12, 9), "not known");
        assert_eq!(told(&rig, "a", 12, 10), "x @10");
        assert_eq!(told(&rig, "a", 12, 20), "y @20");
        assert_eq!(told(&rig, "a", 15, 20), "z @20");
        assert_eq!(told(&rig, "a", 3, 29), "x @10");
        assert_eq!(told(&rig, "a", 3, 30), "ended @30");
        assert_eq!(told(&rig, "b", 3, 20), "ended @20");
        let known = rig.store().first_known(&old_type(&rig));
        assert_eq!(known, Some(SysTime::from_micros(10)));
        rig.reopen().expect("opens");
    }
    rig.write_at(2_000, vec![old(put("a", Some("now"), 12, until(13)))])
        .expect("a write as every other");
    assert_eq!(told(&rig, "a", 12, 2_000), "now @2000");
    assert_eq!(told(&rig, "a", 12, 1_999), "y @20");
}

#[test]
fn a_range_without_a_start_begins_at_the_import_time() {
    let rig = rig();
    let mutation = Mutation {
        valid_from: None,
        ..put("a", Some("x"), 0, Until::Forever)
    };
    import(&rig, 10, vec![mutation]).expect("imported");
    finish(&rig).expect("finished");
    assert_eq!(told(&rig, "a", 9, 10), "not known");
    assert_eq!(told(&rig, "a", 10, 10), "x @10");
}

#[test]
fn an_unfinished_import_cannot_be_read() {
    let mut rig = rig();
    import(&rig, 10, vec![put("a", Some("x"), 0, until(50))]).expect("imported");
    rig.reopen().expect("opens");
    let store = rig.store().clone();
    let stale = old_type(&rig);
    let (valid, basis) = (ValidTime::from_micros(5), store.latest_basis());
    let refuses = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert_eq!(error.reason(), "IMPORT_UNFINISHED");
    };
    refuses(store.get(&stale, "a", valid, basis).expect_err("get"));
    let ids = ["a".to_owned()];
    refuses(
        store
            .get_many(&stale, &ids, valid, basis)
            .expect_err("many"),
    );
    let mut scan = store.scan(&stale, valid, basis, None);
    refuses(scan.next().expect("an answer").expect_err("scan"));
    let (all, ever) = (
        Interval::starting_at(ValidTime::MIN),
        Interval::starting_at(SysTime::MIN),
    );
    let history = store.history(&stale, "a", all, ever, basis);
    refuses(history.expect_err("history"));
    let ids = arrow::array::StringArray::from(vec!["a"]);
    let at = arrow::array::TimestampMicrosecondArray::from(vec![5]);
    let joined = store.lookup_batch(&stale, &ids, &at, basis);
    refuses(joined.expect_err("lookup"));
    finish(&rig).expect("finished");
    assert!(
        store.get(&stale, "a", valid, basis).is_ok(),
        "what was looked up before the end reads too"
    );
}

#[test]
fn import_times_are_given_where_they_are_due_and_nowhere_else() {
    let rig = rig();
    let reason = |outcome: Result<Committed, Error>| {
        let error = outcome.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        error.reason()
    };
    let at = |import_time: i64, mutations| {
        rig.write_batch(Batch {
            mutations,
            import_time: Some(SysTime::from_micros(import_time)),
            ..Default::default()
        })
    };
    let good = || put("a", Some("x"), 0, until(50));
    assert_eq!(reason(rig.write(vec![old(good())])), "IMPORT_TIME_REQUIRED");
    assert_eq!(reason(at(10, vec![good()])), "NOT_IMPORTING");
    assert_eq!(reason(at(10, vec![old(good()), good()])), "NOT_IMPORTING");
    assert_eq!(
        reason(rig.write(vec![good(), old(good())])),
        "IMPORT_TIME_REQUIRED"
    );
    assert_eq!(
        reason(import(&rig, 1_001, vec![good()])),
        "IMPORT_TIME_IN_FUTURE"
    );
    import(&rig, 500, vec![good()]).expect("imported");
    let backwards = import(&rig, 499, vec![put("b", Some("x"), 0, until(50))]);
    let text = backwards.as_ref().expect_err("refused").to_string();
    assert!(text.contains("499") && text.contains("5"), "{text}");
    assert_eq!(reason(backwards), "IMPORT_TIME_BACKWARDS");
    let last = rig.store().latest_basis();
    import(&rig, 500, vec![put("b", Some("x"), 0, until(50))]).expect("equal is allowed");
    assert!(rig.store().latest_basis() > last);
    finish(&rig).expect("finished");
    let twice = finish(&rig).expect_err("it is over");
    assert!(matches!(twice, Error::NotImporting { .. }), "{twice}");
    assert_eq!(reason(import(&rig, 600, vec![good()])), "NOT_IMPORTING");
    let unknown = rig.runtime.block_on(rig.store().finish_import("nothing"));
    assert_eq!(unknown.expect_err("unknown").kind(), ErrorKind::NotFound);
}

#[test]
fn the_end_of_an_import_outlives_a_restart() {
    let mut rig = rig();
    finish(&rig).expect("an empty import");
    rig.reopen().expect("opens");
    assert_eq!(old_type(&rig).state(), EntityTypeState::Active);
    let again = EntityTypeSpec {
        state: EntityTypeState::Importing,
        ..spec("old", &[("v", AttributeKind::String)])
    };
    assert_eq!(rig.declare(again).state(), EntityTypeState::Active);
}

#[test]
fn what_was_imported_is_erased_from_the_log_too() {
    let rig = rig();
    let erase = |id: &str| Mutation {
        operation: Operation::Erase,
        valid_from: None,
        ..put(id, None, 0, Until::default())
    };
    import(&rig, 10, vec![put("alice", Some("secret"), 0, until(50))]).expect("imported");
    rig.write_at(1_500, vec![put("bob", Some("kept"), 0, until(50))])
        .expect("written");
    rig.clock.set(1_600);
    import(&rig, 10, vec![put("alice", Some("secret2"), 0, until(50))]).expect("imported");
    import(&rig, 20, vec![put("other", Some("kept"), 0, until(50))]).expect("imported");
    finish(&rig).expect("finished");
    rig.write_at(2_000, vec![old(put("alice", Some("secret3"), 0, until(5)))])
        .expect("written");
    rig.write_at(2_100, vec![old(erase("alice"))])
        .expect("erased");
    let log = rig.database().keyspace("log").expect("keyspace");
    let records: Vec<_> = log
        .large_prefix(&[])
        .map(|entry| entry.expect("reads").1)
        .collect();
    let count = |word: &str| {
        let holds = |record: &&Vec<u8>| {
            record
                .windows(word.len())
                .any(|window| window == word.as_bytes())
        };
        records.iter().filter(holds).count()
    };
    assert_eq!((count("secret"), count("alice"), count("kept")), (0, 1, 2));
}

fn load(rig: &Rig, stream: &str, offset: u64, mutation: Mutation) -> Result<Committed, Error> {
    rig.write_batch(Batch {
        mutations: vec![mutation],
        ingest: Some(IngestMark {
            stream: stream.to_owned(),
            offset,
        }),
        ..Default::default()
    })
}

fn offset(rig: &Rig, stream: &str) -> Option<u64> {
    let asked = rig.runtime.block_on(rig.store().ingest_offset(stream));
    asked.expect("reads")
}

#[test]
fn a_bulk_load_is_not_applied_twice() {
    let mut rig = Rig::new();
    rig.clock.set(1_000);
    assert_eq!(offset(&rig, "nightly"), None);
    let first = load(&rig, "nightly", 3, put("a", Some("x"), 0, until(9))).expect("written");
    assert!(!first.replayed);
    load(&rig, "other", 1, put("a", Some("y"), 0, until(9))).expect("written");
    for _ in 0..2 {
        assert_eq!(offset(&rig, "nightly"), Some(3));
        for old in [1, 3] {
            let again = load(&rig, "nightly", old, put("a", Some("x"), 0, until(9)));
            let again = again.expect("accepted");
            assert_eq!((again.replayed, again.versions_written), (true, 0));
        }
        assert_eq!(
            rig.history("a", rig.store().latest_basis().micros()).len(),
            2
        );
        rig.reopen().expect("opens");
    }
    let same = load(&rig, "nightly", 4, put("a", Some("y"), 0, until(9))).expect("accepted");
    assert_eq!((same.replayed, same.versions_written), (false, 0));
    assert_eq!(
        offset(&rig, "nightly"),
        Some(4),
        "progress without a change"
    );
}

#[test]
fn bad_places_of_a_bulk_load_are_refused() {
    let rig = Rig::new();
    let good = || put("a", Some("x"), 0, until(9));
    let long = "s".repeat(MAX_STREAM_BYTES + 1);
    for (stream, offset, field) in [("", 1, "stream"), (&long, 1, "stream"), ("s", 0, "offset")] {
        let error = load(&rig, stream, offset, good()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.violations()[0].field, field);
    }
    load(&rig, &long[1..], 1, good()).expect("the longest name");
    let asked = rig.runtime.block_on(rig.store().ingest_offset(""));
    assert_eq!(
        asked.expect_err("refused").kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn a_bulk_load_is_remembered_for_a_day_after_its_last_batch() {
    let rig = Rig::new();
    rig.clock.set(1_000);
    load(&rig, "long", 1, put("a", Some("1"), 0, until(9))).expect("written");
    load(&rig, "short", 1, put("b", Some("1"), 0, until(9))).expect("written");
    rig.clock.set(1_000 + DAY / 2);
    load(&rig, "long", 2, put("a", Some("2"), 0, until(9))).expect("written");
    rig.clock.set(1_100 + DAY);
    rig.write(vec![put("c", Some("1"), 0, until(9))])
        .expect("written");
    assert_eq!(offset(&rig, "long"), Some(2));
    assert_eq!(offset(&rig, "short"), None);
    rig.clock.set(1_100 + DAY * 3 / 2);
    rig.write(vec![put("c", Some("2"), 0, until(9))])
        .expect("written");
    assert_eq!(offset(&rig, "long"), None);
}
