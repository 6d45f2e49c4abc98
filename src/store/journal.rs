//! What the committer and recovery both do with a commit: put its record into the log, and what follows from it into the
//! other keyspaces.

use std::collections::BTreeMap;

use super::{
    error::Error,
    keys,
    log::{Hash, Record},
    marks::{self, Remembered},
    model::IngestMark,
    pages::Pages,
    workspace::Workspace,
};
use crate::kv::{Database, Keyspace};

/// How long a request id is remembered at least, microseconds: 24 hours.
pub(super) const REMEMBER_REQUESTS_MICROS: i64 = 24 * 3600 * 1_000_000;
/// How many forgotten requests one commit removes at most.
const PRUNE_PER_COMMIT: usize = 16;

/// Where the log ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogEnd {
    /// 0: the log is empty.
    pub(super) sequence: u64,
    pub(super) hash: Hash,
    /// Of the last record; `None` while the log is empty.
    pub(super) system_time: Option<i64>,
}

/// The keyspaces that a commit writes to.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) database: Database,
    pub(super) pages: Pages,
    pub(super) types: Keyspace,
    pub(super) meta: Keyspace,
    log: Keyspace,
    requests: Keyspace,
    request_times: Keyspace,
    ingests: Keyspace,
    /// By type: the first commit that wrote to it.
    pub(super) first_known: BTreeMap<String, i64>,
    pub(super) end: LogEnd,
}

impl Journal {
    pub(super) fn open(database: &Database) -> Result<Self, Error> {
        let meta = database.keyspace("meta")?;
        Ok(Self {
            database: database.clone(),
            pages: Pages::open(database)?,
            types: database.keyspace("types")?,
            log: database.keyspace("log")?,
            requests: database.keyspace("requests")?,
            request_times: database.keyspace("request_times")?,
            ingests: database.keyspace("ingests")?,
            first_known: marks::first_known(&meta)?.into_iter().collect(),
            meta,
            end: LogEnd {
                sequence: 0,
                hash: Hash::default(),
                system_time: None,
            },
        })
    }

    /// The bytes of a record as they are stored; `None` past the log's end.
    pub(super) fn record_bytes(&self, sequence: u64) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.log.get_large(&keys::sequence_key(sequence))?)
    }

    /// Puts the bytes of a record back as they were, and nothing that follows from it.
    pub(super) fn put_record_bytes(&self, sequence: u64, bytes: &[u8]) -> Result<(), Error> {
        let key = keys::sequence_key(sequence);
        Ok(self.log.insert_large(&key, bytes)?)
    }

    /// The record of a commit with its hash; `None` past the log's end.
    pub(super) fn record(&self, sequence: u64) -> Result<Option<(Record, Hash)>, Error> {
        let what = || format!("log record {sequence}");
        let Some(bytes) = self.log.get_large(&keys::sequence_key(sequence))? else {
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

    /// Appends a record, then writes the pages and marks that follow from it. Not durable before the next flush.
    pub(super) fn append(
        &mut self,
        record: &Record,
        workspace: Workspace<'_>,
    ) -> Result<(), Error> {
        let (bytes, hash) = record.encode();
        self.log
            .insert_large(&keys::sequence_key(record.sequence), &bytes)?;
        workspace.write()?;
        self.follow(record, hash)
    }

    /// Writes what follows from a record besides pages, and moves the end of the log past it.
    pub(super) fn follow(&mut self, record: &Record, hash: Hash) -> Result<(), Error> {
        if let Some(request) = &record.request {
            let remembered = Remembered {
                system_time: record.system_time,
                versions_written: record.versions_written,
                digest: request.digest,
            };
            marks::set_request(&self.requests, &request.id, &remembered)?;
            let time_key = keys::request_time_key(record.system_time, &request.id);
            self.request_times.insert(&time_key, &[])?;
        }
        for change in &record.changes {
            if !self.first_known.contains_key(&change.entity_type) {
                marks::set_first_known(&self.meta, &change.entity_type, record.system_time)?;
                self.first_known
                    .insert(change.entity_type.clone(), record.system_time);
            }
        }
        self.end = LogEnd {
            sequence: record.sequence,
            hash,
            system_time: Some(record.system_time),
        };
        Ok(())
    }

    /// The last offset of a bulk load.
    pub(super) fn ingest_offset(&self, stream: &str) -> Result<Option<u64>, Error> {
        marks::ingest_offset(&self.ingests, stream)
    }

    /// Notes the last offset of a bulk load.
    pub(super) fn set_ingest_offset(&self, mark: &IngestMark) -> Result<(), Error> {
        marks::set_ingest_offset(&self.ingests, &mark.stream, mark.offset)
    }

    /// The answer that a request id got, if it is remembered.
    pub(super) fn remembered(&self, request_id: &str) -> Result<Option<Remembered>, Error> {
        marks::request(&self.requests, request_id)
    }

    /// Forgets some of the requests that are older than [`REMEMBER_REQUESTS_MICROS`].
    pub(super) fn prune_requests(&self, now: i64) -> Result<(), Error> {
        let end = keys::request_time_key(now.saturating_sub(REMEMBER_REQUESTS_MICROS), "");
        for entry in self.request_times.range(&[], &end).take(PRUNE_PER_COMMIT) {
            let (key, _) = entry?;
            let Some((_, id)) = keys::parse_request_time_key(&key) else {
                return Err(Error::damaged(
                    "a remembered request's time",
                    "its key is too short",
                ));
            };
            self.requests.remove(id)?;
            self.request_times.remove(&key)?;
        }
        Ok(())
    }

    /// Notes that all pages are written up to the log's end, and puts everything on disk.
    pub(super) fn checkpoint(&self) -> Result<(), Error> {
        marks::set_checkpoint(&self.meta, self.end.sequence)?;
        Ok(self.database.flush()?)
    }
}
