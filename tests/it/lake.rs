//! The lake: staged partitions replace what is there, whole and at once, in tables that other readers understand.

mod pyiceberg;

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType},
};
use hindcast::{
    error::{Classify, ErrorKind},
    kv::Database,
    lake::{
        AttemptId, Commit, Error, Lake, MAX_SMALL_MANIFESTS, PublishedPartition, Staged, TableInfo,
        output_schema,
    },
    time::{Interval, ManualClock, ValidTime},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const CACHE_BYTES: u64 = 16 << 20;
const DAY_MICROS: i64 = 86_400_000_000;
/// 2013-01-01.
const FIRST_DAY_MICROS: i64 = 1_356_998_400_000_000;
const TABLE: &str = "totals";
const OWNER: &str = "daily_totals";

/// A warehouse in a temporary folder.
struct House {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    database: Option<Database>,
    lake: Lake,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = ManualClock::starting_at(FIRST_DAY_MICROS);
        let (database, lake) = open(folder.path(), &clock);
        Self {
            folder,
            clock,
            database: Some(database),
            lake,
        }
    }

    fn with_table() -> Self {
        let house = Self::new();
        house.ensure(&query_schema()).expect("new table");
        house
    }

    fn ensure(&self, query: &Schema) -> Result<(), Error> {
        let columns = output_schema(query)?;
        self.lake.ensure_table(TABLE, &columns, OWNER)
    }

    /// All handles closed, and everything opened again.
    fn reopen(self) -> Self {
        let Self {
            folder,
            clock,
            database,
            lake,
        } = self;
        drop((lake, database));
        let (database, lake) = open(folder.path(), &clock);
        Self {
            folder,
            clock,
            database: Some(database),
            lake,
        }
    }

    fn second_lake(&self) -> Lake {
        let database = self.database.as_ref().expect("open");
        Lake::open(
            &self.folder.path().join("warehouse"),
            database,
            self.clock.clone(),
        )
        .expect("lake")
    }

    fn table(&self) -> TableInfo {
        self.lake.table(TABLE).expect("table")
    }

    fn data_file_names(&self) -> BTreeSet<String> {
        names_in(
            &self
                .folder
                .path()
                .join("warehouse")
                .join(TABLE)
                .join("data"),
        )
    }

    fn metadata_file_names(&self) -> BTreeSet<String> {
        names_in(
            &self
                .folder
                .path()
                .join("warehouse")
                .join(TABLE)
                .join("metadata"),
        )
    }
}

fn open(folder: &Path, clock: &Arc<ManualClock>) -> (Database, Lake) {
    let database = Database::open(&folder.join("db"), CACHE_BYTES).expect("database");
    let lake = Lake::open(&folder.join("warehouse"), &database, clock.clone()).expect("lake");
    (database, lake)
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder)
        .expect("folder")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect()
}

fn query_schema() -> Schema {
    Schema::new(vec![
        Field::new("carrier", DataType::Utf8View, false),
        Field::new("flights", DataType::UInt64, true),
    ])
}

fn day(index: i64) -> ValidTime {
    ValidTime::from_micros(FIRST_DAY_MICROS + index * DAY_MICROS)
}

fn attempt(backfill: &str, attempt: u32) -> AttemptId {
    AttemptId {
        backfill: backfill.to_owned(),
        attempt,
    }
}

/// Rows as the query gives them: not in the types that are stored.
fn batch(rows: &[(&str, i64)]) -> RecordBatch {
    let carriers = StringArray::from_iter_values(rows.iter().map(|row| row.0));
    let flights = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let schema = query_schema();
    let cast = |array: ArrayRef, index: usize| {
        arrow::compute::cast(&array, schema.field(index).data_type()).expect("cast")
    };
    let columns = vec![cast(Arc::new(carriers), 0), cast(Arc::new(flights), 1)];
    RecordBatch::try_new(Arc::new(schema), columns).expect("batch")
}

fn stage(lake: &Lake, start: ValidTime, attempt: &AttemptId, rows: &[(&str, i64)]) -> Staged {
    let mut writer = lake.stage(TABLE, start, attempt).expect("writer");
    writer.write(&batch(rows)).expect("write");
    writer.finish().expect("finish")
}

fn publish(
    lake: &Lake,
    backfill: &str,
    partitions: &[(i64, &[(&str, i64)])],
) -> Result<i64, Error> {
    let partitions = partitions
        .iter()
        .map(|(index, rows)| PublishedPartition {
            staged: stage(lake, day(*index), &attempt(backfill, 1), rows),
            attempt: 1,
            rows_read: 100,
        })
        .collect();
    let commit = Commit {
        backfill: backfill.to_owned(),
        revision: 1,
        partitions,
    };
    lake.commit(TABLE, &commit)
        .map(|published| published.snapshot_id)
}

fn everything() -> Interval<ValidTime> {
    Interval::starting_at(ValidTime::MIN)
}

/// (day, carrier, flights) of the rows that a snapshot's files hold, sorted.
fn rows_at(lake: &Lake, snapshot_id: Option<i64>) -> Vec<(i64, String, i64)> {
    let mut rows = Vec::new();
    for file in lake.files(TABLE, snapshot_id, everything()).expect("files") {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(File::open(&file.path).expect("file"))
                .and_then(|builder| builder.build())
                .expect("reader");
        for batch in reader.map(|batch| batch.expect("batch")) {
            let carriers = batch["carrier"].as_string::<i32>();
            let flights = batch["flights"].as_primitive::<Int64Type>();
            let starts = batch["partition_start"].as_primitive::<TimestampMicrosecondType>();
            for index in 0..batch.num_rows() {
                assert_eq!(starts.value(index), file.partition_start.micros());
                let day = (starts.value(index) - FIRST_DAY_MICROS) / DAY_MICROS;
                rows.push((day, carriers.value(index).to_owned(), flights.value(index)));
            }
        }
    }
    rows.sort();
    rows
}

fn expected(rows: &[(i64, &str, i64)]) -> Vec<(i64, String, i64)> {
    rows.iter()
        .map(|(day, carrier, flights)| (*day, (*carrier).to_owned(), *flights))
        .collect()
}

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
fn what_is_staged_is_seen_by_nobody_and_can_be_dropped() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    let before = house.data_file_names();

    let staged = stage(&house.lake, day(0), &attempt("b", 1), &[("UA", 9)]);
    assert_eq!((staged.row_count, staged.files.len()), (1, 1));
    assert_eq!(house.data_file_names().len(), before.len() + 1);
    assert_eq!(rows_at(&house.lake, None), expected(&[(0, "AA", 1)]));
    staged.discard().expect("discard");
    assert_eq!(house.data_file_names(), before);

    let begin = || {
        let mut writer = house
            .lake
            .stage(TABLE, day(0), &attempt("b", 2))
            .expect("writer");
        writer.write(&batch(&[("UA", 9)])).expect("write");
        writer
    };
    begin().abort().expect("abort");
    assert_eq!(house.data_file_names(), before);
    drop(begin());
    assert_eq!(house.data_file_names(), before);

    let empty = house
        .lake
        .stage(TABLE, day(0), &attempt("b", 3))
        .expect("writer");
    assert!(empty.finish().expect("finish").files.is_empty());
    assert_eq!(house.data_file_names(), before);
}

#[test]
fn leftovers_of_dead_attempts_are_removed_and_nothing_else() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    publish(&house.lake, "b", &[(0, &[("UA", 1)])]).expect("commit");
    let published = house.data_file_names();
    for (backfill, number) in [("a", 2), ("a", 3), ("a-a", 2), ("b", 2)] {
        stage(
            &house.lake,
            day(0),
            &attempt(backfill, number),
            &[("DL", 1)],
        );
    }
    let alive = HashSet::from([(day(0), 3)]);
    assert_eq!(
        house
            .lake
            .remove_leftovers(TABLE, "a", &alive)
            .expect("removed"),
        1
    );
    assert_eq!(house.data_file_names().len(), published.len() + 3);
    for backfill in ["a", "a-a", "b"] {
        assert_eq!(
            house
                .lake
                .remove_leftovers(TABLE, backfill, &HashSet::new())
                .expect("removed"),
            1
        );
    }
    assert_eq!(house.data_file_names(), published);
}

#[test]
fn a_published_attempt_cannot_be_staged_again() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    let error = house
        .lake
        .stage(TABLE, day(0), &attempt("a", 1))
        .expect_err("published");
    assert!(matches!(error, Error::AttemptPublished { .. }), "{error}");
    // Left by a dead try and not published: overwritten.
    std::mem::forget(stage(
        &house.lake,
        day(1),
        &attempt("a", 1),
        &[("UA", 1), ("UA", 2)],
    ));
    let again = stage(&house.lake, day(1), &attempt("a", 1), &[("DL", 1)]);
    assert_eq!(again.row_count, 1);
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
        (
            vec![text("carrier", false), number(true), text("origin", false)],
            "origin",
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

    let names = house.metadata_file_names();
    let metadata_files = names
        .iter()
        .filter(|name| name.ends_with(".metadata.json"))
        .count();
    assert_eq!(metadata_files, 101);
    // Carried over, rewritten and added manifests of one commit.
    let last_list = names
        .iter()
        .filter(|name| name.starts_with("snap-"))
        .map(|name| {
            house
                .folder
                .path()
                .join("warehouse")
                .join(TABLE)
                .join("metadata")
                .join(name)
        })
        .map(|path| std::fs::read(path).expect("list"))
        .map(|bytes| {
            iceberg::spec::ManifestList::parse_with_version(
                &bytes,
                iceberg::spec::FormatVersion::V2,
            )
            .expect("list")
            .entries()
            .len()
        })
        .max();
    assert!(last_list <= Some(MAX_SMALL_MANIFESTS + 2), "{last_list:?}");
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

#[test]
fn damaged_metadata_is_an_error_and_never_a_wrong_answer() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    let location = house.table().metadata_location;
    let path = location.strip_prefix("file://").expect("a URI");
    std::fs::write(path, b"{").expect("damage");
    let error = house.reopen().lake.table(TABLE).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
}
