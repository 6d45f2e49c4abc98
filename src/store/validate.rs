//! Checks a batch against the declared types and turns its rows into bytes, before the committer sees it.

use std::sync::Arc;

use super::{
    error::Error,
    log::RequestMark,
    model::{Batch, Condition, EntityType, Expectation, IngestMark, Mutation, Operation},
    prepared::{self, Deed, Prepared, PreparedCondition, PreparedExpectation, PreparedMutation},
    row::{self, Purpose, RowPatch},
};
use crate::{
    error::Violation,
    time::{SysTime, ValidTime},
};

/// The most mutations of a batch.
pub const MAX_MUTATIONS: usize = 10_000;
/// The longest batch, bytes, as stored.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// The longest entity id, bytes.
pub const MAX_ENTITY_ID_BYTES: usize = 512;
/// The longest request id, bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// The longest name of a bulk load, bytes.
pub const MAX_STREAM_BYTES: usize = 128;
/// The most preconditions of a mutation.
pub const MAX_EXPECTATIONS: usize = 16;

/// How many faults of a batch are told at once.
const MAX_VIOLATIONS: usize = 20;

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
    check_ingest(batch.ingest.as_ref())?;
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
    let import_time = batch.import_time.map(SysTime::micros);
    let request = batch.request_id.map(|id| RequestMark {
        id,
        digest: prepared::digest(&mutations, import_time),
    });
    Ok(Prepared {
        mutations,
        request,
        import_time,
        ingest: batch.ingest,
        writer: None,
    })
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

fn check_ingest(ingest: Option<&IngestMark>) -> Result<(), Error> {
    let Some(mark) = ingest else {
        return Ok(());
    };
    check_stream("stream", &mark.stream)?;
    if mark.offset == 0 {
        return Err(Error::invalid("offset", "it must be greater than 0"));
    }
    Ok(())
}

/// Checks the length of the name of a bulk load.
pub(super) fn check_stream(field: &str, stream: &str) -> Result<(), Error> {
    let size_bytes = stream.len();
    if (1..=MAX_STREAM_BYTES).contains(&size_bytes) {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!("{size_bytes} bytes: 1 to {MAX_STREAM_BYTES} are possible"),
    ))
}

fn prepare_mutation(
    index: usize,
    mutation: Mutation,
    find: impl Fn(&str) -> Result<Arc<EntityType>, Error>,
) -> Result<Result<PreparedMutation, Vec<Violation>>, Error> {
    let Mutation {
        entity_type,
        entity_id,
        operation,
        valid_from,
        until,
        expect,
    } = mutation;
    let entity_type = find(&entity_type)?;
    let path = format!("mutations[{index}]");
    let mut violations = Vec::new();
    violations.extend(check_entity_id(&format!("{path}.entity_id"), &entity_id).err());
    let deed = prepare_deed(&path, &entity_type, operation, &mut violations);
    let expect = prepare_expectations(&path, &entity_type, expect, &mut violations);
    let prepared = PreparedMutation {
        entity_type,
        entity_id,
        valid_from: valid_from.map(ValidTime::micros),
        until,
        deed,
        expect,
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

/// What the operation does. Where it is faulty, what stands for it here is never used.
fn prepare_deed(
    path: &str,
    entity_type: &EntityType,
    operation: Operation,
    violations: &mut Vec<Violation>,
) -> Deed {
    let mut refuse =
        |operation: &str, faults: Vec<row::Fault>| {
            violations.extend(faults.into_iter().map(|fault| {
                attribute_violation(&format!("{path}.{operation}.attributes"), fault)
            }));
        };
    match operation {
        Operation::End => Deed::End,
        Operation::Erase => Deed::Erase,
        Operation::Put(attributes) => match row::encode(entity_type, &attributes, Purpose::Store) {
            Ok(row) => Deed::Put(row),
            Err(faults) => {
                refuse("put", faults);
                Deed::Put(Vec::new())
            }
        },
        Operation::Patch(attributes) => {
            match RowPatch::encode(entity_type, &attributes, Purpose::Store) {
                Ok(patch) if patch.is_empty() => {
                    refuse("patch", vec![(None, "at least one is required".to_owned())]);
                    Deed::Patch(patch)
                }
                Ok(patch) => Deed::Patch(patch),
                Err(faults) => {
                    refuse("patch", faults);
                    Deed::End
                }
            }
        }
    }
}

fn prepare_expectations(
    path: &str,
    entity_type: &EntityType,
    expect: Vec<Expectation>,
    violations: &mut Vec<Violation>,
) -> Vec<PreparedExpectation> {
    let count = expect.len();
    if count > MAX_EXPECTATIONS {
        violations.push(Violation::new(
            format!("{path}.expect"),
            format!("{count} preconditions: at most {MAX_EXPECTATIONS} are possible"),
        ));
        return Vec::new();
    }
    let mut prepared = Vec::with_capacity(count);
    for (index, expectation) in expect.into_iter().enumerate() {
        let Expectation {
            valid_time,
            condition,
        } = expectation;
        let condition = match condition {
            Condition::Absent => PreparedCondition::Absent,
            Condition::UnchangedSince(basis) => PreparedCondition::UnchangedSince(basis.micros()),
            Condition::Value(attributes) => {
                match row::encode(entity_type, &attributes, Purpose::Compare) {
                    Ok(row) => PreparedCondition::Value(row),
                    Err(faults) => {
                        let field = format!("{path}.expect[{index}].value.attributes");
                        violations.extend(
                            faults
                                .into_iter()
                                .map(|fault| attribute_violation(&field, fault)),
                        );
                        continue;
                    }
                }
            }
        };
        prepared.push(PreparedExpectation {
            valid_time: valid_time.map(ValidTime::micros),
            condition,
        });
    }
    prepared
}

/// `field`: the attributes.
fn attribute_violation(field: &str, (attribute, problem): row::Fault) -> Violation {
    match attribute {
        Some(name) => Violation::new(format!("{field}[{name:?}]"), problem),
        None => Violation::new(field, problem),
    }
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
