//! Instants: `google.protobuf.Timestamp` to domain and back.

use crate::{
    error::Violation,
    time::{InstantError, SysTime, ValidTime},
};

/// An instant of either axis.
pub(in crate::grpc) trait Instant: Sized {
    /// From a `Timestamp`'s parts.
    fn from_parts(seconds: i64, nanos: i32) -> Result<Self, InstantError>;
    /// As a `Timestamp`'s parts.
    fn into_parts(self) -> (i64, i32);
}

impl Instant for ValidTime {
    fn from_parts(seconds: i64, nanos: i32) -> Result<Self, InstantError> {
        Self::from_timestamp(seconds, nanos)
    }

    fn into_parts(self) -> (i64, i32) {
        self.to_timestamp()
    }
}

impl Instant for SysTime {
    fn from_parts(seconds: i64, nanos: i32) -> Result<Self, InstantError> {
        Self::from_timestamp(seconds, nanos)
    }

    fn into_parts(self) -> (i64, i32) {
        self.to_timestamp()
    }
}

/// The instant at `field`, floored to the microsecond; `None` if it is unset.
///
/// # Errors
/// It lies outside of years 1 to 9999, or its nanoseconds are malformed.
pub(in crate::grpc) fn from_wire<T: Instant>(
    field: &str,
    wire: Option<prost_types::Timestamp>,
) -> Result<Option<T>, Violation> {
    let Some(prost_types::Timestamp { seconds, nanos }) = wire else {
        return Ok(None);
    };
    T::from_parts(seconds, nanos)
        .map(Some)
        .map_err(|error| Violation::new(field, error.to_string()))
}

/// An instant as the wire carries it.
pub(in crate::grpc) fn to_wire(instant: impl Instant) -> prost_types::Timestamp {
    let (seconds, nanos) = instant.into_parts();
    prost_types::Timestamp { seconds, nanos }
}
