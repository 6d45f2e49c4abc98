//! What can go wrong with rate limits.

use std::time::Duration;

use super::model::{
    Class, MAX_CLIENT_BYTES, MAX_CONCURRENT, MAX_DESCRIPTION_BYTES, MAX_LIVE_SHARE_PERCENT,
};
use crate::{
    error::{Classify, ErrorKind, Violation},
    kv,
};

/// A quota of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// What the rate lets through at once.
    Burst,
    /// Calls under way.
    Concurrent,
    /// Permits of an hour.
    Hour,
    /// Permits of a date.
    Day,
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Burst => "its burst",
            Self::Concurrent => "its concurrent calls",
            Self::Hour => "its quota of an hour",
            Self::Day => "its quota of a day",
        })
    }
}

/// An error of rate limits.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such limit, or it was deleted while the caller waited.
    #[error("rate limit {name:?} does not exist")]
    NotFound {
        /// As asked.
        name: String,
    },
    /// Another definition has the name.
    #[error(
        "rate limit {name:?} exists with other quotas; change it with `hindcast limit update`, or choose another name"
    )]
    Exists {
        /// As asked.
        name: String,
    },
    /// The name is none.
    #[error("{0}")]
    NameInvalid(Violation),
    /// Too much text.
    #[error("the description has {size_bytes} bytes; at most {MAX_DESCRIPTION_BYTES} fit")]
    DescriptionTooLong {
        /// Its size.
        size_bytes: usize,
    },
    /// A limit that limits nothing.
    #[error(
        "rate limit {name:?} limits nothing; state a rate, concurrent calls, or permits of an hour or a day"
    )]
    NoQuota {
        /// Its name.
        name: String,
    },
    /// A rate that is none.
    #[error("{field}: {problem}")]
    RateInvalid {
        /// Where.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A burst that is none.
    #[error("burst: {problem}")]
    BurstInvalid {
        /// What is wrong.
        problem: String,
    },
    /// A number of concurrent calls that is none.
    #[error("concurrent: {concurrent} is not from 1 to {MAX_CONCURRENT} calls")]
    ConcurrentInvalid {
        /// As given.
        concurrent: u32,
    },
    /// A quota of an hour or a day that is none.
    #[error("{field}: {problem}")]
    WindowQuotaInvalid {
        /// Which one.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A share that is none.
    #[error(
        "live_share_percent: {percent} is not from 0 to {MAX_LIVE_SHARE_PERCENT}: backfills must be able to have something"
    )]
    LiveShareInvalid {
        /// As given.
        percent: u32,
    },
    /// No permit asked for.
    #[error("a request must be for at least 1 permit")]
    NoPermits,
    /// A client's name that is too long.
    #[error("the client's name has {size_bytes} bytes; at most {MAX_CLIENT_BYTES} fit")]
    ClientTooLong {
        /// Its size.
        size_bytes: usize,
    },
    /// More permits than the limit can ever grant at once.
    #[error(
        "cannot grant {permits} permits of {name:?}: a {} caller can have at most {most} at once, by {quota}",
        class_name(*class)
    )]
    TooMany {
        /// The limit.
        name: String,
        /// As asked.
        permits: u32,
        /// Who asked.
        class: Class,
        /// The most that can be had.
        most: u64,
        /// What says so.
        quota: Quota,
    },
    /// The caller's patience ended first. Nothing was taken.
    #[error(
        "cannot grant {permits} permits of {name:?} in time: it would take about {} more",
        human(*expected)
    )]
    NotInTime {
        /// The limit.
        name: String,
        /// As asked.
        permits: u32,
        /// The wait that lies ahead, as things stand.
        expected: Duration,
    },
    /// Too many requests wait already.
    #[error("{waiting} requests wait for {name:?} already")]
    TooManyWaiters {
        /// The limit.
        name: String,
        /// How many.
        waiting: usize,
        /// The wait that lies ahead of the last one.
        expected: Duration,
    },
    /// The lease is not there: it was released, or has expired.
    #[error("lease {id:?} does not exist; it was released, or has expired")]
    LeaseNotFound {
        /// As asked.
        id: String,
    },
    /// The server stops.
    #[error("the server stops")]
    Stopping,
    /// A stored limit or count cannot be written or read.
    #[error("cannot keep {key}: {cause}")]
    Encoding {
        /// What was to be stored.
        key: String,
        /// The encoder's words.
        cause: String,
    },
    /// A storage fault.
    #[error("{message}")]
    Storage {
        /// What the storage said.
        message: String,
        /// Its kind.
        kind: ErrorKind,
        /// Its reason.
        reason: &'static str,
    },
}

impl From<kv::Error> for Error {
    fn from(error: kv::Error) -> Self {
        // Every waiter of a limit gets the same fault, so it must be clonable.
        Self::Storage {
            message: error.to_string(),
            kind: error.kind(),
            reason: error.reason(),
        }
    }
}

/// How people write a class.
pub(super) fn class_name(class: Class) -> &'static str {
    match class {
        Class::Live => "live",
        Class::Backfill => "backfill",
    }
}

/// A wait, to the millisecond.
fn human(wait: Duration) -> String {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis.max(1))).to_string()
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::LeaseNotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::NameInvalid(_)
            | Self::DescriptionTooLong { .. }
            | Self::NoQuota { .. }
            | Self::RateInvalid { .. }
            | Self::BurstInvalid { .. }
            | Self::ConcurrentInvalid { .. }
            | Self::WindowQuotaInvalid { .. }
            | Self::LiveShareInvalid { .. }
            | Self::NoPermits
            | Self::ClientTooLong { .. }
            | Self::TooMany { .. } => ErrorKind::InvalidArgument,
            Self::NotInTime { .. } => ErrorKind::DeadlineExceeded,
            Self::TooManyWaiters { expected, .. } => ErrorKind::Exhausted {
                retry_after: *expected,
            },
            Self::Stopping => ErrorKind::Unavailable,
            Self::Encoding { .. } => ErrorKind::Internal,
            Self::Storage { kind, .. } => *kind,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Self::NotInTime { expected, .. } = self {
            return Some(*expected);
        }
        None
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "RATE_LIMIT_NOT_FOUND",
            Self::Exists { .. } => "RATE_LIMIT_EXISTS",
            Self::NameInvalid(_) | Self::DescriptionTooLong { .. } | Self::ClientTooLong { .. } => {
                "INVALID_REQUEST"
            }
            Self::NoQuota { .. } => "RATE_LIMIT_EMPTY",
            Self::RateInvalid { .. } => "RATE_INVALID",
            Self::BurstInvalid { .. } => "BURST_INVALID",
            Self::ConcurrentInvalid { .. } => "CONCURRENT_INVALID",
            Self::WindowQuotaInvalid { .. } => "WINDOW_QUOTA_INVALID",
            Self::LiveShareInvalid { .. } => "LIVE_SHARE_INVALID",
            Self::NoPermits => "NO_PERMITS",
            Self::TooMany { quota, .. } => match quota {
                Quota::Burst => "PERMITS_ABOVE_BURST",
                Quota::Concurrent => "PERMITS_ABOVE_CONCURRENT",
                Quota::Hour | Quota::Day => "PERMITS_ABOVE_QUOTA",
            },
            Self::NotInTime { .. } => "PERMITS_NOT_IN_TIME",
            Self::TooManyWaiters { .. } => "TOO_MANY_WAITERS",
            Self::LeaseNotFound { .. } => "LEASE_NOT_FOUND",
            Self::Stopping => "SERVER_STOPPING",
            Self::Encoding { .. } => "STORAGE_FAULT",
            Self::Storage { reason, .. } => reason,
        }
    }

    fn violations(&self) -> Vec<Violation> {
        let field = match self {
            Self::NameInvalid(violation) => return vec![violation.clone()],
            Self::DescriptionTooLong { .. } => "description",
            Self::NoQuota { .. } => "rate",
            Self::RateInvalid { field, problem } | Self::WindowQuotaInvalid { field, problem } => {
                return vec![Violation::new(*field, problem.clone())];
            }
            Self::BurstInvalid { problem } => {
                return vec![Violation::new("burst", problem.clone())];
            }
            Self::ConcurrentInvalid { .. } => "concurrent",
            Self::LiveShareInvalid { .. } => "live_share_percent",
            Self::NoPermits | Self::TooMany { .. } => "permits",
            Self::ClientTooLong { .. } => "client",
            Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::NotInTime { .. }
            | Self::TooManyWaiters { .. }
            | Self::LeaseNotFound { .. }
            | Self::Stopping
            | Self::Encoding { .. }
            | Self::Storage { .. } => return Vec::new(),
        };
        vec![Violation::new(field, self.to_string())]
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::NotFound { name } | Self::Exists { name } => Some(("rate limit", name.clone())),
            Self::LeaseNotFound { id } => Some(("lease", id.clone())),
            Self::NameInvalid(_)
            | Self::DescriptionTooLong { .. }
            | Self::NoQuota { .. }
            | Self::RateInvalid { .. }
            | Self::BurstInvalid { .. }
            | Self::ConcurrentInvalid { .. }
            | Self::WindowQuotaInvalid { .. }
            | Self::LiveShareInvalid { .. }
            | Self::NoPermits
            | Self::ClientTooLong { .. }
            | Self::TooMany { .. }
            | Self::NotInTime { .. }
            | Self::TooManyWaiters { .. }
            | Self::Stopping
            | Self::Encoding { .. }
            | Self::Storage { .. } => None,
        }
    }
}
