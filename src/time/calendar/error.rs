//! Why the calendar of partitions has no answer.

use chrono_tz::Tz;

use super::{Grain, MAX_PARTITIONS};
use crate::{
    error::{Classify, ErrorKind, Violation},
    time::ValidTime,
};

/// Why the calendar has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// No such grain.
    #[error("{name:?} is no grain; use hourly, daily, weekly, monthly or yearly")]
    UnknownGrain {
        /// The grain as given.
        name: String,
    },
    /// No such zone.
    #[error("{name:?} is no IANA time zone such as America/New_York")]
    UnknownZone {
        /// The name as given.
        name: String,
    },
    /// A range begins or ends inside of a partition.
    #[error("{given} is no {grain} boundary in {zone}; the nearest are {before} and {after}")]
    NotABoundary {
        /// Which end of the range: `from` or `to`; `start` where a single partition was asked for.
        field: &'static str,
        /// The instant as given.
        given: ValidTime,
        /// The start of the partition that holds it.
        before: ValidTime,
        /// The end of that partition.
        after: ValidTime,
        /// The calendar's grain.
        grain: Grain,
        /// The calendar's zone.
        zone: Tz,
    },
    /// `from >= to`.
    #[error("the range from {from} to {to} is empty; it must end after it starts")]
    EmptyRange {
        /// Inclusive start, as given.
        from: ValidTime,
        /// Exclusive end, as given.
        to: ValidTime,
    },
    /// More than [`MAX_PARTITIONS`].
    #[error(
        "more than {MAX_PARTITIONS} {grain} partitions lie between {from} and {to}; split the range"
    )]
    TooMany {
        /// The calendar's grain.
        grain: Grain,
        /// Inclusive start, as given.
        from: ValidTime,
        /// Exclusive end, as given.
        to: ValidTime,
    },
    /// The partition does not lie in the years 1 to 9999.
    #[error("the partition at {instant} does not lie within the years 1 to 9999")]
    OutOfRange {
        /// The instant at fault.
        instant: ValidTime,
    },
}

impl Classify for CalendarError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownGrain { .. }
            | Self::UnknownZone { .. }
            | Self::NotABoundary { .. }
            | Self::EmptyRange { .. }
            | Self::TooMany { .. } => ErrorKind::InvalidArgument,
            Self::OutOfRange { .. } => ErrorKind::OutOfRange,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownGrain { .. } => "UNKNOWN_GRAIN",
            Self::UnknownZone { .. } => "UNKNOWN_TIME_ZONE",
            Self::NotABoundary { .. } => "NOT_A_PARTITION_BOUNDARY",
            Self::EmptyRange { .. } => "EMPTY_PARTITION_RANGE",
            Self::TooMany { .. } => "TOO_MANY_PARTITIONS",
            Self::OutOfRange { .. } => "PARTITION_OUT_OF_RANGE",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        let field = match self {
            Self::UnknownGrain { .. } => "grain",
            Self::UnknownZone { .. } => "time_zone",
            Self::NotABoundary { field, .. } => field,
            Self::EmptyRange { .. } | Self::TooMany { .. } => "to",
            Self::OutOfRange { .. } => return Vec::new(),
        };
        vec![Violation::new(field, self.to_string())]
    }
}
