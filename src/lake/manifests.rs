//! Reading and writing manifests: which data files a snapshot holds.

use std::{collections::HashMap, fs::File, sync::Arc};

use futures::executor::block_on;
use iceberg::{
    io::FileIO,
    spec::{
        DataFile, Datum, Literal, ManifestEntry, ManifestEntryRef, ManifestFile, ManifestWriter,
        ManifestWriterBuilder, PartitionSpecRef, PrimitiveLiteral, PrimitiveType, SchemaRef,
    },
};
use parking_lot::Mutex;

use super::{
    catalog::{WrittenFiles, damaged, unreadable},
    disk::{self, TableFolders},
    error::{Error, Result, iceberg_error, write_error},
};
use crate::time::ValidTime;

/// The entries of one manifest.
pub(super) type Entries = Arc<Vec<ManifestEntryRef>>;

/// The parsed manifests of a table's current snapshot.
#[derive(Debug, Default)]
pub(super) struct ManifestCache(Mutex<HashMap<String, Entries>>);

impl ManifestCache {
    /// The entries of `manifest`, from memory if they are there.
    pub(super) fn entries(
        &self,
        table: &str,
        file_io: &FileIO,
        manifest: &ManifestFile,
    ) -> Result<Entries> {
        if let Some(entries) = self.0.lock().get(&manifest.manifest_path) {
            return Ok(Arc::clone(entries));
        }
        // Not under the lock: readers of other manifests go on meanwhile.
        let path = disk::to_path(&manifest.manifest_path);
        // The library's error does not tell a file that cannot be opened from one that is damaged.
        File::open(&path).map_err(|error| unreadable(table, &path, error))?;
        let loaded = block_on(manifest.load_manifest(file_io))
            .map_err(|error| damaged(table, format!("{}: {error}", manifest.manifest_path)))?;
        let entries = Arc::new(loaded.into_parts().0);
        self.0
            .lock()
            .insert(manifest.manifest_path.clone(), Arc::clone(&entries));
        Ok(entries)
    }

    /// Forgets all but `manifests`.
    pub(super) fn retain(&self, manifests: &[ManifestFile]) {
        self.0.lock().retain(|path, _| {
            manifests
                .iter()
                .any(|manifest| manifest.manifest_path == *path)
        });
    }
}

/// The partition of a data file.
pub(super) fn partition_start(table: &str, file: &DataFile) -> Result<ValidTime> {
    match file.partition().fields() {
        [Some(Literal::Primitive(PrimitiveLiteral::Long(micros)))] => {
            Ok(ValidTime::from_micros(*micros))
        }
        _other => Err(damaged(
            table,
            format!("{} has no partition start", file.file_path()),
        )),
    }
}

/// The first and the last partition in a manifest; `None` when it does not say.
pub(super) fn partition_bounds(manifest: &ManifestFile) -> Option<(ValidTime, ValidTime)> {
    let [summary] = manifest.partitions.as_deref()? else {
        return None;
    };
    let read = |bytes: &[u8]| {
        let bound = Datum::try_from_bytes(bytes, PrimitiveType::Timestamptz).ok()?;
        if let PrimitiveLiteral::Long(micros) = bound.literal() {
            Some(ValidTime::from_micros(*micros))
        } else {
            None
        }
    };
    Some((
        read(summary.lower_bound.as_ref()?)?,
        read(summary.upper_bound.as_ref()?)?,
    ))
}

/// Data files in the manifest that are part of the snapshot.
pub(super) fn live_file_count(manifest: &ManifestFile) -> u32 {
    manifest.added_files_count.unwrap_or(1) + manifest.existing_files_count.unwrap_or(1)
}

/// An entry of a manifest to be written.
#[derive(Debug)]
pub(super) enum Entry {
    Added(Box<DataFile>),
    Existing(ManifestEntryRef),
    Deleted(ManifestEntryRef),
}

/// Writes the manifests of one snapshot.
#[derive(Debug)]
pub(super) struct ManifestFactory<'a> {
    pub(super) table: &'a str,
    pub(super) file_io: &'a FileIO,
    pub(super) folders: &'a TableFolders,
    pub(super) schema: SchemaRef,
    pub(super) partition_spec: PartitionSpecRef,
    pub(super) snapshot_id: i64,
    pub(super) sequence_number: i64,
    /// In all file names of this snapshot.
    pub(super) unique: String,
    pub(super) written: WrittenFiles,
    pub(super) manifest_count: usize,
}

impl ManifestFactory<'_> {
    /// Writes one manifest. **Durability**: its bytes are on disk when it returns, its name with the metadata folder.
    pub(super) fn write(&mut self, entries: Vec<Entry>) -> Result<ManifestFile> {
        let uri = self
            .folders
            .metadata_uri(&format!("{}-m{}.avro", self.unique, self.manifest_count));
        self.manifest_count += 1;
        self.written.add(disk::to_path(&uri));
        let output = self
            .file_io
            .new_output(uri)
            .map_err(write_error("begin a manifest"))?;
        let mut writer = ManifestWriterBuilder::new(
            output,
            Some(self.snapshot_id),
            Arc::clone(&self.schema),
            self.partition_spec.as_ref().clone(),
        )
        .build_v2_data();
        for entry in entries {
            self.add(&mut writer, entry)?;
        }
        let mut manifest =
            block_on(writer.write_manifest_file()).map_err(write_error("write a manifest"))?;
        // The manifest list would fill these in its own copy only.
        manifest.sequence_number = self.sequence_number;
        if manifest.min_sequence_number < 0 {
            manifest.min_sequence_number = self.sequence_number;
        }
        Ok(manifest)
    }

    fn add(&self, writer: &mut ManifestWriter, entry: Entry) -> Result<()> {
        /// Makes an added file take over the snapshot's sequence number.
        const INHERITED: i64 = -1;
        match entry {
            Entry::Added(file) => writer.add_file(*file, INHERITED),
            Entry::Existing(entry) => {
                let (snapshot_id, sequence_number) = self.origin(&entry)?;
                writer.add_existing_file(
                    entry.data_file.clone(),
                    snapshot_id,
                    sequence_number,
                    entry.file_sequence_number,
                )
            }
            Entry::Deleted(entry) => {
                let (_, sequence_number) = self.origin(&entry)?;
                writer.add_delete_file(
                    entry.data_file.clone(),
                    sequence_number,
                    entry.file_sequence_number,
                )
            }
        }
        .map_err(iceberg_error("add to a manifest"))
    }

    /// The snapshot and sequence number that added the entry's file.
    fn origin(&self, entry: &ManifestEntry) -> Result<(i64, i64)> {
        entry.snapshot_id.zip(entry.sequence_number).ok_or_else(|| {
            let cause = format!("the entry of {} lacks its snapshot", entry.file_path());
            Error::Damaged {
                table: self.table.to_owned(),
                cause,
            }
        })
    }
}
