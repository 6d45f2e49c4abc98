//! Answers from kept snapshots, compared with reads one by one.

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::TimestampMicrosecondType,
};
use hindcast::{
    store::{Answer, AttributeKind, Mutation, Outcome, Until, columns},
    time::{Interval, SysTime, ValidTime},
};
use proptest::prelude::*;

use crate::store_support::{Rig, end, put, spec, text, until};

/// More rows than are looked up in pages.
const MANY: usize = 5_000;

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(u8, i64, i64, u8)>),
    Read(usize),
}

fn mutation(&(id, from, length, value): &(u8, i64, i64, u8)) -> Mutation {
    let id = format!("id{id}");
    let to = match length {
        0 => Until::NextChange,
        1 => Until::Forever,
        _ => until(from + length),
    };
    match value {
        0 => end(&id, from, to),
        1 => put(&id, None, from, to),
        _ => put(&id, Some(&format!("v{value}")), from, to),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = proptest::collection::vec((0..6u8, 0..50i64, 0..20i64, 0..6u8), 1..6);
    let step =
        prop_oneof![3 => write.prop_map(Step::Write), 1 => (0..100usize).prop_map(Step::Read)];
    proptest::collection::vec(step, 4..40)
}

/// Looks up `MANY` rows at a basis, twice, and compares each with a read.
fn check_rows(rig: &Rig, basis: i64, seed: usize) {
    let id_of = |row: usize| format!("id{}", (row * 7 + seed) % 8);
    let at_of = |row: usize| i64::try_from((row * 31 + seed) % 80).expect("small") - 5;
    let is_asked = |row: usize| !row.is_multiple_of(97);
    let ids: StringArray = (0..MANY)
        .map(|row| is_asked(row).then(|| id_of(row)))
        .collect();
    let at: TimestampMicrosecondArray = (0..MANY)
        .map(|row| (row % 89 != 0).then(|| at_of(row)))
        .collect();
    let thing = rig.thing();
    for _ in 0..2 {
        let states = rig
            .store()
            .look_up(&thing, &ids, &at, SysTime::from_micros(basis), &[0])
            .expect("reads");
        let values = states.columns()[0].as_string::<i32>();
        for row in (0..MANY).step_by(13) {
            let expected = if ids.is_valid(row) && at.is_valid(row) {
                rig.get(ids.value(row), at.value(row), basis)
            } else {
                Answer::NotKnown
            };
            let position = states.positions()[row].map(|position| position as usize);
            let value = position.map(|at| {
                if values.is_null(at) {
                    "null"
                } else {
                    values.value(at)
                }
            });
            let found = (
                states.outcomes()[row],
                value.map(str::to_owned),
                states.valid_from(row),
            );
            let expected = match expected {
                Answer::Value(version) => (
                    Outcome::Value,
                    Some(text(&version)),
                    Some(version.valid.from),
                ),
                Answer::Ended(version) => (Outcome::Ended, None, Some(version.valid.from)),
                Answer::NotKnown => (Outcome::NotKnown, None, None),
                Answer::Erased => (Outcome::Erased, None, None),
            };
            assert_eq!(found, expected, "row {row} at basis {basis}");
        }
    }
}

type Rows = Vec<(String, Option<String>, i64, Option<i64>)>;

/// Scans again and again at a basis: the first pass reads pages, later ones a snapshot.
fn check_scans(rig: &Rig, basis: i64, point: i64) {
    let thing = rig.thing();
    let (valid, basis) = (ValidTime::from_micros(point), SysTime::from_micros(basis));
    let window = Interval::new(valid, ValidTime::from_micros(point + 15));
    let rows = |batches: Vec<RecordBatch>, schema| -> Rows {
        let batch = concat_batches(&schema, &batches).expect("one schema");
        let (ids, values) = (
            batch.column(0).as_string::<i32>(),
            batch.column(1).as_string::<i32>(),
        );
        let instants = |column: usize, row: usize| {
            let column = batch
                .columns()
                .get(column)?
                .as_primitive::<TimestampMicrosecondType>();
            column.is_valid(row).then(|| column.value(row))
        };
        (0..batch.num_rows())
            .map(|row| {
                let value = values.is_valid(row).then(|| values.value(row).to_owned());
                (
                    ids.value(row).to_owned(),
                    value,
                    instants(2, row).expect("set"),
                    instants(3, row),
                )
            })
            .collect()
    };
    let expected: Rows = rig
        .store()
        .scan(&thing, valid, basis, None)
        .map(|version| version.expect("reads"))
        .map(|version| {
            let value = Some(text(&version)).filter(|text| text != "null");
            (version.entity_id, value, version.valid.from.micros(), None)
        })
        .collect();
    let mut histories = Vec::new();
    for _ in 0..3 {
        let scanned = rig.store().scan_batches(&thing, valid, basis, None, 2);
        let scanned = scanned.collect::<Result<Vec<_>, _>>().expect("reads");
        assert!(scanned.iter().all(|batch| batch.num_rows() <= 2));
        assert_eq!(rows(scanned, columns::as_of_schema(&thing)), expected);
        let history = rig.store().history_batches(&thing, window, basis, None, 3);
        let history = history.collect::<Result<Vec<_>, _>>().expect("reads");
        histories.push(rows(history, columns::history_schema(&thing)));
        let narrow = rig
            .store()
            .scan_batches(&thing, valid, basis, Some(vec![2]), 100);
        let narrow: usize = narrow.map(|batch| batch.expect("reads").num_rows()).sum();
        assert_eq!(narrow, expected.len());
    }
    assert!(
        histories.windows(2).all(|pair| pair[0] == pair[1]),
        "{histories:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn snapshots_answer_as_reads_one_by_one_do(steps in steps()) {
        let rig = Rig::new();
        rig.declare(spec("other", &[("v", AttributeKind::String)]));
        let mut last = 1_000;
        let mut reads = 0;
        for step in &steps {
            match step {
                Step::Write(writes) => {
                    last += 10;
                    rig.write_at(last, writes.iter().map(mutation).collect()).expect("written");
                    // Of another type: what is kept of this one stays good.
                    last += 10;
                    let other = Mutation {
                        entity_type: "other".to_owned(),
                        ..put("o", Some(&last.to_string()), last, Until::Forever)
                    };
                    rig.write_at(last, vec![other]).expect("written");
                }
                Step::Read(seed) => {
                    reads += 1;
                    let back = i64::try_from(*seed).expect("small");
                    rig.clock.set(last);
                    rig.pin(last).expect("stable from now on");
                    check_rows(&rig, last - back, *seed);
                    check_rows(&rig, last, *seed + 1);
                    check_scans(&rig, last - back, back / 2);
                    if reads % 3 == 0 {
                        rig.store().forget_snapshots("thing");
                    }
                }
            }
        }
    }
}

#[test]
fn a_commit_is_seen_by_the_next_basis_and_by_no_earlier_one() {
    let rig = Rig::new();
    for round in 0..5i64 {
        let at = 1_000 + round * 10;
        rig.write_at(
            at,
            vec![put("id1", Some(&round.to_string()), 0, Until::Forever)],
        )
        .expect("written");
        for earlier in 0..=round {
            check_rows(&rig, 1_000 + earlier * 10, 3);
            check_scans(&rig, 1_000 + earlier * 10, 1);
        }
    }
}

#[test]
fn what_spilled_out_of_its_page_is_in_the_snapshot_too() {
    let rig = Rig::new();
    for round in 0..400i64 {
        let long = format!("{round:0100}");
        rig.write_at(
            1_000 + round,
            vec![put("id1", Some(&long), round * 37 % 60, Until::NextChange)],
        )
        .expect("written");
    }
    for basis in [1_399, 1_200, 1_001, 999] {
        check_rows(&rig, basis, 0);
        check_scans(&rig, basis, 20);
    }
}
