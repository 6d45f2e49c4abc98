//! Pages as they are stored, read without making anything that is not asked for.

use super::{
    codec::{self, Malformed, Reader},
    page::{Page, Row},
    page_codec::{self, Entry, Header, PageId, SEAL_BYTES},
    page_list::List,
    page_rows::{Rows, StoredRow},
    page_search::{self, Visible},
    timeline::{self, Rect},
};
use crate::kv::Slice;

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

    /// How many bytes it has as stored.
    pub(super) fn stored_bytes(&self) -> usize {
        self.bytes.len()
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
        let rects = rects.items()?;
        if rects.iter().any(|rect| rect.state as usize > rows.len()) {
            return Err(Malformed("a version names a row that is not there"));
        }
        let rows: codec::Result<Vec<_>> = (0..rows.len())
            .map(|index| Ok(self.shared(rows.get(index)?)))
            .collect();
        Ok(Page {
            span: self.header.span,
            since: self.header.since,
            made_by: self.header.made_by,
            applied_sequence: self.header.applied_sequence,
            rects,
            rows: rows?,
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
        let row = rows.of(&rect)?.map(|row| self.shared(row));
        Ok(Some((rect, row)))
    }

    /// A leaf's rows, where they lie.
    pub(super) fn rows(&self) -> codec::Result<Rows<'_>> {
        Ok(self.lists()?.0)
    }

    /// What a reader of this leaf at `basis` sees, in order of `from`, contiguous versions of one owner joined. Nothing is
    /// allocated.
    pub(super) fn runs(&self, basis: i64) -> codec::Result<Runs<'_>> {
        let (_, rects) = self.lists()?;
        Ok(Runs {
            seen: Visible::new(rects, basis),
            held: None,
        })
    }

    /// An inner page's entries, in order of (`from`, `since`).
    pub(super) fn entries(&self) -> codec::Result<Vec<Entry>> {
        self.children()?.items()
    }

    /// The child that covers `point` for readers at `basis`.
    pub(super) fn child_at(&self, point: i64, basis: i64) -> codec::Result<PageId> {
        let entry = page_search::entry_at(&self.children()?, point, basis)?;
        let entry = entry.ok_or(Malformed("none of its children covers a point"))?;
        Ok(entry.id(self.header.level - 1))
    }

    /// The rows and the versions of a leaf.
    fn lists(&self) -> codec::Result<(Rows<'_>, List<'_, Rect>)> {
        if self.header.level > 0 {
            return Err(Malformed("an inner page lies where a leaf belongs"));
        }
        let mut reader = self.reader();
        Ok((Rows::read(&mut reader)?, List::read(reader)?))
    }

    fn children(&self) -> codec::Result<List<'_, Entry>> {
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

/// See [`PageView::runs`].
pub(super) struct Runs<'a> {
    seen: Visible<'a>,
    held: Option<Rect>,
}

impl Runs<'_> {
    fn next_run(&mut self) -> codec::Result<Option<Rect>> {
        let first = match self.held.take() {
            Some(held) => Some(held),
            None => self.seen.next()?,
        };
        let Some(mut run) = first else {
            return Ok(None);
        };
        while let Some(next) = self.seen.next()? {
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
