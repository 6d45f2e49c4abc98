//! Finding what a reader sees in a page. At one basis the versions of an entity do not overlap, nor do the children of a page:
//! of those that are visible, the last one that begins at or before a point is the only one that can cover it.
//!
//! **Cost** of looking for one: the block in which it may be, and one more for each in which nothing is visible.

use super::{
    codec,
    page_codec::Entry,
    page_list::{Block, Item, List},
    timeline::{self, OPEN, Rect},
};

/// Where an item is: its block, and its place there.
type Place = (usize, usize);

/// The child that covers `point` for readers at `basis`.
pub(super) fn entry_at(
    entries: &List<'_, Entry>,
    point: i64,
    basis: i64,
) -> codec::Result<Option<Entry>> {
    Ok(last_visible(entries, i64::MIN, point, basis)?.map(|(_, entry)| entry))
}

/// The owner's run over `point` that a reader at `basis` sees.
pub(super) fn run_at(
    rects: &List<'_, Rect>,
    point: i64,
    basis: i64,
) -> codec::Result<Option<Rect>> {
    let Some((mut place, found)) = last_visible(rects, i64::MIN, point, basis)? else {
        return Ok(None);
    };
    if !found.span().contains(point) {
        return Ok(None);
    }
    let mut run = open(found);
    while run.to != OPEN
        && let Some((_, next)) = last_visible(rects, run.to, run.to, basis)?
        && timeline::continues(&run, &next)
    {
        run.to = next.to;
    }
    while run.from != i64::MIN
        && let Some((earlier, before)) = visible_before(rects, place, i64::MIN, basis)?
        && timeline::continues(&before, &run)
    {
        run.from = before.from;
        place = earlier;
    }
    Ok(Some(run))
}

/// The last visible item that begins within `earliest..=latest`.
#[inline]
fn last_visible<T: Item>(
    list: &List<'_, T>,
    earliest: i64,
    latest: i64,
    basis: i64,
) -> codec::Result<Option<(Place, T)>> {
    let Some(last) = list.blocks_until(latest)?.checked_sub(1) else {
        return Ok(None);
    };
    let block = list.block(last)?;
    let first = block.at_or_before(latest);
    visible_before(list, (last, first), earliest, basis)
}

/// The last visible item before a place that begins at `earliest` or later.
#[inline]
fn visible_before<T: Item>(
    list: &List<'_, T>,
    (mut block, mut before): Place,
    earliest: i64,
    basis: i64,
) -> codec::Result<Option<(Place, T)>> {
    loop {
        let it = list.block(block)?;
        if let Some(item) = it.last_visible(before, basis) {
            let found = ((block, item), it.item(item)?);
            return Ok(Some(found).filter(|_| it.start_of(item) >= earliest));
        }
        if block == 0 || it.from() < earliest {
            return Ok(None);
        }
        block -= 1;
        before = usize::MAX;
    }
}

/// The versions that a reader at a basis sees, in order.
pub(super) struct Visible<'a> {
    rects: List<'a, Rect>,
    basis: i64,
    block: Option<Block<'a, Rect>>,
    next: Place,
}

impl<'a> Visible<'a> {
    pub(super) fn new(rects: List<'a, Rect>, basis: i64) -> Self {
        Self {
            rects,
            basis,
            block: None,
            next: (0, 0),
        }
    }

    /// The next one.
    #[inline]
    pub(super) fn next(&mut self) -> codec::Result<Option<Rect>> {
        let (mut number, mut item) = self.next;
        while number < self.rects.blocks() {
            let block = match self.block.take() {
                Some(block) => block,
                None => self.rects.block(number)?,
            };
            if let Some(found) = block.next_visible(item, self.basis) {
                let rect = block.item(found)?;
                self.block = Some(block);
                self.next = (number, found + 1);
                return Ok(Some(open(rect)));
            }
            (number, item) = (number + 1, 0);
        }
        self.next = (number, 0);
        Ok(None)
    }
}

/// A version as one knows it before it ends.
fn open(rect: Rect) -> Rect {
    Rect {
        system_to: OPEN,
        ..rect
    }
}
