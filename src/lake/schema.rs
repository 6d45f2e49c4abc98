//! Which columns a table has: from a query's output to what is stored, and how a table's columns may grow.
//!
//! What is stored is exactly what Iceberg's types can say, in the Arrow types that its readers give back: strings are
//! `Utf8`, bytes `LargeBinary`, instants `Timestamp(µs, "+00:00")`, list elements are called `element`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use iceberg::{
    arrow::{UTC_TIME_ZONE, arrow_schema_to_schema, schema_to_arrow_schema},
    spec::{NestedField, NestedFieldRef, Schema as TableSchema, SchemaRef as TableSchemaRef},
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::error::{Error, Result, iceberg_error};

/// The last column of every table: the start of the partition that the row belongs to. Tables are partitioned by it.
pub const PARTITION_COLUMN: &str = "partition_start";

/// The columns of the table that holds a query's output.
///
/// **Shape**: the query's columns in their order, widened to what Iceberg can store (unsigned and small integers to the
/// next signed type that holds them, `UInt64` to `Int64`, times and timestamps to microseconds, zoned timestamps to UTC),
/// then [`PARTITION_COLUMN`], `Timestamp(µs, "+00:00")`, not null.
///
/// # Errors
/// [`Error::BadColumn`] for a type that Iceberg cannot store, a name that is empty or there twice, or a column called
/// [`PARTITION_COLUMN`].
pub fn output_schema(query: &Schema) -> Result<SchemaRef> {
    let mut names = HashSet::new();
    let mut fields = Vec::with_capacity(query.fields().len() + 1);
    for field in query.fields() {
        check_name(field.name(), &mut names)?;
        fields.push(stored_field(field.name(), field.name(), field)?);
    }
    fields.push(Field::new(PARTITION_COLUMN, instant_type(), false));
    Ok(Arc::new(Schema::new(fields)))
}

/// The type of [`PARTITION_COLUMN`].
pub(super) fn instant_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC_TIME_ZONE.into()))
}

fn check_name<'a>(name: &'a str, seen: &mut HashSet<&'a str>) -> Result<()> {
    let problem = if name.is_empty() {
        "it has no name; name it with AS"
    } else if name == PARTITION_COLUMN {
        "every table has a column of this name, which hindcast fills; name yours otherwise with AS"
    } else if seen.insert(name) {
        return Ok(());
    } else {
        "two columns have this name; rename one with AS"
    };
    Err(Error::BadColumn {
        column: name.to_owned(),
        problem: problem.to_owned(),
    })
}

fn stored_field(path: &str, name: &str, field: &Field) -> Result<Field> {
    let data_type = stored_type(path, field.data_type())?;
    Ok(Field::new(name, data_type, field.is_nullable()))
}

/// The type that holds every value of `data_type`; applied to a stored type, the same without metadata.
fn stored_type(path: &str, data_type: &DataType) -> Result<DataType> {
    let stored = match data_type {
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::FixedSizeBinary(_) => data_type.clone(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => instant_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::LargeBinary,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, values) => stored_type(path, values)?,
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::FixedSizeList(element, _) => {
            let path = format!("{path}.element");
            DataType::List(Arc::new(stored_field(&path, "element", element)?))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            DataType::Struct(stored_fields(path, fields)?)
        }
        DataType::Null
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::Struct(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Map(..)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..) => return Err(unsupported(path, data_type)),
    };
    Ok(stored)
}

fn stored_fields(path: &str, fields: &Fields) -> Result<Fields> {
    fields
        .iter()
        .map(|field| stored_field(&format!("{path}.{}", field.name()), field.name(), field))
        .collect()
}

fn unsupported(path: &str, data_type: &DataType) -> Error {
    let remedy = if matches!(data_type, DataType::Null) {
        "give it a type, such as CAST(NULL AS BIGINT)"
    } else if matches!(data_type, DataType::Decimal256(..)) {
        "cast it to DECIMAL of at most 38 digits"
    } else if data_type.is_decimal() {
        "cast it to DECIMAL with a scale of 0 or more"
    } else if matches!(data_type, DataType::Duration(_) | DataType::Interval(_)) {
        "turn it into a number, such as its seconds as BIGINT"
    } else {
        "select its parts as columns of their own, or cast it to VARCHAR"
    };
    Error::BadColumn {
        column: path.to_owned(),
        problem: format!("an Iceberg table cannot hold {data_type}; {remedy}"),
    }
}

/// The Iceberg form of `columns`, with field ids from `first_id` on.
pub(super) fn to_table_schema(columns: &Schema, first_id: i32) -> Result<TableSchema> {
    let mut next_id = first_id;
    let fields = with_ids(columns.fields(), &mut next_id);
    arrow_schema_to_schema(&Schema::new(fields)).map_err(iceberg_error("make a table schema"))
}

/// The Arrow form of a table's columns; fields carry their ids as Parquet wants them.
pub(super) fn to_arrow_schema(table: &TableSchema) -> Result<SchemaRef> {
    schema_to_arrow_schema(table)
        .map(Arc::new)
        .map_err(iceberg_error("read a table schema"))
}

/// The Arrow form of a table's columns without ids: what [`output_schema`] gave.
pub(super) fn to_plain_schema(table: &TableSchema) -> Result<SchemaRef> {
    let fields = stored_fields("", to_arrow_schema(table)?.fields())?;
    Ok(Arc::new(Schema::new(fields)))
}

fn with_ids(fields: &Fields, next_id: &mut i32) -> Fields {
    fields.iter().map(|field| with_id(field, next_id)).collect()
}

fn with_id(field: &FieldRef, next_id: &mut i32) -> FieldRef {
    let id = *next_id;
    *next_id += 1;
    let data_type = if let DataType::List(element) = field.data_type() {
        DataType::List(with_id(element, next_id))
    } else if let DataType::Struct(fields) = field.data_type() {
        DataType::Struct(with_ids(fields, next_id))
    } else {
        field.data_type().clone()
    };
    let metadata = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(metadata))
}

/// The schema that holds both `current` and `wanted`: `None` if that is `current`.
///
/// A column that is wanted and not there is added before the last, nullable; a column that may now be null may from then
/// on be null in the table.
///
/// # Errors
/// [`Error::SchemaConflict`] when a column is gone or has another type.
pub(super) fn evolve(
    table: &str,
    current: &TableSchemaRef,
    wanted: &Schema,
    last_id: i32,
) -> Result<Option<TableSchema>> {
    let conflict = |column: &str, problem: String| Error::SchemaConflict {
        table: table.to_owned(),
        column: column.to_owned(),
        problem,
    };
    let stored = to_plain_schema(current)?;
    let mut columns: Vec<NestedFieldRef> = Vec::with_capacity(wanted.fields().len());
    let mut changed = false;
    for (stored, column) in stored.fields().iter().zip(current.as_struct().fields()) {
        let Ok(asked) = wanted.field_with_name(stored.name()) else {
            return Err(conflict(
                stored.name(),
                "the table has it and the query no longer gives it".to_owned(),
            ));
        };
        if asked.data_type() != stored.data_type() {
            let (is, was) = (asked.data_type(), stored.data_type());
            return Err(conflict(
                stored.name(),
                format!("it is {is} now and {was} in the table"),
            ));
        }
        let relax = column.required && asked.is_nullable();
        changed |= relax;
        columns.push(if relax {
            optional(column)
        } else {
            Arc::clone(column)
        });
    }
    let added: Vec<FieldRef> = wanted
        .fields()
        .iter()
        .filter(|field| stored.field_with_name(field.name()).is_err())
        // Rows written before have no value for it.
        .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)))
        .collect();
    if added.is_empty() && !changed {
        return Ok(None);
    }
    let added = to_table_schema(&Schema::new(added), last_id + 1)?;
    let before_partition_start = columns.len().saturating_sub(1);
    columns.splice(
        before_partition_start..before_partition_start,
        added.as_struct().fields().iter().cloned(),
    );
    TableSchema::builder()
        .with_fields(columns)
        .build()
        .map(Some)
        .map_err(iceberg_error("evolve a table schema"))
}

fn optional(column: &NestedFieldRef) -> NestedFieldRef {
    let mut column = NestedField::clone(column);
    column.required = false;
    Arc::new(column)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{IntervalUnit, UnionFields, UnionMode};

    use super::*;

    fn stored(data_type: DataType) -> Result<DataType> {
        let query = Schema::new(vec![Field::new("c", data_type, true)]);
        Ok(output_schema(&query)?.field(0).data_type().clone())
    }

    #[test]
    fn every_type_is_stored_as_one_that_holds_its_values() {
        use DataType::*;
        let table = [
            (Boolean, Boolean),
            (Int8, Int32),
            (UInt16, Int32),
            (UInt32, Int64),
            (UInt64, Int64),
            (Float16, Float32),
            (Utf8View, Utf8),
            (Dictionary(Box::new(Int32), Box::new(LargeUtf8)), Utf8),
            (BinaryView, LargeBinary),
            (Date64, Date32),
            (Time32(TimeUnit::Second), Time64(TimeUnit::Microsecond)),
            (
                Timestamp(TimeUnit::Nanosecond, None),
                Timestamp(TimeUnit::Microsecond, None),
            ),
            (
                Timestamp(TimeUnit::Second, Some("America/New_York".into())),
                instant_type(),
            ),
            (Decimal64(10, 2), Decimal128(10, 2)),
            (Decimal128(38, 0), Decimal128(38, 0)),
            (
                LargeList(Arc::new(Field::new("item", UInt8, true))),
                List(Arc::new(Field::new("element", Int32, true))),
            ),
            (
                Struct(vec![Field::new("a", Utf8View, false)].into()),
                Struct(vec![Field::new("a", Utf8, false)].into()),
            ),
        ];
        for (query, expected) in table {
            let once = stored(query.clone()).expect("supported");
            assert_eq!(once, expected, "{query}");
            assert_eq!(stored(once).expect("supported"), expected, "{query} again");
        }
    }

    #[test]
    fn what_iceberg_cannot_say_is_refused_with_a_remedy() {
        use DataType::*;
        let entries = Field::new(
            "entries",
            Struct(
                vec![
                    Field::new("key", Utf8, false),
                    Field::new("value", Int64, true),
                ]
                .into(),
            ),
            false,
        );
        let table = [
            (Null, "CAST(NULL"),
            (Decimal256(50, 2), "38 digits"),
            (Decimal128(5, -2), "scale"),
            (Duration(TimeUnit::Second), "seconds"),
            (Interval(IntervalUnit::MonthDayNano), "seconds"),
            (Map(Arc::new(entries), false), "parts"),
            (Union(UnionFields::empty(), UnionMode::Sparse), "parts"),
            (Struct(Fields::empty()), "parts"),
            (List(Arc::new(Field::new("item", Null, true))), "CAST(NULL"),
        ];
        for (data_type, remedy) in table {
            let error = stored(data_type.clone()).expect_err("refused");
            let text = error.to_string();
            assert!(
                text.contains("column \"c") && text.contains(remedy),
                "{data_type}: {text}"
            );
        }
    }

    #[test]
    fn names_are_present_once_and_not_ours() {
        let column = |name: &str| Field::new(name, DataType::Int64, true);
        for fields in [
            vec![column("")],
            vec![column(PARTITION_COLUMN)],
            vec![column("a"), column("a")],
        ] {
            assert!(matches!(
                output_schema(&Schema::new(fields)),
                Err(Error::BadColumn { .. })
            ));
        }
    }
}
