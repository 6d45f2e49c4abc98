//! Brings the pages up to the log when the store is opened: the log is the truth.
//!
//! After a clean stop there is nothing to do. After a crash the records past the checkpoint are applied again; a page that
//! has a record's changes already is left alone, so it does not matter how far the writing had come. A record that is not
//! whole was never acknowledged, and is not there.

use std::collections::BTreeSet;

use super::{
    error::Error,
    journal::{Journal, LogEnd},
    keys,
    log::{Entry, Hash, Record},
    marks,
    workspace::Workspace,
};

/// Finds the log's end and applies what the pages lack. Returns how many records that were.
///
/// **Durability**: the pages are on disk when it returns. **Cost**: the records since the last checkpoint.
pub(super) fn recover(journal: &mut Journal) -> Result<u64, Error> {
    let checkpoint = marks::checkpoint(&journal.meta)?;
    if checkpoint > 0 {
        let (record, hash) = journal.record(checkpoint)?.ok_or_else(|| {
            Error::damaged(
                format!("log record {checkpoint}"),
                "the checkpoint names it, and it is not there",
            )
        })?;
        journal.end = LogEnd {
            sequence: checkpoint,
            hash,
            system_time: Some(record.system_time),
        };
    }
    let mut imported = BTreeSet::new();
    while let Some((record, hash)) = journal.record(journal.end.sequence + 1)? {
        check_chain(&journal.end, &record)?;
        replay(journal, &record, hash)?;
        if record.import_time.is_some() {
            let entities = record.entries.iter().filter_map(Entry::entity);
            imported.extend(entities.map(|(name, id)| (keys::entity_key(name, id), record.at())));
        }
    }
    for (key, at) in imported {
        journal.pages.sweep(&key, at)?;
    }
    let end = journal.end.sequence;
    if journal.record(end + 2)?.is_some() {
        return Err(Error::damaged(
            format!("log record {}", end + 1),
            "it is missing between others",
        ));
    }
    let replayed = end - checkpoint;
    if replayed > 0 {
        journal.checkpoint()?;
    }
    Ok(replayed)
}

/// Checks that a record comes right after `end`.
pub(super) fn check_chain(end: &LogEnd, record: &Record) -> Result<(), Error> {
    let follows = record.previous == end.hash
        && end
            .system_time
            .is_none_or(|before| before < record.system_time);
    if follows {
        Ok(())
    } else {
        Err(Error::damaged(
            format!("log record {}", record.sequence),
            "it does not follow the record before",
        ))
    }
}

/// Writes the pages and marks that follow from a record, as far as they are not there. The record itself is there already.
pub(super) fn replay(journal: &mut Journal, record: &Record, hash: Hash) -> Result<(), Error> {
    let pages = journal.pages.clone();
    let mut workspace = Workspace::new(&pages, record.sequence, record.at());
    for entry in &record.entries {
        match entry {
            Entry::Change(change) => {
                workspace.apply(change)?;
            }
            Entry::Erase(erasure) => {
                workspace.erase(&keys::entity_key(&erasure.entity_type, &erasure.entity_id))?;
            }
            Entry::Redacted(_) => {}
        }
    }
    workspace.seal();
    workspace.write()?;
    journal.follow(record, hash)
}
