//! Instants: UTC microseconds, one type per axis so that the axes cannot be mixed up.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// Microseconds in a second.
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Why an instant was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstantError {
    /// Outside of years 1 to 9999, the range of `google.protobuf.Timestamp`.
    #[error("{seconds} s since 1970 lies outside of the years 1 to 9999")]
    OutOfRange {
        /// Seconds since the Unix epoch, as given.
        seconds: i64,
    },
    /// The nanosecond part is not in `0..1_000_000_000`.
    #[error("{nanos} is not a nanosecond part (0 to 999999999)")]
    BadNanos {
        /// The part as given.
        nanos: i32,
    },
    /// The text is not RFC 3339.
    #[error("cannot read {text:?} as an instant such as 2013-02-08T12:00:00Z")]
    BadText {
        /// The text as given.
        text: String,
    },
}

/// `0001-01-01T00:00:00Z`.
const MIN_SECONDS: i64 = -62_135_596_800;
/// `9999-12-31T23:59:59Z`.
const MAX_SECONDS: i64 = 253_402_300_799;

macro_rules! instant {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// Before every instant that can be written: the start of an interval that has none.
            pub const MIN: Self = Self(i64::MIN);

            /// From microseconds since the Unix epoch.
            pub const fn from_micros(micros: i64) -> Self {
                Self(micros)
            }

            /// Microseconds since the Unix epoch.
            pub const fn micros(self) -> i64 {
                self.0
            }

            /// From a `Timestamp`'s parts; nanoseconds are floored to the microsecond.
            ///
            /// # Errors
            /// Outside of years 1 to 9999, or a nanosecond part out of range.
            pub fn from_timestamp(seconds: i64, nanos: i32) -> Result<Self, InstantError> {
                if !(MIN_SECONDS..=MAX_SECONDS).contains(&seconds) {
                    return Err(InstantError::OutOfRange { seconds });
                }
                if !(0..1_000_000_000).contains(&nanos) {
                    return Err(InstantError::BadNanos { nanos });
                }
                Ok(Self(seconds * MICROS_PER_SECOND + i64::from(nanos / 1_000)))
            }

            /// Seconds and nanoseconds as a `Timestamp` carries them.
            pub fn to_timestamp(self) -> (i64, i32) {
                let micros = self.0.rem_euclid(MICROS_PER_SECOND);
                (
                    self.0.div_euclid(MICROS_PER_SECOND),
                    i32::try_from(micros * 1_000).unwrap_or(0),
                )
            }

            /// From RFC 3339 text.
            ///
            /// # Errors
            /// The text is not RFC 3339, or lies outside of years 1 to 9999.
            pub fn parse(text: &str) -> Result<Self, InstantError> {
                let parsed = DateTime::parse_from_rfc3339(text)
                    .map_err(|_| InstantError::BadText { text: text.to_owned() })?;
                Self::from_timestamp(parsed.timestamp(), i32::try_from(parsed.timestamp_subsec_nanos()).unwrap_or(0))
            }

            /// The same instant in `chrono`'s terms; `None` outside of what it can hold.
            pub fn to_datetime(self) -> Option<DateTime<Utc>> {
                DateTime::from_timestamp_micros(self.0)
            }

            /// `self + micros`, at the end of the scale at most.
            #[must_use]
            pub const fn saturating_add_micros(self, micros: i64) -> Self {
                Self(self.0.saturating_add(micros))
            }
        }

        impl From<DateTime<Utc>> for $name {
            fn from(datetime: DateTime<Utc>) -> Self {
                Self(datetime.timestamp_micros())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.to_datetime() {
                    Some(datetime) => f.write_str(&datetime.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
                    None => write!(f, "{} µs", self.0),
                }
            }
        }
    };
}

instant! {
    /// When something is true in the world.
    ValidTime
}
instant! {
    /// When the store learned something. Assigned at commit, strictly increasing.
    SysTime
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finer_nanos_are_floored_before_and_after_1970() {
        let after = ValidTime::from_timestamp(1, 1_999).expect("in range");
        assert_eq!(after.micros(), 1_000_001);
        let before = ValidTime::from_timestamp(-1, 999_999_999).expect("in range");
        assert_eq!(before.micros(), -1);
        assert_eq!(before.to_timestamp(), (-1, 999_999_000));
    }

    #[test]
    fn both_sides_of_every_bound() {
        assert!(SysTime::from_timestamp(MIN_SECONDS, 0).is_ok());
        assert!(SysTime::from_timestamp(MIN_SECONDS - 1, 0).is_err());
        assert!(SysTime::from_timestamp(MAX_SECONDS, 999_999_999).is_ok());
        assert!(SysTime::from_timestamp(MAX_SECONDS + 1, 0).is_err());
        assert!(SysTime::from_timestamp(0, -1).is_err());
        assert!(SysTime::from_timestamp(0, 1_000_000_000).is_err());
    }

    #[test]
    fn text_round_trips() {
        let instant = ValidTime::parse("2013-02-08T07:00:00-05:00").expect("valid");
        assert_eq!(instant.to_string(), "2013-02-08T12:00:00Z");
        assert!(ValidTime::parse("2013-02-08").is_err());
    }
}
