//! Paths, URIs and the syncs that the commit point stands on.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use super::error::{Error, Result, io_error};

const SCHEME: &str = "file://";

/// The folders of one table, as paths and as the URIs that Iceberg metadata carries.
#[derive(Debug, Clone)]
pub(super) struct TableFolders {
    root: PathBuf,
    location: String,
}

impl TableFolders {
    /// Of the table `name` in the warehouse at the absolute path `warehouse`.
    pub(super) fn new(warehouse: &Path, name: &str) -> Self {
        let root = warehouse.join(name);
        let location = to_uri(&root);
        Self { root, location }
    }

    /// The table's location, a `file://` URI without trailing slash.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(super) fn metadata(&self) -> PathBuf {
        self.root.join("metadata")
    }

    pub(super) fn data_uri(&self, file_name: &str) -> String {
        format!("{}/data/{file_name}", self.location)
    }

    pub(super) fn metadata_uri(&self, file_name: &str) -> String {
        format!("{}/metadata/{file_name}", self.location)
    }

    /// Makes the folders. **Durability**: they are on disk when it returns.
    pub(super) fn create(&self) -> Result<()> {
        for folder in [self.data(), self.metadata()] {
            std::fs::create_dir_all(&folder).map_err(io_error("make folder", &folder))?;
        }
        sync_folder(&self.root)?;
        self.root.parent().map_or(Ok(()), sync_folder)
    }
}

/// The absolute form of the warehouse's path, whose folder is made.
pub(super) fn prepare_warehouse(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(io_error("resolve", path))?;
    let refuse = |problem| Error::BadName {
        what: "warehouse",
        name: absolute.display().to_string(),
        problem,
    };
    let text = absolute
        .to_str()
        .ok_or_else(|| refuse("Iceberg metadata can only hold paths in UTF-8"))?;
    // Readers take the location for a URI; these characters would end its path.
    if text.contains(['#', '?', '%']) {
        return Err(refuse("readers would misread a path with '#', '?' or '%'"));
    }
    std::fs::create_dir_all(&absolute).map_err(io_error("make folder", &absolute))?;
    absolute.parent().map_or(Ok(()), sync_folder)?;
    Ok(absolute)
}

/// The path of a `file://` URI that this module made.
pub(super) fn to_path(uri: &str) -> PathBuf {
    PathBuf::from(uri.strip_prefix(SCHEME).unwrap_or(uri))
}

fn to_uri(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// Writes a file that must not be there yet. **Durability**: its bytes are on disk; its name is after [`sync_folder`].
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io_error("write", path))
}

/// Puts the folder's entries on disk.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync folder", path))
}

/// Removes a file; one that is gone already is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
