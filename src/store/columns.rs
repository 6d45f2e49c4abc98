//! Answers as Arrow columns: rows go from page bytes into column builders without a value in between.
//!
//! **Shape**: `entity_id`, the attributes in order (all nullable), then `valid_from`, and in histories `valid_to` (null: open).
//! Instants are `Timestamp(µs, "UTC")`. A projection is a list of distinct indices into the schema.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
        Float64Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
        StructArray, TimestampMicrosecondArray, TimestampMicrosecondBuilder, UInt32Array,
    },
    buffer::NullBuffer,
    compute::take,
    datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
};

use super::{
    Result, Store,
    codec::{self, Malformed},
    error::Error,
    keys,
    model::{Attribute, AttributeKind, EntityType},
    pages::{Head, Pages},
    read::{self, Seen},
    row::{self, Raw, RowReader},
    timeline::{OPEN, Rect, Span},
};
use crate::{
    kv,
    time::{Interval, SysTime, ValidTime},
};

const UTC: &str = "UTC";

/// The columns of [`Store::scan_batches`].
pub fn as_of_schema(entity_type: &EntityType) -> SchemaRef {
    let mut fields = vec![Field::new("entity_id", DataType::Utf8, false)];
    fields.extend(entity_type.attributes().iter().map(attribute_field));
    fields.push(Field::new("valid_from", instant_type(), false));
    Arc::new(Schema::new(fields))
}

/// The columns of [`Store::history_batches`].
pub fn history_schema(entity_type: &EntityType) -> SchemaRef {
    let mut fields = as_of_schema(entity_type).fields().to_vec();
    fields.push(Arc::new(Field::new("valid_to", instant_type(), true)));
    Arc::new(Schema::new(fields))
}

/// The fields of [`Store::lookup_batch`]: the attributes and `valid_from`, all nullable.
pub fn state_fields(entity_type: &EntityType) -> Fields {
    let mut fields: Vec<_> = entity_type
        .attributes()
        .iter()
        .map(attribute_field)
        .collect();
    fields.push(Field::new("valid_from", instant_type(), true));
    fields.into()
}

fn attribute_field(attribute: &Attribute) -> Field {
    let data_type = match attribute.kind {
        AttributeKind::Bool => DataType::Boolean,
        AttributeKind::Int64 => DataType::Int64,
        AttributeKind::Float64 => DataType::Float64,
        AttributeKind::Decimal { precision, scale } => {
            DataType::Decimal128(precision, scale.cast_signed())
        }
        AttributeKind::String | AttributeKind::Json => DataType::Utf8,
        AttributeKind::Bytes => DataType::Binary,
        AttributeKind::Timestamp => instant_type(),
        AttributeKind::Date => DataType::Date32,
    };
    Field::new(&attribute.name, data_type, true)
}

fn instant_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

impl Store {
    /// Every entity of the type that has a value at (`valid`, `basis`), by id, as batches of [`as_of_schema`]. Blocks.
    ///
    /// **Cost**: one range scan over the type's entities; only projected attributes are decoded.
    pub fn scan_batches(
        &self,
        entity_type: &Arc<EntityType>,
        valid: ValidTime,
        basis: SysTime,
        projection: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let scan = Scan::start(
            self,
            entity_type,
            as_of_schema(entity_type),
            basis,
            projection,
            batch_rows,
        );
        batches(scan, move |pages, key, head, basis, id, rows| {
            let Seen::Version(found) = read::as_of(pages, key, head, valid.micros(), basis)? else {
                return Ok(());
            };
            match found.row() {
                None => Ok(()),
                Some(row) => rows.push(id, &found.rect, row),
            }
        })
    }

    /// The versions of the type that are live at `basis` and overlap `window`, clipped to it, by id and `valid_from`, as
    /// batches of [`history_schema`]. Ended ranges are not rows. Blocks.
    ///
    /// **Cost**: as [`Store::scan_batches`], and all pages that meet the window.
    pub fn history_batches(
        &self,
        entity_type: &Arc<EntityType>,
        window: Interval<ValidTime>,
        basis: SysTime,
        projection: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let span = Span {
            from: window.from.micros(),
            to: window.to.map_or(OPEN, ValidTime::micros),
        };
        let scan = Scan::start(
            self,
            entity_type,
            history_schema(entity_type),
            basis,
            projection,
            batch_rows,
        );
        batches(scan, move |pages, key, head, basis, id, rows| {
            read::each_visible(pages, key, head, span, basis, |rect, row| match row {
                None => Ok(()),
                Some(row) => rows.push(id, rect, row),
            })
        })
    }

    /// The state of each (`ids[i]`, `at[i]`) at `basis`, as a struct of [`state_fields`]; null where there is no value, or
    /// either input is null. Blocks.
    ///
    /// **Cost**: one pass in order of (id, instant): each entity's page is read once, however many rows ask for it.
    ///
    /// # Errors
    /// Inputs of different lengths; [`Error::BasisNotPinned`]; [`Error::Damaged`]; storage faults.
    pub fn lookup_batch(
        &self,
        entity_type: &EntityType,
        ids: &StringArray,
        at: &TimestampMicrosecondArray,
        basis: SysTime,
    ) -> Result<StructArray> {
        let basis = self.check_basis(basis)?;
        if ids.len() != at.len() {
            return Err(arrow::error::ArrowError::InvalidArgumentError(format!(
                "{} ids and {} instants",
                ids.len(),
                at.len()
            ))
            .into());
        }
        let fields = state_fields(entity_type);
        // The struct's columns, seen from the scan's: all but the id.
        let projection = (1..=fields.len()).collect();
        let mut rows = Rows::new(entity_type, &as_of_schema(entity_type), projection)?;
        let positions = self.look_up(entity_type, ids, at, basis, &mut rows)?;
        let validity = NullBuffer::from_iter(positions.iter().map(Option::is_some));
        let indices = UInt32Array::from(positions);
        let columns = rows
            .finish_columns()
            .iter()
            .map(|column| take(column, &indices, None))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(StructArray::try_new_with_length(
            fields,
            columns,
            Some(validity),
            ids.len(),
        )?)
    }

    /// Appends each distinct version that is asked for to `rows`; answers, per input, at which place it is.
    fn look_up(
        &self,
        entity_type: &EntityType,
        ids: &StringArray,
        at: &TimestampMicrosecondArray,
        basis: i64,
        rows: &mut Rows,
    ) -> Result<Vec<Option<u32>>> {
        let mut order: Vec<usize> = (0..ids.len())
            .filter(|&row| ids.is_valid(row) && at.is_valid(row))
            .collect();
        order.sort_unstable_by(|&a, &b| {
            (ids.value(a), at.value(a)).cmp(&(ids.value(b), at.value(b)))
        });
        let mut positions = vec![None; ids.len()];
        for asked in order.chunk_by(|&a, &b| ids.value(a) == ids.value(b)) {
            let id = ids.value(asked[0]);
            let (first, last) = (at.value(asked[0]), at.value(asked[asked.len() - 1]));
            let mut asked = asked.iter().copied().peekable();
            let key = keys::entity_key(entity_type.name(), id);
            let pages = &self.inner.pages;
            let head = pages.head(&key)?;
            read::each_visible_whole(pages, &key, head, first..=last, basis, |run, row| {
                while asked.next_if(|&next| at.value(next) < run.from).is_some() {}
                let mut position = None;
                while let Some(next) = asked.next_if(|&next| at.value(next) < run.to) {
                    let Some(row) = row else {
                        continue;
                    };
                    if position.is_none() {
                        position = Some(rows.count());
                        rows.push(id, run, row)?;
                    }
                    positions[next] = position;
                }
                Ok(())
            })?;
        }
        Ok(positions)
    }
}

/// A running scan over a type's heads.
struct Scan {
    pages: Pages,
    heads: Box<dyn Iterator<Item = Result<(kv::Slice, Head)>> + Send>,
    prefix_bytes: usize,
    basis: i64,
    rows: Rows,
    batch_rows: usize,
}

impl Scan {
    fn start(
        store: &Store,
        entity_type: &Arc<EntityType>,
        schema: SchemaRef,
        basis: SysTime,
        projection: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> Result<Self> {
        let basis = store.check_basis(basis)?;
        let projection = projection.unwrap_or_else(|| (0..schema.fields().len()).collect());
        let (from, to) = keys::type_range(entity_type.name(), None);
        let pages = store.inner.pages.clone();
        Ok(Self {
            heads: Box::new(pages.heads(&from, &to)),
            pages,
            prefix_bytes: keys::type_prefix(entity_type.name()).len(),
            basis,
            rows: Rows::new(entity_type, &schema, projection)?,
            batch_rows: batch_rows.max(1),
        })
    }
}

/// The batches of a scan; `add` appends an entity's rows. Ends after the first error.
fn batches(
    scan: Result<Scan>,
    mut add: impl FnMut(&Pages, &[u8], Head, i64, &str, &mut Rows) -> Result<()> + Send,
) -> impl Iterator<Item = Result<RecordBatch>> + Send {
    let mut running = Some(scan);
    std::iter::from_fn(move || {
        let mut scan = match running.take()? {
            Ok(scan) => scan,
            Err(error) => return Some(Err(error)),
        };
        match next_batch(&mut scan, &mut add) {
            Ok(None) => None,
            Ok(Some(batch)) => {
                running = Some(Ok(scan));
                Some(Ok(batch))
            }
            Err(error) => Some(Err(error)),
        }
    })
}

fn next_batch(
    scan: &mut Scan,
    add: &mut impl FnMut(&Pages, &[u8], Head, i64, &str, &mut Rows) -> Result<()>,
) -> Result<Option<RecordBatch>> {
    while (scan.rows.count() as usize) < scan.batch_rows {
        let Some(entry) = scan.heads.next() else {
            break;
        };
        let (key, head) = entry?;
        let id = read::entity_id(&key, scan.prefix_bytes)?;
        add(&scan.pages, &key, head, scan.basis, &id, &mut scan.rows)?;
    }
    if scan.rows.count() == 0 {
        return Ok(None);
    }
    scan.rows.finish().map(Some)
}

/// Rows of one type on their way into columns.
struct Rows {
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
    /// `schema`: [`as_of_schema`] or [`history_schema`].
    fn new(entity_type: &EntityType, schema: &SchemaRef, projection: Vec<usize>) -> Result<Self> {
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
                _ if index < schema.fields().len() => Column::ValidTo(instants()),
                _ => {
                    return Err(Error::NoSuchColumn {
                        index,
                        count: schema.fields().len(),
                    });
                }
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

    fn count(&self) -> u32 {
        self.count
    }

    fn push(&mut self, id: &str, rect: &Rect, row: &[u8]) -> Result<()> {
        self.push_attributes(row).map_err(|malformed| {
            Error::damaged(format!("a row of {} {id:?}", self.entity_type), malformed.0)
        })?;
        for &column in &self.others {
            self.columns[column].push_other(id, rect);
        }
        self.count += 1;
        Ok(())
    }

    fn push_attributes(&mut self, row: &[u8]) -> codec::Result<()> {
        let mut reader = RowReader::new(row);
        let mut next_attribute = 0;
        while let Some((index, raw)) = reader.next()? {
            if index < next_attribute || index >= self.column_of.len() {
                return Err(Malformed("a row has an attribute that its type has not"));
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

    fn finish_columns(&mut self) -> Vec<ArrayRef> {
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

    fn finish(&mut self) -> Result<RecordBatch> {
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
            Self::ValidFrom(builder) | Self::ValidTo(builder) | Self::Timestamp(builder) => {
                builder.append_null()
            }
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
            Self::ValidFrom(builder) | Self::ValidTo(builder) | Self::Timestamp(builder) => {
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
