//! The commit log's records: the truth that pages are derived from.
//!
//! **Layout** of a record: format byte; header (sequence, system time, import time, versions written, request id and digest,
//! ingest stream and offset, hash of the record before), after its length; the entries; CRC-32 of all that, big-endian. An
//! entry is `1`, its length and its bytes, or `0` and the SHA-256 of the bytes that it had before it was redacted.
//!
//! A record's hash is SHA-256 over its header and the SHA-256 of each entry's bytes: an entry can be replaced by its digest
//! (to erase what it said) and the chain still holds. A digest is no cipher: who guesses an entry whole can confirm the guess.

use sha2::{Digest, Sha256};

use super::{
    codec::{self, Malformed, Reader, put_bytes, put_i64, put_u64},
    model::IngestMark,
    timeline::Span,
};

/// The hash of a record.
pub(super) type Hash = [u8; 32];

const FORMAT: u8 = 2;
const CRC_BYTES: usize = 4;

const REDACTED: u8 = 0;
const WHOLE: u8 = 1;

const END: u8 = 0;
const PUT: u8 = 1;
const ERASE: u8 = 2;

/// One resolved mutation: a row, or `None` for "ended", over an absolute range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) entity_type: String,
    pub(super) entity_id: String,
    pub(super) span: Span,
    pub(super) row: Option<Vec<u8>>,
}

/// The removal of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Erasure {
    pub(super) entity_type: String,
    pub(super) entity_id: String,
    /// The earlier records that spoke of the entity, ascending: what they said of it is redacted.
    pub(super) redacts: Vec<u64>,
}

/// What a commit did, one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Change(Change),
    Erase(Erasure),
    /// A change of an entity that was erased later: the SHA-256 of its bytes.
    Redacted(Hash),
}

impl Entry {
    /// The type and id of its entity; `None` once redacted.
    pub(super) fn entity(&self) -> Option<(&str, &str)> {
        match self {
            Self::Change(change) => Some((&change.entity_type, &change.entity_id)),
            Self::Erase(erasure) => Some((&erasure.entity_type, &erasure.entity_id)),
            Self::Redacted(_) => None,
        }
    }

    /// The valid time that it speaks of: all of it for an erasure.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Change(change) => change.span,
            Self::Erase(_) | Self::Redacted(_) => Span::ALL,
        }
    }
}

/// The request that a record answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestMark {
    pub(super) id: String,
    /// Of what was asked, to tell the same request from another under the same id.
    pub(super) digest: Hash,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sequence: u64,
    /// When it was made. Strictly increasing.
    pub(super) system_time: i64,
    /// The system time that its versions have, if it is not `system_time`.
    pub(super) import_time: Option<i64>,
    pub(super) versions_written: u64,
    pub(super) request: Option<RequestMark>,
    pub(super) ingest: Option<IngestMark>,
    /// The hash of the record before; zeros for the first.
    pub(super) previous: Hash,
    pub(super) entries: Vec<Entry>,
}

impl Record {
    /// The system time that its versions have.
    pub(super) fn at(&self) -> i64 {
        self.import_time.unwrap_or(self.system_time)
    }

    /// The puts and ends that are not redacted.
    pub(super) fn changes(&self) -> impl Iterator<Item = &Change> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Change(change) => Some(change),
            Entry::Erase(_) | Entry::Redacted(_) => None,
        })
    }

    /// The erasures.
    pub(super) fn erasures(&self) -> impl Iterator<Item = &Erasure> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Erase(erasure) => Some(erasure),
            Entry::Change(_) | Entry::Redacted(_) => None,
        })
    }

    /// Replaces what it says of an entity by digests; its hash stays. `false`: it says nothing of it.
    pub(super) fn redact(&mut self, entity_type: &str, entity_id: &str) -> bool {
        let mut redacted = false;
        for entry in &mut self.entries {
            if let Entry::Change(change) = entry
                && change.entity_type == entity_type
                && change.entity_id == entity_id
            {
                *entry = Entry::Redacted(Sha256::digest(entry.bytes()).into());
                redacted = true;
            }
        }
        redacted
    }

    /// Its bytes and its hash.
    pub(super) fn encode(&self) -> (Vec<u8>, Hash) {
        let mut header = Vec::with_capacity(128);
        self.put_header(&mut header);
        let mut hasher = Sha256::new_with_prefix(&header);
        let mut out = vec![FORMAT];
        put_bytes(&header, &mut out);
        put_u64(self.entries.len() as u64, &mut out);
        for entry in &self.entries {
            if let Entry::Redacted(digest) = entry {
                hasher.update(digest);
                out.push(REDACTED);
                out.extend_from_slice(digest);
            } else {
                let bytes = entry.bytes();
                hasher.update(Sha256::digest(&bytes));
                out.push(WHOLE);
                put_bytes(&bytes, &mut out);
            }
        }
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        (out, hasher.finalize().into())
    }

    /// Reads what [`Record::encode`] made.
    pub(super) fn decode(bytes: &[u8]) -> codec::Result<(Self, Hash)> {
        let (body, checksum) = bytes
            .split_last_chunk::<CRC_BYTES>()
            .ok_or(Malformed("it ends early"))?;
        if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
            return Err(Malformed("the checksum does not hold"));
        }
        let mut reader = Reader::new(body);
        if reader.u8()? != FORMAT {
            return Err(Malformed("its format is unknown"));
        }
        let header = reader.bytes()?;
        let mut hasher = Sha256::new_with_prefix(header);
        let mut record = Self::header(&mut Reader::new(header))?;
        for _ in 0..reader.count()? {
            record.entries.push(match reader.u8()? {
                REDACTED => {
                    let digest: Hash = reader.array()?;
                    hasher.update(digest);
                    Entry::Redacted(digest)
                }
                WHOLE => {
                    let bytes = reader.bytes()?;
                    hasher.update(Sha256::digest(bytes));
                    Entry::read(&mut Reader::new(bytes))?
                }
                _ => return Err(Malformed("an entry has an unknown form")),
            });
        }
        Ok((record, hasher.finalize().into()))
    }

    fn put_header(&self, out: &mut Vec<u8>) {
        put_u64(self.sequence, out);
        put_i64(self.system_time, out);
        out.push(u8::from(self.import_time.is_some()));
        if let Some(import_time) = self.import_time {
            put_i64(import_time, out);
        }
        put_u64(self.versions_written, out);
        out.push(u8::from(self.request.is_some()));
        if let Some(request) = &self.request {
            put_bytes(request.id.as_bytes(), out);
            out.extend_from_slice(&request.digest);
        }
        out.push(u8::from(self.ingest.is_some()));
        if let Some(ingest) = &self.ingest {
            put_bytes(ingest.stream.as_bytes(), out);
            put_u64(ingest.offset, out);
        }
        out.extend_from_slice(&self.previous);
    }

    fn header(reader: &mut Reader<'_>) -> codec::Result<Self> {
        Ok(Self {
            sequence: reader.u64()?,
            system_time: reader.i64()?,
            import_time: optional(reader, Reader::i64)?,
            versions_written: reader.u64()?,
            request: optional(reader, |reader| {
                Ok(RequestMark {
                    id: reader.text()?.to_owned(),
                    digest: reader.array()?,
                })
            })?,
            ingest: optional(reader, |reader| {
                Ok(IngestMark {
                    stream: reader.text()?.to_owned(),
                    offset: reader.u64()?,
                })
            })?,
            previous: reader.array()?,
            entries: Vec::new(),
        })
    }
}

fn optional<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> codec::Result<T>,
) -> codec::Result<Option<T>> {
    match reader.u8()? {
        0 => Ok(None),
        _ => read(reader).map(Some),
    }
}

impl Entry {
    /// What its digest is of. Empty for one that is redacted.
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Redacted(_) => {}
            Self::Change(change) => {
                out.push(if change.row.is_some() { PUT } else { END });
                put_bytes(change.entity_type.as_bytes(), &mut out);
                put_bytes(change.entity_id.as_bytes(), &mut out);
                put_i64(change.span.from, &mut out);
                put_i64(change.span.to, &mut out);
                if let Some(row) = &change.row {
                    put_bytes(row, &mut out);
                }
            }
            Self::Erase(erasure) => {
                out.push(ERASE);
                put_bytes(erasure.entity_type.as_bytes(), &mut out);
                put_bytes(erasure.entity_id.as_bytes(), &mut out);
                put_u64(erasure.redacts.len() as u64, &mut out);
                let mut before = 0;
                for &sequence in &erasure.redacts {
                    put_u64(sequence.saturating_sub(before), &mut out);
                    before = sequence;
                }
            }
        }
        out
    }

    fn read(reader: &mut Reader<'_>) -> codec::Result<Self> {
        let kind = reader.u8()?;
        let entity_type = reader.text()?.to_owned();
        let entity_id = reader.text()?.to_owned();
        Ok(match kind {
            PUT | END => Self::Change(Change {
                entity_type,
                entity_id,
                span: Span {
                    from: reader.i64()?,
                    to: reader.i64()?,
                },
                row: if kind == PUT {
                    Some(reader.bytes()?.to_vec())
                } else {
                    None
                },
            }),
            ERASE => {
                let mut redacts = Vec::new();
                let mut sequence = 0u64;
                for _ in 0..reader.count()? {
                    sequence = sequence.saturating_add(reader.u64()?);
                    redacts.push(sequence);
                }
                Self::Erase(Erasure {
                    entity_type,
                    entity_id,
                    redacts,
                })
            }
            _ => return Err(Malformed("an entry has an unknown kind")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(entity_id: &str, row: Option<&[u8]>) -> Entry {
        Entry::Change(Change {
            entity_type: "aircraft".to_owned(),
            entity_id: entity_id.to_owned(),
            span: Span {
                from: i64::MIN,
                to: 7,
            },
            row: row.map(<[u8]>::to_vec),
        })
    }

    fn record() -> Record {
        let erasure = Erasure {
            entity_type: "aircraft".to_owned(),
            entity_id: "N3".to_owned(),
            redacts: vec![1, 2, 1 << 40],
        };
        Record {
            sequence: 3,
            system_time: -5,
            import_time: Some(-7),
            versions_written: 2,
            request: Some(RequestMark {
                id: "r".to_owned(),
                digest: [7; 32],
            }),
            ingest: Some(IngestMark {
                stream: "load".to_owned(),
                offset: 12,
            }),
            previous: [9; 32],
            entries: vec![
                change("N14228", Some(b"row")),
                change("N2", None),
                Entry::Erase(erasure),
                change("N14228", None),
                Entry::Redacted([3; 32]),
            ],
        }
    }

    #[test]
    fn a_record_round_trips_with_its_hash() {
        let (bytes, hash) = record().encode();
        assert_eq!(Record::decode(&bytes), Ok((record(), hash)));
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let (bytes, _) = record().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Record::decode(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_redacted_record_keeps_its_hash_and_nothing_of_the_entity() {
        let (_, hash) = record().encode();
        let mut redacted = record();
        assert!(redacted.redact("aircraft", "N14228"));
        assert!(!redacted.redact("aircraft", "N14228"), "it is done");
        assert!(!redacted.redact("airport", "N2"), "of another type");
        let (bytes, same) = redacted.encode();
        assert_eq!(same, hash);
        assert_eq!(Record::decode(&bytes), Ok((redacted.clone(), hash)));
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!holds(b"N14228") && !holds(b"row"));
        assert!(holds(b"N2"), "the others stay");
        assert_eq!(redacted.changes().count(), 1);
    }

    /// A stored record of format 2 must read for ever.
    #[test]
    fn the_specimen_of_format_2_still_reads() {
        let specimen = include_bytes!("../../tests/fixtures/store-log-2.bin");
        assert_eq!(record().encode().0, specimen);
        assert_eq!(Record::decode(specimen).map(|(read, _)| read), Ok(record()));
    }
}
