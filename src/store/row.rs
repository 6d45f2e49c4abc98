//! The canonical bytes of one row: equal rows have equal bytes, so that comparing states is comparing bytes.
//!
//! **Layout**: the attributes that are not null, by ascending index; each is a tag `index << 3 | kind` and its value. The
//! kind is enough to skip a value, so a reader that wants few attributes decodes no others.

use std::collections::BTreeMap;

use super::{
    codec::{self, Malformed, Reader, put_bytes, put_i64, put_i128, put_u64},
    model::{Attribute, AttributeKind, Decimal, EntityType, Value},
};

/// The longest encoded row.
pub const MAX_ROW_BYTES: usize = 3072;

const FALSE: u64 = 0;
const TRUE: u64 = 1;
const INTEGER: u64 = 2;
const FLOAT: u64 = 3;
const BYTES: u64 = 4;
const WIDE_INTEGER: u64 = 5;

/// A fault of a row: the attribute that is at fault, `None` for the row as a whole, and what is wrong.
pub(super) type Fault = (Option<String>, String);

/// A stored value, before its attribute says what it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Raw<'a> {
    Bool(bool),
    Integer(i64),
    WideInteger(i128),
    Float(f64),
    Bytes(&'a [u8]),
}

/// The canonical bytes of a row.
pub(super) fn encode(
    entity_type: &EntityType,
    attributes: &BTreeMap<String, Option<Value>>,
) -> Result<Vec<u8>, Vec<Fault>> {
    let mut by_index = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, value) in attributes {
        match (entity_type.attribute_index(name), value) {
            (None, _) => faults.push((
                Some(name.clone()),
                format!("entity type {:?} has no such attribute", entity_type.name()),
            )),
            (Some(_), None) => {}
            (Some(index), Some(value)) => {
                by_index.insert(index, (name, value));
            }
        }
    }
    let mut out = Vec::new();
    for (index, (name, value)) in by_index {
        let attribute = &entity_type.attributes()[index];
        if let Err(problem) = encode_value(index, attribute, value, &mut out) {
            faults.push((Some(name.clone()), problem));
        }
    }
    if faults.is_empty() && out.len() > MAX_ROW_BYTES {
        faults.push((
            None,
            format!(
                "its row takes {} bytes: at most {MAX_ROW_BYTES} are possible",
                out.len()
            ),
        ));
    }
    if faults.is_empty() {
        Ok(out)
    } else {
        Err(faults)
    }
}

fn encode_value(
    index: usize,
    attribute: &Attribute,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let tag = |kind: u64| (index as u64) << 3 | kind;
    match (attribute.kind, value) {
        (AttributeKind::Bool, Value::Bool(value)) => {
            put_u64(tag(if *value { TRUE } else { FALSE }), out)
        }
        (AttributeKind::Int64, Value::Int64(value))
        | (AttributeKind::Timestamp, Value::Timestamp(value)) => {
            put_u64(tag(INTEGER), out);
            put_i64(*value, out);
        }
        (AttributeKind::Date, Value::Date(value)) => {
            put_u64(tag(INTEGER), out);
            put_i64(i64::from(*value), out);
        }
        (AttributeKind::Float64, Value::Float64(value)) => {
            if !value.is_finite() {
                return Err(format!("{value} is not a finite number"));
            }
            put_u64(tag(FLOAT), out);
            out.extend_from_slice(&value.to_bits().to_be_bytes());
        }
        (AttributeKind::Decimal { precision, scale }, Value::Decimal(value)) => {
            let fitted = value.rescaled(precision, scale).ok_or_else(|| {
                format!("{value} does not fit decimal({precision}, {scale}) exactly")
            })?;
            put_u64(tag(WIDE_INTEGER), out);
            put_i128(fitted.unscaled, out);
        }
        (AttributeKind::String, Value::String(value)) => {
            put_u64(tag(BYTES), out);
            put_bytes(value.as_bytes(), out);
        }
        (AttributeKind::Bytes, Value::Bytes(value)) => {
            put_u64(tag(BYTES), out);
            put_bytes(value, out);
        }
        (AttributeKind::Json, Value::Json(value)) => {
            put_u64(tag(BYTES), out);
            put_bytes(canonical_json(value)?.as_bytes(), out);
        }
        (kind, value) => {
            return Err(format!(
                "it is a {} attribute, not {}",
                kind.name(),
                value.kind_name()
            ));
        }
    }
    Ok(())
}

/// The document with sorted keys and without white space. Numbers are 64-bit integers or floats.
fn canonical_json(text: &str) -> Result<String, String> {
    let mut document: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| format!("it is not one JSON document: {error}"))?;
    document.sort_all_objects();
    Ok(document.to_string())
}

/// The stored values of a row with their attributes' indices, ascending.
pub(super) struct RowReader<'a>(Reader<'a>);

impl<'a> RowReader<'a> {
    pub(super) fn new(row: &'a [u8]) -> Self {
        Self(Reader::new(row))
    }

    /// The next value; `None` at the end.
    pub(super) fn next(&mut self) -> codec::Result<Option<(usize, Raw<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.0.u64()?;
        let index =
            usize::try_from(tag >> 3).map_err(|_| Malformed("an attribute index is too large"))?;
        let raw = match tag & 7 {
            FALSE => Raw::Bool(false),
            TRUE => Raw::Bool(true),
            INTEGER => Raw::Integer(self.0.i64()?),
            FLOAT => Raw::Float(f64::from_bits(u64::from_be_bytes(self.0.array()?))),
            BYTES => Raw::Bytes(self.0.bytes()?),
            WIDE_INTEGER => Raw::WideInteger(self.0.i128()?),
            _ => return Err(Malformed("a value has an unknown kind")),
        };
        Ok(Some((index, raw)))
    }
}

/// All attributes of a row, in order, `None` for null.
pub(super) fn decode(entity_type: &EntityType, row: &[u8]) -> codec::Result<Vec<Option<Value>>> {
    let mut values = vec![None; entity_type.attributes().len()];
    let mut reader = RowReader::new(row);
    while let Some((index, raw)) = reader.next()? {
        let attribute = entity_type
            .attributes()
            .get(index)
            .ok_or(Malformed("a row has an attribute that its type has not"))?;
        values[index] = Some(value_of(attribute.kind, raw)?);
    }
    Ok(values)
}

fn value_of(kind: AttributeKind, raw: Raw<'_>) -> codec::Result<Value> {
    Ok(match (kind, raw) {
        (AttributeKind::Bool, Raw::Bool(value)) => Value::Bool(value),
        (AttributeKind::Int64, Raw::Integer(value)) => Value::Int64(value),
        (AttributeKind::Float64, Raw::Float(value)) => Value::Float64(value),
        (AttributeKind::Decimal { scale, .. }, Raw::WideInteger(unscaled)) => {
            Value::Decimal(Decimal { unscaled, scale })
        }
        (AttributeKind::String, Raw::Bytes(bytes)) => Value::String(text_of(bytes)?.to_owned()),
        (AttributeKind::Bytes, Raw::Bytes(bytes)) => Value::Bytes(bytes.to_vec()),
        (AttributeKind::Timestamp, Raw::Integer(value)) => Value::Timestamp(value),
        (AttributeKind::Date, Raw::Integer(value)) => Value::Date(date_of(value)?),
        (AttributeKind::Json, Raw::Bytes(bytes)) => Value::Json(text_of(bytes)?.to_owned()),
        _ => return Err(MISMATCH),
    })
}

/// A stored value is not of its attribute's type.
pub(super) const MISMATCH: Malformed = Malformed("a value is not of its attribute's type");

pub(super) fn text_of(bytes: &[u8]) -> codec::Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))
}

pub(super) fn date_of(days: i64) -> codec::Result<i32> {
    i32::try_from(days).map_err(|_| Malformed("a date is out of range"))
}
