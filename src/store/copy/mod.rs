//! Care of what is stored: a consistent copy of a running store in one file, a data folder made from such a file, and a
//! walk over a data folder that says what is wrong with it.
//!
//! The commit log is the truth, so a backup holds the log and what does not follow from it; pages are built anew when it is
//! restored, by the same code that brings them up to the log after a crash. That makes restoring also the way to compact a
//! folder, and to get rid of the bytes of erased entities for good.
//!
//! - `keyspaces`: what of the data folder is copied, and what follows from what
//! - `format`: the file
//! - `backup`, `restore`, `rebuild`: writing it, reading it, pages from the log
//! - `check`: what is wrong

mod backup;
mod check;
mod error;
mod format;
mod keyspaces;
mod rebuild;
mod restore;

pub use backup::{BackupSummary, Chunk};
pub use check::{
    CheckProgress, CheckReport, KeyspaceStats, MAX_PROBLEMS, Problem, StoreStats, check, stats,
};
pub use error::Error;
pub use restore::{RestoreProgress, RestoreSummary, restore};

/// The folder in a data folder that holds the database.
pub const DATABASE_FOLDER: &str = "db";

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;
