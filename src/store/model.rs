//! What callers of the store speak of: attributes, values, mutations and versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::entity_type::{
    EntityType, EntityTypeSpec, EntityTypeState, EntityTypeUpdate, MAX_ATTRIBUTES,
    MAX_DESCRIPTION_BYTES, MAX_NAME_BYTES,
};
use crate::time::{Interval, SysTime, ValidTime};

/// The most digits of a decimal.
pub const MAX_DECIMAL_DIGITS: u8 = 38;

/// The type of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeKind {
    /// True or false.
    Bool,
    /// A 64-bit signed integer.
    Int64,
    /// A finite 64-bit float.
    Float64,
    /// An exact decimal number.
    Decimal {
        /// All digits, 1 to 38.
        precision: u8,
        /// Digits after the point, at most `precision`.
        scale: u8,
    },
    /// UTF-8 text.
    String,
    /// Any bytes.
    Bytes,
    /// An instant, UTC microseconds.
    Timestamp,
    /// A calendar date.
    Date,
    /// One JSON document.
    Json,
}

impl AttributeKind {
    /// Its name on the wire and in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Decimal { .. } => "decimal",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Date => "date",
            Self::Json => "json",
        }
    }
}

/// A declared attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// `[a-z_][a-z0-9_]*`, at most [`MAX_NAME_BYTES`], no column name of versions.
    pub name: String,
    /// Its type.
    pub kind: AttributeKind,
    /// For people.
    pub description: String,
}

/// An exact decimal number: `unscaled / 10^scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    /// All digits.
    pub unscaled: i128,
    /// How many of them come after the point.
    pub scale: u8,
}

impl Decimal {
    /// Reads digits with at most one point, such as `-12.50`; `None` for anything else, also more than 38 digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let scale = u8::try_from(fraction.len()).ok()?;
        if (whole.is_empty() && fraction.is_empty()) || scale > MAX_DECIMAL_DIGITS {
            return None;
        }
        let mut unscaled = 0i128;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
            unscaled = unscaled.checked_mul(10)?.checked_add(digit)?;
        }
        Some(Self {
            unscaled: if is_negative { -unscaled } else { unscaled },
            scale,
        })
    }

    /// The same number with `scale` digits after the point and at most `precision` in all; `None` if it has none.
    #[must_use]
    pub fn rescaled(self, precision: u8, scale: u8) -> Option<Self> {
        let mut unscaled = self.unscaled;
        for _ in self.scale..scale {
            unscaled = unscaled.checked_mul(10)?;
        }
        for _ in scale..self.scale {
            if unscaled % 10 != 0 {
                return None;
            }
            unscaled /= 10;
        }
        let limit = 10u128.checked_pow(u32::from(precision))?;
        (unscaled.unsigned_abs() < limit).then_some(Self { unscaled, scale })
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scale = usize::from(self.scale);
        let digits = format!(
            "{:0>width$}",
            self.unscaled.unsigned_abs(),
            width = scale + 1
        );
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let sign = if self.unscaled < 0 { "-" } else { "" };
        let point = if scale == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

/// One attribute value that is not null.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// An integer.
    Int64(i64),
    /// A float; the store refuses NaN and the infinities.
    Float64(f64),
    /// An exact decimal number.
    Decimal(Decimal),
    /// UTF-8 text.
    String(String),
    /// Any bytes.
    Bytes(Vec<u8>),
    /// Microseconds since the Unix epoch, UTC.
    Timestamp(i64),
    /// Days since the Unix epoch.
    Date(i32),
    /// One JSON document; the store keeps it in canonical form (keys sorted, no white space).
    Json(String),
}

impl Value {
    /// The name of its type.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Int64(_) => "int64",
            Self::Float64(_) => "float64",
            Self::Decimal(_) => "decimal",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "timestamp",
            Self::Date(_) => "date",
            Self::Json(_) => "json",
        }
    }
}

/// Where the range of a mutation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// Where the timeline, as it stands, next changes owner after the range's start.
    #[default]
    NextChange,
    /// At this point, exclusive.
    At(ValidTime),
    /// Nowhere.
    Forever,
}

/// What a mutation does.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Gives the entity these attributes; those that are not named, or named as `None`, are null.
    Put(BTreeMap<String, Option<Value>>),
    /// Says that there is no such entity.
    End,
    /// Merges these attributes into every value of the range; `None` sets null. Where there is no value, nothing happens.
    Patch(BTreeMap<String, Option<Value>>),
    /// Removes all versions at every basis and leaves a mark. Takes no range.
    Erase,
}

/// What must be so for a batch to be applied, as the batch has made it so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// Where to look. `None`: at the mutation's start.
    pub valid_time: Option<ValidTime>,
    /// What must be there.
    pub condition: Condition,
}

/// The condition of an [`Expectation`].
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// A value with exactly these attributes; those that are not named are null.
    Value(BTreeMap<String, Option<Value>>),
    /// No value: never known, ended or erased.
    Absent,
    /// What was there at this basis already, or was not.
    UnchangedSince(SysTime),
}

/// One change to one entity over a range of valid time.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// The name of a declared entity type.
    pub entity_type: String,
    /// 1 to 512 bytes.
    pub entity_id: String,
    /// What to do.
    pub operation: Operation,
    /// Inclusive. `None`: the commit's system time.
    pub valid_from: Option<ValidTime>,
    /// Where the range ends.
    pub until: Until,
    /// All must hold, or nothing of the batch is applied.
    pub expect: Vec<Expectation>,
}

/// Mutations that are applied together: one commit, one system time, in order, all or nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// 1 to 10,000.
    pub mutations: Vec<Mutation>,
    /// The same id again returns the first answer and writes nothing. At most 128 bytes.
    pub request_id: Option<String>,
    /// For types that are being imported, and only for those: the commit's system time where the history comes from.
    pub import_time: Option<SysTime>,
    /// The place of the batch in a bulk load.
    pub ingest: Option<IngestMark>,
}

/// A place in a named stream of batches. A batch at or before the stream's last place is not applied again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestMark {
    /// 1 to 128 bytes.
    pub stream: String,
    /// Greater than that of the batch before.
    pub offset: u64,
}

/// The answer to a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The commit's system time: read at this basis to see the batch.
    pub system_time: SysTime,
    /// Versions that the batch created. 0: everything was there already.
    pub versions_written: u64,
    /// Whether this is the first answer to the request id again.
    pub replayed: bool,
}

/// One rectangle of an entity's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Whose it is.
    pub entity_id: String,
    /// One per attribute of the type, `None` for null. Empty if `ended`.
    pub attributes: Vec<Option<Value>>,
    /// Over which range of valid time the value holds.
    pub valid: Interval<ValidTime>,
    /// From its assertion until it was replaced; open where the basis sees no replacement.
    pub system: Interval<SysTime>,
    /// Whether it says that there is no such entity.
    pub ended: bool,
}

/// What is there at one point. Null is a value whose attributes are all `None`.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A value.
    Value(Version),
    /// It was said that there is no such entity.
    Ended(Version),
    /// Nothing was ever said.
    NotKnown,
    /// The entity was erased.
    Erased,
}
