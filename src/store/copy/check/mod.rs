//! Walks everything that is stored and says what is wrong with it.
//!
//! - the log: checksums, no gaps, the hash chain, `BT-3`
//! - every page of every entity: checksums, structure, `BT-1`; rows against the types
//! - marks, types, and the keyspaces of others, as far as their bytes can tell
//!
//! A deep check also derives all pages anew from the log and compares the histories of all entities: that finds old bytes
//! in a page's place too, which no checksum can. Nothing is changed, but for what the engine does when it opens a folder.
//! Commits past the checkpoint are not applied: their entities are left out of the comparison.

mod entities;
mod log;
mod others;
mod stats;

use std::collections::BTreeSet;

use serde::Serialize;

pub use stats::{KeyspaceStats, StoreStats, stats};

use super::{Error, Result, keyspaces, rebuild::Rebuild, restore::Site};
use crate::{
    kv::{self, Database},
    store::{self, journal::Journal, types},
};

/// Problems that are told; more are only counted.
pub const MAX_PROBLEMS: usize = 1_000;
/// Of the derived pages.
const SCRATCH_CACHE_BYTES: u64 = 64 << 20;
/// How much is walked between two calls of the progress function.
const PROGRESS_STEP: u64 = 256;

/// What mends what follows from the log.
const DERIVE: &str = "back the store up and restore it: pages are then built anew from the log";
/// What mends everything else.
const RESTORE: &str = "restore the data folder from a backup";

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: a keyspace, or `entities` for pages and rows.
    pub place: String,
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.remedy)
    }
}

/// What a check found.
#[derive(Debug, Default, Clone, Serialize)]
pub struct CheckReport {
    /// At most [`MAX_PROBLEMS`]; empty: all is well.
    pub problems: Vec<Problem>,
    /// All problems, those that are not told included.
    pub problem_count: u64,
    /// Commits in the log.
    pub commits: u64,
    /// Commits past the checkpoint: the next start applies them.
    pub unapplied_commits: u64,
    /// Entities that were ever written to.
    pub entities: u64,
    /// Versions of them, as known at the end of the log.
    pub versions: u64,
    /// Values of the keyspaces besides log and pages.
    pub other_values: u64,
    /// Entities whose history was derived again and compared; 0 unless the check was deep.
    pub compared_entities: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn add(&mut self, place: &str, what: impl Into<String>, remedy: &'static str) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                place: place.to_owned(),
                what: what.into(),
                remedy,
            });
        }
    }
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckProgress {
    /// What is being walked, in the plural.
    pub stage: &'static str,
    /// How many.
    pub done: u64,
}

/// Whoever is told how far the check is.
type Progress<'a> = &'a mut dyn FnMut(CheckProgress);

/// Checks a database that no store has open. `deep`: a path beside which a folder for the derived pages may be made for the
/// time being. Blocks.
///
/// **Cost**: a read of everything; deep: a second write of everything.
///
/// # Errors
/// Storage faults: the engine cannot go on. What is wrong with the stored bytes is in the report.
pub fn check(
    database: &Database,
    deep: Option<&std::path::Path>,
    progress: Progress<'_>,
) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    for name in database.keyspace_names() {
        if keyspaces::role(&name).is_none() {
            report.add(&name, "this version knows no such keyspace", RESTORE);
        }
    }
    // A mark that does not read would keep the journal from opening.
    others::marks(database, &mut report)?;
    let journal = match Journal::open(database) {
        Ok(journal) => journal,
        Err(store::Error::Damaged { .. }) => return Ok(report),
        Err(error) => return Err(error.into()),
    };
    let types = match types::load_all(&journal.types) {
        Ok(types) => types,
        Err(error) => {
            report.add(keyspaces::TYPES, describe(error)?, RESTORE);
            Default::default()
        }
    };
    let log = log::walk(&journal, &mut report, progress)?;
    entities::walk(&journal, &types, &mut report, progress)?;
    others::walk(database, &mut report, progress)?;
    if let Some(beside) = deep {
        if log.is_sound {
            derive_again(&journal, &log.unapplied, beside, &mut report, progress)?;
        } else {
            report.add(
                keyspaces::LOG,
                "pages cannot be derived from it again",
                RESTORE,
            );
        }
    }
    Ok(report)
}

/// Derives all pages from the log and compares.
fn derive_again(
    journal: &Journal,
    unapplied: &BTreeSet<Vec<u8>>,
    beside: &std::path::Path,
    report: &mut CheckReport,
    progress: Progress<'_>,
) -> Result<()> {
    let site = Site::named(beside, "checking")?;
    let scratch = Database::open(&site.folder, SCRATCH_CACHE_BYTES)?;
    let mut rebuild = Rebuild::start(&scratch)?;
    for sequence in 1..=report.commits {
        let bytes = journal
            .record_bytes(sequence)?
            .ok_or_else(|| store::Error::damaged(format!("log record {sequence}"), "it is gone"))?;
        rebuild.push(&bytes)?;
        step(progress, "derived commits", sequence);
    }
    rebuild.finish()?;
    let derived = Journal::open(&scratch)?;
    entities::compare(journal, &derived, unapplied, report, progress)?;
    drop((derived, scratch));
    Ok(kv::wait_until_released(&site.folder)?)
}

fn step(progress: &mut dyn FnMut(CheckProgress), stage: &'static str, done: u64) {
    if done.is_multiple_of(PROGRESS_STEP) {
        progress(CheckProgress { stage, done });
    }
}

/// The text of damage; any other error is passed on.
fn describe(error: impl Into<Error>) -> Result<String> {
    match error.into() {
        Error::Store(store::Error::Damaged { what, cause }) => Ok(format!("{what}: {cause}")),
        Error::Store(store::Error::Storage(kv::Error::Corrupt { key, cause }))
        | Error::Storage(kv::Error::Corrupt { key, cause }) => Ok(format!("{key}: {cause}")),
        error @ (Error::Store(_)
        | Error::Storage(_)
        | Error::Cut(_)
        | Error::UnknownKeyspace { .. }
        | Error::NotABackup { .. }
        | Error::DamagedBackup { .. }
        | Error::Diverged { .. }
        | Error::NotEmpty { .. }
        | Error::File { .. }) => Err(error),
    }
}
