//! What rate limits tell of themselves when they are asked.

use std::{fmt, sync::Arc};

use super::{
    Limits,
    live::Live,
    model::{ByClass, Class, LimitStatus},
};
use crate::{
    telemetry::{Collect, Labels, Sheet},
    time::Grain,
};

/// **Cost**: a look at every limit.
impl Collect for Limits {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let limits: Vec<_> = self.inner.limits.read().values().cloned().collect();
        let statuses: Vec<_> = limits.iter().map(|limit| limit.status()).collect();
        grants(sheet, &statuses)?;
        sheet.gauges(
            "hindcast_rate_limit_waiting",
            "Requests that wait for permits.",
            by_class(&statuses, |status| status.waiting),
        )?;
        sheet.gauges(
            "hindcast_rate_limit_in_flight",
            "Calls under way that hold permits.",
            by_class(&statuses, |status| status.in_flight),
        )?;
        rates(sheet, &statuses)?;
        sheet.counters(
            "hindcast_rate_limit_throttled",
            "Throttled answers of outside systems that were reported.",
            statuses
                .iter()
                .map(|status| (named(status), status.throttled)),
        )?;
        quotas(sheet, &statuses)?;
        waits(sheet, &limits)
    }
}

fn grants(sheet: &mut Sheet<'_>, statuses: &[LimitStatus]) -> fmt::Result {
    let ever = |status: &LimitStatus| ByClass {
        live: status.granted.live + status.given_back.live,
        backfill: status.granted.backfill + status.given_back.backfill,
    };
    sheet.counters(
        "hindcast_rate_limit_permits",
        "Permits that were granted.",
        by_class(statuses, ever),
    )?;
    sheet.counters(
        "hindcast_rate_limit_permits_given_back",
        "Permits that were granted and given back unused.",
        by_class(statuses, |status| status.given_back),
    )
}

fn rates(sheet: &mut Sheet<'_>, statuses: &[LimitStatus]) -> fmt::Result {
    let stated = |status: &LimitStatus| status.limit.spec.rate.map(|rate| rate.per_second());
    sheet.gauges(
        "hindcast_rate_limit_permits_per_second",
        "The rate of limits that have one, as it is stated.",
        statuses
            .iter()
            .filter_map(|status| Some((named(status), stated(status)?))),
    )?;
    sheet.gauges(
        "hindcast_rate_limit_effective_permits_per_second",
        "The rate that is in force after throttled answers.",
        statuses
            .iter()
            .filter_map(|status| Some((named(status), status.effective_rate?))),
    )
}

fn quotas(sheet: &mut Sheet<'_>, statuses: &[LimitStatus]) -> fmt::Result {
    let windows = || {
        statuses.iter().flat_map(|status| {
            status.windows.iter().map(move |window| {
                let length = match window.quota.grain {
                    Grain::Hourly => "hour",
                    Grain::Daily | Grain::Weekly | Grain::Monthly | Grain::Yearly => "day",
                };
                let mut labels = named(status);
                labels.push(("window", length));
                (labels, window)
            })
        })
    };
    sheet.gauges(
        "hindcast_rate_limit_window_used",
        "Permits granted in the hour or day of now.",
        windows().map(|(labels, window)| (labels, window.used)),
    )?;
    sheet.gauges(
        "hindcast_rate_limit_window_quota",
        "Permits of one hour or day.",
        windows().map(|(labels, window)| (labels, window.quota.permits)),
    )
}

fn waits(sheet: &mut Sheet<'_>, limits: &[Arc<Live>]) -> fmt::Result {
    let waits = limits
        .iter()
        .map(|limit| (vec![("limit", limit.name())], limit.waits()));
    sheet.histograms(
        "hindcast_rate_limit_wait_seconds",
        "Time that granted requests waited for their permits.",
        waits,
    )
}

fn name(class: Class) -> &'static str {
    match class {
        Class::Live => "live",
        Class::Backfill => "backfill",
    }
}

fn named(status: &LimitStatus) -> Labels<'_> {
    vec![("limit", &status.limit.spec.name)]
}

/// Two values of each limit.
fn by_class(
    statuses: &[LimitStatus],
    count: impl Fn(&LimitStatus) -> ByClass,
) -> impl Iterator<Item = (Labels<'_>, u64)> {
    statuses.iter().flat_map(move |status| {
        let count = count(status);
        [Class::Live, Class::Backfill].map(|class| {
            let mut labels = named(status);
            labels.push(("class", name(class)));
            (labels, count.get(class))
        })
    })
}
