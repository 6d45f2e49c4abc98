//! A zone's wall clock: what it reads at an instant, where it jumps, and when it first shows a reading.
//!
//! Readings are microseconds too: the instant at which a clock on UTC would read the same. Years 1 to 9999; rules are
//! those compiled into `chrono-tz`, which end in 2099: later years keep the last offset.

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const HOUR: i64 = 3_600 * SECOND;
pub(super) const DAY: i64 = 24 * HOUR;

/// `0001-01-01T00:00:00Z`.
const MIN_MICROS: i64 = -62_135_596_800 * SECOND;
/// `9999-12-31T23:59:59.999999Z`.
const MAX_MICROS: i64 = 253_402_300_800 * SECOND - 1;

/// Whether `micros` lies in the years 1 to 9999, in UTC.
pub(super) const fn in_range(micros: i64) -> bool {
    MIN_MICROS <= micros && micros <= MAX_MICROS
}

/// The clock on a wall in `zone`. `None` from any method: outside of the years that it knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallClock {
    pub(super) zone: Tz,
}

impl WallClock {
    /// Reading minus instant, in microseconds; positive east of Greenwich.
    pub(super) fn offset(self, instant: i64) -> Option<i64> {
        // A day's margin, so that searches around an instant in range stay total.
        if !in_range(instant.saturating_add(2 * DAY)) && !in_range(instant.saturating_sub(2 * DAY))
        {
            return None;
        }
        let utc = DateTime::from_timestamp_micros(instant)?.naive_utc();
        let offset = self.zone.offset_from_utc_datetime(&utc).fix();
        Some(i64::from(offset.local_minus_utc()) * SECOND)
    }

    /// The first instant in `(after, until]` whose offset is not that of `after`.
    ///
    /// Looks at the two ends only. Between two jumps of a zone lie at least 95 hours (Africa/Freetown, September 1939; the
    /// next is a week), so over spans shorter than that none is missed.
    pub(super) fn jump(self, after: i64, until: i64) -> Option<Option<i64>> {
        let before = self.offset(after)?;
        if before == self.offset(until)? {
            return Some(None);
        }
        let (mut same, mut other) = (after, until);
        while other - same > 1 {
            let middle = same + (other - same) / 2;
            if self.offset(middle)? == before {
                same = middle;
            } else {
                other = middle;
            }
        }
        Some(Some(other))
    }

    /// The earliest instant at which the clock reads `reading` or later.
    ///
    /// A reading that is shown twice gives the first time; one that a jump leaves out gives the jump.
    pub(super) fn first_at(self, reading: i64) -> Option<i64> {
        // Offsets stay within ±16 hours, so the answer is less than a day away.
        let (early, late) = (reading.checked_sub(DAY)?, reading.checked_add(DAY)?);
        let (before, after) = (self.offset(early)?, self.offset(late)?);
        let due = reading - before;
        Some(match self.jump(early, late)? {
            Some(jump) if jump <= due => jump.max(reading - after),
            Some(_) | None => due,
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::TZ_VARIANTS;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60 * SECOND;

    proptest! {
        #[test]
        fn no_earlier_instant_shows_the_reading(
            zone in 0..TZ_VARIANTS.len(),
            minutes in (-110 * 365 * 1440_i64)..(90 * 365 * 1440),
        ) {
            let clock = WallClock { zone: TZ_VARIANTS[zone] };
            let reading = minutes * MINUTE;
            let first = clock.first_at(reading).expect("in range");
            prop_assert!(first + clock.offset(first).expect("in range") >= reading);
            for step in 1..=48 * 12 {
                let earlier = first - 1 - (step - 1) * 5 * MINUTE;
                prop_assert!(earlier + clock.offset(earlier).expect("in range") < reading);
            }
        }
    }

    #[test]
    fn rules_end_in_2099() {
        let clock = WallClock {
            zone: Tz::America__New_York,
        };
        let july = |year: i32| {
            let reading = chrono::NaiveDate::from_ymd_opt(year, 7, 1)
                .expect("a date")
                .and_time(chrono::NaiveTime::MIN);
            clock
                .offset(reading.and_utc().timestamp_micros())
                .expect("in range")
                / HOUR
        };
        assert_eq!((july(2013), july(2099), july(2101)), (-4, -4, -5));
    }

    #[test]
    fn offsets_end_with_the_years_that_a_timestamp_holds() {
        let clock = WallClock { zone: Tz::UTC };
        assert_eq!(clock.offset(MIN_MICROS), Some(0));
        assert_eq!(clock.offset(MAX_MICROS), Some(0));
        assert_eq!(clock.offset(MAX_MICROS + 4 * DAY), None);
        assert_eq!(clock.offset(i64::MIN), None);
        assert_eq!(clock.first_at(i64::MAX), None);
    }
}
