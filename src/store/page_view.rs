//! Pages as they are stored, read without making anything that is not asked for.

use super::{
    codec::{self, Malformed, Reader},
    differences::Differences,
    page::{Page, Row, RowHash},
    page_codec::{self, Entry, Header, PageId, SEAL_BYTES},
    page_list::{Cursor, List},
    page_search,
    timeline::{self, Rect},
};
use crate::kv::Slice;

/// In a page, a row outside of it; a row inside has twice its length there.
pub(super) const OUTSIDE: u64 = 1;

/// A page as it is stored, its checksum checked and its header read. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct PageView {
    pub(super) header: Header,
    bytes: Slice,
    body: usize,
}

impl PageView {
    /// Reads what one of the functions above made for `key`.
    pub(super) fn read(key: &[u8], bytes: Slice) -> codec::Result<Self> {
        page_codec::check_seal(key, &bytes)?;
        let mut reader = Reader::new(&bytes[SEAL_BYTES..]);
        let header = page_codec::header(&mut reader)?;
        let body = bytes.len() - reader.remaining();
        Ok(Self {
            header,
            bytes,
            body,
        })
    }

    /// The bytes as stored.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &Slice {
        &self.bytes
    }

    /// The bytes under which a root is archived when another takes its place at `until`.
    pub(super) fn archived(&self, key: &[u8], until: i64) -> Vec<u8> {
        let mut out = page_codec::start(&Header {
            until,
            ..self.header
        });
        out.extend_from_slice(&self.bytes[self.body..]);
        page_codec::seal(key, out)
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.bytes[self.body..])
    }

    /// All of a leaf.
    pub(super) fn leaf(&self) -> codec::Result<Page> {
        let (rows, rects) = self.lists()?;
        let rows: Vec<_> = (read_rows(rows)?.into_iter())
            .map(|row| self.shared(row))
            .collect();
        let mut read = Vec::with_capacity(rects.len());
        let mut cursor = rects.cursor();
        while let Some(rect) = cursor.next(Differences::rect)? {
            if rect.state as usize > rows.len() {
                return Err(Malformed("a version names a row that is not there"));
            }
            read.push(rect);
        }
        finished(cursor.rest())?;
        Ok(Page {
            span: self.header.span,
            since: self.header.since,
            made_by: self.header.made_by,
            applied_sequence: self.header.applied_sequence,
            rects: read,
            rows,
        })
    }

    /// What a reader of this leaf sees at (`point`, `basis`): the version, with the part of the page over which its owner
    /// holds, and its row (`None`: ended). Nothing is allocated.
    pub(super) fn find(
        &self,
        point: i64,
        basis: i64,
    ) -> codec::Result<Option<(Rect, Option<Row>)>> {
        let (rows, rects) = self.lists()?;
        let Some(rect) = page_search::run_at(&rects, point, basis)? else {
            return Ok(None);
        };
        let Some(index) = rect.state.checked_sub(1) else {
            return Ok(Some((rect, None)));
        };
        let mut cursor = rows.cursor_at_item(index as usize, |_, reader| {
            stored_row(reader)?;
            Ok(())
        })?;
        let row = cursor.next(|_, reader| stored_row(reader))?;
        let row = row.ok_or(Malformed("a version names a row that is not there"))?;
        Ok(Some((rect, Some(self.shared(row)))))
    }

    /// A leaf's rows, where they lie: state `n + 1` is the `n`-th.
    pub(super) fn rows(&self) -> codec::Result<Vec<StoredRow<'_>>> {
        read_rows(self.lists()?.0)
    }

    /// What a reader of this leaf at `basis` sees, in order of `from`, contiguous versions of one owner joined. Nothing is
    /// allocated.
    pub(super) fn runs(&self, basis: i64) -> codec::Result<Runs<'_>> {
        let (_, rects) = self.lists()?;
        Ok(Runs {
            cursor: rects.cursor(),
            basis,
            held: None,
        })
    }

    /// An inner page's entries, in order of (`from`, `since`).
    pub(super) fn entries(&self) -> codec::Result<Vec<Entry>> {
        let list = self.children()?;
        let mut entries = Vec::with_capacity(list.len());
        let mut cursor = list.cursor();
        while let Some(entry) = cursor.next(Differences::entry)? {
            entries.push(entry);
        }
        finished(cursor.rest())?;
        Ok(entries)
    }

    /// The child that covers `point` for readers at `basis`.
    pub(super) fn child_at(&self, point: i64, basis: i64) -> codec::Result<PageId> {
        let entry = page_search::entry_at(&self.children()?, point, basis)?;
        let entry = entry.ok_or(Malformed("none of its children covers a point"))?;
        Ok(entry.id(self.header.level - 1))
    }

    /// The rows and the versions of a leaf.
    fn lists(&self) -> codec::Result<(List<'_>, List<'_>)> {
        if self.header.level > 0 {
            return Err(Malformed("an inner page lies where a leaf belongs"));
        }
        let mut reader = self.reader();
        let rows = Reader::new(reader.bytes()?);
        Ok((List::read(rows)?, List::read(reader)?))
    }

    fn children(&self) -> codec::Result<List<'_>> {
        if self.header.level == 0 {
            return Err(Malformed("a leaf lies where an inner page belongs"));
        }
        List::read(self.reader())
    }

    /// A row of this page, for longer than the page is at hand.
    pub(super) fn shared(&self, row: StoredRow<'_>) -> Row {
        match row {
            StoredRow::Outside(hash) => Row::Outside(hash),
            StoredRow::Inside(bytes) => {
                let start = bytes.as_ptr().addr() - self.bytes.as_ptr().addr();
                Row::Inside(self.bytes.subslice(start, bytes.len()))
            }
        }
    }
}

fn finished(reader: Reader<'_>) -> codec::Result<()> {
    if reader.is_empty() {
        Ok(())
    } else {
        Err(Malformed("it goes on after its end"))
    }
}

/// A row where it lies in a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum StoredRow<'a> {
    Inside(&'a [u8]),
    Outside(RowHash),
}

#[inline]
fn stored_row<'a>(reader: &mut Reader<'a>) -> codec::Result<StoredRow<'a>> {
    let length = reader.u64()?;
    if length == OUTSIDE {
        return Ok(StoredRow::Outside(reader.array()?));
    }
    if length % 2 == 1 {
        return Err(Malformed("a row is neither inside nor outside"));
    }
    let length = usize::try_from(length / 2).map_err(|_| Malformed("a row is too long"))?;
    Ok(StoredRow::Inside(reader.take(length)?))
}

fn read_rows(list: List<'_>) -> codec::Result<Vec<StoredRow<'_>>> {
    let mut rows = Vec::with_capacity(list.len());
    let mut cursor = list.cursor();
    while let Some(row) = cursor.next(|_, reader| stored_row(reader))? {
        rows.push(row);
    }
    finished(cursor.rest())?;
    Ok(rows)
}

/// See [`PageView::runs`].
pub(super) struct Runs<'a> {
    cursor: Cursor<'a>,
    basis: i64,
    held: Option<Rect>,
}

impl Runs<'_> {
    fn next_run(&mut self) -> codec::Result<Option<Rect>> {
        let first = match self.held.take() {
            Some(held) => Some(held),
            None => page_search::next_visible(&mut self.cursor, self.basis)?,
        };
        let Some(mut run) = first else {
            return Ok(None);
        };
        while let Some(next) = page_search::next_visible(&mut self.cursor, self.basis)? {
            if !timeline::continues(&run, &next) {
                self.held = Some(next);
                break;
            }
            run.to = next.to;
        }
        Ok(Some(run))
    }
}

impl Iterator for Runs<'_> {
    type Item = codec::Result<Rect>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_run().transpose()
    }
}
