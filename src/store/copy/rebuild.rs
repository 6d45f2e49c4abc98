//! Pages and marks from commit records, one after the other, by the code that recovers a store after a crash.

use super::Result;
use crate::{
    kv::Database,
    store::{
        self,
        journal::{Journal, LogEnd},
        log::Record,
        recovery,
    },
};

/// Commits between two flushes: what a flush costs, shared.
const FLUSH_COMMITS: u64 = 1_000;

/// A store that grows record by record.
pub(super) struct Rebuild {
    journal: Journal,
}

impl Rebuild {
    /// Into a database that has nothing of a store yet.
    pub(super) fn start(database: &Database) -> Result<Self> {
        Ok(Self {
            journal: Journal::open(database)?,
        })
    }

    /// Where it stands.
    pub(super) fn end(&self) -> &LogEnd {
        &self.journal.end
    }

    /// Takes the next record, as the log has it.
    ///
    /// # Errors
    /// It does not read, or does not follow the record before.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let sequence = self.journal.end.sequence + 1;
        let what = || format!("log record {sequence}");
        let (record, hash) = Record::decode(bytes)
            .map_err(|malformed| store::Error::damaged(what(), malformed.0))?;
        if record.sequence != sequence {
            return Err(store::Error::damaged(what(), "it is another record").into());
        }
        recovery::check_chain(&self.journal.end, &record)?;
        self.journal.put_record_bytes(sequence, bytes)?;
        recovery::replay(&mut self.journal, &record, hash)?;
        self.journal.prune(record.system_time)?;
        if sequence.is_multiple_of(FLUSH_COMMITS) {
            self.journal.checkpoint()?;
        }
        Ok(())
    }

    /// Puts everything on disk.
    pub(super) fn finish(self) -> Result<()> {
        Ok(self.journal.checkpoint()?)
    }
}
