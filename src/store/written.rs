//! What the commit log says was written to, without a look at any page.
//!
//! [`changes`](super::changes) tells what commits changed; this says only where one may have to look, at the price of the log
//! alone. A put that changed nothing at a point that it covers is here too.

use std::collections::BTreeSet;

use super::{Result, Store, log::Entry, timeline::OPEN};
use crate::time::{Interval, SysTime, ValidTime};

/// What one commit wrote to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The commit's system time.
    pub system_time: SysTime,
    /// What it wrote to, of the types asked for, in the commit's order.
    pub entries: Vec<WrittenEntry>,
}

/// One entity that a commit wrote to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenEntry {
    /// Its type.
    pub entity_type: String,
    /// Its id.
    pub entity_id: String,
    /// What was done.
    pub what: WrittenWhat,
}

/// What a commit did to an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenWhat {
    /// Something was said of this range of valid time.
    Said(Interval<ValidTime>),
    /// It was erased.
    Erased {
        /// The basis from which on anything was known of it before; `None`: nothing was.
        known_from: Option<SysTime>,
    },
}

/// A walk over the commit log. Blocks in every call.
#[derive(Debug)]
pub struct WrittenWalk {
    store: Store,
    types: BTreeSet<String>,
    next: u64,
    last: u64,
}

impl Store {
    /// Walks what commits wrote to after basis `from`, up to and with basis `to`, of these types. Blocks.
    ///
    /// Entries that were redacted by an erasure are left out; the erasure itself comes in its place. Commits that were
    /// imported come in the order in which they were made, under the system time at which they were.
    ///
    /// **Cost**: a search through the log by halves; then one record for each commit. No page is read.
    ///
    /// # Errors
    /// [`Error::BasisNotPinned`](super::Error::BasisNotPinned) for `to`; damaged records; storage faults.
    pub fn written(
        &self,
        from: SysTime,
        to: SysTime,
        types: BTreeSet<String>,
    ) -> Result<WrittenWalk> {
        self.check_basis(to)?;
        let (last, _) = self.last_commit();
        let records = &self.inner.records;
        Ok(WrittenWalk {
            store: self.clone(),
            types,
            next: records.last_at_or_before(from, last)? + 1,
            last: records.last_at_or_before(to, last)?,
        })
    }
}

impl Iterator for WrittenWalk {
    type Item = Result<Written>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.last {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        Some(self.read(sequence))
    }
}

impl WrittenWalk {
    fn read(&self, sequence: u64) -> Result<Written> {
        let record = self.store.inner.records.get(sequence)?;
        let mut entries = Vec::new();
        for entry in &record.entries {
            let Some((entity_type, entity_id)) = entry.entity() else {
                continue;
            };
            if !self.types.contains(entity_type) {
                continue;
            }
            entries.push(WrittenEntry {
                entity_type: entity_type.to_owned(),
                entity_id: entity_id.to_owned(),
                what: self.what(entry)?,
            });
        }
        Ok(Written {
            system_time: SysTime::from_micros(record.system_time),
            entries,
        })
    }

    fn what(&self, entry: &Entry) -> Result<WrittenWhat> {
        let Entry::Erase(erasure) = entry else {
            let span = entry.span();
            return Ok(WrittenWhat::Said(Interval {
                from: ValidTime::from_micros(span.from),
                to: (span.to != OPEN).then(|| ValidTime::from_micros(span.to)),
            }));
        };
        let first = erasure.redacts.first();
        let known_from = first
            .map(|sequence| self.store.inner.records.get(*sequence))
            .transpose()?
            .map(|record| SysTime::from_micros(record.at()));
        Ok(WrittenWhat::Erased { known_from })
    }
}
