//! Timestamps and instants.

use prost_types::Timestamp;

use crate::{
    error::Violation,
    pb,
    time::{InstantError, Interval, SysTime, ValidTime},
};

/// An instant of valid time.
///
/// # Errors
/// Outside of years 1 to 9999, or a malformed nanosecond part.
pub fn valid_time(field: &str, timestamp: &Timestamp) -> Result<ValidTime, Violation> {
    ValidTime::from_timestamp(timestamp.seconds, timestamp.nanos)
        .map_err(|error| violation(field, &error))
}

/// An instant of system time.
///
/// # Errors
/// As [`valid_time`].
pub fn sys_time(field: &str, timestamp: &Timestamp) -> Result<SysTime, Violation> {
    SysTime::from_timestamp(timestamp.seconds, timestamp.nanos)
        .map_err(|error| violation(field, &error))
}

/// An optional instant of valid time.
///
/// # Errors
/// As [`valid_time`].
pub fn optional_valid_time(
    field: &str,
    timestamp: Option<&Timestamp>,
) -> Result<Option<ValidTime>, Violation> {
    timestamp
        .map(|timestamp| valid_time(field, timestamp))
        .transpose()
}

/// An optional instant of system time.
///
/// # Errors
/// As [`valid_time`].
pub fn optional_sys_time(
    field: &str,
    timestamp: Option<&Timestamp>,
) -> Result<Option<SysTime>, Violation> {
    timestamp
        .map(|timestamp| sys_time(field, timestamp))
        .transpose()
}

/// A range of valid time; an unset range or end is open.
///
/// # Errors
/// As [`valid_time`], and a range in which no point lies.
pub fn valid_range(
    field: &str,
    range: Option<&pb::TimeRange>,
) -> Result<Interval<ValidTime>, Violation> {
    let pb::TimeRange { from, to } = range.copied().unwrap_or_default();
    let interval = Interval {
        from: optional_valid_time(&format!("{field}.from"), from.as_ref())?
            .unwrap_or(ValidTime::MIN),
        to: optional_valid_time(&format!("{field}.to"), to.as_ref())?,
    };
    check_not_empty(field, &interval)?;
    Ok(interval)
}

/// A range of system time; an unset range or end is open.
///
/// # Errors
/// As [`valid_range`].
pub fn sys_range(
    field: &str,
    range: Option<&pb::TimeRange>,
) -> Result<Interval<SysTime>, Violation> {
    let pb::TimeRange { from, to } = range.copied().unwrap_or_default();
    let interval = Interval {
        from: optional_sys_time(&format!("{field}.from"), from.as_ref())?.unwrap_or(SysTime::MIN),
        to: optional_sys_time(&format!("{field}.to"), to.as_ref())?,
    };
    check_not_empty(field, &interval)?;
    Ok(interval)
}

fn check_not_empty<T: Copy + Ord>(field: &str, interval: &Interval<T>) -> Result<(), Violation> {
    if interval.is_empty() {
        return Err(Violation::new(
            format!("{field}.to"),
            "it must be after `from`",
        ));
    }
    Ok(())
}

fn violation(field: &str, error: &InstantError) -> Violation {
    Violation::new(field, error.to_string())
}

impl From<ValidTime> for Timestamp {
    fn from(instant: ValidTime) -> Self {
        let (seconds, nanos) = instant.to_timestamp();
        Self { seconds, nanos }
    }
}

impl From<SysTime> for Timestamp {
    fn from(instant: SysTime) -> Self {
        let (seconds, nanos) = instant.to_timestamp();
        Self { seconds, nanos }
    }
}
