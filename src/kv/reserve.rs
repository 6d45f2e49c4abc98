//! Room for the engine's file, taken before it is needed.
//!
//! sled takes a full disk for the end: after one write that the file system refuses, it refuses everything until it is opened
//! again. So blocks behind the end of its file are allocated ahead, without changing the file's length: writes that find them
//! there cannot run out of room. A commit that finds nothing reserved and no room is refused before sled hears of it; what is
//! small (definitions, events, counts of permits) lives on what was reserved while there was room: at the start, and at each
//! flush since.
//!
//! A start needs some room too, for files that sled writes anew and others. So a file of [`BALLAST_BYTES`] lies beside it,
//! which is removed when a start finds no room.
//!
//! **Limits**: file systems that copy on write (btrfs, ZFS) may need room for blocks that are there; where blocks cannot
//! be reserved at all, nothing is, and a full disk poisons the database as any other failed flush does.
//!
//! **Cost**: one `fstat` a commit and a flush, and an allocation each [`AHEAD_BYTES`] / 2 of growth.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

/// How much is reserved behind the end of the file. Half of it is always there: more than a commit writes.
const AHEAD_BYTES: u64 = 64 << 20;

/// What is given up to open the database on a full disk.
const BALLAST_BYTES: u64 = 16 << 20;
const BALLAST_FILE: &str = "ballast";

/// The engine's file, and how far blocks are reserved.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    ballast: PathBuf,
    reserved: Mutex<Reserved>,
}

#[derive(Debug, Default)]
struct Reserved {
    /// Length of the file when it was last looked at.
    length: u64,
    /// Up to this offset there are blocks.
    until: u64,
    /// The file system cannot reserve.
    is_impossible: bool,
}

impl Reserve {
    /// For the engine's file at `path`, which is there. Nothing is reserved yet.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self {
            file,
            ballast: path.with_file_name(BALLAST_FILE),
            reserved: Mutex::default(),
        })
    }

    /// Sees to it that the file can grow.
    ///
    /// # Errors
    /// There is no room for that.
    pub(super) fn ensure(&self) -> io::Result<()> {
        let mut reserved = self.reserved.lock();
        if reserved.is_impossible {
            return Ok(());
        }
        let length = self.file.metadata()?.len();
        // A file that was cut lost the blocks behind its end.
        let was_cut = length < reserved.length;
        reserved.length = length;
        if !was_cut && length + AHEAD_BYTES / 2 <= reserved.until {
            return Ok(());
        }
        // An allocation that fails half-way keeps what it got: others need that to end well.
        let found = match free_bytes(&self.file)? < AHEAD_BYTES {
            true => Err(Errno::NOSPC),
            false => fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, AHEAD_BYTES),
        };
        match found {
            Ok(()) => {
                reserved.until = length + AHEAD_BYTES;
                self.lay_ballast();
                Ok(())
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                tracing::warn!(
                    "the file system cannot reserve room: if the disk runs full, writes fail until a restart"
                );
                reserved.is_impossible = true;
                Ok(())
            }
            Err(errno) => {
                reserved.until = 0;
                Err(errno.into())
            }
        }
    }

    /// As [`Reserve::ensure`], for what is small and comes often. Without room, what is reserved already has to do.
    pub(super) fn top_up(&self) {
        if let Err(error) = self.ensure() {
            tracing::debug!(%error, "there is no room to reserve");
        }
    }

    /// Puts the ballast back, if it is gone and there is room for it.
    fn lay_ballast(&self) {
        let lay = || -> io::Result<()> {
            let file = File::create_new(&self.ballast)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES)?)
        };
        match lay() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                tracing::debug!(%error, "there is no room for ballast");
                // What is there of it is of no use; next time it is laid anew.
                let _ = std::fs::remove_file(&self.ballast);
            }
        }
    }
}

fn free_bytes(file: &File) -> io::Result<u64> {
    let found = rustix::fs::fstatvfs(file)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Makes room by removing the ballast if there is too little to start: not the database alone needs some.
pub(super) fn make_room_to_start(folder: &Path) -> io::Result<()> {
    let found = rustix::fs::statvfs(folder)?;
    if found.f_bavail.saturating_mul(found.f_frsize) < BALLAST_BYTES / 2 {
        drop_ballast(folder);
    }
    Ok(())
}

/// Removes the ballast. `false`: there was none.
pub(super) fn drop_ballast(folder: &Path) -> bool {
    let removed = std::fs::remove_file(folder.join(BALLAST_FILE)).is_ok();
    if removed {
        tracing::warn!(
            "the disk is full: the start takes {BALLAST_BYTES} bytes that were set aside"
        );
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn blocks_are_there_before_the_file_grows_and_after_it_was_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        std::fs::write(&path, [1; 100]).expect("written");
        let reserve = Reserve::open(&path).expect("opens");
        let blocks = || {
            let metadata = std::fs::metadata(&path).expect("there");
            (metadata.len(), metadata.blocks() * 512 >= AHEAD_BYTES / 2)
        };
        assert_eq!(blocks(), (100, false));
        reserve.ensure().expect("room");
        if reserve.reserved.lock().is_impossible {
            return;
        }
        assert_eq!(blocks(), (100, true));
        let file = OpenOptions::new().write(true).open(&path).expect("opens");
        file.set_len(10).expect("cut");
        assert_eq!(blocks(), (10, false));
        reserve.ensure().expect("room");
        assert_eq!(blocks(), (10, true));
        file.set_len(2 * AHEAD_BYTES).expect("grown");
        reserve.ensure().expect("room");
        assert_eq!(reserve.reserved.lock().until, 3 * AHEAD_BYTES);
    }
}
