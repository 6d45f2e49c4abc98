//! The bytes of pages. `page_view` reads them.
//!
//! **Layout**: format byte; CRC-32 (big-endian) of the key and of all that follows; flags, level, the bounds that the flags do
//! not say (`span`, `since` and the commit that made it, `until`, `erased_until`), applied sequence. Then
//! - of a leaf (level 0): its rows, deduplicated (see `page_rows`), and the list of its versions (see `page_list`);
//! - of an inner page: the list of its entries.
//!
//! With the key in the checksum, a page that turns up under another key is damage too. Roots are sealed with the entity's
//! key, wherever they lie; an archived one says until when it was the root, so that a missing one is noticed.

use super::{
    codec::{self, Malformed, Reader, put_i64, put_u64},
    page::Page,
    page_list, page_rows,
    timeline::{OPEN, Span},
};
use crate::kv::Slice;

const FORMAT: u8 = 3;
/// The format byte and the checksum.
pub(super) const SEAL_BYTES: usize = 5;

const FROM_IS_MIN: u8 = 1;
const TO_IS_OPEN: u8 = 2;
const SINCE_IS_MIN: u8 = 8;
const IS_ERASED: u8 = 16;
const ERASED_UNTIL_IS_OPEN: u8 = 32;
const HAS_UNTIL: u8 = 64;

/// Which page of an entity: its key's last parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PageId {
    /// 0 for leaves.
    pub(super) level: u8,
    /// The system time at which it was made.
    pub(super) since: i64,
    /// The commit that made it: commits of an import may share a system time.
    pub(super) made_by: u64,
    /// Where its span starts.
    pub(super) from: i64,
}

/// What an inner page says about a child. Where the child's span ends is where the next child of the same time starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) from: i64,
    pub(super) since: i64,
    /// The commit that made it.
    pub(super) made_by: u64,
    /// The system time at which others took its place; [`OPEN`] while it is live.
    pub(super) until: i64,
}

impl Entry {
    /// Whether readers at `basis` go through it.
    pub(super) fn is_visible(&self, basis: i64) -> bool {
        self.since <= basis && basis < self.until
    }

    /// The child, which is at `level`.
    pub(super) fn id(&self, level: u8) -> PageId {
        PageId {
            level,
            since: self.since,
            made_by: self.made_by,
            from: self.from,
        }
    }
}

/// What a page says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// 0 for leaves.
    pub(super) level: u8,
    pub(super) span: Span,
    /// The system time at which it was made; `i64::MIN` for an entity's first.
    pub(super) since: i64,
    /// The commit that made it; 0 for an entity's first.
    pub(super) made_by: u64,
    /// Of an archived root: the system time at which another took its place. [`OPEN`] in all other pages, whose parents know.
    pub(super) until: i64,
    /// The last commit whose changes are in it.
    pub(super) applied_sequence: u64,
    /// Of a root whose entity was erased: every answer at a basis before it is "erased".
    pub(super) erased_until: Option<i64>,
}

/// The bytes of a leaf under `key`.
pub(super) fn encode_leaf(key: &[u8], page: &Page, erased_until: Option<i64>) -> Vec<u8> {
    let mut out = start(&Header {
        level: 0,
        span: page.span,
        since: page.since,
        made_by: page.made_by,
        until: OPEN,
        applied_sequence: page.applied_sequence,
        erased_until,
    });
    put_leaf(page, &mut out);
    seal(key, out)
}

/// The bytes of an archived root of an entity about which nothing was known until `until`.
pub(super) fn encode_nothing(key: &[u8], until: i64) -> Vec<u8> {
    let page = Page::empty(Span::ALL, i64::MIN, 0);
    let mut out = start(&Header {
        level: 0,
        span: page.span,
        since: page.since,
        made_by: page.made_by,
        until,
        applied_sequence: 0,
        erased_until: None,
    });
    put_leaf(&page, &mut out);
    seal(key, out)
}

/// The bytes of an inner page under `key`. `entries` are in order of (`from`, `since`).
pub(super) fn encode_inner(key: &[u8], header: &Header, entries: &[Entry]) -> Vec<u8> {
    let mut out = start(header);
    page_list::put(entries, &mut out);
    seal(key, out)
}

/// The longest that a header can be, with the lengths that follow it.
pub(super) const MAX_HEADER_BYTES: usize = SEAL_BYTES + 2 + 10 * 7 + 6;

/// What a leaf takes, header left out.
pub(super) fn leaf_bytes(page: &Page) -> usize {
    let mut out = Vec::with_capacity(4096);
    put_leaf(page, &mut out);
    out.len()
}

/// What an inner page with these entries takes, header left out.
pub(super) fn inner_bytes(entries: &[Entry]) -> usize {
    let mut out = Vec::with_capacity(4096);
    page_list::put(entries, &mut out);
    out.len()
}

fn put_leaf(page: &Page, out: &mut Vec<u8>) {
    page_rows::put(&page.rows, out);
    page_list::put(&page.rects, out);
}

/// The bytes up to the end of a header, not yet sealed.
pub(super) fn start(header: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
    let bounds = [
        (header.span.from, i64::MIN, FROM_IS_MIN),
        (header.span.to, OPEN, TO_IS_OPEN),
        (header.since, i64::MIN, SINCE_IS_MIN),
    ];
    let mut flags = 0;
    for (bound, end, flag) in bounds {
        if bound == end {
            flags |= flag;
        }
    }
    if header.until != OPEN {
        flags |= HAS_UNTIL;
    }
    match header.erased_until {
        None => {}
        Some(OPEN) => flags |= IS_ERASED | ERASED_UNTIL_IS_OPEN,
        Some(_) => flags |= IS_ERASED,
    }
    out.extend_from_slice(&[flags, header.level]);
    for (bound, end, _) in bounds {
        if bound != end {
            put_i64(bound, &mut out);
        }
    }
    if header.since != i64::MIN {
        put_u64(header.made_by, &mut out);
    }
    if header.until != OPEN {
        put_i64(header.until, &mut out);
    }
    if let Some(until) = header.erased_until.filter(|&until| until != OPEN) {
        put_i64(until, &mut out);
    }
    put_u64(header.applied_sequence, &mut out);
    out
}

/// Any body with a checksum that holds under `key`.
pub(super) fn sealed(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = vec![FORMAT, 0, 0, 0, 0];
    out.extend_from_slice(body);
    seal(key, out)
}

/// Puts the checksum in.
pub(super) fn seal(key: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    let checksum = crc(key, &out[SEAL_BYTES..]);
    out[1..SEAL_BYTES].copy_from_slice(&checksum.to_be_bytes());
    out
}

fn crc(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// The bytes of a row outside of pages, under `key`: format byte, CRC-32 of key and row, the row.
pub(super) fn encode_row(key: &[u8], row: &[u8]) -> Vec<u8> {
    sealed(key, row)
}

/// Reads what [`encode_row`] made.
pub(super) fn decode_row(key: &[u8], stored: &Slice) -> codec::Result<Slice> {
    check_seal(key, stored)?;
    Ok(stored.subslice(SEAL_BYTES, stored.len() - SEAL_BYTES))
}

/// Checks the format and the checksum.
pub(super) fn check_seal(key: &[u8], stored: &[u8]) -> codec::Result<()> {
    let mut reader = Reader::new(stored);
    if reader.u8()? != FORMAT {
        return Err(Malformed(
            "its format is another than this version of hindcast reads",
        ));
    }
    let checksum = u32::from_be_bytes(reader.array()?);
    if checksum == crc(key, &stored[SEAL_BYTES..]) {
        Ok(())
    } else {
        Err(Malformed("the checksum does not hold"))
    }
}

/// The header that `reader`, past the seal, comes to.
pub(super) fn header(reader: &mut Reader<'_>) -> codec::Result<Header> {
    let flags = reader.u8()?;
    let level = reader.u8()?;
    let mut bound = |flag: u8, end: i64| {
        if flags & flag == 0 {
            reader.i64()
        } else {
            Ok(end)
        }
    };
    let span = Span {
        from: bound(FROM_IS_MIN, i64::MIN)?,
        to: bound(TO_IS_OPEN, OPEN)?,
    };
    let since = bound(SINCE_IS_MIN, i64::MIN)?;
    let made_by = if flags & SINCE_IS_MIN == 0 {
        reader.u64()?
    } else {
        0
    };
    let until = if flags & HAS_UNTIL == 0 {
        OPEN
    } else {
        reader.i64()?
    };
    let erased_until = if flags & IS_ERASED == 0 {
        None
    } else {
        Some(if flags & ERASED_UNTIL_IS_OPEN == 0 {
            reader.i64()?
        } else {
            OPEN
        })
    };
    Ok(Header {
        level,
        span,
        since,
        made_by,
        until,
        applied_sequence: reader.u64()?,
        erased_until,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{
        page::Row,
        page_view::PageView,
        timeline::{self, Rect},
    };

    fn page(asserted: &[(i64, i64, u8, i64)]) -> Page {
        let mut page = Page::empty(Span::ALL, i64::MIN, 0);
        page.applied_sequence = 7;
        for &(from, to, row, at) in asserted {
            let row = (row > 0).then(|| Row::of(&vec![row; usize::from(row)]));
            page.assert_over(Span { from, to }, row.as_ref(), at);
        }
        page.canonicalise();
        page
    }

    fn told(page: &Page) -> Vec<(Rect, Option<Row>)> {
        let row = |rect: &Rect| page.row(rect.state).cloned();
        page.rects.iter().map(|rect| (*rect, row(rect))).collect()
    }

    fn view(bytes: Vec<u8>) -> PageView {
        PageView::read(b"key", bytes.into()).expect("a page")
    }

    /// More than one block of everything.
    fn specimen() -> Page {
        let mut asserted = vec![(i64::MIN, 5, 1, 1), (3, OPEN, 200, 2), (4, 9, 0, 3)];
        asserted.extend((0..20).map(|row| (10 + i64::from(row), 40, 2 + row, 4)));
        page(&asserted)
    }

    proptest! {
        #[test]
        fn leaves_round_trip(
            mut asserted in prop::collection::vec((any::<i64>(), any::<i64>(), 0..4u8, any::<i64>()), 0..20),
            (since, made_by) in (i64::MIN + 1.., any::<u64>()), erased_until: Option<i64>,
        ) {
            asserted.sort_by_key(|assertion| assertion.3);
            asserted.retain(|assertion| assertion.3 != OPEN && assertion.3 != i64::MIN);
            let page = Page { since, made_by, ..page(&asserted) };
            let read = view(encode_leaf(b"key", &page, erased_until));
            let header = Header { level: 0, span: Span::ALL, since, made_by, until: OPEN, applied_sequence: 7, erased_until };
            let archived = read.archived(b"key", 6);
            let archived = view(archived);
            prop_assert_eq!(archived.header, Header { until: 6, ..header });
            prop_assert_eq!(told(&archived.leaf().expect("a leaf")), told(&page));
            prop_assert_eq!(read.header, header);
            prop_assert_eq!(told(&read.leaf().expect("a leaf")), told(&page));
            for &(_, _, _, basis) in &asserted {
                let runs: codec::Result<Vec<_>> = read.runs(basis).expect("a leaf").collect();
                prop_assert_eq!(runs, Ok(timeline::visible(&page.rects, basis).collect()));
            }
            for (point, _, _, basis) in asserted {
                let found = timeline::as_of(&page.rects, point, basis);
                let found = found.map(|rect| (rect, page.row(rect.state).cloned()));
                prop_assert_eq!(read.find(point, basis).expect("reads"), found);
            }
            prop_assert!(read.entries().is_err());
        }

        #[test]
        fn inner_pages_round_trip(
            mut told in prop::collection::vec((any::<i64>(), any::<i64>(), any::<u64>(), any::<i64>()), 0..60),
        ) {
            told.sort_unstable();
            let entries: Vec<_> = told
                .into_iter()
                .map(|(from, since, made_by, until)| Entry { from, since, made_by, until })
                .filter(|entry| entry.since < entry.until)
                .collect();
            let span = Span { from: 3, to: 9 };
            let header = Header { level: 2, span, since: 5, made_by: 6, until: OPEN, applied_sequence: 8, erased_until: None };
            let bytes = encode_inner(b"key", &header, &entries);
            prop_assert!(bytes.len() <= MAX_HEADER_BYTES + inner_bytes(&entries));
            let read = view(bytes);
            prop_assert_eq!(read.header, header);
            for &Entry { from: point, since: basis, .. } in &entries {
                let visible = |entry: &&Entry| entry.from <= point && entry.is_visible(basis);
                let found = entries.iter().rfind(visible).map(|entry| entry.id(1));
                prop_assert_eq!(read.child_at(point, basis).ok(), found);
            }
            prop_assert_eq!(read.entries(), Ok(entries));
            prop_assert!(read.leaf().is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(PageView::read(b"key", bytes.into()).is_err());
        }
    }

    #[test]
    fn any_flipped_bit_and_any_other_key_is_found() {
        let bytes = encode_leaf(b"key", &specimen(), Some(4));
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(PageView::read(b"key", damaged.into()).is_err(), "bit {at}");
        }
        assert!(PageView::read(b"kez", bytes.into()).is_err());
    }

    /// Stored pages of format 3 must read for ever.
    #[test]
    fn the_specimens_of_format_3_still_read() {
        let leaf = encode_leaf(b"key", &specimen(), Some(OPEN));
        assert_eq!(
            leaf,
            include_bytes!("../../tests/fixtures/store-leaf-3.bin")
        );
        let header = Header {
            level: 1,
            span: Span { from: -7, to: OPEN },
            since: 1_700_000_000_000_000,
            made_by: 290,
            until: OPEN,
            applied_sequence: 300,
            erased_until: None,
        };
        let mut entries = vec![(-7, 9, 200, 12), (-7, 12, 300, OPEN)];
        entries.extend((40..60).map(|from| (from, i64::MIN, 0, OPEN)));
        let entries: Vec<_> = (entries.into_iter())
            .map(|(from, since, made_by, until)| Entry {
                from,
                since,
                made_by,
                until,
            })
            .collect();
        let inner = encode_inner(b"key", &header, &entries);
        assert_eq!(
            inner,
            include_bytes!("../../tests/fixtures/store-inner-3.bin")
        );
    }
}
