//! Finding what a reader sees in a page. At one basis the versions of an entity do not overlap, nor do the children of a page:
//! of those that are visible, the last one that begins at or before a point is the only one that can cover it.

use super::{
    codec,
    differences::{Differences, ENTRY_FIELDS, RECT_FIELDS},
    page_codec::Entry,
    page_list::{Cursor, List},
    timeline::{self, OPEN, Rect},
};

/// The child that covers `point` for readers at `basis`.
///
/// **Cost**: a block, and one more for each in which no child before the point is visible.
pub(super) fn entry_at(entries: &List<'_>, point: i64, basis: i64) -> codec::Result<Option<Entry>> {
    for block in (0..=entries.block_at::<ENTRY_FIELDS>(point)?).rev() {
        let mut cursor = entries.cursor_at_block(block)?;
        let mut found = None;
        while let Some(entry) = cursor.next(Differences::entry)?
            && entry.from <= point
        {
            if entry.is_visible(basis) {
                found = Some(entry);
            }
            if cursor.is_at_block() {
                break;
            }
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The owner's run over `point` that a reader at `basis` sees.
///
/// **Cost**: a block, one more for each in which no version before the point is visible, and those that the run goes through.
pub(super) fn run_at(rects: &List<'_>, point: i64, basis: i64) -> codec::Result<Option<Rect>> {
    for block in (0..=rects.block_at::<RECT_FIELDS>(point)?).rev() {
        let Some(found) = Last::visible(rects, block, point, basis)? else {
            continue;
        };
        if !found.run.span().contains(point) {
            return Ok(None);
        }
        return whole(rects, found, block, basis).map(Some);
    }
    Ok(None)
}

/// A run, from both sides as far as the page goes.
fn whole(rects: &List<'_>, found: Last<'_>, mut block: usize, basis: i64) -> codec::Result<Rect> {
    let Last {
        mut run,
        mut is_first,
        mut after,
    } = found;
    while let Some(next) = after.next(Differences::rect)?
        && next.from <= run.to
    {
        if next.is_visible(basis) {
            if !timeline::continues(&run, &next) {
                break;
            }
            run.to = next.to;
        }
    }
    while is_first && block > 0 {
        block -= 1;
        let Some(before) = Last::visible(rects, block, OPEN, basis)? else {
            continue;
        };
        if !timeline::continues(&before.run, &run) {
            break;
        }
        run.from = before.run.from;
        is_first = before.is_first;
    }
    Ok(run)
}

/// The last run of a block that begins at or before a point.
struct Last<'a> {
    run: Rect,
    /// Whether nothing visible comes before it in the block.
    is_first: bool,
    /// What comes after it.
    after: Cursor<'a>,
}

impl<'a> Last<'a> {
    fn visible(
        rects: &List<'a>,
        block: usize,
        point: i64,
        basis: i64,
    ) -> codec::Result<Option<Self>> {
        let mut cursor = rects.cursor_at_block(block)?;
        let mut last: Option<Self> = None;
        while let Some(rect) = cursor.next(Differences::rect)?
            && rect.from <= point
        {
            if rect.is_visible(basis) {
                match &mut last {
                    Some(last) if timeline::continues(&last.run, &rect) => {
                        last.run.to = rect.to;
                        last.after = cursor;
                    }
                    _ => {
                        last = Some(Self {
                            run: open(rect),
                            is_first: last.is_none(),
                            after: cursor,
                        });
                    }
                }
            }
            if cursor.is_at_block() {
                break;
            }
        }
        Ok(last)
    }
}

/// The next version that a reader at `basis` sees.
pub(super) fn next_visible(cursor: &mut Cursor<'_>, basis: i64) -> codec::Result<Option<Rect>> {
    while let Some(rect) = cursor.next(Differences::rect)? {
        if rect.is_visible(basis) {
            return Ok(Some(open(rect)));
        }
    }
    Ok(None)
}

/// A version as one knows it before it ends.
fn open(rect: Rect) -> Rect {
    Rect {
        system_to: OPEN,
        ..rect
    }
}
