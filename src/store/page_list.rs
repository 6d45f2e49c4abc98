//! The lists in a page: rows, versions, children. They lie in blocks, so that who looks for one reads few of them.
//!
//! **Layout**: the number of items; where each block but the first begins, counted from where the items begin (u16,
//! big-endian); the items. In a block, the first one differs from nothing and each other one from the one before it.

use super::{
    codec::{self, Malformed, Reader, put_u64},
    differences::Differences,
};

/// Items in a block; the last one may have fewer. Lists up to this long, which is what ordinary entities have, pay nothing.
pub(super) const BLOCK: usize = 16;

const START_BYTES: usize = 2;

/// Appends a list; `put` appends an item.
pub(super) fn put<T>(
    items: &[T],
    out: &mut Vec<u8>,
    mut put: impl FnMut(&mut Differences, &T, &mut Vec<u8>),
) {
    put_u64(items.len() as u64, out);
    let mut start = out.len();
    let first = start + starts(items.len()) * START_BYTES;
    out.resize(first, 0);
    for (index, block) in items.chunks(BLOCK).enumerate() {
        if index > 0 {
            // A list that goes beyond is longer than any page, and is only measured.
            let begins = u16::try_from(out.len() - first).unwrap_or(u16::MAX);
            out[start..start + START_BYTES].copy_from_slice(&begins.to_be_bytes());
            start += START_BYTES;
        }
        let mut before = Differences::default();
        for item in block {
            put(&mut before, item, out);
        }
    }
}

/// What each item takes where it lies, and about what finding it does.
pub(super) fn item_bytes<T>(
    items: &[T],
    mut put: impl FnMut(&mut Differences, &T, &mut Vec<u8>),
) -> Vec<usize> {
    let mut out = Vec::with_capacity(64);
    let mut sizes = Vec::with_capacity(items.len());
    for block in items.chunks(BLOCK) {
        let mut before = Differences::default();
        for (index, item) in block.iter().enumerate() {
            out.clear();
            put(&mut before, item, &mut out);
            sizes.push(out.len() + if index == 0 { START_BYTES } else { 0 });
        }
    }
    sizes
}

/// How many blocks of a list have their start written.
fn starts(len: usize) -> usize {
    len.saturating_sub(1) / BLOCK
}

/// A list where it lies in a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct List<'a> {
    len: usize,
    starts: &'a [u8],
    items: Reader<'a>,
}

impl<'a> List<'a> {
    /// The list to which `reader` comes; it may go on to the reader's end.
    #[inline]
    pub(super) fn read(mut reader: Reader<'a>) -> codec::Result<Self> {
        let len = reader.count()?;
        let starts = reader.take(starts(len) * START_BYTES)?;
        Ok(Self {
            len,
            starts,
            items: reader,
        })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where a block begins.
    #[inline]
    fn block(&self, index: usize) -> codec::Result<Reader<'a>> {
        let Some(before) = index.checked_sub(1) else {
            return Ok(self.items);
        };
        let start = self.starts.get(before * START_BYTES..);
        let start = start.and_then(|starts| starts.first_chunk::<START_BYTES>());
        let start = start.ok_or(Malformed("a list has no such block"))?;
        let mut reader = self.items;
        reader.take(usize::from(u16::from_be_bytes(*start)))?;
        Ok(reader)
    }

    /// The block from which on to look backwards for the last item that begins at or before `point`. Items are in order of where
    /// they begin, and have so many fields.
    #[inline]
    pub(super) fn block_at<const FIELDS: usize>(&self, point: i64) -> codec::Result<usize> {
        // The first one is the answer also if all items begin later.
        let (mut at_or_before, mut after) = (0, starts(self.len) + 1);
        while after - at_or_before > 1 {
            let middle = at_or_before.midpoint(after);
            if Differences::first_from::<FIELDS>(self.block(middle)?)? <= point {
                at_or_before = middle;
            } else {
                after = middle;
            }
        }
        Ok(at_or_before)
    }

    /// Goes through the items from a block on.
    #[inline]
    pub(super) fn cursor_at_block(&self, index: usize) -> codec::Result<Cursor<'a>> {
        Ok(Cursor {
            reader: self.block(index)?,
            next: index * BLOCK,
            before: Differences::default(),
            list: *self,
        })
    }

    /// Goes through all items.
    #[inline]
    pub(super) fn cursor(&self) -> Cursor<'a> {
        Cursor {
            reader: self.items,
            next: 0,
            before: Differences::default(),
            list: *self,
        }
    }

    /// Goes through the items from one on; `skip` passes one by.
    pub(super) fn cursor_at_item(
        &self,
        index: usize,
        mut skip: impl FnMut(&mut Differences, &mut Reader<'a>) -> codec::Result<()>,
    ) -> codec::Result<Cursor<'a>> {
        let mut cursor = self.cursor_at_block(index / BLOCK)?;
        for _ in 0..index % BLOCK {
            cursor.next(&mut skip)?;
        }
        Ok(cursor)
    }
}

/// A way through a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    list: List<'a>,
    next: usize,
    reader: Reader<'a>,
    before: Differences,
}

impl<'a> Cursor<'a> {
    /// What `read` makes of the next item; `None` at the end.
    #[inline]
    pub(super) fn next<T>(
        &mut self,
        read: impl FnOnce(&mut Differences, &mut Reader<'a>) -> codec::Result<T>,
    ) -> codec::Result<Option<T>> {
        if self.next >= self.list.len {
            return Ok(None);
        }
        if self.next.is_multiple_of(BLOCK) {
            let block = self.list.block(self.next / BLOCK)?;
            if block.remaining() != self.reader.remaining() {
                return Err(Malformed(
                    "a block does not begin where the one before it ends",
                ));
            }
            self.before = Differences::default();
        }
        self.next += 1;
        read(&mut self.before, &mut self.reader).map(Some)
    }

    /// Whether the next item is the first of its block.
    #[inline]
    pub(super) fn is_at_block(&self) -> bool {
        self.next.is_multiple_of(BLOCK)
    }

    /// What comes after the items that were read.
    pub(super) fn rest(&self) -> Reader<'a> {
        self.reader
    }
}
