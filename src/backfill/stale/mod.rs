//! Which published partitions are stale, and why: would computing them again read anything else?
//!
//! A partition is stale when its transform computes otherwise since; when an entity that it looked at has another answer,
//! in what it looked at, at the basis that it would read now; when an entity type that it looked at lost an entity by
//! erasure; when the files of a source in its window are others; when a partition that it reads as `prior`, or
//! of another transform's table, was published again. What its query looked at is recorded with it ([`inputs`](super::inputs)).
//!
//! A partition as known now would read the latest basis now. One as known then, or at a basis, would read its own basis again,
//! whose answers do not change: what is learned later does not make it stale, only an erasure does.
//!
//! `find` gathers, `files` and `tables` compare files, `entities` goes through the commit log.

mod entities;
mod files;
mod find;
mod tables;

use std::{collections::BTreeMap, fmt, path::PathBuf};

pub(super) use find::{Finder, Scope};

use super::model::Knowledge;
use crate::time::{Interval, Partition, SysTime, ValidTime};

/// How the published partitions of a table stand, by start.
pub(super) type Standings = BTreeMap<ValidTime, Standing>;

/// How a published partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It would come out otherwise, and why.
    Stale(String),
    /// It would come out as it is.
    UpToDate {
        /// What published it.
        backfill: String,
    },
}

/// Which published partitions are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleQuery {
    /// The transform's name.
    pub transform: String,
    /// The revision to compare with. `None`: the latest.
    pub revision: Option<u32>,
    /// Only partitions that overlap it.
    pub range: Interval<ValidTime>,
    /// Only partitions that start after it.
    pub after: Option<ValidTime>,
    /// The basis to compare with, as an earlier page did. `None`: the latest.
    pub basis: Option<SysTime>,
    /// At most so many.
    pub limit: usize,
}

/// A page of stale partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StalePage {
    /// By start.
    pub partitions: Vec<StalePartition>,
    /// Whether there are more after the last one.
    pub more: bool,
    /// The basis that was compared with.
    pub basis: SysTime,
    /// Published partitions that were looked at.
    pub published_count: u64,
    /// Commits that were read in the log.
    pub commit_count: u64,
    /// How often an entity's state was compared between two bases.
    pub comparison_count: u64,
}

/// A stale partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StalePartition {
    /// Its slice of valid time and label.
    pub partition: Partition,
    /// The backfill that published it last.
    pub backfill: String,
    /// The transform's revision then.
    pub revision: u32,
    /// What it knew.
    pub knowledge: Knowledge,
    /// The basis that it read.
    pub basis: SysTime,
    /// In microseconds since the Unix epoch.
    pub publish_micros: i64,
    /// One of each kind at most, and one for each source. Never empty.
    pub reasons: Vec<StaleReason>,
}

/// Why a partition is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StaleReason {
    /// The transform computes otherwise.
    Revision {
        /// The revision that was run.
        published: u32,
        /// The one that would be run.
        current: u32,
    },
    /// An entity has another answer; the first that was found.
    Entity {
        /// Its type.
        entity_type: String,
        /// Its id.
        entity_id: String,
        /// What differs.
        differs: Differs,
        /// Where in valid time it differs first. `None` for an erasure: nobody knows any more.
        valid_time: Option<ValidTime>,
        /// The system time of the commit that made it differ.
        learned_at: SysTime,
    },
    /// Files of a source are others.
    Files {
        /// The source.
        source: String,
        /// The first one by path.
        path: PathBuf,
        /// What became of it.
        change: FileChange,
        /// How many are others.
        count: usize,
    },
    /// An earlier partition that it reads was published again.
    Prior {
        /// The earlier partition, and the backfill that published it last. `None`: its files were replaced otherwise.
        republished: Option<(Partition, String)>,
    },
    /// Of another transform's table, a partition that it reads was published again.
    Upstream {
        /// The table.
        table: String,
        /// As in `Prior`.
        republished: Option<(Partition, String)>,
    },
}

/// What differs of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Differs {
    /// An attribute, or `valid_from`.
    Column(String),
    /// Whether it has a value.
    Existence,
    /// It was erased.
    Erased,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It has another length or time of writing.
    Changed,
}

impl FileChange {
    const fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl fmt::Display for StaleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision { published, current } => {
                write!(f, "it was computed by revision {published}, not {current}")
            }
            Self::Entity {
                entity_type,
                entity_id,
                differs,
                valid_time,
                learned_at,
            } => {
                write!(f, "{entity_type} {entity_id:?}")?;
                match differs {
                    Differs::Column(name) => write!(f, ": {name} differs")?,
                    Differs::Existence => f.write_str(" came or went")?,
                    Differs::Erased => return write!(f, " was erased at {learned_at}"),
                }
                if let Some(valid_time) = valid_time {
                    write!(f, " at {valid_time}")?;
                }
                write!(f, ", learned at {learned_at}")
            }
            Self::Files {
                source,
                path,
                change,
                count,
            } => {
                write!(
                    f,
                    "source {source}: {} was {}",
                    path.display(),
                    change.word()
                )?;
                match count {
                    0 | 1 => Ok(()),
                    2 => f.write_str(", and 1 other file is not the same"),
                    more => write!(f, ", and {} other files are not the same", more - 1),
                }
            }
            Self::Prior {
                republished: Some((partition, backfill)),
            } => write!(
                f,
                "partition {}, which it reads, was published again by {backfill}",
                partition.label
            ),
            Self::Prior { republished: None } => {
                f.write_str("an earlier partition, which it reads, has other files")
            }
            Self::Upstream {
                table,
                republished: Some((partition, backfill)),
            } => write!(
                f,
                "table {table}: partition {}, which it reads, was published by {backfill} since",
                partition.label
            ),
            Self::Upstream {
                table,
                republished: None,
            } => write!(f, "table {table}: what it reads has other files"),
        }
    }
}
