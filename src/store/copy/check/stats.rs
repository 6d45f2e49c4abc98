//! How much is stored.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{super::Result, CheckProgress, step};
use crate::{kv::Database, store::keys};

/// One keyspace in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeyspaceStats {
    /// Its name.
    pub name: String,
    /// Keys, parts of large values counted one by one.
    pub keys: u64,
    /// Bytes of all keys.
    pub key_bytes: u64,
    /// Bytes of all values.
    pub value_bytes: u64,
    /// Bytes of the largest value.
    pub max_value_bytes: u64,
}

/// A database in numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreStats {
    /// Bytes of the database's files.
    pub disk_bytes: u64,
    /// By name.
    pub keyspaces: Vec<KeyspaceStats>,
    /// Entities by type, those with an end or a tombstone only included.
    pub entities: BTreeMap<String, u64>,
}

/// Counts what is in a database. Blocks.
///
/// **Cost**: a read of everything.
///
/// # Errors
/// Storage faults.
pub fn stats(database: &Database, progress: &mut dyn FnMut(CheckProgress)) -> Result<StoreStats> {
    let mut stats = StoreStats {
        disk_bytes: database.size_on_disk_bytes()?,
        ..Default::default()
    };
    let mut done = 0;
    for name in database.keyspace_names() {
        let mut keyspace = KeyspaceStats {
            name: name.clone(),
            ..Default::default()
        };
        for entry in database.keyspace(&name)?.prefix(&[]) {
            let (key, value) = entry?;
            keyspace.keys += 1;
            keyspace.key_bytes += key.len() as u64;
            keyspace.value_bytes += value.len() as u64;
            keyspace.max_value_bytes = keyspace.max_value_bytes.max(value.len() as u64);
            if name == "heads"
                && let Some((entity_type, _)) = keys::parse_entity_key(&key)
            {
                *stats.entities.entry(entity_type).or_default() += 1;
            }
            done += 1;
            step(progress, "keys", done);
        }
        stats.keyspaces.push(keyspace);
    }
    Ok(stats)
}
