//! Variable-length integers and length-prefixed bytes: what rows, pages and log records are written with.
//!
//! Integers are LEB128, signed ones zigzag-encoded first. Reading never panics: bytes may come from a damaged disk.

/// Why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

pub(super) type Result<T> = std::result::Result<T, Malformed>;

/// Appends an unsigned integer.
pub(super) fn put_u64(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(low_seven_bits(value) | 0x80);
        value >>= 7;
    }
    out.push(low_seven_bits(value));
}

/// Appends a signed integer.
pub(super) fn put_i64(value: i64, out: &mut Vec<u8>) {
    put_u64(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}

/// Appends a signed integer of 128 bits.
pub(super) fn put_i128(value: i128, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 127)).cast_unsigned();
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7F).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest & 0x7F).unwrap_or(0));
}

/// Appends bytes after their length.
pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_u64(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The highest bit of each byte.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The lower seven bits of each byte, side by side, the first byte's the lowest.
#[inline]
fn without_high_bits(word: u64) -> u64 {
    let pair = |word: u64, low: u64, by: u32| (word & low) | ((word & !low) >> by);
    let word = pair(word & !HIGH_BITS, 0x00FF_00FF_00FF_00FF, 1);
    let word = pair(word, 0x0000_FFFF_0000_FFFF, 2);
    pair(word, 0x0000_0000_FFFF_FFFF, 4)
}

fn low_seven_bits(value: u64) -> u8 {
    value.to_be_bytes()[7] & 0x7F
}

/// Reads what the functions above wrote.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes that are left.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8> {
        let (&first, rest) = self.bytes.split_first().ok_or(Malformed("it ends early"))?;
        self.bytes = rest;
        Ok(first)
    }

    #[inline]
    pub(super) fn u64(&mut self) -> Result<u64> {
        match self.bytes.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.bytes = rest;
                Ok(byte.into())
            }
            _ => self.long_u64(),
        }
    }

    /// One of two to eight bytes, while eight are there, takes no loop: most instants and differences of them are.
    #[inline]
    fn long_u64(&mut self) -> Result<u64> {
        if let Some(eight) = self.bytes.first_chunk::<8>() {
            let word = u64::from_be_bytes(*eight).swap_bytes();
            let ends = !word & HIGH_BITS;
            if ends != 0 {
                let length = ends.trailing_zeros() as usize / 8 + 1;
                // All bits up to the highest one of the last byte.
                let word = word & (ends ^ (ends - 1));
                self.bytes = &self.bytes[length..];
                return Ok(without_high_bits(word));
            }
        }
        self.u64_in_steps()
    }

    #[cold]
    fn u64_in_steps(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for (index, &byte) in self.bytes.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7F);
            if index == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                self.bytes = &self.bytes[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed("an integer ends early, or is too long"))
    }

    #[inline]
    pub(super) fn i64(&mut self) -> Result<i64> {
        let zigzag = self.u64()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    pub(super) fn i128(&mut self) -> Result<i128> {
        let mut zigzag = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.u8()?;
            let bits = u128::from(byte & 0x7F);
            if shift == 126 && bits > 3 {
                break;
            }
            zigzag |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            }
        }
        Err(Malformed("an integer is too long"))
    }

    /// A count of things that take at least one byte each, so that a damaged one cannot ask for much memory.
    #[inline]
    pub(super) fn count(&mut self) -> Result<usize> {
        let count = self.u64()?;
        usize::try_from(count)
            .ok()
            .filter(|&count| count <= self.bytes.len())
            .ok_or(Malformed("a count is larger than what follows"))
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.count()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(Malformed("it ends early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(Malformed("it ends early"))?;
        self.bytes = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_and_bytes_round_trip(a: u64, b: i64, c: i128, d: Vec<u8>) {
            let mut out = Vec::new();
            put_u64(a, &mut out);
            put_i64(b, &mut out);
            put_i128(c, &mut out);
            put_bytes(&d, &mut out);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.u64(), Ok(a));
            prop_assert_eq!(reader.i64(), Ok(b));
            prop_assert_eq!(reader.i128(), Ok(c));
            prop_assert_eq!(reader.bytes(), Ok(&d[..]));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while !reader.is_empty() {
                if reader.clone().i128().is_err() | reader.clone().bytes().is_err() | reader.u64().is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_scale_round_trip() {
        let mut out = Vec::new();
        for value in [i64::MIN, -1, 0, 1, i64::MAX] {
            put_i64(value, &mut out);
            put_i128(i128::from(value), &mut out);
        }
        put_i128(i128::MIN, &mut out);
        put_i128(i128::MAX, &mut out);
        let mut reader = Reader::new(&out);
        for value in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(reader.i64(), Ok(value));
            assert_eq!(reader.i128(), Ok(i128::from(value)));
        }
        assert_eq!(reader.i128(), Ok(i128::MIN));
        assert_eq!(reader.i128(), Ok(i128::MAX));
    }
}
