//! Entity types on disk.
//!
//! **Layout**: under the type's name, format byte, then JSON of the declaration and its creation time.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    error::Error,
    model::{EntityType, EntityTypeSpec},
};
use crate::{kv::Keyspace, time::SysTime};

const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct StoredType {
    spec: EntityTypeSpec,
    create_time: SysTime,
}

/// Stores a type. Not durable before the next flush.
pub(super) fn save(types: &Keyspace, entity_type: &EntityType) -> Result<(), Error> {
    let stored = StoredType {
        spec: entity_type.spec().clone(),
        create_time: entity_type.create_time(),
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
        let what = || format!("entity type {}", key.escape_ascii());
        let json = match bytes.split_first() {
            Some((&FORMAT, json)) => json,
            _ => return Err(Error::damaged(what(), "its format is unknown")),
        };
        let stored: StoredType = serde_json::from_slice(json)
            .map_err(|error| Error::damaged(what(), error.to_string()))?;
        let entity_type = EntityType::new(stored.spec, stored.create_time);
        found.insert(entity_type.name().to_owned(), Arc::new(entity_type));
    }
    Ok(found)
}
