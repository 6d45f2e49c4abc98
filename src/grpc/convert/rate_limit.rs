//! Rate limits: wire to domain and back.

use std::time::Duration;

use super::{duration, time};
use crate::{
    error::{Classify, ErrorKind, Violation},
    limits::{
        self, Acquire, ByClass, Class, DEFAULT_HOLD, LimitSpec, LimitStatus, MAX_HOLD, Outcome,
        Rate, RateLimit, WindowQuota, WindowStatus,
    },
    pb,
    time::{CalendarError, Grain, SysTime, parse_zone},
};

const DEFAULT_PERIOD: Duration = Duration::from_secs(1);
const MIN_HOLD: Duration = Duration::from_millis(1);

/// Why a request about rate limits is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::grpc) enum Refused {
    #[error("{0}")]
    Field(Violation),
    #[error("{field}: {error}")]
    Zone {
        field: &'static str,
        error: CalendarError,
    },
    #[error("{error}")]
    Limits {
        /// The message that holds the field at fault.
        within: Option<&'static str>,
        error: limits::Error,
    },
}

impl From<Violation> for Refused {
    fn from(violation: Violation) -> Self {
        Self::Field(violation)
    }
}

impl From<limits::Error> for Refused {
    fn from(error: limits::Error) -> Self {
        Self::Limits {
            within: None,
            error,
        }
    }
}

impl Classify for Refused {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Field(_) => ErrorKind::InvalidArgument,
            Self::Zone { error, .. } => error.kind(),
            Self::Limits { error, .. } => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Field(_) => "INVALID_REQUEST",
            Self::Zone { error, .. } => error.reason(),
            Self::Limits { error, .. } => error.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Field(violation) => vec![violation.clone()],
            Self::Zone { field, error } => vec![Violation::new(*field, error.to_string())],
            Self::Limits { within, error } => {
                let violations = error.violations().into_iter();
                match within {
                    Some(parent) => violations.map(|it| it.within(parent)).collect(),
                    None => violations.collect(),
                }
            }
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Field(_) | Self::Zone { .. } => None,
            Self::Limits { error, .. } => error.resource(),
        }
    }
}

/// A definition as asked for.
pub(in crate::grpc) fn spec(wire: Option<pb::RateLimit>) -> Result<LimitSpec, Refused> {
    let Some(wire) = wire else {
        return Err(Violation::new("rate_limit", "it is required").into());
    };
    let pb::RateLimit {
        name,
        description,
        rate,
        burst,
        concurrent,
        hourly,
        daily,
        live_share_percent,
        create_time: _,
        update_time: _,
        status: _,
    } = wire;
    let spec = LimitSpec {
        name,
        description,
        rate: rate.map(self::rate).transpose()?,
        burst,
        concurrent,
        hourly: window("rate_limit.hourly.time_zone", Grain::Hourly, hourly)?,
        daily: window("rate_limit.daily.time_zone", Grain::Daily, daily)?,
        live_share_percent,
    };
    spec.check().map_err(|error| Refused::Limits {
        within: Some("rate_limit"),
        error,
    })?;
    Ok(spec)
}

fn rate(wire: pb::PermitRate) -> Result<Rate, Violation> {
    let pb::PermitRate { permits, per } = wire;
    let per = duration::from_wire("rate_limit.rate.per", per)?;
    Ok(Rate {
        permits,
        per: per.unwrap_or(DEFAULT_PERIOD),
    })
}

fn window(
    field: &'static str,
    grain: Grain,
    wire: Option<pb::PermitWindow>,
) -> Result<Option<WindowQuota>, Refused> {
    let Some(pb::PermitWindow { permits, time_zone }) = wire else {
        return Ok(None);
    };
    let zone = match time_zone.as_str() {
        "" => chrono_tz::Tz::UTC,
        name => parse_zone(name).map_err(|error| Refused::Zone { field, error })?,
    };
    Ok(Some(WindowQuota {
        permits,
        grain,
        zone,
    }))
}

/// A limit with how it stands.
pub(in crate::grpc) fn to_wire(status: &LimitStatus) -> pb::RateLimit {
    let RateLimit {
        spec,
        create_time_micros,
        update_time_micros,
    } = &status.limit;
    let LimitSpec {
        name,
        description,
        rate,
        burst,
        concurrent,
        hourly,
        daily,
        live_share_percent,
    } = spec;
    pb::RateLimit {
        name: name.clone(),
        description: description.clone(),
        rate: rate.map(|Rate { permits, per }| pb::PermitRate {
            permits,
            per: Some(duration::to_wire(per)),
        }),
        burst: *burst,
        concurrent: *concurrent,
        hourly: hourly.as_ref().map(window_to_wire),
        daily: daily.as_ref().map(window_to_wire),
        live_share_percent: *live_share_percent,
        create_time: Some(instant(*create_time_micros)),
        update_time: Some(instant(*update_time_micros)),
        status: Some(status_to_wire(status)),
    }
}

fn window_to_wire(quota: &WindowQuota) -> pb::PermitWindow {
    let WindowQuota {
        permits,
        grain: _,
        zone,
    } = quota;
    pb::PermitWindow {
        permits: *permits,
        time_zone: zone.name().to_owned(),
    }
}

/// How a limit stands.
pub(in crate::grpc) fn status_to_wire(status: &LimitStatus) -> pb::RateLimitStatus {
    let LimitStatus {
        limit: _,
        effective_rate,
        effective_concurrent,
        blocked,
        in_flight,
        waiting,
        granted,
        given_back: _,
        throttled,
        windows,
    } = status;
    let window = |grain: Grain| {
        let found = windows.iter().find(|window| window.quota.grain == grain);
        found.map(|window| {
            let WindowStatus {
                quota: _,
                used,
                reset_micros,
            } = window;
            pb::WindowUse {
                used: *used,
                reset_time: Some(instant(*reset_micros)),
            }
        })
    };
    pb::RateLimitStatus {
        effective_permits_per_second: *effective_rate,
        effective_concurrent: *effective_concurrent,
        blocked: blocked.map(duration::to_wire),
        in_flight: Some(by_class(*in_flight)),
        waiting: Some(by_class(*waiting)),
        granted: Some(by_class(*granted)),
        throttled_count: *throttled,
        hour: window(Grain::Hourly),
        day: window(Grain::Daily),
    }
}

fn by_class(counts: ByClass) -> pb::CountByClass {
    let ByClass { live, backfill } = counts;
    pb::CountByClass { live, backfill }
}

fn instant(micros: i64) -> prost_types::Timestamp {
    time::to_wire(SysTime::from_micros(micros))
}

/// What a caller is.
pub(in crate::grpc) fn class(field: &str, wire: i32) -> Result<Class, Violation> {
    match pb::CallerClass::try_from(wire) {
        Ok(pb::CallerClass::Live) => Ok(Class::Live),
        Ok(pb::CallerClass::Backfill) => Ok(Class::Backfill),
        Ok(pb::CallerClass::Unspecified) | Err(_) => Err(Violation::new(
            field,
            "say whether the caller is LIVE or BACKFILL",
        )),
    }
}

/// A request for permits, and how long their places are held.
pub(in crate::grpc) fn acquire(
    wire: pb::AcquirePermitsRequest,
) -> Result<(Acquire, Option<Duration>), Refused> {
    let pb::AcquirePermitsRequest {
        limit,
        permits,
        caller_class,
        client,
        max_wait,
        hold,
    } = wire;
    let hold = duration::from_wire("hold", hold)?;
    if hold.is_some_and(|hold| !(MIN_HOLD..=MAX_HOLD).contains(&hold)) {
        return Err(Violation::new("hold", "it must be from 1 ms to 1 hour").into());
    }
    let acquire = Acquire {
        limit,
        permits,
        class: class("caller_class", caller_class)?,
        client,
        patience: duration::from_wire("max_wait", max_wait)?,
    };
    Ok((acquire, hold))
}

/// How long places are held that nobody said anything about.
pub(in crate::grpc) fn hold_or_default(hold: Option<Duration>) -> Duration {
    hold.unwrap_or(DEFAULT_HOLD)
}

/// What an outside system said.
pub(in crate::grpc) fn outcome(
    wire: i32,
    retry_after: Option<prost_types::Duration>,
) -> Result<Outcome, Violation> {
    let retry_after = duration::from_wire("retry_after", retry_after)?;
    match (pb::CallOutcome::try_from(wire), retry_after) {
        (Ok(pb::CallOutcome::Success), None) => Ok(Outcome::Success),
        (Ok(pb::CallOutcome::Success), Some(_)) => Err(Violation::new(
            "retry_after",
            "only a throttled answer has one",
        )),
        (Ok(pb::CallOutcome::Throttled), retry_after) => Ok(Outcome::Throttled { retry_after }),
        (Ok(pb::CallOutcome::Unspecified) | Err(_), _) => Err(Violation::new(
            "outcome",
            "say whether it was SUCCESS or THROTTLED",
        )),
    }
}
