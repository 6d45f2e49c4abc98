//! The canonical bytes of one row: equal rows have equal bytes, so that comparing states is comparing bytes.
//!
//! **Layout**: the attributes that are not null, by ascending index; each is a tag `index << 3 | kind` and its value. The
//! kind is enough to skip a value, so a reader that wants few attributes decodes no others.

use std::{collections::BTreeMap, ops::Range};

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

/// What a row is encoded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be stored: deprecated attributes take no values.
    Store,
    /// To be compared with what is stored.
    Compare,
}

/// The canonical bytes of a row.
pub(super) fn encode(
    entity_type: &EntityType,
    attributes: &BTreeMap<String, Option<Value>>,
    purpose: Purpose,
) -> Result<Vec<u8>, Vec<Fault>> {
    RowPatch::encode(entity_type, attributes, purpose).map(|patch| patch.bytes)
}

/// The canonical bytes of a row of all values, in the order of the type's attributes. Values of deprecated attributes are
/// taken: whoever has all attributes at once is pinned to a revision.
pub(super) fn encode_all(
    entity_type: &EntityType,
    values: &[Option<Value>],
) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    for (index, (attribute, value)) in entity_type.attributes().iter().zip(values).enumerate() {
        if let Some(value) = value {
            encode_value(index, attribute, value, &mut bytes)
                .map_err(|problem| (Some(attribute.name.clone()), problem))?;
        }
    }
    check_size(&bytes).map_err(|problem| (None, problem))?;
    Ok(bytes)
}

/// Values to be merged into rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowPatch {
    /// The values that are not null, as in a row.
    bytes: Vec<u8>,
    /// By ascending attribute index: where its value lies in `bytes`; `None` sets null.
    parts: Vec<(usize, Option<Range<usize>>)>,
}

impl RowPatch {
    /// The patch that sets these attributes.
    pub(super) fn encode(
        entity_type: &EntityType,
        attributes: &BTreeMap<String, Option<Value>>,
        purpose: Purpose,
    ) -> Result<Self, Vec<Fault>> {
        let mut by_index = BTreeMap::new();
        let mut faults = Vec::new();
        for (name, value) in attributes {
            match entity_type.attribute_index(name) {
                None => faults.push((
                    Some(name.clone()),
                    format!("entity type {:?} has no such attribute", entity_type.name()),
                )),
                Some(index) => {
                    by_index.insert(index, value.as_ref());
                }
            }
        }
        let mut bytes = Vec::new();
        let mut parts = Vec::with_capacity(by_index.len());
        for (index, value) in by_index {
            let attribute = &entity_type.attributes()[index];
            let start = bytes.len();
            let outcome = match value {
                None => Ok(()),
                Some(_) if purpose == Purpose::Store && entity_type.is_deprecated(index) => {
                    Err("it is deprecated: it takes no new values".to_owned())
                }
                Some(value) => encode_value(index, attribute, value, &mut bytes),
            };
            if let Err(problem) = outcome {
                faults.push((Some(attribute.name.clone()), problem));
            }
            parts.push((index, value.map(|_| start..bytes.len())));
        }
        if faults.is_empty()
            && let Err(problem) = check_size(&bytes)
        {
            faults.push((None, problem));
        }
        if faults.is_empty() {
            Ok(Self { bytes, parts })
        } else {
            Err(faults)
        }
    }

    /// The row with the patch's attributes in place of its own.
    pub(super) fn apply(&self, row: &[u8]) -> codec::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(row.len() + self.bytes.len());
        let mut parts = self.parts.iter().peekable();
        let mut reader = RowReader::new(row);
        let mut start = 0;
        while let Some((index, _)) = reader.next()? {
            let end = row.len() - reader.0.remaining();
            while let Some((_, part)) = parts.next_if(|(patched, _)| *patched < index) {
                self.put_part(part.as_ref(), &mut out);
            }
            match parts.next_if(|(patched, _)| *patched == index) {
                Some((_, part)) => self.put_part(part.as_ref(), &mut out),
                None => out.extend_from_slice(&row[start..end]),
            }
            start = end;
        }
        for (_, part) in parts {
            self.put_part(part.as_ref(), &mut out);
        }
        Ok(out)
    }

    fn put_part(&self, part: Option<&Range<usize>>, out: &mut Vec<u8>) {
        if let Some(range) = part {
            out.extend_from_slice(&self.bytes[range.clone()]);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.len() + 4 * self.parts.len()
    }

    /// Bytes that tell it from every other patch.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size_bytes() + 2);
        put_bytes(&self.bytes, &mut out);
        for (index, part) in &self.parts {
            put_u64((*index as u64) << 1 | u64::from(part.is_some()), &mut out);
        }
        out
    }
}

/// Refuses a row that is too long to be stored.
pub(super) fn check_size(row: &[u8]) -> Result<(), String> {
    if row.len() <= MAX_ROW_BYTES {
        return Ok(());
    }
    Err(format!(
        "its row takes {} bytes: at most {MAX_ROW_BYTES} are possible",
        row.len()
    ))
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

/// All attributes of a row, in order, `None` for null. A row of a later revision of the type may have more: they are left out.
pub(super) fn decode(entity_type: &EntityType, row: &[u8]) -> codec::Result<Vec<Option<Value>>> {
    let mut values = vec![None; entity_type.attributes().len()];
    let mut reader = RowReader::new(row);
    while let Some((index, raw)) = reader.next()? {
        let Some(attribute) = entity_type.attributes().get(index) else {
            break;
        };
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        store::model::{EntityTypeSpec, EntityTypeUpdate},
        time::SysTime,
    };

    fn attribute(index: usize) -> Attribute {
        Attribute {
            name: format!("a{index}"),
            kind: AttributeKind::String,
            description: String::new(),
        }
    }

    fn entity_type() -> EntityType {
        let spec = EntityTypeSpec {
            name: "thing".to_owned(),
            attributes: (0..40).map(attribute).collect(),
            ..Default::default()
        };
        EntityType::new(spec, SysTime::from_micros(0))
    }

    type Named = BTreeMap<String, Option<Value>>;

    fn named(values: &BTreeMap<usize, Option<String>>) -> Named {
        let value = |text: &Option<String>| text.clone().map(Value::String);
        values
            .iter()
            .map(|(index, text)| (format!("a{index}"), value(text)))
            .collect()
    }

    fn values() -> impl Strategy<Value = BTreeMap<usize, Option<String>>> {
        proptest::collection::btree_map(0usize..40, proptest::option::of("[a-z]{0,4}"), 0..12)
    }

    proptest! {
        #[test]
        fn a_patched_row_is_the_row_of_the_merged_attributes(base in values(), patch in values()) {
            let entity_type = entity_type();
            let row = encode(&entity_type, &named(&base), Purpose::Store).expect("encodes");
            let patched = RowPatch::encode(&entity_type, &named(&patch), Purpose::Store)
                .expect("encodes")
                .apply(&row);
            let mut merged = base;
            merged.extend(patch);
            let expected = encode(&entity_type, &named(&merged), Purpose::Store).expect("encodes");
            prop_assert_eq!(patched, Ok(expected));
        }
    }

    #[test]
    fn rows_read_under_earlier_and_later_revisions() {
        let old = entity_type();
        let update = EntityTypeUpdate {
            add_attributes: vec![attribute(40)],
            ..Default::default()
        };
        let new = old
            .updated(update, SysTime::from_micros(1))
            .expect("valid")
            .expect("differs");
        let values = BTreeMap::from([(0, Some("x".to_owned())), (40, Some("y".to_owned()))]);
        let row = encode(&new, &named(&values), Purpose::Store).expect("encodes");
        let text = |text: &str| Some(Value::String(text.to_owned()));
        let told = decode(&old, &row).expect("reads");
        assert_eq!((told.len(), &told[0]), (40, &text("x")));
        assert_eq!(decode(&new, &row).expect("reads")[40], text("y"));
        let row = encode(
            &old,
            &named(&values.into_iter().take(1).collect()),
            Purpose::Store,
        );
        let told = decode(&new, &row.expect("encodes")).expect("reads");
        assert_eq!((&told[0], &told[40]), (&text("x"), &None));
        assert_eq!(new.at_revision(1), Some(old));
        assert_eq!(new.at_revision(3), None);
        assert_eq!(new.at_revision(0), None);
    }
}
