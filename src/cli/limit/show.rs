//! Rate limits as people read them.

use super::quota::show_rate;
use crate::{
    cli::{
        error::Error,
        output::{self, Columns, Format, row},
        times,
    },
    pb,
};

/// One limit with how it stands.
pub(super) fn one(limit: &pb::RateLimit, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(limit);
    }
    let status = limit.status.unwrap_or_default();
    let blocked = status.blocked.as_ref().map_or_else(String::new, |blocked| {
        let left = times::show_duration(times::from_wire_duration(blocked));
        format!("for {left}, as the outside system asked")
    });
    let share = match limit.live_share_percent {
        0 => String::new(),
        percent => format!("{percent} % of each quota"),
    };
    output::facts(&[
        ("name", limit.name.clone()),
        ("description", limit.description.clone()),
        ("allows", quotas(limit)),
        ("for live callers", share),
        ("in force", in_force(limit, &status)),
        ("stopped", blocked),
        ("hour", window(limit.hourly.as_ref(), status.hour.as_ref())),
        ("day", window(limit.daily.as_ref(), status.day.as_ref())),
        ("waiting", by_class(status.waiting)),
        ("under way", by_class(status.in_flight)),
        ("granted", by_class(status.granted)),
        ("throttled", output::count(status.throttled_count)),
        ("created", times::show_or_dash(limit.create_time.as_ref())),
        ("updated", times::show_or_dash(limit.update_time.as_ref())),
    ])
}

/// All limits.
pub(super) fn many(response: &pb::ListRateLimitsResponse, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(response);
    }
    let mut columns = Columns::new(&["name", "~allows", "in force", ">waiting", ">granted"]);
    for limit in &response.rate_limits {
        let status = limit.status.unwrap_or_default();
        columns.row(row![
            limit.name.clone(),
            quotas(limit),
            in_force(limit, &status),
            output::count(total(status.waiting)),
            output::count(total(status.granted)),
        ]);
    }
    columns.print("no rate limits; `hindcast limit create` makes one")
}

/// `100/s, burst 20, 8 at once, 50,000 a day (America/New_York)`.
pub(super) fn quotas(limit: &pb::RateLimit) -> String {
    let of = |window: &Option<pb::PermitWindow>, what: &str| {
        let window = window.as_ref()?;
        Some(format!(
            "{} {what} ({})",
            output::count(window.permits),
            window.time_zone
        ))
    };
    let parts = [
        limit.rate.as_ref().map(show_rate),
        limit.burst.map(|burst| format!("burst {burst}")),
        limit
            .concurrent
            .map(|calls| format!("{} at once", output::count(calls.into()))),
        of(&limit.hourly, "an hour"),
        of(&limit.daily, "a day"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What back-off leaves: `all of it`, or `50.0/s`.
fn in_force(limit: &pb::RateLimit, status: &pb::RateLimitStatus) -> String {
    let rate = limit.rate.as_ref().map(|rate| {
        let per = rate.per.as_ref().map(times::from_wire_duration);
        f64::from(rate.permits) / per.map_or(1.0, |per| per.as_secs_f64())
    });
    match (status.effective_permits_per_second, rate) {
        (Some(effective), Some(rate)) if effective < rate => {
            return format!("{effective:.2}/s of {rate:.2}/s");
        }
        _ => {}
    }
    match (status.effective_concurrent, limit.concurrent) {
        (Some(effective), Some(calls)) if effective < calls => {
            format!("{effective} of {calls} at once")
        }
        _ => "all of it".to_owned(),
    }
}

/// `1,234 of 50,000, until 2026-03-02 05:00:00Z`.
fn window(quota: Option<&pb::PermitWindow>, used: Option<&pb::WindowUse>) -> String {
    match (quota, used) {
        (Some(quota), Some(used)) => format!(
            "{} of {}, until {}",
            output::count(used.used),
            output::count(quota.permits),
            times::show_or_dash(used.reset_time.as_ref())
        ),
        _ => String::new(),
    }
}

/// `3 live, 1,200 backfill`.
fn by_class(counts: Option<pb::CountByClass>) -> String {
    let pb::CountByClass { live, backfill } = counts.unwrap_or_default();
    format!(
        "{} live, {} backfill",
        output::count(live),
        output::count(backfill)
    )
}

fn total(counts: Option<pb::CountByClass>) -> u64 {
    counts.map_or(0, |counts| counts.live + counts.backfill)
}
