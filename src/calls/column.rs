//! What is taken of a response.

use chrono::{DateTime, NaiveDate};
use serde_json::Value as Json;
use serde_json_path::JsonPath;

use super::refusal::{Fault, Refused};
use crate::{
    catalog::{CallColumn, call_type_name},
    store::{AttributeKind, Decimal, Value},
};

/// Significant digits that a float gives back as they were: `f64::DIGITS`.
const EXACT_DIGITS: usize = f64::DIGITS as usize;

/// A column, ready to be looked for.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: AttributeKind,
    path: JsonPath,
    path_text: String,
}

impl Column {
    /// Reads the column that stands at `field`.
    ///
    /// # Errors
    /// [`Fault::Path`].
    pub(super) fn compile(field: &str, column: &CallColumn) -> Result<Self, Refused> {
        let CallColumn { name, kind, path } = column;
        let refused = |problem: String| {
            Refused::new(
                Fault::Path,
                format!("{field}.path"),
                format!("{path:?} is not a JSONPath: {problem}"),
            )
        };
        // The parser takes more of it than it can bear.
        if path.len() > 1_024 {
            return Err(refused("it is longer than 1024 bytes".to_owned()));
        }
        Ok(Self {
            name: name.clone(),
            kind: *kind,
            path: JsonPath::parse(path).map_err(|error| refused(error.to_string()))?,
            path_text: path.clone(),
        })
    }

    /// The column's value in a response.
    ///
    /// # Errors
    /// What the response has in its place, without the response.
    pub(super) fn take(&self, response: &Json) -> Result<Option<Value>, String> {
        let found = self.path.query(response).all();
        let [found] = found.as_slice() else {
            let what = match found.len() {
                0 => "the response has nothing".to_owned(),
                count => format!("the response has {count} values"),
            };
            return Err(format!(
                "{what} at {} (column {:?})",
                self.path_text, self.name
            ));
        };
        if found.is_null() {
            return Ok(None);
        }
        if is_inexact(self.kind, found) {
            return Err(format!(
                "the response has a number of more than {EXACT_DIGITS} digits at {}, and column {:?} is {}: only as a string is it exact",
                self.path_text,
                self.name,
                call_type_name(self.kind)
            ));
        }
        let value = read(self.kind, found).ok_or_else(|| {
            format!(
                "the response has {} at {}, and column {:?} is {}",
                kind_of(found),
                self.path_text,
                self.name,
                call_type_name(self.kind)
            )
        })?;
        Ok(Some(value))
    }
}

/// Whether the response may have said another decimal than the parser did: what is no integer it holds as a float.
fn is_inexact(kind: AttributeKind, json: &Json) -> bool {
    let (AttributeKind::Decimal { .. }, Json::Number(number)) = (kind, json) else {
        return false;
    };
    if number.is_i64() || number.is_u64() {
        return false;
    }
    let text = number.to_string();
    let digits = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len() > EXACT_DIGITS
}

/// Digits, with a point or an exponent or both, such as `-1.5e-7`.
fn decimal(text: &str) -> Option<Decimal> {
    let Some((digits, exponent)) = text.split_once(['e', 'E']) else {
        return Decimal::parse(text);
    };
    let Decimal { unscaled, scale } = Decimal::parse(digits)?;
    let scale = i32::from(scale).checked_sub(exponent.parse::<i32>().ok()?)?;
    if unscaled == 0 {
        return Some(Decimal { unscaled, scale: 0 });
    }
    match u8::try_from(scale) {
        Ok(scale) => Some(Decimal { unscaled, scale }),
        Err(_) => {
            let factor = 10i128.checked_pow(scale.checked_neg()?.try_into().ok()?)?;
            let unscaled = unscaled.checked_mul(factor)?;
            Some(Decimal { unscaled, scale: 0 })
        }
    }
}

fn read(kind: AttributeKind, json: &Json) -> Option<Value> {
    Some(match kind {
        AttributeKind::Bool => Value::Bool(json.as_bool()?),
        AttributeKind::Int64 => Value::Int64(json.as_i64()?),
        AttributeKind::Float64 => Value::Float64(json.as_f64()?),
        AttributeKind::Decimal { precision, scale } => {
            let decimal = match json {
                Json::String(text) => decimal(text)?,
                Json::Number(number) => decimal(&number.to_string())?,
                Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => return None,
            };
            Value::Decimal(decimal.rescaled(precision, scale)?)
        }
        AttributeKind::String => Value::String(json.as_str()?.to_owned()),
        AttributeKind::Timestamp => {
            let instant = DateTime::parse_from_rfc3339(json.as_str()?).ok()?;
            Value::Timestamp(instant.timestamp_micros())
        }
        AttributeKind::Date => {
            let date = NaiveDate::parse_from_str(json.as_str()?, "%Y-%m-%d").ok()?;
            let days = date.signed_duration_since(NaiveDate::default()).num_days();
            Value::Date(i32::try_from(days).ok()?)
        }
        AttributeKind::Json => Value::Json(json.to_string()),
        AttributeKind::Bytes => return None,
    })
}

fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(kind: AttributeKind, path: &str, response: &Json) -> Result<Option<Value>, String> {
        let column = CallColumn {
            name: "c".to_owned(),
            kind,
            path: path.to_owned(),
        };
        Column::compile("columns[0]", &column)
            .expect(path)
            .take(response)
    }

    #[test]
    fn values_are_what_the_column_says_or_the_response_is_refused() {
        let response = json!({
            "a": [{"mid": 1.5, "n": 7, "t": "x", "at": "2024-03-01T01:00:00+01:00", "day": "1970-01-02", "no": null}],
            "price": "12.50", "many": [1, 2], "yes": true, "big": 9.5e300,
        });
        let decimal = AttributeKind::Decimal {
            precision: 10,
            scale: 2,
        };
        for (kind, path, value) in [
            (
                AttributeKind::Float64,
                "$.a[0].mid",
                Some(Value::Float64(1.5)),
            ),
            (
                AttributeKind::Float64,
                "$.a[0].n",
                Some(Value::Float64(7.0)),
            ),
            (AttributeKind::Int64, "$.a[0].n", Some(Value::Int64(7))),
            (
                AttributeKind::String,
                "$.a[0].t",
                Some(Value::String("x".to_owned())),
            ),
            (
                AttributeKind::Timestamp,
                "$.a[0].at",
                Some(Value::Timestamp(1_709_251_200_000_000)),
            ),
            (AttributeKind::Date, "$.a[0].day", Some(Value::Date(1))),
            (AttributeKind::Int64, "$.a[0].no", None),
            (
                decimal,
                "$.price",
                Some(Value::Decimal(Decimal {
                    unscaled: 1250,
                    scale: 2,
                })),
            ),
            (
                decimal,
                "$.a[0].mid",
                Some(Value::Decimal(Decimal {
                    unscaled: 150,
                    scale: 2,
                })),
            ),
            (AttributeKind::Bool, "$.yes", Some(Value::Bool(true))),
            (
                AttributeKind::Json,
                "$.many",
                Some(Value::Json("[1,2]".to_owned())),
            ),
        ] {
            assert_eq!(take(kind, path, &response), Ok(value), "{path}");
        }
        for (kind, path, part) in [
            (
                AttributeKind::Int64,
                "$.a[0].mid",
                "has a number at $.a[0].mid, and column \"c\" is int64",
            ),
            (AttributeKind::Int64, "$.a[0].t", "has a text"),
            (AttributeKind::String, "$.a[0].n", "has a number"),
            (AttributeKind::Date, "$.a[0].t", "column \"c\" is date"),
            (
                AttributeKind::Int64,
                "$.nothing",
                "has nothing at $.nothing",
            ),
            (
                AttributeKind::Int64,
                "$.many[*]",
                "has 2 values at $.many[*]",
            ),
            (decimal, "$.big", "decimal(10,2)"),
        ] {
            let problem = take(kind, path, &response).expect_err(path);
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let kind = AttributeKind::Decimal {
            precision: 38,
            scale: 9,
        };
        for (json, expected) in [
            ("1e-7", Some("0.000000100")),
            ("\"1E-7\"", Some("0.000000100")),
            ("\"-12.5e+3\"", Some("-12500.000000000")),
            ("12.5e3", Some("12500.000000000")),
            ("0e-400", Some("0.000000000")),
            ("0.1", Some("0.100000000")),
            ("100.000000000000000000", Some("100.000000000")),
            ("123456789.012345", Some("123456789.012345000")),
            ("123456789012.123456", None),
            ("\"123456789012.123456\"", Some("123456789012.123456000")),
            ("9007199254740993", Some("9007199254740993.000000000")),
            (
                "18446744073709551615",
                Some("18446744073709551615.000000000"),
            ),
            ("18446744073709551617", None),
            ("1e22", Some("10000000000000000000000.000000000")),
            ("1e300", None),
            ("1e-300", None),
            ("\"1e\"", None),
            ("\"e1\"", None),
            ("\"1e-99999999999\"", None),
        ] {
            let response = serde_json::from_str(json).expect(json);
            let taken = take(kind, "$", &response).ok().flatten();
            let Some(Value::Decimal(decimal)) = taken else {
                assert_eq!((taken, expected), (None, None), "{json}");
                continue;
            };
            assert_eq!(Some(decimal.to_string().as_str()), expected, "{json}");
        }
        let response = serde_json::from_str("123456789012.123456").expect("a number");
        let problem = take(kind, "$", &response).expect_err("too many digits");
        assert!(
            problem.contains("only as a string is it exact"),
            "{problem}"
        );
    }

    #[test]
    fn a_malformed_path_is_refused() {
        for path in [
            "",
            "mid",
            "$.[",
            "$[?",
            "$..",
            &format!("$.{}", "a".repeat(2_000)),
        ] {
            let column = CallColumn {
                name: "c".to_owned(),
                kind: AttributeKind::Int64,
                path: path.to_owned(),
            };
            let refused = Column::compile("columns[3]", &column).expect_err(path);
            assert_eq!(refused.fault, Fault::Path);
            assert_eq!(refused.violation.field, "columns[3].path");
        }
    }
}
