//! Writing a backup while the store goes on.
//!
//! Records at or before the basis never change, except that `erase` redacts them, one value at a time, and a redacted record
//! has the same hash: the copy is consistent without stopping anyone. Where the store stands is asked of the committer, which
//! answers between two commits. What names bases and types (backfills, definitions) is read before that, so that everything
//! it names is in the copy.

use std::io;

use super::{
    Result,
    format::{FRAME_BYTES, Frame, Header, Pair, State, Writer},
    keyspaces::{self, COPIED, TYPES, untorn},
};
use crate::{
    store::{
        self, Store,
        committer::{Job, Snapshot},
        journal::Journal,
        log::{Hash, Record},
        recovery::check_chain,
    },
    time::SysTime,
};

/// Some bytes of a backup, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// At most 1 MiB.
    pub bytes: Vec<u8>,
    /// `None` before it is known.
    pub basis: Option<SysTime>,
    /// Commits that are written, this chunk included.
    pub commits_done: u64,
    /// Commits in all; 0 before it is known.
    pub commits_total: u64,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupSummary {
    /// Every answer at or before it is in the backup.
    pub basis: SysTime,
    /// Commits up to the basis.
    pub commits: u64,
    /// Of the file.
    pub size_bytes: u64,
}

impl Store {
    /// Hands a copy of the database to `sink`, chunk by chunk: all commits up to `basis` (`None`: the latest), the entity
    /// types, and the other keyspaces as they are when they are read. Every record is verified on the way. Blocks.
    ///
    /// **Cost**: one read of the log; memory for some records. Readers and writers go on.
    ///
    /// # Errors
    /// [`store::Error::BasisNotPinned`]; [`super::Error::Cut`] when `sink` fails; [`store::Error::Damaged`] when a record does not
    /// read: a backup never holds what could not be restored; storage faults.
    pub fn backup(
        &self,
        basis: Option<SysTime>,
        sink: &mut dyn FnMut(Chunk) -> io::Result<()>,
    ) -> Result<BackupSummary> {
        if let Some(basis) = basis {
            self.check_basis(basis)?;
        }
        let mut backup = Backup::start(self, sink)?;
        for (name, form) in COPIED {
            backup.copy_keyspace(name, form)?;
        }
        let snapshot = self.ask_blocking(Job::Snapshot)?;
        backup.state(basis, snapshot)?;
        backup.records()?;
        backup.finish()
    }
}

struct Backup<'a> {
    journal: Journal,
    writer: Writer,
    sink: &'a mut dyn FnMut(Chunk) -> io::Result<()>,
    state: Option<State>,
    commits_done: u64,
}

impl<'a> Backup<'a> {
    fn start(store: &Store, sink: &'a mut dyn FnMut(Chunk) -> io::Result<()>) -> Result<Self> {
        let database = &store.inner.database;
        keyspaces::check_all_known(database)?;
        let header = Header {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            create_time: store.inner.clock.now_micros(),
        };
        Ok(Self {
            journal: Journal::open(database)?,
            writer: Writer::new(header)?,
            sink,
            state: None,
            commits_done: 0,
        })
    }

    fn copy_keyspace(&mut self, name: &str, form: keyspaces::Form) -> Result<()> {
        let keyspace = self.journal.database.keyspace(name)?;
        let mut pairs = Vec::new();
        let mut held_bytes = 0;
        keyspaces::each_value(&keyspace, form, |key, value| {
            held_bytes += key.len() + value.len();
            pairs.push((key.to_vec(), value.to_vec()));
            if held_bytes >= FRAME_BYTES {
                held_bytes = 0;
                self.entries(name, std::mem::take(&mut pairs))?;
            }
            Ok(())
        })?;
        self.entries(name, pairs)
    }

    fn entries(&mut self, keyspace: &str, pairs: Vec<Pair>) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        self.write(&Frame::Entries {
            keyspace: keyspace.to_owned(),
            pairs,
        })
    }

    fn state(&mut self, basis: Option<SysTime>, snapshot: Snapshot) -> Result<()> {
        let Snapshot {
            last_sequence,
            system_time,
            floor,
            types,
        } = snapshot;
        let latest = system_time.unwrap_or(floor);
        let basis = basis.map_or(latest, SysTime::micros);
        let last_sequence = if basis >= latest {
            last_sequence
        } else {
            self.last_sequence_at(basis, last_sequence)?
        };
        let state = State {
            basis,
            // Whatever the original may have promised: the copy writes at or before none of it.
            floor: floor.max(latest).max(basis),
            last_sequence,
        };
        self.state = Some(state);
        self.write(&Frame::State(state))?;
        self.entries(TYPES, types)
    }

    /// The last record at or before `basis`, of the records up to `end`; 0: there is none.
    fn last_sequence_at(&self, basis: i64, end: u64) -> Result<u64> {
        let (mut known, mut beyond) = (0, end + 1);
        while known + 1 < beyond {
            let middle = known.midpoint(beyond);
            if self.record(middle)?.1.system_time <= basis {
                known = middle;
            } else {
                beyond = middle;
            }
        }
        Ok(known)
    }

    fn records(&mut self) -> Result<()> {
        let last_sequence = self.state.map_or(0, |state| state.last_sequence);
        let mut held: Vec<Vec<u8>> = Vec::new();
        let mut held_bytes = 0;
        for sequence in 1..=last_sequence {
            let (bytes, record, hash) = self.record(sequence)?;
            check_chain(&self.journal.end, &record)?;
            self.journal.end.sequence = sequence;
            self.journal.end.hash = hash;
            self.journal.end.system_time = Some(record.system_time);
            held_bytes += bytes.len();
            held.push(bytes);
            if held_bytes >= FRAME_BYTES || sequence == last_sequence {
                held_bytes = 0;
                self.commits_done = sequence;
                self.write(&Frame::Records(std::mem::take(&mut held)))?;
            }
        }
        Ok(())
    }

    fn record(&self, sequence: u64) -> Result<(Vec<u8>, Record, Hash)> {
        let what = || format!("log record {sequence}");
        let bytes = untorn(|| Ok(self.journal.record_bytes(sequence)?))?
            .ok_or_else(|| store::Error::damaged(what(), "it is missing"))?;
        let (record, hash) = Record::decode(&bytes)
            .map_err(|malformed| store::Error::damaged(what(), malformed.0))?;
        Ok((bytes, record, hash))
    }

    fn finish(mut self) -> Result<BackupSummary> {
        self.writer.finish()?;
        self.hand_on()?;
        let state = self.state.ok_or(store::Error::Closed)?;
        Ok(BackupSummary {
            basis: SysTime::from_micros(state.basis),
            commits: state.last_sequence,
            size_bytes: self.writer.size_bytes(),
        })
    }

    fn write(&mut self, frame: &Frame) -> Result<()> {
        self.writer.frame(frame)?;
        self.hand_on()
    }

    fn hand_on(&mut self) -> Result<()> {
        let basis = self.state.map(|state| SysTime::from_micros(state.basis));
        let commits_total = self.state.map_or(0, |state| state.last_sequence);
        let commits_done = self.commits_done;
        let sink = &mut self.sink;
        self.writer.hand_on(&mut |bytes| {
            sink(Chunk {
                bytes,
                basis,
                commits_done,
                commits_total,
            })
        })
    }
}
