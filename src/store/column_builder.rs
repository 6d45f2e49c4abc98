//! Columns on their way into existence: rows go from page bytes into Arrow builders.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder,
        Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
    },
    datatypes::{DataType, SchemaRef},
};

use super::{
    Result,
    codec::{self, Malformed},
    columns::UTC,
    error::Error,
    model::{AttributeKind, EntityType},
    row::{self, Raw, RowReader},
    timeline::{OPEN, Rect},
};

/// Rows of one type on their way into columns.
pub(super) struct Rows {
    entity_type: String,
    schema: SchemaRef,
    columns: Vec<Column>,
    /// By attribute: its column.
    column_of: Vec<Option<usize>>,
    /// The columns that are no attributes.
    others: Vec<usize>,
    count: u32,
}

impl Rows {
    /// `schema`: one of those in [`super::columns`].
    pub(super) fn new(
        entity_type: &EntityType,
        schema: &SchemaRef,
        projection: Vec<usize>,
    ) -> Result<Self> {
        let attributes = entity_type.attributes();
        let attribute_indices: Range<usize> = 1..attributes.len() + 1;
        let mut column_of = vec![None; attributes.len()];
        let mut others = Vec::new();
        let mut columns = Vec::with_capacity(projection.len());
        for &index in &projection {
            if attribute_indices.contains(&index) {
                column_of[index - 1] = Some(columns.len());
                columns.push(Column::of(attributes[index - 1].kind));
                continue;
            }
            others.push(columns.len());
            columns.push(match index {
                0 => Column::EntityId(StringBuilder::new()),
                _ if index == attribute_indices.end => Column::ValidFrom(instants()),
                _ if index >= schema.fields().len() => {
                    return Err(Error::NoSuchColumn {
                        index,
                        count: schema.fields().len(),
                    });
                }
                _ if index == attribute_indices.end + 1 => Column::ValidTo(instants()),
                _ => Column::SystemFrom(instants()),
            });
        }
        Ok(Self {
            entity_type: entity_type.name().to_owned(),
            schema: Arc::new(schema.project(&projection)?),
            columns,
            column_of,
            others,
            count: 0,
        })
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn push(&mut self, id: &str, rect: &Rect, row: &[u8]) -> Result<()> {
        self.push_attributes(row).map_err(|malformed| {
            Error::damaged(format!("a row of {} {id:?}", self.entity_type), malformed.0)
        })?;
        for &column in &self.others {
            self.columns[column].push_other(id, rect);
        }
        self.count += 1;
        Ok(())
    }

    /// A range in which there is no such entity: its attributes are null.
    pub(super) fn push_ended(&mut self, id: &str, rect: &Rect) {
        self.push_nulls(0..self.column_of.len());
        for &column in &self.others {
            self.columns[column].push_other(id, rect);
        }
        self.count += 1;
    }

    fn push_attributes(&mut self, row: &[u8]) -> codec::Result<()> {
        let mut reader = RowReader::new(row);
        let mut next_attribute = 0;
        while let Some((index, raw)) = reader.next()? {
            if index >= self.column_of.len() {
                // Of a later revision of the type.
                break;
            }
            if index < next_attribute {
                return Err(Malformed("a row's attributes are not in order"));
            }
            self.push_nulls(next_attribute..index);
            if let Some(column) = self.column_of[index] {
                self.columns[column].push_raw(raw)?;
            }
            next_attribute = index + 1;
        }
        self.push_nulls(next_attribute..self.column_of.len());
        Ok(())
    }

    fn push_nulls(&mut self, attributes: Range<usize>) {
        for &column in self.column_of[attributes].iter().flatten() {
            self.columns[column].push_null();
        }
    }

    pub(super) fn finish_columns(&mut self) -> Vec<ArrayRef> {
        let decimals = self
            .schema
            .fields()
            .iter()
            .map(|field| field.data_type().clone());
        self.columns
            .iter_mut()
            .zip(decimals)
            .map(|(column, data_type)| column.finish(&data_type))
            .collect()
    }

    pub(super) fn finish(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.count as usize));
        let columns = self.finish_columns();
        self.count = 0;
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }
}

fn instants() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone(UTC)
}

/// One column being built.
enum Column {
    EntityId(StringBuilder),
    ValidFrom(TimestampMicrosecondBuilder),
    ValidTo(TimestampMicrosecondBuilder),
    SystemFrom(TimestampMicrosecondBuilder),
    Bool(BooleanBuilder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
}

impl Column {
    fn of(kind: AttributeKind) -> Self {
        match kind {
            AttributeKind::Bool => Self::Bool(BooleanBuilder::new()),
            AttributeKind::Int64 => Self::Int64(Int64Builder::new()),
            AttributeKind::Float64 => Self::Float64(Float64Builder::new()),
            AttributeKind::Decimal { .. } => Self::Decimal(Decimal128Builder::new()),
            AttributeKind::String | AttributeKind::Json => Self::Text(StringBuilder::new()),
            AttributeKind::Bytes => Self::Bytes(BinaryBuilder::new()),
            AttributeKind::Timestamp => Self::Timestamp(instants()),
            AttributeKind::Date => Self::Date(Date32Builder::new()),
        }
    }

    fn push_other(&mut self, id: &str, rect: &Rect) {
        match self {
            Self::EntityId(builder) => builder.append_value(id),
            Self::ValidFrom(builder) => builder.append_value(rect.from),
            Self::ValidTo(builder) => builder.append_option((rect.to != OPEN).then_some(rect.to)),
            Self::SystemFrom(builder) => builder.append_value(rect.system_from),
            Self::Bool(_)
            | Self::Int64(_)
            | Self::Float64(_)
            | Self::Decimal(_)
            | Self::Text(_)
            | Self::Bytes(_)
            | Self::Timestamp(_)
            | Self::Date(_) => self.push_null(),
        }
    }

    fn push_raw(&mut self, raw: Raw<'_>) -> codec::Result<()> {
        match (self, raw) {
            (Self::Bool(builder), Raw::Bool(value)) => builder.append_value(value),
            (Self::Int64(builder), Raw::Integer(value)) => builder.append_value(value),
            (Self::Float64(builder), Raw::Float(value)) => builder.append_value(value),
            (Self::Decimal(builder), Raw::WideInteger(value)) => builder.append_value(value),
            (Self::Text(builder), Raw::Bytes(value)) => builder.append_value(row::text_of(value)?),
            (Self::Bytes(builder), Raw::Bytes(value)) => builder.append_value(value),
            (Self::Timestamp(builder), Raw::Integer(value)) => builder.append_value(value),
            (Self::Date(builder), Raw::Integer(value)) => {
                builder.append_value(row::date_of(value)?)
            }
            _ => return Err(row::MISMATCH),
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match self {
            Self::EntityId(builder) | Self::Text(builder) => builder.append_null(),
            Self::ValidFrom(builder)
            | Self::ValidTo(builder)
            | Self::SystemFrom(builder)
            | Self::Timestamp(builder) => builder.append_null(),
            Self::Bool(builder) => builder.append_null(),
            Self::Int64(builder) => builder.append_null(),
            Self::Float64(builder) => builder.append_null(),
            Self::Decimal(builder) => builder.append_null(),
            Self::Bytes(builder) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
        }
    }

    fn finish(&mut self, data_type: &DataType) -> ArrayRef {
        match self {
            Self::EntityId(builder) | Self::Text(builder) => Arc::new(builder.finish()),
            Self::ValidFrom(builder)
            | Self::ValidTo(builder)
            | Self::SystemFrom(builder)
            | Self::Timestamp(builder) => {
                // A finished builder forgets its time zone.
                Arc::new(builder.finish().with_timezone_opt(Some(UTC)))
            }
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Decimal(builder) => Arc::new(builder.finish().with_data_type(data_type.clone())),
            Self::Bytes(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
        }
    }
}
