//! What an error means to the caller: the closed set that every module's error folds into.
//!
//! A module owns a precise error enum and answers three questions about it through [`Classify`]; `grpc/status.rs` turns
//! the answers into a `Status`, and nothing else does.

use std::time::Duration;

/// What the caller should do next. Closed: it is the wire's code map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is malformed; it fails the same way until it is changed.
    InvalidArgument,
    /// The named thing does not exist.
    NotFound,
    /// A different thing has that name.
    AlreadyExists,
    /// The system's state forbids it; change the state first.
    FailedPrecondition,
    /// Something moved meanwhile; read again and retry.
    Conflict,
    /// The asked point lies outside of what can be read yet.
    OutOfRange,
    /// A quota is used up.
    Exhausted {
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// A passing fault; retry with backoff.
    Unavailable,
    /// No or unknown credentials.
    Unauthenticated,
    /// Known credentials without the right.
    Denied,
    /// The caller or the server's stop ended it.
    Cancelled,
    /// The caller's deadline passed first.
    DeadlineExceeded,
    /// Stored bytes are damaged.
    DataLoss,
    /// A bug of ours, or a fault that the caller cannot act on.
    Internal,
}

/// A field that is at fault, as `google.rpc.BadRequest` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path from the request's root, such as `mutations[3].put.valid_to`.
    pub field: String,
    /// What is wrong with it, lowercase, without a full stop.
    pub problem: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The same violation, seen from the message that holds `self.field` at `parent`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self {
            field: format!("{parent}.{}", self.field),
            problem: self.problem,
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// How a module's error presents itself to callers.
pub trait Classify: std::error::Error {
    /// What the caller should do next.
    fn kind(&self) -> ErrorKind;

    /// A stable, upper-case name of the cause: part of the API, listed in `docs/errors.md`.
    fn reason(&self) -> &'static str;

    /// The fields at fault, for [`ErrorKind::InvalidArgument`].
    fn violations(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// When trying again makes sense, where [`Classify::kind`] does not say it.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// The resource's type and name, for [`ErrorKind::NotFound`] and [`ErrorKind::AlreadyExists`].
    fn resource(&self) -> Option<(&'static str, String)> {
        None
    }
}
