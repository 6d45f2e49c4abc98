//! Small stored values besides pages and records: the checkpoint, the floor, first-known times, remembered requests.
//!
//! **Layout**: format byte, body, CRC-32 (big-endian) of both.

use super::{
    codec::{self, Malformed, Reader, put_i64, put_u64},
    error::Error,
    log::Hash,
};
use crate::kv::Keyspace;

const FORMAT: u8 = 1;
const CHECKPOINT: &[u8] = b"checkpoint";
const FLOOR: &[u8] = b"floor";
const FIRST_KNOWN: &[u8] = b"first_known/";

/// The answer that a request id got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) system_time: i64,
    pub(super) versions_written: u64,
    pub(super) digest: Hash,
}

/// The sequence up to which pages are applied; 0 before the first checkpoint.
pub(super) fn checkpoint(meta: &Keyspace) -> Result<u64, Error> {
    let found = get(meta, CHECKPOINT, "the checkpoint", |reader| reader.u64())?;
    Ok(found.unwrap_or(0))
}

/// Notes that pages are applied up to `sequence`.
pub(super) fn set_checkpoint(meta: &Keyspace, sequence: u64) -> Result<(), Error> {
    set(meta, CHECKPOINT, |out| put_u64(sequence, out))
}

/// The system time at or below which no commit may come any more.
pub(super) fn floor(meta: &Keyspace) -> Result<Option<i64>, Error> {
    get(meta, FLOOR, "the floor", |reader| reader.i64())
}

/// Raises the floor.
pub(super) fn set_floor(meta: &Keyspace, floor: i64) -> Result<(), Error> {
    set(meta, FLOOR, |out| put_i64(floor, out))
}

/// The types that were ever written to, with the system time of the first commit that did.
pub(super) fn first_known(meta: &Keyspace) -> Result<Vec<(String, i64)>, Error> {
    let mut found = Vec::new();
    for entry in meta.prefix(FIRST_KNOWN) {
        let (key, value) = entry?;
        let name = String::from_utf8_lossy(&key[FIRST_KNOWN.len()..]).into_owned();
        let time = open(&value, |reader| reader.i64()).map_err(|malformed| {
            Error::damaged(format!("the first-known time of {name}"), malformed.0)
        })?;
        found.push((name, time));
    }
    Ok(found)
}

/// Notes the first commit that wrote to a type.
pub(super) fn set_first_known(meta: &Keyspace, entity_type: &str, at: i64) -> Result<(), Error> {
    let key = [FIRST_KNOWN, entity_type.as_bytes()].concat();
    set(meta, &key, |out| put_i64(at, out))
}

/// The answer that a request id got, if it is remembered.
pub(super) fn request(requests: &Keyspace, id: &str) -> Result<Option<Remembered>, Error> {
    get(requests, id.as_bytes(), "a remembered request", |reader| {
        Ok(Remembered {
            system_time: reader.i64()?,
            versions_written: reader.u64()?,
            digest: reader.array()?,
        })
    })
}

/// Remembers the answer to a request id.
pub(super) fn set_request(
    requests: &Keyspace,
    id: &str,
    remembered: &Remembered,
) -> Result<(), Error> {
    set(requests, id.as_bytes(), |out| {
        put_i64(remembered.system_time, out);
        put_u64(remembered.versions_written, out);
        out.extend_from_slice(&remembered.digest);
    })
}

/// The last offset of a bulk load.
pub(super) fn ingest_offset(ingests: &Keyspace, stream: &str) -> Result<Option<u64>, Error> {
    get(ingests, stream.as_bytes(), "a bulk load's mark", |reader| {
        reader.u64()
    })
}

/// Notes the last offset of a bulk load.
pub(super) fn set_ingest_offset(
    ingests: &Keyspace,
    stream: &str,
    offset: u64,
) -> Result<(), Error> {
    set(ingests, stream.as_bytes(), |out| put_u64(offset, out))
}

/// Whether the bytes are a mark that was not damaged.
pub(super) fn verify(bytes: &[u8]) -> codec::Result<()> {
    open(bytes, |_| Ok(()))
}

fn set(keyspace: &Keyspace, key: &[u8], put_body: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
    let mut bytes = vec![FORMAT];
    put_body(&mut bytes);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    Ok(keyspace.insert(key, &bytes)?)
}

fn get<T>(
    keyspace: &Keyspace,
    key: &[u8],
    what: &str,
    read: impl FnOnce(&mut Reader<'_>) -> codec::Result<T>,
) -> Result<Option<T>, Error> {
    match keyspace.get(key)? {
        None => Ok(None),
        Some(bytes) => open(&bytes, read)
            .map(Some)
            .map_err(|malformed| Error::damaged(what, malformed.0)),
    }
}

fn open<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> codec::Result<T>,
) -> codec::Result<T> {
    let (body, checksum) = bytes
        .split_last_chunk::<4>()
        .ok_or(Malformed("it ends early"))?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err(Malformed("the checksum does not hold"));
    }
    let mut reader = Reader::new(body);
    if reader.u8()? != FORMAT {
        return Err(Malformed("its format is unknown"));
    }
    read(&mut reader)
}
