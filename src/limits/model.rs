//! What a rate limit is, who asks, and how one stands.

use std::time::Duration;

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::{Error, Quota, Result};
use crate::{
    catalog::check_name,
    time::{Grain, PartitionCalendar},
};

/// The highest rate: one permit each microsecond.
pub const MAX_PERMITS_PER_SECOND: u32 = 1_000_000;
/// The longest time that a rate may be stated over, and that a burst may take to fill again.
pub const MAX_PERIOD: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most concurrent calls.
pub const MAX_CONCURRENT: u32 = 1_000_000;
/// The largest quota of an hour or a day.
pub const MAX_WINDOW_PERMITS: u64 = 1_000_000_000_000;
/// The largest share that can be kept for live traffic.
pub const MAX_LIVE_SHARE_PERCENT: u32 = 99;
/// The longest description.
pub const MAX_DESCRIPTION_BYTES: usize = 1_024;
/// The longest name of a client.
pub const MAX_CLIENT_BYTES: usize = 128;
/// A burst that is not stated holds what the rate gives in this time.
pub const DEFAULT_BURST_TIME: Duration = Duration::from_millis(100);

const NANOS: u128 = 1_000_000_000;

/// So many permits in so much time, evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// At least 1.
    pub permits: u32,
    /// From 1 ms to [`MAX_PERIOD`].
    pub per: Duration,
}

impl Rate {
    /// Permits in each second.
    pub fn per_second(self) -> f64 {
        f64::from(self.permits) / self.per.as_secs_f64()
    }

    /// The time that one permit takes, rounded up: never more permits than stated.
    pub(super) fn interval_nanos(self) -> u64 {
        let nanos = self.per.as_nanos().div_ceil(u128::from(self.permits));
        u64::try_from(nanos).unwrap_or(u64::MAX).max(1)
    }

    /// What [`DEFAULT_BURST_TIME`] gives, at least 1.
    pub fn default_burst(self) -> u32 {
        let permits = DEFAULT_BURST_TIME.as_nanos() / u128::from(self.interval_nanos());
        u32::try_from(permits).unwrap_or(u32::MAX).max(1)
    }

    fn check(self) -> Result<()> {
        let invalid = |problem: String| {
            Err(Error::RateInvalid {
                field: "rate",
                problem,
            })
        };
        if self.permits == 0 {
            return invalid(
                "it must grant at least 1 permit; leave out what is not limited".into(),
            );
        }
        if !(Duration::from_millis(1)..=MAX_PERIOD).contains(&self.per) {
            return invalid(format!(
                "it must be stated over 1 ms to 30 days, not {:?}",
                self.per
            ));
        }
        let most = self.per.as_nanos() * u128::from(MAX_PERMITS_PER_SECOND) / NANOS;
        if u128::from(self.permits) > most {
            return invalid(format!(
                "it must be at most {MAX_PERMITS_PER_SECOND} permits a second"
            ));
        }
        Ok(())
    }
}

/// So many permits in each hour or local date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowQuota {
    /// At least 1.
    pub permits: u64,
    /// [`Grain::Hourly`] or [`Grain::Daily`].
    pub grain: Grain,
    /// Whose hours or dates.
    pub zone: Tz,
}

impl WindowQuota {
    /// Its windows.
    pub(super) fn calendar(&self) -> PartitionCalendar {
        PartitionCalendar::new(self.grain, self.zone)
    }

    fn check(&self, field: &'static str) -> Result<()> {
        let problem = match self.grain {
            Grain::Hourly | Grain::Daily if (1..=MAX_WINDOW_PERMITS).contains(&self.permits) => {
                return Ok(());
            }
            Grain::Hourly | Grain::Daily => format!(
                "{} is not from 1 to {MAX_WINDOW_PERMITS} permits",
                self.permits
            ),
            Grain::Weekly | Grain::Monthly | Grain::Yearly => {
                format!("a quota is counted by hour or day, not {}", self.grain)
            }
        };
        Err(Error::WindowQuotaInvalid { field, problem })
    }
}

/// What a limit allows. At least one of its quotas is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSpec {
    /// `[a-z_][a-z0-9_]*`.
    pub name: String,
    /// For people.
    pub description: String,
    /// How fast permits come.
    pub rate: Option<Rate>,
    /// Permits that may be taken at once after a quiet time; `None`: [`Rate::default_burst`].
    pub burst: Option<u32>,
    /// Calls that may be under way at once.
    pub concurrent: Option<u32>,
    /// Permits of each hour.
    pub hourly: Option<WindowQuota>,
    /// Permits of each date.
    pub daily: Option<WindowQuota>,
    /// Percent of each quota that backfills cannot have; 0 to [`MAX_LIVE_SHARE_PERCENT`].
    pub live_share_percent: u32,
}

impl LimitSpec {
    /// A limit of this name that has no quota yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            rate: None,
            burst: None,
            concurrent: None,
            hourly: None,
            daily: None,
            live_share_percent: 0,
        }
    }

    /// The burst in force; `None` without a rate.
    pub fn effective_burst(&self) -> Option<u32> {
        let rate = self.rate?;
        Some(self.burst.unwrap_or_else(|| rate.default_burst()))
    }

    /// The quota of hours or of dates; there are none of other windows.
    pub(super) fn quota_of(&self, grain: Grain) -> Option<WindowQuota> {
        let mut quotas = [self.hourly, self.daily].into_iter().flatten();
        quotas.find(|quota| quota.grain == grain)
    }

    /// The part of `quota` that callers of `class` can have: all of it, or what is not kept for live traffic, at least 1.
    pub(super) fn share(&self, class: Class, quota: u64) -> u64 {
        match class {
            Class::Live => quota,
            Class::Backfill => {
                let percent = u128::from(100 - self.live_share_percent.min(99));
                let share = u128::from(quota) * percent / 100;
                u64::try_from(share).unwrap_or(u64::MAX).max(1)
            }
        }
    }

    /// The most permits that a caller of `class` can ever have at once, and which quota says so.
    pub(super) fn most(&self, class: Class) -> Option<(u64, Quota)> {
        let quotas = [
            (self.effective_burst().map(u64::from), Quota::Burst),
            (self.concurrent.map(u64::from), Quota::Concurrent),
            (self.hourly.map(|quota| quota.permits), Quota::Hour),
            (self.daily.map(|quota| quota.permits), Quota::Day),
        ];
        quotas
            .into_iter()
            .filter_map(|(permits, quota)| Some((self.share(class, permits?), quota)))
            .min_by_key(|(most, _)| *most)
    }

    /// Refuses what cannot be a limit.
    ///
    /// # Errors
    /// One of the `…Invalid` errors, naming the field.
    pub fn check(&self) -> Result<()> {
        check_name("name", &self.name).map_err(Error::NameInvalid)?;
        if self.description.len() > MAX_DESCRIPTION_BYTES {
            return Err(Error::DescriptionTooLong {
                size_bytes: self.description.len(),
            });
        }
        if self.live_share_percent > MAX_LIVE_SHARE_PERCENT {
            return Err(Error::LiveShareInvalid {
                percent: self.live_share_percent,
            });
        }
        self.check_rate()?;
        if let Some(concurrent) = self.concurrent
            && !(1..=MAX_CONCURRENT).contains(&concurrent)
        {
            return Err(Error::ConcurrentInvalid { concurrent });
        }
        if let Some(quota) = &self.hourly {
            quota.check("hourly")?;
        }
        if let Some(quota) = &self.daily {
            quota.check("daily")?;
        }
        match self.most(Class::Live) {
            Some(_) => Ok(()),
            None => Err(Error::NoQuota {
                name: self.name.clone(),
            }),
        }
    }

    fn check_rate(&self) -> Result<()> {
        let burst_invalid = |problem: String| Err(Error::BurstInvalid { problem });
        let Some(rate) = self.rate else {
            return match self.burst {
                None => Ok(()),
                Some(_) => burst_invalid("a burst needs a rate".into()),
            };
        };
        rate.check()?;
        let Some(burst) = self.burst else {
            return Ok(());
        };
        if burst == 0 {
            return burst_invalid("it must be at least 1: a burst of 0 grants nothing".into());
        }
        let most = MAX_PERIOD.as_nanos() / u128::from(rate.interval_nanos());
        if u128::from(burst) > most {
            return burst_invalid(format!(
                "{burst} permits take more than 30 days at this rate; at most {most} do not"
            ));
        }
        Ok(())
    }
}

/// A limit as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// What it allows.
    pub spec: LimitSpec,
    /// Microseconds since the Unix epoch.
    pub create_time_micros: i64,
    /// Microseconds since the Unix epoch.
    pub update_time_micros: i64,
}

/// What a caller is. Backfills wait while live callers do, and cannot have the share that is kept for these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Someone waits for it now.
    Live,
    /// It can wait.
    Backfill,
}

/// A request for permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// The limit's name.
    pub limit: String,
    /// How many at once; at least 1.
    pub permits: u32,
    /// What the caller is.
    pub class: Class,
    /// Who the caller is: clients take turns, and one client's requests are served in order. At most
    /// [`MAX_CLIENT_BYTES`].
    pub client: String,
    /// How long to wait at most; `None`: as long as it takes.
    pub patience: Option<Duration>,
}

impl Acquire {
    /// A request that waits as long as it takes.
    pub fn new(
        limit: impl Into<String>,
        permits: u32,
        class: Class,
        client: impl Into<String>,
    ) -> Self {
        Self {
            limit: limit.into(),
            permits,
            class,
            client: client.into(),
            patience: None,
        }
    }
}

/// What the outside system said to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Success,
    /// It was asked too often: 429, `RESOURCE_EXHAUSTED`.
    Throttled {
        /// Its `Retry-After`: nothing is granted before that has passed.
        retry_after: Option<Duration>,
    },
}

/// Live and backfill callers' part of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ByClass {
    /// Of live callers.
    pub live: u64,
    /// Of backfills.
    pub backfill: u64,
}

impl ByClass {
    /// Of both.
    pub fn total(self) -> u64 {
        self.live + self.backfill
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            live: self.live.saturating_add(other.live),
            backfill: self.backfill.saturating_add(other.backfill),
        }
    }

    pub(super) fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Live => &mut self.live,
            Class::Backfill => &mut self.backfill,
        }
    }

    pub(super) fn get(self, class: Class) -> u64 {
        match class {
            Class::Live => self.live,
            Class::Backfill => self.backfill,
        }
    }
}

/// How the quota of an hour or a day stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowStatus {
    /// The quota.
    pub quota: WindowQuota,
    /// Granted in the window of now. After a crash it holds permits that were set aside and not granted.
    pub used: u64,
    /// When the next window starts, in microseconds since the Unix epoch.
    pub reset_micros: i64,
}

/// How a limit stands.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitStatus {
    /// The limit.
    pub limit: RateLimit,
    /// Permits a second after back-off: at most the stated rate; `None` without a rate.
    pub effective_rate: Option<f64>,
    /// Concurrent calls after back-off; `None` without such a quota.
    pub effective_concurrent: Option<u32>,
    /// How long nothing is granted, by the outside system's `Retry-After`.
    pub blocked: Option<Duration>,
    /// Calls under way that count against `concurrent`.
    pub in_flight: ByClass,
    /// Requests that wait.
    pub waiting: ByClass,
    /// Permits granted since the server started, without those given back.
    pub granted: ByClass,
    /// Permits that were granted since then, and given back.
    pub given_back: ByClass,
    /// Throttled answers reported since the server started.
    pub throttled: u64,
    /// The hour's and the day's quota, those that are set.
    pub windows: Vec<WindowStatus>,
}
