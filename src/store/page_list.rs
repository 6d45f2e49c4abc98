//! The lists in a page, of versions or of children, in order of (`from`, `since`). They lie in blocks, so that who looks for
//! one reads few of them, and a block is a few columns of numbers, so that reading one number waits for no other.
//!
//! **Layout** of a list: how many items there are; where each block but the first begins, counted from where the first one
//! does (u16, big-endian); the blocks. Of a block: how many bytes a number takes in each of the five columns (half a byte
//! each), the least `from`, `since` and detail; then the columns, one after the other, big-endian: `from`, `since` and detail as
//! what they have over the least one, lengths of valid time and of life as they are, 0 for one without end.

use std::marker::PhantomData;

use super::{
    codec::{self, Malformed, Reader, put_i64, put_u64},
    page_codec::Entry,
    timeline::{OPEN, Rect},
};

/// Items in a block; the last one may have fewer.
const BLOCK: usize = 16;
const START_BYTES: usize = 2;
const COLUMNS: usize = 5;
const WIDTH_BYTES: usize = COLUMNS.div_ceil(2);

/// The most that a list of so many items takes, its length left out.
pub(super) fn most_bytes(items: usize) -> usize {
    let block = START_BYTES + WIDTH_BYTES + 3 * 10;
    items * COLUMNS * 8 + items.div_ceil(BLOCK) * block
}

/// What lists are made of.
pub(super) trait Item: Sized {
    fn fields(&self) -> Fields;
    fn from_fields(fields: Fields) -> codec::Result<Self>;
}

/// An item as the columns have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    from: i64,
    since: i64,
    /// For how long it lives in system time; 0 for ever.
    life: u64,
    /// How much valid time it covers; 0 if it has no end, or none of its own.
    length: u64,
    /// Which row it has, or which commit made it.
    detail: u64,
}

impl Item for Rect {
    fn fields(&self) -> Fields {
        Fields {
            from: self.from,
            since: self.system_from,
            life: distance(self.system_from, self.system_to),
            length: distance(self.from, self.to),
            detail: self.state.into(),
        }
    }

    #[inline]
    fn from_fields(fields: Fields) -> codec::Result<Self> {
        let state = u32::try_from(fields.detail);
        Ok(Self {
            from: fields.from,
            to: end(fields.from, fields.length),
            system_from: fields.since,
            system_to: end(fields.since, fields.life),
            state: state.map_err(|_| Malformed("a row number is too large"))?,
        })
    }
}

impl Item for Entry {
    fn fields(&self) -> Fields {
        Fields {
            from: self.from,
            since: self.since,
            life: distance(self.since, self.until),
            length: 0,
            detail: self.made_by,
        }
    }

    #[inline]
    fn from_fields(fields: Fields) -> codec::Result<Self> {
        Ok(Self {
            from: fields.from,
            since: fields.since,
            made_by: fields.detail,
            until: end(fields.since, fields.life),
        })
    }
}

/// From a beginning to an end after it; 0: it has none.
fn distance(from: i64, to: i64) -> u64 {
    if to == OPEN {
        return 0;
    }
    to.wrapping_sub(from).cast_unsigned()
}

#[inline]
fn end(from: i64, distance: u64) -> i64 {
    if distance == 0 {
        return OPEN;
    }
    from.wrapping_add_unsigned(distance)
}

/// Appends a list.
pub(super) fn put<T: Item>(items: &[T], out: &mut Vec<u8>) {
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
        put_block(block, out);
    }
}

/// What each item takes, about: its share of its block.
pub(super) fn item_bytes<T: Item>(items: &[T]) -> Vec<usize> {
    let mut out = Vec::with_capacity(BLOCK * COLUMNS * 8);
    let mut sizes = Vec::with_capacity(items.len());
    for block in items.chunks(BLOCK) {
        out.clear();
        put_block(block, &mut out);
        let share = (out.len() + START_BYTES).div_ceil(block.len());
        sizes.resize(sizes.len() + block.len(), share);
    }
    sizes
}

fn put_block<T: Item>(items: &[T], out: &mut Vec<u8>) {
    let fields = || items.iter().map(Item::fields);
    let from = fields().map(|item| item.from).min().unwrap_or(0);
    let since = fields().map(|item| item.since).min().unwrap_or(0);
    let detail = fields().map(|item| item.detail).min().unwrap_or(0);
    let mut columns = [[0u64; BLOCK]; COLUMNS];
    for (index, item) in fields().enumerate() {
        let numbers = [
            item.from.wrapping_sub(from).cast_unsigned(),
            item.since.wrapping_sub(since).cast_unsigned(),
            item.life,
            item.length,
            item.detail - detail,
        ];
        for (column, number) in columns.iter_mut().zip(numbers) {
            column[index] = number;
        }
    }
    let widths = columns.map(|column| {
        let all = column.iter().fold(0, |all, number| all | number);
        8 - all.leading_zeros() as usize / 8
    });
    for pair in widths.chunks(2) {
        let lengths = pair.iter().rev();
        out.push(lengths.fold(0, |byte, &width| byte << 4 | width as u8));
    }
    put_i64(from, out);
    put_i64(since, out);
    put_u64(detail, out);
    for (column, width) in columns.iter().zip(widths) {
        for number in &column[..items.len()] {
            out.extend_from_slice(&number.to_be_bytes()[8 - width..]);
        }
    }
}

/// How many blocks of a list have their start written.
fn starts(len: usize) -> usize {
    len.saturating_sub(1) / BLOCK
}

/// A list where it lies in a page.
#[derive(Debug)]
pub(super) struct List<'a, T> {
    len: usize,
    starts: &'a [[u8; START_BYTES]],
    blocks: Reader<'a>,
    items: PhantomData<T>,
}

impl<'a, T: Item> List<'a, T> {
    /// The list to which `reader` comes; it may go on to the reader's end.
    #[inline]
    pub(super) fn read(mut reader: Reader<'a>) -> codec::Result<Self> {
        // An item may take no byte of its own: all numbers of its block may be equal.
        let len = usize::try_from(reader.u64()?);
        let len = len.ok().filter(|&len| len <= usize::from(u16::MAX));
        let len = len.ok_or(Malformed("a list is too long"))?;
        let (starts, _) = reader.take(starts(len) * START_BYTES)?.as_chunks();
        Ok(Self {
            len,
            starts,
            blocks: reader,
            items: PhantomData,
        })
    }

    /// How many blocks there are.
    #[inline]
    pub(super) fn blocks(&self) -> usize {
        self.len.div_ceil(BLOCK)
    }

    /// All items. They go to the end of the page.
    pub(super) fn items(&self) -> codec::Result<Vec<T>> {
        let mut items = Vec::with_capacity(self.len);
        let mut end = self.blocks;
        for index in 0..self.blocks() {
            let block = self.block(index)?;
            if end.remaining() != self.start(index)?.remaining() {
                return Err(Malformed(
                    "a block does not begin where the one before it ends",
                ));
            }
            for item in 0..block.len {
                items.push(block.item(item)?);
            }
            end = block.end;
        }
        if end.is_empty() {
            Ok(items)
        } else {
            Err(Malformed("it goes on after its end"))
        }
    }

    #[inline]
    fn start(&self, block: usize) -> codec::Result<Reader<'a>> {
        let mut reader = self.blocks;
        if let Some(start) = block.checked_sub(1) {
            let start = self.starts.get(start);
            let start = start.ok_or(Malformed("a list has no such block"))?;
            reader.take(u16::from_be_bytes(*start).into())?;
        }
        Ok(reader)
    }

    /// A block by its index.
    #[inline]
    pub(super) fn block(&self, index: usize) -> codec::Result<Block<'a, T>> {
        let len = self.len.saturating_sub(index * BLOCK).min(BLOCK);
        Block::read(self.start(index)?, len)
    }

    /// How many of the first blocks to look at for what begins at or before `point`.
    #[inline]
    pub(super) fn blocks_until(&self, point: i64) -> codec::Result<usize> {
        let (mut until, mut after) = (self.blocks().min(1), self.blocks());
        while until < after {
            let middle = until.midpoint(after);
            let mut reader = self.start(middle)?;
            reader.take(WIDTH_BYTES)?;
            if reader.i64()? <= point {
                until = middle + 1;
            } else {
                after = middle;
            }
        }
        Ok(until)
    }
}

/// A block of a list.
#[derive(Debug)]
pub(super) struct Block<'a, T> {
    len: usize,
    /// The least of its items'.
    from: i64,
    since: i64,
    detail: u64,
    columns: [Column<'a>; COLUMNS],
    /// What comes after it.
    end: Reader<'a>,
    items: PhantomData<T>,
}

/// A column of a block, and all that follows in the page, so that most numbers can be read as if they took eight bytes.
#[derive(Debug, Clone, Copy)]
struct Column<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl Column<'_> {
    /// The number of an item of the block.
    #[inline]
    fn get(&self, item: usize) -> u64 {
        let bytes = self.bytes.get(item * self.width..).unwrap_or_default();
        let unused_bits = u32::try_from(64 - 8 * self.width).unwrap_or(0);
        if let Some(eight) = bytes.first_chunk::<8>() {
            return u64::from_be_bytes(*eight)
                .checked_shr(unused_bits)
                .unwrap_or(0);
        }
        let bytes = bytes.iter().take(self.width);
        bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}

impl<'a, T: Item> Block<'a, T> {
    #[inline]
    fn read(mut reader: Reader<'a>, len: usize) -> codec::Result<Self> {
        let widths = reader.array::<WIDTH_BYTES>()?;
        let (from, since, detail) = (reader.i64()?, reader.i64()?, reader.u64()?);
        let nothing = Column {
            bytes: &[],
            width: 0,
        };
        let mut columns = [nothing; COLUMNS];
        for (index, column) in columns.iter_mut().enumerate() {
            let width = usize::from(widths[index / 2] >> (index % 2 * 4) & 0x0F);
            if width > 8 {
                return Err(Malformed("a number is too long"));
            }
            *column = Column {
                bytes: reader.rest(),
                width,
            };
            reader.take(len * width)?;
        }
        Ok(Self {
            len,
            from,
            since,
            detail,
            columns,
            end: reader,
            items: PhantomData,
        })
    }

    /// How many of its items begin at or before `point`: those are the first ones.
    #[inline]
    pub(super) fn at_or_before(&self, point: i64) -> usize {
        let Some(over) = over(point, self.from) else {
            return 0;
        };
        let [from, ..] = &self.columns;
        (0..self.len)
            .take_while(|&item| from.get(item) <= over)
            .count()
    }

    /// Of the first so many items, the last one that readers at `basis` see.
    #[inline]
    pub(super) fn last_visible(&self, first: usize, basis: i64) -> Option<usize> {
        let over = over(basis, self.since)?;
        (0..first.min(self.len))
            .rev()
            .find(|&item| self.is_visible(item, over))
    }

    /// The first item from one on that readers at `basis` see.
    #[inline]
    pub(super) fn next_visible(&self, from: usize, basis: i64) -> Option<usize> {
        let over = over(basis, self.since)?;
        (from..self.len).find(|&item| self.is_visible(item, over))
    }

    #[inline]
    fn is_visible(&self, item: usize, over: u64) -> bool {
        let [_, since, life, ..] = &self.columns;
        let lived = over.checked_sub(since.get(item));
        // A life without end is the longest one.
        lived.is_some_and(|lived| lived <= life.get(item).wrapping_sub(1))
    }

    /// Where its first item begins.
    #[inline]
    pub(super) fn from(&self) -> i64 {
        self.from
    }

    /// Where one of its items begins.
    #[inline]
    pub(super) fn start_of(&self, item: usize) -> i64 {
        let [from, ..] = &self.columns;
        self.from.wrapping_add_unsigned(from.get(item))
    }

    /// One of its items.
    #[inline]
    pub(super) fn item(&self, index: usize) -> codec::Result<T> {
        let [_, since, life, length, detail] = &self.columns;
        let detail = self.detail.checked_add(detail.get(index));
        T::from_fields(Fields {
            from: self.start_of(index),
            since: self.since.wrapping_add_unsigned(since.get(index)),
            life: life.get(index),
            length: length.get(index),
            detail: detail.ok_or(Malformed("a detail is too large"))?,
        })
    }
}

/// By how much `value` is over `least`; `None`: it is less.
#[inline]
fn over(value: i64, least: i64) -> Option<u64> {
    (value >= least).then(|| value.wrapping_sub(least).cast_unsigned())
}
