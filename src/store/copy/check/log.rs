//! The commit log as it lies.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckReport, Progress, RESTORE, Result, describe, step};
use crate::store::{
    copy::keyspaces::LOG,
    journal::{Journal, LogEnd},
    keys,
    log::{Entry, Record},
    marks,
    recovery::check_chain,
};

/// What the log is found to be.
pub(super) struct Found {
    /// Whether all of it can be replayed.
    pub(super) is_sound: bool,
    /// The keys of entities that commits past the checkpoint touch.
    pub(super) unapplied: BTreeSet<Vec<u8>>,
}

/// Walks all records, whatever lies between them.
pub(super) fn walk(
    journal: &Journal,
    report: &mut CheckReport,
    progress: Progress<'_>,
) -> Result<Found> {
    let before = report.problem_count;
    let checkpoint = match marks::checkpoint(&journal.meta) {
        Ok(checkpoint) => checkpoint,
        // Told with the marks.
        Err(error) => describe(error).map(|_| 0)?,
    };
    let mut walk = Walk {
        end: journal.end,
        is_chained: true,
        first_known: BTreeMap::new(),
        imported_to: BTreeMap::new(),
        is_redacted: false,
        report,
    };
    let mut unapplied = BTreeSet::new();
    let log = journal.database.keyspace(LOG)?;
    for key in log.large_keys() {
        let key = key?;
        let Some(record) = walk.record(journal, &key)? else {
            continue;
        };
        if record.sequence > checkpoint {
            walk.report.unapplied_commits += 1;
            let touched = record.entries.iter().filter_map(|entry| entry.entity());
            unapplied.extend(touched.map(|(entity_type, id)| keys::entity_key(entity_type, id)));
        }
        step(progress, "commits", record.sequence);
    }
    let end = walk.end.sequence;
    if checkpoint > end {
        let what = format!("records {} to {checkpoint} are missing at its end", end + 1);
        walk.report.add(LOG, what, RESTORE);
    }
    walk.report.commits = end;
    if checkpoint == end {
        walk.compare_first_known(journal);
    }
    Ok(Found {
        is_sound: report.problem_count == before,
        unapplied,
    })
}

struct Walk<'a> {
    /// The last record that was there.
    end: LogEnd,
    /// Whether its hash and time are known.
    is_chained: bool,
    first_known: BTreeMap<String, i64>,
    /// By type: the last system time of its import.
    imported_to: BTreeMap<String, i64>,
    /// Whether anything that it said was erased.
    is_redacted: bool,
    report: &'a mut CheckReport,
}

impl Walk<'_> {
    fn record(&mut self, journal: &Journal, key: &[u8]) -> Result<Option<Record>> {
        let Ok(sequence) = key.try_into().map(u64::from_be_bytes) else {
            let what = format!("key {} is no sequence", key.escape_ascii());
            self.report.add(LOG, what, RESTORE);
            return Ok(None);
        };
        let due = self.end.sequence + 1;
        if sequence != due {
            let what = format!(
                "records {due} to {} are missing",
                sequence.saturating_sub(1)
            );
            self.report.add(LOG, what, RESTORE);
            self.is_chained = false;
        }
        self.end.sequence = sequence;
        let (record, hash) = match read(journal, sequence)? {
            Ok(found) => found,
            Err(problem) => {
                self.report
                    .add(LOG, format!("record {sequence}: {problem}"), RESTORE);
                self.is_chained = false;
                return Ok(None);
            }
        };
        if self.is_chained && check_chain(&self.end, &record).is_err() {
            let what = format!("record {sequence} does not follow the record before");
            self.report.add(LOG, what, RESTORE);
        }
        self.is_chained = true;
        self.end.hash = hash;
        self.end.system_time = Some(record.system_time);
        let is_redacted = |entry: &Entry| matches!(entry, Entry::Redacted(_));
        self.is_redacted |= record.entries.iter().any(is_redacted);
        for (entity_type, _) in record.entries.iter().filter_map(|entry| entry.entity()) {
            if !self.first_known.contains_key(entity_type) {
                self.first_known.insert(entity_type.to_owned(), record.at());
            }
            if let Some(import_time) = record.import_time {
                let last = self.imported_to.insert(entity_type.to_owned(), import_time);
                if last.is_some_and(|last| import_time < last) {
                    let what = format!("record {sequence} imports {entity_type} backwards");
                    self.report.add(LOG, what, RESTORE);
                }
            }
        }
        Ok(Some(record))
    }

    /// What was erased does not say any more when its type was first known: then the log only says when at the latest.
    fn compare_first_known(&mut self, journal: &Journal) {
        let agrees = |(entity_type, &first): (&String, &i64)| {
            let noted = journal.first_known.get(entity_type);
            noted.is_some_and(|&noted| noted == first || (self.is_redacted && noted < first))
        };
        let has_all = journal.first_known.len() == self.first_known.len() || self.is_redacted;
        let is_known = has_all && self.first_known.iter().all(agrees);
        if !is_known && self.report.is_clean() {
            let what = "the first-known times are not those of the log";
            self.report.add("meta", what, super::DERIVE);
        }
    }
}

/// The record, or what is wrong with it.
fn read(
    journal: &Journal,
    sequence: u64,
) -> Result<std::result::Result<(Record, crate::store::log::Hash), String>> {
    match journal.record(sequence) {
        Ok(Some(found)) => Ok(Ok(found)),
        Ok(None) => Ok(Err("it is gone".to_owned())),
        Err(error) => describe(error).map(Err),
    }
}
