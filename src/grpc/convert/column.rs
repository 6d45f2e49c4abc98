//! Attributes in Arrow columns, read row by row.

use arrow::array::{
    Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    StringArray, TimestampMicrosecondArray,
};

use crate::{
    error::Violation,
    pb,
    store::{AttributeKind, Decimal, EntityType, Value},
};

/// One attribute's column.
pub(in crate::grpc) enum AttributeColumn<'a> {
    Bool(&'a BooleanArray),
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8),
    Text(&'a StringArray),
    Json(&'a StringArray),
    Bytes(&'a BinaryArray),
    Timestamp(&'a TimestampMicrosecondArray),
    Date(&'a Date32Array),
}

impl<'a> AttributeColumn<'a> {
    /// The column of an attribute of this kind; `None` if its type is another one.
    pub(in crate::grpc) fn of(kind: AttributeKind, array: &'a dyn Array) -> Option<Self> {
        let any = array.as_any();
        Some(match kind {
            AttributeKind::Bool => Self::Bool(any.downcast_ref()?),
            AttributeKind::Int64 => Self::Int64(any.downcast_ref()?),
            AttributeKind::Float64 => Self::Float64(any.downcast_ref()?),
            AttributeKind::Decimal { scale, .. } => Self::Decimal(any.downcast_ref()?, scale),
            AttributeKind::String => Self::Text(any.downcast_ref()?),
            AttributeKind::Json => Self::Json(any.downcast_ref()?),
            AttributeKind::Bytes => Self::Bytes(any.downcast_ref()?),
            AttributeKind::Timestamp => Self::Timestamp(any.downcast_ref()?),
            AttributeKind::Date => Self::Date(any.downcast_ref()?),
        })
    }

    /// The value in a row; `None` is null.
    pub(in crate::grpc) fn value(&self, row: usize) -> Option<pb::Value> {
        if self.array().is_null(row) {
            return None;
        }
        let value = match self {
            Self::Bool(array) => Value::Bool(array.value(row)),
            Self::Int64(array) => Value::Int64(array.value(row)),
            Self::Float64(array) => Value::Float64(array.value(row)),
            Self::Decimal(array, scale) => Value::Decimal(Decimal {
                unscaled: array.value(row),
                scale: *scale,
            }),
            Self::Text(array) => Value::String(array.value(row).to_owned()),
            Self::Json(array) => Value::Json(array.value(row).to_owned()),
            Self::Bytes(array) => Value::Bytes(array.value(row).to_vec()),
            Self::Timestamp(array) => Value::Timestamp(array.value(row)),
            Self::Date(array) => Value::Date(array.value(row)),
        };
        Some(value.into())
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Bool(array) => *array,
            Self::Int64(array) => *array,
            Self::Float64(array) => *array,
            Self::Decimal(array, _) => *array,
            Self::Text(array) | Self::Json(array) => *array,
            Self::Bytes(array) => *array,
            Self::Timestamp(array) => *array,
            Self::Date(array) => *array,
        }
    }
}

/// The places of the attributes that `names` asks for, in its order; of all of them if it names none.
///
/// # Errors
/// A name that the type has not, or that comes twice, at `field[index]`.
pub(in crate::grpc) fn attribute_indices(
    field: &str,
    entity_type: &EntityType,
    names: &[String],
) -> Result<Vec<usize>, Violation> {
    if names.is_empty() {
        return Ok((0..entity_type.attributes().len()).collect());
    }
    let mut indices = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        let refuse = |problem| Violation::new(format!("{field}[{place}]"), problem);
        let index = entity_type.attribute_index(name).ok_or_else(|| {
            refuse(format!(
                "entity type {:?} has no attribute {name:?}",
                entity_type.name()
            ))
        })?;
        if indices.contains(&index) {
            return Err(refuse(format!("{name:?} is named twice")));
        }
        indices.push(index);
    }
    Ok(indices)
}
