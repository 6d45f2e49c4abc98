//! The rows of a leaf.
//!
//! **Layout**: how many there are; for each, where it ends, counted from where the rows begin, doubled, plus one if it lies
//! outside of the page (u16, big-endian); the rows: their bytes, or of one outside its hash.

use super::{
    codec::{self, Malformed, Reader, put_u64},
    page::{Row, RowHash},
    timeline::Rect,
};

const END_BYTES: usize = 2;
const OUTSIDE: u16 = 1;

/// Appends rows.
pub(super) fn put(rows: &[Row], out: &mut Vec<u8>) {
    put_u64(rows.len() as u64, out);
    let mut end = 0usize;
    for row in rows {
        let (length, mark) = match row {
            Row::Inside(bytes) => (bytes.len(), 0),
            Row::Outside(hash) => (hash.len(), OUTSIDE),
        };
        end += length;
        // Rows that go beyond are longer than any page, and are only measured.
        let doubled = u16::try_from(end * 2).unwrap_or(u16::MAX - OUTSIDE);
        out.extend_from_slice(&(doubled | mark).to_be_bytes());
    }
    for row in rows {
        match row {
            Row::Inside(bytes) => out.extend_from_slice(bytes),
            Row::Outside(hash) => out.extend_from_slice(hash),
        }
    }
}

/// A row where it lies in a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum StoredRow<'a> {
    Inside(&'a [u8]),
    Outside(RowHash),
}

/// Rows where they lie in a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    ends: &'a [[u8; END_BYTES]],
    bytes: &'a [u8],
}

impl<'a> Rows<'a> {
    /// The rows to which `reader` comes.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>) -> codec::Result<Self> {
        let len = reader.count()?;
        let (ends, _) = reader.take(len * END_BYTES)?.as_chunks();
        let mut rows = Self { ends, bytes: &[] };
        rows.bytes = reader.take(rows.end(len).0)?;
        Ok(rows)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Where the first so many end, and whether the last one of them lies outside.
    #[inline]
    fn end(&self, rows: usize) -> (usize, bool) {
        let end = rows.checked_sub(1).and_then(|last| self.ends.get(last));
        let end = end.map_or(0, |end| u16::from_be_bytes(*end));
        (usize::from(end / 2), end % 2 == OUTSIDE)
    }

    /// The row of a version; `None`: ended.
    #[inline]
    pub(super) fn of(&self, rect: &Rect) -> codec::Result<Option<StoredRow<'a>>> {
        let index = rect.state.checked_sub(1);
        index.map(|index| self.get(index as usize)).transpose()
    }

    /// Whether all of them lie in the page.
    pub(super) fn are_inside(&self) -> bool {
        (1..=self.len()).all(|rows| !self.end(rows).1)
    }

    /// The row with this index: that of state `index + 1`.
    #[inline]
    pub(super) fn get(&self, index: usize) -> codec::Result<StoredRow<'a>> {
        if index >= self.len() {
            return Err(Malformed("a version names a row that is not there"));
        }
        let (start, _) = self.end(index);
        let (end, is_outside) = self.end(index + 1);
        let row = self.bytes.get(start..end);
        let row = row.ok_or(Malformed("a row ends before it begins"))?;
        if !is_outside {
            return Ok(StoredRow::Inside(row));
        }
        let hash = row.try_into();
        hash.map(StoredRow::Outside)
            .map_err(|_| Malformed("a row's hash is too short or too long"))
    }
}
