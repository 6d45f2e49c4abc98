//! Small stored values besides pages and records: the checkpoint, the floor, first-known times, imports, remembered requests
//! and bulk loads.
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
const IMPORT: &[u8] = b"import/";

/// The answer that a request id got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) system_time: i64,
    pub(super) versions_written: u64,
    pub(super) digest: Hash,
}

/// How far the import of a type has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImportMark {
    /// The import time of the last record.
    pub(super) last_time: i64,
    /// The sequences of the first and the last record.
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
}

/// How far a bulk load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IngestProgress {
    pub(super) offset: u64,
    /// Of the last batch.
    pub(super) system_time: i64,
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
    by_type(meta, FIRST_KNOWN, "the first-known time", |reader| {
        reader.i64()
    })
}

/// Notes the first commit that wrote to a type.
pub(super) fn set_first_known(meta: &Keyspace, entity_type: &str, at: i64) -> Result<(), Error> {
    let key = [FIRST_KNOWN, entity_type.as_bytes()].concat();
    set(meta, &key, |out| put_i64(at, out))
}

/// The types that were ever imported into.
pub(super) fn imports(meta: &Keyspace) -> Result<Vec<(String, ImportMark)>, Error> {
    by_type(meta, IMPORT, "the import mark", |reader| {
        Ok(ImportMark {
            last_time: reader.i64()?,
            first_sequence: reader.u64()?,
            last_sequence: reader.u64()?,
        })
    })
}

/// Notes how far the import of a type has come.
pub(super) fn set_import(
    meta: &Keyspace,
    entity_type: &str,
    mark: &ImportMark,
) -> Result<(), Error> {
    let key = [IMPORT, entity_type.as_bytes()].concat();
    set(meta, &key, |out| {
        put_i64(mark.last_time, out);
        put_u64(mark.first_sequence, out);
        put_u64(mark.last_sequence, out);
    })
}

fn by_type<T>(
    meta: &Keyspace,
    prefix: &[u8],
    what: &str,
    read: impl Fn(&mut Reader<'_>) -> codec::Result<T>,
) -> Result<Vec<(String, T)>, Error> {
    let mut found = Vec::new();
    for entry in meta.prefix(prefix) {
        let (key, value) = entry?;
        let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        let mark = open(&value, &read)
            .map_err(|malformed| Error::damaged(format!("{what} of {name}"), malformed.0))?;
        found.push((name, mark));
    }
    Ok(found)
}

/// How far a bulk load has come, if it is remembered.
pub(super) fn ingest(ingests: &Keyspace, stream: &str) -> Result<Option<IngestProgress>, Error> {
    get(ingests, stream.as_bytes(), "a bulk load's mark", |reader| {
        Ok(IngestProgress {
            offset: reader.u64()?,
            system_time: reader.i64()?,
        })
    })
}

/// Notes how far a bulk load has come.
pub(super) fn set_ingest(
    ingests: &Keyspace,
    stream: &str,
    progress: &IngestProgress,
) -> Result<(), Error> {
    set(ingests, stream.as_bytes(), |out| {
        put_u64(progress.offset, out);
        put_i64(progress.system_time, out);
    })
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
