//! Attribute values: from an argument's text or a JSON value to the wire, by the attribute's declared kind, and back to
//! text for people.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{base64, times};
use crate::{
    pb::{self, AttributeKind, value::Kind},
    time::ValidTime,
};

/// Why a value was refused before it was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The argument has no `=`.
    #[error("{0:?} is not of the form attribute=value")]
    NotAnAssignment(String),
    /// Given twice.
    #[error("attribute {0} is given twice")]
    Repeated(String),
    /// The type has no such attribute.
    #[error("{entity_type} has no attribute {attribute:?}; it has {known}")]
    UnknownAttribute {
        /// The entity type.
        entity_type: String,
        /// As given.
        attribute: String,
        /// The attributes that there are.
        known: String,
    },
    /// The text or JSON value is not of the attribute's kind.
    #[error("{attribute}: cannot read {given} as {expected}")]
    WrongKind {
        /// The attribute.
        attribute: String,
        /// As given.
        given: String,
        /// What its kind looks like.
        expected: &'static str,
    },
}

/// What a value of `kind` looks like, for messages.
fn expected(kind: AttributeKind) -> &'static str {
    match kind {
        AttributeKind::Bool => "a bool: true or false",
        AttributeKind::Int64 => "an int64 such as 42",
        AttributeKind::Float64 => "a finite float64 such as 24.08",
        AttributeKind::Decimal => "a decimal such as 12.50",
        AttributeKind::String => "a string",
        AttributeKind::Bytes => "bytes in base64",
        AttributeKind::Timestamp => "a timestamp such as 2013-02-08T12:00:00Z",
        AttributeKind::Date => "a date such as 2013-02-08",
        AttributeKind::Json => "a JSON document",
        AttributeKind::Unspecified => {
            "a kind that this client knows; it may be older than the server"
        }
    }
}

/// The attributes of a `put`, from `attribute=value` arguments.
pub(crate) fn from_assignments(
    entity_type: &pb::EntityType,
    assignments: &[String],
) -> Result<HashMap<String, pb::Value>, Error> {
    let mut attributes = HashMap::new();
    for assignment in assignments {
        let (name, text) = assignment
            .split_once('=')
            .ok_or_else(|| Error::NotAnAssignment(assignment.clone()))?;
        let kind = kind_of(entity_type, name)?;
        let value =
            from_text(kind, text).ok_or_else(|| wrong_kind(name, kind, format!("{text:?}")))?;
        if attributes
            .insert(name.to_owned(), pb::Value { kind: Some(value) })
            .is_some()
        {
            return Err(Error::Repeated(name.to_owned()));
        }
    }
    Ok(attributes)
}

/// The attributes of a `put`, from a JSON object. `null` is the same as leaving the attribute out.
pub(crate) fn from_json_object(
    entity_type: &pb::EntityType,
    object: &serde_json::Map<String, Json>,
) -> Result<HashMap<String, pb::Value>, Error> {
    let mut attributes = from_json_object_with_nulls(entity_type, object)?;
    attributes.retain(|_, value| value.kind.is_some());
    Ok(attributes)
}

/// The attributes of a `patch`, from a JSON object. `null` sets null.
pub(crate) fn from_json_object_with_nulls(
    entity_type: &pb::EntityType,
    object: &serde_json::Map<String, Json>,
) -> Result<HashMap<String, pb::Value>, Error> {
    let mut attributes = HashMap::with_capacity(object.len());
    for (name, json) in object {
        let kind = kind_of(entity_type, name)?;
        let value = if json.is_null() {
            None
        } else {
            Some(from_json(kind, json).ok_or_else(|| wrong_kind(name, kind, json.to_string()))?)
        };
        attributes.insert(name.clone(), pb::Value { kind: value });
    }
    Ok(attributes)
}

fn kind_of(entity_type: &pb::EntityType, name: &str) -> Result<AttributeKind, Error> {
    let attribute = entity_type
        .attributes
        .iter()
        .find(|attribute| attribute.name == name);
    attribute
        .map(pb::Attribute::kind)
        .ok_or_else(|| Error::UnknownAttribute {
            entity_type: entity_type.name.clone(),
            attribute: name.to_owned(),
            known: entity_type
                .attributes
                .iter()
                .map(|attribute| attribute.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

fn wrong_kind(attribute: &str, kind: AttributeKind, given: String) -> Error {
    Error::WrongKind {
        attribute: attribute.to_owned(),
        given,
        expected: expected(kind),
    }
}

fn from_text(kind: AttributeKind, text: &str) -> Option<Kind> {
    Some(match kind {
        AttributeKind::Bool => Kind::BoolValue(text.parse().ok()?),
        AttributeKind::Int64 => Kind::Int64Value(text.parse().ok()?),
        AttributeKind::Float64 => Kind::Float64Value(
            text.parse()
                .ok()
                .filter(|number: &f64| number.is_finite())?,
        ),
        AttributeKind::Decimal => Kind::DecimalValue(decimal(text)?),
        AttributeKind::String => Kind::StringValue(text.to_owned()),
        AttributeKind::Bytes => Kind::BytesValue(base64::decode(text)?),
        AttributeKind::Timestamp => {
            Kind::TimestampValue(times::timestamp(ValidTime::parse(text).ok()?))
        }
        AttributeKind::Date => Kind::DateValue(date(text)?),
        AttributeKind::Json => {
            Kind::JsonValue(serde_json::from_str::<Json>(text).ok()?.to_string())
        }
        AttributeKind::Unspecified => return None,
    })
}

fn from_json(kind: AttributeKind, json: &Json) -> Option<Kind> {
    Some(match kind {
        AttributeKind::Bool => Kind::BoolValue(json.as_bool()?),
        AttributeKind::Int64 => Kind::Int64Value(json.as_i64()?),
        AttributeKind::Float64 => Kind::Float64Value(json.as_f64()?),
        // A JSON number keeps the digits that identify the nearest double, so short decimals survive.
        AttributeKind::Decimal if json.is_number() => {
            Kind::DecimalValue(decimal(&json.to_string())?)
        }
        AttributeKind::Json => Kind::JsonValue(json.to_string()),
        AttributeKind::Decimal
        | AttributeKind::String
        | AttributeKind::Bytes
        | AttributeKind::Timestamp
        | AttributeKind::Date => from_text(kind, json.as_str()?)?,
        AttributeKind::Unspecified => return None,
    })
}

/// Checks the form only; the server checks precision and scale.
fn decimal(text: &str) -> Option<String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (plain(whole) && plain(fraction)).then(|| text.strip_prefix('+').unwrap_or(text).to_owned())
}

fn date(text: &str) -> Option<String> {
    chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(text.to_owned())
}

/// A value for people; null is `-`.
pub(crate) fn show(value: &pb::Value) -> String {
    match &value.kind {
        None => "-".to_owned(),
        Some(Kind::BoolValue(value)) => value.to_string(),
        Some(Kind::Int64Value(value)) => value.to_string(),
        Some(Kind::Float64Value(value)) => show_float(*value),
        Some(
            Kind::DecimalValue(text)
            | Kind::StringValue(text)
            | Kind::DateValue(text)
            | Kind::JsonValue(text),
        ) => text.clone(),
        Some(Kind::BytesValue(bytes)) => base64::encode(bytes),
        Some(Kind::TimestampValue(instant)) => times::show(instant),
    }
}

/// Significant digits of a fraction in a table.
const SHOWN_DIGITS: i32 = 6;

/// Six significant digits, and never less than the integer part: tables are read by people, JSON has every digit.
fn show_float(value: f64) -> String {
    let magnitude = value.abs();
    if !(1e-4..1e15).contains(&magnitude) {
        return value.to_string();
    }
    let integer_digits = magnitude.log10().floor() as i32 + 1;
    let scale = 10_f64.powi((SHOWN_DIGITS - integer_digits).max(0));
    ((value * scale).round() / scale).to_string()
}

/// Attributes on one line, by name: `seats=55 year=2004`.
pub(crate) fn show_attributes(attributes: &HashMap<String, pb::Value>) -> String {
    let mut parts: Vec<String> = attributes
        .iter()
        .map(|(name, value)| format!("{name}={}", show(value)))
        .collect();
    parts.sort_unstable();
    parts.join(" ")
}

/// `float64`, `decimal(10,2)`.
pub(crate) fn show_kind(attribute: &pb::Attribute) -> String {
    let kind = attribute.kind();
    if kind == AttributeKind::Decimal {
        return format!("decimal({},{})", attribute.precision, attribute.scale);
    }
    kind_name(kind).to_owned()
}

const KINDS: [AttributeKind; 9] = [
    AttributeKind::Bool,
    AttributeKind::Int64,
    AttributeKind::Float64,
    AttributeKind::Decimal,
    AttributeKind::String,
    AttributeKind::Bytes,
    AttributeKind::Timestamp,
    AttributeKind::Date,
    AttributeKind::Json,
];

fn kind_name(kind: AttributeKind) -> &'static str {
    match kind {
        AttributeKind::Bool => "bool",
        AttributeKind::Int64 => "int64",
        AttributeKind::Float64 => "float64",
        AttributeKind::Decimal => "decimal",
        AttributeKind::String => "string",
        AttributeKind::Bytes => "bytes",
        AttributeKind::Timestamp => "timestamp",
        AttributeKind::Date => "date",
        AttributeKind::Json => "json",
        AttributeKind::Unspecified => "unspecified",
    }
}

/// A kind by its name in definitions and arguments.
pub(crate) fn parse_kind(name: &str) -> Option<AttributeKind> {
    KINDS.into_iter().find(|kind| kind_name(*kind) == name)
}

/// Every kind's name, for messages.
pub(crate) fn kind_names() -> String {
    KINDS.map(kind_name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weather() -> pb::EntityType {
        let attribute = |name: &str, kind: AttributeKind| pb::Attribute {
            name: name.to_owned(),
            kind: kind.into(),
            ..Default::default()
        };
        pb::EntityType {
            name: "airport_weather".to_owned(),
            attributes: vec![
                attribute("obs_id", AttributeKind::Int64),
                attribute("temp", AttributeKind::Float64),
                attribute("cost", AttributeKind::Decimal),
                attribute("raw", AttributeKind::Bytes),
                attribute("day", AttributeKind::Date),
            ],
            ..Default::default()
        }
    }

    fn assign(assignments: &[&str]) -> Result<String, Error> {
        let assignments: Vec<String> = assignments.iter().map(|text| (*text).to_owned()).collect();
        from_assignments(&weather(), &assignments).map(|attributes| show_attributes(&attributes))
    }

    #[test]
    fn assignments_follow_the_declared_kinds() {
        let shown = assign(&[
            "temp=24.08",
            "obs_id=7",
            "cost=-12.50",
            "raw=Zm8=",
            "day=2013-02-08",
        ]);
        assert_eq!(
            shown.as_deref(),
            Ok("cost=-12.50 day=2013-02-08 obs_id=7 raw=Zm8= temp=24.08")
        );
        for (bad, part) in [
            ("temp", "attribute=value"),
            ("tmp=1", "has no attribute \"tmp\"; it has obs_id, temp"),
            ("temp=NaN", "finite float64"),
            ("obs_id=1.5", "int64"),
            ("cost=1e3", "decimal"),
            ("raw=*", "base64"),
            ("day=8.2.2013", "a date"),
        ] {
            let message = assign(&[bad]).expect_err(bad).to_string();
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(
            assign(&["temp=1", "temp=2"]),
            Err(Error::Repeated("temp".to_owned()))
        );
    }

    #[test]
    fn json_values_follow_the_declared_kinds_and_null_is_left_out() {
        let object = serde_json::json!({"obs_id": 270, "temp": 24, "cost": 12.5, "raw": null});
        let attributes = from_json_object(&weather(), object.as_object().expect("an object"));
        assert_eq!(
            attributes.map(|a| show_attributes(&a)).as_deref(),
            Ok("cost=12.5 obs_id=270 temp=24")
        );
        let object = serde_json::json!({"obs_id": "270"});
        assert!(from_json_object(&weather(), object.as_object().expect("an object")).is_err());
    }
}
