//! What of the limits must survive: their statements, and what hours and dates have used up.
//!
//! **Layout** (keyspace `rate_limits`)
//!
//! | key | value |
//! |---|---|
//! | `d/<name>` | format byte, JSON of the [`RateLimit`] |
//! | `w/<name>/<hourly or daily>` | format byte, JSON of the remembered windows: `[start, end, live, backfill]` each |
//!
//! The counts of a limit outlive it, so that deleting and creating it again grants no day's quota twice; they are removed
//! when the server opens and nothing of them is remembered any more.
//!
//! All calls block. **Durability**: what was written is on disk when the call returns.

use std::collections::HashMap;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Error, Result,
    gate::Histories,
    model::{ByClass, RateLimit},
    window::{Count, History},
};
use crate::{
    kv::{self, Database, Keyspace},
    time::Grain,
};

const FORMAT: u8 = 1;

/// A window as it is stored: start, end, live, backfill.
type Row = (i64, i64, u64, u64);

/// The limits' durable part. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    database: Database,
    keyspace: Keyspace,
}

impl Journal {
    pub(super) fn open(database: &Database) -> Result<Self> {
        Ok(Self {
            database: database.clone(),
            keyspace: database.keyspace("rate_limits")?,
        })
    }

    /// All limits.
    pub(super) fn limits(&self) -> Result<Vec<RateLimit>> {
        self.keyspace
            .prefix(b"d/")
            .map(|entry| decode(&entry?))
            .collect()
    }

    /// What was counted, by limit.
    pub(super) fn histories(&self) -> Result<HashMap<String, Histories>> {
        let mut histories: HashMap<String, Histories> = HashMap::new();
        for entry in self.keyspace.prefix(b"w/") {
            let entry = entry?;
            let rows: Vec<Row> = decode(&entry)?;
            let key = String::from_utf8_lossy(&entry.0).into_owned();
            let mut parts = key.splitn(3, '/').skip(1);
            let (Some(name), Some(grain)) = (parts.next(), parts.next()) else {
                return Err(corrupt(&entry.0, "its key has no parts"));
            };
            let grain: Grain = grain
                .parse()
                .map_err(|_| corrupt(&entry.0, "its key names no grain"))?;
            let history = rows.into_iter().map(count).collect();
            histories
                .entry(name.to_owned())
                .or_default()
                .push((grain, history));
        }
        Ok(histories)
    }

    pub(super) fn store(&self, limit: &RateLimit) -> Result<()> {
        let key = format!("d/{}", limit.spec.name);
        self.keyspace
            .insert(key.as_bytes(), &encode(&key, limit)?)?;
        Ok(self.database.flush()?)
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        self.keyspace.remove(format!("d/{name}").as_bytes())?;
        Ok(self.database.flush()?)
    }

    /// No counts leave no key.
    pub(super) fn store_history(&self, name: &str, grain: Grain, history: &History) -> Result<()> {
        let key = history_key(name, grain);
        if history.is_empty() {
            self.keyspace.remove(key.as_bytes())?;
            return Ok(self.database.flush()?);
        }
        let rows: Vec<Row> = history.iter().map(row).collect();
        self.keyspace
            .insert(key.as_bytes(), &encode(&key, &rows)?)?;
        Ok(self.database.flush()?)
    }

    pub(super) fn forget_history(&self, name: &str, grain: Grain) -> Result<()> {
        Ok(self.keyspace.remove(history_key(name, grain).as_bytes())?)
    }
}

fn history_key(name: &str, grain: Grain) -> String {
    format!("w/{name}/{grain}")
}

fn count((start, end, live, backfill): Row) -> Count {
    Count {
        start,
        end,
        used: ByClass { live, backfill },
    }
}

fn row(count: &Count) -> Row {
    let Count { start, end, used } = *count;
    (start, end, used.live, used.backfill)
}

fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).map_err(|error| Error::Encoding {
        key: key.to_owned(),
        cause: error.to_string(),
    })?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>((key, bytes): &kv::Entry) -> Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|error| corrupt(key, &error.to_string()))
        }
        Some((format, _)) => Err(corrupt(
            key,
            &format!("format {format} is not known to this version"),
        )),
        None => Err(corrupt(key, "it is empty")),
    }
}

fn corrupt(key: &[u8], cause: &str) -> Error {
    kv::Error::Corrupt {
        key: key.escape_ascii().to_string(),
        cause: cause.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MAX_VALUE_BYTES;

    #[test]
    fn as_many_windows_as_are_remembered_fit_one_value() {
        let rows: Vec<Row> = vec![(i64::MIN, i64::MAX, 1_000_000_000_000, 1_000_000_000_000); 51];
        let bytes = encode("k", &rows).expect("encoded");
        assert!(bytes.len() <= MAX_VALUE_BYTES, "{}", bytes.len());
    }
}
