//! Another reader finds exactly the rows that hindcast has.

use std::{path::PathBuf, process::Command, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
        Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
        StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    },
    datatypes::{DataType, Field, Int64Type, Schema},
};

use super::house::{
    DAY_MICROS, FIRST_DAY_MICROS, House, OWNER, TABLE, attempt, day, publish, query_schema, rows_at,
};
use hindcast::lake::{Commit, PublishedPartition, output_schema};

/// The rows that PyIceberg reads, as sorted JSON lines. `None`: no interpreter was named, which CI does not accept.
fn read_by_pyiceberg(
    metadata_location: &str,
    snapshot_id: Option<i64>,
) -> Option<Vec<serde_json::Value>> {
    let Some(python) = std::env::var_os("HINDCAST_TEST_PYTHON") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "set HINDCAST_TEST_PYTHON to a Python that has tests/python/requirements.txt"
        );
        eprintln!(
            "SKIPPED: HINDCAST_TEST_PYTHON names no Python that has tests/python/requirements.txt"
        );
        return None;
    };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_table.py");
    let output = Command::new(python)
        .arg(script)
        .arg(metadata_location)
        .args(snapshot_id.map(|id| id.to_string()))
        .output()
        .expect("a Python interpreter");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text.lines().filter(|line| !line.is_empty());
    Some(
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect(),
    )
}

/// Asserts that PyIceberg and hindcast read the same rows of the table of [`query_schema`].
fn assert_same_rows(house: &House, snapshot_id: Option<i64>) {
    let Some(rows) = read_by_pyiceberg(&house.table().metadata_location, snapshot_id) else {
        return;
    };
    let mut theirs: Vec<_> = rows
        .iter()
        .map(|row| {
            let start =
                hindcast::time::ValidTime::parse(row["partition_start"].as_str().expect("text"));
            let day = (start.expect("an instant").micros() - FIRST_DAY_MICROS) / DAY_MICROS;
            let carrier = row["carrier"].as_str().expect("text").to_owned();
            (day, carrier, row["flights"].as_i64().expect("a number"))
        })
        .collect();
    theirs.sort();
    assert_eq!(theirs, rows_at(&house.lake, snapshot_id));
}

#[test]
fn pyiceberg_reads_the_same_rows_after_every_kind_of_commit() {
    let house = House::with_table();
    assert_same_rows(&house, None);
    publish(&house.lake, "nothing", &[(0, &[])]).expect("commit");
    assert_same_rows(&house, None);
    let first = publish(
        &house.lake,
        "a",
        &[(0, &[("AA", 1), ("UA", 2)]), (1, &[("AA", 3)])],
    )
    .expect("commit");
    publish(&house.lake, "b", &[(1, &[("DL", 4)]), (-3, &[("B6", 5)])]).expect("commit");
    assert_same_rows(&house, None);
    assert_same_rows(&house, Some(first));
    publish(&house.lake, "c", &[(0, &[])]).expect("commit");
    assert_same_rows(&house, None);

    let mut fields: Vec<_> = query_schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("delay", DataType::Float64, true)));
    house.ensure(&Schema::new(fields)).expect("evolve");
    publish(&house.lake, "d", &[(7, &[("WN", 8)])]).expect("commit");
    assert_same_rows(&house, None);

    // Over the bound of merging.
    for index in 10..50 {
        publish(
            &house.lake,
            &format!("e{index}"),
            &[(index, &[("AA", index)])],
        )
        .expect("commit");
    }
    publish(&house.lake, "f", &[(12, &[("FF", 1)]), (40, &[])]).expect("commit");
    assert_same_rows(&house, None);
}

/// One column of each type that is stored, two rows, the second null where that is allowed.
fn columns_of_every_type() -> Vec<(&'static str, ArrayRef, &'static str)> {
    let instant = FIRST_DAY_MICROS + 1_234_567;
    let pair = StructArray::from(vec![
        (
            Arc::new(Field::new("low", DataType::Int32, true)),
            Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("high", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("x"), None])) as ArrayRef,
        ),
    ]);
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None, Some(3)]),
        None,
    ]);
    let nanos = TimestampNanosecondArray::from(vec![Some(-1), None]);
    vec![
        (
            "bool",
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            "true",
        ),
        (
            "int",
            Arc::new(Int32Array::from(vec![Some(-1), None])),
            "-1",
        ),
        (
            "long",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
            "-9223372036854775808",
        ),
        (
            "float",
            Arc::new(Float32Array::from(vec![Some(0.5), None])),
            "0.5",
        ),
        (
            "double",
            Arc::new(Float64Array::from(vec![Some(-0.1), None])),
            "-0.1",
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("ä\n\"x"), None])),
            r#""ä\n\"x""#,
        ),
        (
            "count(t.x)",
            Arc::new(Int64Array::from(vec![Some(2), None])),
            "2",
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from(vec![Some(&[0u8, 255][..]), None])),
            r#""00ff""#,
        ),
        (
            "fixed",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    [Some([1u8, 2, 3]), None].into_iter(),
                    3,
                )
                .expect("fixed"),
            ),
            r#""010203""#,
        ),
        (
            "date",
            Arc::new(Date32Array::from(vec![Some(-1), None])),
            r#""1969-12-31""#,
        ),
        (
            "time",
            Arc::new(Time64MicrosecondArray::from(vec![
                Some(3_600_000_001),
                None,
            ])),
            r#""01:00:00.000001""#,
        ),
        (
            "local",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(instant), None])),
            r#""2013-01-01T00:00:01.234567""#,
        ),
        (
            "instant",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(instant), None]).with_timezone("+05:30"),
            ),
            r#""2013-01-01T00:00:01.234567+00:00""#,
        ),
        ("nanos", Arc::new(nanos), r#""1969-12-31T23:59:59.999999""#),
        (
            "decimal",
            Arc::new(
                Decimal128Array::from(vec![Some(-12_345), None])
                    .with_precision_and_scale(38, 4)
                    .expect("decimal"),
            ),
            r#""-1.2345""#,
        ),
        ("list", Arc::new(list), "[1,null,3]"),
        ("pair", Arc::new(pair), r#"{"low":1,"high":"x"}"#),
    ]
}

#[test]
fn pyiceberg_reads_every_type_as_it_was_written() {
    let house = House::new();
    let columns = columns_of_every_type();
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array, _)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let query = Arc::new(Schema::new(fields));
    let stored = output_schema(&query).expect("supported");
    house
        .lake
        .ensure_table(TABLE, &stored, OWNER)
        .expect("table");
    let arrays = columns
        .iter()
        .map(|(_, array, _)| Arc::clone(array))
        .collect();
    let batch = RecordBatch::try_new(query, arrays).expect("batch");
    let mut writer = house
        .lake
        .stage(TABLE, day(0), &attempt("a", 1))
        .expect("writer");
    writer.write(&batch).expect("write");
    let commit = Commit {
        backfill: "a".to_owned(),
        revision: 1,
        partitions: vec![PublishedPartition {
            staged: writer.finish().expect("finish"),
            attempt: 1,
            rows_read: 2,
        }],
    };
    house.lake.commit(TABLE, &commit).expect("commit");
    assert_eq!(house.table().schema, stored);

    let Some(rows) = read_by_pyiceberg(&house.table().metadata_location, None) else {
        return;
    };
    assert_eq!(rows.len(), 2);
    let full = rows
        .iter()
        .position(|row| row["bool"] == true)
        .expect("the first row");
    for (name, _, json) in &columns {
        let expected: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(rows[full][name], expected, "{name}");
        if *name != "pair" {
            assert!(rows[1 - full][name].is_null(), "{name}");
        }
    }
}
