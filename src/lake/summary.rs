//! What a snapshot's summary says: Iceberg's counts, and which attempts of which backfill made it.

use std::collections::HashMap;

use iceberg::spec::{DataFile, Operation, Snapshot, Summary};

use super::{catalog::damaged, error::Result};
use crate::time::ValidTime;

const BACKFILL: &str = "hindcast.backfill";
const REVISION: &str = "hindcast.revision";
/// `start_micros:attempt:rows_read:rows_written`, comma-separated, by start.
const PARTITIONS: &str = "hindcast.partitions";

/// Files, rows and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) files: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Counts {
    pub(super) fn add(&mut self, file: &DataFile) {
        self.files += 1;
        self.rows += file.record_count();
        self.bytes += file.file_size_in_bytes();
    }

    /// The table's totals as of `snapshot`.
    pub(super) fn totals(table: &str, snapshot: &Snapshot) -> Result<Self> {
        let read = |key| -> Result<u64> {
            let text = snapshot.summary().additional_properties.get(key);
            text.and_then(|text| text.parse().ok()).ok_or_else(|| {
                damaged(
                    table,
                    format!("snapshot {} has no {key}", snapshot.snapshot_id()),
                )
            })
        };
        Ok(Self {
            files: read("total-data-files")?,
            rows: read("total-records")?,
            bytes: read("total-files-size")?,
        })
    }
}

/// One partition of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartitionRecord {
    pub(super) start: ValidTime,
    pub(super) attempt: u32,
    pub(super) rows_read: u64,
    pub(super) rows_written: u64,
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Change<'a> {
    pub(super) backfill: &'a str,
    pub(super) revision: u32,
    pub(super) partitions: Vec<PartitionRecord>,
    pub(super) added: Counts,
    pub(super) removed: Counts,
}

impl Change<'_> {
    fn operation(&self) -> Operation {
        match (self.added.files, self.removed.files) {
            (_, 0) => Operation::Append,
            (0, _) => Operation::Delete,
            (_, _) => Operation::Overwrite,
        }
    }

    /// The summary of a snapshot that makes this change to a table with totals `before`.
    pub(super) fn summarise(&self, before: Counts) -> Summary {
        let (added, removed) = (self.added, self.removed);
        // What was removed was part of the totals; a table whose summary says otherwise must not underflow.
        let total =
            |before: u64, added: u64, removed: u64| (before + added).saturating_sub(removed);
        let partitions: Vec<String> = self
            .partitions
            .iter()
            .map(PartitionRecord::encode)
            .collect();
        let always = [
            (
                "total-data-files",
                total(before.files, added.files, removed.files),
            ),
            (
                "total-records",
                total(before.rows, added.rows, removed.rows),
            ),
            (
                "total-files-size",
                total(before.bytes, added.bytes, removed.bytes),
            ),
            ("total-delete-files", 0),
            ("total-position-deletes", 0),
            ("total-equality-deletes", 0),
            ("changed-partition-count", self.partitions.len() as u64),
        ];
        let unless_zero = [
            ("added-data-files", added.files),
            ("added-records", added.rows),
            ("added-files-size", added.bytes),
            ("deleted-data-files", removed.files),
            ("deleted-records", removed.rows),
            ("removed-files-size", removed.bytes),
        ];
        let counts = always
            .into_iter()
            .chain(unless_zero.into_iter().filter(|(_, count)| *count > 0))
            .map(|(key, count)| (key.to_owned(), count.to_string()));
        let ours = [
            (BACKFILL.to_owned(), self.backfill.to_owned()),
            (REVISION.to_owned(), self.revision.to_string()),
            (PARTITIONS.to_owned(), partitions.join(",")),
        ];
        Summary {
            operation: self.operation(),
            additional_properties: counts.chain(ours).collect(),
        }
    }
}

impl PartitionRecord {
    fn encode(&self) -> String {
        let Self {
            start,
            attempt,
            rows_read,
            rows_written,
        } = self;
        format!("{}:{attempt}:{rows_read}:{rows_written}", start.micros())
    }

    fn decode(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let record = Self {
            start: ValidTime::from_micros(parts.next()?.parse().ok()?),
            attempt: parts.next()?.parse().ok()?,
            rows_read: parts.next()?.parse().ok()?,
            rows_written: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(record)
    }
}

/// The backfill that made the snapshot; `None`: something else did.
pub(super) fn backfill(snapshot: &Snapshot) -> Option<&str> {
    property(&snapshot.summary().additional_properties, BACKFILL)
}

/// The partitions that the snapshot replaced; none if hindcast did not make it.
///
/// # Errors
/// [`super::Error::Damaged`] when the record cannot be read.
pub(super) fn partitions(table: &str, snapshot: &Snapshot) -> Result<Vec<PartitionRecord>> {
    let properties = &snapshot.summary().additional_properties;
    let Some(text) = property(properties, PARTITIONS).filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    text.split(',')
        .map(|part| {
            PartitionRecord::decode(part).ok_or_else(|| {
                let id = snapshot.snapshot_id();
                damaged(
                    table,
                    format!("snapshot {id} has {PARTITIONS} entry {part:?}"),
                )
            })
        })
        .collect()
}

fn property<'a>(properties: &'a HashMap<String, String>, key: &str) -> Option<&'a str> {
    properties.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_records_round_trip_before_1970() {
        let record = PartitionRecord {
            start: ValidTime::from_micros(-86_400_000_000),
            attempt: 2,
            rows_read: 10,
            rows_written: 0,
        };
        assert_eq!(record.encode(), "-86400000000:2:10:0");
        assert_eq!(PartitionRecord::decode(&record.encode()), Some(record));
        for text in ["", "1:2:3", "1:2:3:4:5", "1:x:3:4"] {
            assert_eq!(PartitionRecord::decode(text), None, "{text}");
        }
    }

    #[test]
    fn the_operation_follows_from_what_changed() {
        let counts = |files| Counts {
            files,
            rows: files * 10,
            bytes: files * 100,
        };
        for (added, removed, operation, total) in [
            (2, 0, Operation::Append, "7"),
            (0, 0, Operation::Append, "5"),
            (0, 3, Operation::Delete, "2"),
            (1, 3, Operation::Overwrite, "3"),
        ] {
            let change = Change {
                added: counts(added),
                removed: counts(removed),
                ..Change::default()
            };
            let summary = change.summarise(counts(5));
            assert_eq!(summary.operation, operation);
            assert_eq!(summary.additional_properties["total-data-files"], total);
        }
    }
}
