//! Arrow answers, compared with the answers one by one.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType},
};
use hindcast::{
    store::{
        Answer, AttributeKind, Decimal, EntityType, Mutation, Operation, Until, Value, columns,
    },
    time::{Interval, SysTime, ValidTime},
};

use crate::store_support::{Rig, end, put, spec, text, until};

fn strings(batch: &RecordBatch, column: usize) -> Vec<Option<String>> {
    batch
        .column(column)
        .as_string::<i32>()
        .iter()
        .map(|text| text.map(str::to_owned))
        .collect()
}

fn rig() -> Rig {
    let rig = Rig::new();
    for round in 0..300i64 {
        let mut batch = vec![put(
            "big",
            Some(&format!("reading {round}")),
            round * 10,
            Until::NextChange,
        )];
        if round < 20 {
            batch.push(put(
                &format!("id{round:02}"),
                Some("x"),
                round,
                until(round + 100),
            ));
            batch.push(put(
                &format!("id{round:02}"),
                None,
                round + 5,
                until(round + 8),
            ));
            batch.push(end(&format!("id{round:02}"), round + 10, until(round + 12)));
        }
        rig.write_at(1_000 + round, batch).expect("written");
    }
    rig
}

#[test]
fn scans_in_batches_equal_scans_one_by_one() {
    let rig = rig();
    let thing = rig.thing();
    for (valid, basis) in [
        (0, 1_299),
        (15, 1_299),
        (15, 1_004),
        (2_995, 1_299),
        (50, 999),
    ] {
        let (valid, basis) = (ValidTime::from_micros(valid), SysTime::from_micros(basis));
        let expected: Vec<_> = rig
            .store()
            .scan(&thing, valid, basis, None)
            .map(|version| version.expect("reads"))
            .collect();
        let batches: Vec<_> = rig
            .store()
            .scan_batches(&thing, valid, basis, None, 7)
            .collect::<Result<_, _>>()
            .expect("reads");
        let batch = concat_batches(&columns::as_of_schema(&thing), &batches).expect("one schema");
        let ids: Vec<_> = expected
            .iter()
            .map(|version| Some(version.entity_id.clone()))
            .collect();
        assert_eq!(strings(&batch, 0), ids);
        let values: Vec<_> = expected
            .iter()
            .map(text)
            .map(|text| (text != "null").then_some(text))
            .collect();
        assert_eq!(strings(&batch, 1), values);
        let from: Vec<_> = expected
            .iter()
            .map(|version| version.valid.from.micros())
            .collect();
        assert_eq!(
            batch
                .column(2)
                .as_primitive::<TimestampMicrosecondType>()
                .values()
                .to_vec(),
            from
        );
        assert!(batches.iter().all(|batch| batch.num_rows() <= 7));
    }
}

#[test]
fn a_projection_without_columns_still_counts() {
    let rig = rig();
    let scan = |projection| -> Vec<RecordBatch> {
        rig.store()
            .scan_batches(
                &rig.thing(),
                ValidTime::from_micros(19),
                SysTime::from_micros(1_299),
                projection,
                1_000,
            )
            .collect::<Result<_, _>>()
            .expect("reads")
    };
    let all = scan(None);
    let none = scan(Some(vec![]));
    assert_eq!(none[0].num_rows(), all[0].num_rows());
    let swapped = scan(Some(vec![2, 0]));
    assert_eq!(swapped[0].schema().field(0).name(), "valid_from");
    assert_eq!(swapped[0].column(1), all[0].column(0));
    let beyond: Result<Vec<_>, _> = rig
        .store()
        .scan_batches(
            &rig.thing(),
            ValidTime::from_micros(19),
            SysTime::from_micros(1_299),
            Some(vec![3]),
            10,
        )
        .collect();
    assert!(beyond.is_err());
}

#[test]
fn histories_are_clipped_to_the_window_and_leave_out_ended_ranges() {
    let rig = rig();
    let thing = rig.thing();
    let window = Interval::new(ValidTime::from_micros(7), ValidTime::from_micros(45));
    let batches: Vec<_> = rig
        .store()
        .history_batches(&thing, window, SysTime::from_micros(1_299), None, 1_000)
        .collect::<Result<_, _>>()
        .expect("reads");
    let batch = concat_batches(&columns::history_schema(&thing), &batches).expect("one schema");
    let from = batch.column(2).as_primitive::<TimestampMicrosecondType>();
    let to = batch.column(3).as_primitive::<TimestampMicrosecondType>();
    let rows: Vec<_> = (0..batch.num_rows())
        .map(|row| {
            (
                strings(&batch, 0)[row].clone().expect("id"),
                strings(&batch, 1)[row].clone(),
                from.value(row),
                to.value(row),
            )
        })
        .collect();
    let of = |id: &str| -> Vec<(Option<String>, i64, i64)> {
        rows.iter()
            .filter(|row| row.0 == id)
            .map(|row| (row.1.clone(), row.2, row.3))
            .collect()
    };
    let x = || Some("x".to_owned());
    assert_eq!(of("id00"), [(None, 7, 8), (x(), 8, 10), (x(), 12, 45)]);
    assert_eq!(
        of("id05"),
        [(x(), 7, 10), (None, 10, 13), (x(), 13, 15), (x(), 17, 45)]
    );
    let reading = |n: i64, from, to| (Some(format!("reading {n}")), from, to);
    assert_eq!(
        of("big"),
        [
            reading(0, 7, 10),
            reading(1, 10, 20),
            reading(2, 20, 30),
            reading(3, 30, 40),
            reading(4, 40, 45)
        ]
    );
    let open = Interval::starting_at(ValidTime::from_micros(2_985));
    let tail: Vec<_> = rig
        .store()
        .history_batches(
            &thing,
            open,
            SysTime::from_micros(1_299),
            Some(vec![0, 3]),
            1_000,
        )
        .collect::<Result<_, _>>()
        .expect("reads");
    assert_eq!(tail[0].num_rows(), 2);
    assert!(tail[0].column(1).is_null(1), "the last reading is open");
}

#[test]
fn lookups_equal_reads_one_by_one() {
    let rig = rig();
    let thing = rig.thing();
    let names = ["big", "id03", "id19", "nobody", "id00"];
    let mut ids = Vec::new();
    let mut at = Vec::new();
    for row in 0..500i64 {
        ids.push((row % 41 != 0).then(|| names[usize::try_from(row * 7 % 5).expect("small")]));
        at.push((row % 37 != 0).then_some(row * 7_919 % 3_100));
    }
    for basis in [1_299, 1_100, 1_003, 10] {
        let found = rig
            .store()
            .lookup_batch(
                &thing,
                &StringArray::from(ids.clone()),
                &TimestampMicrosecondArray::from(at.clone()),
                SysTime::from_micros(basis),
            )
            .expect("reads");
        assert_eq!(found.fields(), &columns::state_fields(&thing));
        assert_eq!(found.len(), ids.len());
        let values = found.column(0).as_string::<i32>();
        let from = found.column(1).as_primitive::<TimestampMicrosecondType>();
        for row in 0..ids.len() {
            let expected = match (ids[row], at[row]) {
                (Some(id), Some(at)) => rig.get(id, at, basis),
                _ => Answer::NotKnown,
            };
            match expected {
                Answer::Value(version) => {
                    assert!(found.is_valid(row), "row {row}, basis {basis}");
                    let value = if values.is_null(row) {
                        "null"
                    } else {
                        values.value(row)
                    };
                    assert_eq!(
                        (value, from.value(row)),
                        (text(&version).as_str(), version.valid.from.micros())
                    );
                }
                Answer::Ended(_) | Answer::NotKnown | Answer::Erased => {
                    assert!(found.is_null(row), "row {row}, basis {basis}")
                }
            }
        }
    }
}

fn all_kinds(rig: &Rig) -> Arc<EntityType> {
    rig.declare(spec(
        "every",
        &[
            ("a", AttributeKind::Bool),
            ("b", AttributeKind::Int64),
            ("c", AttributeKind::Float64),
            (
                "d",
                AttributeKind::Decimal {
                    precision: 10,
                    scale: 3,
                },
            ),
            ("e", AttributeKind::String),
            ("f", AttributeKind::Bytes),
            ("g", AttributeKind::Timestamp),
            ("h", AttributeKind::Date),
            ("i", AttributeKind::Json),
        ],
    ))
}

#[test]
fn every_kind_of_attribute_arrives_in_its_column() {
    let rig = Rig::new();
    let every = all_kinds(&rig);
    let values = [
        Value::Bool(true),
        Value::Int64(-7),
        Value::Float64(2.5),
        Value::Decimal(Decimal {
            unscaled: -1_250,
            scale: 3,
        }),
        Value::String("text".to_owned()),
        Value::Bytes(vec![0, 255]),
        Value::Timestamp(-1),
        Value::Date(-1),
        Value::Json("{}".to_owned()),
    ];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let attributes: BTreeMap<_, _> = names
        .map(str::to_owned)
        .into_iter()
        .zip(values.clone().map(Some))
        .collect();
    let of = |id, attributes| Mutation {
        entity_type: "every".to_owned(),
        operation: Operation::Put(attributes),
        ..put(id, None, 0, Until::Forever)
    };
    rig.write_at(
        1_000,
        vec![of("full", attributes), of("none", BTreeMap::new())],
    )
    .expect("written");
    let (valid, basis) = (ValidTime::from_micros(0), SysTime::from_micros(1_000));
    let Ok(Answer::Value(version)) = rig.store().get(&every, "full", valid, basis) else {
        panic!("a value");
    };
    assert_eq!(version.attributes, values.map(Some));
    let batch = rig
        .store()
        .scan_batches(&every, valid, basis, None, 10)
        .next()
        .expect("a batch")
        .expect("reads");
    assert_eq!(batch.schema(), columns::as_of_schema(&every));
    assert!(batch.column(1).as_boolean().value(0));
    assert_eq!(batch.column(2).as_primitive::<Int64Type>().value(0), -7);
    assert_eq!(batch.column(3).as_primitive::<Float64Type>().value(0), 2.5);
    assert_eq!(
        batch.column(4).as_primitive::<Decimal128Type>().value(0),
        -1_250
    );
    assert_eq!(batch.column(5).as_string::<i32>().value(0), "text");
    assert_eq!(batch.column(6).as_binary::<i32>().value(0), [0, 255]);
    assert_eq!(
        batch
            .column(7)
            .as_primitive::<TimestampMicrosecondType>()
            .value(0),
        -1
    );
    assert_eq!(batch.column(8).as_primitive::<Date32Type>().value(0), -1);
    assert_eq!(batch.column(9).as_string::<i32>().value(0), "{}");
    assert!(
        (1..10).all(|column| batch.column(column).is_null(1)),
        "nulls stay null"
    );
}
