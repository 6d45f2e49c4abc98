//! The bytes of heads, leaves and chained pages.
//!
//! **Layout**: format byte, kind byte, CRC-32 (big-endian) of the key, the kind and the body, then the body. With the key in
//! the checksum, a page that turns up under another entity's key is damage too.
//! - `Page`: flags, span ends that are not open, applied sequence, rows (deduplicated), versions as differences to the one
//!   before.
//! - `Spilled` (heads only): nothing; the versions are in leaves.
//! - `Chained` (leaves only): span, generation and the generation before it; the page is in `chains`.

use super::{
    codec::{self, Malformed, Reader, put_bytes, put_i64, put_u64},
    page::Page,
    timeline::{OPEN, Rect, Span},
};
use crate::kv::Slice;

const FORMAT: u8 = 1;
const KIND_PAGE: u8 = 0;
const KIND_SPILLED: u8 = 1;
const KIND_CHAINED: u8 = 2;
const HEADER_BYTES: usize = 6;

const FROM_IS_MIN: u8 = 1;
const TO_IS_OPEN: u8 = 2;
const SYSTEM_TO_IS_OPEN: u8 = 4;

/// What lies under a head's or a leaf's key.
#[derive(Debug)]
pub(super) enum Stored {
    Page(Page),
    Spilled,
    Chained(Chain),
}

/// Where the page of a chained leaf lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) span: Span,
    /// The commit that wrote it.
    pub(super) generation: u64,
    /// The generation before, kept for readers that still hold the older mark.
    pub(super) previous: Option<u64>,
}

/// The bytes of a page under `key`.
pub(super) fn encode_page(key: &[u8], page: &Page) -> Vec<u8> {
    let mut out = header(KIND_PAGE);
    put_span(page.span, &mut out);
    put_u64(page.applied_sequence, &mut out);
    put_u64(u64::from(page.row_count()), &mut out);
    for state in 1..=page.row_count() {
        put_bytes(page.row(state).unwrap_or_default(), &mut out);
    }
    put_u64(page.rects.len() as u64, &mut out);
    let mut before = Differences::default();
    for rect in &page.rects {
        before.put(rect, &mut out);
    }
    seal(key, out)
}

/// The bytes of the mark that an entity's versions are in leaves.
pub(super) fn encode_spilled(key: &[u8]) -> Vec<u8> {
    seal(key, header(KIND_SPILLED))
}

/// The bytes of the mark that a leaf's page is in `chains`.
pub(super) fn encode_chained(key: &[u8], chain: Chain) -> Vec<u8> {
    let mut out = header(KIND_CHAINED);
    put_span(chain.span, &mut out);
    put_u64(chain.generation, &mut out);
    put_u64(chain.previous.map_or(0, |previous| previous + 1), &mut out);
    seal(key, out)
}

/// Reads what one of the functions above made for `key`.
pub(super) fn decode(key: &[u8], stored: Slice) -> codec::Result<Stored> {
    let mut reader = Reader::new(&stored);
    if reader.u8()? != FORMAT {
        return Err(Malformed("its format is unknown"));
    }
    let kind = reader.u8()?;
    let checksum = u32::from_be_bytes(reader.array()?);
    if checksum != crc(key, kind, &stored[HEADER_BYTES..]) {
        return Err(Malformed("the checksum does not hold"));
    }
    let decoded = match kind {
        KIND_PAGE => Stored::Page(decode_page(&mut reader, &stored)?),
        KIND_SPILLED => Stored::Spilled,
        KIND_CHAINED => Stored::Chained(Chain {
            span: span(&mut reader)?,
            generation: reader.u64()?,
            previous: reader.u64()?.checked_sub(1),
        }),
        _ => return Err(Malformed("its kind is unknown")),
    };
    if reader.is_empty() {
        Ok(decoded)
    } else {
        Err(Malformed("it goes on after its end"))
    }
}

fn decode_page(reader: &mut Reader<'_>, stored: &Slice) -> codec::Result<Page> {
    let span = span(reader)?;
    let applied_sequence = reader.u64()?;
    let row_count = reader.count()?;
    let mut rows = Vec::with_capacity(row_count);
    for _ in 0..row_count {
        let length = reader.bytes()?.len();
        let end = stored.len() - reader.remaining();
        rows.push(end - length..end);
    }
    let rect_count = reader.count()?;
    let mut rects = Vec::with_capacity(rect_count);
    let mut before = Differences::default();
    for _ in 0..rect_count {
        let rect = before.rect(reader)?;
        if rect.state as usize > row_count {
            return Err(Malformed("a version names a row that is not there"));
        }
        rects.push(rect);
    }
    Ok(Page::from_stored(
        span,
        applied_sequence,
        rects,
        rows,
        stored.clone(),
    ))
}

fn header(kind: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&[FORMAT, kind, 0, 0, 0, 0]);
    out
}

fn seal(key: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    let checksum = crc(key, out[1], &out[HEADER_BYTES..]);
    out[2..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
    out
}

fn crc(key: &[u8], kind: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[kind]);
    hasher.update(body);
    hasher.finalize()
}

fn put_span(span: Span, out: &mut Vec<u8>) {
    let mut flags = 0;
    if span.from == i64::MIN {
        flags |= FROM_IS_MIN;
    }
    if span.to == OPEN {
        flags |= TO_IS_OPEN;
    }
    out.push(flags);
    if span.from != i64::MIN {
        put_i64(span.from, out);
    }
    if span.to != OPEN {
        put_i64(span.to, out);
    }
}

fn span(reader: &mut Reader<'_>) -> codec::Result<Span> {
    let flags = reader.u8()?;
    Ok(Span {
        from: if flags & FROM_IS_MIN == 0 {
            reader.i64()?
        } else {
            i64::MIN
        },
        to: if flags & TO_IS_OPEN == 0 {
            reader.i64()?
        } else {
            OPEN
        },
    })
}

/// The version before, from which the next one differs little. Differences wrap around, so any two instants have one.
#[derive(Default)]
struct Differences {
    from: i64,
    system_from: i64,
}

impl Differences {
    fn put(&mut self, rect: &Rect, out: &mut Vec<u8>) {
        let mut flags = 0;
        for (is_end, flag) in [
            (rect.from == i64::MIN, FROM_IS_MIN),
            (rect.to == OPEN, TO_IS_OPEN),
            (rect.system_to == OPEN, SYSTEM_TO_IS_OPEN),
        ] {
            if is_end {
                flags |= flag;
            }
        }
        out.push(flags);
        if rect.from != i64::MIN {
            put_i64(rect.from.wrapping_sub(self.from), out);
            self.from = rect.from;
        }
        if rect.to != OPEN {
            put_i64(rect.to.wrapping_sub(self.from), out);
        }
        put_i64(rect.system_from.wrapping_sub(self.system_from), out);
        self.system_from = rect.system_from;
        if rect.system_to != OPEN {
            put_i64(rect.system_to.wrapping_sub(rect.system_from), out);
        }
        put_u64(u64::from(rect.state), out);
    }

    fn rect(&mut self, reader: &mut Reader<'_>) -> codec::Result<Rect> {
        let flags = reader.u8()?;
        let from = if flags & FROM_IS_MIN == 0 {
            self.from = self.from.wrapping_add(reader.i64()?);
            self.from
        } else {
            i64::MIN
        };
        let to = if flags & TO_IS_OPEN == 0 {
            self.from.wrapping_add(reader.i64()?)
        } else {
            OPEN
        };
        self.system_from = self.system_from.wrapping_add(reader.i64()?);
        let system_to = if flags & SYSTEM_TO_IS_OPEN == 0 {
            self.system_from.wrapping_add(reader.i64()?)
        } else {
            OPEN
        };
        let state =
            u32::try_from(reader.u64()?).map_err(|_| Malformed("a row number is too large"))?;
        Ok(Rect {
            from,
            to,
            system_from: self.system_from,
            system_to,
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(asserted: &[(i64, i64, u8, i64)]) -> Page {
        let mut page = Page::empty(Span::ALL);
        page.applied_sequence = 7;
        for &(from, to, row, at) in asserted {
            let bytes = vec![row; usize::from(row)];
            page.assert_over(Span { from, to }, (row > 0).then_some(&bytes), at);
        }
        page.canonicalise();
        page
    }

    fn told(page: &Page) -> Vec<(Rect, Option<Vec<u8>>)> {
        let row = |rect: &Rect| page.row(rect.state).map(<[u8]>::to_vec);
        page.rects.iter().map(|rect| (*rect, row(rect))).collect()
    }

    proptest! {
        #[test]
        fn pages_round_trip(
            mut asserted in prop::collection::vec((any::<i64>(), any::<i64>(), 0..4u8, any::<i64>()), 0..20),
        ) {
            asserted.sort_by_key(|assertion| assertion.3);
            asserted.retain(|assertion| assertion.3 != OPEN);
            let page = page(&asserted);
            let bytes = encode_page(b"key", &page);
            let Ok(Stored::Page(read)) = decode(b"key", bytes.into()) else {
                panic!("a page");
            };
            prop_assert_eq!(told(&read), told(&page));
            prop_assert_eq!((read.span, read.applied_sequence), (page.span, 7));
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(decode(b"key", bytes.into()).is_err());
        }
    }

    #[test]
    fn any_flipped_bit_and_any_other_key_is_found() {
        let bytes = encode_page(
            b"key",
            &page(&[(i64::MIN, 5, 1, 1), (3, OPEN, 2, 2), (4, 9, 0, 3)]),
        );
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(decode(b"key", damaged.into()).is_err(), "bit {at}");
        }
        assert!(decode(b"kez", bytes.into()).is_err());
    }

    /// A stored page of format 1 must read for ever.
    #[test]
    fn the_specimen_of_format_1_still_reads() {
        let page = page(&[(i64::MIN, 5, 1, 1), (3, OPEN, 2, 2), (4, 9, 0, 3)]);
        let specimen = include_bytes!("../../tests/fixtures/store-page-1.bin");
        assert_eq!(encode_page(b"key", &page), specimen);
        let Ok(Stored::Page(read)) = decode(b"key", specimen[..].into()) else {
            panic!("a page");
        };
        assert_eq!(told(&read), told(&page));
    }
}
