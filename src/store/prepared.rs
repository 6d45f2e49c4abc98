//! A batch whose fields are in order: rows are bytes, types are found. What it comes to is left to the committer.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    codec::{put_bytes, put_i64},
    log::{Hash, RequestMark},
    model::{EntityType, IngestMark, Until},
    row::RowPatch,
};
use crate::{error::Violation, time::ValidTime};

/// Checked mutations.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) mutations: Vec<PreparedMutation>,
    pub(super) request: Option<RequestMark>,
    pub(super) import_time: Option<i64>,
    pub(super) ingest: Option<IngestMark>,
    /// Whose it is, if not a client's.
    pub(super) writer: Option<Arc<str>>,
}

/// A checked mutation. Only a range that starts at the commit's system time is still to be checked.
#[derive(Debug)]
pub(super) struct PreparedMutation {
    pub(super) entity_type: Arc<EntityType>,
    pub(super) entity_id: String,
    /// `None`: the commit's system time.
    pub(super) valid_from: Option<i64>,
    pub(super) until: Until,
    pub(super) deed: Deed,
    pub(super) expect: Vec<PreparedExpectation>,
}

/// What a mutation does.
#[derive(Debug)]
pub(super) enum Deed {
    Put(Vec<u8>),
    End,
    Patch(RowPatch),
    Erase,
}

/// A checked precondition.
#[derive(Debug)]
pub(super) struct PreparedExpectation {
    /// `None`: the mutation's start.
    pub(super) valid_time: Option<i64>,
    pub(super) condition: PreparedCondition,
}

/// What must be there.
#[derive(Debug)]
pub(super) enum PreparedCondition {
    Value(Vec<u8>),
    Absent,
    UnchangedSince(i64),
}

impl Deed {
    /// Its field in the request's oneof.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::End => "end",
            Self::Patch(_) => "patch",
            Self::Erase => "erase",
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Put(row) => row.len(),
            Self::Patch(patch) => patch.size_bytes(),
            Self::End | Self::Erase => 0,
        }
    }

    fn put_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::End => out.push(0),
            Self::Put(row) => {
                out.push(1);
                put_bytes(row, out);
            }
            Self::Patch(patch) => {
                out.push(2);
                put_bytes(&patch.to_bytes(), out);
            }
            Self::Erase => out.push(3),
        }
    }
}

impl PreparedCondition {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Value(row) => row.len() + 24,
            Self::Absent | Self::UnchangedSince(_) => 24,
        }
    }

    fn put_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Absent => out.push(0),
            Self::Value(row) => {
                out.push(1);
                put_bytes(row, out);
            }
            Self::UnchangedSince(basis) => {
                out.push(2);
                put_i64(*basis, out);
            }
        }
    }
}

impl PreparedMutation {
    /// Checks an explicit end against the start. `index` is the mutation's place in its batch.
    pub(super) fn check_end(&self, index: usize, valid_from: i64) -> Result<(), Violation> {
        let Until::At(valid_to) = self.until else {
            return Ok(());
        };
        let is_put = matches!(self.deed, Deed::Put(_));
        let is_wrong =
            valid_to.micros() < valid_from || (is_put && valid_to.micros() == valid_from);
        if !is_wrong {
            return Ok(());
        }
        let rule = if is_put {
            "must be after"
        } else {
            "must not be before"
        };
        Err(Violation::new(
            format!("mutations[{index}].{}.valid_to", self.deed.name()),
            format!(
                "{valid_to} {rule} valid_from {}",
                ValidTime::from_micros(valid_from)
            ),
        ))
    }

    /// About what it takes in the log.
    pub(super) fn size_bytes(&self) -> usize {
        let expect: usize = self
            .expect
            .iter()
            .map(|expectation| expectation.condition.size_bytes())
            .sum();
        self.entity_type.name().len() + self.entity_id.len() + self.deed.size_bytes() + expect + 24
    }

    fn hash_into(&self, hasher: &mut Sha256) {
        let mut bytes = Vec::with_capacity(self.size_bytes());
        put_bytes(self.entity_type.name().as_bytes(), &mut bytes);
        put_bytes(self.entity_id.as_bytes(), &mut bytes);
        put_optional(self.valid_from, &mut bytes);
        match self.until {
            Until::NextChange => bytes.push(0),
            Until::Forever => bytes.push(1),
            Until::At(valid_to) => {
                bytes.push(2);
                put_i64(valid_to.micros(), &mut bytes);
            }
        }
        self.deed.put_into(&mut bytes);
        for expectation in &self.expect {
            put_optional(expectation.valid_time, &mut bytes);
            expectation.condition.put_into(&mut bytes);
        }
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(&bytes);
    }
}

fn put_optional(value: Option<i64>, out: &mut Vec<u8>) {
    out.push(u8::from(value.is_some()));
    put_i64(value.unwrap_or(0), out);
}

/// Tells one request from another.
pub(super) fn digest(mutations: &[PreparedMutation], import_time: Option<i64>) -> Hash {
    let mut start = Vec::new();
    put_optional(import_time, &mut start);
    let mut hasher = Sha256::new_with_prefix(&start);
    for mutation in mutations {
        mutation.hash_into(&mut hasher);
    }
    hasher.finalize().into()
}
