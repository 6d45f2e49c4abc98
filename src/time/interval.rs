//! Half-open intervals `[from, to)`; an open end is `None`.

use serde::{Deserialize, Serialize};

/// `[from, to)` on one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interval<T> {
    /// Inclusive. The axis' `MIN` stands for "no start".
    pub from: T,
    /// Exclusive. `None`: open.
    pub to: Option<T>,
}

impl<T: Copy + Ord> Interval<T> {
    /// `[from, to)`.
    pub const fn new(from: T, to: T) -> Self {
        Self { from, to: Some(to) }
    }

    /// `[from, ∞)`.
    pub const fn starting_at(from: T) -> Self {
        Self { from, to: None }
    }

    /// Whether no point lies in it: `to <= from`.
    pub fn is_empty(&self) -> bool {
        self.to.is_some_and(|to| to <= self.from)
    }

    /// Whether `point` lies in it: `from <= point < to`.
    pub fn contains(&self, point: T) -> bool {
        self.from <= point && self.to.is_none_or(|to| point < to)
    }

    /// Whether the two share a point. Touching intervals do not.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The points in both, `None` if there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self {
            from: self.from.max(other.from),
            to: earlier_end(self.to, other.to),
        };
        (!both.is_empty()).then_some(both)
    }

    /// Whether every point of `other` lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.from <= other.from && earlier_end(self.to, other.to) == other.to
    }
}

/// The earlier of two exclusive ends, `None` being the latest.
fn earlier_end<T: Copy + Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (end, None) | (None, end) => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_intervals_share_no_point() {
        let left = Interval::new(0, 5);
        let right = Interval::starting_at(5);
        assert!(!left.overlaps(&right));
        assert!(left.contains(4) && !left.contains(5) && right.contains(5));
        assert_eq!(
            left.intersection(&Interval::new(3, 9)),
            Some(Interval::new(3, 5))
        );
        assert!(right.covers(&Interval::new(7, 9)) && !left.covers(&right) && right.covers(&right));
        assert!(Interval::new(5, 5).is_empty() && Interval::new(6, 5).is_empty());
    }
}
