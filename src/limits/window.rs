//! Permits of an hour or a date, counted so that a crash never grants one twice.
//!
//! A permit is granted from a **lot** that was set aside, and written down, before. After a crash all that was set aside counts
//! as granted: at most two lots of [`LOT_DIVISOR`]th of the quota each, and what the request being served asked for.
//!
//! Each permit is counted in one [`Count`], and counts are never forgotten, only merged: so neither a clock that jumps, there
//! and back, nor a change of the time zone grants anything anew. What cannot be told apart any more counts in every window that
//! it may have been granted in. Pure: the instant of each call is a parameter.

use serde::{Deserialize, Serialize};

use super::model::{ByClass, Class, WindowQuota};
use crate::time::{PartitionCalendar, ValidTime};

/// A lot is this part of the quota, at least 1 permit.
pub(super) const LOT_DIVISOR: u64 = 200;
/// How many counts are kept apart: they must fit one stored value.
const MAX_COUNTS: usize = 50;
const DAY_MICROS: i64 = 24 * 3_600_000_000;

/// What was granted in one stretch of time: a window, the part of one until its counter was replaced, or merged ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// Inclusive, microseconds since the Unix epoch.
    pub(super) start: i64,
    /// Exclusive.
    pub(super) end: i64,
    /// Granted to each class; on disk at least that.
    pub(super) used: ByClass,
}

/// What is remembered, by start: what is written down.
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
    /// How many of those as granted to backfills.
    backfill: u64,
}

/// The quota of an hour or a date.
#[derive(Debug)]
pub(super) struct Counter {
    quota: WindowQuota,
    calendar: PartitionCalendar,
    /// Without the current one.
    past: History,
    current: Count,
    /// What counts of `past` that overlap the current window may have granted in it.
    carried: ByClass,
    /// The latest that it was in the current window.
    latest: i64,
    /// How many of the current window are written down as granted.
    written: u64,
    /// How many of them as granted to backfills: what live callers give back must not become theirs unwritten.
    written_backfill: u64,
    /// Set while a lot is being written.
    writing: Option<Lot>,
}

impl Counter {
    /// Goes on from `history`: what was counted before, by this counter or by others of the same limit.
    pub(super) fn new(quota: WindowQuota, history: &History, wall: i64) -> Self {
        let nothing = Count {
            start: wall,
            end: wall,
            used: ByClass::default(),
        };
        let mut counter = Self {
            calendar: quota.calendar(),
            quota,
            past: history.clone(),
            current: nothing,
            carried: ByClass::default(),
            latest: wall,
            written: 0,
            written_backfill: 0,
            writing: None,
        };
        counter.enter(wall);
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
            self.latest = self.latest.max(wall);
            return;
        }
        if self.current.used.total() > 0 {
            self.past.push(self.current);
        }
        self.enter(wall);
    }

    fn enter(&mut self, wall: i64) {
        let (start, end) = window(&self.calendar, wall);
        let mut used = ByClass::default();
        let mut latest = wall;
        self.past.retain(|count| {
            let is_within = start <= count.start && count.end <= end;
            if is_within {
                used = used.plus(count.used);
                latest = latest.max(count.end.saturating_sub(1));
            }
            !is_within
        });
        self.current = Count { start, end, used };
        self.latest = latest;
        self.written = 0;
        self.written_backfill = 0;
        self.writing = None;
        merge(&mut self.past);
        self.carry();
    }

    fn carry(&mut self) {
        let Count { start, end, .. } = self.current;
        let overlaps = |count: &&Count| count.start < end && start < count.end;
        let overlapping = self.past.iter().filter(overlaps);
        self.carried = overlapping.fold(ByClass::default(), |sum, count| sum.plus(count.used));
    }

    /// Granted in the current window, at most.
    fn used(&self) -> ByClass {
        self.current.used.plus(self.carried)
    }

    /// What the current window can grant by itself.
    fn room(&self) -> u64 {
        self.quota.permits.saturating_sub(self.carried.total())
    }

    /// Whether `permits` can be granted to `class`, of whose `most` the quota lets it have so many.
    pub(super) fn check(&self, class: Class, permits: u32, most: u64) -> Result<(), Empty> {
        let used = self.used();
        let permits = u64::from(permits);
        if used.total() + permits > self.quota.permits || used.get(class) + permits > most {
            return Err(Empty::Until(self.current.end));
        }
        let own = self.current.used;
        let is_written = own.total() + permits <= self.written
            && (class == Class::Live || own.backfill + permits <= self.written_backfill);
        if !is_written {
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
        self.carry();
    }

    /// What has to be written down so that `wanted` more permits can be granted, and a lot after them: `None` if there is
    /// enough, or it is being written. [`Counter::written`] with the same `id` says when it is.
    pub(super) fn set_aside(&mut self, wanted: u32, id: u64) -> Option<History> {
        let used = self.current.used.total();
        let lot = (self.quota.permits / LOT_DIVISOR).max(1);
        let needed = used.saturating_add(u64::from(wanted));
        let ahead = self.written.saturating_sub(used);
        let of_backfills = self.current.used.backfill.saturating_add(u64::from(wanted));
        let is_written = needed <= self.written && of_backfills <= self.written_backfill;
        let enough = is_written && ahead.saturating_mul(2) >= lot;
        let target = needed
            .saturating_add(lot)
            .min(self.room())
            .max(self.written);
        if self.writing.is_some() || enough || (is_written && target == self.written) {
            return None;
        }
        self.writing = Some(Lot {
            id,
            start: self.current.start,
            target,
            backfill: u64::MAX,
        });
        Some(self.promised())
    }

    /// What counts as granted after a crash, once it is on disk: what was set aside too. Whose permits those will be is not
    /// known: as a backfill's they count against the whole and against the smaller share.
    pub(super) fn promised(&mut self) -> History {
        let Count { used, .. } = self.current;
        let target = self.writing.map_or(0, |lot| lot.target).max(self.written);
        let backfill = target.saturating_sub(used.live).max(used.backfill);
        // Whichever of two writes a crash leaves must hold what is granted meanwhile.
        self.written_backfill = self.written_backfill.min(backfill);
        if let Some(lot) = &mut self.writing {
            lot.backfill = lot.backfill.min(backfill);
        }
        let used = ByClass {
            live: used.live,
            backfill,
        };
        let mut history = self.past.clone();
        history.push(Count {
            used,
            ..self.current
        });
        history.sort_unstable_by_key(|count| count.start);
        history
    }

    /// Whether a lot should be written although nobody waits for it.
    pub(super) fn runs_low(&self) -> bool {
        let lot = (self.quota.permits / LOT_DIVISOR).max(1);
        let ahead = self.written.saturating_sub(self.current.used.total());
        self.writing.is_none() && self.written < self.room() && ahead.saturating_mul(2) < lot
    }

    /// What [`Counter::set_aside`] asked for is on disk, or could not be put there.
    pub(super) fn written(&mut self, id: u64, on_disk: bool) {
        if let Some(lot) = self.writing.take_if(|lot| lot.id == id)
            && on_disk
            && lot.start == self.current.start
        {
            self.written = self.written.max(lot.target);
            self.written_backfill = lot.backfill;
        }
    }

    /// What was really granted, for a stop in order. Nothing is granted from what was set aside any more.
    pub(super) fn close(&mut self) -> History {
        self.written = 0;
        self.history()
    }

    /// What was really granted up to now. A window of another calendar that starts later is not burdened with it.
    pub(super) fn history(&self) -> History {
        let mut history = self.past.clone();
        history.push(Count {
            end: self.current.end.min(self.latest.saturating_add(1)),
            ..self.current
        });
        history.sort_unstable_by_key(|count| count.start);
        history
    }

    /// Granted in the current window, and when the next one starts.
    pub(super) fn standing(&self) -> (ByClass, i64) {
        (self.used(), self.current.end)
    }
}

/// Merges what is too much to be kept apart: the oldest, but not over a gap that a clock left when it jumped.
fn merge(past: &mut History) {
    past.sort_unstable_by_key(|count| count.start);
    while past.len() > MAX_COUNTS {
        let gap = |pair: &[Count]| match pair {
            [one, next] => next.start.saturating_sub(one.end).max(0),
            _ => i64::MAX,
        };
        let nearest = past.windows(2).map(gap).enumerate().min_by_key(|it| it.1);
        let Some((at, _)) = nearest else {
            return;
        };
        let next = past.remove(at + 1);
        if let Some(one) = past.get_mut(at) {
            one.end = one.end.max(next.end);
            one.used = one.used.plus(next.used);
        }
    }
}

/// The window that holds `wall`. Beyond the years of the calendar these are dates in UTC.
fn window(calendar: &PartitionCalendar, wall: i64) -> (i64, i64) {
    match calendar.partition_containing(ValidTime::from_micros(wall)) {
        Ok(partition) => (partition.start.micros(), partition.end.micros()),
        Err(_) => {
            let start = wall.saturating_sub(wall.rem_euclid(DAY_MICROS));
            (start, start.saturating_add(DAY_MICROS))
        }
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

    fn live(permits: u64) -> ByClass {
        ByClass {
            live: permits,
            backfill: 0,
        }
    }

    fn write(counter: &mut Counter, wanted: u32) -> Option<History> {
        let history = counter.set_aside(wanted, 1)?;
        counter.written(1, true);
        Some(history)
    }

    #[test]
    fn nothing_is_granted_before_it_is_written_down() {
        let mut counter = Counter::new(daily(1_000, Tz::UTC), &History::new(), DAY);
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
        let mut counter = Counter::new(daily(1_000, Tz::UTC), &History::new(), DAY);
        let mut on_disk = History::new();
        for _ in 0..100 {
            if let Some(history) = write(&mut counter, 1) {
                on_disk = history;
            }
            counter.take(Class::Backfill, 1);
        }
        let again = Counter::new(daily(1_000, Tz::UTC), &on_disk, DAY + 1);
        let used = again.standing().0.total();
        assert!((100..=110).contains(&used), "{used}");
    }

    #[test]
    fn the_quota_ends_with_the_local_date() {
        let zone = Tz::America__New_York;
        let wall = 10 * DAY;
        let mut counter = Counter::new(daily(10, zone), &History::new(), wall);
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
    fn a_clock_that_jumps_finds_its_count_again_both_ways() {
        for away in [
            11 * DAY,
            4_000 * DAY,
            5 * DAY,
            -4_000 * DAY,
            i64::MAX,
            i64::MIN,
        ] {
            let mut counter = Counter::new(daily(10, Tz::UTC), &History::new(), 10 * DAY);
            write(&mut counter, 10);
            counter.take(Class::Live, 10);
            counter.advance(away);
            assert_eq!(counter.standing().0.total(), 0, "{away}");
            write(&mut counter, 4);
            counter.take(Class::Live, 4);
            counter.advance(10 * DAY + HOUR);
            assert_eq!(counter.standing(), (live(10), 11 * DAY), "{away}");
            counter.advance(12 * DAY);
            assert_eq!(counter.standing(), (live(0), 13 * DAY), "{away}");
            counter.advance(away);
            assert_eq!(counter.standing().0, live(4), "{away}");
        }
    }

    #[test]
    fn a_clock_that_was_wrong_at_first_is_followed_when_it_is_mended() {
        let mut wrong = Counter::new(daily(10, Tz::UTC), &History::new(), 4_000 * DAY);
        write(&mut wrong, 10);
        wrong.take(Class::Live, 10);
        let mended = Counter::new(daily(10, Tz::UTC), &wrong.history(), 10 * DAY);
        assert_eq!(mended.standing(), (live(0), 11 * DAY));
        wrong.advance(10 * DAY);
        assert_eq!(wrong.standing(), (live(0), 11 * DAY));
    }

    #[test]
    fn what_is_merged_burdens_no_time_that_the_clock_jumped_over() {
        let hourly = WindowQuota {
            grain: Grain::Hourly,
            ..daily(10, Tz::UTC)
        };
        let mut counter = Counter::new(hourly, &History::new(), 10 * DAY);
        for wall in [10 * DAY, 4_000 * DAY] {
            for hour in 0..60 {
                counter.advance(wall + hour * HOUR);
                write(&mut counter, 1);
                counter.take(Class::Live, 1);
            }
        }
        assert!(counter.history().len() <= MAX_COUNTS + 1);
        counter.advance(10 * DAY + 60 * HOUR);
        assert_eq!(counter.standing().0, live(0));
        counter.advance(10 * DAY + 59 * HOUR);
        assert!(counter.standing().0.live >= 1, "it is known at least");
        counter.advance(4_000 * DAY + 59 * HOUR);
        assert_eq!(counter.standing().0, live(1));
    }

    #[test]
    fn another_time_zone_takes_over_what_may_have_been_granted_in_its_window() {
        let ten_o_clock = 10 * DAY + 10 * HOUR;
        let mut counter = Counter::new(daily(10, Tz::UTC), &History::new(), ten_o_clock - HOUR);
        write(&mut counter, 5);
        counter.take(Class::Backfill, 5);
        counter.advance(ten_o_clock);
        let mut tokyo = Counter::new(daily(10, Tz::Asia__Tokyo), &counter.history(), ten_o_clock);
        assert_eq!(tokyo.standing().0.backfill, 5);
        write(&mut tokyo, 1);
        tokyo.take(Class::Backfill, 1);
        let third = Counter::new(
            daily(10, Tz::America__New_York),
            &tokyo.history(),
            ten_o_clock,
        );
        assert_eq!(third.standing().0.backfill, 6, "each counts once");
        let back = Counter::new(daily(10, Tz::UTC), &tokyo.history(), ten_o_clock);
        assert_eq!(back.standing().0.backfill, 6);
        tokyo.advance(10 * DAY + 15 * HOUR);
        assert_eq!(tokyo.standing().0.total(), 0, "the next date in Tokyo");
    }

    #[test]
    fn what_is_put_back_goes_to_its_own_window() {
        let mut counter = Counter::new(daily(10, Tz::UTC), &History::new(), 10 * DAY);
        write(&mut counter, 4);
        let start = counter.take(Class::Live, 4);
        counter.advance(11 * DAY);
        counter.put_back(Class::Live, 3, start);
        assert_eq!(counter.standing().0.total(), 0);
        counter.advance(10 * DAY);
        assert_eq!(counter.standing().0.total(), 1);
    }
}
