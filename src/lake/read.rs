//! What a table holds: its snapshots, partitions and files, and which backfill put them there.

use std::{collections::BTreeMap, path::PathBuf};

use arrow::datatypes::SchemaRef;
use iceberg::spec::{Snapshot, SnapshotRef, TableMetadata};

use super::{
    Lake,
    catalog::{Head, read_manifest_list},
    disk,
    error::{Error, Result},
    manifests::{live_file_count, partition_bounds, partition_start},
    schema::to_plain_schema,
    summary::{self, Counts},
    table::{OWNER, Table},
};
use crate::time::{Interval, SysTime, ValidTime};

/// A table as its current snapshot has it.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// Its folder, as a `file://` URI.
    pub location: String,
    /// Its current metadata file, as a `file://` URI: what other Iceberg readers open.
    pub metadata_location: String,
    /// `None` before the first commit.
    pub current_snapshot_id: Option<i64>,
    /// Its columns; the last is [`super::PARTITION_COLUMN`].
    pub schema: SchemaRef,
    /// Rows in all partitions.
    pub row_count: u64,
    /// Data files in all partitions.
    pub file_count: u64,
    /// Size of these files.
    pub size_bytes: u64,
    /// The transform that writes it.
    pub transform: String,
    /// Oldest first; those that led to the current one.
    pub snapshots: Vec<SnapshotInfo>,
    /// By start. A partition that was published empty is not in it.
    pub partitions: Vec<PartitionInfo>,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its id.
    pub snapshot_id: i64,
    /// When it was made, to the millisecond; never before that of its parent.
    pub commit_time: SysTime,
    /// `append`, `overwrite` or `delete`.
    pub operation: String,
    /// Rows in the table after it.
    pub row_count: u64,
    /// The backfill that made it; `None`: something else did.
    pub backfill: Option<String>,
    /// Partitions that it replaced, empty ones included.
    pub partition_count: u64,
}

/// One partition that has rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its start.
    pub start: ValidTime,
    /// Its rows.
    pub row_count: u64,
    /// Its data files.
    pub file_count: u64,
    /// Size of these files.
    pub size_bytes: u64,
}

/// A data file. One written before a column was added lacks that column: its rows are null there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFile {
    /// Where it is.
    pub path: PathBuf,
    /// The partition that all its rows belong to.
    pub partition_start: ValidTime,
    /// Its rows.
    pub row_count: u64,
    /// Its size.
    pub size_bytes: u64,
}

/// A partition that a backfill published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedRecord {
    /// The partition.
    pub partition_start: ValidTime,
    /// The attempt whose rows were published.
    pub attempt: u32,
    /// Rows that the attempt read.
    pub rows_read: u64,
    /// Rows that it wrote.
    pub rows_written: u64,
    /// The snapshot that published it.
    pub snapshot_id: i64,
}

impl Lake {
    /// The names of all tables, ascending.
    ///
    /// # Errors
    /// Storage faults.
    pub fn tables(&self) -> Result<Vec<String>> {
        self.shared.catalog.tables()
    }

    /// The table's columns; the last is [`super::PARTITION_COLUMN`]. **Cost**: one key.
    ///
    /// # Errors
    /// [`Error::TableNotFound`].
    pub fn schema(&self, name: &str) -> Result<SchemaRef> {
        let head = self.slot(name)?.existing_head(&self.shared.catalog)?;
        to_plain_schema(head.metadata.current_schema())
    }

    /// The snapshot that is current; `None` before the first commit. **Cost**: one key.
    ///
    /// # Errors
    /// [`Error::TableNotFound`].
    pub fn current_snapshot_id(&self, name: &str) -> Result<Option<i64>> {
        let head = self.slot(name)?.existing_head(&self.shared.catalog)?;
        Ok(head.metadata.current_snapshot_id())
    }

    /// What the table holds. **Cost**: reads each manifest once; later calls find them in memory.
    ///
    /// # Errors
    /// [`Error::TableNotFound`]; [`Error::Damaged`] when its metadata cannot be read.
    pub fn table(&self, name: &str) -> Result<TableInfo> {
        let table = self.slot(name)?;
        let head = table.existing_head(&self.shared.catalog)?;
        let metadata = &head.metadata;
        let mut partitions: BTreeMap<ValidTime, Counts> = BTreeMap::new();
        let mut totals = Counts::default();
        self.for_each_file(&table, &head, None, everything(), |start, file| {
            partitions.entry(start).or_default().add(file);
            totals.add(file);
        })?;
        Ok(TableInfo {
            name: name.to_owned(),
            location: metadata.location().to_owned(),
            metadata_location: head.metadata_location.clone(),
            current_snapshot_id: metadata.current_snapshot_id(),
            schema: to_plain_schema(metadata.current_schema())?,
            row_count: totals.rows,
            file_count: totals.files,
            size_bytes: totals.bytes,
            transform: metadata
                .properties()
                .get(OWNER)
                .cloned()
                .unwrap_or_default(),
            snapshots: lineage(metadata)
                .iter()
                .map(|snapshot| snapshot_info(name, snapshot))
                .collect::<Result<_>>()?,
            partitions: partitions.into_iter().map(partition_info).collect(),
        })
    }

    /// The data files of the partitions that start in `range`, by (partition start, path); `snapshot_id` `None`: now.
    ///
    /// **Cost**: opens the manifests that may hold such partitions; those of the current snapshot stay in memory.
    ///
    /// # Errors
    /// [`Error::TableNotFound`], [`Error::SnapshotNotFound`]; [`Error::Damaged`] when its metadata cannot be read.
    pub fn files(
        &self,
        name: &str,
        snapshot_id: Option<i64>,
        range: Interval<ValidTime>,
    ) -> Result<Vec<LakeFile>> {
        let table = self.slot(name)?;
        let head = table.existing_head(&self.shared.catalog)?;
        let mut files = Vec::new();
        self.for_each_file(&table, &head, snapshot_id, range, |start, file| {
            files.push(LakeFile {
                path: disk::to_path(file.file_path()),
                partition_start: start,
                row_count: file.record_count(),
                size_bytes: file.file_size_in_bytes(),
            });
        })?;
        files.sort_by(|a, b| (a.partition_start, &a.path).cmp(&(b.partition_start, &b.path)));
        Ok(files)
    }

    /// What `backfill` has published, in the order of publishing: after a crash this tells which attempts made it.
    ///
    /// # Errors
    /// [`Error::TableNotFound`]; [`Error::Damaged`] when its metadata cannot be read.
    pub fn published_by(&self, name: &str, backfill: &str) -> Result<Vec<PublishedRecord>> {
        let head = self.slot(name)?.existing_head(&self.shared.catalog)?;
        published_records(name, &head.metadata, backfill)
    }

    fn for_each_file(
        &self,
        table: &Table,
        head: &Head,
        snapshot_id: Option<i64>,
        range: Interval<ValidTime>,
        mut visit: impl FnMut(ValidTime, &iceberg::spec::DataFile),
    ) -> Result<()> {
        let older;
        let is_current =
            snapshot_id.is_none() || snapshot_id == head.metadata.current_snapshot_id();
        let manifests = if is_current {
            &head.manifests
        } else {
            older = read_manifest_list(
                &table.name,
                find_snapshot(&table.name, &head.metadata, snapshot_id)?,
            )?;
            &older
        };
        for manifest in manifests
            .iter()
            .filter(|manifest| live_file_count(manifest) > 0)
        {
            if let Some((first, last)) = partition_bounds(manifest)
                && (last < range.from || range.to.is_some_and(|to| to <= first))
            {
                continue;
            }
            let entries = table
                .cache
                .entries(&table.name, &self.shared.file_io, manifest)?;
            for entry in entries.iter().filter(|entry| entry.is_alive()) {
                let start = partition_start(&table.name, &entry.data_file)?;
                if range.contains(start) {
                    visit(start, &entry.data_file);
                }
            }
        }
        if !is_current {
            table.cache.retain(&head.manifests);
        }
        Ok(())
    }
}

/// Every partition that there can be.
pub(super) fn everything() -> Interval<ValidTime> {
    Interval::starting_at(ValidTime::MIN)
}

/// What `backfill` published, from the table's snapshots, oldest first.
pub(super) fn published_records(
    name: &str,
    metadata: &TableMetadata,
    backfill: &str,
) -> Result<Vec<PublishedRecord>> {
    let mut records = Vec::new();
    for snapshot in lineage(metadata) {
        if summary::backfill(&snapshot) != Some(backfill) {
            continue;
        }
        let partitions = summary::partitions(name, &snapshot)?;
        records.extend(partitions.into_iter().map(|partition| PublishedRecord {
            partition_start: partition.start,
            attempt: partition.attempt,
            rows_read: partition.rows_read,
            rows_written: partition.rows_written,
            snapshot_id: snapshot.snapshot_id(),
        }));
    }
    Ok(records)
}

/// The current snapshot and those before it, oldest first.
fn lineage(metadata: &TableMetadata) -> Vec<SnapshotRef> {
    let mut snapshots = Vec::new();
    let mut next = metadata.current_snapshot();
    while let Some(snapshot) = next {
        snapshots.push(SnapshotRef::clone(snapshot));
        next = snapshot
            .parent_snapshot_id()
            .and_then(|id| metadata.snapshot_by_id(id));
    }
    snapshots.reverse();
    snapshots
}

fn find_snapshot<'a>(
    name: &str,
    metadata: &'a TableMetadata,
    snapshot_id: Option<i64>,
) -> Result<&'a SnapshotRef> {
    let snapshot_id = snapshot_id.unwrap_or_default();
    metadata
        .snapshot_by_id(snapshot_id)
        .ok_or_else(|| Error::SnapshotNotFound {
            table: name.to_owned(),
            snapshot_id,
        })
}

fn snapshot_info(name: &str, snapshot: &Snapshot) -> Result<SnapshotInfo> {
    Ok(SnapshotInfo {
        snapshot_id: snapshot.snapshot_id(),
        commit_time: SysTime::from_micros(snapshot.timestamp_ms().saturating_mul(1_000)),
        operation: snapshot.summary().operation.as_str().to_owned(),
        row_count: Counts::totals(name, snapshot)?.rows,
        backfill: summary::backfill(snapshot).map(str::to_owned),
        partition_count: summary::partitions(name, snapshot)?.len() as u64,
    })
}

fn partition_info((start, counts): (ValidTime, Counts)) -> PartitionInfo {
    PartitionInfo {
        start,
        row_count: counts.rows,
        file_count: counts.files,
        size_bytes: counts.bytes,
    }
}
