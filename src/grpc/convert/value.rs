//! Attribute values.

use chrono::{Datelike, NaiveDate};
use pb::value::Kind;

use crate::{
    error::Violation,
    grpc::convert::time,
    pb,
    store::{Decimal, Value},
    time::ValidTime,
};

/// Days from the first of January of year 1 to the Unix epoch, as `chrono` counts them.
const EPOCH_DAYS: i32 = 719_163;

/// A value; `None` is null.
///
/// # Errors
/// A decimal or date that does not read, a timestamp out of range.
pub(in crate::grpc) fn value(field: &str, value: pb::Value) -> Result<Option<Value>, Violation> {
    let pb::Value { kind } = value;
    let Some(kind) = kind else {
        return Ok(None);
    };
    Ok(Some(match kind {
        Kind::BoolValue(value) => Value::Bool(value),
        Kind::Int64Value(value) => Value::Int64(value),
        Kind::Float64Value(value) => Value::Float64(value),
        Kind::DecimalValue(text) => Value::Decimal(Decimal::parse(&text).ok_or_else(|| {
            Violation::new(
                field,
                format!("{text:?} is not a decimal number such as -12.50"),
            )
        })?),
        Kind::StringValue(value) => Value::String(value),
        Kind::BytesValue(value) => Value::Bytes(value),
        Kind::TimestampValue(timestamp) => {
            let instant = time::from_wire::<ValidTime>(field, Some(timestamp))?;
            return Ok(instant.map(|instant| Value::Timestamp(instant.micros())));
        }
        Kind::DateValue(text) => Value::Date(days_of(&text).ok_or_else(|| {
            Violation::new(field, format!("{text:?} is not a date such as 2013-02-08"))
        })?),
        Kind::JsonValue(text) => Value::Json(text),
    }))
}

fn days_of(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    date.num_days_from_ce().checked_sub(EPOCH_DAYS)
}

impl From<Value> for pb::Value {
    fn from(value: Value) -> Self {
        let kind = match value {
            Value::Bool(value) => Kind::BoolValue(value),
            Value::Int64(value) => Kind::Int64Value(value),
            Value::Float64(value) => Kind::Float64Value(value),
            Value::Decimal(value) => Kind::DecimalValue(value.to_string()),
            Value::String(value) => Kind::StringValue(value),
            Value::Bytes(value) => Kind::BytesValue(value),
            Value::Timestamp(micros) => {
                Kind::TimestampValue(time::to_wire(ValidTime::from_micros(micros)))
            }
            Value::Date(days) => Kind::DateValue(date_text(days)),
            Value::Json(value) => Kind::JsonValue(value),
        };
        Self { kind: Some(kind) }
    }
}

/// The ISO form; a day that no calendar has, only possible outside of gRPC, is told by its number.
fn date_text(days: i32) -> String {
    days.checked_add(EPOCH_DAYS)
        .and_then(NaiveDate::from_num_days_from_ce_opt)
        .map_or_else(|| format!("day {days}"), |date| date.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        for kind in [
            Kind::BoolValue(true),
            Kind::Int64Value(i64::MIN),
            Kind::DecimalValue("-0.05".to_owned()),
            Kind::DecimalValue("1200".to_owned()),
            Kind::DateValue("1969-12-31".to_owned()),
            Kind::DateValue("2013-02-08".to_owned()),
        ] {
            let wire = pb::Value { kind: Some(kind) };
            let domain = value("v", wire.clone()).expect("reads").expect("not null");
            assert_eq!(pb::Value::from(domain), wire);
        }
        assert_eq!(days_of("1970-01-01"), Some(0));
    }

    #[test]
    fn texts_that_do_not_read_are_named() {
        for kind in [
            Kind::DecimalValue("1e5".to_owned()),
            Kind::DecimalValue(".".to_owned()),
            Kind::DecimalValue(String::new()),
            Kind::DateValue("2013-02-30".to_owned()),
        ] {
            let refused = value("attributes[\"a\"]", pb::Value { kind: Some(kind) });
            assert_eq!(refused.expect_err("refused").field, "attributes[\"a\"]");
        }
    }
}
