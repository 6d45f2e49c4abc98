//! Which partitions read a table's files that are not there any more. Pure.

use std::collections::BTreeMap;

use super::find::Published;
use crate::{
    engine::{FileDigest, FileSet},
    lake::LakeFile,
    time::{Interval, Partition, ValidTime},
};

/// The partition that was published again, and the backfill that did. `None`: nobody knows which.
pub(super) type Republished = Option<(Partition, String)>;

/// The files of a table, for questions about ascending ranges.
#[derive(Debug)]
pub(super) struct TableFiles {
    /// By partition start and path.
    files: Vec<LakeFile>,
    /// Who published its partitions, by start.
    published: BTreeMap<ValidTime, Published>,
    /// Those from the beginning up to `digested`.
    from_start: FileDigest,
    digested: usize,
}

impl TableFiles {
    pub(super) fn new(files: Vec<LakeFile>, published: BTreeMap<ValidTime, Published>) -> Self {
        Self {
            files,
            published,
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

    /// Whether what `reader` read of `reach` is not there any more. `read`: the files that it read; `None`: it is not known
    /// which, and the times of publishing must tell.
    pub(super) fn is_changed(
        &mut self,
        reader: &Published,
        read: Option<&FileSet>,
        reach: Interval<ValidTime>,
    ) -> Option<Republished> {
        let later = self.later(reader, reach);
        match read {
            Some(read) if *read == self.set(reach) => None,
            Some(_) => Some(later),
            None => later.map(Some),
        }
    }

    /// The partition in `reach` that was published last, if that was after `reader` read it.
    fn later(&self, reader: &Published, reach: Interval<ValidTime>) -> Republished {
        // What other backfills published before it was created, it may have read.
        let is_later = |other: &&Published| {
            let (own, name) = (&reader.record, &other.record.name);
            // Names sort by creation: a clock that stands still, or steps back, does not hide a later backfill.
            *name != own.name && (other.end_micros > own.create_time_micros || *name > own.name)
        };
        let in_reach = self.published.range(reach.from..);
        in_reach
            .take_while(|(start, _)| reach.contains(**start))
            .map(|(_, other)| other)
            .filter(is_later)
            .max_by_key(|other| (other.end_micros, &other.record.name))
            .map(|other| (other.partition().clone(), other.record.name.clone()))
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
        let mut growing = TableFiles::new(files.clone(), BTreeMap::new());
        for to in [0, 10, 11, 25, 40, 20] {
            let range = Interval::new(ValidTime::MIN, ValidTime::from_micros(to));
            let fresh = TableFiles::new(files.clone(), BTreeMap::new()).set(range);
            assert_eq!(growing.set(range), fresh, "up to {to}");
        }
        let middle = Interval::new(ValidTime::from_micros(10), ValidTime::from_micros(20));
        assert_eq!(growing.set(middle).file_count, 2);
    }
}
