//! Entity types, mutations and versions.

use std::collections::BTreeMap;

use pb::{end, mutation, put};
use prost_types::Timestamp;

use crate::{
    error::Violation,
    grpc::convert::{invalid::named, time, value::value},
    pb,
    store::{
        Answer, Attribute, AttributeKind, Batch, Committed, EntityType, EntityTypeSpec, Mutation,
        Operation, Until, Version,
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
        state: _,
        revision: _,
        revision_time: _,
    } = entity_type.ok_or_else(|| Violation::new("entity_type", "it is required"))?;
    let attributes = attributes
        .into_iter()
        .enumerate()
        .map(|(index, wire)| attribute(&format!("entity_type.attributes[{index}]"), wire))
        .collect::<Result<_, _>>()?;
    Ok(EntityTypeSpec {
        name,
        attributes,
        description,
    })
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
) -> pb::EntityType {
    pb::EntityType {
        name: entity_type.name().to_owned(),
        attributes: entity_type
            .attributes()
            .iter()
            .map(pb::Attribute::from)
            .collect(),
        description: entity_type.spec().description.clone(),
        create_time: Some(time::to_wire(entity_type.create_time())),
        first_known_time: first_known.map(time::to_wire),
        state: pb::EntityTypeState::Active.into(),
        revision: 1,
        revision_time: None,
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
        mutations: mutations
            .into_iter()
            .enumerate()
            .map(|(index, wire)| mutation(&format!("mutations[{index}]"), wire))
            .collect::<Result<_, _>>()?,
        request_id: (!request_id.is_empty()).then_some(request_id),
        import_time: time::from_wire("import_system_time", import_system_time)?,
        ingest: None,
    })
}

fn mutation(path: &str, mutation: pb::Mutation) -> Result<Mutation, Violation> {
    let pb::Mutation {
        entity_type,
        entity_id,
        operation,
        expect: _,
    } = mutation;
    named(&format!("{path}.entity_type"), &entity_type)?;
    let (operation, valid_from, until) = match operation {
        None => {
            return Err(Violation::new(
                format!("{path}.operation"),
                "put or end is required",
            ));
        }
        Some(mutation::Operation::Put(wire)) => put(&format!("{path}.put"), wire)?,
        Some(mutation::Operation::End(wire)) => end(&format!("{path}.end"), wire)?,
        Some(mutation::Operation::Patch(_) | mutation::Operation::Erase(_)) => {
            return Err(Violation::new(path, "it is not possible yet"));
        }
    };
    Ok(Mutation {
        entity_type,
        entity_id,
        operation,
        valid_from,
        until,
        expect: Vec::new(),
    })
}

type Parts = (Operation, Option<ValidTime>, Until);

fn put(path: &str, put: pb::Put) -> Result<Parts, Violation> {
    let pb::Put {
        attributes,
        valid_from,
        until,
    } = put;
    let attributes = attributes
        .into_iter()
        .map(|(name, wire)| {
            let read = value(&format!("{path}.attributes[{name:?}]"), wire)?;
            Ok((name, read))
        })
        .collect::<Result<BTreeMap<_, _>, Violation>>()?;
    let until = match until {
        None | Some(put::Until::UntilNextChange(pb::UntilNextChange {})) => Until::NextChange,
        Some(put::Until::ValidTo(timestamp)) => valid_to(path, timestamp)?,
        Some(put::Until::Forever(pb::Forever {})) => Until::Forever,
    };
    Ok((Operation::Put(attributes), from(path, valid_from)?, until))
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
    let names = entity_type
        .attributes()
        .iter()
        .map(|attribute| &attribute.name);
    pb::Version {
        entity_id,
        attributes: names
            .zip(attributes)
            .filter_map(|(name, value)| Some((name.clone(), value?.into())))
            .collect(),
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
