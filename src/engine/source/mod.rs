//! Sources: which files a window of time needs, and what is in them.

mod inspect;
mod listing;

pub use inspect::{check_columns, inspect};
pub(super) use inspect::{format_of, object_path};
pub use listing::{SourceFile, list_files, usual_format};

use std::sync::Arc;

use crate::{
    catalog::Source,
    time::{Interval, ValidTime},
};

/// A source with the files that it consisted of when a backfill was created.
#[derive(Debug, Clone)]
pub struct PinnedSource {
    /// Its declaration.
    pub source: Arc<Source>,
    /// How far before the partition's start it reaches, in microseconds.
    pub lookback_micros: i64,
    /// By path. Shared by all partitions.
    pub files: Arc<Vec<SourceFile>>,
}

impl PinnedSource {
    /// The event times that a partition may see: `[start - lookback, end)`.
    pub fn window(&self, partition: Interval<ValidTime>) -> Interval<ValidTime> {
        Interval {
            from: partition.from.saturating_add_micros(-self.lookback_micros),
            to: partition.to,
        }
    }

    /// The files that may hold rows of `window`, by path. Without declared slices every file may.
    pub fn files_in(&self, window: &Interval<ValidTime>) -> impl Iterator<Item = &SourceFile> {
        self.files
            .iter()
            .filter(move |file| file.slice.is_none_or(|slice| slice.overlaps(window)))
    }
}
