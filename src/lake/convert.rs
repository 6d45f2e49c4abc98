//! A query's batch in the table's columns: matched by name, cast, with the partition's start added.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray, TimestampMicrosecondArray,
        new_null_array,
    },
    compute::{CastOptions, cast_with_options},
    datatypes::{
        DataType, Date32Type, Date64Type, Field, Fields, SchemaRef, TimeUnit,
        TimestampMicrosecondType, TimestampNanosecondType,
    },
    error::ArrowError,
};

use super::{
    error::{Error, Result},
    schema::PARTITION_COLUMN,
};
use crate::time::ValidTime;

const NANOS_PER_MICRO: i64 = 1_000;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// `batch` in the columns `target` of `table`. A nullable column that the batch lacks is null.
///
/// # Errors
/// [`Error::Value`] when a value does not fit its column; [`Error::SchemaConflict`] when the batch has a column that the
/// table lacks, or lacks one that may not be null.
pub(super) fn to_table_batch(
    table: &str,
    batch: &RecordBatch,
    target: &SchemaRef,
    partition_start: ValidTime,
) -> Result<RecordBatch> {
    let conflict = |column: &str, problem: &str| Error::SchemaConflict {
        table: table.to_owned(),
        column: column.to_owned(),
        problem: problem.to_owned(),
    };
    let batch_schema = batch.schema_ref();
    if let Some(extra) = batch_schema
        .fields()
        .iter()
        .find(|field| field.name() == PARTITION_COLUMN || target.index_of(field.name()).is_err())
    {
        return Err(conflict(extra.name(), "the table does not have it"));
    }
    let mut columns = Vec::with_capacity(target.fields().len());
    for field in target.fields() {
        let column = if field.name() == PARTITION_COLUMN {
            partition_column(partition_start, batch.num_rows(), field)
        } else if let Some(column) = batch.column_by_name(field.name()) {
            if !field.is_nullable() && column.logical_null_count() > 0 {
                return Err(Error::Value {
                    column: field.name().clone(),
                    cause: "it is null, and the table's column is never null".to_owned(),
                });
            }
            convert(field.name(), column, field)?
        } else if field.is_nullable() {
            new_null_array(field.data_type(), batch.num_rows())
        } else {
            return Err(conflict(
                field.name(),
                "it is never null in the table and the query lacks it",
            ));
        };
        columns.push(column);
    }
    RecordBatch::try_new(Arc::clone(target), columns).map_err(|error| value_error("(row)", &error))
}

fn partition_column(start: ValidTime, row_count: usize, field: &Field) -> ArrayRef {
    let array = TimestampMicrosecondArray::from_value(start.micros(), row_count);
    Arc::new(array.with_data_type(field.data_type().clone()))
}

fn value_error(path: &str, error: &ArrowError) -> Error {
    Error::Value {
        column: path.to_owned(),
        cause: error.to_string(),
    }
}

/// `array` in the type of `target`; `path` is its column's name.
///
/// # Errors
/// [`Error::Value`] when a value does not fit.
pub(crate) fn convert(path: &str, array: &ArrayRef, target: &Field) -> Result<ArrayRef> {
    let wanted = target.data_type();
    match (array.data_type(), wanted) {
        (given, wanted) if given == wanted => Ok(Arc::clone(array)),
        (DataType::Dictionary(_, values), _) => convert(path, &cast(path, array, values)?, target),
        (DataType::LargeList(element) | DataType::FixedSizeList(element, _), DataType::List(_)) => {
            let list = cast(path, array, &DataType::List(Arc::clone(element)))?;
            convert(path, &list, target)
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = convert(&format!("{path}.element"), list.values(), element)?;
            ListArray::try_new(
                Arc::clone(element),
                list.offsets().clone(),
                values,
                list.nulls().cloned(),
            )
            .map(|list| Arc::new(list) as ArrayRef)
            .map_err(|error| value_error(path, &error))
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            convert_struct(path, array.as_struct(), fields)
        }
        // Arrow's cast rounds towards zero: instants before 1970 would move forwards.
        (
            DataType::Timestamp(TimeUnit::Nanosecond, _),
            DataType::Timestamp(TimeUnit::Microsecond, _),
        ) => {
            let floored = array
                .as_primitive::<TimestampNanosecondType>()
                .unary::<_, TimestampMicrosecondType>(|nanos| nanos.div_euclid(NANOS_PER_MICRO));
            Ok(Arc::new(floored.with_data_type(wanted.clone())))
        }
        (DataType::Date64, DataType::Date32) => array
            .as_primitive::<Date64Type>()
            .try_unary::<_, Date32Type, _>(|millis| {
                i32::try_from(millis.div_euclid(MILLIS_PER_DAY)).map_err(|_| {
                    ArrowError::CastError(format!("{millis} ms since 1970 is no date"))
                })
            })
            .map(|dates| Arc::new(dates) as ArrayRef)
            .map_err(|error| value_error(path, &error)),
        _other => cast(path, array, wanted),
    }
}

fn convert_struct(path: &str, array: &StructArray, fields: &Fields) -> Result<ArrayRef> {
    let columns = fields
        .iter()
        .map(|field| {
            let path = format!("{path}.{}", field.name());
            let column = array
                .column_by_name(field.name())
                .ok_or_else(|| Error::Value {
                    column: path.clone(),
                    cause: "the query's struct lacks it".to_owned(),
                })?;
            convert(&path, column, field)
        })
        .collect::<Result<Vec<_>>>()?;
    StructArray::try_new(fields.clone(), columns, array.nulls().cloned())
        .map(|array| Arc::new(array) as ArrayRef)
        .map_err(|error| value_error(path, &error))
}

fn cast(path: &str, array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    // `safe` would turn a value that does not fit into null.
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, wanted, &options).map_err(|error| value_error(path, &error))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Date64Array, Int32Array, TimestampNanosecondArray, UInt64Array},
        datatypes::Schema,
    };

    use super::*;
    use crate::lake::schema::{output_schema, to_arrow_schema, to_table_schema};

    fn stored(column: ArrayRef) -> Result<ArrayRef> {
        let nullable = column.null_count() > 0;
        let query = Arc::new(Schema::new(vec![Field::new(
            "c",
            column.data_type().clone(),
            nullable,
        )]));
        let target = to_arrow_schema(&to_table_schema(&*output_schema(&query)?, 1)?)?;
        let batch = RecordBatch::try_new(query, vec![column]).expect("one column");
        let start = ValidTime::from_micros(-7);
        let batch = to_table_batch("t", &batch, &target, start)?;
        assert_eq!(
            batch
                .column(1)
                .as_primitive::<TimestampMicrosecondType>()
                .value(0),
            -7
        );
        Ok(Arc::clone(batch.column(0)))
    }

    #[test]
    fn finer_instants_are_floored_before_1970() {
        let nanos = TimestampNanosecondArray::from(vec![Some(-1), None, Some(1_999)]);
        let micros = stored(Arc::new(nanos)).expect("fits");
        let expected = TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1)]);
        assert_eq!(micros.as_primitive::<TimestampMicrosecondType>(), &expected);
        let dates = stored(Arc::new(Date64Array::from(vec![-1, 86_400_000]))).expect("fits");
        assert_eq!(dates.as_primitive::<Date32Type>().values(), &[-1, 1]);
    }

    #[test]
    fn an_integer_over_the_stored_range_is_an_error_that_names_the_column() {
        let largest = i64::MAX.cast_unsigned();
        assert!(stored(Arc::new(UInt64Array::from(vec![largest]))).is_ok());
        let error = stored(Arc::new(UInt64Array::from(vec![largest + 1]))).expect_err("too large");
        assert!(error.to_string().contains("column \"c\""), "{error}");
    }

    #[test]
    fn a_nullable_column_that_the_query_lacks_is_null() {
        let wide = Schema::new(vec![
            Field::new("a", DataType::Int32, false),
            Field::new("b", DataType::Utf8, true),
        ]);
        let wide = output_schema(&wide).expect("supported");
        let target = to_arrow_schema(&to_table_schema(&wide, 1).expect("schema")).expect("schema");
        let narrow = |name: &str| {
            let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Int32, false)]));
            RecordBatch::try_new(schema, vec![Arc::new(Int32Array::from(vec![1]))])
                .expect("one column")
        };
        let start = ValidTime::from_micros(0);
        let batch = to_table_batch("t", &narrow("a"), &target, start).expect("fits");
        assert_eq!(batch.column(1).null_count(), 1);
        for refused in ["c", PARTITION_COLUMN] {
            let error = to_table_batch("t", &narrow(refused), &target, start).expect_err("refused");
            assert!(
                matches!(error, Error::SchemaConflict { ref column, .. } if column == refused),
                "{error}"
            );
        }
    }
}
