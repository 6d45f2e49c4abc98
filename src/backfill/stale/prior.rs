//! Which partitions read an earlier output that is not there any more. Pure.

use std::collections::BTreeMap;

use super::{StaleReason, find::Published};
use crate::{
    engine::{FileDigest, FileSet},
    lake::LakeFile,
    time::{Interval, ValidTime},
};

/// The files of a table, for questions about ascending ranges.
#[derive(Debug)]
pub(super) struct PriorFiles {
    /// By partition start and path.
    files: Vec<LakeFile>,
    /// Those from the beginning up to `digested`.
    from_start: FileDigest,
    digested: usize,
}

impl PriorFiles {
    pub(super) fn new(files: Vec<LakeFile>) -> Self {
        Self {
            files,
            from_start: FileDigest::default(),
            digested: 0,
        }
    }

    /// The files of the partitions that start in `range`. Ranges that begin at the beginning of time come in order of their
    /// ends. **Cost**: for those each file once; for others the files in the range.
    fn set(&mut self, range: Interval<ValidTime>) -> FileSet {
        let before = |point: ValidTime| {
            self.files
                .partition_point(|file| file.partition_start < point)
        };
        let to = range.to.map_or(self.files.len(), before);
        if range.from > ValidTime::MIN || to < self.digested {
            let mut digest = FileDigest::default();
            let files = self.files.get(before(range.from)..to).unwrap_or_default();
            files.iter().for_each(|file| digest.add(&file.path));
            return digest.set();
        }
        for file in &self.files[self.digested..to] {
            self.from_start.add(&file.path);
        }
        self.digested = to;
        self.from_start.set()
    }

    /// Why what a partition that was published as `published` read of `reach` is not there any more. `read`: the files that
    /// it read; `None`: it is not known which, and the times of publishing must tell.
    pub(super) fn reason(
        &mut self,
        published: &Published,
        read: Option<&FileSet>,
        reach: Interval<ValidTime>,
        all: &BTreeMap<ValidTime, Published>,
    ) -> Option<StaleReason> {
        let later = || {
            let started = published.start_micros.unwrap_or(published.end_micros);
            let to = reach.to.unwrap_or(published.partition().start);
            // Names sort by creation: a clock that stands still, or steps back, does not hide a later backfill.
            let is_later = |earlier: &&Published| {
                earlier.end_micros > started || earlier.record.name > published.record.name
            };
            all.range(reach.from..to)
                .map(|(_, earlier)| earlier)
                .filter(is_later)
                .max_by_key(|earlier| earlier.end_micros)
                .map(|earlier| (earlier.partition().clone(), earlier.record.name.clone()))
        };
        match read {
            Some(read) if *read == self.set(reach) => None,
            Some(_) => Some(StaleReason::Prior {
                republished: later(),
            }),
            None => later().map(|republished| StaleReason::Prior {
                republished: Some(republished),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_growing_range_is_digested_once_and_gives_the_same() {
        let file = |start: i64| LakeFile {
            path: PathBuf::from(format!("f{start}")),
            partition_start: ValidTime::from_micros(start),
            row_count: 1,
            size_bytes: 1,
        };
        let files: Vec<_> = [0, 10, 10, 20, 30].into_iter().map(file).collect();
        let mut growing = PriorFiles::new(files.clone());
        for to in [0, 10, 11, 25, 40, 20] {
            let range = Interval::new(ValidTime::MIN, ValidTime::from_micros(to));
            let fresh = PriorFiles::new(files.clone()).set(range);
            assert_eq!(growing.set(range), fresh, "up to {to}");
        }
        let middle = Interval::new(ValidTime::from_micros(10), ValidTime::from_micros(20));
        assert_eq!(growing.set(middle).file_count, 2);
    }
}
