//! Half-open ranges of time.

use crate::{
    error::Violation,
    grpc::convert::time,
    pb,
    time::{Interval, SysTime, ValidTime},
};

/// A range of valid time; an unset range or end is open.
///
/// # Errors
/// A bound that is no instant, and a range in which no point lies.
pub(in crate::grpc) fn valid(
    field: &str,
    range: Option<pb::TimeRange>,
) -> Result<Interval<ValidTime>, Violation> {
    interval(field, range, ValidTime::MIN)
}

/// A range of system time; an unset range or end is open.
///
/// # Errors
/// As [`valid`].
pub(in crate::grpc) fn system(
    field: &str,
    range: Option<pb::TimeRange>,
) -> Result<Interval<SysTime>, Violation> {
    interval(field, range, SysTime::MIN)
}

fn interval<T: time::Instant + Copy + Ord>(
    field: &str,
    range: Option<pb::TimeRange>,
    start: T,
) -> Result<Interval<T>, Violation> {
    let pb::TimeRange { from, to } = range.unwrap_or_default();
    let interval = Interval {
        from: time::from_wire(&format!("{field}.from"), from)?.unwrap_or(start),
        to: time::from_wire(&format!("{field}.to"), to)?,
    };
    if interval.is_empty() {
        return Err(Violation::new(
            format!("{field}.to"),
            "it must be after `from`",
        ));
    }
    Ok(interval)
}
