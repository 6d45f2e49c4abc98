//! Times, durations and sizes as people write them in arguments and definition files.
//!
//! An instant is RFC 3339 (`2013-02-08T07:00:00-05:00`), or a local date or time without an offset (`2013-02-08`,
//! `2013-02-08T07:00`), read in a zone that the command names: UTC, except for backfill ranges.

use std::{str::FromStr, time::Duration};

use chrono::{LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeZone};
use chrono_tz::{GapInfo, Tz};
use prost_types::Timestamp;

use crate::time::ValidTime;

/// Why a text is no time, duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No form of an instant fits.
    #[error(
        "cannot read {0:?} as a time such as 2013-02-08, 2013-02-08T12:00 or 2013-02-08T12:00:00Z"
    )]
    BadTime(String),
    /// The clocks of the zone skip it.
    #[error(
        "{text} does not exist in {zone}: the clocks go from {gap_start} to {gap_end} there; write {gap_end}"
    )]
    InGap {
        /// The local time as given.
        text: String,
        /// IANA name.
        zone: String,
        /// First local time that is skipped.
        gap_start: String,
        /// First local time after the gap.
        gap_end: String,
    },
    /// The zone is unknown.
    #[error("{0:?} is not an IANA time zone such as America/New_York")]
    BadZone(String),
    /// No duration.
    #[error("cannot read {0:?} as a duration such as 90s, 6h or 1h30m (units: ms, s, m, h, d, w)")]
    BadDuration(String),
    /// No size.
    #[error("cannot read {0:?} as a size such as 512MiB, 1GiB or 65536 (bytes)")]
    BadSize(String),
}

/// An instant that waits for a zone: what `--from` and `--to` hold before the transform's zone is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimeArg {
    /// Given with an offset.
    Instant(ValidTime),
    /// A calendar date: its first instant.
    Date(NaiveDate),
    /// A local time.
    Local(NaiveDateTime),
}

impl FromStr for TimeArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Ok(instant) = ValidTime::parse(text) {
            return Ok(Self::Instant(instant));
        }
        if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return Ok(Self::Date(date));
        }
        [
            "%Y-%m-%dT%H:%M",
            "%Y-%m-%dT%H:%M:%S%.f",
            "%Y-%m-%d %H:%M",
            "%Y-%m-%d %H:%M:%S%.f",
        ]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(Self::Local)
        .ok_or_else(|| Error::BadTime(text.to_owned()))
    }
}

impl TimeArg {
    /// Whether the zone decides which instant it is.
    pub(crate) fn needs_zone(&self) -> bool {
        !matches!(self, Self::Instant(_))
    }

    /// The instant, local forms being read in `zone`. A local time that occurs twice, where the clocks are set back,
    /// is the earlier one; a date starts at its first instant, midnight or not.
    ///
    /// # Errors
    /// A local time that the zone's clocks skip.
    pub(crate) fn resolve(&self, zone: Tz) -> Result<ValidTime, Error> {
        match self {
            Self::Instant(instant) => Ok(*instant),
            Self::Date(date) => {
                let midnight = date.and_time(NaiveTime::MIN);
                local_instant(midnight, zone)
                    .or_else(|gap_end| local_instant(gap_end, zone))
                    .map_err(|_| Error::BadTime(date.to_string()))
            }
            Self::Local(local) => {
                local_instant(*local, zone).map_err(|gap_end| in_gap(*local, gap_end, zone))
            }
        }
    }

    /// The instant, local forms being read as UTC.
    pub(crate) fn utc(&self) -> ValidTime {
        match self {
            Self::Instant(instant) => *instant,
            Self::Date(date) => ValidTime::from(date.and_time(NaiveTime::MIN).and_utc()),
            Self::Local(local) => ValidTime::from(local.and_utc()),
        }
    }
}

/// The earliest instant at which `zone`'s clocks show `local`; in a gap, the local time at which it ends.
fn local_instant(local: NaiveDateTime, zone: Tz) -> Result<ValidTime, NaiveDateTime> {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => {
            Ok(ValidTime::from(instant.to_utc()))
        }
        LocalResult::None => {
            let gap_end = GapInfo::new(&local, &zone)
                .and_then(|gap| gap.end)
                .map(|end| end.naive_local());
            Err(gap_end.unwrap_or(local))
        }
    }
}

fn in_gap(local: NaiveDateTime, gap_end: NaiveDateTime, zone: Tz) -> Error {
    let gap_start = GapInfo::new(&local, &zone)
        .and_then(|gap| gap.begin)
        .map_or(local, |(begin, _)| begin);
    let show = |time: NaiveDateTime| time.format("%Y-%m-%dT%H:%M").to_string();
    Error::InGap {
        text: show(local),
        zone: zone.name().to_owned(),
        gap_start: show(gap_start),
        gap_end: show(gap_end),
    }
}

/// A zone by its IANA name; empty means UTC, as on the wire.
pub(crate) fn zone(name: &str) -> Result<Tz, Error> {
    if name.is_empty() {
        return Ok(Tz::UTC);
    }
    name.parse().map_err(|_| Error::BadZone(name.to_owned()))
}

/// For the wire.
pub(crate) fn timestamp(instant: ValidTime) -> Timestamp {
    let (seconds, nanos) = instant.to_timestamp();
    Timestamp { seconds, nanos }
}

/// RFC 3339 in UTC, as short as it goes without loss: `2013-02-08T12:00:00Z`.
pub(crate) fn show(timestamp: &Timestamp) -> String {
    match ValidTime::from_timestamp(timestamp.seconds, timestamp.nanos) {
        Ok(instant) => instant.to_string(),
        Err(error) => format!("({error})"),
    }
}

/// As names of files have it, in UTC and always of one width: `20130208T120000.000000Z`.
pub(crate) fn show_compact(timestamp: &Timestamp) -> String {
    ValidTime::from_timestamp(timestamp.seconds, timestamp.nanos)
        .ok()
        .and_then(ValidTime::to_datetime)
        .map(|instant| instant.format("%Y%m%dT%H%M%S%.6fZ").to_string())
        .unwrap_or_default()
}

/// RFC 3339 in `zone` with its offset: `2013-02-08T07:00:00-05:00`.
pub(crate) fn show_local(timestamp: &Timestamp, zone: Tz) -> String {
    let instant = ValidTime::from_timestamp(timestamp.seconds, timestamp.nanos)
        .ok()
        .and_then(ValidTime::to_datetime);
    match instant {
        Some(instant) => instant
            .with_timezone(&zone)
            .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        None => show(timestamp),
    }
}

/// [`show`] to the second, and `-` for an unset field: for times that nobody copies.
pub(crate) fn show_seconds(timestamp: Option<&Timestamp>) -> String {
    timestamp.map_or_else(
        || "-".to_owned(),
        |timestamp| {
            show(&Timestamp {
                nanos: 0,
                ..*timestamp
            })
        },
    )
}

/// A partition boundary as arguments take it, in `zone`: `2013-02-08`, or `2013-02-08T07:00` off midnight.
pub(crate) fn show_boundary(timestamp: Option<&Timestamp>, zone: Tz) -> String {
    let local = timestamp
        .and_then(|t| ValidTime::from_timestamp(t.seconds, t.nanos).ok())
        .and_then(ValidTime::to_datetime)
        .map(|instant| instant.with_timezone(&zone).naive_local());
    match local {
        Some(local) if local.time() == NaiveTime::MIN => local.date().to_string(),
        Some(local) => local.format("%Y-%m-%dT%H:%M").to_string(),
        None => show_or_dash(timestamp),
    }
}

/// [`show`], and `-` for an unset field.
pub(crate) fn show_or_dash(timestamp: Option<&Timestamp>) -> String {
    timestamp.map_or_else(|| "-".to_owned(), show)
}

/// `90s`, `6h`, `1h30m`, `500ms`, `2d`, `0s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, Error> {
    let bad = || Error::BadDuration(text.to_owned());
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (count, tail) = rest.split_at(digits);
        let unit_length = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_length);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(bad()),
        };
        let count: u64 = count.parse().map_err(|_| bad())?;
        let part = count
            .checked_mul(unit_ms)
            .map(Duration::from_millis)
            .ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(total)
}

/// For the wire.
pub(crate) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// From the wire; a negative one, which hindcast never sends, is zero.
pub(crate) fn from_wire_duration(duration: &prost_types::Duration) -> Duration {
    Duration::try_from(*duration).unwrap_or_default()
}

/// For people: `350 ms`, `4.2 s`, `2 m 05 s`, `3 h 07 m`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds / 60 % 60),
    }
}

/// `65536`, `512MiB`, `1GiB`, `64MB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, Error> {
    let bad = || Error::BadSize(text.to_owned());
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let unit_bytes: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(bad()),
    };
    let count: u64 = count.parse().map_err(|_| bad())?;
    count.checked_mul(unit_bytes).ok_or_else(bad)
}

/// For people: `4.1 MiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, zone: &str) -> Result<String, Error> {
        text.parse::<TimeArg>()?
            .resolve(super::zone(zone)?)
            .map(|instant| instant.to_string())
    }

    #[test]
    fn every_form_of_an_instant() {
        for (text, zone, expected) in [
            ("2013-01-01", "", "2013-01-01T00:00:00Z"),
            ("2013-01-01", "America/New_York", "2013-01-01T05:00:00Z"),
            (
                "2013-07-01T05:00",
                "America/New_York",
                "2013-07-01T09:00:00Z",
            ),
            ("2013-07-01 05:00:07.5", "UTC", "2013-07-01T05:00:07.500Z"),
            (
                "2013-07-01T05:00:00Z",
                "America/New_York",
                "2013-07-01T05:00:00Z",
            ),
            (
                "2013-07-01T05:00:00+02:00",
                "America/New_York",
                "2013-07-01T03:00:00Z",
            ),
        ] {
            assert_eq!(
                resolve(text, zone).as_deref(),
                Ok(expected),
                "{text} in {zone}"
            );
        }
        assert!(matches!(resolve("yesterday", ""), Err(Error::BadTime(_))));
        assert!(matches!(resolve("2013-02-30", ""), Err(Error::BadTime(_))));
        assert!(matches!(
            resolve("2013-02-01", "New York"),
            Err(Error::BadZone(_))
        ));
    }

    #[test]
    fn a_time_that_the_clocks_skip_is_refused_and_named() {
        let error = resolve("2013-03-10T02:30", "America/New_York").expect_err("in the gap");
        assert_eq!(
            error.to_string(),
            "2013-03-10T02:30 does not exist in America/New_York: the clocks go from 2013-03-10T02:00 to \
             2013-03-10T03:00 there; write 2013-03-10T03:00"
        );
        assert_eq!(
            resolve("2013-03-10T03:00", "America/New_York").as_deref(),
            Ok("2013-03-10T07:00:00Z")
        );
    }

    #[test]
    fn a_time_that_occurs_twice_is_the_earlier() {
        assert_eq!(
            resolve("2013-11-03T01:30", "America/New_York").as_deref(),
            Ok("2013-11-03T05:30:00Z")
        );
    }

    #[test]
    fn a_date_without_midnight_starts_after_the_gap() {
        // Brazil's clocks went from 00:00 to 01:00.
        assert_eq!(
            resolve("2013-10-20", "America/Sao_Paulo").as_deref(),
            Ok("2013-10-20T03:00:00Z")
        );
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "6", "h", "6x", "-1s", "1.5h", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("2 GB"), Ok(2_000_000_000));
        for bad in ["", "MiB", "1.5G", "1TiB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(show_duration(Duration::from_secs(125)), "2 m 05 s");
    }
}
