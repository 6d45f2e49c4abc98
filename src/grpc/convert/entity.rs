//! Entity types, mutations and versions.

use std::collections::{BTreeMap, HashMap};

use pb::{end, expect, mutation, patch, put};
use prost_types::Timestamp;

use crate::{
    error::Violation,
    grpc::convert::{invalid::named, time, value::value},
    pb,
    store::{
        Answer, Attribute, AttributeKind, Batch, Change, ChangedState, Committed, Condition,
        EntityType, EntityTypeSpec, EntityTypeState, EntityTypeUpdate, Expectation, IngestMark,
        Mutation, Operation, Until, Value, Version,
    },
    time::{SysTime, ValidTime},
};

/// The declaration in a request. Fields that are output only are ignored.
///
/// # Errors
/// A type that is missing or an attribute without a kind; what the store checks by itself is left to it.
pub(in crate::grpc) fn entity_type_spec(
    entity_type: Option<pb::EntityType>,
) -> Result<EntityTypeSpec, Violation> {
    let pb::EntityType {
        name,
        attributes,
        description,
        create_time: _,
        first_known_time: _,
        written_by: _,
        state,
        revision: _,
        revision_time: _,
    } = entity_type.ok_or_else(|| Violation::new("entity_type", "it is required"))?;
    Ok(EntityTypeSpec {
        name,
        attributes: attributes_of("entity_type.attributes", attributes)?,
        description,
        state: match pb::EntityTypeState::try_from(state) {
            Ok(pb::EntityTypeState::Unspecified | pb::EntityTypeState::Active) => {
                EntityTypeState::Active
            }
            Ok(pb::EntityTypeState::Importing) => EntityTypeState::Importing,
            Err(_) => {
                return Err(Violation::new(
                    "entity_type.state",
                    format!("{state} is no state"),
                ));
            }
        },
    })
}

/// The name of a type, and the change to it in a request.
///
/// # Errors
/// An attribute without a kind; what the store checks by itself is left to it.
pub(in crate::grpc) fn entity_type_update(
    request: pb::UpdateEntityTypeRequest,
) -> Result<(String, EntityTypeUpdate), Violation> {
    let pb::UpdateEntityTypeRequest {
        name,
        add_attributes,
        deprecate_attributes,
        restore_attributes,
        description,
    } = request;
    named("name", &name)?;
    let update = EntityTypeUpdate {
        add_attributes: attributes_of("add_attributes", add_attributes)?,
        deprecate: deprecate_attributes,
        restore: restore_attributes,
        description,
    };
    Ok((name, update))
}

fn attributes_of(field: &str, wire: Vec<pb::Attribute>) -> Result<Vec<Attribute>, Violation> {
    wire.into_iter()
        .enumerate()
        .map(|(index, wire)| attribute(&format!("{field}[{index}]"), wire))
        .collect()
}

fn attribute(path: &str, attribute: pb::Attribute) -> Result<Attribute, Violation> {
    let pb::Attribute {
        name,
        kind,
        precision,
        scale,
        description,
        deprecated: _,
    } = attribute;
    let wire_kind = pb::AttributeKind::try_from(kind)
        .map_err(|_| Violation::new(format!("{path}.kind"), format!("{kind} is no kind")))?;
    let kind = match wire_kind {
        pb::AttributeKind::Unspecified => {
            return Err(Violation::new(format!("{path}.kind"), "it is required"));
        }
        pb::AttributeKind::Bool => AttributeKind::Bool,
        pb::AttributeKind::Int64 => AttributeKind::Int64,
        pb::AttributeKind::Float64 => AttributeKind::Float64,
        pb::AttributeKind::Decimal => AttributeKind::Decimal {
            precision: digits(&format!("{path}.precision"), precision)?,
            scale: digits(&format!("{path}.scale"), scale)?,
        },
        pb::AttributeKind::String => AttributeKind::String,
        pb::AttributeKind::Bytes => AttributeKind::Bytes,
        pb::AttributeKind::Timestamp => AttributeKind::Timestamp,
        pb::AttributeKind::Date => AttributeKind::Date,
        pb::AttributeKind::Json => AttributeKind::Json,
    };
    Ok(Attribute {
        name,
        kind,
        description,
    })
}

fn digits(field: &str, count: u32) -> Result<u8, Violation> {
    u8::try_from(count).map_err(|_| Violation::new(field, format!("{count} digits are too many")))
}

/// A stored type as the wire shows it.
pub(in crate::grpc) fn entity_type(
    entity_type: &EntityType,
    first_known: Option<SysTime>,
    written_by: Option<String>,
) -> pb::EntityType {
    pb::EntityType {
        name: entity_type.name().to_owned(),
        attributes: entity_type
            .attributes()
            .iter()
            .enumerate()
            .map(|(index, attribute)| pb::Attribute {
                deprecated: entity_type.is_deprecated(index),
                ..attribute.into()
            })
            .collect(),
        description: entity_type.description().to_owned(),
        create_time: Some(time::to_wire(entity_type.create_time())),
        first_known_time: first_known.map(time::to_wire),
        state: match entity_type.state() {
            EntityTypeState::Active => pb::EntityTypeState::Active,
            EntityTypeState::Importing => pb::EntityTypeState::Importing,
        }
        .into(),
        revision: entity_type.revision(),
        revision_time: Some(time::to_wire(entity_type.revision_time())),
        written_by: written_by.unwrap_or_default(),
    }
}

impl From<&Attribute> for pb::Attribute {
    fn from(attribute: &Attribute) -> Self {
        let (kind, precision, scale) = match attribute.kind {
            AttributeKind::Bool => (pb::AttributeKind::Bool, 0, 0),
            AttributeKind::Int64 => (pb::AttributeKind::Int64, 0, 0),
            AttributeKind::Float64 => (pb::AttributeKind::Float64, 0, 0),
            AttributeKind::Decimal { precision, scale } => {
                (pb::AttributeKind::Decimal, precision, scale)
            }
            AttributeKind::String => (pb::AttributeKind::String, 0, 0),
            AttributeKind::Bytes => (pb::AttributeKind::Bytes, 0, 0),
            AttributeKind::Timestamp => (pb::AttributeKind::Timestamp, 0, 0),
            AttributeKind::Date => (pb::AttributeKind::Date, 0, 0),
            AttributeKind::Json => (pb::AttributeKind::Json, 0, 0),
        };
        Self {
            name: attribute.name.clone(),
            kind: kind.into(),
            precision: precision.into(),
            scale: scale.into(),
            description: attribute.description.clone(),
            ..Default::default()
        }
    }
}

/// The batch in a request.
///
/// # Errors
/// The first field that does not read; what the store checks by itself is left to it.
pub(in crate::grpc) fn batch(request: pb::WriteRequest) -> Result<Batch, Violation> {
    let pb::WriteRequest {
        mutations,
        request_id,
        import_system_time,
    } = request;
    Ok(Batch {
        mutations: self::mutations(mutations)?,
        request_id: (!request_id.is_empty()).then_some(request_id),
        import_time: time::from_wire("import_system_time", import_system_time)?,
        ingest: None,
    })
}

/// The mutations in a request, with paths from `mutations`.
///
/// # Errors
/// As [`batch`].
pub(in crate::grpc) fn mutations(wire: Vec<pb::Mutation>) -> Result<Vec<Mutation>, Violation> {
    wire.into_iter()
        .enumerate()
        .map(|(index, wire)| mutation(&format!("mutations[{index}]"), wire))
        .collect()
}

/// A batch of a bulk load, with paths from the batch.
///
/// # Errors
/// As [`batch`].
pub(in crate::grpc) fn ingest_batch(
    wire: pb::IngestBatch,
    mark: IngestMark,
) -> Result<Batch, Violation> {
    let pb::IngestBatch {
        offset: _,
        mutations,
        import_system_time,
    } = wire;
    let batch = batch(pb::WriteRequest {
        mutations,
        request_id: String::new(),
        import_system_time,
    })?;
    Ok(Batch {
        ingest: Some(mark),
        ..batch
    })
}

fn mutation(path: &str, mutation: pb::Mutation) -> Result<Mutation, Violation> {
    let pb::Mutation {
        entity_type,
        entity_id,
        operation,
        expect,
    } = mutation;
    named(&format!("{path}.entity_type"), &entity_type)?;
    let (operation, valid_from, until) = match operation {
        None => {
            return Err(Violation::new(
                format!("{path}.operation"),
                "put, end, patch or erase is required",
            ));
        }
        Some(mutation::Operation::Put(wire)) => put(&format!("{path}.put"), wire)?,
        Some(mutation::Operation::End(wire)) => end(&format!("{path}.end"), wire)?,
        Some(mutation::Operation::Patch(wire)) => patch(&format!("{path}.patch"), wire)?,
        Some(mutation::Operation::Erase(pb::Erase {})) => {
            (Operation::Erase, None, Until::default())
        }
    };
    let expect = expect
        .into_iter()
        .enumerate()
        .map(|(index, wire)| expectation(&format!("{path}.expect[{index}]"), wire))
        .collect::<Result<_, _>>()?;
    Ok(Mutation {
        entity_type,
        entity_id,
        operation,
        valid_from,
        until,
        expect,
    })
}

fn expectation(path: &str, expect: pb::Expect) -> Result<Expectation, Violation> {
    let pb::Expect {
        valid_time,
        condition,
    } = expect;
    let condition = match condition {
        None => {
            return Err(Violation::new(
                format!("{path}.condition"),
                "value, absent or unchanged_since is required",
            ));
        }
        Some(expect::Condition::Value(pb::ExpectValue { attributes })) => {
            Condition::Value(values(&format!("{path}.value"), attributes)?)
        }
        Some(expect::Condition::Absent(pb::ExpectAbsent {})) => Condition::Absent,
        Some(expect::Condition::UnchangedSince(timestamp)) => {
            let field = format!("{path}.unchanged_since");
            let basis = time::from_wire(&field, Some(timestamp))?;
            Condition::UnchangedSince(basis.ok_or_else(|| Violation::new(field, "it is required"))?)
        }
    };
    Ok(Expectation {
        valid_time: time::from_wire(&format!("{path}.valid_time"), valid_time)?,
        condition,
    })
}

type Parts = (Operation, Option<ValidTime>, Until);
type Values = BTreeMap<String, Option<Value>>;

/// The attributes of the message at `path`.
fn values(path: &str, wire: HashMap<String, pb::Value>) -> Result<Values, Violation> {
    wire.into_iter()
        .map(|(name, wire)| {
            let read = value(&format!("{path}.attributes[{name:?}]"), wire)?;
            Ok((name, read))
        })
        .collect()
}

fn put(path: &str, put: pb::Put) -> Result<Parts, Violation> {
    let pb::Put {
        attributes,
        valid_from,
        until,
    } = put;
    let until = match until {
        None | Some(put::Until::UntilNextChange(pb::UntilNextChange {})) => Until::NextChange,
        Some(put::Until::ValidTo(timestamp)) => valid_to(path, timestamp)?,
        Some(put::Until::Forever(pb::Forever {})) => Until::Forever,
    };
    let attributes = values(path, attributes)?;
    Ok((Operation::Put(attributes), from(path, valid_from)?, until))
}

fn patch(path: &str, patch: pb::Patch) -> Result<Parts, Violation> {
    let pb::Patch {
        attributes,
        valid_from,
        until,
    } = patch;
    let until = match until {
        None | Some(patch::Until::UntilNextChange(pb::UntilNextChange {})) => Until::NextChange,
        Some(patch::Until::ValidTo(timestamp)) => valid_to(path, timestamp)?,
        Some(patch::Until::Forever(pb::Forever {})) => Until::Forever,
    };
    let attributes = values(path, attributes)?;
    Ok((Operation::Patch(attributes), from(path, valid_from)?, until))
}

fn end(path: &str, end: pb::End) -> Result<Parts, Violation> {
    let pb::End { valid_from, until } = end;
    let until = match until {
        None | Some(end::Until::UntilNextChange(pb::UntilNextChange {})) => Until::NextChange,
        Some(end::Until::ValidTo(timestamp)) => valid_to(path, timestamp)?,
        Some(end::Until::Forever(pb::Forever {})) => Until::Forever,
    };
    Ok((Operation::End, from(path, valid_from)?, until))
}

fn from(path: &str, timestamp: Option<Timestamp>) -> Result<Option<ValidTime>, Violation> {
    time::from_wire(&format!("{path}.valid_from"), timestamp)
}

fn valid_to(path: &str, timestamp: Timestamp) -> Result<Until, Violation> {
    let valid_to = time::from_wire(&format!("{path}.valid_to"), Some(timestamp))?;
    Ok(valid_to.map_or(Until::NextChange, Until::At))
}

impl From<Committed> for pb::WriteResponse {
    fn from(committed: Committed) -> Self {
        let Committed {
            system_time,
            versions_written,
            replayed,
        } = committed;
        Self {
            system_time: Some(time::to_wire(system_time)),
            versions_written,
            replayed,
        }
    }
}

/// A version of an entity of this type.
pub(in crate::grpc) fn version(entity_type: &EntityType, version: Version) -> pb::Version {
    let Version {
        entity_id,
        attributes,
        valid,
        system,
        ended,
    } = version;
    pb::Version {
        entity_id,
        attributes: named_attributes(entity_type, attributes),
        valid_from: (valid.from != ValidTime::MIN).then(|| time::to_wire(valid.from)),
        valid_to: valid.to.map(time::to_wire),
        system_from: Some(time::to_wire(system.from)),
        system_to: system.to.map(time::to_wire),
        ended,
    }
}

/// An answer: what is there, and the version that says so.
pub(in crate::grpc) fn answer(
    entity_type: &EntityType,
    answer: Answer,
) -> (pb::EntityOutcome, Option<pb::Version>) {
    match answer {
        Answer::Value(found) => (pb::EntityOutcome::Value, Some(version(entity_type, found))),
        Answer::Ended(found) => (pb::EntityOutcome::Ended, Some(version(entity_type, found))),
        Answer::NotKnown => (pb::EntityOutcome::NotKnown, None),
        Answer::Erased => (pb::EntityOutcome::Erased, None),
    }
}

/// One change of a commit.
pub(in crate::grpc) fn change(change: Change) -> pb::list_changes_response::Change {
    let Change {
        entity_type,
        entity_id,
        valid,
        before,
        after,
    } = change;
    pb::list_changes_response::Change {
        entity_type: entity_type.name().to_owned(),
        entity_id,
        valid_from: (valid.from != ValidTime::MIN).then(|| time::to_wire(valid.from)),
        valid_to: valid.to.map(time::to_wire),
        before: Some(changed_state(&entity_type, before)),
        after: Some(changed_state(&entity_type, after)),
    }
}

fn changed_state(
    entity_type: &EntityType,
    state: ChangedState,
) -> pb::list_changes_response::State {
    let (outcome, attributes) = match state {
        ChangedState::Value(attributes) => (
            pb::EntityOutcome::Value,
            named_attributes(entity_type, attributes),
        ),
        ChangedState::Ended => (pb::EntityOutcome::Ended, HashMap::new()),
        ChangedState::NotKnown => (pb::EntityOutcome::NotKnown, HashMap::new()),
        ChangedState::Erased => (pb::EntityOutcome::Erased, HashMap::new()),
    };
    pb::list_changes_response::State {
        outcome: outcome.into(),
        attributes,
    }
}

/// Those of a row's attributes that are not null, by name.
fn named_attributes(
    entity_type: &EntityType,
    attributes: Vec<Option<Value>>,
) -> HashMap<String, pb::Value> {
    let names = entity_type
        .attributes()
        .iter()
        .map(|attribute| &attribute.name);
    names
        .zip(attributes)
        .filter_map(|(name, value)| Some((name.clone(), value?.into())))
        .collect()
}
