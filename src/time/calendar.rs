//! The calendar of partitions: how a grain and a time zone cut valid time into half-open slices.
//!
//! The slices tile time: each ends where the next begins, whatever the zone's clock does.
//! - A **day** runs from the first instant of the local date to the first instant of the next one: 23 or 25 hours long
//!   where the clock changes, and starting at 01:00 where it skips midnight. A date that a zone skips as a whole has no
//!   partition. Weeks (from Monday), months and years run between the first instants of their first days. Where the clock
//!   goes back over midnight, the instants that show yesterday's date again belong to the new day.
//! - An **hour** is a run of instants with one local date, hour and offset: 60 minutes, cut at the local clock's `:00`.
//!   An hour that the clock shows twice gives two partitions: the groups that pandas makes by wall-clock hour and UTC offset.
//!   A jump always starts a partition, so in a zone that shifts by 30 minutes (Lord Howe) it leaves one of 30 minutes;
//!   none is longer than 60.
//!
//! Pure; each boundary costs a few look-ups in the zone's compiled table of offsets.

mod error;
mod wall;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use self::wall::{HOUR, SECOND, WallClock};
use super::ValidTime;

pub use self::error::CalendarError;

/// How many partitions one range may hold: daily ones for 270 years.
pub const MAX_PARTITIONS: usize = 100_000;

/// The length of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    /// One hour of the local clock.
    Hourly,
    /// One local date.
    Daily,
    /// Monday to Monday.
    Weekly,
    /// One calendar month.
    Monthly,
    /// One calendar year.
    Yearly,
}

impl std::fmt::Display for Grain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        })
    }
}

impl std::str::FromStr for Grain {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, CalendarError> {
        match text {
            "hourly" => Ok(Self::Hourly),
            "daily" => Ok(Self::Daily),
            "weekly" => Ok(Self::Weekly),
            "monthly" => Ok(Self::Monthly),
            "yearly" => Ok(Self::Yearly),
            _ => Err(CalendarError::UnknownGrain {
                name: text.to_owned(),
            }),
        }
    }
}

/// One slice of valid time, `[start, end)`. Its identity is `start` and the grain; the label is for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// Inclusive.
    pub start: ValidTime,
    /// Exclusive; the next partition's start.
    pub end: ValidTime,
    /// `2013-11-03T01-04:00` (hour and offset), `2013-11-03`, `2013-W06`, `2013-02`, `2013`; unique in its calendar.
    pub label: String,
}

/// A grain in a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PartitionCalendar {
    grain: Grain,
    zone: Tz,
}

impl PartitionCalendar {
    /// The calendar of `grain` in `zone`.
    pub const fn new(grain: Grain, zone: Tz) -> Self {
        Self { grain, zone }
    }

    /// The calendar of `grain` in the IANA zone of that name.
    ///
    /// # Errors
    /// [`CalendarError::UnknownZone`].
    pub fn in_zone(grain: Grain, zone: &str) -> Result<Self, CalendarError> {
        Ok(Self::new(grain, parse_zone(zone)?))
    }

    /// The length of its partitions.
    pub const fn grain(&self) -> Grain {
        self.grain
    }

    /// The zone whose clock it follows.
    pub const fn zone(&self) -> Tz {
        self.zone
    }

    /// The partition that holds `instant`.
    ///
    /// # Errors
    /// [`CalendarError::OutOfRange`].
    pub fn partition_containing(&self, instant: ValidTime) -> Result<Partition, CalendarError> {
        let at = instant.micros();
        let found = if wall::in_range(at) {
            match self.grain {
                Grain::Hourly => self.hour_containing(at),
                Grain::Daily | Grain::Weekly | Grain::Monthly | Grain::Yearly => {
                    self.dates_containing(at)
                }
            }
        } else {
            None
        };
        found
            .filter(|found| {
                wall::in_range(found.start.micros()) && wall::in_range(found.end.micros())
            })
            .ok_or(CalendarError::OutOfRange { instant })
    }

    /// The partitions that make up `[from, to)`, in order; at least one.
    ///
    /// # Errors
    /// [`CalendarError::EmptyRange`], [`CalendarError::NotABoundary`] naming the end at fault,
    /// [`CalendarError::TooMany`], [`CalendarError::OutOfRange`].
    pub fn partitions(
        &self,
        from: ValidTime,
        to: ValidTime,
    ) -> Result<Vec<Partition>, CalendarError> {
        if from >= to {
            return Err(CalendarError::EmptyRange { from, to });
        }
        let mut next = self.starting_at("from", from)?;
        self.starting_at("to", to)?;
        let mut partitions = Vec::new();
        loop {
            if partitions.len() == MAX_PARTITIONS {
                return Err(CalendarError::TooMany {
                    grain: self.grain,
                    from,
                    to,
                });
            }
            let end = next.end;
            partitions.push(next);
            if end >= to {
                return Ok(partitions);
            }
            next = self.partition_containing(end)?;
        }
    }

    /// Whether a partition starts at `instant`.
    pub fn is_boundary(&self, instant: ValidTime) -> bool {
        self.partition_containing(instant)
            .is_ok_and(|partition| partition.start == instant)
    }

    /// The partition that starts at `start`.
    ///
    /// # Errors
    /// [`CalendarError::NotABoundary`], [`CalendarError::OutOfRange`].
    pub fn partition_at(&self, start: ValidTime) -> Result<Partition, CalendarError> {
        self.starting_at("start", start)
    }

    /// The partition before the one that starts at `start`.
    ///
    /// # Errors
    /// As [`Self::partition_at`].
    pub fn previous(&self, start: ValidTime) -> Result<Partition, CalendarError> {
        self.nth_before(start, 1)
    }

    /// The partition `n` places before the one that starts at `start`; that one itself for 0. Walks: costs `n` steps.
    ///
    /// # Errors
    /// As [`Self::partition_at`].
    pub fn nth_before(&self, start: ValidTime, n: u32) -> Result<Partition, CalendarError> {
        let mut partition = self.partition_at(start)?;
        for _ in 0..n {
            partition = self.partition_containing(partition.start.saturating_add_micros(-1))?;
        }
        Ok(partition)
    }

    /// The label of the partition that starts at `start`.
    ///
    /// # Errors
    /// As [`Self::partition_at`].
    pub fn label(&self, start: ValidTime) -> Result<String, CalendarError> {
        Ok(self.partition_at(start)?.label)
    }

    /// The earliest instant at which the zone's clock shows `reading` or later.
    ///
    /// A reading that is shown twice means the first time. One that the clock skips means the first instant after the gap,
    /// so midnight always gives the first instant of that date, or of the next date that the zone has.
    ///
    /// # Errors
    /// [`CalendarError::OutOfRange`].
    pub fn local(&self, reading: NaiveDateTime) -> Result<ValidTime, CalendarError> {
        let micros = reading.and_utc().timestamp_micros();
        WallClock { zone: self.zone }
            .first_at(micros)
            .filter(|instant| wall::in_range(*instant))
            .map(ValidTime::from_micros)
            .ok_or(CalendarError::OutOfRange {
                instant: ValidTime::from_micros(micros),
            })
    }

    fn starting_at(
        &self,
        field: &'static str,
        start: ValidTime,
    ) -> Result<Partition, CalendarError> {
        let partition = self.partition_containing(start)?;
        if partition.start == start {
            return Ok(partition);
        }
        Err(CalendarError::NotABoundary {
            field,
            given: start,
            before: partition.start,
            after: partition.end,
            grain: self.grain,
            zone: self.zone,
        })
    }

    fn hour_containing(&self, at: i64) -> Option<Partition> {
        let clock = WallClock { zone: self.zone };
        let offset = clock.offset(at)?;
        let full_hour = at - (at + offset).rem_euclid(HOUR);
        // At most one jump lies in these two spans: the last one at or before `at`, the first one after it.
        let start = clock.jump(full_hour, at)?.unwrap_or(full_hour);
        let end = clock
            .jump(at, full_hour + HOUR)?
            .unwrap_or(full_hour + HOUR);
        let reading = DateTime::from_timestamp_micros(start + offset)?;
        Some(Partition {
            start: ValidTime::from_micros(start),
            end: ValidTime::from_micros(end),
            label: format!("{}{}", reading.format("%Y-%m-%dT%H"), OffsetLabel(offset)),
        })
    }

    /// For the grains whose partitions begin with a date.
    fn dates_containing(&self, at: i64) -> Option<Partition> {
        let clock = WallClock { zone: self.zone };
        let reading = DateTime::from_timestamp_micros(at + clock.offset(at)?)?;
        let mut first = self.first_date(reading.date_naive())?;
        let mut following = self.following(first)?;
        // A clock that goes back over midnight shows yesterday's date in today's partition.
        while first_instant(clock, following)? <= at {
            first = following;
            following = self.following(first)?;
        }
        Some(Partition {
            start: ValidTime::from_micros(first_instant(clock, first)?),
            end: ValidTime::from_micros(first_instant(clock, following)?),
            label: self.date_label(first),
        })
    }

    /// The first date of the slice that holds `date`.
    fn first_date(&self, date: NaiveDate) -> Option<NaiveDate> {
        match self.grain {
            Grain::Hourly | Grain::Daily => Some(date),
            Grain::Weekly => {
                date.checked_sub_days(Days::new(u64::from(date.weekday().num_days_from_monday())))
            }
            Grain::Monthly => date.with_day(1),
            Grain::Yearly => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        }
    }

    /// The first date of the slice after the one that begins with `first`.
    fn following(&self, first: NaiveDate) -> Option<NaiveDate> {
        match self.grain {
            Grain::Hourly | Grain::Daily => first.succ_opt(),
            Grain::Weekly => first.checked_add_days(Days::new(7)),
            Grain::Monthly => first.checked_add_months(Months::new(1)),
            Grain::Yearly => first.checked_add_months(Months::new(12)),
        }
    }

    fn date_label(&self, first: NaiveDate) -> String {
        let form = match self.grain {
            Grain::Hourly | Grain::Daily => "%Y-%m-%d",
            Grain::Weekly => "%G-W%V",
            Grain::Monthly => "%Y-%m",
            Grain::Yearly => "%Y",
        };
        first.format(form).to_string()
    }
}

/// The IANA zone of that name.
///
/// # Errors
/// [`CalendarError::UnknownZone`].
pub fn parse_zone(name: &str) -> Result<Tz, CalendarError> {
    name.parse().map_err(|_| CalendarError::UnknownZone {
        name: name.to_owned(),
    })
}

/// The first instant of `date`; of the next date if the zone skips it.
fn first_instant(clock: WallClock, date: NaiveDate) -> Option<i64> {
    clock.first_at(date.and_time(NaiveTime::MIN).and_utc().timestamp_micros())
}

/// `-04:00`, or `-00:44:30` for the offsets of old that had seconds.
struct OffsetLabel(i64);

impl std::fmt::Display for OffsetLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        let seconds = self.0.abs() / SECOND;
        write!(f, "{sign}{:02}:{:02}", seconds / 3_600, seconds / 60 % 60)?;
        match seconds % 60 {
            0 => Ok(()),
            rest => write!(f, ":{rest:02}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{Classify, ErrorKind};

    const GRAINS: [Grain; 5] = [
        Grain::Hourly,
        Grain::Daily,
        Grain::Weekly,
        Grain::Monthly,
        Grain::Yearly,
    ];

    fn calendar(grain: Grain, zone: &str) -> PartitionCalendar {
        PartitionCalendar::in_zone(grain, zone).expect("a zone")
    }

    fn at(text: &str) -> ValidTime {
        ValidTime::parse(text).expect("an instant")
    }

    proptest! {
        #[test]
        fn partitions_tile_time_and_agree_with_containing(
            zone in 0..chrono_tz::TZ_VARIANTS.len(),
            grain in 0..GRAINS.len(),
            second in -3_500_000_000_i64..4_000_000_000,
            count in 1_usize..30,
        ) {
            let calendar = PartitionCalendar::new(GRAINS[grain], chrono_tz::TZ_VARIANTS[zone]);
            let first = calendar.partition_containing(ValidTime::from_micros(second * SECOND)).expect("in range");
            prop_assert!(first.start.micros() <= second * SECOND && second * SECOND < first.end.micros());
            let mut walked = vec![first];
            while walked.len() < count {
                let end = walked[walked.len() - 1].end;
                walked.push(calendar.partition_containing(end).expect("in range"));
            }
            for pair in walked.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert_ne!(&pair[0].label, &pair[1].label);
                prop_assert_eq!(&calendar.previous(pair[1].start).expect("in range"), &pair[0]);
            }
            for partition in &walked {
                prop_assert!(partition.start < partition.end);
                let last = partition.end.saturating_add_micros(-1);
                prop_assert_eq!(&calendar.partition_containing(last).expect("in range"), partition);
                prop_assert!(calendar.is_boundary(partition.start));
            }
            let labels: std::collections::HashSet<_> = walked.iter().map(|partition| &partition.label).collect();
            prop_assert_eq!(labels.len(), walked.len());
            let (from, to) = (walked[0].start, walked[walked.len() - 1].end);
            prop_assert_eq!(calendar.partitions(from, to).expect("boundaries"), walked);
        }
    }

    #[test]
    fn ranges_are_refused_with_the_nearest_boundaries() {
        let days = calendar(Grain::Daily, "America/New_York");
        let (from, to) = (at("2013-01-01T05:00:00Z"), at("2013-01-03T05:00:00Z"));
        assert_eq!(days.partitions(from, to).expect("boundaries").len(), 2);
        let error = days
            .partitions(from, at("2013-01-03T00:00:00Z"))
            .expect_err("midnight UTC");
        assert_eq!(error.violations()[0].field, "to");
        assert_eq!(
            error.to_string(),
            "2013-01-03T00:00:00Z is no daily boundary in America/New_York; \
             the nearest are 2013-01-02T05:00:00Z and 2013-01-03T05:00:00Z"
        );
        assert_eq!(
            days.partitions(to, from).expect_err("inverted").reason(),
            "EMPTY_PARTITION_RANGE"
        );
        assert_eq!(
            days.partitions(from, from).expect_err("empty").reason(),
            "EMPTY_PARTITION_RANGE"
        );
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        let hours = calendar(Grain::Hourly, "UTC");
        let from = at("2000-01-01T00:00:00Z");
        let to = from.saturating_add_micros(100_000 * HOUR);
        assert_eq!(
            hours.partitions(from, to).expect("100,000").len(),
            MAX_PARTITIONS
        );
        let error = hours
            .partitions(from, to.saturating_add_micros(HOUR))
            .expect_err("one more");
        assert_eq!(error.reason(), "TOO_MANY_PARTITIONS");
    }

    #[test]
    fn the_ends_of_the_scale_are_errors() {
        for grain in GRAINS {
            for zone in ["UTC", "America/New_York", "Pacific/Apia"] {
                let calendar = calendar(grain, zone);
                for micros in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1] {
                    let error = calendar.partition_containing(ValidTime::from_micros(micros));
                    assert_eq!(
                        error.expect_err("out of range").kind(),
                        ErrorKind::OutOfRange
                    );
                }
                assert!(
                    calendar
                        .partition_containing(at("9999-12-31T23:59:59.999999Z"))
                        .is_err()
                );
                assert!(calendar.previous(ValidTime::MIN).is_err());
                assert!(
                    calendar.local(NaiveDateTime::MAX).is_err()
                        && calendar.local(NaiveDateTime::MIN).is_err()
                );
            }
            assert!(
                calendar(grain, "UTC")
                    .partition_containing(at("9998-12-31T23:00:00Z"))
                    .is_ok()
            );
        }
    }

    #[test]
    fn names_are_checked_and_round_trip() {
        for grain in GRAINS {
            assert_eq!(grain.to_string().parse::<Grain>().expect("a grain"), grain);
            assert_eq!(
                serde_json::to_string(&grain).expect("json"),
                format!("\"{grain}\"")
            );
        }
        assert!("Daily".parse::<Grain>().is_err());
        let error = parse_zone("New York").expect_err("no zone");
        assert_eq!(
            error.to_string(),
            "\"New York\" is no IANA time zone such as America/New_York"
        );
    }

    #[test]
    fn local_readings_take_the_first_time_and_the_end_of_the_gap() {
        let days = calendar(Grain::Daily, "America/New_York");
        let reading = |text: &str| {
            days.local(text.parse().expect("a reading"))
                .expect("in range")
                .to_string()
        };
        assert_eq!(reading("2013-11-03T01:30:00"), "2013-11-03T05:30:00Z");
        assert_eq!(reading("2013-03-10T02:30:00"), "2013-03-10T07:00:00Z");
        assert_eq!(reading("2013-03-10T03:30:00"), "2013-03-10T07:30:00Z");
    }
}
