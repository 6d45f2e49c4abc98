//! The lake: a warehouse folder of Iceberg tables, whose partitions are staged out of sight and replaced whole.
//!
//! It promises:
//! - **Replacing is exact**: a commit puts the staged files in place of all rows of exactly the given partitions, in one
//!   snapshot. Doing it again with the same rows leaves the table's rows unchanged (invariant `BF-2`).
//! - **Durable, all or nothing**: every file that a snapshot names is on disk before the one step that publishes it, a
//!   compare-and-swap of the table's pointer in the database; a commit that has returned survives power loss.
//! - **Open**: any Iceberg reader reads the tables (format version 2), at the metadata location that [`Lake::table`] gives.
//! - **Traceable**: each snapshot says which attempts of which backfill made it ([`Lake::published_by`]).
//!
//! Left to others: which attempt may publish (the executor fences), and removing old snapshots (none is removed yet).
//!
//! **Layout**: `<warehouse>/<table>/data/<partition start, µs>-<backfill>-<attempt>-<n>.parquet` and
//! `<warehouse>/<table>/metadata/…`; the pointers are in keyspace `tables`. Manifests that small commits leave are merged,
//! metadata files older than the last 100 removed.
//!
//! All calls block; none may run on the async reactor.

mod catalog;
mod convert;
mod disk;
mod error;
mod identity;
mod manifests;
mod read;
mod replace;
mod schema;
mod stage;
mod summary;
mod table;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::datatypes::Schema;
use iceberg::io::FileIO;
use parking_lot::Mutex;

use catalog::Catalog;
pub(crate) use convert::convert as to_stored;
use disk::TableFolders;
pub use error::{Error, Result};
pub use read::{LakeFile, PartitionInfo, PublishedRecord, SnapshotInfo, TableInfo};
pub use replace::MAX_SMALL_MANIFESTS;
pub use schema::{PARTITION_COLUMN, output_schema};
use stage::StageTarget;
pub use stage::{AttemptId, StageWriter, Staged, TARGET_FILE_BYTES};
use table::Table;

use crate::{
    kv::Database,
    time::{Clock, ValidTime},
};

/// Longest name of a table: it is a folder's name.
const MAX_TABLE_NAME_BYTES: usize = 128;

/// All tables of a warehouse. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lake {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    warehouse: PathBuf,
    catalog: Catalog,
    file_io: FileIO,
    clock: Arc<dyn Clock>,
    tables: Mutex<HashMap<String, Arc<Table>>>,
}

/// Partitions that are published together.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The backfill that made them.
    pub backfill: String,
    /// The revision of the transform.
    pub revision: u32,
    /// One entry for each partition; one without files clears its partition.
    pub partitions: Vec<PublishedPartition>,
}

/// A staged partition on its way to the table.
#[derive(Debug, Clone)]
pub struct PublishedPartition {
    /// Its rows.
    pub staged: Staged,
    /// The attempt that staged it.
    pub attempt: u32,
    /// Rows that the attempt read.
    pub rows_read: u64,
}

/// A commit that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The snapshot that has it.
    pub snapshot_id: i64,
}

impl Lake {
    /// Opens the warehouse in the folder `warehouse`, made if it is not there, with its catalog in `database`.
    ///
    /// # Errors
    /// [`Error::BadName`] when the path cannot stand in a URI; [`Error::Io`]; storage faults.
    pub fn open(warehouse: &Path, database: &Database, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                warehouse: disk::prepare_warehouse(warehouse)?,
                catalog: Catalog::open(database)?,
                file_io: FileIO::new_with_fs(),
                clock,
                tables: Mutex::default(),
            }),
        })
    }

    /// Makes the table with the columns that [`output_schema`] gave, or adds what it lacks of them.
    ///
    /// Rows written before are null in a new column, so it may be null in the table. A column that may now be null may from
    /// then on be null in the table.
    ///
    /// **Durability**: the table is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::Owned`] when another transform made it; [`Error::SchemaConflict`] when a column is gone or has another type; [`Error::BadName`]; [`Error::Conflict`] when it moved at every try.
    pub fn ensure_table(&self, name: &str, columns: &Schema, owner_transform: &str) -> Result<()> {
        let table = self.slot(name)?;
        table.update(&self.shared.catalog, |head| {
            let now = self.shared.clock.now_micros();
            let next = match head {
                None => Some(table.create(columns, owner_transform, now)?),
                Some(head) => table.evolve(head, columns, owner_transform, now)?,
            };
            Ok(((), next))
        })
    }

    /// Whether [`Lake::ensure_table`] would succeed; changes nothing.
    ///
    /// # Errors
    /// As [`Lake::ensure_table`].
    pub fn check_table(&self, name: &str, columns: &Schema, owner_transform: &str) -> Result<()> {
        let table = self.slot(name)?;
        let head = match table.existing_head(&self.shared.catalog) {
            Ok(head) => head,
            Err(Error::TableNotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let now_micros = self.shared.clock.now_micros();
        table.evolve(&head, columns, owner_transform, now_micros)?;
        Ok(())
    }

    /// Begins to stage the rows of one partition. Nothing of it is visible before [`Lake::commit`].
    ///
    /// Files that a dead try of the same attempt left are overwritten.
    ///
    /// # Errors
    /// [`Error::TableNotFound`]; [`Error::BadName`] of the backfill; [`Error::AttemptPublished`] when this attempt's rows
    /// are in the table.
    pub fn stage(
        &self,
        name: &str,
        partition_start: ValidTime,
        attempt: &AttemptId,
    ) -> Result<StageWriter> {
        let table = self.slot(name)?;
        let head = table.existing_head(&self.shared.catalog)?;
        let schema = head.metadata.current_schema();
        let target = StageTarget {
            table: table.name.clone(),
            folders: table.folders.clone(),
            file_io: self.shared.file_io.clone(),
            table_schema: Arc::clone(schema),
            arrow_schema: schema::to_arrow_schema(schema)?,
            partition_spec_id: head.metadata.default_partition_spec_id(),
        };
        let writer = StageWriter::new(target, partition_start, attempt)?;
        // Overwriting a published file would change what a snapshot holds.
        if writer.has_leftovers()
            && read::published_records(name, &head.metadata, &attempt.backfill)?
                .iter()
                .any(|record| {
                    (record.partition_start, record.attempt) == (partition_start, attempt.attempt)
                })
        {
            return Err(Error::AttemptPublished {
                table: name.to_owned(),
                partition_start,
                attempt: attempt.attempt,
            });
        }
        Ok(writer)
    }

    /// Replaces the given partitions, in one snapshot. All other partitions stay as they are.
    ///
    /// **Durability**: the snapshot survives power loss when this returns.
    /// **Cost**: six or so syncs, and work in proportion to the partitions given, not to those there.
    ///
    /// # Errors
    /// [`Error::TableNotFound`]; [`Error::Conflict`] when the table moved at every try; [`Error::DuplicatePartition`],
    /// [`Error::ForeignStaged`]. The staged files stay in every case. After a storage fault it is unknown whether the
    /// snapshot was published; [`Lake::published_by`] tells after a restart.
    pub fn commit(&self, name: &str, commit: &Commit) -> Result<Published> {
        stage::check_backfill_name(&commit.backfill)?;
        let table = self.slot(name)?;
        let replacements = replace::replacements(name, commit)?;
        let snapshot_id = table.update(&self.shared.catalog, |head| {
            let head = head.ok_or_else(|| Error::TableNotFound {
                table: name.to_owned(),
            })?;
            let context = replace::Context {
                table: name,
                folders: &table.folders,
                file_io: &self.shared.file_io,
                cache: &table.cache,
                now_micros: self.shared.clock.now_micros(),
            };
            let (snapshot_id, next) = replace::draft(context, head, commit, &replacements)?;
            Ok((snapshot_id, Some(next)))
        })?;
        Ok(Published { snapshot_id })
    }

    /// Removes data files of `backfill` that dead attempts left; how many.
    ///
    /// What it has published stays, and so do the (partition, attempt) pairs in `alive`: give those that are being staged
    /// or waiting to be committed.
    ///
    /// # Errors
    /// [`Error::TableNotFound`]; [`Error::Io`].
    pub fn remove_leftovers(
        &self,
        name: &str,
        backfill: &str,
        alive: &HashSet<(ValidTime, u32)>,
    ) -> Result<u64> {
        stage::check_backfill_name(backfill)?;
        let table = self.slot(name)?;
        table.while_still(|| {
            let head = table.existing_head(&self.shared.catalog)?;
            let published = read::published_records(name, &head.metadata, backfill)?;
            let keep = published
                .iter()
                .map(|record| (record.partition_start, record.attempt))
                .chain(alive.iter().copied())
                .collect();
            stage::remove_leftovers(&table.folders, backfill, &keep)
        })
    }

    fn slot(&self, name: &str) -> Result<Arc<Table>> {
        check_table_name(name)?;
        let mut tables = self.shared.tables.lock();
        if let Some(table) = tables.get(name) {
            return Ok(Arc::clone(table));
        }
        let folders = TableFolders::new(&self.shared.warehouse, name);
        let table = Arc::new(Table::new(name, folders));
        tables.insert(name.to_owned(), Arc::clone(&table));
        Ok(table)
    }
}

fn check_table_name(name: &str) -> Result<()> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|byte| !byte.is_ascii_digit());
    if name.len() <= MAX_TABLE_NAME_BYTES && starts_well && name.bytes().all(is_word) {
        return Ok(());
    }
    Err(Error::BadName {
        what: "table",
        name: name.to_owned(),
        problem: "it must match [a-z_][a-z0-9_]* and be 128 bytes at most",
    })
}
