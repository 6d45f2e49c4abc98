//! Permits of an hour or a date, counted so that a crash never grants one twice.
//!
//! A permit is granted from a **lot** that was set aside, and written down, before. After a crash the whole lot counts as
//! granted: what was left of it is lost until the next window, at most two lots of [`LOT_DIVISOR`]th of the quota each.
//! Windows of the recent past are remembered, so that neither a clock that steps back nor a change of the time zone grants
//! anything anew. Pure: the instant of each call is a parameter.

use serde::{Deserialize, Serialize};

use super::model::{ByClass, Class, WindowQuota};
use crate::time::{PartitionCalendar, ValidTime};

/// A lot is this part of the quota, at least 1 permit.
pub(super) const LOT_DIVISOR: u64 = 200;
/// Windows that ended longer ago than this are forgotten.
pub(super) const MEMORY_MICROS: i64 = 49 * 3_600_000_000;

/// How many are remembered at most: they must fit one stored value.
const MAX_WINDOWS: usize = 50;

/// What was granted in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// Inclusive, microseconds since the Unix epoch.
    pub(super) start: i64,
    /// Exclusive.
    pub(super) end: i64,
    /// Granted to each class; on disk at least that.
    pub(super) used: ByClass,
}

/// The windows that are remembered, by start: what is written down.
pub(super) type History = Vec<Count>;

/// Why a window grants nothing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// The quota is used up until the next window, which starts at this microsecond.
    Until(i64),
    /// A lot has to be written down first.
    Unwritten,
}

/// A lot that is being written.
#[derive(Debug, Clone, Copy)]
struct Lot {
    /// Of the write, so that its end is not taken for another's.
    id: u64,
    /// Of the window.
    start: i64,
    /// How many are written down as granted once it is done.
    target: u64,
}

/// The quota of an hour or a date.
#[derive(Debug)]
pub(super) struct Counter {
    quota: WindowQuota,
    calendar: PartitionCalendar,
    /// Without the current one.
    past: History,
    current: Count,
    /// How many of the current window are written down as granted.
    written: u64,
    /// Set while a lot is being written.
    writing: Option<Lot>,
}

impl Counter {
    /// Counts from `histories`: what was counted before by this counter and by others of the same limit.
    pub(super) fn new(quota: WindowQuota, histories: &[History], wall: i64) -> Self {
        let calendar = quota.calendar();
        let known = histories.iter().filter_map(oldest).min();
        let wall = known.map_or(wall, |known| wall.max(known));
        let (start, end) = window(&calendar, wall);
        let used = histories
            .iter()
            .map(|history| used_in(history, start, end))
            .max_by_key(|used| used.total())
            .unwrap_or_default();
        let past = histories.iter().flatten().copied();
        let mut counter = Self {
            quota,
            calendar,
            past: past.filter(|count| count.start != start).collect(),
            current: Count { start, end, used },
            written: 0,
            writing: None,
        };
        counter.forget(wall);
        counter
    }

    /// Another quota of the same hours or dates.
    pub(super) fn set_permits(&mut self, permits: u64) {
        self.quota.permits = permits;
    }

    pub(super) fn quota(&self) -> WindowQuota {
        self.quota
    }

    /// Moves to the window of `wall`, if that is another one.
    pub(super) fn advance(&mut self, wall: i64) {
        if (self.current.start..self.current.end).contains(&wall) {
            return;
        }
        let (start, end) = window(&self.calendar, wall);
        let left = self.current;
        self.past.retain(|count| count.start != left.start);
        self.past.push(left);
        // A clock that steps further back than is remembered is not followed: nothing says what was granted there.
        if oldest(&self.past).is_some_and(|oldest| start < oldest) {
            self.past.retain(|count| count.start != left.start);
            return;
        }
        let used = used_in(&self.past, start, end);
        self.past.retain(|count| count.start != start);
        self.current = Count { start, end, used };
        self.written = 0;
        self.writing = None;
        self.forget(wall);
    }

    fn forget(&mut self, wall: i64) {
        let oldest = wall.saturating_sub(MEMORY_MICROS);
        self.past.retain(|count| count.end > oldest);
        self.past.sort_unstable_by_key(|count| count.start);
        let too_many = self.past.len().saturating_sub(MAX_WINDOWS);
        self.past.drain(..too_many);
    }

    /// Whether `permits` can be granted to `class`, of whose `most` the quota lets it have so many.
    pub(super) fn check(&self, class: Class, permits: u32, most: u64) -> Result<(), Empty> {
        let used = self.current.used;
        let permits = u64::from(permits);
        let total = used.total() + permits;
        if total > self.quota.permits || used.get(class) + permits > most {
            return Err(Empty::Until(self.current.end));
        }
        if total > self.written {
            return Err(Empty::Unwritten);
        }
        Ok(())
    }

    /// Counts `permits` as granted. The window's start says where they were counted.
    pub(super) fn take(&mut self, class: Class, permits: u32) -> i64 {
        *self.current.used.of(class) += u64::from(permits);
        self.current.start
    }

    /// Puts back what [`Counter::take`] counted in the window that started at `start`.
    pub(super) fn put_back(&mut self, class: Class, permits: u32, start: i64) {
        let past = self.past.iter_mut().find(|count| count.start == start);
        let count = match past {
            _ if start == self.current.start => &mut self.current,
            Some(count) => count,
            None => return,
        };
        let used = count.used.of(class);
        *used = used.saturating_sub(u64::from(permits));
    }

    /// What has to be written down so that `wanted` more permits can be granted, and a lot after them: `None` if there is
    /// enough, or it is being written. [`Counter::written`] with the same `id` says when it is.
    pub(super) fn set_aside(&mut self, wanted: u32, id: u64) -> Option<History> {
        let used = self.current.used.total();
        let lot = (self.quota.permits / LOT_DIVISOR).max(1);
        let needed = used.saturating_add(u64::from(wanted));
        let ahead = self.written.saturating_sub(used);
        let enough = needed <= self.written && ahead.saturating_mul(2) >= lot;
        let target = needed.saturating_add(lot).min(self.quota.permits);
        if self.writing.is_some() || enough || target <= self.written {
            return None;
        }
        self.writing = Some(Lot {
            id,
            start: self.current.start,
            target,
        });
        let mut history = self.past.clone();
        // Whose permits the lot will be is not known: each class may have had all of it.
        let rest = target.saturating_sub(used);
        let used = ByClass {
            live: self.current.used.live,
            backfill: self.current.used.backfill + rest,
        };
        history.push(Count {
            used,
            ..self.current
        });
        history.sort_unstable_by_key(|count| count.start);
        Some(history)
    }

    /// Whether a lot should be written although nobody waits for it.
    pub(super) fn runs_low(&self) -> bool {
        let lot = (self.quota.permits / LOT_DIVISOR).max(1);
        let ahead = self.written.saturating_sub(self.current.used.total());
        self.writing.is_none() && self.written < self.quota.permits && ahead * 2 < lot
    }

    /// What [`Counter::set_aside`] asked for is on disk, or could not be put there.
    pub(super) fn written(&mut self, id: u64, on_disk: bool) {
        if let Some(lot) = self.writing.take_if(|lot| lot.id == id)
            && on_disk
            && lot.start == self.current.start
        {
            self.written = self.written.max(lot.target);
        }
    }

    /// What was really granted, for a stop in order. Nothing is granted from what was set aside any more.
    pub(super) fn close(&mut self) -> History {
        self.written = 0;
        self.history()
    }

    /// All windows that are remembered, as they stand in memory.
    pub(super) fn history(&self) -> History {
        let mut history = self.past.clone();
        history.push(self.current);
        history.sort_unstable_by_key(|count| count.start);
        history
    }

    /// Granted in the current window, and when the next one starts.
    pub(super) fn standing(&self) -> (ByClass, i64) {
        (self.current.used, self.current.end)
    }
}

fn oldest(history: &History) -> Option<i64> {
    history.iter().map(|count| count.start).min()
}

/// What `history` says was granted in `[start, end)`, at most: its own count of it, or that of all that overlap.
fn used_in(history: &History, start: i64, end: i64) -> ByClass {
    let mut own = ByClass::default();
    let mut others = ByClass::default();
    for count in history {
        if (count.start, count.end) == (start, end) {
            own.live = own.live.max(count.used.live);
            own.backfill = own.backfill.max(count.used.backfill);
        } else if count.start < end && start < count.end {
            others.live += count.used.live;
            others.backfill += count.used.backfill;
        }
    }
    ByClass {
        live: own.live.max(others.live),
        backfill: own.backfill.max(others.backfill),
    }
}

/// The window that holds `wall`. Beyond the years of the calendar all time is one window.
fn window(calendar: &PartitionCalendar, wall: i64) -> (i64, i64) {
    match calendar.partition_containing(ValidTime::from_micros(wall)) {
        Ok(partition) => (partition.start.micros(), partition.end.micros()),
        Err(_) => (i64::MIN, i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::time::Grain;

    const HOUR: i64 = 3_600_000_000;
    const DAY: i64 = 24 * HOUR;

    fn daily(permits: u64, zone: Tz) -> WindowQuota {
        WindowQuota {
            permits,
            grain: Grain::Daily,
            zone,
        }
    }

    fn write(counter: &mut Counter, wanted: u32) -> Option<History> {
        let history = counter.set_aside(wanted, 1)?;
        counter.written(1, true);
        Some(history)
    }

    #[test]
    fn nothing_is_granted_before_it_is_written_down() {
        let mut counter = Counter::new(daily(1_000, Tz::UTC), &[], DAY);
        assert_eq!(counter.check(Class::Live, 1, 1_000), Err(Empty::Unwritten));
        let history = counter.set_aside(1, 1).expect("a lot");
        assert_eq!(history[0].used.total(), 6, "one, and a lot of five");
        assert_eq!(counter.check(Class::Live, 1, 1_000), Err(Empty::Unwritten));
        counter.written(1, false);
        assert_eq!(counter.check(Class::Live, 1, 1_000), Err(Empty::Unwritten));
        assert!(
            counter.set_aside(1, 1).is_some(),
            "a failed lot is tried again"
        );
        counter.written(1, true);
        assert_eq!(counter.check(Class::Live, 6, 1_000), Ok(()));
        assert_eq!(counter.check(Class::Live, 7, 1_000), Err(Empty::Unwritten));
    }

    #[test]
    fn a_crash_costs_at_most_two_lots_and_doubles_nothing() {
        let mut counter = Counter::new(daily(1_000, Tz::UTC), &[], DAY);
        let mut on_disk = History::new();
        for _ in 0..100 {
            if let Some(history) = write(&mut counter, 1) {
                on_disk = history;
            }
            counter.take(Class::Backfill, 1);
        }
        let again = Counter::new(daily(1_000, Tz::UTC), &[on_disk], DAY + 1);
        let used = again.standing().0.total();
        assert!((100..=110).contains(&used), "{used}");
    }

    #[test]
    fn the_quota_ends_with_the_local_date() {
        let zone = Tz::America__New_York;
        let wall = 10 * DAY;
        let mut counter = Counter::new(daily(10, zone), &[], wall);
        write(&mut counter, 10);
        counter.take(Class::Live, 10);
        let midnight = wall + 5 * HOUR;
        assert_eq!(
            counter.check(Class::Live, 1, 10),
            Err(Empty::Until(midnight))
        );
        counter.advance(midnight - 1);
        assert_eq!(counter.standing().0.total(), 10);
        counter.advance(midnight);
        assert_eq!(counter.standing().0.total(), 0);
    }

    #[test]
    fn a_clock_that_steps_back_finds_its_count_again() {
        let mut counter = Counter::new(daily(10, Tz::UTC), &[], 10 * DAY);
        write(&mut counter, 10);
        counter.take(Class::Live, 10);
        counter.advance(11 * DAY);
        assert_eq!(counter.standing().0.total(), 0);
        counter.advance(11 * DAY - 1);
        assert_eq!(counter.standing().0.total(), 10);
        counter.advance(5 * DAY);
        assert_eq!(counter.standing().1, 11 * DAY, "not followed that far");
    }

    #[test]
    fn another_time_zone_grants_nothing_anew() {
        let mut counter = Counter::new(daily(10, Tz::UTC), &[], 10 * DAY);
        write(&mut counter, 7);
        counter.take(Class::Backfill, 7);
        let moved = Counter::new(daily(10, Tz::Asia__Tokyo), &[counter.history()], 10 * DAY);
        assert_eq!(moved.standing().0.backfill, 7);
    }

    #[test]
    fn what_is_put_back_goes_to_its_own_window() {
        let mut counter = Counter::new(daily(10, Tz::UTC), &[], 10 * DAY);
        write(&mut counter, 4);
        let start = counter.take(Class::Live, 4);
        counter.advance(11 * DAY);
        counter.put_back(Class::Live, 3, start);
        assert_eq!(counter.standing().0.total(), 0);
        counter.advance(10 * DAY);
        assert_eq!(counter.standing().0.total(), 1);
    }
}
