//! A warehouse in a temporary folder, and what tests do with it.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType},
};
use hindcast::{
    kv::Database,
    lake::{AttemptId, Commit, Error, Lake, PublishedPartition, Staged, TableInfo, output_schema},
    time::{Interval, ManualClock, ValidTime},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const CACHE_BYTES: u64 = 16 << 20;
pub(super) const DAY_MICROS: i64 = 86_400_000_000;
/// 2013-01-01.
pub(super) const FIRST_DAY_MICROS: i64 = 1_356_998_400_000_000;
pub(super) const TABLE: &str = "totals";
pub(super) const OWNER: &str = "daily_totals";

/// A warehouse in a temporary folder.
pub(super) struct House {
    pub(super) folder: tempfile::TempDir,
    pub(super) clock: Arc<ManualClock>,
    database: Database,
    pub(super) lake: Lake,
}

impl House {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = ManualClock::starting_at(FIRST_DAY_MICROS);
        let (database, lake) = open(folder.path(), &clock);
        Self {
            folder,
            clock,
            database,
            lake,
        }
    }

    pub(super) fn with_table() -> Self {
        let house = Self::new();
        house.ensure(&query_schema()).expect("new table");
        house
    }

    pub(super) fn ensure(&self, query: &Schema) -> Result<(), Error> {
        let columns = output_schema(query)?;
        self.lake.ensure_table(TABLE, &columns, OWNER)
    }

    /// All handles closed, and everything opened again.
    pub(super) fn reopen(self) -> Self {
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
            database,
            lake,
        }
    }

    /// Another lake on the same database, which knows nothing of what this one has in memory.
    pub(super) fn second_lake(&self) -> Lake {
        let warehouse = self.folder.path().join("warehouse");
        Lake::open(&warehouse, &self.database, self.clock.clone()).expect("lake")
    }

    pub(super) fn table(&self) -> TableInfo {
        self.lake.table(TABLE).expect("table")
    }

    /// The names of the files in a folder of the table: `data` or `metadata`.
    pub(super) fn file_names(&self, folder: &str) -> BTreeSet<String> {
        std::fs::read_dir(self.table_folder().join(folder))
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

    pub(super) fn table_folder(&self) -> PathBuf {
        self.folder.path().join("warehouse").join(TABLE)
    }
}

pub(super) fn open(folder: &Path, clock: &Arc<ManualClock>) -> (Database, Lake) {
    let database = Database::open(&folder.join("db"), CACHE_BYTES).expect("database");
    let lake = Lake::open(&folder.join("warehouse"), &database, clock.clone()).expect("lake");
    (database, lake)
}

pub(super) fn query_schema() -> Schema {
    Schema::new(vec![
        Field::new("carrier", DataType::Utf8View, false),
        Field::new("flights", DataType::UInt64, true),
    ])
}

pub(super) fn day(index: i64) -> ValidTime {
    ValidTime::from_micros(FIRST_DAY_MICROS + index * DAY_MICROS)
}

pub(super) fn attempt(backfill: &str, attempt: u32) -> AttemptId {
    AttemptId {
        backfill: backfill.to_owned(),
        attempt,
    }
}

/// Rows as the query gives them: not in the types that are stored.
pub(super) fn batch(rows: &[(&str, i64)]) -> RecordBatch {
    let carriers = StringArray::from_iter_values(rows.iter().map(|row| row.0));
    let flights = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let schema = query_schema();
    let cast = |array: ArrayRef, index: usize| {
        arrow::compute::cast(&array, schema.field(index).data_type()).expect("cast")
    };
    let columns = vec![cast(Arc::new(carriers), 0), cast(Arc::new(flights), 1)];
    RecordBatch::try_new(Arc::new(schema), columns).expect("batch")
}

pub(super) fn stage(
    lake: &Lake,
    start: ValidTime,
    attempt: &AttemptId,
    rows: &[(&str, i64)],
) -> Staged {
    let mut writer = lake.stage(TABLE, start, attempt).expect("writer");
    writer.write(&batch(rows)).expect("write");
    writer.finish().expect("finish")
}

pub(super) fn publish(
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

/// Commits one staged partition as attempt 1, having read 100 rows.
pub(super) fn commit(lake: &Lake, backfill: &str, staged: Staged) -> i64 {
    let commit = Commit {
        backfill: backfill.to_owned(),
        revision: 1,
        partitions: vec![PublishedPartition {
            staged,
            attempt: 1,
            rows_read: 100,
        }],
    };
    lake.commit(TABLE, &commit).expect("commit").snapshot_id
}

pub(super) fn everything() -> Interval<ValidTime> {
    Interval::starting_at(ValidTime::MIN)
}

/// (day, carrier, flights) of the rows that a snapshot's files hold, sorted.
pub(super) fn rows_at(lake: &Lake, snapshot_id: Option<i64>) -> Vec<(i64, String, i64)> {
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

pub(super) fn expected(rows: &[(i64, &str, i64)]) -> Vec<(i64, String, i64)> {
    rows.iter()
        .map(|(day, carrier, flights)| (*day, (*carrier).to_owned(), *flights))
        .collect()
}
