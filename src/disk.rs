//! How much room the disk has, and what happens when it runs out.
//!
//! Below a minimum of free bytes nothing new is written for clients and no partition starts; reads go on, and what is under
//! way ends on the rest. It is measured again and again, so all of it goes on by itself once there is room.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    error::{Classify, ErrorKind},
    telemetry::{Collect, Sheet},
    time::Clock,
};

/// Free bytes below which writes are refused, unless it is set otherwise.
pub const DEFAULT_MINIMUM_FREE_BYTES: u64 = 512 << 20;
/// How often the room is measured when nobody writes.
pub const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// When a refused client should ask again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(10);
/// How long the disk counts as full after the operating system said so, whatever is measured: quotas are not.
const HOLD: Duration = Duration::from_secs(2);

/// The room on one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Measures file systems. Tests have one that says what they want.
pub trait Probe: fmt::Debug + Send + Sync + 'static {
    /// The room on the file system that holds `folder`.
    ///
    /// # Errors
    /// The operating system's.
    fn space(&self, folder: &Path) -> std::io::Result<Space>;
}

/// Asks the operating system. **Cost**: one system call, about a microsecond.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem;

impl Probe for FileSystem {
    fn space(&self, folder: &Path) -> std::io::Result<Space> {
        let found = rustix::fs::statvfs(folder)?;
        Ok(Space {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// Something is not written because the disk is nearly full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot write: the disk of {} has {free_bytes} free bytes and needs {needed_bytes}; make room, or lower the minimum of free bytes",
    folder.display()
)]
pub struct Full {
    /// A folder on that disk.
    pub folder: PathBuf,
    /// As measured.
    pub free_bytes: u64,
    /// The minimum.
    pub needed_bytes: u64,
}

impl Classify for Full {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Exhausted {
            retry_after: RETRY_AFTER,
        }
    }

    fn reason(&self) -> &'static str {
        "DISK_FULL"
    }
}

/// The disks that a server writes to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    probe: Arc<dyn Probe>,
    clock: Arc<dyn Clock>,
    folders: Vec<Folder>,
    minimum_free_bytes: u64,
    /// Monotonic: until then it is full, whatever is measured.
    held_until: AtomicI64,
    refused: AtomicU64,
    full: watch::Sender<Option<Full>>,
}

#[derive(Debug)]
struct Folder {
    /// As metrics have it.
    name: &'static str,
    path: PathBuf,
    free_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Disk {
    /// Measures the disks of these named folders, which are there.
    pub fn new(
        probe: Arc<dyn Probe>,
        clock: Arc<dyn Clock>,
        minimum_free_bytes: u64,
        folders: impl IntoIterator<Item = (&'static str, PathBuf)>,
    ) -> Self {
        let folder = |(name, path)| Folder {
            name,
            path,
            free_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
        };
        let disk = Self {
            inner: Arc::new(Inner {
                probe,
                clock,
                folders: folders.into_iter().map(folder).collect(),
                minimum_free_bytes,
                held_until: AtomicI64::new(i64::MIN),
                refused: AtomicU64::new(0),
                full: watch::Sender::new(None),
            }),
        };
        disk.measure();
        disk
    }

    /// Measures, and gives what is wrong. **Cost**: a system call for each folder.
    pub fn measure(&self) -> Option<Full> {
        let inner = &self.inner;
        let is_held = inner.clock.monotonic_micros() < inner.held_until.load(Ordering::Relaxed);
        let mut full = None;
        for folder in &inner.folders {
            let space = match inner.probe.space(&folder.path) {
                Ok(space) => space,
                Err(error) => {
                    // Whoever writes there meets the fault itself.
                    tracing::debug!(folder = %folder.path.display(), %error, "cannot measure the room on disk");
                    continue;
                }
            };
            folder.free_bytes.store(space.free_bytes, Ordering::Relaxed);
            folder
                .total_bytes
                .store(space.total_bytes, Ordering::Relaxed);
            if full.is_none() && (is_held || space.free_bytes < inner.minimum_free_bytes) {
                full = Some(Full {
                    folder: folder.path.clone(),
                    free_bytes: space.free_bytes,
                    needed_bytes: inner.minimum_free_bytes,
                });
            }
        }
        self.tell(full.clone());
        full
    }

    /// Notes the change, if it is one, and logs it.
    fn tell(&self, full: Option<Full>) {
        self.inner.full.send_if_modified(|before| {
            let changes = before.is_some() != full.is_some();
            match (&*before, &full) {
                (None, Some(full)) => {
                    tracing::warn!(folder = %full.folder.display(), free_bytes = full.free_bytes, needed_bytes = full.needed_bytes, "the disk is nearly full: writes are refused and backfills wait until there is room");
                }
                (Some(_), None) => {
                    tracing::info!("the disk has room again: writes and backfills go on");
                }
                (None, None) | (Some(_), Some(_)) => {}
            }
            *before = full;
            changes
        });
    }

    /// Refuses if it is full now. **Cost**: as [`Disk::measure`].
    ///
    /// # Errors
    /// [`Full`].
    pub fn check(&self) -> Result<(), Full> {
        self.refuse(self.measure())
    }

    /// Refuses if it was full when it was last measured. **Cost**: a lock that is free but for changes.
    ///
    /// # Errors
    /// [`Full`].
    pub fn check_last(&self) -> Result<(), Full> {
        self.refuse(self.full())
    }

    fn refuse(&self, full: Option<Full>) -> Result<(), Full> {
        match full {
            None => Ok(()),
            Some(full) => {
                self.inner.refused.fetch_add(1, Ordering::Relaxed);
                Err(full)
            }
        }
    }

    /// What was wrong when it was last measured.
    pub fn full(&self) -> Option<Full> {
        self.inner.full.borrow().clone()
    }

    /// Whether it was full when it was last measured.
    pub fn is_full(&self) -> bool {
        self.inner.full.borrow().is_some()
    }

    /// The operating system refused a write for want of room: for a moment the disk is full, whatever is measured.
    pub fn ran_out(&self) {
        let hold_micros = i64::try_from(HOLD.as_micros()).unwrap_or(i64::MAX);
        let until = self.inner.clock.monotonic_micros() + hold_micros;
        self.inner.held_until.fetch_max(until, Ordering::Relaxed);
        self.measure();
    }

    /// Tells when it becomes full and when it has room again.
    pub fn subscribe(&self) -> watch::Receiver<Option<Full>> {
        self.inner.full.subscribe()
    }

    /// Measures again and again, for ever.
    pub async fn watch(self) {
        loop {
            self.inner.clock.sleep(MEASURE_INTERVAL).await;
            self.measure();
        }
    }
}

impl Collect for Disk {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let of_folders = |read: fn(&Folder) -> u64| {
            let folders = self.inner.folders.iter();
            folders.map(move |folder| (vec![("folder", folder.name)], read(folder)))
        };
        sheet.gauges(
            "hindcast_disk_free_bytes",
            "Bytes that can still be written, by folder.",
            of_folders(|folder| folder.free_bytes.load(Ordering::Relaxed)),
        )?;
        sheet.gauges(
            "hindcast_disk_used_bytes",
            "Bytes in use on the folder's disk, by whomever.",
            of_folders(|folder| {
                let total_bytes = folder.total_bytes.load(Ordering::Relaxed);
                total_bytes.saturating_sub(folder.free_bytes.load(Ordering::Relaxed))
            }),
        )?;
        sheet.gauge(
            "hindcast_disk_minimum_free_bytes",
            "Free bytes below which writes are refused.",
            self.inner.minimum_free_bytes,
        )?;
        sheet.gauge(
            "hindcast_disk_full",
            "1 while writes are refused because the disk is nearly full.",
            u64::from(self.is_full()),
        )?;
        sheet.counter(
            "hindcast_disk_refused_writes",
            "Writes that were refused because the disk is nearly full.",
            self.inner.refused.load(Ordering::Relaxed),
        )
    }
}

/// Whether an error, or what caused it, is that there is no room: on the disk, or in a quota.
pub fn is_out_of_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if current.is::<Full>() {
            return true;
        }
        if let Some(error) = current.downcast_ref::<std::io::Error>() {
            if matches!(
                error.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ) {
                return true;
            }
            // An error that wraps another does not name it as its source.
            if let Some(inner) = error.get_ref()
                && is_out_of_space(inner)
            {
                return true;
            }
        }
        cause = current.source();
    }
    // Some libraries keep no more than the words.
    let text = error.to_string();
    text.contains("No space left on device") || text.contains("Disk quota exceeded")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::time::ManualClock;

    #[derive(Debug, Default)]
    struct Said(AtomicU64);

    impl Probe for Said {
        fn space(&self, _folder: &Path) -> io::Result<Space> {
            Ok(Space {
                free_bytes: self.0.load(Ordering::Relaxed),
                total_bytes: 1_000,
            })
        }
    }

    #[test]
    fn the_minimum_itself_is_enough() {
        let probe = Arc::new(Said::default());
        let folders = [("data", PathBuf::from("/x"))];
        let clock = ManualClock::starting_at(0);
        let disk = Disk::new(Arc::clone(&probe) as _, clock, 100, folders);
        for (free, is_full) in [(100, false), (99, true), (0, true), (1_000, false)] {
            probe.0.store(free, Ordering::Relaxed);
            assert_eq!(disk.check().is_err(), is_full, "{free}");
            assert_eq!(disk.is_full(), is_full, "{free}");
        }
        disk.ran_out();
        let refused = disk.check().expect_err("held");
        assert_eq!((refused.free_bytes, refused.needed_bytes), (1_000, 100));
        assert_eq!(refused.reason(), "DISK_FULL");
    }

    #[test]
    fn an_operating_system_s_word_is_found_below_wrappers() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write: {0}")]
        struct Wrapped(#[source] io::Error);
        assert!(is_out_of_space(&full()));
        assert!(is_out_of_space(&io::Error::other(Wrapped(full()))));
        assert!(is_out_of_space(&Wrapped(io::Error::other(full()))));
        let words = io::Error::other("write: No space left on device (os error 28)");
        assert!(is_out_of_space(&words));
        assert!(!is_out_of_space(&Wrapped(io::ErrorKind::NotFound.into())));
    }

    #[test]
    fn a_real_file_system_has_some_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = FileSystem.space(folder.path()).expect("measured");
        assert!(0 < space.free_bytes && space.free_bytes <= space.total_bytes);
        assert!(FileSystem.space(&folder.path().join("none")).is_err());
    }
}
