//! What a plan says as a whole.

use sha2::{Digest, Sha256};

use crate::{
    backfill::{
        Error, Result,
        model::{DependencyShape, Knowledge, Plan, PlannedPartition, TransformPlan},
    },
    catalog::Output,
    time::{Interval, SysTime, ValidTime},
};

impl Plan {
    /// Names everything in the plan: equal plans have equal hashes.
    ///
    /// # Errors
    /// The plan cannot be encoded.
    pub fn hash(&self) -> Result<String> {
        let bytes = serde_json::to_vec(self).map_err(|error| Error::Journal {
            name: self.names(),
            cause: error.to_string(),
        })?;
        let digest = Sha256::digest(&bytes);
        Ok(digest
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    /// When source rows must have become available for `planned` to read them. As known now, all that came in did: the
    /// latest basis says when the entity store last learned something, and nothing of the sources.
    pub(in crate::backfill) fn available_by(&self, planned: &PlannedPartition) -> Option<SysTime> {
        match self.knowledge {
            Knowledge::AsKnownThen { .. } | Knowledge::AtBasis(_) => Some(planned.basis),
            Knowledge::AsKnownNow => None,
        }
    }

    /// The names of its transforms.
    pub(in crate::backfill) fn names(&self) -> String {
        let names: Vec<_> = self
            .transforms
            .iter()
            .map(|one| one.transform.as_str())
            .collect();
        names.join(", ")
    }

    /// The transform of a partition.
    ///
    /// A plan whose partition names a transform that it does not have is our fault; it gives `None`.
    pub fn transform_of(&self, planned: &PlannedPartition) -> Option<&TransformPlan> {
        self.transforms.get(planned.transform as usize)
    }

    /// Whether all of its partitions run in order, one at a time.
    pub fn is_sequential(&self) -> bool {
        match self.transforms.as_slice() {
            [only] => only.shape == DependencyShape::Sequential,
            _ => false,
        }
    }

    /// The output for which this and `other` may not be active at the same time. Two active backfills may not write the same
    /// partitions of a table or entity type. Those of a transform that reads its own output may not run beside each other at
    /// all: what one reads, the other writes.
    pub(in crate::backfill) fn collides_with(&self, other: &Self) -> Option<&Output> {
        for (place, own) in (0u32..).zip(&self.transforms) {
            for (other_place, foreign) in (0u32..).zip(&other.transforms) {
                if own.output.is_same_place(&foreign.output)
                    && (own.shape == DependencyShape::Sequential
                        || other.range(other_place).overlaps(&self.range(place)))
                {
                    return Some(&own.output);
                }
            }
        }
        None
    }

    /// Why nothing would run; `None`: something would.
    pub(in crate::backfill) fn why_nothing_runs(&self) -> Option<String> {
        if self.run_count() > 0 {
            return None;
        }
        let mut reasons = self
            .partitions
            .iter()
            .filter_map(|planned| Some((planned, planned.skip_reason.as_deref()?)));
        let Some((first, reason)) = reasons.next() else {
            return Some("the range holds no partition".to_owned());
        };
        let mut text = format!("partition {}: {reason}", first.partition.label);
        if let Some((last, reason)) = reasons.next_back() {
            let count = self.partitions.len();
            text += &format!("; of {count}, the last, {}: {reason}", last.partition.label);
        }
        Some(text)
    }

    /// How many partitions run.
    pub fn run_count(&self) -> usize {
        self.partitions
            .iter()
            .filter(|planned| planned.skip_reason.is_none())
            .count()
    }

    /// How many partitions of the transform at `place` run.
    pub fn run_count_of(&self, place: u32) -> usize {
        self.partitions
            .iter()
            .filter(|planned| planned.transform == place && planned.skip_reason.is_none())
            .count()
    }

    /// The valid time of all partitions of the transform at `place` together.
    pub(in crate::backfill) fn range(&self, place: u32) -> Interval<ValidTime> {
        let mut partitions = self.partitions.iter().filter(|it| it.transform == place);
        match (partitions.next(), partitions.next_back()) {
            (Some(first), Some(last)) => Interval::new(first.partition.start, last.partition.end),
            (Some(only), None) => Interval::new(only.partition.start, only.partition.end),
            (None, _) => Interval::new(ValidTime::from_micros(0), ValidTime::from_micros(0)),
        }
    }
}
