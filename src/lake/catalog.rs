//! The embedded catalog: where each table's current metadata is, and the one step that moves it.
//!
//! **Layout**: keyspace `tables`; key = the table's name; value = JSON `{"format":1,"metadata_location":…,"version":…}`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use iceberg::spec::{
    FormatVersion, ManifestFile, ManifestList, Snapshot, TableMetadata, TableMetadataBuildResult,
};
use serde::{Deserialize, Serialize};

use super::{
    disk::{self, TableFolders},
    error::{Error, Result, iceberg_error, io_error},
    identity::fresh_uuid,
};
use crate::kv::{Database, Keyspace, Slice};

const POINTER_FORMAT: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pointer {
    format: u32,
    metadata_location: String,
    version: u64,
}

/// A table as one metadata file describes it.
#[derive(Debug)]
pub(super) struct Head {
    pointer: Vec<u8>,
    pub(super) version: u64,
    pub(super) metadata_location: String,
    pub(super) metadata: TableMetadata,
    /// Of the current snapshot.
    pub(super) manifests: Vec<ManifestFile>,
}

/// A state of a table that is not published yet.
#[derive(Debug)]
pub(super) struct NextState {
    pub(super) built: TableMetadataBuildResult,
    /// Of its current snapshot.
    pub(super) manifests: Vec<ManifestFile>,
    /// What was written for it: removed if it is not published.
    pub(super) written: WrittenFiles,
}

/// The pointers of all tables. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Catalog {
    database: Database,
    pointers: Keyspace,
}

impl Catalog {
    pub(super) fn open(database: &Database) -> Result<Self> {
        Ok(Self {
            database: database.clone(),
            pointers: database.keyspace("tables")?,
        })
    }

    /// The names of all tables, ascending.
    pub(super) fn tables(&self) -> Result<Vec<String>> {
        self.pointers
            .prefix(b"")
            .map(|entry| Ok(String::from_utf8_lossy(&entry?.0).into_owned()))
            .collect()
    }

    /// The bytes that stand for the table's current state.
    pub(super) fn pointer(&self, table: &str) -> Result<Option<Slice>> {
        Ok(self.pointers.get(table.as_bytes())?)
    }

    /// Reads the table that `pointer` points to. **Cost**: two files.
    pub(super) fn load(table: &str, pointer: &[u8]) -> Result<Head> {
        let decoded: Pointer = serde_json::from_slice(pointer)
            .map_err(|error| damaged(table, format!("its catalog entry: {error}")))?;
        if decoded.format != POINTER_FORMAT {
            let cause = format!(
                "its catalog entry has format {}, not {POINTER_FORMAT}",
                decoded.format
            );
            return Err(damaged(table, cause));
        }
        let path = disk::to_path(&decoded.metadata_location);
        let bytes = read_file(table, &path)?;
        let metadata: TableMetadata = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(table, format!("{}: {error}", path.display())))?;
        let manifests = match metadata.current_snapshot() {
            Some(snapshot) => read_manifest_list(table, snapshot)?,
            None => Vec::new(),
        };
        Ok(Head {
            pointer: pointer.to_vec(),
            version: decoded.version,
            metadata_location: decoded.metadata_location,
            metadata,
            manifests,
        })
    }

    /// Moves the table from `old` (`None`: it is not there) to what `next` describes. False: the table is no longer at `old`,
    /// and nothing was changed.
    ///
    /// **Durability**: everything in the table's metadata folder is on disk before the pointer moves, and the pointer is
    /// on disk when this returns. Between those two moments readers in this process may already see the new state: `moved`
    /// is given it as soon as they may, so that none of them has to read it from its files.
    pub(super) fn swap(
        &self,
        table: &str,
        folders: &TableFolders,
        old: Option<&Head>,
        next: NextState,
        moved: impl FnOnce(HeadRef),
    ) -> Result<bool> {
        let NextState {
            built,
            manifests,
            mut written,
        } = next;
        let version = old.map_or(0, |head| head.version + 1);
        let metadata = built.metadata;
        let unique = fresh_uuid(&format!("{table}/{version}"), metadata.last_updated_ms());
        let file_name = format!("{version:05}-{unique}.metadata.json");
        let path = folders.metadata().join(&file_name);
        let json =
            serde_json::to_vec(&metadata).map_err(|error| damaged(table, error.to_string()))?;
        disk::write_new(&path, &json)?;
        written.add(path);
        disk::sync_folder(&folders.metadata())?;

        let pointer = Pointer {
            format: POINTER_FORMAT,
            metadata_location: folders.metadata_uri(&file_name),
            version,
        };
        let bytes =
            serde_json::to_vec(&pointer).map_err(|error| damaged(table, error.to_string()))?;
        let expected = old.map(|head| head.pointer.as_slice());
        if !self
            .pointers
            .compare_and_swap(table.as_bytes(), expected, &bytes)?
        {
            return Ok(false);
        }
        // From here on the pointer on disk may lead to these files, whatever the flush says.
        written.keep();
        moved(Arc::new(Head {
            pointer: bytes,
            version,
            metadata_location: pointer.metadata_location,
            metadata,
            manifests,
        }));
        self.database.flush()?;
        for expired in &built.expired_metadata_logs {
            disk::remove(&disk::to_path(&expired.metadata_file))?;
        }
        Ok(true)
    }
}

impl Head {
    /// Whether `pointer` is what this head was read from.
    pub(super) fn is_at(&self, pointer: &[u8]) -> bool {
        self.pointer == pointer
    }

    /// A time for the table's next state: `now`, but never before the last one, since Iceberg's logs are chronological.
    pub(super) fn next_timestamp_ms(&self, now_micros: i64) -> i64 {
        now_micros
            .div_euclid(1_000)
            .max(self.metadata.last_updated_ms())
    }
}

/// The manifests of a snapshot.
pub(super) fn read_manifest_list(table: &str, snapshot: &Snapshot) -> Result<Vec<ManifestFile>> {
    let path = disk::to_path(snapshot.manifest_list());
    let bytes = read_file(table, &path)?;
    let list = ManifestList::parse_with_version(&bytes, FormatVersion::V2)
        .map_err(|error| damaged(table, format!("{}: {error}", path.display())))?;
    Ok(list.consume_entries().into_iter().collect())
}

/// A metadata file's bytes.
///
/// # Errors
/// [`Error::Damaged`] when it is gone; [`Error::Io`] when it is there and cannot be read.
fn read_file(table: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| unreadable(table, path, error))
}

/// What a failure to open or read a metadata file means.
pub(super) fn unreadable(table: &str, path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        damaged(table, format!("{} is gone", path.display()))
    } else {
        io_error("read", path)(error)
    }
}

/// `built`, as of `timestamp_ms`: Iceberg's builder stamps what is no snapshot with the machine's clock.
pub(super) fn stamp(
    built: TableMetadataBuildResult,
    timestamp_ms: i64,
) -> Result<TableMetadataBuildResult> {
    let json_error = |error: serde_json::Error| iceberg_error("stamp table metadata")(error.into());
    let mut json = serde_json::to_value(&built.metadata).map_err(json_error)?;
    json["last-updated-ms"] = timestamp_ms.into();
    Ok(TableMetadataBuildResult {
        metadata: serde_json::from_value(json).map_err(json_error)?,
        ..built
    })
}

pub(super) fn damaged(table: &str, cause: impl Into<String>) -> Error {
    Error::Damaged {
        table: table.to_owned(),
        cause: cause.into(),
    }
}

/// Files written for a state that is not published yet: removed on drop, unless kept.
#[derive(Debug, Default)]
pub(super) struct WrittenFiles(Vec<PathBuf>);

impl WrittenFiles {
    pub(super) fn add(&mut self, path: PathBuf) {
        self.0.push(path);
    }

    pub(super) fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for WrittenFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = disk::remove(path) {
                tracing::warn!(%error, "an unpublished file stays behind; it costs space and nothing else");
            }
        }
    }
}

/// A loaded head, shared between readers.
pub(super) type HeadRef = Arc<Head>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_format_stays_readable() {
        let specimen = br#"{"format":1,"metadata_location":"file:///w/t/metadata/00003-x.metadata.json","version":3}"#;
        let pointer: Pointer = serde_json::from_slice(specimen).expect("a specimen of format 1");
        assert_eq!(pointer.version, 3);
        assert_eq!(serde_json::to_vec(&pointer).expect("json"), specimen);
    }

    #[test]
    fn a_pointer_of_another_format_is_damage() {
        for bytes in [
            &b"{}"[..],
            br#"{"format":2,"metadata_location":"","version":0}"#,
        ] {
            assert!(matches!(
                Catalog::load("t", bytes),
                Err(Error::Damaged { .. })
            ));
        }
    }
}
