//! What the committer and recovery both do with a commit: put its record into the log, and what follows from it into the
//! other keyspaces.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    error::Error,
    keys,
    log::{Change, Erasure, Hash, Record},
    log_store::LogStore,
    marks::{self, ImportMark, IngestProgress, Remembered},
    model::IngestMark,
    pages::Pages,
    workspace::Workspace,
};
use crate::kv::{Database, Keyspace};

/// How long request ids and bulk loads are remembered at least, microseconds: 24 hours.
const REMEMBER_MICROS: i64 = 24 * 3600 * 1_000_000;
/// How many forgotten requests, and how many bulk loads, one commit removes at most.
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
    log: LogStore,
    requests: Keyspace,
    request_times: Keyspace,
    ingests: Keyspace,
    ingest_times: Keyspace,
    /// By type: the first commit that wrote to it.
    pub(super) first_known: BTreeMap<String, i64>,
    /// By type: how far its import has come.
    pub(super) imports: BTreeMap<String, ImportMark>,
    /// By type: the last commit that wrote to it since the store was opened.
    pub(super) last_changed: BTreeMap<String, i64>,
    pub(super) end: LogEnd,
}

impl Journal {
    pub(super) fn open(database: &Database) -> Result<Self, Error> {
        let meta = database.keyspace("meta")?;
        Ok(Self {
            database: database.clone(),
            pages: Pages::open(database)?,
            types: database.keyspace("types")?,
            log: LogStore::open(database)?,
            requests: database.keyspace("requests")?,
            request_times: database.keyspace("request_times")?,
            ingests: database.keyspace("ingests")?,
            ingest_times: database.keyspace("ingest_times")?,
            first_known: marks::first_known(&meta)?.into_iter().collect(),
            imports: marks::imports(&meta)?.into_iter().collect(),
            last_changed: BTreeMap::new(),
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
        self.log.bytes(sequence)
    }

    /// Puts the bytes of a record back as they were, and nothing that follows from it.
    pub(super) fn put_record_bytes(&self, sequence: u64, bytes: &[u8]) -> Result<(), Error> {
        self.log.put_bytes(sequence, bytes)
    }

    /// The record of a commit with its hash; `None` past the log's end.
    pub(super) fn record(&self, sequence: u64) -> Result<Option<(Record, Hash)>, Error> {
        self.log.get(sequence)
    }

    /// Appends a record, then writes the pages and marks that follow from it, and redacts what it erases; gives the record's
    /// size in bytes. Not durable before the next flush.
    pub(super) fn append(
        &mut self,
        record: &Record,
        workspace: Workspace<'_>,
    ) -> Result<usize, Error> {
        let (hash, size_bytes) = self.log.append(record)?;
        workspace.write()?;
        self.follow(record, hash)?;
        Ok(size_bytes)
    }

    /// Writes what follows from a record besides pages, and moves the end of the log past it. Doing it again changes nothing.
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
        if let Some(ingest) = &record.ingest {
            self.note_ingest(ingest, record.system_time)?;
        }
        for erasure in record.erasures() {
            self.redact(erasure)?;
        }
        let mut noted = "";
        for (entity_type, _) in record.entries.iter().filter_map(|entry| entry.entity()) {
            if entity_type != noted {
                self.note_type(entity_type, record)?;
                noted = entity_type;
            }
            self.last_changed
                .insert(entity_type.to_owned(), record.system_time);
        }
        self.end = LogEnd {
            sequence: record.sequence,
            hash,
            system_time: Some(record.system_time),
        };
        Ok(())
    }

    fn note_ingest(&self, ingest: &IngestMark, system_time: i64) -> Result<(), Error> {
        if marks::ingest(&self.ingests, &ingest.stream)?.is_none() {
            let time_key = keys::request_time_key(system_time, &ingest.stream);
            self.ingest_times.insert(&time_key, &[])?;
        }
        let progress = IngestProgress {
            offset: ingest.offset,
            system_time,
        };
        marks::set_ingest(&self.ingests, &ingest.stream, &progress)
    }

    fn note_type(&mut self, entity_type: &str, record: &Record) -> Result<(), Error> {
        if !self.first_known.contains_key(entity_type) {
            marks::set_first_known(&self.meta, entity_type, record.at())?;
            self.first_known.insert(entity_type.to_owned(), record.at());
        }
        if let Some(import_time) = record.import_time {
            let mark = ImportMark {
                last_time: import_time,
                first_sequence: self
                    .imports
                    .get(entity_type)
                    .map_or(record.sequence, |mark| mark.first_sequence),
                last_sequence: record.sequence,
            };
            marks::set_import(&self.meta, entity_type, &mark)?;
            self.imports.insert(entity_type.to_owned(), mark);
        }
        Ok(())
    }

    /// The sequences of the records that speak of an entity, ascending, given the system times of its versions.
    ///
    /// **Cost**: a few records for each time; all records of the type's import if it was imported before.
    pub(super) fn sequences_of(
        &self,
        entity_type: &str,
        entity_id: &str,
        times: &BTreeSet<i64>,
    ) -> Result<Vec<u64>, Error> {
        let speaks = |record: &Record| {
            let changed = |change: &Change| {
                change.entity_id == entity_id && change.entity_type == entity_type
            };
            record.changes().any(changed)
        };
        let mut found = Vec::new();
        let mut after = 0;
        let import = self.imports.get(entity_type).copied();
        if let Some(mark) = import
            && times.first().is_some_and(|&first| first <= mark.last_time)
        {
            for sequence in mark.first_sequence..=mark.last_sequence {
                if self.needed_record(sequence).map(|record| speaks(&record))? {
                    found.push(sequence);
                }
            }
            after = mark.last_sequence;
        }
        let last_import = import.map_or(i64::MIN, |mark| mark.last_time);
        for &time in times.iter().filter(|&&time| time > last_import) {
            let Some(record) = self.record_at(time, after)? else {
                continue;
            };
            after = record.sequence;
            if speaks(&record) {
                found.push(record.sequence);
            }
        }
        Ok(found)
    }

    /// The record of a commit at `system_time` that comes after the one with the sequence `after`: looks near it first.
    fn record_at(&self, system_time: i64, after: u64) -> Result<Option<Record>, Error> {
        let mut low = after;
        let mut step = 1;
        let mut high = self.end.sequence + 1;
        while low + step < high {
            if self.needed_record(low + step)?.system_time < system_time {
                low += step;
                step *= 2;
            } else {
                high = low + step;
            }
        }
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.needed_record(middle)?.system_time < system_time {
                low = middle;
            } else {
                high = middle;
            }
        }
        if high > self.end.sequence {
            return Ok(None);
        }
        let record = self.needed_record(high)?;
        Ok((record.system_time == system_time).then_some(record))
    }

    fn needed_record(&self, sequence: u64) -> Result<Record, Error> {
        match self.record(sequence)? {
            Some((record, _)) => Ok(record),
            None => Err(Error::damaged(
                format!("log record {sequence}"),
                "it is missing between others",
            )),
        }
    }

    fn redact(&self, erasure: &Erasure) -> Result<(), Error> {
        for &sequence in &erasure.redacts {
            let mut record = self.needed_record(sequence)?;
            if record.redact(&erasure.entity_type, &erasure.entity_id) {
                self.log.replace(&record)?;
            }
        }
        Ok(())
    }

    /// How far a bulk load has come, if it is remembered.
    pub(super) fn ingest(&self, stream: &str) -> Result<Option<IngestProgress>, Error> {
        marks::ingest(&self.ingests, stream)
    }

    /// The answer that a request id got, if it is remembered.
    pub(super) fn remembered(&self, request_id: &str) -> Result<Option<Remembered>, Error> {
        marks::request(&self.requests, request_id)
    }

    /// Forgets some of the requests and bulk loads that are older than [`REMEMBER_MICROS`].
    pub(super) fn prune(&self, now: i64) -> Result<(), Error> {
        let oldest = now.saturating_sub(REMEMBER_MICROS);
        for (key, id) in outdated(&self.request_times, oldest)? {
            self.requests.remove(&id)?;
            self.request_times.remove(&key)?;
        }
        for (key, stream) in outdated(&self.ingest_times, oldest)? {
            // The key has the time of the load's first batch, or of the last one when it was looked at before.
            let stream = String::from_utf8_lossy(&stream);
            match self.ingest(&stream)? {
                Some(progress) if progress.system_time >= oldest => {
                    let time_key = keys::request_time_key(progress.system_time, &stream);
                    self.ingest_times.insert(&time_key, &[])?;
                }
                _ => self.ingests.remove(stream.as_bytes())?,
            }
            self.ingest_times.remove(&key)?;
        }
        Ok(())
    }

    /// Notes that all pages are written up to the log's end, and puts everything on disk.
    pub(super) fn checkpoint(&self) -> Result<(), Error> {
        marks::set_checkpoint(&self.meta, self.end.sequence)?;
        Ok(self.database.flush()?)
    }
}

/// A key that orders by time, and the name in it.
type TimeKey = (Vec<u8>, Vec<u8>);

/// Some of the keys with a time before `oldest`, with what they name.
fn outdated(times: &Keyspace, oldest: i64) -> Result<Vec<TimeKey>, Error> {
    let end = keys::request_time_key(oldest, "");
    let mut found = Vec::new();
    for entry in times.range(&[], &end).take(PRUNE_PER_COMMIT) {
        let (key, _) = entry?;
        let Some((_, name)) = keys::parse_request_time_key(&key) else {
            return Err(Error::damaged(
                "a remembered request's time",
                "its key is too short",
            ));
        };
        found.push((key.to_vec(), name.to_vec()));
    }
    Ok(found)
}
