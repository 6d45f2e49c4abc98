//! Pages as they are stored, read without making anything that is not asked for.

use super::{
    codec::{self, Malformed, Reader},
    page::{Page, Row, RowHash},
    page_codec::{self, Differences, Entry, Header, PageId, SEAL_BYTES},
    timeline::{self, OPEN, Rect},
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
        let mut reader = self.leaf_reader()?;
        let row_count = reader.count()?;
        let mut rows = Vec::with_capacity(row_count);
        for _ in 0..row_count {
            rows.push(self.shared(stored_row(&mut reader)?));
        }
        let rect_count = reader.count()?;
        let mut rects = Vec::with_capacity(rect_count);
        let mut before = Differences::default();
        for _ in 0..rect_count {
            let rect = before.rect(&mut reader)?;
            if rect.state as usize > row_count {
                return Err(Malformed("a version names a row that is not there"));
            }
            rects.push(rect);
        }
        finished(reader)?;
        Ok(Page {
            span: self.header.span,
            since: self.header.since,
            made_by: self.header.made_by,
            applied_sequence: self.header.applied_sequence,
            rects,
            rows,
        })
    }

    /// What a reader of this leaf sees at (`point`, `basis`): the version, with the part of the page over which its owner
    /// holds, and its row (`None`: ended). Nothing else is decoded, nothing allocated.
    pub(super) fn find(
        &self,
        point: i64,
        basis: i64,
    ) -> codec::Result<Option<(Rect, Option<Row>)>> {
        let mut reader = self.leaf_reader()?;
        let mut rows = reader;
        for _ in 0..reader.count()? {
            stored_row(&mut reader)?;
        }
        let Some(rect) = find_rect(&mut reader, point, basis)? else {
            return Ok(None);
        };
        let Some(index) = rect.state.checked_sub(1) else {
            return Ok(Some((rect, None)));
        };
        if u64::from(index) >= rows.u64()? {
            return Err(Malformed("a version names a row that is not there"));
        }
        for _ in 0..index {
            stored_row(&mut rows)?;
        }
        let row = self.shared(stored_row(&mut rows)?);
        Ok(Some((rect, Some(row))))
    }

    /// A leaf's rows, where they lie: state `n + 1` is the `n`-th.
    pub(super) fn rows(&self) -> codec::Result<Vec<StoredRow<'_>>> {
        let mut reader = self.leaf_reader()?;
        let count = reader.count()?;
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            rows.push(stored_row(&mut reader)?);
        }
        Ok(rows)
    }

    /// What a reader of this leaf at `basis` sees, in order of `from`, contiguous versions of one owner joined. Nothing is
    /// allocated.
    pub(super) fn runs(&self, basis: i64) -> codec::Result<Runs<'_>> {
        let mut reader = self.leaf_reader()?;
        for _ in 0..reader.count()? {
            stored_row(&mut reader)?;
        }
        let left = reader.count()?;
        Ok(Runs {
            reader,
            left,
            before: Differences::default(),
            basis,
            held: None,
        })
    }

    /// An inner page's entries, in order of (`from`, `since`).
    pub(super) fn entries(&self) -> codec::Result<Vec<Entry>> {
        let mut reader = self.inner_reader()?;
        let count = reader.count()?;
        let mut entries = Vec::with_capacity(count);
        let mut before = Differences::default();
        for _ in 0..count {
            entries.push(before.entry(&mut reader)?);
        }
        finished(reader)?;
        Ok(entries)
    }

    /// The child that covers `point` for readers at `basis`.
    pub(super) fn child_at(&self, point: i64, basis: i64) -> codec::Result<PageId> {
        let mut reader = self.inner_reader()?;
        let mut before = Differences::default();
        let mut found = None;
        for _ in 0..reader.count()? {
            let entry = before.entry(&mut reader)?;
            if entry.from > point {
                break;
            }
            if entry.is_visible(basis) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(Malformed("none of its children covers a point"))?;
        Ok(entry.id(self.header.level - 1))
    }

    fn leaf_reader(&self) -> codec::Result<Reader<'_>> {
        if self.header.level == 0 {
            Ok(self.reader())
        } else {
            Err(Malformed("an inner page lies where a leaf belongs"))
        }
    }

    fn inner_reader(&self) -> codec::Result<Reader<'_>> {
        if self.header.level > 0 {
            Ok(self.reader())
        } else {
            Err(Malformed("a leaf lies where an inner page belongs"))
        }
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

/// See [`PageView::runs`].
pub(super) struct Runs<'a> {
    reader: Reader<'a>,
    left: usize,
    before: Differences,
    basis: i64,
    held: Option<Rect>,
}

impl Runs<'_> {
    fn next_visible(&mut self) -> codec::Result<Option<Rect>> {
        while self.left > 0 {
            self.left -= 1;
            let rect = self.before.rect(&mut self.reader)?;
            if rect.is_visible(self.basis) {
                let system_to = OPEN;
                return Ok(Some(Rect { system_to, ..rect }));
            }
        }
        Ok(None)
    }

    fn next_run(&mut self) -> codec::Result<Option<Rect>> {
        let first = match self.held.take() {
            Some(held) => Some(held),
            None => self.next_visible()?,
        };
        let Some(mut run) = first else {
            return Ok(None);
        };
        while let Some(next) = self.next_visible()? {
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

/// The owner's run over `point` that a reader at `basis` sees, from a reader that has come to the versions.
fn find_rect(reader: &mut Reader<'_>, point: i64, basis: i64) -> codec::Result<Option<Rect>> {
    let mut before = Differences::default();
    let mut run: Option<Rect> = None;
    for _ in 0..reader.count()? {
        let rect = before.rect(reader)?;
        if !rect.is_visible(basis) {
            if rect.from > point && run.is_none_or(|run| run.to < rect.from) {
                break;
            }
            continue;
        }
        match &mut run {
            Some(run) if timeline::continues(run, &rect) => run.to = rect.to,
            Some(run) if point < run.to => break,
            _ if point < rect.from => return Ok(None),
            _ => {
                run = Some(Rect {
                    system_to: OPEN,
                    ..rect
                })
            }
        }
    }
    Ok(run.filter(|run| run.span().contains(point)))
}
