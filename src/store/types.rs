//! Entity types on disk.
//!
//! **Layout**: under the type's name, format byte, then JSON of the type with all its revisions.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    entity_type::{EntityType, EntityTypeState, Revision},
    error::Error,
    model::Attribute,
};
use crate::{kv::Keyspace, time::SysTime};

const FORMAT: u8 = 2;

#[derive(Serialize, Deserialize)]
struct StoredType {
    name: String,
    state: EntityTypeState,
    create_time: SysTime,
    attributes: Vec<Attribute>,
    revisions: Vec<Revision>,
}

/// Stores a type. Not durable before the next flush.
pub(super) fn save(types: &Keyspace, entity_type: &EntityType) -> Result<(), Error> {
    let stored = StoredType {
        name: entity_type.name().to_owned(),
        state: entity_type.state(),
        create_time: entity_type.create_time(),
        attributes: entity_type.attributes().to_vec(),
        revisions: entity_type.stored_revisions().to_vec(),
    };
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, &stored).map_err(|error| {
        Error::damaged(
            format!("entity type {}", entity_type.name()),
            error.to_string(),
        )
    })?;
    Ok(types.insert_large(entity_type.name().as_bytes(), &bytes)?)
}

/// All stored types, by name.
pub(super) fn load_all(types: &Keyspace) -> Result<BTreeMap<String, Arc<EntityType>>, Error> {
    let mut found = BTreeMap::new();
    for entry in types.large_prefix(&[]) {
        let (key, bytes) = entry?;
        let entity_type = read(&bytes).map_err(|cause| {
            Error::damaged(format!("entity type {}", key.escape_ascii()), cause)
        })?;
        found.insert(entity_type.name().to_owned(), Arc::new(entity_type));
    }
    Ok(found)
}

fn read(bytes: &[u8]) -> Result<EntityType, String> {
    let json = match bytes.split_first() {
        Some((&FORMAT, json)) => json,
        _ => return Err("its format is unknown".to_owned()),
    };
    let StoredType {
        name,
        state,
        create_time,
        attributes,
        revisions,
    } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    EntityType::from_stored(name, state, create_time, attributes, revisions)
        .ok_or_else(|| "its revisions do not fit its attributes".to_owned())
}
