//! Checks a batch against the declared types and turns its rows into bytes, before the committer sees it.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    codec::{put_bytes, put_i64},
    error::Error,
    log::{Hash, RequestMark},
    model::{Batch, EntityType, Mutation, Operation, Until},
    row,
};
use crate::{error::Violation, time::ValidTime};

/// The most mutations of a batch.
pub const MAX_MUTATIONS: usize = 10_000;
/// The longest batch, bytes, as stored.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// The longest entity id, bytes.
pub const MAX_ENTITY_ID_BYTES: usize = 512;
/// The longest request id, bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// How many faults of a batch are told at once.
const MAX_VIOLATIONS: usize = 20;

/// A batch whose fields are in order. Only ranges that start at the commit's system time are still to be checked.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) mutations: Vec<PreparedMutation>,
    pub(super) request: Option<RequestMark>,
}

#[derive(Debug)]
pub(super) struct PreparedMutation {
    pub(super) entity_type: Arc<EntityType>,
    pub(super) entity_id: String,
    /// `None`: the commit's system time.
    pub(super) valid_from: Option<i64>,
    pub(super) until: Until,
    /// `None`: ended.
    pub(super) row: Option<Vec<u8>>,
}

impl PreparedMutation {
    /// Its field in the request's oneof.
    fn operation_name(&self) -> &'static str {
        operation_name(self.row.is_some())
    }

    /// Checks an explicit end against the start. `index` is the mutation's place in its batch.
    pub(super) fn check_end(&self, index: usize, valid_from: i64) -> Result<(), Violation> {
        let Until::At(valid_to) = self.until else {
            return Ok(());
        };
        let is_put = self.row.is_some();
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
            format!("mutations[{index}].{}.valid_to", self.operation_name()),
            format!(
                "{valid_to} {rule} valid_from {}",
                ValidTime::from_micros(valid_from)
            ),
        ))
    }

    fn size_bytes(&self) -> usize {
        self.entity_type.name().len()
            + self.entity_id.len()
            + self.row.as_ref().map_or(0, Vec::len)
            + 24
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
        bytes.push(u8::from(self.row.is_some()));
        put_bytes(self.row.as_deref().unwrap_or_default(), &mut bytes);
        hasher.update(&bytes);
    }
}

fn put_optional(value: Option<i64>, out: &mut Vec<u8>) {
    out.push(u8::from(value.is_some()));
    put_i64(value.unwrap_or(0), out);
}

fn operation_name(is_put: bool) -> &'static str {
    if is_put { "put" } else { "end" }
}

/// Checks a batch. `find` looks up a declared type.
pub(super) fn prepare(
    batch: Batch,
    find: impl Fn(&str) -> Result<Arc<EntityType>, Error>,
) -> Result<Prepared, Error> {
    let count = batch.mutations.len();
    if count == 0 || count > MAX_MUTATIONS {
        return Err(Error::invalid(
            "mutations",
            format!("{count} mutations: 1 to {MAX_MUTATIONS} are possible"),
        ));
    }
    check_request_id(batch.request_id.as_deref())?;
    let mut mutations = Vec::with_capacity(count);
    let mut violations = Vec::new();
    let mut size_bytes = 0;
    for (index, mutation) in batch.mutations.into_iter().enumerate() {
        match prepare_mutation(index, mutation, &find)? {
            Ok(prepared) => {
                size_bytes += prepared.size_bytes();
                mutations.push(prepared);
            }
            Err(found) => violations.extend(found),
        }
        if violations.len() >= MAX_VIOLATIONS {
            break;
        }
    }
    if size_bytes > MAX_BATCH_BYTES {
        violations.push(Violation::new(
            "mutations",
            format!("{size_bytes} bytes in all: at most {MAX_BATCH_BYTES} are possible"),
        ));
    }
    if !violations.is_empty() {
        return Err(Error::Invalid { violations });
    }
    let request = batch.request_id.map(|id| RequestMark {
        id,
        digest: digest(&mutations),
    });
    Ok(Prepared { mutations, request })
}

fn check_request_id(id: Option<&str>) -> Result<(), Error> {
    match id.map(str::len) {
        None | Some(1..=MAX_REQUEST_ID_BYTES) => Ok(()),
        Some(size_bytes) => Err(Error::invalid(
            "request_id",
            format!("{size_bytes} bytes: 1 to {MAX_REQUEST_ID_BYTES} are possible"),
        )),
    }
}

fn prepare_mutation(
    index: usize,
    mutation: Mutation,
    find: impl Fn(&str) -> Result<Arc<EntityType>, Error>,
) -> Result<Result<PreparedMutation, Vec<Violation>>, Error> {
    let entity_type = find(&mutation.entity_type)?;
    let path = format!("mutations[{index}]");
    let mut violations = Vec::new();
    violations.extend(check_entity_id(&format!("{path}.entity_id"), &mutation.entity_id).err());
    let row = match mutation.operation {
        Operation::End => None,
        Operation::Patch(_) | Operation::Erase => {
            return Ok(Err(vec![Violation::new(path, "it is not possible yet")]));
        }
        Operation::Put(attributes) => match row::encode(&entity_type, &attributes) {
            Ok(row) => Some(row),
            Err(faults) => {
                violations.extend(
                    faults
                        .into_iter()
                        .map(|fault| attribute_violation(&path, fault)),
                );
                Some(Vec::new())
            }
        },
    };
    let prepared = PreparedMutation {
        entity_type,
        entity_id: mutation.entity_id,
        valid_from: mutation.valid_from.map(ValidTime::micros),
        until: mutation.until,
        row,
    };
    if let Some(valid_from) = prepared.valid_from {
        violations.extend(prepared.check_end(index, valid_from).err());
    }
    Ok(if violations.is_empty() {
        Ok(prepared)
    } else {
        Err(violations)
    })
}

fn attribute_violation(path: &str, (attribute, problem): row::Fault) -> Violation {
    let field = match attribute {
        Some(name) => format!("{path}.put.attributes[{name:?}]"),
        None => format!("{path}.put.attributes"),
    };
    Violation::new(field, problem)
}

/// Checks the length of an entity id.
pub(super) fn check_entity_id(field: &str, id: &str) -> Result<(), Violation> {
    let size_bytes = id.len();
    if (1..=MAX_ENTITY_ID_BYTES).contains(&size_bytes) {
        return Ok(());
    }
    Err(Violation::new(
        field,
        format!("{size_bytes} bytes: 1 to {MAX_ENTITY_ID_BYTES} are possible"),
    ))
}

fn digest(mutations: &[PreparedMutation]) -> Hash {
    let mut hasher = Sha256::new();
    for mutation in mutations {
        mutation.hash_into(&mut hasher);
    }
    hasher.finalize().into()
}
