//! The backfills' durable part: frozen records, and one dense log of events each. The log is the journal: a backfill's state
//! is the fold of its events.
//!
//! **Layout**
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `backfills` (large values) | `r/<name>` | format byte, JSON of the [`Record`]; format 1 is the one transform of [`first_format`] |
//! | | `s/<name>` | format byte, JSON of the [`State`] at its end: spares the fold of the log up to there |
//! | | `q/<request id>` | the backfill's name |
//! | | `p/<name>/<index, 8 hex digits>` | format byte, JSON of the [`PublishNote`]: gone once the backfill has ended |
//! | `backfill_events` | `<name> 00 <sequence, u64 big-endian>` | format byte, JSON of the [`Event`] |
//!
//! A backfill exists once its first event is there: that insert is what makes creation one transaction. A record without
//! events is the leftover of a creation that the server did not survive, and is removed.
//!
//! All calls block. **Durability**: what [`Journal::append`] and [`Journal::create`] wrote is on disk when they return.

mod first_format;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use tokio_util::sync::CancellationToken;

use super::{
    Error, Result,
    attempts::{Attempt, Attempts},
    model::{Event, Record},
    state::State,
};
use crate::{
    kv::{Database, Keyspace},
    store::Replaced,
};

const FORMAT: u8 = 1;
/// Of records that hold several transforms.
const RECORD_FORMAT: u8 = 2;
/// Text of a failure that is kept: an event must fit one value.
const MAX_MESSAGE_BYTES: usize = 2048;

/// What an attempt came to whose last batch of entities was about to be written. Whether it was, the entity store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublishNote {
    pub(super) attempt: u32,
    pub(super) rows_read: u64,
    pub(super) rows_written: u64,
    pub(super) bytes_written: u64,
    pub(super) staged_at_micros: i64,
    pub(super) replaced: Replaced,
}

/// The journal. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    database: Database,
    records: Keyspace,
    events: Keyspace,
}

impl Journal {
    /// To be cancelled by whoever can do no more until a restart.
    pub(super) fn broken(&self) -> &CancellationToken {
        self.database.broken()
    }

    pub(super) fn open(database: &Database) -> Result<Self> {
        Ok(Self {
            database: database.clone(),
            records: database.keyspace("backfills")?,
            events: database.keyspace("backfill_events")?,
        })
    }

    /// All backfills, oldest first, as they stand.
    pub(super) fn load(&self) -> Result<Vec<(Record, State)>> {
        let mut backfills = Vec::new();
        let records: Vec<_> = self
            .records
            .large_prefix(b"r/")
            .collect::<std::result::Result<_, _>>()?;
        for (key, bytes) in records {
            let name = String::from_utf8_lossy(key.get(2..).unwrap_or_default()).into_owned();
            let record = decode_record(&name, &bytes)?;
            match self.load_state(&record)? {
                Some(state) => backfills.push((record, state)),
                None => self.records.remove_large(&key)?,
            }
        }
        Ok(backfills)
    }

    fn load_state(&self, record: &Record) -> Result<Option<State>> {
        let remembered = self.records.get_large(&final_state_key(&record.name))?;
        let mut state = match remembered {
            Some(bytes) => decode(&record.name, &bytes)?,
            None => State::new(record),
        };
        // A backfill that was retried has events after its end.
        for event in self.events_after(&record.name, state.last_sequence, usize::MAX)? {
            if event.sequence != state.last_sequence + 1 {
                return Err(Error::Journal {
                    name: record.name.clone(),
                    cause: format!(
                        "event {} follows event {}",
                        event.sequence, state.last_sequence
                    ),
                });
            }
            state.apply(&event);
        }
        Ok((state.last_sequence > 0).then_some(state))
    }

    /// Writes a backfill's record and its first events.
    pub(super) fn create(
        &self,
        record: &Record,
        request_id: Option<&str>,
        events: &[Event],
    ) -> Result<()> {
        let bytes = encode_as(RECORD_FORMAT, &record.name, record)?;
        self.records
            .insert_large(&record_key(&record.name), &bytes)?;
        if let Some(request_id) = request_id {
            self.records
                .insert_large(&request_key(request_id), record.name.as_bytes())?;
        }
        // On disk before the event that makes them count.
        self.database.flush()?;
        self.append(&[(record.name.as_str(), events)])
    }

    /// The backfill that a request made.
    pub(super) fn made_by(&self, request_id: &str) -> Result<Option<String>> {
        let name = self.records.get_large(&request_key(request_id))?;
        Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    /// Writes events of several backfills.
    pub(super) fn append(&self, logs: &[(&str, &[Event])]) -> Result<()> {
        for (name, events) in logs {
            for event in *events {
                self.events
                    .insert(&event_key(name, event.sequence), &encode(name, event)?)?;
            }
        }
        self.database.flush()?;
        Ok(())
    }

    /// Remembers how an ended backfill stands. Derived from its events: losing it costs time only.
    pub(super) fn remember_end(&self, name: &str, state: &State) -> Result<()> {
        self.records
            .insert_large(&final_state_key(name), &encode(name, state)?)?;
        Ok(())
    }

    /// Notes what an attempt at a partition comes to. On disk before whatever is written after it.
    pub(super) fn note_publish(&self, name: &str, index: u32, note: &PublishNote) -> Result<()> {
        let key = format!("{}{index:08x}", note_prefix(name));
        self.records
            .insert_large(key.as_bytes(), &encode(name, note)?)?;
        Ok(())
    }

    /// The last note of each partition of a backfill.
    pub(super) fn publish_notes(&self, name: &str) -> Result<Vec<(u32, PublishNote)>> {
        let prefix = note_prefix(name);
        let mut notes = Vec::new();
        for entry in self.records.large_prefix(prefix.as_bytes()) {
            let (key, bytes) = entry?;
            let index = key
                .get(prefix.len()..)
                .and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
                .ok_or_else(|| Error::Journal {
                    name: name.to_owned(),
                    cause: format!("a note has the key {}", key.escape_ascii()),
                })?;
            notes.push((index, decode(name, &bytes)?));
        }
        Ok(notes)
    }

    /// Removes the notes of a backfill.
    pub(super) fn forget_publish_notes(&self, name: &str) -> Result<()> {
        let prefix = note_prefix(name);
        let notes: Vec<_> = self
            .records
            .large_prefix(prefix.as_bytes())
            .collect::<std::result::Result<_, _>>()?;
        for (key, _) in notes {
            self.records.remove_large(&key)?;
        }
        Ok(())
    }

    /// Every attempt at the partitions at `indices`. **Cost**: a read of the whole log, one event in memory at a time.
    pub(super) fn attempts(
        &self,
        name: &str,
        indices: &[u32],
    ) -> Result<BTreeMap<u32, Vec<Attempt>>> {
        let mut attempts = Attempts::of(indices);
        let events = self
            .events
            .range(&event_key(name, 0), &event_key(name, u64::MAX));
        for entry in events {
            attempts.apply(&decode(name, &entry?.1)?);
        }
        Ok(attempts.0)
    }

    /// At most `limit` events after `sequence`, in order.
    pub(super) fn events_after(
        &self,
        name: &str,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<Event>> {
        self.events
            .range(
                &event_key(name, sequence.saturating_add(1)),
                &event_key(name, u64::MAX),
            )
            .take(limit)
            .map(|entry| decode(name, &entry?.1))
            .collect()
    }
}

/// Cuts `message` to what an event can hold.
pub(super) fn bounded_message(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let mut end = MAX_MESSAGE_BYTES;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

fn record_key(name: &str) -> Vec<u8> {
    format!("r/{name}").into_bytes()
}

fn final_state_key(name: &str) -> Vec<u8> {
    format!("s/{name}").into_bytes()
}

fn note_prefix(name: &str) -> String {
    format!("p/{name}/")
}

fn request_key(request_id: &str) -> Vec<u8> {
    format!("q/{request_id}").into_bytes()
}

fn event_key(name: &str, sequence: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 9);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

fn encode(name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    encode_as(FORMAT, name, value)
}

fn encode_as(format: u8, name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = vec![format];
    serde_json::to_writer(&mut bytes, value).map_err(|error| Error::Journal {
        name: name.to_owned(),
        cause: error.to_string(),
    })?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    let unreadable = |cause: String| Error::Journal {
        name: name.to_owned(),
        cause,
    };
    match bytes.split_first() {
        Some((&FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|error| unreadable(error.to_string()))
        }
        Some((format, _)) => Err(unreadable(format!(
            "format {format} is not known to this version"
        ))),
        None => Err(unreadable("it is empty".to_owned())),
    }
}

fn decode_record(name: &str, bytes: &[u8]) -> Result<Record> {
    let unreadable = |error: serde_json::Error| Error::Journal {
        name: name.to_owned(),
        cause: error.to_string(),
    };
    match bytes.split_first() {
        Some((&RECORD_FORMAT, json)) => serde_json::from_slice(json).map_err(unreadable),
        _ => first_format::upgrade(decode(name, bytes)?).map_err(unreadable),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        backfill::model::{Change, PartitionChange, PartitionState, Reprocess},
        catalog::Output,
    };

    /// A record as the first version wrote it.
    fn first_record() -> Value {
        json!({
            "name": "bf-1",
            "spec": {
                "transform": "t", "revision": null, "from": 0, "to": 86_400_000_000i64, "knowledge": "AsKnownNow",
                "max_active_partitions": 2, "max_attempts": null, "labels": {},
            },
            "plan": {
                "transform": "t", "revision": 1, "output_table": "t", "grain": "daily", "zone": "UTC",
                "knowledge": "AsKnownNow", "shape": "Independent", "max_active_partitions": 2,
                "retry": {
                    "max_attempts": 3, "initial_backoff": {"secs": 1, "nanos": 0},
                    "max_backoff": {"secs": 60, "nanos": 0},
                },
                "partitions": [{
                    "partition": {"start": 0, "end": 86_400_000_000i64, "label": "1970-01-01"}, "basis": 7,
                    "skip_reason": null, "file_count": 0,
                }],
                "sources": [], "warnings": [],
            },
            "create_time_micros": 5,
        })
    }

    #[test]
    fn what_the_first_version_wrote_is_read() {
        let bytes = encode("bf-1", &first_record()).expect("encoded");
        let record = decode_record("bf-1", &bytes).expect("a record");
        assert_eq!(record.spec.transforms[0].name, "t");
        assert_eq!(
            record.plan.transforms[0].output,
            Output::Table("t".to_owned())
        );
        assert_eq!(record.plan.partitions_per_task, 1);
        let again = encode_as(RECORD_FORMAT, "bf-1", &record).expect("encoded");
        assert_eq!(decode_record("bf-1", &again).expect("a record"), record);
        assert_eq!(record.spec.reprocess, Reprocess::Completed);
        assert_eq!(record.plan.transforms[0].retry.attempt_timeout, None);
        assert!(record.parent.is_none() && !record.plan.stop_on_first_failure);

        let state: State = serde_json::from_value(json!({
            "state": "PartiallySucceeded",
            "partitions": [{
                "state": "Failed", "attempt": 3, "failure_count": 3, "start_micros": 1, "end_micros": 2, "rows_read": 0,
                "rows_written": 0, "message": "no", "retry_at_micros": null, "snapshot_id": null,
            }],
            "last_sequence": 9, "start_micros": 1, "end_micros": 2, "rows_read": 0, "rows_written": 0,
            "counts": {"Failed": 1}, "pending": [], "running": [],
        }))
        .expect("a state");
        assert_eq!(state.max_active(&record.plan), 2, "it can be retried");

        let event: Event = serde_json::from_value(json!({
            "sequence": 3, "time_micros": 4,
            "change": {"Partition": {
                "index": 0, "state": "Running", "attempt": 1, "rows_read": 0, "rows_written": 0,
            }},
        }))
        .expect("an event");
        let plain = PartitionChange::plain(0, PartitionState::Running, 1);
        assert_eq!(event.change, Change::Partition(plain));
    }
}
