//! Tells a database that has silently gone back to an earlier state.
//!
//! sled finds the end of its log by reading until something does not read: damage in the middle makes it forget, without a
//! word, all that came after. So each flush is numbered. The number is in the database before the flush, and in a file of
//! its own after it. A file that knows a later flush than the database is damage.
//!
//! **Layout** of the file `fence`: format byte, flushes (u64), CRC-32 of both; big-endian. It is overwritten in place and never
//! synced: after a power cut it may say less than the database, never more. A file that does not read proves nothing.
//!
//! **Cost**: one insert and one write of 13 bytes per flush.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use parking_lot::Mutex;

use super::{Error, Result};

const FILE: &str = "fence";
const KEY: &[u8] = b"flushes";
const FORMAT: u8 = 1;
const FILE_BYTES: usize = 13;

/// Counts the flushes of an open database.
#[derive(Debug)]
pub(super) struct Fence {
    /// sled's nameless tree, which holds nothing else.
    tree: sled::Tree,
    /// The number of the last flush that was begun.
    begun: Mutex<u64>,
    /// The file, and the number that it says.
    done: Mutex<(File, u64)>,
}

impl Fence {
    /// Compares the database with the file.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the file knows a later flush; storage faults.
    pub(super) fn open(db: &sled::Db, folder: &Path) -> Result<Self> {
        let io_error = |source| Error::Open {
            folder: folder.to_owned(),
            source,
        };
        let tree = sled::Tree::clone(db);
        let flushed = tree.get(KEY)?.and_then(|bytes| number(&bytes)).unwrap_or(0);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join(FILE))
            .map_err(io_error)?;
        let acknowledged = read(&file).map_err(io_error)?;
        if acknowledged > flushed {
            return Err(Error::Damaged {
                folder: folder.to_owned(),
                cause: format!(
                    "flush {acknowledged} was acknowledged, and all after flush {flushed} is gone"
                ),
            });
        }
        Ok(Self {
            tree,
            begun: Mutex::new(flushed),
            done: Mutex::new((file, acknowledged)),
        })
    }

    /// Numbers a flush that is about to begin.
    pub(super) fn begin(&self) -> Result<u64> {
        // One after the other, so that the number in the database never goes back.
        let mut begun = self.begun.lock();
        let next = *begun + 1;
        self.tree.insert(KEY, &next.to_be_bytes())?;
        *begun = next;
        Ok(next)
    }

    /// Notes that this flush is on disk.
    pub(super) fn end(&self, flush: u64) -> io::Result<()> {
        let mut done = self.done.lock();
        if flush > done.1 {
            done.0.write_all_at(&encode(flush), 0)?;
            done.1 = flush;
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn encode(flush: u64) -> [u8; FILE_BYTES] {
    let mut bytes = [FORMAT; FILE_BYTES];
    bytes[1..9].copy_from_slice(&flush.to_be_bytes());
    let checksum = crc32fast::hash(&bytes[..9]);
    bytes[9..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// What the file says; 0 if it does not read.
fn read(file: &File) -> io::Result<u64> {
    let mut bytes = [0; FILE_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
        Err(error) => return Err(error),
    }
    let flush = number(&bytes[1..9]).filter(|flush| encode(*flush) == bytes);
    if flush.is_none() {
        tracing::warn!("the number of flushes does not read: whether some are gone cannot be told");
    }
    Ok(flush.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use crate::kv::{Database, Error};

    #[test]
    fn a_database_that_went_back_is_damaged() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let fence = folder.path().join("fence");
        let flush = |times: usize| {
            let database = Database::open(folder.path(), 1 << 20).expect("opens");
            for _ in 0..times {
                database.flush().expect("flush");
            }
        };
        flush(3);
        let three = std::fs::read(&fence).expect("there");
        flush(2);
        let five = std::fs::read(&fence).expect("there");
        assert_eq!(five, super::encode(5));
        // An older file is what a power cut may leave; one that does not read proves nothing.
        for proves_nothing in [&three[..], &five[..4], &[0; 13], &[]] {
            std::fs::write(&fence, proves_nothing).expect("written");
            flush(0);
        }
        std::fs::write(&fence, super::encode(6)).expect("written");
        let refused = Database::open(folder.path(), 1 << 20).expect_err("refused");
        assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
        assert!(
            refused.to_string().contains("all after flush 5 is gone"),
            "{refused}"
        );
    }
}
