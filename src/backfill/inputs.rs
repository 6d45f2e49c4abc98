//! What published partitions were made from: written once an attempt's rows are staged, before they are published.
//!
//! The rest of it is frozen in the [`Record`](super::Record) already: the revision, each partition's basis, the source files.
//!
//! **Layout**: keyspace `backfill_inputs` (large values), key `<backfill> 00 <partition's place, u32> <attempt, u32>`
//! (big-endian), value: format byte, JSON of the [`Inputs`], CRC-32 of both (big-endian). An attempt that was not published
//! leaves its entry behind; nobody asks for it.

use serde::{Deserialize, Serialize};

use super::{Error, Result};
use crate::{
    engine::Reads,
    kv::{Database, Keyspace},
    time::SysTime,
};

const FORMAT: u8 = 1;

/// What one attempt read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inputs {
    /// The latest basis when it started: erasures up to then were done.
    pub(super) started_at: SysTime,
    /// What its query read.
    pub(super) reads: Reads,
}

/// The stored inputs. Cheap to clone; all calls block.
#[derive(Debug, Clone)]
pub(super) struct InputsStore {
    inputs: Keyspace,
}

impl InputsStore {
    pub(super) fn open(database: &Database) -> Result<Self> {
        Ok(Self {
            inputs: database.keyspace("backfill_inputs")?,
        })
    }

    /// Writes what an attempt read. **Durability**: from the database's next flush on. A commit on the attempt's table
    /// flushes the same database, so what is published has its inputs on disk.
    pub(super) fn put(
        &self,
        backfill: &str,
        index: u32,
        attempt: u32,
        inputs: &Inputs,
    ) -> Result<()> {
        let mut bytes = vec![FORMAT];
        serde_json::to_writer(&mut bytes, inputs)
            .map_err(|error| unreadable(backfill, error.to_string()))?;
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        Ok(self
            .inputs
            .insert_large(&key(backfill, index, attempt), &bytes)?)
    }

    /// What an attempt read; `None`: it ran before this was recorded.
    pub(super) fn get(&self, backfill: &str, index: u32, attempt: u32) -> Result<Option<Inputs>> {
        let stored = self.inputs.get_large(&key(backfill, index, attempt))?;
        stored.map(|bytes| decode(backfill, &bytes)).transpose()
    }
}

fn key(backfill: &str, index: u32, attempt: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(backfill.len() + 9);
    key.extend_from_slice(backfill.as_bytes());
    key.push(0);
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&attempt.to_be_bytes());
    key
}

fn decode(backfill: &str, bytes: &[u8]) -> Result<Inputs> {
    let refuse = |cause: &str| unreadable(backfill, format!("what a partition read: {cause}"));
    let (body, checksum) = bytes
        .split_last_chunk::<4>()
        .ok_or_else(|| refuse("it ends early"))?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err(refuse("the checksum does not hold"));
    }
    match body.split_first() {
        Some((&FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|error| refuse(&error.to_string()))
        }
        Some((format, _)) => Err(refuse(&format!(
            "format {format} is not known to this version"
        ))),
        None => Err(refuse("it is empty")),
    }
}

fn unreadable(backfill: &str, cause: String) -> Error {
    Error::Journal {
        name: backfill.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{EntityRead, FileSet, Sight, TableRead},
        time::{Interval, ValidTime},
    };

    fn inputs() -> Inputs {
        let read = |sight| EntityRead {
            entity_type: "station".to_owned(),
            sight,
            attributes: vec!["temp".to_owned()],
            valid_from: true,
            valid_to: false,
            ids: matches!(sight, Sight::States(_)).then(|| vec![1, u32::MAX]),
            basis: None,
        };
        let window = Interval::new(ValidTime::from_micros(5), ValidTime::from_micros(9));
        Inputs {
            started_at: SysTime::from_micros(7),
            reads: Reads {
                entities: vec![
                    read(Sight::State(ValidTime::from_micros(8))),
                    read(Sight::States(window)),
                    read(Sight::Versions(window)),
                    EntityRead {
                        basis: Some(SysTime::from_micros(6)),
                        ..read(Sight::State(ValidTime::from_micros(4)))
                    },
                ],
                sources: vec!["flights".to_owned()],
                prior: Some(FileSet {
                    file_count: 3,
                    digest: "00ff".to_owned(),
                }),
                tables: vec![TableRead {
                    table: "hours".to_owned(),
                    files: FileSet {
                        file_count: 1,
                        digest: "aa".to_owned(),
                    },
                }],
            },
        }
    }

    /// The value of [`inputs`] as the first version wrote it, without its checksum.
    const SPECIMEN: &str = concat!(
        "\u{1}",
        r#"{"started_at":7,"reads":{"entities":["#,
        r#"{"entity_type":"station","sight":{"State":8},"attributes":["temp"],"valid_from":true,"valid_to":false},"#,
        r#"{"entity_type":"station","sight":{"States":{"from":5,"to":9}},"attributes":["temp"],"valid_from":true,"valid_to":false,"ids":[1,4294967295]},"#,
        r#"{"entity_type":"station","sight":{"Versions":{"from":5,"to":9}},"attributes":["temp"],"valid_from":true,"valid_to":false},"#,
        r#"{"entity_type":"station","sight":{"State":4},"attributes":["temp"],"valid_from":true,"valid_to":false,"basis":6}"#,
        r#"],"sources":["flights"],"prior":{"file_count":3,"digest":"00ff"},"#,
        r#""tables":[{"table":"hours","files":{"file_count":1,"digest":"aa"}}]}}"#,
    );

    #[test]
    fn what_the_first_version_wrote_is_read_and_damage_is_told() {
        let mut bytes = SPECIMEN.as_bytes().to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        assert_eq!(decode("bf", &bytes).expect("readable"), inputs());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode("bf", &damaged).is_err(), "byte {at}");
        }
        assert!(decode("bf", &bytes[..3]).is_err());
    }
}
