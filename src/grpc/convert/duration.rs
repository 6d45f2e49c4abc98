//! Durations: wire to domain and back.

use std::time::Duration;

use crate::error::Violation;

/// Longest duration: 10,000 years, what the wire's format allows.
const MAX_SECONDS: i64 = 315_576_000_000;

/// Bounds of an attempt's time: shorter ones end nothing but the first try, longer ones nothing at all.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long an attempt may take, at `field`; `None` if it is unset.
pub(in crate::grpc) fn attempt_timeout(
    field: &str,
    wire: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Violation> {
    let timeout = from_wire(field, wire)?;
    if timeout.is_some_and(|timeout| !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout)) {
        return Err(Violation::new(field, "it must be from 1 ms to 30 days"));
    }
    Ok(timeout)
}

/// The duration at `field`; `None` if it is unset.
pub(in crate::grpc) fn from_wire(
    field: &str,
    wire: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Violation> {
    let Some(prost_types::Duration { seconds, nanos }) = wire else {
        return Ok(None);
    };
    let duration = match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(whole), Ok(rest)) if seconds <= MAX_SECONDS && rest < 1_000_000_000 => {
            Duration::new(whole, rest)
        }
        _ => {
            return Err(Violation::new(
                field,
                format!("{seconds} s and {nanos} ns are not a duration of 0 or more"),
            ));
        }
    };
    Ok(Some(duration))
}

/// Whole microseconds of `duration`.
pub(in crate::grpc) fn to_micros(field: &str, duration: Duration) -> Result<i64, Violation> {
    i64::try_from(duration.as_micros()).map_err(|_| Violation::new(field, "it is too long"))
}

/// A duration as the wire carries it.
pub(in crate::grpc) fn to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(MAX_SECONDS),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Microseconds as the wire carries a duration.
pub(in crate::grpc) fn micros_to_wire(micros: i64) -> prost_types::Duration {
    to_wire(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}
