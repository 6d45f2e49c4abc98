//! Which files of a source are others than they were. Pure.

use std::{cmp::Ordering, path::PathBuf};

use super::{FileChange, StaleReason};
use crate::{
    backfill::model::FrozenSource,
    engine::SourceFile,
    time::{Interval, ValidTime},
};

/// The files in which a source differs from what a backfill froze.
#[derive(Debug)]
pub(super) struct SourceDiff {
    source: String,
    lookback_micros: i64,
    /// By path.
    changes: Vec<Changed>,
}

#[derive(Debug)]
struct Changed {
    path: PathBuf,
    change: FileChange,
    /// The slices that it declared and declares; `None`: it may hold rows of any time.
    slices: Vec<Option<Interval<ValidTime>>>,
}

impl SourceDiff {
    /// Compares what was frozen with the files that are there `now`; both by path.
    pub(super) fn new(frozen: &FrozenSource, now: &[SourceFile]) -> Self {
        let mut changes = Vec::new();
        let (mut then, mut now) = (frozen.files.iter().peekable(), now.iter().peekable());
        loop {
            let order = match (then.peek(), now.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.path.cmp(&b.path),
            };
            let old = if order.is_le() { then.next() } else { None };
            let new = if order.is_ge() { now.next() } else { None };
            changes.extend(changed(old, new));
        }
        Self {
            source: frozen.source.clone(),
            lookback_micros: frozen.lookback_micros,
            changes,
        }
    }

    /// What a partition over `partition` would find changed.
    pub(super) fn reason(&self, partition: Interval<ValidTime>) -> Option<StaleReason> {
        let window = Interval {
            from: partition.from.saturating_add_micros(-self.lookback_micros),
            to: partition.to,
        };
        let is_seen =
            |slice: &Option<Interval<ValidTime>>| slice.is_none_or(|slice| slice.overlaps(&window));
        let mut seen = self
            .changes
            .iter()
            .filter(|changed| changed.slices.iter().any(is_seen));
        let first = seen.next()?;
        Some(StaleReason::Files {
            source: self.source.clone(),
            path: first.path.clone(),
            change: first.change,
            count: 1 + seen.count(),
        })
    }
}

fn changed(old: Option<&SourceFile>, new: Option<&SourceFile>) -> Option<Changed> {
    let (path, change) = match (old, new) {
        (Some(old), Some(new)) if old == new => return None,
        (Some(old), Some(_)) => (&old.path, FileChange::Changed),
        (Some(old), None) => (&old.path, FileChange::Removed),
        (None, Some(new)) => (&new.path, FileChange::Added),
        (None, None) => return None,
    };
    Some(Changed {
        path: path.clone(),
        change,
        slices: [old, new]
            .into_iter()
            .flatten()
            .map(|file| file.slice)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size_bytes: u64, slice: Option<(i64, i64)>) -> SourceFile {
        SourceFile {
            path: PathBuf::from(name),
            size_bytes,
            modified_micros: 1,
            hive_value: None,
            slice: slice.map(|(from, to)| window(from, to)),
        }
    }

    fn window(from: i64, to: i64) -> Interval<ValidTime> {
        Interval::new(ValidTime::from_micros(from), ValidTime::from_micros(to))
    }

    #[test]
    fn only_files_in_the_window_count() {
        let frozen = FrozenSource {
            source: "s".to_owned(),
            lookback_micros: 5,
            files: vec![
                file("a", 1, Some((0, 10))),
                file("b", 1, Some((10, 20))),
                file("d", 1, Some((20, 30))),
            ],
        };
        let now = [
            file("a", 1, Some((0, 10))),
            file("b", 2, Some((10, 20))),
            file("c", 1, Some((10, 20))),
        ];
        let diff = SourceDiff::new(&frozen, &now);
        let at = |from, to| match diff.reason(window(from, to)) {
            Some(StaleReason::Files {
                path,
                change,
                count,
                ..
            }) => Some((path.display().to_string(), change, count)),
            _ => None,
        };
        assert_eq!(at(0, 10), None);
        assert_eq!(at(10, 20), Some(("b".to_owned(), FileChange::Changed, 2)));
        assert_eq!(at(20, 30), Some(("b".to_owned(), FileChange::Changed, 3)));
        assert_eq!(at(25, 30), Some(("d".to_owned(), FileChange::Removed, 1)));
        assert_eq!(at(40, 50), None);
        let unsliced = SourceDiff::new(
            &FrozenSource {
                files: Vec::new(),
                ..frozen
            },
            &[file("x", 1, None)],
        );
        assert!(unsliced.reason(window(70, 80)).is_some());
    }
}
