//! Ordered key-value storage: the few calls that hindcast needs of sled, and what sled does not promise by itself.
//!
//! This is the only module that names sled, so that another engine can stand in one day. It adds:
//! - **Durability**: [`Database::flush`] survives power loss (see [`sync`]); a failed flush poisons the database, and every
//!   later write and flush is refused. Nothing flushes in the background: what is not flushed is not durable.
//! - **Small values**: sled puts values of 10 KB and more into files that it never syncs, so [`Keyspace::insert`] refuses
//!   values over [`MAX_VALUE_BYTES`]; [`Keyspace::insert_large`] splits longer ones over several keys.
//! - **Damage**: a panic while opening becomes [`Error::Damaged`]. What an interrupted start leaves behind is no
//!   damage; a database that has silently gone back to an earlier state is (see `fence`).
//!
//! All calls block; none may run on the async reactor.

mod error;
mod fence;
mod large;
mod leftovers;
mod reserve;
#[cfg(target_os = "linux")]
pub mod sync;

use std::{
    fs::{File, OpenOptions},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

pub use error::Error;

use self::{fence::Fence, reserve::Reserve};
use crate::disk;

/// Bytes of a stored value, cheap to clone.
pub type Slice = sled::IVec;

/// A key with its value.
pub type Entry = (Slice, Slice);

/// The longest value of one key.
pub const MAX_VALUE_BYTES: usize = 4096;

/// How long opening waits for another holder of the folder to go away.
pub const LOCK_PATIENCE: Duration = Duration::from_millis(600);
const LOCK_TRIES: u32 = 8;

/// The file that the engine locks.
const LOCK_FILE: &str = "db";
/// How long a database that was dropped may take to let go of its files.
const RELEASE_TRIES: u32 = 1_000;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An open data folder. Cheap to clone; one process at a time may have it open.
#[derive(Debug, Clone)]
pub struct Database {
    db: sled::Db,
    cache_bytes: u64,
    fence: Arc<Fence>,
    reserve: Arc<Reserve>,
    poison: Arc<OnceLock<String>>,
    broken: CancellationToken,
}

impl Database {
    /// Opens or creates the database in `folder`, with a page cache of `cache_bytes`.
    ///
    /// **Durability**: when it returns, the folder and sled's files in it are on disk.
    ///
    /// A folder that is locked is tried again for [`LOCK_PATIENCE`]: the threads of a database that was just dropped, in this
    /// process or one that was killed, hold it for a moment longer.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open; [`Error::Damaged`] when its files cannot be read;
    /// [`Error::Open`] otherwise.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self> {
        match Self::try_open(folder, cache_bytes) {
            Err(error) if disk::is_out_of_space(&error) && reserve::drop_ballast(folder) => {
                Self::try_open(folder, cache_bytes)
            }
            outcome => outcome,
        }
    }

    fn try_open(folder: &Path, cache_bytes: u64) -> Result<Self> {
        let io_error = |source| Error::Open {
            folder: folder.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(io_error)?;
        reserve::make_room_to_start(folder).map_err(io_error)?;
        prove_durable_sync(folder).map_err(io_error)?;
        leftovers::remove_unfinished_snapshots(folder).map_err(io_error)?;
        let db = open_patiently(folder, cache_bytes)?;
        let fence = Arc::new(Fence::open(&db, folder)?);
        let reserve = Reserve::open(&folder.join(LOCK_FILE)).map_err(io_error)?;
        reserve.top_up();
        sync_folder(folder).map_err(io_error)?;
        Ok(Self {
            db,
            cache_bytes,
            fence,
            reserve: Arc::new(reserve),
            poison: Arc::default(),
            broken: CancellationToken::new(),
        })
    }

    /// Cancelled once something can do no more until a restart: a flush failed, or what stands on this gave up.
    pub fn broken(&self) -> &CancellationToken {
        &self.broken
    }

    /// The size of the page cache that it was opened with.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    /// The keyspace of this name, made if it is not there.
    ///
    /// # Errors
    /// Storage faults.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        Ok(Keyspace {
            tree: self.db.open_tree(name)?,
            poison: Arc::clone(&self.poison),
        })
    }

    /// The names of all keyspaces that were ever made here, in order.
    pub fn keyspace_names(&self) -> Vec<String> {
        let default = sled::Tree::name(&self.db);
        let mut names: Vec<String> = (self.db.tree_names().iter())
            .filter(|name| **name != default)
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    /// Puts everything inserted so far, by anyone, on disk.
    ///
    /// **Durability**: survives power loss when it returns.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after an earlier failure. A failure of this call poisons: what is on disk is unknown from then
    /// on, and only a restart finds out.
    pub fn flush(&self) -> Result<()> {
        check_poison(&self.poison)?;
        self.reserve.top_up();
        let flushed = self.fence.begin().and_then(|flush| {
            self.db.flush()?;
            Ok(self.fence.end(flush).map_err(sled::Error::from)?)
        });
        flushed.map_err(|error| {
            let cause = error.to_string();
            // The first failure is the one to tell.
            let _ = self.poison.set(cause.clone());
            self.broken.cancel();
            Error::Poisoned { cause }
        })
    }

    /// Sees to it that a commit's worth of inserts and their flush find room on disk. Before the first of them: one that is
    /// refused half-way poisons the database.
    ///
    /// # Errors
    /// [`Error::NoRoom`]: nothing was written.
    pub fn reserve(&self) -> Result<()> {
        self.reserve.ensure().map_err(Error::NoRoom)
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// Storage faults.
    pub fn size_on_disk_bytes(&self) -> Result<u64> {
        Ok(self.db.size_on_disk()?)
    }
}

/// One ordered map of byte keys to byte values. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keyspace {
    tree: sled::Tree,
    poison: Arc<OnceLock<String>>,
}

impl Keyspace {
    /// The value at `key`.
    ///
    /// # Errors
    /// Storage faults.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        Ok(self.tree.get(key)?)
    }

    /// Sets `key` to `value`. Not durable before the next [`Database::flush`].
    ///
    /// # Errors
    /// [`Error::TooLarge`] over [`MAX_VALUE_BYTES`], [`Error::Poisoned`] after a failed flush, storage faults.
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<()> {
        check_poison(&self.poison)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::TooLarge {
                size_bytes: value.len(),
            });
        }
        self.tree.insert(key, value)?;
        Ok(())
    }

    /// Removes `key`, if it is there. Not durable before the next [`Database::flush`].
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed flush, storage faults.
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        check_poison(&self.poison)?;
        self.tree.remove(key)?;
        Ok(())
    }

    /// Sets `key` to `new` if it holds `old` (`None`: if it is not there). `false`: it holds something else.
    ///
    /// # Errors
    /// As [`Keyspace::insert`].
    pub fn compare_and_swap(&self, key: &[u8], old: Option<&[u8]>, new: &[u8]) -> Result<bool> {
        check_poison(&self.poison)?;
        if new.len() > MAX_VALUE_BYTES {
            return Err(Error::TooLarge {
                size_bytes: new.len(),
            });
        }
        Ok(self.tree.compare_and_swap(key, old, Some(new))?.is_ok())
    }

    /// The entry with the greatest key at or below `key`. **Cost**: one seek.
    ///
    /// # Errors
    /// Storage faults.
    pub fn at_or_before(&self, key: &[u8]) -> Result<Option<Entry>> {
        Ok(self.tree.range(..=key).next_back().transpose()?)
    }

    /// The entries with keys in `[from, to)`, ascending; from either end.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Entry>> + Send + use<> {
        self.tree.range(from..to).map(|entry| Ok(entry?))
    }

    /// The entries whose keys start with `prefix`, ascending; from either end.
    pub fn prefix(
        &self,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Entry>> + Send + use<> {
        self.tree.scan_prefix(prefix).map(|entry| Ok(entry?))
    }
}

/// Waits until the engine's threads have let go of the files of a database that was dropped, so that its folder can be
/// moved. Blocks.
///
/// # Errors
/// [`Error::Locked`] when someone still holds it after some seconds; the lock file cannot be read.
pub fn wait_until_released(folder: &Path) -> Result<()> {
    let lock = File::open(folder.join(LOCK_FILE)).map_err(|source| Error::Open {
        folder: folder.to_owned(),
        source,
    })?;
    for _ in 0..RELEASE_TRIES {
        if lock.try_lock().is_ok() {
            return Ok(());
        }
        std::thread::sleep(LOCK_PATIENCE / 100);
    }
    Err(Error::Locked {
        folder: folder.to_owned(),
    })
}

fn check_poison(poison: &OnceLock<String>) -> Result<()> {
    match poison.get() {
        None => Ok(()),
        Some(cause) => Err(Error::Poisoned {
            cause: cause.clone(),
        }),
    }
}

fn open_patiently(folder: &Path, cache_bytes: u64) -> Result<sled::Db> {
    for _ in 1..LOCK_TRIES {
        match open_sled(folder, cache_bytes) {
            Err(Error::Locked { .. }) => std::thread::sleep(LOCK_PATIENCE / LOCK_TRIES),
            outcome => return outcome,
        }
    }
    open_sled(folder, cache_bytes)
}

fn open_sled(folder: &Path, cache_bytes: u64) -> Result<sled::Db> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(cache_bytes)
        .use_compression(false)
        .flush_every_ms(None);
    // sled panics on some damaged files. What it has built by then is dropped, so nothing half-open is left behind.
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open()));
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if is_lock_conflict(&error) => Err(Error::Locked {
            folder: folder.to_owned(),
        }),
        Ok(Err(sled::Error::Io(source))) => Err(Error::Open {
            folder: folder.to_owned(),
            source,
        }),
        Ok(Err(error)) => Err(Error::Damaged {
            folder: folder.to_owned(),
            cause: error.to_string(),
        }),
        Err(panic) => Err(Error::Damaged {
            folder: folder.to_owned(),
            cause: panic_text(panic.as_ref()),
        }),
    }
}

/// sled wraps the lock's `WouldBlock` in an error of kind `Other` and keeps only its text.
fn is_lock_conflict(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "the storage engine panicked".to_owned())
}

#[cfg(target_os = "linux")]
fn prove_durable_sync(folder: &Path) -> std::io::Result<()> {
    let path = probe_path(folder);
    let file = open_probe(&path)?;
    let outcome = sync::self_test(&file);
    std::fs::remove_file(&path)?;
    outcome
}

#[cfg(not(target_os = "linux"))]
fn prove_durable_sync(_folder: &Path) -> std::io::Result<()> {
    // Elsewhere sled ends a flush in sync_all.
    Ok(())
}

#[cfg(target_os = "linux")]
fn probe_path(folder: &Path) -> PathBuf {
    folder.join(format!(".sync-probe-{}", std::process::id()))
}

#[cfg(target_os = "linux")]
fn open_probe(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path)
}

/// Puts the folder's files, its own entry and theirs on disk. Blocks.
///
/// # Errors
/// The operating system's.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()?;
    match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Database {
        Database::open(folder, 1 << 20).expect("opens")
    }

    #[test]
    fn large_values_round_trip_over_restart_and_shrink() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let long: Vec<u8> = (0..20_000u32).flat_map(u32::to_be_bytes).collect();
        {
            let database = open(folder.path());
            let keyspace = database.keyspace("k").expect("keyspace");
            keyspace.insert_large(b"a", &long).expect("insert");
            keyspace.insert_large(b"b", b"").expect("insert");
            database.flush().expect("flush");
        }
        let database = open(folder.path());
        let keyspace = database.keyspace("k").expect("keyspace");
        assert_eq!(keyspace.get_large(b"a").expect("read"), Some(long));
        assert_eq!(keyspace.get_large(b"b").expect("read"), Some(Vec::new()));
        assert_eq!(keyspace.get_large(b"c").expect("read"), None);
        keyspace.insert_large(b"a", b"short").expect("insert");
        assert_eq!(
            keyspace.get_large(b"a").expect("read"),
            Some(b"short".to_vec())
        );
        let all: Vec<_> = keyspace
            .large_prefix(b"")
            .map(|entry| entry.expect("entry"))
            .collect();
        assert_eq!(
            all,
            vec![
                (b"a".to_vec(), b"short".to_vec()),
                (b"b".to_vec(), Vec::new())
            ]
        );
        keyspace.remove_large(b"a").expect("remove");
        assert_eq!(keyspace.prefix(b"").count(), 1, "no part of a is left");
    }

    #[test]
    fn a_folder_that_is_about_to_be_released_is_waited_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let holder = open(folder.path());
        let refused = Database::open(folder.path(), 1 << 20).expect_err("held for good");
        assert!(matches!(&refused, Error::Locked { .. }), "{refused}");
        assert!(refused.to_string().contains("another process has it open"));
        let release = std::thread::spawn(move || {
            std::thread::sleep(LOCK_PATIENCE / 3);
            drop(holder);
        });
        let reopened = Database::open(folder.path(), 1 << 20);
        assert!(reopened.is_ok(), "{reopened:?}");
        release.join().expect("released");
    }

    #[test]
    fn a_value_over_the_limit_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = open(folder.path());
        let keyspace = database.keyspace("k").expect("keyspace");
        assert!(keyspace.insert(b"k", &vec![0; MAX_VALUE_BYTES]).is_ok());
        assert!(matches!(
            keyspace.insert(b"k", &vec![0; MAX_VALUE_BYTES + 1]),
            Err(Error::TooLarge { .. })
        ));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_flush_arrives_at_our_sync() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = open(folder.path());
        let keyspace = database.keyspace("k").expect("keyspace");
        let before = sync::sync_count();
        keyspace.insert(b"k", b"v").expect("insert");
        database.flush().expect("flush");
        assert!(sync::sync_count() > before);
    }
}
