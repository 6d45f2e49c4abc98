//! The lake: staged partitions replace what is there, whole and at once, in tables that other readers understand.

mod house;
mod pyiceberg;
mod refusals;
mod staging;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use hindcast::{
    lake::{Commit, Error, MAX_SMALL_MANIFESTS, PublishedPartition, output_schema},
    time::{Interval, ValidTime},
};
use iceberg::spec::{FormatVersion, ManifestList};

use house::{
    DAY_MICROS, FIRST_DAY_MICROS, House, OWNER, TABLE, attempt, day, everything, expected, publish,
    query_schema, rows_at, stage,
};

#[test]
fn a_new_table_has_columns_and_no_snapshot() {
    let house = House::with_table();
    let table = house.table();
    let names: Vec<_> = table
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["carrier", "flights", "partition_start"]);
    assert_eq!(
        table.schema,
        output_schema(&query_schema()).expect("supported")
    );
    assert_eq!((table.current_snapshot_id, table.row_count), (None, 0));
    assert_eq!(table.transform, OWNER);
    assert_eq!(house.lake.tables().expect("tables"), [TABLE]);
    assert!(rows_at(&house.lake, None).is_empty());
}

#[test]
fn replacing_a_partition_leaves_all_others_untouched() {
    let house = House::with_table();
    let first = publish(
        &house.lake,
        "a",
        &[(0, &[("AA", 1), ("UA", 2)]), (1, &[("AA", 3)])],
    )
    .expect("commit");
    let second =
        publish(&house.lake, "b", &[(1, &[("DL", 4)]), (2, &[("B6", 5)])]).expect("commit");
    let now = expected(&[(0, "AA", 1), (0, "UA", 2), (1, "DL", 4), (2, "B6", 5)]);
    assert_eq!(rows_at(&house.lake, None), now);
    assert_eq!(
        rows_at(&house.lake, Some(first)),
        expected(&[(0, "AA", 1), (0, "UA", 2), (1, "AA", 3)])
    );

    let table = house.table();
    assert_eq!(
        (table.current_snapshot_id, table.row_count, table.file_count),
        (Some(second), 4, 3)
    );
    let operations: Vec<_> = table
        .snapshots
        .iter()
        .map(|snapshot| {
            (
                snapshot.operation.as_str(),
                snapshot.row_count,
                snapshot.partition_count,
            )
        })
        .collect();
    assert_eq!(operations, [("append", 3, 2), ("overwrite", 4, 2)]);
    let partitions: Vec<_> = table
        .partitions
        .iter()
        .map(|partition| (partition.start, partition.row_count))
        .collect();
    assert_eq!(partitions, [(day(0), 2), (day(1), 1), (day(2), 1)]);

    let house = house.reopen();
    assert_eq!(rows_at(&house.lake, None), now);
    assert_eq!(house.table().snapshots, table.snapshots);
}

#[test]
fn publishing_the_same_rows_again_leaves_the_same_rows() {
    let house = House::with_table();
    let partitions: [(i64, &[(&str, i64)]); 2] = [(0, &[("AA", 1), ("UA", 2)]), (1, &[("AA", 3)])];
    publish(&house.lake, "a", &partitions).expect("commit");
    let once = rows_at(&house.lake, None);
    publish(&house.lake, "b", &partitions).expect("commit");
    assert_eq!(rows_at(&house.lake, None), once);
    assert_eq!(house.table().row_count, 3);
}

#[test]
fn an_empty_partition_clears_what_was_there() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)]), (1, &[("AA", 2)])]).expect("commit");
    publish(&house.lake, "b", &[(0, &[])]).expect("commit");
    assert_eq!(rows_at(&house.lake, None), expected(&[(1, "AA", 2)]));
    let table = house.table();
    assert_eq!(table.snapshots[1].operation, "delete");
    assert_eq!(table.partitions.len(), 1);
}

#[test]
fn an_empty_publish_of_an_empty_table_is_recorded() {
    let house = House::with_table();
    let snapshot_id = publish(&house.lake, "a", &[(0, &[]), (5, &[])]).expect("commit");
    let house = house.reopen();
    assert_eq!(house.table().current_snapshot_id, Some(snapshot_id));
    let records = house.lake.published_by(TABLE, "a").expect("records");
    let starts: Vec<_> = records
        .iter()
        .map(|record| record.partition_start)
        .collect();
    assert_eq!(starts, [day(0), day(5)]);
}

#[test]
fn published_by_tells_which_attempts_made_it() {
    let house = House::with_table();
    let first = publish(&house.lake, "a", &[(1, &[("AA", 1)]), (0, &[])]).expect("commit");
    publish(&house.lake, "other", &[(2, &[("AA", 1)])]).expect("commit");
    let staged = stage(
        &house.lake,
        day(3),
        &attempt("a", 7),
        &[("AA", 1), ("UA", 1)],
    );
    let commit = Commit {
        backfill: "a".to_owned(),
        revision: 3,
        partitions: vec![PublishedPartition {
            staged,
            attempt: 7,
            rows_read: 12,
        }],
    };
    let last = house
        .lake
        .commit(TABLE, &commit)
        .expect("commit")
        .snapshot_id;
    let records: Vec<_> = house
        .reopen()
        .lake
        .published_by(TABLE, "a")
        .expect("records")
        .into_iter()
        .map(|it| {
            (
                it.partition_start,
                it.attempt,
                it.rows_read,
                it.rows_written,
                it.snapshot_id,
            )
        })
        .collect();
    assert_eq!(
        records,
        [
            (day(0), 1, 100, 0, first),
            (day(1), 1, 100, 1, first),
            (day(3), 7, 12, 2, last),
        ]
    );
}

#[test]
fn an_added_column_is_null_in_older_rows() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    let mut fields: Vec<_> = query_schema().fields().iter().cloned().collect();
    fields.insert(0, Arc::new(Field::new("delay", DataType::Float64, true)));
    let wider = Schema::new(fields);
    house.ensure(&wider).expect("evolve");
    house.ensure(&wider).expect("nothing to do");
    let house = house.reopen();
    let schema = house.table().schema;
    let names: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["carrier", "flights", "delay", "partition_start"]);
    // The narrow query's batches still fit.
    publish(&house.lake, "b", &[(1, &[("UA", 2)])]).expect("commit");
    assert_eq!(
        rows_at(&house.lake, None),
        expected(&[(0, "AA", 1), (1, "UA", 2)])
    );
}

#[test]
fn files_are_cut_to_a_range_and_sorted() {
    let house = House::with_table();
    for index in [3, 1, 2, 0] {
        publish(
            &house.lake,
            &format!("b{index}"),
            &[(index, &[("AA", index)])],
        )
        .expect("commit");
    }
    let starts = |range| -> Vec<_> {
        let files = house.lake.files(TABLE, None, range).expect("files");
        files.iter().map(|file| file.partition_start).collect()
    };
    assert_eq!(starts(Interval::new(day(1), day(3))), [day(1), day(2)]);
    assert_eq!(starts(Interval::starting_at(day(3))), [day(3)]);
    assert_eq!(starts(Interval::new(ValidTime::MIN, day(0))), []);
    assert_eq!(starts(everything()), [day(0), day(1), day(2), day(3)]);
}

#[test]
fn many_commits_leave_few_manifests_and_metadata_files() {
    let house = House::with_table();
    const COMMITS: i64 = 120;
    for index in 0..COMMITS {
        // Every third commit replaces an earlier day.
        let index = if index % 3 == 2 { index / 2 } else { index };
        publish(
            &house.lake,
            &format!("b{index}-{}", house.table().snapshots.len()),
            &[(index, &[("AA", index)])],
        )
        .expect("commit");
    }
    let table = house.table();
    let rows = rows_at(&house.lake, None);
    assert_eq!(rows.len() as u64, table.row_count);
    assert!(rows.iter().all(|(day, _, flights)| day == flights));
    assert_eq!(table.snapshots.len() as i64, COMMITS);
    assert_eq!(
        table.snapshots.last().map(|snapshot| snapshot.row_count),
        Some(table.row_count)
    );

    let names = house.file_names("metadata");
    let metadata_file_count = names
        .iter()
        .filter(|name| name.ends_with(".metadata.json"))
        .count();
    assert_eq!(metadata_file_count, 101);
    let longest_list = names
        .iter()
        .filter(|name| name.starts_with("snap-"))
        .map(|name| std::fs::read(house.table_folder().join("metadata").join(name)).expect("list"))
        .map(|bytes| ManifestList::parse_with_version(&bytes, FormatVersion::V2).expect("list"))
        .map(|list| list.entries().len())
        .max();
    // Taken over, one rewritten, one added.
    assert!(
        longest_list <= Some(MAX_SMALL_MANIFESTS + 2),
        "{longest_list:?}"
    );
    assert_eq!(rows_at(&house.reopen().lake, None), rows);
}

#[test]
fn two_lakes_on_one_database_lose_no_commit() {
    let house = House::with_table();
    let lakes = [house.lake.clone(), house.second_lake()];
    const EACH: i64 = 15;
    std::thread::scope(|scope| {
        for (writer, lake) in lakes.iter().enumerate() {
            scope.spawn(move || {
                for index in 0..EACH {
                    let day = index * 2 + writer as i64;
                    // Each try is a new attempt of a new backfill.
                    let mut tries = 0;
                    loop {
                        tries += 1;
                        match publish(
                            lake,
                            &format!("w{writer}-{index}-{tries}"),
                            &[(day, &[("AA", day)])],
                        ) {
                            Ok(_) => break,
                            Err(Error::Conflict { .. }) => assert!(tries < 20),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    let rows = rows_at(&house.lake, None);
    assert_eq!(rows.len() as i64, 2 * EACH);
    assert_eq!(rows_at(&lakes[1], None), rows);
    assert_eq!(house.table().snapshots.len() as i64, 2 * EACH);
    // Drafts that lost the race are gone.
    let names = house.file_names("metadata");
    let list_count = names
        .iter()
        .filter(|name| name.starts_with("snap-"))
        .count();
    assert_eq!(list_count as i64, 2 * EACH);
}

#[test]
fn a_clock_that_steps_back_does_not_stop_commits() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    house.clock.set(FIRST_DAY_MICROS - 30 * DAY_MICROS);
    publish(&house.lake, "b", &[(1, &[("AA", 1)])]).expect("commit");
    house.clock.set(FIRST_DAY_MICROS + DAY_MICROS);
    publish(&house.lake, "c", &[(2, &[("AA", 1)])]).expect("commit");
    let times: Vec<_> = house
        .table()
        .snapshots
        .iter()
        .map(|it| it.commit_time.micros())
        .collect();
    assert_eq!(
        times,
        [
            FIRST_DAY_MICROS,
            FIRST_DAY_MICROS,
            FIRST_DAY_MICROS + DAY_MICROS
        ]
    );
}
