//! The commit log's records: the truth that pages are derived from.
//!
//! **Layout** of a record: format byte; header (sequence, system time, versions written, request id and digest, hash of the
//! record before); the changes, each after its length; CRC-32 of all that, big-endian.
//!
//! A record's hash is SHA-256 over its header and the SHA-256 of each change: a change can be replaced by its digest (to
//! erase what it said) and the chain still holds.

use sha2::{Digest, Sha256};

use super::{
    codec::{self, Malformed, Reader, put_bytes, put_i64, put_u64},
    timeline::Span,
};

/// The hash of a record.
pub(super) type Hash = [u8; 32];

const FORMAT: u8 = 1;
const CRC_BYTES: usize = 4;

/// One resolved mutation: a row, or `None` for "ended", over an absolute range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) entity_type: String,
    pub(super) entity_id: String,
    pub(super) span: Span,
    pub(super) row: Option<Vec<u8>>,
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
    pub(super) system_time: i64,
    pub(super) versions_written: u64,
    pub(super) request: Option<RequestMark>,
    /// The hash of the record before; zeros for the first.
    pub(super) previous: Hash,
    pub(super) changes: Vec<Change>,
}

impl Record {
    /// Its bytes and its hash.
    pub(super) fn encode(&self) -> (Vec<u8>, Hash) {
        let mut header = Vec::with_capacity(128);
        self.put_header(&mut header);
        let mut hasher = Sha256::new_with_prefix(&header);
        let mut out = vec![FORMAT];
        put_bytes(&header, &mut out);
        put_u64(self.changes.len() as u64, &mut out);
        let mut bytes = Vec::new();
        for change in &self.changes {
            bytes.clear();
            change.put(&mut bytes);
            hasher.update(Sha256::digest(&bytes));
            put_bytes(&bytes, &mut out);
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
            let bytes = reader.bytes()?;
            hasher.update(Sha256::digest(bytes));
            record.changes.push(Change::read(&mut Reader::new(bytes))?);
        }
        Ok((record, hasher.finalize().into()))
    }

    fn put_header(&self, out: &mut Vec<u8>) {
        put_u64(self.sequence, out);
        put_i64(self.system_time, out);
        put_u64(self.versions_written, out);
        match &self.request {
            None => out.push(0),
            Some(request) => {
                out.push(1);
                put_bytes(request.id.as_bytes(), out);
                out.extend_from_slice(&request.digest);
            }
        }
        out.extend_from_slice(&self.previous);
    }

    fn header(reader: &mut Reader<'_>) -> codec::Result<Self> {
        Ok(Self {
            sequence: reader.u64()?,
            system_time: reader.i64()?,
            versions_written: reader.u64()?,
            request: match reader.u8()? {
                0 => None,
                _ => Some(RequestMark {
                    id: reader.text()?.to_owned(),
                    digest: reader.array()?,
                }),
            },
            previous: reader.array()?,
            changes: Vec::new(),
        })
    }
}

impl Change {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.entity_type.as_bytes(), out);
        put_bytes(self.entity_id.as_bytes(), out);
        put_i64(self.span.from, out);
        put_i64(self.span.to, out);
        match &self.row {
            None => out.push(0),
            Some(row) => {
                out.push(1);
                put_bytes(row, out);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> codec::Result<Self> {
        Ok(Self {
            entity_type: reader.text()?.to_owned(),
            entity_id: reader.text()?.to_owned(),
            span: Span {
                from: reader.i64()?,
                to: reader.i64()?,
            },
            row: match reader.u8()? {
                0 => None,
                _ => Some(reader.bytes()?.to_vec()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let change = |row: Option<&[u8]>| Change {
            entity_type: "aircraft".to_owned(),
            entity_id: "N14228".to_owned(),
            span: Span {
                from: i64::MIN,
                to: 7,
            },
            row: row.map(<[u8]>::to_vec),
        };
        Record {
            sequence: 3,
            system_time: -5,
            versions_written: 2,
            request: Some(RequestMark {
                id: "r".to_owned(),
                digest: [7; 32],
            }),
            previous: [9; 32],
            changes: vec![change(Some(b"row")), change(None)],
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
}
