//! A data folder from a backup.
//!
//! It is built beside its place and moved there when all of it has been verified, opened and is on disk: the folder is
//! there whole or not at all.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    DATABASE_FOLDER, Error, Result,
    format::{FileReader, Frame, State},
    keyspaces::{self, Form, Role},
    rebuild::Rebuild,
};
use crate::{
    kv::{self, Database},
    store::{Store, marks},
    time::{Clock, SysTime},
};

/// How far restoring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Bytes of the backup that are read.
    pub bytes_read: u64,
    /// Commits that are applied.
    pub commits_done: u64,
    /// Commits in all; 0 before it is known.
    pub commits_total: u64,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Every answer at or before it is as it was.
    pub basis: SysTime,
    /// Commits up to the basis.
    pub commits: u64,
    /// When the backup was made.
    pub create_time: SysTime,
    /// The version of hindcast that made it.
    pub version: String,
}

/// Builds the data folder `data_dir` from the backup that `input` gives. Blocks.
///
/// **Durability**: on disk when it returns. If it fails, `data_dir` is as it was.
///
/// # Errors
/// [`Error::NotEmpty`]; [`Error::NotABackup`]; [`Error::DamagedBackup`] when the file is not whole or a bit of it is not as
/// it was written; [`Error::File`]; storage faults.
pub fn restore(
    input: impl Read,
    data_dir: &Path,
    cache_bytes: u64,
    clock: Arc<dyn Clock>,
    progress: &mut dyn FnMut(RestoreProgress),
) -> Result<RestoreSummary> {
    let reader = FileReader::new(input)?;
    let site = Site::beside(data_dir)?;
    let database_folder = site.folder.join(DATABASE_FOLDER);
    let database = Database::open(&database_folder, cache_bytes)?;
    let restored = Restore::start(reader, &database, progress)?.run()?;
    let store = Store::open(&database, clock)?;
    let latest = store.latest_basis();
    store.close();
    drop((store, database));
    kv::wait_until_released(&database_folder)?;
    kv::sync_folder(&database_folder).map_err(Error::file(&database_folder))?;
    let expected = restored.latest;
    if latest != expected {
        return Err(Error::Diverged {
            found: latest,
            expected,
        });
    }
    site.move_into_place(data_dir)?;
    Ok(restored.summary)
}

/// The folder in which the data folder is built; removed unless it was moved into place.
pub(super) struct Site {
    pub(super) folder: PathBuf,
}

impl Site {
    /// A folder beside `data_dir`, on the same file system.
    fn beside(data_dir: &Path) -> Result<Self> {
        if let Ok(mut entries) = fs::read_dir(data_dir)
            && entries.next().is_some()
        {
            return Err(Error::NotEmpty {
                folder: data_dir.to_owned(),
            });
        }
        Self::named(data_dir, "restoring")
    }

    /// A folder beside `path` whose name says what it is for.
    pub(super) fn named(path: &Path, purpose: &str) -> Result<Self> {
        let mut name = path.file_name().unwrap_or(path.as_os_str()).to_owned();
        name.push(format!(".{purpose}-{}", std::process::id()));
        let folder = path.with_file_name(name);
        if let Some(parent) = parent(&folder) {
            fs::create_dir_all(parent).map_err(Error::file(parent))?;
        }
        fs::create_dir(&folder).map_err(Error::file(&folder))?;
        Ok(Self { folder })
    }

    fn move_into_place(mut self, data_dir: &Path) -> Result<()> {
        sync_folder(&self.folder)?;
        // An empty folder in its place is replaced; one that has been filled meanwhile is not.
        fs::rename(&self.folder, data_dir).map_err(Error::file(data_dir))?;
        self.folder = PathBuf::new();
        parent(data_dir).map_or(Ok(()), sync_folder)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.folder.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a half-built folder is left: remove it");
        }
    }
}

fn parent(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::file(folder))
}

struct Restored {
    summary: RestoreSummary,
    /// Of the last commit; the floor if there is none.
    latest: SysTime,
}

struct Restore<'a, R> {
    reader: FileReader<R>,
    database: &'a Database,
    rebuild: Rebuild,
    state: Option<State>,
    version: String,
    create_time: i64,
    progress: &'a mut dyn FnMut(RestoreProgress),
}

impl<'a, R: Read> Restore<'a, R> {
    fn start(
        mut reader: FileReader<R>,
        database: &'a Database,
        progress: &'a mut dyn FnMut(RestoreProgress),
    ) -> Result<Self> {
        let Frame::Header(header) = reader.next()? else {
            return Err(Error::damaged(reader.offset(), "it has no header"));
        };
        Ok(Self {
            reader,
            database,
            rebuild: Rebuild::start(database)?,
            state: None,
            version: header.version,
            create_time: header.create_time,
            progress,
        })
    }

    fn run(mut self) -> Result<Restored> {
        loop {
            match self.reader.next()? {
                Frame::Entries { keyspace, pairs } => {
                    let form = self.form(&keyspace)?;
                    let keyspace = self.database.keyspace(&keyspace)?;
                    for (key, value) in &pairs {
                        keyspaces::put_value(&keyspace, form, key, value)?;
                    }
                }
                Frame::State(state) if self.state.is_none() => self.state = Some(state),
                Frame::Records(records) if self.state.is_some() => {
                    for record in &records {
                        self.rebuild.push(record)?;
                    }
                }
                Frame::Trailer { .. } => return self.finish(),
                Frame::Header(_) | Frame::State(_) | Frame::Records(_) => {
                    return Err(self.out_of_order());
                }
            }
            (self.progress)(RestoreProgress {
                bytes_read: self.reader.offset(),
                commits_done: self.rebuild.end().sequence,
                commits_total: self.state.map_or(0, |state| state.last_sequence),
            });
        }
    }

    fn form(&self, keyspace: &str) -> Result<Form> {
        match keyspaces::role(keyspace) {
            Some(Role::Copied(form)) => Ok(form),
            Some(Role::Types) => Ok(Form::Large),
            Some(Role::Log | Role::Derived) | None => Err(Error::NotABackup {
                cause: format!(
                    "it holds keyspace {keyspace:?}, which this version of hindcast does not restore"
                ),
            }),
        }
    }

    fn out_of_order(&self) -> Error {
        Error::damaged(self.reader.offset(), "its parts are out of order")
    }

    fn finish(self) -> Result<Restored> {
        let state = self.state.ok_or_else(|| self.out_of_order())?;
        let end = *self.rebuild.end();
        if end.sequence != state.last_sequence {
            return Err(self.out_of_order());
        }
        marks::set_floor(&self.database.keyspace("meta")?, state.floor)?;
        self.rebuild.finish()?;
        Ok(Restored {
            summary: RestoreSummary {
                basis: SysTime::from_micros(state.basis),
                commits: state.last_sequence,
                create_time: SysTime::from_micros(self.create_time),
                version: self.version,
            },
            latest: SysTime::from_micros(end.system_time.unwrap_or(state.floor)),
        })
    }
}
