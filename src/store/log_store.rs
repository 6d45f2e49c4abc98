//! Where commit records lie, and how one is replaced without ever being half there.
//!
//! A record is one large value under its sequence. Replacing one (an erasure redacts it) must be all or nothing, for readers
//! beside it and for a crash in between, and a large value is written part by part. So a replacement that fits one value is
//! written in its place; a longer one is written beside it first, under a new generation, and then a short note that says
//! where it is takes the place of the record.

use super::{
    error::Error,
    keys,
    log::{Hash, Record},
};
use crate::kv::{self, Database, Keyspace};

/// The longest replacement that is one value. Leaves room under [`kv::MAX_VALUE_BYTES`] for what comes with it.
const ONE_VALUE_BYTES: usize = 4000;
/// The format byte of a note; no record starts with it.
const MOVED: u8 = 0xFF;
/// How often a reader follows a record that is being replaced.
const TRIES: usize = 1000;

/// The stored records. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LogStore {
    log: Keyspace,
    redacted: Keyspace,
}

impl LogStore {
    pub(super) fn open(database: &Database) -> kv::Result<Self> {
        Ok(Self {
            log: database.keyspace("log")?,
            redacted: database.keyspace("redacted")?,
        })
    }

    /// The record of a commit with its hash; `None` past the log's end.
    ///
    /// # Errors
    /// [`Error::Damaged`]; storage faults.
    pub(super) fn get(&self, sequence: u64) -> Result<Option<(Record, Hash)>, Error> {
        let what = || format!("log record {sequence}");
        let Some(bytes) = self.bytes(sequence)? else {
            return Ok(None);
        };
        let (record, hash) =
            Record::decode(&bytes).map_err(|malformed| Error::damaged(what(), malformed.0))?;
        if record.sequence == sequence {
            Ok(Some((record, hash)))
        } else {
            Err(Error::damaged(what(), "it is another record"))
        }
    }

    /// The bytes of a record, as [`Record::decode`] reads them.
    pub(super) fn bytes(&self, sequence: u64) -> Result<Option<Vec<u8>>, Error> {
        let key = keys::sequence_key(sequence);
        let mut fault = None;
        for _ in 0..TRIES {
            // Parts of a value that was just replaced are gone: look again.
            let bytes = match self.log.get_large(&key) {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => bytes,
                Err(error @ kv::Error::Corrupt { .. }) => {
                    fault = Some(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(generation) = moved_to(&bytes) else {
                return Ok(Some(bytes));
            };
            let moved_key = keys::redacted_key(sequence, generation);
            match self.redacted.get_large(&moved_key) {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error @ kv::Error::Corrupt { .. }) => fault = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(fault.map_or_else(
            || {
                Error::damaged(
                    format!("log record {sequence}"),
                    "what replaced it is not there",
                )
            },
            Error::from,
        ))
    }

    /// Stores the record of a new commit; gives its hash and its size in bytes. Not durable before the next flush.
    pub(super) fn append(&self, record: &Record) -> Result<(Hash, usize), Error> {
        let (bytes, hash) = record.encode();
        self.log
            .insert_large(&keys::sequence_key(record.sequence), &bytes)?;
        Ok((hash, bytes.len()))
    }

    /// Stores the bytes of a record as they were in another store. Not durable before the next flush.
    pub(super) fn put_bytes(&self, sequence: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(self
            .log
            .insert_large(&keys::sequence_key(sequence), bytes)?)
    }

    /// Stores another form of a record that is there. Doing it again changes nothing. Not durable before the next flush.
    pub(super) fn replace(&self, record: &Record) -> Result<(), Error> {
        let key = keys::sequence_key(record.sequence);
        let before = self.log.get_large(&key)?.and_then(|bytes| moved_to(&bytes));
        let (bytes, _) = record.encode();
        if bytes.len() <= ONE_VALUE_BYTES {
            self.log.insert_large(&key, &bytes)?;
        } else {
            let generation = before.map_or(1, |before| before + 1);
            let moved_key = keys::redacted_key(record.sequence, generation);
            self.redacted.insert_large(&moved_key, &bytes)?;
            let mut note = vec![MOVED];
            note.extend_from_slice(&generation.to_be_bytes());
            self.log.insert_large(&key, &note)?;
        }
        if let Some(before) = before {
            let moved_key = keys::redacted_key(record.sequence, before);
            self.redacted.remove_large(&moved_key)?;
        }
        Ok(())
    }
}

/// The generation that a note names; `None`: these are a record's own bytes.
fn moved_to(bytes: &[u8]) -> Option<u64> {
    match bytes.split_first() {
        Some((&MOVED, generation)) => Some(u64::from_be_bytes(generation.try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        log::{Change, Entry},
        timeline::Span,
    };

    fn record(count: usize) -> Record {
        let change = |index: usize| {
            Entry::Change(Change {
                entity_type: "t".to_owned(),
                entity_id: format!("id{}", index % 3),
                span: Span { from: 0, to: 9 },
                row: Some(vec![7; 1000]),
            })
        };
        Record {
            sequence: 5,
            system_time: 1,
            import_time: None,
            versions_written: 0,
            request: None,
            ingest: None,
            previous: [0; 32],
            entries: (0..count).map(change).collect(),
        }
    }

    #[test]
    fn records_of_any_length_are_replaced_and_keep_their_hash() {
        for count in [1, 3, 30] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let database = Database::open(folder.path(), 1 << 20).expect("opens");
            let store = LogStore::open(&database).expect("opens");
            let mut record = record(count);
            let (hash, _) = store.append(&record).expect("stored");
            for id in ["id0", "id1", "id2"] {
                if record.redact("t", id) {
                    // As after a crash before the checkpoint, once more.
                    store.replace(&record).expect("replaced");
                    store.replace(&record).expect("replaced");
                }
                let found = store.get(5).expect("reads");
                assert_eq!(found, Some((record.clone(), hash)), "{count} {id}");
            }
            assert_eq!(store.redacted.prefix(&[]).count(), 0, "nothing is left");
            assert_eq!(store.get(6).expect("reads"), None);
        }
    }

    #[test]
    fn readers_see_a_record_whole_while_it_is_replaced() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), 1 << 20).expect("opens");
        let store = LogStore::open(&database).expect("opens");
        let whole = record(30);
        let (hash, _) = store.append(&whole).expect("stored");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let (_, found) = store.get(5).expect("reads").expect("there");
                    assert_eq!(found, hash);
                }
            });
            for _ in 0..30 {
                let mut redacted = whole.clone();
                for id in ["id0", "id1", "id2"] {
                    redacted.redact("t", id);
                    store.replace(&redacted).expect("replaced");
                }
                store.replace(&whole).expect("replaced");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().expect("no reader fails");
        });
    }
}
