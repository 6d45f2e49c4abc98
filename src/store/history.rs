//! All versions of an entity, put together from all its pages.
//!
//! A version that lives on when its page dies is in the pages that follow too, and only the last of them knows when it ended:
//! in a page that died, a version ends with the page at the latest. Over each point of valid time the end of an owner is the
//! latest that any page knows; contiguous points of one owner and one end are a version.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::{
    error::Error,
    page::{ENDED, Page, Row},
    page_view::PageView,
    pages::{self, Head, Source},
    path,
    timeline::{self, OPEN, Rect, Span},
};
use crate::kv::Slice;

/// A version with its row; `None`: ended.
pub(super) type Known = (Rect, Option<Slice>);

/// All versions of an entity as known at `basis`, in canonical order. None of an entity that is erased there.
///
/// **Cost**: all pages of the entity that were made by then.
pub(super) fn known_versions(
    source: &impl Source,
    key: &[u8],
    basis: i64,
) -> Result<Vec<Known>, Error> {
    loop {
        let head = source.head(key)?;
        let gathered = gather(source, key, &head, basis);
        // An erasure takes pages away: what was gathered meanwhile may lack some.
        if let Ok(now) = source.head(key)
            && now.is_erased_at(basis) != head.is_erased_at(basis)
        {
            continue;
        }
        let (rects, rows) = gathered?;
        return with_rows(source, key, rects, &rows);
    }
}

/// The canonical versions, with the rows that their states number from 1 on.
fn gather(
    source: &impl Source,
    key: &[u8],
    head: &Head,
    basis: i64,
) -> Result<(Vec<Rect>, Vec<Row>), Error> {
    let Head::Root(root) = head else {
        return Ok(Default::default());
    };
    if head.is_erased_at(basis) {
        return Ok(Default::default());
    }
    // The head was read first: a root that is archived meanwhile comes twice, never not at all.
    let mut leaves = source.leaves(key, basis)?;
    if root.header.level == 0 && root.header.since <= basis {
        leaves.push(root.clone());
    }
    // From the newest on: what covers a point when a leaf's turn comes is what took the leaf's place.
    leaves.sort_by_key(|leaf| std::cmp::Reverse((leaf.header.since, leaf.header.made_by)));
    let mut successors = Successors::default();
    let mut pieces = Pieces::default();
    for leaf in &leaves {
        let until = successors.put(leaf);
        if leaf.header.since < until {
            let page = leaf
                .leaf()
                .map_err(|malformed| pages::damaged(key, malformed))?;
            pieces.add(&page, until, basis);
        }
    }
    Ok((pieces.versions(), pieces.rows))
}

/// Which system time the newest leaf over each point was made at, as far as leaves were put.
struct Successors(BTreeMap<i64, i64>);

impl Default for Successors {
    fn default() -> Self {
        Self(BTreeMap::from([(i64::MIN, OPEN)]))
    }
}

impl Successors {
    /// When the leaf died. From then on it covers its span.
    fn put(&mut self, leaf: &PageView) -> i64 {
        let span = leaf.header.span;
        let at = |map: &BTreeMap<i64, i64>, point| {
            let newest = map.range(..=point).next_back();
            newest.map_or(OPEN, |(_, since)| *since)
        };
        let until = at(&self.0, span.from);
        if span.to != OPEN {
            let after = at(&self.0, span.to);
            self.0.insert(span.to, after);
        }
        let covered: Vec<i64> = self
            .0
            .range(span.from..span.to)
            .map(|(from, _)| *from)
            .collect();
        for from in covered {
            self.0.remove(&from);
        }
        self.0.insert(span.from, leaf.header.since);
        until
    }
}

/// What the leaves say of each owner.
#[derive(Default)]
struct Pieces {
    rows: Vec<Row>,
    states: HashMap<Row, u32>,
    rects: Vec<Rect>,
}

impl Pieces {
    /// Adds a leaf that died at `until`.
    fn add(&mut self, page: &Page, until: i64, basis: i64) {
        for mut rect in timeline::known_at(&page.rects, basis) {
            rect.system_to = rect.system_to.min(until);
            if rect.system_to <= rect.system_from {
                continue;
            }
            rect.state = match page.row(rect.state) {
                None => ENDED,
                Some(row) => self.state(row),
            };
            self.rects.push(rect);
        }
    }

    fn state(&mut self, row: &Row) -> u32 {
        if let Some(&state) = self.states.get(row) {
            return state;
        }
        self.rows.push(row.clone());
        let state = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.states.insert(row.clone(), state);
        state
    }

    /// The canonical versions.
    fn versions(&mut self) -> Vec<Rect> {
        let mut rects = std::mem::take(&mut self.rects);
        rects.sort_unstable_by_key(|rect| (rect.system_from, rect.state, rect.from));
        let owner = |rect: &Rect| (rect.system_from, rect.state);
        let mut versions = Vec::new();
        for pieces in rects.chunk_by(|a, b| owner(a) == owner(b)) {
            latest_ends(pieces, &mut versions);
        }
        timeline::coalesce(&mut versions);
        versions
    }
}

/// Over each point, the latest of the ends that one owner's pieces give. `pieces` are in order of `from`.
fn latest_ends(pieces: &[Rect], out: &mut Vec<Rect>) {
    let mut ahead = pieces.iter().peekable();
    // Those that have begun, the one with the latest end first.
    let mut begun: BinaryHeap<(i64, i64)> = BinaryHeap::new();
    let mut point = i64::MIN;
    loop {
        while begun.peek().is_some_and(|&(_, to)| to <= point) {
            begun.pop();
        }
        while let Some(piece) = ahead.next_if(|piece| piece.from <= point) {
            if point < piece.to {
                begun.push((piece.system_to, piece.to));
            }
        }
        let next_from = ahead.peek().map(|piece| piece.from);
        let Some(&(system_to, to)) = begun.peek() else {
            match next_from {
                None => return,
                Some(from) => point = from,
            }
            continue;
        };
        let to = next_from.map_or(to, |from| from.min(to));
        out.push(Rect {
            system_to,
            ..with_span(&pieces[0], Span { from: point, to })
        });
        point = to;
    }
}

fn with_span(rect: &Rect, span: Span) -> Rect {
    Rect {
        from: span.from,
        to: span.to,
        ..*rect
    }
}

fn with_rows(
    source: &impl Source,
    key: &[u8],
    rects: Vec<Rect>,
    rows: &[Row],
) -> Result<Vec<Known>, Error> {
    let rows: Vec<Slice> = rows
        .iter()
        .map(|row| path::row_bytes(source, key, row))
        .collect::<Result<_, _>>()?;
    let row = |rect: &Rect| match rect.state {
        ENDED => None,
        state => rows.get(state as usize - 1).cloned(),
    };
    Ok(rects.into_iter().map(|rect| (rect, row(&rect))).collect())
}
