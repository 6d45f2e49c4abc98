//! A query's rows as rows of an entity type: which column is what, in which order they come, and what cannot be written.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{
        DataType, Date32Type, Decimal128Type, Field, Float64Type, Int64Type, Schema,
        TimestampMicrosecondType,
    },
};
use datafusion::{
    common::Column,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit},
    prelude::concat_ws,
};

use super::{Error, Result};
use crate::{
    catalog::{EntityOutput, KEY_SEPARATOR},
    lake,
    store::{AttributeKind, Decimal, EntityType, RowStager, StageFault, Value, columns},
};

/// What each column of a query is to an entity type.
#[derive(Debug)]
pub(super) struct EntityColumns {
    entity_type: Arc<EntityType>,
    /// Places of the key's columns in the query.
    key: Vec<usize>,
    /// By attribute: the place of its column; `None`: it is null in every row.
    attributes: Vec<Option<usize>>,
    /// By attribute: the type that its values are brought to.
    fields: Vec<Field>,
}

impl EntityColumns {
    /// Finds out what the columns of `query` are to `entity_type`.
    ///
    /// # Errors
    /// [`Error::Definition`]: a key that the query does not give, or whose type makes no ids; columns that are no attributes or
    /// of another kind; attributes without a column.
    pub(super) fn resolve(
        output: &EntityOutput,
        entity_type: &Arc<EntityType>,
        query: &Schema,
    ) -> Result<Self> {
        let key = key_columns(output, query)?;
        let mut problems = Vec::new();
        for (place, field) in query.fields().iter().enumerate() {
            match entity_type.attribute_index(field.name()) {
                Some(index) => problems.extend(misfit(entity_type, index, field)),
                None if key.contains(&place) => {}
                None => problems.push(format!("it has no attribute {:?}", field.name())),
            }
        }
        let mut attributes = Vec::new();
        for (index, attribute) in entity_type.attributes().iter().enumerate() {
            let place = query.index_of(&attribute.name).ok();
            if place.is_none() && !entity_type.is_deprecated(index) {
                problems.push(format!(
                    "the query gives no column for its attribute {:?} (CAST(NULL AS {}) leaves it null)",
                    attribute.name,
                    sql_type(attribute.kind)
                ));
            }
            attributes.push(place);
        }
        if !problems.is_empty() {
            return Err(Error::definition(
                "transform.sql",
                format!(
                    "its columns do not fit entity type {:?}: {}",
                    entity_type.name(),
                    problems.join("; ")
                ),
            ));
        }
        let schema = columns::as_of_schema(entity_type);
        let fields = schema.fields().iter().skip(1).take(attributes.len());
        Ok(Self {
            fields: fields.map(|field| field.as_ref().clone()).collect(),
            entity_type: Arc::clone(entity_type),
            key,
            attributes,
        })
    }

    /// The plan's rows in the order of the ids that they will have.
    pub(super) fn by_id(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let mut parts: Vec<Expr> = Vec::new();
        for &place in &self.key {
            let (qualifier, field) = plan.schema().qualified_field(place);
            let column = Expr::Column(Column::from((qualifier, field)));
            parts.push(datafusion::logical_expr::cast(column, DataType::Utf8));
        }
        let id = match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                concat_ws(lit(KEY_SEPARATOR.to_string()), parts)
            }
        };
        let sorted = LogicalPlanBuilder::from(plan).sort([id.sort(true, true)])?;
        Ok(sorted.build()?)
    }

    /// Adds the rows of a batch.
    ///
    /// # Errors
    /// [`Error::OutputRow`] for a row that cannot be an entity; [`Error::Staging`].
    pub(super) fn push(&self, batch: &RecordBatch, stager: &mut RowStager) -> Result<()> {
        let keys = self.keys(batch)?;
        let columns = self
            .attributes
            .iter()
            .zip(&self.fields)
            .map(|(place, field)| {
                place
                    .map(|place| lake::to_stored(field.name(), batch.column(place), field))
                    .transpose()
            })
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| self.refused(error.to_string()))?;
        let mut values = vec![None; columns.len()];
        for row in 0..batch.num_rows() {
            let id = self.id(batch, &keys, row)?;
            for (index, column) in columns.iter().enumerate() {
                let kind = self.entity_type.attributes()[index].kind;
                values[index] = column
                    .as_ref()
                    .filter(|column| column.is_valid(row))
                    .map(|column| value_at(column, kind, row));
            }
            stager.push(id, &values).map_err(|fault| match fault {
                StageFault::Io(cause) => Error::Staging(cause),
                StageFault::OutOfOrder { .. } => Error::Broken {
                    cause: fault.to_string(),
                },
                StageFault::Duplicate { .. } | StageFault::Id { .. } | StageFault::Value { .. } => {
                    self.refused(fault.to_string())
                }
            })?;
        }
        Ok(())
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Vec<StringArray>> {
        self.key
            .iter()
            .map(|&place| {
                let texts = cast(batch.column(place), &DataType::Utf8);
                let texts = texts.map_err(|error| Error::Query(Box::new(error.into())))?;
                Ok(texts.as_string::<i32>().clone())
            })
            .collect()
    }

    /// The id of a row. Parts of a key hold no separator, so that different keys are different ids.
    fn id(&self, batch: &RecordBatch, keys: &[StringArray], row: usize) -> Result<String> {
        let mut id = String::new();
        for (part, &place) in keys.iter().zip(&self.key) {
            let name = || batch.schema_ref().field(place).name().clone();
            if part.is_null(row) {
                let beside = if id.is_empty() {
                    String::new()
                } else {
                    format!(" after {id:?}")
                };
                return Err(self.refused(format!(
                    "a row has null in key column {:?}{beside}: leave it out (WHERE … IS NOT NULL), or give it a key",
                    name()
                )));
            }
            let text = part.value(row);
            if keys.len() > 1 && text.contains(KEY_SEPARATOR) {
                return Err(self.refused(format!(
                    "key column {:?} has {text:?}, and {KEY_SEPARATOR:?} separates the columns of a key: make one key column in the SQL",
                    name()
                )));
            }
            if !id.is_empty() || place != self.key[0] {
                id.push(KEY_SEPARATOR);
            }
            id.push_str(text);
        }
        Ok(id)
    }

    fn refused(&self, problem: String) -> Error {
        Error::OutputRow {
            entity_type: self.entity_type.name().to_owned(),
            problem,
        }
    }
}

/// A declaration that would fit `query`, for whoever has not made one yet.
pub(super) fn suggestion(output: &EntityOutput, query: &Schema) -> String {
    let attributes: Vec<_> = query
        .fields()
        .iter()
        .filter(|field| !output.key.contains(field.name()))
        .filter_map(|field| {
            let kind = match kind_of(field.data_type())? {
                AttributeKind::Decimal { precision, scale } => {
                    format!("\"decimal\", precision = {precision}, scale = {scale}")
                }
                kind @ (AttributeKind::Bool
                | AttributeKind::Int64
                | AttributeKind::Float64
                | AttributeKind::String
                | AttributeKind::Bytes
                | AttributeKind::Timestamp
                | AttributeKind::Date
                | AttributeKind::Json) => format!("{:?}", kind.name()),
            };
            Some(format!("{{ name = {:?}, kind = {kind} }}", field.name()))
        })
        .collect();
    format!(
        "attributes = [ {} ] would fit the query",
        attributes.join(", ")
    )
}

fn key_columns(output: &EntityOutput, query: &Schema) -> Result<Vec<usize>> {
    let mut key = Vec::new();
    for (index, name) in output.key.iter().enumerate() {
        let refused = |problem: String| {
            Error::definition(format!("transform.output_entity.key[{index}]"), problem)
        };
        let place = query
            .index_of(name)
            .map_err(|_| refused(format!("the query gives no column {name:?}")))?;
        if key.contains(&place) {
            return Err(refused(format!("{name:?} is named twice")));
        }
        let data_type = query.field(place).data_type();
        if !makes_ids(data_type) {
            return Err(refused(format!(
                "{name:?} is {data_type}: ids are made of strings, integers and dates; CAST({name} AS VARCHAR) makes it one"
            )));
        }
        key.push(place);
    }
    Ok(key)
}

fn makes_ids(data_type: &DataType) -> bool {
    // The text of the other date has a time of day.
    *data_type != DataType::Date64
        && matches!(
            kind_of(data_type),
            Some(AttributeKind::String | AttributeKind::Int64 | AttributeKind::Date)
        )
}

/// What is wrong with the column of an attribute.
fn misfit(entity_type: &EntityType, index: usize, field: &Field) -> Option<String> {
    let attribute = &entity_type.attributes()[index];
    let name = &attribute.name;
    if entity_type.is_deprecated(index) {
        return Some(format!(
            "its attribute {name:?} is deprecated: it takes no new values"
        ));
    }
    if fits(attribute.kind, field.data_type()) {
        return None;
    }
    Some(format!(
        "its attribute {name:?} is {}, and the query gives {} (CAST({name} AS {}))",
        attribute.kind.name(),
        field.data_type(),
        sql_type(attribute.kind)
    ))
}

/// Whether an attribute takes values of this type. A 64-bit unsigned integer may still turn out to be too large.
fn fits(kind: AttributeKind, data_type: &DataType) -> bool {
    match (kind, kind_of(data_type)) {
        (AttributeKind::Json, Some(AttributeKind::String)) => true,
        (
            AttributeKind::Decimal { precision, scale },
            Some(AttributeKind::Decimal {
                precision: given,
                scale: given_scale,
            }),
        ) => {
            let whole = |precision: u8, scale: u8| precision.saturating_sub(scale);
            given_scale <= scale && whole(given, given_scale) <= whole(precision, scale)
        }
        (kind, given) => given == Some(kind),
    }
}

/// The kind of attribute that values of this type are.
fn kind_of(data_type: &DataType) -> Option<AttributeKind> {
    Some(match data_type {
        DataType::Boolean => AttributeKind::Bool,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => AttributeKind::Float64,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => AttributeKind::String,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => AttributeKind::Bytes,
        DataType::Timestamp(_, _) => AttributeKind::Timestamp,
        DataType::Date32 | DataType::Date64 => AttributeKind::Date,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => AttributeKind::Decimal {
            precision: *precision,
            scale: u8::try_from(*scale).ok()?,
        },
        DataType::Dictionary(_, values) => kind_of(values)?,
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64 => AttributeKind::Int64,
        DataType::Null
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::List(_)
        | DataType::ListView(_)
        | DataType::FixedSizeList(..)
        | DataType::LargeList(_)
        | DataType::LargeListView(_)
        | DataType::Struct(_)
        | DataType::Union(..)
        | DataType::Decimal256(..)
        | DataType::Map(..)
        | DataType::RunEndEncoded(..) => return None,
    })
}

fn sql_type(kind: AttributeKind) -> String {
    match kind {
        AttributeKind::Bool => "BOOLEAN".to_owned(),
        AttributeKind::Int64 => "BIGINT".to_owned(),
        AttributeKind::Float64 => "DOUBLE".to_owned(),
        AttributeKind::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        AttributeKind::String | AttributeKind::Json => "VARCHAR".to_owned(),
        AttributeKind::Bytes => "BYTEA".to_owned(),
        AttributeKind::Timestamp => "TIMESTAMP".to_owned(),
        AttributeKind::Date => "DATE".to_owned(),
    }
}

/// A value that is not null, of a column that was brought to its attribute's type.
fn value_at(column: &ArrayRef, kind: AttributeKind, row: usize) -> Value {
    match kind {
        AttributeKind::Bool => Value::Bool(column.as_boolean().value(row)),
        AttributeKind::Int64 => Value::Int64(column.as_primitive::<Int64Type>().value(row)),
        AttributeKind::Float64 => Value::Float64(column.as_primitive::<Float64Type>().value(row)),
        AttributeKind::Decimal { scale, .. } => Value::Decimal(Decimal {
            unscaled: column.as_primitive::<Decimal128Type>().value(row),
            scale,
        }),
        AttributeKind::String => Value::String(column.as_string::<i32>().value(row).to_owned()),
        AttributeKind::Json => Value::Json(column.as_string::<i32>().value(row).to_owned()),
        AttributeKind::Bytes => Value::Bytes(column.as_binary::<i32>().value(row).to_owned()),
        AttributeKind::Timestamp => {
            Value::Timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        AttributeKind::Date => Value::Date(column.as_primitive::<Date32Type>().value(row)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, TimestampNanosecondArray};

    use super::*;

    #[test]
    fn what_an_attribute_takes() {
        use AttributeKind as Kind;
        let decimal = |precision, scale| Kind::Decimal { precision, scale };
        for (kind, data_type, expected) in [
            (Kind::Int64, DataType::UInt32, true),
            (Kind::Int64, DataType::Float64, false),
            (Kind::Float64, DataType::Float32, true),
            (Kind::Float64, DataType::Int64, false),
            (decimal(10, 2), DataType::Decimal128(10, 2), true),
            (decimal(10, 2), DataType::Decimal128(9, 1), true),
            (decimal(10, 2), DataType::Decimal128(10, 1), false),
            (decimal(10, 2), DataType::Decimal128(10, 3), false),
            (Kind::Json, DataType::Utf8View, true),
            (Kind::String, DataType::Binary, false),
            (Kind::Date, DataType::Date64, true),
            (
                Kind::String,
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
                true,
            ),
        ] {
            assert_eq!(fits(kind, &data_type), expected, "{kind:?} {data_type}");
        }
    }

    #[test]
    fn instants_are_floored_on_their_way() {
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![-1]));
        let field = Field::new(
            "at",
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())),
            true,
        );
        let stored = lake::to_stored("at", &nanos, &field).expect("fits");
        assert_eq!(
            value_at(&stored, AttributeKind::Timestamp, 0),
            Value::Timestamp(-1)
        );
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        assert_eq!(value_at(&numbers, AttributeKind::Int64, 0), Value::Int64(7));
    }
}
