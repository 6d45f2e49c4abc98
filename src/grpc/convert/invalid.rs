//! A malformed request, as an error.

use crate::error::{Classify, ErrorKind, Violation};

/// A field that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::grpc) struct Invalid(Violation);

/// Checks that a field which must name something does so. What it names may still not exist.
pub(in crate::grpc) fn named(field: &str, name: &str) -> Result<(), Violation> {
    if name.is_empty() {
        return Err(Violation::new(field, "it is required"));
    }
    Ok(())
}

impl From<Violation> for Invalid {
    fn from(violation: Violation) -> Self {
        Self(violation)
    }
}

impl Classify for Invalid {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }

    fn reason(&self) -> &'static str {
        "INVALID_REQUEST"
    }

    fn violations(&self) -> Vec<Violation> {
        vec![self.0.clone()]
    }
}
