//! What one partition's query read: the footprint that staleness is told from.
//!
//! Names and columns come from the optimised plan (its projections, and the fields that are taken out of `<type>_at`); which
//! instants, and of which entities, `<type>_at` was asked for, and which files or basis `prior` was made of, from the run
//! itself. All of it may say too much, never too little.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::OnceLock,
};

use arrow::array::{StringArray, TimestampMicrosecondArray};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(super) use plan::{PlanReads, of_plan};

use super::PinnedEntity;
use crate::{
    catalog::Transform,
    time::{Interval, Partition, SysTime, ValidTime},
};

/// What a query read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reads {
    /// Each look at an entity type.
    pub entities: Vec<EntityRead>,
    /// The sources, by name, ascending.
    pub sources: Vec<String>,
    /// Its own earlier output, of a table. `None`: it was not read; that of an entity type is in `entities`.
    pub prior: Option<FileSet>,
    /// Other transforms' tables, ascending by name, each with the files that were seen of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableRead>,
}

/// What was seen of another transform's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRead {
    /// Its name.
    pub table: String,
    /// The files, by partition start and path.
    pub files: FileSet,
}

/// One look at an entity type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityRead {
    /// The type.
    pub entity_type: String,
    /// How it was looked at.
    pub sight: Sight,
    /// The attributes, ascending; whether an entity is there at all was always seen.
    pub attributes: Vec<String>,
    /// Whether it was seen since when a version is valid.
    pub valid_from: bool,
    /// And until when.
    pub valid_to: bool,
    /// The CRC-32 of the ids that were asked for, ascending. `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// The basis that it was read at, where that is not the partition's: then it was the latest, and would be again. So it is
    /// with `prior` of an entity type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<SysTime>,
}

/// What of valid time was seen of an entity type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sight {
    /// The state at one instant: the table.
    State(ValidTime),
    /// The states at instants in this range: `<type>_at`.
    States(Interval<ValidTime>),
    /// The versions that overlap this window, clipped to it: `<type>_history`.
    Versions(Interval<ValidTime>),
}

/// Ids of one look that are kept apart; beyond, all are taken for asked for.
const MAX_IDS: usize = 256;

impl EntityRead {
    /// Whether it may have looked at an entity.
    pub fn is_of(&self, entity_id: &str) -> bool {
        let is_asked = |ids: &Vec<u32>| ids.binary_search(&hash_of(entity_id)).is_ok();
        self.ids.as_ref().is_none_or(is_asked)
    }

    /// The valid time in which another version could have made another answer.
    pub fn reach(&self) -> Interval<ValidTime> {
        let seen = match self.sight {
            Sight::State(instant) => Interval::new(instant, instant.saturating_add_micros(1)),
            Sight::States(range) => range,
            Sight::Versions(window) => return window,
        };
        Interval {
            // A version that ends before may have been a part of the one that is seen.
            from: if self.valid_from {
                ValidTime::MIN
            } else {
                seen.from
            },
            to: seen.to,
        }
    }
}

fn hash_of(entity_id: &str) -> u32 {
    crc32fast::hash(entity_id.as_bytes())
}

/// Files by their paths, as a digest: equal sets have equal digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSet {
    /// How many there are.
    pub file_count: u32,
    /// 128 bits of the SHA-256 of their paths in order, in hexadecimal digits.
    pub digest: String,
}

/// A [`FileSet`] in the making. Files come in order.
#[derive(Debug, Clone, Default)]
pub struct FileDigest {
    file_count: u32,
    hasher: Sha256,
}

impl FileDigest {
    /// The digest of these, in this order.
    pub fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> FileSet {
        let mut digest = Self::default();
        paths.for_each(|path| digest.add(path));
        digest.set()
    }

    /// Adds a file.
    pub fn add(&mut self, path: &Path) {
        self.file_count = self.file_count.saturating_add(1);
        self.hasher.update(path.as_os_str().as_encoded_bytes());
        self.hasher.update([0]);
    }

    /// The files so far.
    pub fn set(&self) -> FileSet {
        let digest = self.hasher.clone().finalize();
        FileSet {
            file_count: self.file_count,
            digest: digest
                .iter()
                .take(16)
                .map(|it| format!("{it:02x}"))
                .collect(),
        }
    }
}

impl Reads {
    /// All that a partition of `transform` could have read by `read_by`, for want of a record of what it did. `None` for
    /// `prior`: which files it was made of is not known.
    pub fn declared(transform: &Transform, partition: &Partition, read_by: SysTime) -> Self {
        let window = Interval::new(partition.start, partition.end);
        let sights = [
            Sight::States(Interval::new(ValidTime::MIN, partition.end)),
            Sight::Versions(window),
        ];
        let all_of = |entity_type: &str, sight, basis: Option<SysTime>| EntityRead {
            entity_type: entity_type.to_owned(),
            sight,
            attributes: vec![EVERY_ATTRIBUTE.to_owned()],
            valid_from: basis.is_none(),
            valid_to: basis.is_none(),
            ids: None,
            basis,
        };
        let inputs = transform.spec.entities.iter();
        let entities =
            inputs.flat_map(|input| sights.map(|sight| all_of(&input.entity_type, sight, None)));
        let written = transform.spec.output.entity_type();
        let prior = transform.spec.prior.and(written).map(|name| {
            let instant = partition.start.saturating_add_micros(-1);
            all_of(name, Sight::State(instant), Some(read_by))
        });
        let sources = transform.spec.sources.iter();
        Self {
            entities: entities.chain(prior).collect(),
            sources: sources.map(|input| input.source.clone()).collect(),
            prior: None,
            tables: Vec::new(),
        }
    }
}

/// Stands for all attributes, whatever they are called; no attribute has this name.
pub const EVERY_ATTRIBUTE: &str = "*";

/// What a run looks at that its plan does not tell. Filled in by the session's functions and tables.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// By entity input.
    asked: Vec<Mutex<Asked>>,
    prior: OnceLock<FileSet>,
    prior_entities: OnceLock<(ValidTime, SysTime)>,
    tables: Mutex<BTreeMap<String, FileSet>>,
}

/// What a function was asked for.
#[derive(Debug)]
struct Asked {
    /// The first and the last instant; `None`: nothing was asked for.
    instants: Option<(i64, i64)>,
    /// Hashes of ids; `None`: too many.
    ids: Option<BTreeSet<u32>>,
}

impl Witness {
    pub(super) fn new(entities: &[PinnedEntity]) -> Self {
        let none = || {
            Mutex::new(Asked {
                instants: None,
                ids: Some(BTreeSet::new()),
            })
        };
        Self {
            asked: entities.iter().map(|_| none()).collect(),
            prior: OnceLock::new(),
            prior_entities: OnceLock::new(),
            tables: Mutex::default(),
        }
    }

    /// The states of an entity input were asked for: of these ids at these instants, in microseconds. **Cost**: for each row
    /// next to nothing, and a hash for each id that differs from the row before, while there are few ids.
    pub(super) fn asked(
        &self,
        entity: usize,
        ids: &StringArray,
        instants: &TimestampMicrosecondArray,
    ) {
        let Some(asked) = self.asked.get(entity) else {
            return;
        };
        let bounds = instants.iter().flatten().fold(None, widened);
        let mut asked = asked.lock();
        asked.instants = [asked.instants, bounds]
            .into_iter()
            .flatten()
            .flat_map(|(first, last)| [first, last])
            .fold(None, widened);
        let mut before = None;
        for id in ids.iter().flatten() {
            if before == Some(id) {
                continue;
            }
            before = Some(id);
            let Some(known) = &mut asked.ids else {
                return;
            };
            known.insert(hash_of(id));
            if known.len() > MAX_IDS {
                asked.ids = None;
            }
        }
    }

    /// The range over which the states of an entity input were asked for; `None`: they were not.
    pub(super) fn range(&self, entity: usize) -> Option<Interval<ValidTime>> {
        let (first, last) = self.asked.get(entity)?.lock().instants?;
        Some(Interval::new(
            ValidTime::from_micros(first),
            ValidTime::from_micros(last.saturating_add(1)),
        ))
    }

    /// The ids that were asked for, as [`EntityRead::ids`].
    fn ids(&self, entity: usize) -> Option<Vec<u32>> {
        let asked = self.asked.get(entity)?.lock();
        Some(asked.ids.as_ref()?.iter().copied().collect())
    }

    /// This much of another transform's table was there.
    pub(super) fn saw_table(&self, table: &str, files: FileSet) {
        self.tables.lock().insert(table.to_owned(), files);
    }

    /// `prior` showed the output's entities at this instant and basis.
    pub(super) fn saw_prior_entities(&self, instant: ValidTime, basis: SysTime) {
        // A session has one such table.
        let _ = self.prior_entities.set((instant, basis));
    }

    /// `prior` was made of these files.
    pub(super) fn saw_prior(&self, files: FileSet) {
        // A session has one such table.
        let _ = self.prior.set(files);
    }
}

fn widened(bounds: Option<(i64, i64)>, point: i64) -> Option<(i64, i64)> {
    Some(match bounds {
        None => (point, point),
        Some((first, last)) => (first.min(point), last.max(point)),
    })
}
