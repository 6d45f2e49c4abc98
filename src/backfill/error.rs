//! What can go wrong with a backfill.

use crate::{
    catalog::{self, Output},
    engine,
    error::{Classify, ErrorKind, Violation},
    kv, lake, store,
    time::{CalendarError, ValidTime},
};

/// A backfill error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is at fault.
    #[error("{0}")]
    Invalid(Violation),
    /// The range is not made of partitions.
    #[error("{error}")]
    Calendar {
        /// Which end of it.
        field: &'static str,
        /// What the calendar says of it.
        error: CalendarError,
    },
    /// `from >= to`.
    #[error("the range [{from}, {to}) holds nothing: to must lie after from")]
    EmptyRange {
        /// As given.
        from: ValidTime,
        /// As given.
        to: ValidTime,
    },
    /// The whole range is still to come.
    #[error("nothing would run: from {from} lies in the future, now is {now}")]
    FromInFuture {
        /// As given.
        from: ValidTime,
        /// When it was asked.
        now: ValidTime,
    },
    /// Each partition reads what the one before it wrote.
    #[error(
        "cannot run {transform} backwards: each partition reads what the earlier ones wrote (prior)"
    )]
    BackwardsWithPrior {
        /// The transform.
        transform: String,
    },
    /// A restatement reaches beyond what it restates.
    #[error(
        "cannot restate [{from}, {to}): backfill {parent} is over [{parent_from}, {parent_to})"
    )]
    RestateOutside {
        /// The backfill to restate.
        parent: String,
        /// As given.
        from: ValidTime,
        /// As given.
        to: ValidTime,
        /// Its range.
        parent_from: ValidTime,
        /// Its range.
        parent_to: ValidTime,
    },
    /// No such backfill.
    #[error("backfill {name:?} does not exist")]
    NotFound {
        /// As asked.
        name: String,
    },
    /// Every partition would be skipped.
    #[error("nothing would run: {reason}")]
    NothingToRun {
        /// Why.
        reason: String,
    },
    /// Another backfill writes the same partitions.
    #[error(
        "backfill {other} is active on these partitions of {output}; wait for it, or cancel it"
    )]
    Overlap {
        /// The active backfill.
        other: String,
        /// What both write.
        output: Output,
    },
    /// The world is not what the caller planned with.
    #[error(
        "the plan's hash is {actual}, not {expected}: something it names changed since it was made; plan again"
    )]
    PlanMoved {
        /// As given.
        expected: String,
        /// As planned now.
        actual: String,
    },
    /// The request id belongs to another request.
    #[error("request_id {request_id:?} was used for another backfill ({name})")]
    RequestIdReused {
        /// The id.
        request_id: String,
        /// What it made.
        name: String,
    },
    /// It ended already, or is about to.
    #[error("cannot {verb} backfill {name}: it is {state}")]
    Ended {
        /// What was asked.
        verb: &'static str,
        /// The backfill.
        name: String,
        /// How it ended.
        state: &'static str,
    },
    /// It has not ended.
    #[error("cannot retry backfill {name}: it is {state}; wait for its end, or cancel it")]
    StillActive {
        /// The backfill.
        name: String,
        /// Where it stands.
        state: &'static str,
    },
    /// It ended without a failure.
    #[error(
        "cannot retry backfill {name}: it is {state}, and only what failed is retried; restate it to run it again"
    )]
    NothingToRetry {
        /// The backfill.
        name: String,
        /// How it ended.
        state: &'static str,
    },
    /// Its partitions read one another's output.
    #[error(
        "cannot run more than one partition of backfill {name} at once: each reads what the earlier ones wrote"
    )]
    OneAtATime {
        /// The backfill.
        name: String,
    },
    /// `after_sequence` lies beyond the log.
    #[error("backfill {name} has no event {after_sequence} yet: its last is {last_sequence}")]
    SequenceAhead {
        /// The backfill.
        name: String,
        /// As asked.
        after_sequence: u64,
        /// What there is.
        last_sequence: u64,
    },
    /// The server stops.
    #[error("the server is stopping; come back with the last sequence you have")]
    Stopping,
    /// The journal holds something that cannot be read.
    #[error("cannot read the journal of backfill {name}: {cause}")]
    Journal {
        /// The backfill.
        name: String,
        /// What is wrong.
        cause: String,
    },
    /// A definition's fault.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// A source's fault.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The entity store's fault.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The lake's fault.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// A storage fault.
    #[error(transparent)]
    Storage(#[from] kv::Error),
}

impl Error {
    pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid(Violation::new(field, problem))
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_)
            | Self::EmptyRange { .. }
            | Self::BackwardsWithPrior { .. }
            | Self::RestateOutside { .. } => ErrorKind::InvalidArgument,
            Self::Calendar { error, .. } => error.kind(),
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NothingToRun { .. }
            | Self::Overlap { .. }
            | Self::PlanMoved { .. }
            | Self::StillActive { .. }
            | Self::NothingToRetry { .. }
            | Self::OneAtATime { .. }
            | Self::Ended { .. } => ErrorKind::FailedPrecondition,
            Self::RequestIdReused { .. } => ErrorKind::AlreadyExists,
            Self::SequenceAhead { .. } | Self::FromInFuture { .. } => ErrorKind::OutOfRange,
            Self::Stopping => ErrorKind::Unavailable,
            Self::Journal { .. } => ErrorKind::DataLoss,
            Self::Catalog(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Lake(error) => error.kind(),
            Self::Storage(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_BACKFILL",
            Self::Calendar { error, .. } => error.reason(),
            Self::EmptyRange { .. } => "EMPTY_PARTITION_RANGE",
            Self::FromInFuture { .. } => "FROM_IN_FUTURE",
            Self::BackwardsWithPrior { .. } => "BACKWARDS_WITH_PRIOR",
            Self::RestateOutside { .. } => "RESTATE_OUTSIDE",
            Self::NotFound { .. } => "BACKFILL_NOT_FOUND",
            Self::NothingToRun { .. } => "NOTHING_TO_RUN",
            Self::Overlap { .. } => "BACKFILL_OVERLAP",
            Self::PlanMoved { .. } => "PLAN_MOVED",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::Ended { .. } => "BACKFILL_ENDED",
            Self::StillActive { .. } => "BACKFILL_ACTIVE",
            Self::NothingToRetry { .. } => "NOTHING_TO_RETRY",
            Self::OneAtATime { .. } => "ONE_AT_A_TIME",
            Self::SequenceAhead { .. } => "SEQUENCE_AHEAD",
            Self::Stopping => "SERVER_STOPPING",
            Self::Journal { .. } => "STORAGE_DAMAGED",
            Self::Catalog(error) => error.reason(),
            Self::Engine(error) => error.reason(),
            Self::Store(error) => error.reason(),
            Self::Lake(error) => error.reason(),
            Self::Storage(error) => error.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Invalid(violation) => vec![violation.clone()],
            Self::Calendar { field, .. } => vec![Violation::new(*field, self.to_string())],
            Self::EmptyRange { .. } => vec![Violation::new("spec.to", self.to_string())],
            Self::FromInFuture { .. } => vec![Violation::new("spec.from", self.to_string())],
            Self::BackwardsWithPrior { .. } => {
                vec![Violation::new("spec.run_backwards", self.to_string())]
            }
            Self::RestateOutside { .. } => vec![Violation::new("range", self.to_string())],
            Self::Catalog(error) => error.violations(),
            Self::Engine(error) => error.violations(),
            Self::Store(error) => error.violations(),
            Self::Lake(error) => error.violations(),
            Self::Storage(error) => error.violations(),
            Self::NotFound { .. }
            | Self::NothingToRun { .. }
            | Self::Overlap { .. }
            | Self::PlanMoved { .. }
            | Self::RequestIdReused { .. }
            | Self::Ended { .. }
            | Self::StillActive { .. }
            | Self::NothingToRetry { .. }
            | Self::OneAtATime { .. }
            | Self::SequenceAhead { .. }
            | Self::Stopping
            | Self::Journal { .. } => Vec::new(),
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::NotFound { name } => Some(("backfill", name.clone())),
            Self::Catalog(error) => error.resource(),
            Self::Engine(error) => error.resource(),
            Self::Store(error) => error.resource(),
            Self::Lake(error) => error.resource(),
            Self::Storage(error) => error.resource(),
            Self::Invalid(_)
            | Self::Calendar { .. }
            | Self::EmptyRange { .. }
            | Self::FromInFuture { .. }
            | Self::BackwardsWithPrior { .. }
            | Self::RestateOutside { .. }
            | Self::StillActive { .. }
            | Self::NothingToRetry { .. }
            | Self::OneAtATime { .. }
            | Self::NothingToRun { .. }
            | Self::Overlap { .. }
            | Self::PlanMoved { .. }
            | Self::RequestIdReused { .. }
            | Self::Ended { .. }
            | Self::SequenceAhead { .. }
            | Self::Stopping
            | Self::Journal { .. } => None,
        }
    }
}
