//! Staging: a partition's rows as data files that no snapshot knows yet.

use std::{collections::HashSet, fmt, path::PathBuf};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::executor::block_on;
use iceberg::{
    io::FileIO,
    spec::{DataFile, Literal, SchemaRef as TableSchemaRef, Struct},
    writer::{
        CurrentFileStatus,
        file_writer::{FileWriter, FileWriterBuilder, ParquetWriter, ParquetWriterBuilder},
    },
};
use parquet::{
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use super::{
    convert::to_table_batch,
    disk::{self, TableFolders},
    error::{Error, Result, iceberg_error, io_error, write_error},
};
use crate::time::ValidTime;

/// A data file that has grown to this many bytes is closed and another begun.
pub const TARGET_FILE_BYTES: usize = 128 << 20;
/// Rows in a Parquet row group at most; what a writer holds in memory.
const ROW_GROUP_ROWS: usize = 1 << 17;
/// Bytes in a Parquet row group at most.
const ROW_GROUP_BYTES: usize = 32 << 20;
/// Longest name of a backfill: file names end at 255 bytes.
const MAX_BACKFILL_NAME_BYTES: usize = 180;

/// One try at one partition, by one backfill.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttemptId {
    /// The backfill's name: `[A-Za-z0-9._-]`, 180 bytes at most.
    pub backfill: String,
    /// The attempt's number.
    pub attempt: u32,
}

/// A partition's rows on disk, not visible to any reader.
#[derive(Debug, Clone)]
pub struct Staged {
    /// The partition.
    pub partition_start: ValidTime,
    /// Its data files; none if it has no rows.
    pub files: Vec<DataFile>,
    /// Rows in them.
    pub row_count: u64,
    /// Their size.
    pub size_bytes: u64,
    pub(super) table: String,
}

impl Staged {
    /// Removes the files. Only for what was not committed.
    ///
    /// # Errors
    /// [`Error::Io`]; the files that could not be removed stay as leftovers.
    pub fn discard(self) -> Result<()> {
        self.files
            .iter()
            .try_for_each(|file| disk::remove(&disk::to_path(file.file_path())))
    }
}

/// What a writer needs to know of its table.
#[derive(Debug, Clone)]
pub(super) struct StageTarget {
    pub(super) table: String,
    pub(super) folders: TableFolders,
    pub(super) file_io: FileIO,
    pub(super) table_schema: TableSchemaRef,
    pub(super) arrow_schema: SchemaRef,
    pub(super) partition_spec_id: i32,
}

/// Writes one partition's rows to data files. All calls block: they encode, compress and write.
///
/// Dropped before [`StageWriter::finish`], it removes what it wrote.
pub struct StageWriter {
    target: StageTarget,
    partition_start: ValidTime,
    name_prefix: String,
    open: Option<ParquetWriter>,
    /// Every file begun, with the open one.
    paths: Vec<PathBuf>,
    closed: Vec<DataFile>,
    split_after_bytes: usize,
}

impl fmt::Debug for StageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageWriter")
            .field("table", &self.target.table)
            .field("name_prefix", &self.name_prefix)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl StageWriter {
    pub(super) fn new(
        target: StageTarget,
        partition_start: ValidTime,
        attempt: &AttemptId,
    ) -> Result<Self> {
        check_backfill_name(&attempt.backfill)?;
        Ok(Self {
            name_prefix: format!(
                "{}-{}-{}",
                partition_start.micros(),
                attempt.backfill,
                attempt.attempt
            ),
            target,
            partition_start,
            open: None,
            paths: Vec::new(),
            closed: Vec::new(),
            split_after_bytes: TARGET_FILE_BYTES,
        })
    }

    /// Begins another file when one has grown to `size_bytes`, instead of [`TARGET_FILE_BYTES`].
    #[must_use]
    pub fn split_after(mut self, size_bytes: usize) -> Self {
        self.split_after_bytes = size_bytes;
        self
    }

    /// Adds rows of the query, in the columns that it gave to [`super::Lake::ensure_table`] (matched by name).
    ///
    /// # Errors
    /// [`Error::Value`] when a value does not fit its column, [`Error::SchemaConflict`] when the columns are others,
    /// faults of the file system.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let target = &self.target;
        let batch = to_table_batch(
            &target.table,
            batch,
            &target.arrow_schema,
            self.partition_start,
        )?;
        let mut writer = match self.open.take() {
            Some(writer) => writer,
            None => self.begin_file()?,
        };
        block_on(writer.write(&batch)).map_err(write_error("write a data file"))?;
        if writer.current_written_size() >= self.split_after_bytes {
            self.close_file(writer)
        } else {
            self.open = Some(writer);
            Ok(())
        }
    }

    /// Closes the files. **Durability**: they are on disk when it returns.
    ///
    /// # Errors
    /// As [`StageWriter::write`].
    pub fn finish(mut self) -> Result<Staged> {
        if let Some(writer) = self.open.take() {
            self.close_file(writer)?;
        }
        if !self.closed.is_empty() {
            disk::sync_folder(&self.target.folders.data())?;
        }
        // From here on the files are the caller's.
        self.paths.clear();
        let files = std::mem::take(&mut self.closed);
        Ok(Staged {
            partition_start: self.partition_start,
            row_count: files.iter().map(DataFile::record_count).sum(),
            size_bytes: files.iter().map(DataFile::file_size_in_bytes).sum(),
            table: self.target.table.clone(),
            files,
        })
    }

    /// Removes what was written.
    ///
    /// # Errors
    /// [`Error::Io`]; the files that could not be removed stay as leftovers.
    pub fn abort(mut self) -> Result<()> {
        self.open = None;
        let paths = std::mem::take(&mut self.paths);
        paths.iter().try_for_each(|path| disk::remove(path))
    }

    /// Whether files of this attempt are there already.
    pub(super) fn has_leftovers(&self) -> bool {
        self.target.folders.data().join(self.file_name(0)).exists()
    }

    fn file_name(&self, index: usize) -> String {
        format!("{}-{index}.parquet", self.name_prefix)
    }

    fn begin_file(&mut self) -> Result<ParquetWriter> {
        let uri = self
            .target
            .folders
            .data_uri(&self.file_name(self.paths.len()));
        self.paths.push(disk::to_path(&uri));
        let output = self
            .target
            .file_io
            .new_output(uri)
            .map_err(write_error("begin a data file"))?;
        let builder =
            ParquetWriterBuilder::new(writer_properties(), self.target.table_schema.clone());
        block_on(builder.build(output)).map_err(write_error("begin a data file"))
    }

    fn close_file(&mut self, writer: ParquetWriter) -> Result<()> {
        // Closing syncs the file.
        let builders = block_on(writer.close()).map_err(write_error("close a data file"))?;
        for mut builder in builders {
            let start = Literal::timestamptz(self.partition_start.micros());
            let file = builder
                .partition_spec_id(self.target.partition_spec_id)
                .partition(Struct::from_iter([Some(start)]))
                .build()
                .map_err(|error| {
                    let error =
                        iceberg::Error::new(iceberg::ErrorKind::Unexpected, error.to_string());
                    iceberg_error("describe a data file")(error)
                })?;
            self.closed.push(file);
        }
        Ok(())
    }
}

impl Drop for StageWriter {
    fn drop(&mut self) {
        self.open = None;
        for path in &self.paths {
            if let Err(error) = disk::remove(path) {
                tracing::warn!(%error, "a staged file stays behind until leftovers are removed");
            }
        }
    }
}

fn writer_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .build()
}

pub(super) fn check_backfill_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_BACKFILL_NAME_BYTES {
        "it is longer than 180 bytes"
    } else if name.bytes().all(allowed) {
        return Ok(());
    } else {
        "it may hold letters, digits, '.', '_' and '-' only"
    };
    Err(Error::BadName {
        what: "backfill",
        name: name.to_owned(),
        problem,
    })
}

/// Removes the data files of `backfill` whose (partition, attempt) is not in `keep`; how many.
pub(super) fn remove_leftovers(
    folders: &TableFolders,
    backfill: &str,
    keep: &HashSet<(ValidTime, u32)>,
) -> Result<u64> {
    let folder = folders.data();
    let mut removed_count = 0;
    for entry in std::fs::read_dir(&folder).map_err(io_error("list", &folder))? {
        let path = entry.map_err(io_error("list", &folder))?.path();
        let attempt = path
            .file_name()
            .and_then(|name| parse_file_name(name.to_str()?, backfill));
        if attempt.is_some_and(|attempt| !keep.contains(&attempt)) {
            disk::remove(&path)?;
            removed_count += 1;
        }
    }
    Ok(removed_count)
}

/// The partition and attempt that a data file of `backfill` is named after; `None` for any other file.
fn parse_file_name(name: &str, backfill: &str) -> Option<(ValidTime, u32)> {
    let mut from_end = name.strip_suffix(".parquet")?.rsplitn(3, '-');
    let _index: u32 = from_end.next()?.parse().ok()?;
    let attempt = from_end.next()?.parse().ok()?;
    let micros = from_end.next()?.strip_suffix(backfill)?.strip_suffix('-')?;
    Some((ValidTime::from_micros(micros.parse().ok()?), attempt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_belong_to_one_backfill() {
        let start = ValidTime::from_micros(-5);
        assert_eq!(
            parse_file_name("-5-b-1-3-0.parquet", "b-1"),
            Some((start, 3))
        );
        assert_eq!(
            parse_file_name("7-b-1-3-0.parquet", "b-1"),
            Some((ValidTime::from_micros(7), 3))
        );
        for (name, backfill) in [
            ("-5-b-1-3-0.parquet", "1"),
            ("-5-b-1-3-0.parquet", "b"),
            ("-5-b-1-3-0.csv", "b-1"),
            ("-5-b-1-x-0.parquet", "b-1"),
            ("b-1-3-0.parquet", "b-1"),
        ] {
            assert_eq!(
                parse_file_name(name, backfill),
                None,
                "{name} of {backfill}"
            );
        }
    }

    #[test]
    fn backfill_names_are_safe_in_paths() {
        assert!(check_backfill_name("flights-2013.1_a").is_ok());
        for name in ["", "a/b", "a b", &"x".repeat(181)] {
            assert!(check_backfill_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_writer_can_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<StageWriter>();
    }
}
