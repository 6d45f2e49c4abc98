//! Leaf pages in memory: the versions of one entity over a range of valid time, from one system time on.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{
    timeline::{self, OPEN, Rect, Span},
    tree::PAGE_BYTES,
};
use crate::kv::Slice;

/// The number of the state "there is no such entity". State `n + 1` is the page's `n`-th row.
pub(super) const ENDED: u32 = 0;

/// The longest row that pages hold themselves. Longer ones lie outside, once per entity, under their hash: a page then
/// holds several versions whatever they weigh.
pub(super) const MAX_INSIDE_BYTES: usize = PAGE_BYTES / 8;

/// What stands in a page for a row outside of it: the first half of its SHA-256.
pub(super) type RowHash = [u8; 16];

/// A row as pages hold it. Equal rows are equal here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Row {
    /// The bytes themselves.
    Inside(Slice),
    /// They lie in `rows`, under this.
    Outside(RowHash),
}

impl Row {
    /// Of a row's bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        if bytes.len() <= MAX_INSIDE_BYTES {
            return Self::Inside(bytes.into());
        }
        let mut hash = RowHash::default();
        let length = hash.len();
        hash.copy_from_slice(&Sha256::digest(bytes)[..length]);
        Self::Outside(hash)
    }

    /// Under which it lies outside, if it does.
    pub(super) fn hash(&self) -> Option<&RowHash> {
        match self {
            Self::Inside(_) => None,
            Self::Outside(hash) => Some(hash),
        }
    }

    /// What it takes in a page.
    pub(super) fn weight_bytes(&self) -> usize {
        match self {
            Self::Inside(bytes) => bytes.len() + 2,
            Self::Outside(hash) => hash.len() + 2,
        }
    }
}

/// The versions of one entity over `span`, clipped to it, as far as readers at a basis from `since` on see them.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) span: Span,
    /// The system time at which it was made; `i64::MIN` for an entity's first.
    pub(super) since: i64,
    /// The commit that made it; 0 for an entity's first.
    pub(super) made_by: u64,
    /// The last commit whose changes are in it.
    pub(super) applied_sequence: u64,
    /// In order of (`from`, `system_from`).
    pub(super) rects: Vec<Rect>,
    pub(super) rows: Vec<Row>,
}

impl Page {
    /// A page about which nothing is known.
    pub(super) fn empty(span: Span, since: i64, made_by: u64) -> Self {
        Self {
            span,
            since,
            made_by,
            applied_sequence: 0,
            rects: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// The row of a state; `None` for [`ENDED`].
    pub(super) fn row(&self, state: u32) -> Option<&Row> {
        self.rows.get(usize::try_from(state).ok()?.checked_sub(1)?)
    }

    /// The number of a state, new or not. `None` stands for "ended".
    fn state_of(&mut self, row: Option<&Row>) -> u32 {
        let Some(row) = row else {
            return ENDED;
        };
        let index = self.rows.iter().position(|known| known == row);
        let index = index.unwrap_or_else(|| {
            self.rows.push(row.clone());
            self.rows.len() - 1
        });
        number(index)
    }

    /// Asserts a row, or "ended", over the part of `span` that the page covers. `false`: all of that was there already.
    pub(super) fn assert_over(&mut self, span: Span, row: Option<&Row>, at: i64) -> bool {
        let state = self.state_of(row);
        let span = span.intersection(self.span);
        let changed = timeline::assert_over(&mut self.rects, span, state, at);
        // What ended when the page began, its readers never see.
        self.rects.retain(|rect| rect.system_to > self.since);
        changed
    }

    /// Joins what belongs together, drops rows that nothing uses and numbers the rest in order of first use: pages with
    /// the same versions then have the same bytes.
    pub(super) fn canonicalise(&mut self) {
        timeline::coalesce(&mut self.rects);
        let mut numbers = vec![ENDED; self.rows.len() + 1];
        let mut rows = Vec::with_capacity(self.rows.len());
        for rect in &mut self.rects {
            let old = rect.state as usize;
            if rect.state == ENDED || old > self.rows.len() {
                continue;
            }
            if numbers[old] == ENDED {
                rows.push(self.rows[old - 1].clone());
                numbers[old] = number(rows.len() - 1);
            }
            rect.state = numbers[old];
        }
        self.rows = rows;
    }

    /// About what its live versions take: the rows that they use, and [`LIVE_RECT_BYTES`] each.
    pub(super) fn live_bytes(&self) -> usize {
        let mut used = vec![false; self.rows.len() + 1];
        let mut total = 0;
        // Joined, as they are once they are stored.
        for rect in timeline::visible(&self.rects, OPEN - 1) {
            total += LIVE_RECT_BYTES;
            let state = rect.state as usize;
            if state < used.len() && !std::mem::replace(&mut used[state], true) {
                total += self.row(rect.state).map_or(0, Row::weight_bytes);
            }
        }
        total
    }

    /// The live versions of pages that lie side by side, as one page that `made_by` made at `at`. It may be longer than a page can
    /// be.
    pub(super) fn pooled(pages: &[Self], at: i64, made_by: u64) -> Self {
        let span = Span {
            from: pages.iter().map(|page| page.span.from).min().unwrap_or(0),
            to: pages.iter().map(|page| page.span.to).max().unwrap_or(0),
        };
        let mut pool = Self::empty(span, at, made_by);
        let mut states: HashMap<&Row, u32> = HashMap::new();
        for page in pages {
            for rect in page.rects.iter().filter(|rect| rect.is_live()) {
                let state = match page.row(rect.state) {
                    None => ENDED,
                    Some(row) => *states.entry(row).or_insert_with(|| {
                        pool.rows.push(row.clone());
                        number(pool.rows.len() - 1)
                    }),
                };
                pool.rects.push(Rect { state, ..*rect });
            }
        }
        pool.canonicalise();
        pool
    }

    /// The part of a pool over `span`, which cuts none of its versions: those with these indices.
    pub(super) fn piece(&self, span: Span, rects: std::ops::Range<usize>) -> Self {
        let mut piece = Self {
            span,
            since: self.since,
            made_by: self.made_by,
            applied_sequence: 0,
            rects: self.rects[rects].to_vec(),
            rows: self.rows.clone(),
        };
        piece.canonicalise();
        piece
    }
}

/// What a live version takes in a page, about: two numbers of valid time, one of system time, a row's, its share of a block.
pub(super) const LIVE_RECT_BYTES: usize = 14;

fn number(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}
