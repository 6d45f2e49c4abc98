//! Values longer than one key may hold, split over several.
//!
//! **Layout**: part `i` of the value of `key` is under `escape(key) 00 01 | i as u32 big-endian`, where `escape` writes
//! each `00` byte of the key as `00 FF`; so keys keep their order and no key's parts fall among another's. Part 0 starts
//! with the value's length (u32) and CRC-32 (u32), both big-endian. Part 0 is written last and removed first: a value whose
//! part 0 is there is whole, and a torn overwrite is found by its checksum.

use super::{Error, Keyspace, MAX_VALUE_BYTES, Result};

const HEADER_BYTES: usize = 8;
const TERMINATOR: [u8; 2] = [0, 1];

impl Keyspace {
    /// Sets `key` to `value` of any length up to 4 GiB. A keyspace holds either plain or large values, not both.
    ///
    /// # Errors
    /// As [`Keyspace::insert`].
    pub fn insert_large(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let length = u32::try_from(value.len()).map_err(|_| Error::TooLarge {
            size_bytes: value.len(),
        })?;
        let first_bytes = value.len().min(MAX_VALUE_BYTES - HEADER_BYTES);
        let (first, rest) = value.split_at(first_bytes);
        let mut part_count = 1u32;
        for chunk in rest.chunks(MAX_VALUE_BYTES) {
            self.insert(&part_key(key, part_count), chunk)?;
            part_count += 1;
        }
        let mut head = Vec::with_capacity(HEADER_BYTES + first.len());
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(&crc32fast::hash(value).to_be_bytes());
        head.extend_from_slice(first);
        self.insert(&part_key(key, 0), &head)?;
        self.remove_parts(key, part_count)
    }

    /// The value that [`Keyspace::insert_large`] put at `key`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when parts are missing or the checksum does not hold; storage faults.
    pub fn get_large(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(head) = self.get(&part_key(key, 0))? else {
            return Ok(None);
        };
        let mut value = Assembly::start(key, &head)?;
        if !value.is_complete() {
            for part in self.range(&part_key(key, 1), &part_key(key, u32::MAX)) {
                value.extend(&part?.1);
                if value.is_complete() {
                    break;
                }
            }
        }
        value.finish(key).map(Some)
    }

    /// Removes the value at `key`, if it is there.
    ///
    /// # Errors
    /// As [`Keyspace::remove`].
    pub fn remove_large(&self, key: &[u8]) -> Result<()> {
        self.remove_parts(key, 0)
    }

    /// The large values whose keys start with `prefix`, ascending, with their keys. An item is an error when its value
    /// cannot be read; the values after it still come.
    pub fn large_prefix(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + Send + use<> {
        let keyspace = self.clone();
        let mut escaped = Vec::with_capacity(prefix.len() + TERMINATOR.len());
        escape_into(prefix, &mut escaped);
        self.prefix(&escaped).filter_map(move |part| {
            let part_key = match part {
                Ok((part_key, _)) => part_key,
                Err(error) => return Some(Err(error)),
            };
            let key = key_of_first_part(&part_key)?;
            match keyspace.get_large(&key) {
                Ok(value) => value.map(|value| Ok((key, value))),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// The keys of the large values, ascending: also of those that cannot be read.
    pub fn large_keys(&self) -> impl Iterator<Item = Result<Vec<u8>>> + Send + use<> {
        self.prefix(&[]).filter_map(|part| match part {
            Ok((part_key, _)) => key_of_first_part(&part_key).map(Ok),
            Err(error) => Some(Err(error)),
        })
    }

    fn remove_parts(&self, key: &[u8], from_part: u32) -> Result<()> {
        let parts: Vec<_> = self
            .range(&part_key(key, from_part), &part_key(key, u32::MAX))
            .collect::<Result<_>>()?;
        for (part_key, _) in parts {
            self.remove(&part_key)?;
        }
        Ok(())
    }
}

struct Assembly {
    length: usize,
    checksum: u32,
    bytes: Vec<u8>,
}

impl Assembly {
    fn start(key: &[u8], head: &[u8]) -> Result<Self> {
        let (Some(length), Some(checksum)) = (read_u32(head, 0), read_u32(head, 4)) else {
            return Err(corrupt(key, "its head is shorter than 8 bytes"));
        };
        Ok(Self {
            length: length as usize,
            checksum,
            bytes: head.get(HEADER_BYTES..).unwrap_or_default().to_vec(),
        })
    }

    fn is_complete(&self) -> bool {
        self.bytes.len() >= self.length
    }

    fn extend(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    fn finish(self, key: &[u8]) -> Result<Vec<u8>> {
        if self.bytes.len() != self.length {
            return Err(corrupt(
                key,
                &format!("{} of {} bytes are there", self.bytes.len(), self.length),
            ));
        }
        if crc32fast::hash(&self.bytes) != self.checksum {
            return Err(corrupt(key, "the checksum does not hold"));
        }
        Ok(self.bytes)
    }
}

fn corrupt(key: &[u8], cause: &str) -> Error {
    Error::Corrupt {
        key: key.escape_ascii().to_string(),
        cause: cause.to_owned(),
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let slice = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(slice.try_into().ok()?))
}

fn part_key(key: &[u8], part: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + TERMINATOR.len() + 4);
    escape_into(key, &mut bytes);
    bytes.extend_from_slice(&TERMINATOR);
    bytes.extend_from_slice(&part.to_be_bytes());
    bytes
}

fn escape_into(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
}

/// The key whose part 0 lies at `part_key`; `None` for any other part.
fn key_of_first_part(part_key: &[u8]) -> Option<Vec<u8>> {
    let escaped = part_key.strip_suffix(&[0, 1, 0, 0, 0, 0])?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        key.push(byte);
        // `00 01` would end the key here, and what follows would be a part number that happens to look like an ending.
        if byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    Some(key)
}
