//! What an external call is, as a transform's author writes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::AttributeKind;

/// How long one request may take, unless the call says otherwise.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often one call is tried again, unless it says otherwise.
pub const DEFAULT_CALL_RETRIES: u32 = 5;

/// An outside system that a transform's SQL may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSpec {
    /// The function's name in SQL.
    pub name: String,
    /// Where it asks, with placeholders.
    pub url: String,
    /// What it sends along.
    pub headers: Vec<CallHeader>,
    /// What every request takes a permit of.
    pub rate_limit: String,
    /// How long one request may take.
    pub timeout: Duration,
    /// How often one call is tried again.
    pub retries: u32,
    /// What is taken of a response.
    pub columns: Vec<CallColumn>,
    /// It may ask for what is true now.
    pub allow_current_state: bool,
}

impl CallSpec {
    /// Whether it gets the same answers as `other`: limits, timeouts and retries aside.
    pub fn asks_like(&self, other: &Self) -> bool {
        self.name == other.name
            && self.url == other.url
            && self.headers == other.headers
            && self.columns == other.columns
    }
}

/// A header of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallHeader {
    /// Its name.
    pub name: String,
    /// Its value, with the names of secrets in place of them.
    pub value: String,
}

/// A column of a call's struct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: AttributeKind,
    /// Where it stands in the response, as JSONPath.
    pub path: String,
}

/// The entity type that keeps the answers of a transform's call.
pub fn answers_of(transform: &str, call: &str) -> String {
    format!("{transform}_{call}")
}

/// The type that a column is declared with, such as `decimal(10,2)`; `None`: there is none of this name.
pub fn parse_call_type(text: &str) -> Option<AttributeKind> {
    Some(match text {
        "bool" => AttributeKind::Bool,
        "int64" => AttributeKind::Int64,
        "float64" => AttributeKind::Float64,
        "string" => AttributeKind::String,
        "timestamp" => AttributeKind::Timestamp,
        "date" => AttributeKind::Date,
        "json" => AttributeKind::Json,
        other => {
            let inner = other.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = inner.split_once(',')?;
            let precision = precision.trim().parse().ok()?;
            let scale = scale.trim().parse().ok()?;
            if !(1..=38).contains(&precision) || scale > precision {
                return None;
            }
            AttributeKind::Decimal { precision, scale }
        }
    })
}

/// A column's type as it is declared.
pub fn call_type_name(kind: AttributeKind) -> String {
    match kind {
        AttributeKind::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        AttributeKind::Bool
        | AttributeKind::Int64
        | AttributeKind::Float64
        | AttributeKind::String
        | AttributeKind::Bytes
        | AttributeKind::Timestamp
        | AttributeKind::Date
        | AttributeKind::Json => kind.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_they_are_shown() {
        for text in [
            "bool",
            "int64",
            "float64",
            "string",
            "timestamp",
            "date",
            "json",
            "decimal(38,38)",
        ] {
            let kind = parse_call_type(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(call_type_name(kind), text);
        }
        for bad in [
            "",
            "int",
            "bytes",
            "decimal",
            "decimal(0,0)",
            "decimal(39,2)",
            "decimal(2,3)",
        ] {
            assert_eq!(parse_call_type(bad), None, "{bad}");
        }
    }
}
