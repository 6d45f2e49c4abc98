//! Pages: the versions of one entity over a range of valid time, in memory, and when and where they split.

use std::ops::Range;

use super::timeline::{self, Rect, Span};
use crate::kv::Slice;

/// The number of the state "there is no such entity". State `n + 1` is the page's `n`-th row.
pub(super) const ENDED: u32 = 0;

/// The bytes of one row.
#[derive(Debug, Clone)]
enum Row {
    /// In the bytes that the page was read from.
    Stored(Range<usize>),
    Fresh(Vec<u8>),
}

/// The versions of one entity over `span`, clipped to it.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) span: Span,
    /// The last commit whose changes are in it.
    pub(super) applied_sequence: u64,
    /// In order of (`from`, `system_from`).
    pub(super) rects: Vec<Rect>,
    stored: Slice,
    rows: Vec<Row>,
}

impl Page {
    /// A page about which nothing is known.
    pub(super) fn empty(span: Span) -> Self {
        Self {
            span,
            applied_sequence: 0,
            rects: Vec::new(),
            stored: Slice::default(),
            rows: Vec::new(),
        }
    }

    /// A page whose rows lie in `stored`.
    pub(super) fn from_stored(
        span: Span,
        applied_sequence: u64,
        rects: Vec<Rect>,
        rows: Vec<Range<usize>>,
        stored: Slice,
    ) -> Self {
        Self {
            span,
            applied_sequence,
            rects,
            stored,
            rows: rows.into_iter().map(Row::Stored).collect(),
        }
    }

    /// The row of a state; `None` for [`ENDED`].
    pub(super) fn row(&self, state: u32) -> Option<&[u8]> {
        let index = usize::try_from(state).ok()?.checked_sub(1)?;
        match self.rows.get(index)? {
            Row::Stored(range) => self.stored.get(range.clone()),
            Row::Fresh(bytes) => Some(bytes),
        }
    }

    /// How many rows it holds: states `1..=row_count`.
    pub(super) fn row_count(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// The number of a state, new or not. `None` stands for "ended".
    fn state_of(&mut self, row: Option<&[u8]>) -> u32 {
        let Some(row) = row else {
            return ENDED;
        };
        if let Some(known) = (1..=self.row_count()).find(|&state| self.row(state) == Some(row)) {
            return known;
        }
        self.rows.push(Row::Fresh(row.to_vec()));
        self.row_count()
    }

    /// Asserts a row, or "ended", over the part of `span` that the page covers.
    pub(super) fn assert_over(&mut self, span: Span, row: Option<&[u8]>, at: i64) {
        let state = self.state_of(row);
        timeline::assert_over(&mut self.rects, span.intersection(self.span), state, at);
    }

    /// Joins what belongs together, drops rows that nothing uses and numbers the rest in order of first use: pages with
    /// the same versions then have the same bytes.
    pub(super) fn canonicalise(&mut self) {
        timeline::coalesce(&mut self.rects);
        let mut numbers = vec![ENDED; self.rows.len() + 1];
        let mut rows = Vec::with_capacity(self.rows.len());
        for rect in &mut self.rects {
            let Some(number) = usize::try_from(rect.state)
                .ok()
                .and_then(|old| numbers.get_mut(old))
            else {
                continue;
            };
            if rect.state == ENDED {
                continue;
            }
            if *number == ENDED {
                rows.push(self.rows[rect.state as usize - 1].clone());
                *number = u32::try_from(rows.len()).unwrap_or(u32::MAX);
            }
            rect.state = *number;
        }
        self.rows = rows;
    }

    /// The part of the page over `span`.
    fn part(&self, span: Span) -> Self {
        let mut part = Self {
            span,
            rects: self
                .rects
                .iter()
                .filter_map(|rect| rect.clipped(span))
                .collect(),
            ..self.clone()
        };
        part.canonicalise();
        part
    }

    /// Both halves of the page, cut at the point of valid time that leaves the larger one smallest.
    ///
    /// `None` when no cut takes a quarter of the versions off the larger half: versions that all reach over the cut would
    /// be doubled without making room.
    pub(super) fn halves(&self) -> Option<(Self, Self)> {
        let cut = self.best_cut()?;
        let left = self.part(Span {
            to: cut,
            ..self.span
        });
        let right = self.part(Span {
            from: cut,
            ..self.span
        });
        Some((left, right))
    }

    fn best_cut(&self) -> Option<i64> {
        let mut starts: Vec<i64> = self.rects.iter().map(|rect| rect.from).collect();
        let mut ends: Vec<i64> = self.rects.iter().map(|rect| rect.to).collect();
        starts.sort_unstable();
        ends.sort_unstable();
        let larger_half = |cut: i64| {
            let left = starts.partition_point(|&start| start < cut);
            let right = ends.len() - ends.partition_point(|&end| end <= cut);
            left.max(right)
        };
        let (size, cut) = starts
            .iter()
            .chain(&ends)
            .filter(|&&cut| self.span.from < cut && cut < self.span.to)
            .map(|&cut| (larger_half(cut), cut))
            .min()?;
        (size * 4 <= self.rects.len() * 3).then_some(cut)
    }
}
