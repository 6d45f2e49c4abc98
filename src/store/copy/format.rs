//! The backup file.
//!
//! **Layout**: [`MAGIC`], format byte, frames. A frame: kind byte, length (u32), body, CRC-32 of all that (u32), integers
//! big-endian. In this order:
//!
//! | frame | body | how many |
//! |---|---|---|
//! | header | version of hindcast that wrote it, when | 1 |
//! | entries | keyspace, then keys and values | any |
//! | state | basis, floor, sequence of the last commit | 1 |
//! | records | commit records as the log has them, each with its own checksum and the hash of the one before | any |
//! | trailer | counts of entries and records, SHA-256 of all bytes before the trailer | 1, and nothing after it |
//!
//! A file that was cut has no trailer; a flipped bit breaks its frame's checksum; frames that are gone, doubled or moved
//! break the digest.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::{Error, Result};
use crate::store::codec::{self, Malformed, Reader as Bytes, put_bytes, put_i64, put_u64};

/// What every backup starts with.
pub(super) const MAGIC: [u8; 8] = *b"HNDCSTBK";
/// The format that this version writes and reads.
const FORMAT: u8 = 1;
/// A frame of entries or records is closed at this size, whatever it may still hold.
pub(super) const FRAME_BYTES: usize = 256 << 10;
/// Bytes are handed on in chunks of at most this size.
const CHUNK_BYTES: usize = 1 << 20;
const HEAD_BYTES: usize = 5;

const HEADER: u8 = 1;
const ENTRIES: u8 = 2;
const STATE: u8 = 3;
const RECORDS: u8 = 4;
const TRAILER: u8 = 5;

/// A key with its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// Who wrote the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: String,
    /// Microseconds of system time.
    pub(super) create_time: i64,
}

/// Where the store stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) basis: i64,
    /// No commit of the restored store may come at or before it.
    pub(super) floor: i64,
    /// 0: the log is empty.
    pub(super) last_sequence: u64,
}

/// What must have come before the file's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) entries: u64,
    pub(super) records: u64,
}

/// One part of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Header(Header),
    Entries { keyspace: String, pairs: Vec<Pair> },
    State(State),
    Records(Vec<Vec<u8>>),
    Trailer { counts: Counts, digest: [u8; 32] },
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Header(_) => HEADER,
            Self::Entries { .. } => ENTRIES,
            Self::State(_) => STATE,
            Self::Records(_) => RECORDS,
            Self::Trailer { .. } => TRAILER,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Header(header) => {
                put_bytes(header.version.as_bytes(), out);
                put_i64(header.create_time, out);
            }
            Self::Entries { keyspace, pairs } => {
                put_bytes(keyspace.as_bytes(), out);
                put_u64(pairs.len() as u64, out);
                for (key, value) in pairs {
                    put_bytes(key, out);
                    put_bytes(value, out);
                }
            }
            Self::State(state) => {
                put_i64(state.basis, out);
                put_i64(state.floor, out);
                put_u64(state.last_sequence, out);
            }
            Self::Records(records) => {
                put_u64(records.len() as u64, out);
                for record in records {
                    put_bytes(record, out);
                }
            }
            Self::Trailer { counts, digest } => {
                put_u64(counts.entries, out);
                put_u64(counts.records, out);
                out.extend_from_slice(digest);
            }
        }
    }

    fn read(kind: u8, body: &[u8]) -> codec::Result<Self> {
        let mut bytes = Bytes::new(body);
        let frame = match kind {
            HEADER => Self::Header(Header {
                version: bytes.text()?.to_owned(),
                create_time: bytes.i64()?,
            }),
            ENTRIES => {
                let keyspace = bytes.text()?.to_owned();
                let mut pairs = Vec::new();
                for _ in 0..bytes.count()? {
                    pairs.push((bytes.bytes()?.to_vec(), bytes.bytes()?.to_vec()));
                }
                Self::Entries { keyspace, pairs }
            }
            STATE => Self::State(State {
                basis: bytes.i64()?,
                floor: bytes.i64()?,
                last_sequence: bytes.u64()?,
            }),
            RECORDS => {
                let mut records = Vec::new();
                for _ in 0..bytes.count()? {
                    records.push(bytes.bytes()?.to_vec());
                }
                Self::Records(records)
            }
            TRAILER => Self::Trailer {
                counts: Counts {
                    entries: bytes.u64()?,
                    records: bytes.u64()?,
                },
                digest: bytes.array()?,
            },
            _ => return Err(Malformed("a part is of an unknown kind")),
        };
        if bytes.is_empty() {
            Ok(frame)
        } else {
            Err(Malformed("a part is longer than what it holds"))
        }
    }
}

/// Takes the file's bytes.
pub(super) type Sink<'a> = dyn FnMut(Vec<u8>) -> io::Result<()> + 'a;

/// Writes a file, chunk by chunk.
pub(super) struct Writer {
    chunk: Vec<u8>,
    hasher: Sha256,
    counts: Counts,
    size_bytes: u64,
}

impl Writer {
    /// A file with its header.
    pub(super) fn new(header: Header) -> Result<Self> {
        let mut writer = Self {
            chunk: Vec::new(),
            hasher: Sha256::new(),
            counts: Counts::default(),
            size_bytes: 0,
        };
        let mut start = MAGIC.to_vec();
        start.push(FORMAT);
        writer.put(&start);
        writer.frame(&Frame::Header(header))?;
        Ok(writer)
    }

    /// Bytes so far.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Appends a frame; [`Writer::hand_on`] gives its bytes away.
    pub(super) fn frame(&mut self, frame: &Frame) -> Result<()> {
        match frame {
            Frame::Entries { pairs, .. } => self.counts.entries += pairs.len() as u64,
            Frame::Records(records) => self.counts.records += records.len() as u64,
            Frame::Header(_) | Frame::State(_) | Frame::Trailer { .. } => {}
        }
        let mut bytes = vec![frame.kind(), 0, 0, 0, 0];
        frame.put_body(&mut bytes);
        let length = u32::try_from(bytes.len() - HEAD_BYTES).map_err(|_| {
            Error::damaged(
                self.size_bytes,
                "a value of more than 4 GiB cannot be written",
            )
        })?;
        bytes[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        self.put(&bytes);
        Ok(())
    }

    /// Appends the trailer.
    pub(super) fn finish(&mut self) -> Result<()> {
        let trailer = Frame::Trailer {
            counts: self.counts,
            digest: self.hasher.clone().finalize().into(),
        };
        self.frame(&trailer)
    }

    /// Gives what was written since the last call to `sink`, in chunks that are not too large.
    pub(super) fn hand_on(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let mut rest = std::mem::take(&mut self.chunk);
        while rest.len() > CHUNK_BYTES {
            let tail = rest.split_off(CHUNK_BYTES);
            sink(rest).map_err(Error::Cut)?;
            rest = tail;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            sink(rest).map_err(Error::Cut)
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.chunk.extend_from_slice(bytes);
    }
}

/// Reads what [`Writer`] wrote, and refuses everything else.
pub(super) struct FileReader<R> {
    input: R,
    offset: u64,
    hasher: Sha256,
    counts: Counts,
}

impl<R: Read> FileReader<R> {
    /// Reads the file's start.
    pub(super) fn new(input: R) -> Result<Self> {
        let mut reader = Self {
            input,
            offset: 0,
            hasher: Sha256::new(),
            counts: Counts::default(),
        };
        let not_a_backup = |cause: &str| Error::NotABackup {
            cause: cause.to_owned(),
        };
        let start = reader.take(MAGIC.len() as u64)?;
        if start != MAGIC {
            return Err(not_a_backup("it is no file that `hindcast backup` made"));
        }
        let format = reader.take_exactly(1)?;
        if format != [FORMAT] {
            return Err(Error::NotABackup {
                cause: format!(
                    "its format is {}, and this version of hindcast reads format {FORMAT}",
                    format[0]
                ),
            });
        }
        Ok(reader)
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame, its checksum checked; a trailer is checked against all that came before it.
    pub(super) fn next(&mut self) -> Result<Frame> {
        let start = self.offset;
        let before = self.hasher.clone();
        let head = self.take_exactly(HEAD_BYTES as u64)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let body = self.take_exactly(u64::from(length))?;
        let checksum = self.take_exactly(4)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(&body);
        if crc.finalize().to_be_bytes() != checksum[..] {
            return Err(Error::damaged(start, "the checksum does not hold"));
        }
        let frame = Frame::read(head[0], &body).map_err(Error::malformed(start))?;
        match &frame {
            Frame::Entries { pairs, .. } => self.counts.entries += pairs.len() as u64,
            Frame::Records(records) => self.counts.records += records.len() as u64,
            Frame::Header(_) | Frame::State(_) => {}
            Frame::Trailer { counts, digest } => {
                if *counts != self.counts || before.finalize()[..] != digest[..] {
                    return Err(Error::damaged(start, "it is not what was written"));
                }
                if !self.take(1)?.is_empty() {
                    return Err(Error::damaged(start, "it goes on after its end"));
                }
            }
        }
        Ok(frame)
    }

    fn take_exactly(&mut self, length: u64) -> Result<Vec<u8>> {
        let bytes = self.take(length)?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(Error::damaged(self.offset, "it ends early"))
        }
    }

    /// At most `length` bytes: fewer at the file's end. A damaged length takes no more memory than the file has bytes.
    fn take(&mut self, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.input
            .by_ref()
            .take(length)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::damaged(self.offset, error.to_string()))?;
        self.offset += bytes.len() as u64;
        self.hasher.update(&bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Entries {
                keyspace: "catalog".to_owned(),
                pairs: vec![(b"k".to_vec(), b"v".to_vec()), (Vec::new(), vec![7; 3000])],
            },
            Frame::State(State {
                basis: -5,
                floor: i64::MIN,
                last_sequence: 2,
            }),
            Frame::Records(vec![b"one".to_vec(), b"two".to_vec()]),
        ]
    }

    fn file() -> Vec<u8> {
        let header = Header {
            version: "1.2.3".to_owned(),
            create_time: 77,
        };
        let mut writer = Writer::new(header).expect("starts");
        for frame in frames() {
            writer.frame(&frame).expect("written");
        }
        writer.finish().expect("written");
        let mut file = Vec::new();
        let mut sink = |bytes: Vec<u8>| {
            file.extend_from_slice(&bytes);
            Ok(())
        };
        writer.hand_on(&mut sink).expect("handed on");
        file
    }

    fn read(file: &[u8]) -> Result<Vec<Frame>> {
        let mut reader = FileReader::new(file)?;
        let mut frames = Vec::new();
        loop {
            let frame = reader.next()?;
            if matches!(frame, Frame::Trailer { .. }) {
                return Ok(frames);
            }
            frames.push(frame);
        }
    }

    #[test]
    fn a_file_round_trips() {
        let found = read(&file()).expect("reads");
        assert!(matches!(&found[0], Frame::Header(header) if header.version == "1.2.3"));
        assert_eq!(found[1..], frames()[..]);
    }

    #[test]
    fn any_flipped_bit_cut_or_addition_is_found() {
        let whole = file();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(read(&damaged).is_err(), "byte {at} flipped");
            assert!(read(&whole[..at]).is_err(), "cut at {at}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(read(&longer).is_err());
        assert!(read(&[&whole[..], &whole[..]].concat()).is_err());
    }

    #[test]
    fn another_file_and_another_format_are_told_apart() {
        let refused = read(b"PAR1 and so on").expect_err("no backup");
        assert!(refused.to_string().contains("hindcast backup"), "{refused}");
        let mut newer = file();
        newer[MAGIC.len()] = 9;
        let refused = read(&newer).expect_err("newer");
        assert!(refused.to_string().contains("format is 9"), "{refused}");
    }
}
