//! What is refused, and how it is named.

use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema};
use hindcast::{
    error::{Classify, ErrorKind},
    lake::{Commit, Error, PublishedPartition, output_schema},
};

use super::house::{House, OWNER, TABLE, attempt, day, everything, publish, query_schema, stage};

#[test]
fn columns_that_do_not_fit_the_table_are_named() {
    let house = House::with_table();
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let number = |nullable| Field::new("flights", DataType::Int64, nullable);
    for (fields, column) in [
        (vec![text("carrier", false)], "flights"),
        (
            vec![text("carrier", false), text("flights", true)],
            "flights",
        ),
    ] {
        let error = house.ensure(&Schema::new(fields)).expect_err("conflict");
        assert!(error.to_string().contains("another table name"), "{error}");
        assert!(
            matches!(error, Error::SchemaConflict { column: ref found, .. } if found == column),
            "{error}"
        );
    }
    house
        .ensure(&Schema::new(vec![text("carrier", true), number(false)]))
        .expect("null may be allowed later, and not be used");
    assert!(house.table().schema.field(0).is_nullable());
    assert!(house.table().schema.field(1).is_nullable());
}

#[test]
fn a_table_has_one_owner() {
    let house = House::with_table();
    let columns = output_schema(&query_schema()).expect("supported");
    let error = house
        .lake
        .ensure_table(TABLE, &columns, "somebody_else")
        .expect_err("owned");
    assert_eq!(
        (error.kind(), error.reason()),
        (ErrorKind::FailedPrecondition, "TABLE_OWNED")
    );
    assert!(error.to_string().contains(OWNER), "{error}");
}

#[test]
fn what_is_not_there_is_named() {
    let house = House::with_table();
    let error = house.lake.table("nowhere").expect_err("missing");
    assert_eq!(
        (error.kind(), error.reason()),
        (ErrorKind::NotFound, "TABLE_NOT_FOUND")
    );
    assert_eq!(error.resource(), Some(("table", "nowhere".to_owned())));
    let error = house
        .lake
        .stage("nowhere", day(0), &attempt("a", 1))
        .expect_err("missing");
    assert_eq!(error.reason(), "TABLE_NOT_FOUND");
    let error = house
        .lake
        .files(TABLE, Some(7), everything())
        .expect_err("missing");
    assert_eq!(error.reason(), "SNAPSHOT_NOT_FOUND");
    for name in ["", "..", "a/b", "A", "1a", "ä", &"x".repeat(129)] {
        let error = house.lake.table(name).expect_err("bad name");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
    }
}

#[test]
fn a_commit_names_each_partition_once_and_its_own_table() {
    let house = House::with_table();
    let error = publish(&house.lake, "a", &[(0, &[("AA", 1)]), (0, &[])]).expect_err("twice");
    assert!(matches!(error, Error::DuplicatePartition { .. }), "{error}");
    let columns = output_schema(&query_schema()).expect("supported");
    house
        .lake
        .ensure_table("other", &columns, OWNER)
        .expect("table");
    let commit = Commit {
        backfill: "a".to_owned(),
        revision: 1,
        partitions: vec![PublishedPartition {
            staged: stage(&house.lake, day(0), &attempt("a", 2), &[("AA", 1)]),
            attempt: 2,
            rows_read: 1,
        }],
    };
    let error = house.lake.commit("other", &commit).expect_err("foreign");
    assert!(matches!(error, Error::ForeignStaged { .. }), "{error}");
}

/// Spoils each kind of metadata file in turn, and reads.
#[test]
fn damaged_metadata_is_an_error_and_never_a_wrong_answer() {
    type Spoil = fn(&Path) -> std::io::Result<()>;
    let spoilers: [Spoil; 2] = [
        |path| std::fs::write(path, b"{"),
        |path| std::fs::remove_file(path),
    ];
    for ending in [".metadata.json", "-m0.avro", "snap-"] {
        for spoil in spoilers {
            let house = House::with_table();
            publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
            let folder = house.table_folder().join("metadata");
            for name in house.file_names("metadata") {
                if name.contains(ending) {
                    spoil(&folder.join(name)).expect("spoilt");
                }
            }
            let error = house.reopen().lake.table(TABLE).expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::DataLoss, "{ending}: {error}");
        }
    }
}

#[test]
fn a_new_column_may_be_null_in_rows_written_before() {
    let house = House::with_table();
    let mut fields: Vec<_> = query_schema().fields().iter().cloned().collect();
    fields.push(std::sync::Arc::new(Field::new(
        "origin",
        DataType::Utf8,
        false,
    )));
    house.ensure(&Schema::new(fields)).expect("added");
    let stored = house.table().schema;
    let origin = stored.field_with_name("origin").expect("there");
    assert!(origin.is_nullable());
}
