//! Why a definition of a call was refused: one reason for each kind of mistake.

use crate::error::{Classify, ErrorKind, Violation};

/// The kind of a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A placeholder that is malformed, unknown or in the wrong place.
    Placeholder,
    /// Not a URL that can be asked.
    Url,
    /// An address that must not be asked.
    Address,
    /// A header that cannot be sent.
    Header,
    /// A secret that is written out, or named wrongly.
    Secret,
    /// Not a JSONPath.
    Path,
    /// A column that cannot be, or that is of another type in the answers that are kept.
    Column,
    /// A name that cannot be, or that something else has.
    Name,
    /// A number that is out of its bounds.
    Bounds,
    /// No rate limit, or one that is not there.
    Limit,
    /// A URL without a time that was not allowed to have none.
    Time,
    /// The SQL calls it where it cannot be called.
    Place,
}

/// A refused definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{violation}")]
pub struct Refused {
    /// The kind of the mistake.
    pub fault: Fault,
    /// Where it is, and what it is.
    pub violation: Violation,
}

impl Refused {
    /// A mistake in `field`.
    pub fn new(fault: Fault, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            fault,
            violation: Violation::new(field, problem),
        }
    }
}

impl Classify for Refused {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }

    fn reason(&self) -> &'static str {
        match self.fault {
            Fault::Placeholder => "CALL_PLACEHOLDER_INVALID",
            Fault::Url => "CALL_URL_INVALID",
            Fault::Address => "CALL_ADDRESS_REFUSED",
            Fault::Header => "CALL_HEADER_INVALID",
            Fault::Secret => "CALL_SECRET_INVALID",
            Fault::Path => "CALL_PATH_INVALID",
            Fault::Column => "CALL_COLUMN_INVALID",
            Fault::Name => "CALL_NAME_INVALID",
            Fault::Bounds => "CALL_OUT_OF_RANGE",
            Fault::Limit => "CALL_LIMIT_REQUIRED",
            Fault::Time => "CALL_WITHOUT_TIME",
            Fault::Place => "CALL_MISPLACED",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        vec![self.violation.clone()]
    }
}
