//! What a partition sees of another transform's table.

use std::collections::{BTreeMap, BTreeSet};

use super::Result;
use crate::{
    catalog::ColumnDef,
    lake::{Lake, LakeFile},
    time::{Interval, ValidTime},
};

/// Another transform's table as a session shows it.
#[derive(Debug, Clone)]
pub struct PinnedTable {
    /// Its name.
    pub table: String,
    /// Its columns, as the transform saw them when it was registered.
    pub columns: Vec<ColumnDef>,
}

/// The partitions of a table that one partition reads, each at a snapshot that was told once: whenever it is read, it is the
/// same (invariant `PT-2`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableView {
    /// What was there when the backfill was created. `None`: nothing.
    pub published: Option<PublishedView>,
    /// Partitions that the backfill itself published, by start, with the snapshot that did. What was there of them before is
    /// not read.
    pub own: BTreeMap<ValidTime, i64>,
}

/// What a snapshot holds of the partitions that start in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedView {
    /// The snapshot.
    pub snapshot_id: i64,
    /// Of the partitions' starts.
    pub starts: Interval<ValidTime>,
}

impl TableView {
    /// The files that it consists of, by (partition start, path). **Cost**: a listing for each snapshot.
    pub(super) fn files(&self, lake: &Lake, table: &str) -> Result<Vec<LakeFile>> {
        let mut files = Vec::new();
        if let Some(published) = &self.published {
            let found = lake.files(table, Some(published.snapshot_id), published.starts)?;
            let others = found.into_iter();
            files.extend(others.filter(|file| !self.own.contains_key(&file.partition_start)));
        }
        let snapshots: BTreeSet<i64> = self.own.values().copied().collect();
        for snapshot_id in snapshots {
            let of_it = || self.own.iter().filter(|(_, id)| **id == snapshot_id);
            let (Some((first, _)), Some((last, _))) = (of_it().next(), of_it().next_back()) else {
                continue;
            };
            let starts = Interval::new(*first, last.saturating_add_micros(1));
            let found = lake.files(table, Some(snapshot_id), starts)?;
            let own = |file: &LakeFile| self.own.get(&file.partition_start) == Some(&snapshot_id);
            files.extend(found.into_iter().filter(own));
        }
        files.sort_by(|a, b| (a.partition_start, &a.path).cmp(&(b.partition_start, &b.path)));
        Ok(files)
    }
}
