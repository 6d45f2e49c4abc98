//! The rectangle algebra of one entity: pure, without I/O.
//!
//! A [`Rect`] says that a state held over `[from, to)` of valid time and was what the store said over
//! `[system_from, system_to)` of system time. [`OPEN`] ends an interval that has no end. States are small numbers here;
//! what they stand for is the page's affair.
//!
//! The owner of a point is the pair (state, `system_from`): contiguous rectangles with one owner are one assertion, however
//! later commits have cut them up. `BT-1`: at one basis, rectangles of an entity never overlap in valid time.

/// No end.
pub(super) const OPEN: i64 = i64::MAX;

/// `[from, to)` of valid time, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Span {
    /// All of valid time.
    pub(super) const ALL: Self = Self {
        from: i64::MIN,
        to: OPEN,
    };

    pub(super) fn is_empty(self) -> bool {
        self.to <= self.from
    }

    #[inline]
    pub(super) fn contains(self, point: i64) -> bool {
        self.from <= point && point < self.to
    }

    /// The points in both, empty if there are none.
    pub(super) fn intersection(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            to: self.to.min(other.to),
        }
    }
}

/// A state over a range of valid time and a range of system time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) system_from: i64,
    pub(super) system_to: i64,
    pub(super) state: u32,
}

impl Rect {
    #[inline]
    pub(super) fn span(&self) -> Span {
        Span {
            from: self.from,
            to: self.to,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.system_to == OPEN
    }

    /// Whether a reader at `basis` sees it.
    #[inline]
    pub(super) fn is_visible(&self, basis: i64) -> bool {
        self.system_from <= basis && basis < self.system_to
    }

    fn with_span(self, span: Span) -> Self {
        Self {
            from: span.from,
            to: span.to,
            ..self
        }
    }

    /// The part in `span`, if there is one.
    pub(super) fn clipped(self, span: Span) -> Option<Self> {
        let part = self.span().intersection(span);
        (!part.is_empty()).then(|| self.with_span(part))
    }
}

/// Asserts `state` over `span` at system time `at`, which is at or after every system time in `rects`.
///
/// Points that have the state already are left alone. Elsewhere what was there is closed at `at` — or vanishes, if it was
/// asserted at `at` too — and its remnants outside of `span` keep their system time. `rects` are in order of `from`, before
/// and after. `false`: the state was there already. **Cost**: one pass.
pub(super) fn assert_over(rects: &mut Vec<Rect>, span: Span, state: u32, at: i64) -> bool {
    if span.is_empty() {
        return false;
    }
    let mut changed = false;
    let mut kept = Vec::with_capacity(rects.len() + 3);
    let mut fresh_from = span.from;
    let fresh = |from, to| Rect {
        from,
        to,
        system_from: at,
        system_to: OPEN,
        state,
    };
    for rect in rects.drain(..) {
        let overlap = rect.span().intersection(span);
        if !rect.is_live() || overlap.is_empty() {
            kept.push(rect);
        } else if rect.state == state {
            if fresh_from < overlap.from {
                kept.push(fresh(fresh_from, overlap.from));
                changed = true;
            }
            fresh_from = overlap.to;
            kept.push(rect);
        } else {
            replace(rect, overlap, at, &mut kept);
        }
    }
    if fresh_from < span.to {
        kept.push(fresh(fresh_from, span.to));
        changed = true;
    }
    kept.sort_by_key(|rect| (rect.from, rect.system_from));
    *rects = kept;
    changed
}

/// Closes the part of a live `rect` that is `overlap`, and keeps the rest as it is.
fn replace(rect: Rect, overlap: Span, at: i64, kept: &mut Vec<Rect>) {
    if rect.from < overlap.from {
        kept.push(Rect {
            to: overlap.from,
            ..rect
        });
    }
    if rect.system_from < at {
        kept.push(Rect {
            system_to: at,
            ..rect.with_span(overlap)
        });
    }
    if overlap.to < rect.to {
        kept.push(Rect {
            from: overlap.to,
            ..rect
        });
    }
}

/// Joins contiguous rectangles that differ in nothing else, and sorts by (`from`, `system_from`): the canonical form.
pub(super) fn coalesce(rects: &mut Vec<Rect>) {
    rects.sort_unstable_by_key(|rect| (rect.system_from, rect.system_to, rect.state, rect.from));
    rects.dedup_by(|next, joined| {
        let same = joined.to == next.from
            && joined.system_from == next.system_from
            && joined.system_to == next.system_to
            && joined.state == next.state;
        if same {
            joined.to = next.to;
        }
        same
    });
    rects.sort_unstable_by_key(|rect| (rect.from, rect.system_from));
}

/// What a reader at `basis` sees, in order of `from`, contiguous rectangles of one owner joined. Their `system_to` is
/// [`OPEN`]: at that basis nothing has replaced them yet.
pub(super) fn visible(rects: &[Rect], basis: i64) -> impl Iterator<Item = Rect> + '_ {
    let mut seen = rects
        .iter()
        .filter(move |rect| rect.is_visible(basis))
        .map(|rect| Rect {
            system_to: OPEN,
            ..*rect
        })
        .peekable();
    std::iter::from_fn(move || {
        let mut run = seen.next()?;
        while let Some(next) = seen.next_if(|next| continues(&run, next)) {
            run.to = next.to;
        }
        Some(run)
    })
}

/// Whether `next` starts where `run` ends and has the same owner.
#[inline]
pub(super) fn continues(run: &Rect, next: &Rect) -> bool {
    run.to == next.from && run.system_from == next.system_from && run.state == next.state
}

/// What a reader at `basis` sees at `point`, with the range of valid time over which its owner holds.
pub(super) fn as_of(rects: &[Rect], point: i64, basis: i64) -> Option<Rect> {
    visible(rects, basis)
        .take_while(|run| run.from <= point)
        .find(|run| point < run.to)
}

/// The first point after `point` at which the live timeline changes owner; [`OPEN`] if there is none.
///
/// A range about which nothing is known is an owner of its own.
pub(super) fn next_change(rects: &[Rect], point: i64) -> i64 {
    visible(rects, OPEN - 1)
        .find(|run| point < run.to)
        .map_or(OPEN, |run| if point < run.from { run.from } else { run.to })
}

/// The rectangles as a reader at `basis` knows them: later ones are not there, later ends are open. Canonical.
pub(super) fn known_at(rects: &[Rect], basis: i64) -> Vec<Rect> {
    let mut known: Vec<_> = rects
        .iter()
        .filter(|rect| rect.system_from <= basis)
        .map(|rect| Rect {
            system_to: if rect.system_to <= basis {
                rect.system_to
            } else {
                OPEN
            },
            ..*rect
        })
        .collect();
    coalesce(&mut known);
    known
}

/// Rectangles asserted at `at`, contiguous ones of one state counted once. `rects` are in order of `from`.
pub(super) fn asserted_at(rects: &[Rect], at: i64) -> Vec<Rect> {
    visible(rects, OPEN - 1)
        .filter(|run| run.system_from == at)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POINTS: i64 = 16;

    fn assertion() -> impl Strategy<Value = (i64, i64, u32, i64)> {
        (0..POINTS, 0..6i64, 0..3u32, 0..2i64)
    }

    proptest! {
        /// Each point of the rectangles tells the story that asserting point by point tells.
        #[test]
        fn rectangles_tell_what_points_would(steps in prop::collection::vec(assertion(), 1..30)) {
            let mut rects = Vec::new();
            // By point: (state, system_from) after each time, the latest last.
            let mut points: Vec<Vec<(i64, u32, i64)>> = vec![Vec::new(); 24];
            let mut now = 10;
            for (from, length, state, tick) in steps {
                now += tick;
                let span = Span { from, to: from + length };
                assert_over(&mut rects, span, state, now);
                for point in span.from..span.to {
                    let story = &mut points[usize::try_from(point).expect("small")];
                    if story.last().map(|last| last.1) == Some(state) {
                        continue;
                    }
                    story.retain(|told| told.0 < now);
                    story.push((now, state, now));
                }
                if tick == 1 {
                    coalesce(&mut rects);
                }
                prop_assert!(rects.is_sorted_by_key(|rect| (rect.from, rect.system_from)));
                prop_assert!(rects.iter().all(|rect| rect.from < rect.to && rect.system_from < rect.system_to));
            }
            for (point, story) in points.iter().enumerate() {
                let point = i64::try_from(point).expect("small");
                for basis in 9..=now + 1 {
                    let told = story.iter().rev().find(|told| told.0 <= basis).map(|told| (told.1, told.2));
                    let found = as_of(&rects, point, basis);
                    prop_assert_eq!(found.map(|rect| (rect.state, rect.system_from)), told);
                    let overlapping = rects.iter().filter(|rect| rect.is_visible(basis) && rect.span().contains(point));
                    prop_assert!(overlapping.count() <= 1, "BT-1");
                    let known = known_at(&rects, basis);
                    let seen = known.iter().find(|rect| rect.is_live() && rect.span().contains(point));
                    prop_assert_eq!(seen.map(|rect| (rect.state, rect.system_from)), told);
                }
                let owner = |at| as_of(&rects, at, OPEN - 1).map(|rect| (rect.state, rect.system_from));
                let change = (point + 1..40).find(|&at| owner(at) != owner(point));
                prop_assert_eq!(next_change(&rects, point), change.unwrap_or(OPEN));
            }
        }
    }

    #[test]
    fn a_future_dated_change_makes_three_rectangles() {
        let mut rects = Vec::new();
        assert_over(&mut rects, Span { from: 10, to: OPEN }, 1, 100);
        assert_over(&mut rects, Span { from: 20, to: OPEN }, 2, 200);
        let told: Vec<_> = rects
            .iter()
            .map(|rect| {
                (
                    rect.state,
                    rect.from,
                    rect.to,
                    rect.system_from,
                    rect.system_to,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (1, 10, 20, 100, OPEN),
                (1, 20, OPEN, 100, 200),
                (2, 20, OPEN, 200, OPEN)
            ]
        );
        assert_eq!(
            as_of(&rects, 25, 150).map(|rect| (rect.from, rect.to)),
            Some((10, OPEN))
        );
    }

    #[test]
    fn an_empty_range_changes_nothing() {
        let mut rects = Vec::new();
        assert_over(&mut rects, Span { from: 10, to: 10 }, 1, 100);
        assert_eq!(rects, []);
        assert_eq!(next_change(&rects, 0), OPEN);
    }
}
