//! What callers of the store speak of: entity types, values, mutations and versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::Violation,
    time::{Interval, SysTime, ValidTime},
};

/// The longest name of an entity type or attribute, bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The most attributes of an entity type.
pub const MAX_ATTRIBUTES: usize = 256;
/// The longest description, bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 4096;
/// The most digits of a decimal.
pub const MAX_DECIMAL_DIGITS: u8 = 38;

/// Names that columns of versions have besides the attributes.
const RESERVED: [&str; 5] = [
    "entity_id",
    "valid_from",
    "valid_to",
    "system_from",
    "system_to",
];

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

/// The declaration of an entity type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityTypeSpec {
    /// `[a-z_][a-z0-9_]*`, at most [`MAX_NAME_BYTES`].
    pub name: String,
    /// 1 to [`MAX_ATTRIBUTES`], in the order in which SQL shows them.
    pub attributes: Vec<Attribute>,
    /// For people.
    pub description: String,
}

impl EntityTypeSpec {
    /// What is wrong with it, with paths from `entity_type`; empty if nothing is.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        check_name("entity_type.name", &self.name, &mut found);
        check_description("entity_type.description", &self.description, &mut found);
        let count = self.attributes.len();
        if count == 0 || count > MAX_ATTRIBUTES {
            found.push(Violation::new(
                "entity_type.attributes",
                format!("{count} attributes: 1 to {MAX_ATTRIBUTES} are possible"),
            ));
        }
        for (index, attribute) in self.attributes.iter().enumerate() {
            let path = format!("entity_type.attributes[{index}]");
            let before = &self.attributes[..index];
            check_attribute(&path, attribute, before, &mut found);
        }
        found
    }
}

fn check_attribute(
    path: &str,
    attribute: &Attribute,
    before: &[Attribute],
    found: &mut Vec<Violation>,
) {
    let name_path = format!("{path}.name");
    check_name(&name_path, &attribute.name, found);
    check_description(
        &format!("{path}.description"),
        &attribute.description,
        found,
    );
    if RESERVED.contains(&attribute.name.as_str()) {
        found.push(Violation::new(
            &name_path,
            format!("{:?} is a column of every entity type", attribute.name),
        ));
    }
    if before.iter().any(|other| other.name == attribute.name) {
        found.push(Violation::new(
            &name_path,
            format!("{:?} is declared twice", attribute.name),
        ));
    }
    if let AttributeKind::Decimal { precision, scale } = attribute.kind {
        if precision == 0 || precision > MAX_DECIMAL_DIGITS {
            found.push(Violation::new(
                format!("{path}.precision"),
                format!("{precision} digits: 1 to {MAX_DECIMAL_DIGITS} are possible"),
            ));
        } else if scale > precision {
            found.push(Violation::new(
                format!("{path}.scale"),
                format!("{scale} digits after the point of {precision} in all"),
            ));
        }
    }
}

fn check_name(field: &str, name: &str, found: &mut Vec<Violation>) {
    let mut bytes = name.bytes();
    let first_fits = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let rest_fits =
        bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !first_fits || !rest_fits || name.len() > MAX_NAME_BYTES {
        let shown: String = name.chars().take(MAX_NAME_BYTES + 1).collect();
        found.push(Violation::new(
            field,
            format!("{shown:?} is not a name: [a-z_][a-z0-9_]*, at most {MAX_NAME_BYTES} bytes"),
        ));
    }
}

fn check_description(field: &str, description: &str, found: &mut Vec<Violation>) {
    let size_bytes = description.len();
    if size_bytes > MAX_DESCRIPTION_BYTES {
        found.push(Violation::new(
            field,
            format!("{size_bytes} bytes: at most {MAX_DESCRIPTION_BYTES} are possible"),
        ));
    }
}

/// A stored entity type. Its declaration never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityType {
    spec: EntityTypeSpec,
    create_time: SysTime,
    index_by_name: BTreeMap<String, usize>,
}

impl EntityType {
    pub(super) fn new(spec: EntityTypeSpec, create_time: SysTime) -> Self {
        let index_by_name = spec
            .attributes
            .iter()
            .enumerate()
            .map(|(index, attribute)| (attribute.name.clone(), index))
            .collect();
        Self {
            spec,
            create_time,
            index_by_name,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its declaration.
    pub fn spec(&self) -> &EntityTypeSpec {
        &self.spec
    }

    /// Its attributes, in order.
    pub fn attributes(&self) -> &[Attribute] {
        &self.spec.attributes
    }

    /// The place of an attribute.
    pub fn attribute_index(&self, name: &str) -> Option<usize> {
        self.index_by_name.get(name).copied()
    }

    /// When it was declared.
    pub fn create_time(&self) -> SysTime {
        self.create_time
    }
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
