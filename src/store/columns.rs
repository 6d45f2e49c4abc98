//! Answers as Arrow columns: rows go from page bytes into column builders without a value in between.
//!
//! **Shape**: `entity_id`, the attributes in order (all nullable), then `valid_from`, and in histories `valid_to` (null: open).
//! Instants are `Timestamp(µs, "UTC")`. A projection is a list of distinct indices into the schema.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
};

use super::{
    Result, Store,
    column_builder::Rows,
    keys,
    model::{Attribute, AttributeKind, EntityType},
    pages::{Head, Pages},
    read::{self, Seen},
    snapshot::Snapshot,
    snapshots::Demand,
    timeline::{OPEN, Span},
};
use crate::{
    kv,
    time::{Interval, SysTime, ValidTime},
};

pub(super) const UTC: &str = "UTC";

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

/// The columns of [`Store::scan_versions`].
pub fn version_schema(entity_type: &EntityType) -> SchemaRef {
    let mut fields = history_schema(entity_type).fields().to_vec();
    fields.push(Arc::new(Field::new("system_from", instant_type(), false)));
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

/// The columns of attributes, all nullable.
pub fn fields_of(attributes: impl IntoIterator<Item = Attribute>) -> Fields {
    let fields = attributes.into_iter().map(|it| attribute_field(&it));
    fields.collect()
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
    /// **Cost**: one range scan over the type's entities; only projected attributes are decoded. Passes at one basis after
    /// the first share a decoded snapshot of the type.
    pub fn scan_batches(
        &self,
        entity_type: &Arc<EntityType>,
        valid: ValidTime,
        basis: SysTime,
        projection: Option<Vec<usize>>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let schema = as_of_schema(entity_type);
        let projection = projection.unwrap_or_else(|| (0..schema.fields().len()).collect());
        let store = self.clone();
        let entity_type = Arc::clone(entity_type);
        lazily(move || {
            if let Some(kept) = store.snapshot(&entity_type, basis, &projection)? {
                let batches = kept.as_of_batches(valid.micros(), schema, projection, batch_rows);
                return Ok(Box::new(batches) as Batches);
            }
            let scan = Scan::start(
                &store,
                &entity_type,
                schema,
                None,
                basis,
                projection,
                batch_rows,
            )?;
            Ok(Box::new(as_of_batches(scan, valid)))
        })
    }

    /// As [`Store::scan_batches`], with the ids after `after` in byte order only, and as batches of [`version_schema`].
    /// Blocks.
    ///
    /// **Cost**: as [`Store::scan_batches`].
    pub fn scan_versions(
        &self,
        entity_type: &Arc<EntityType>,
        after: Option<&str>,
        valid: ValidTime,
        basis: SysTime,
        projection: Vec<usize>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let scan = Scan::start(
            self,
            entity_type,
            version_schema(entity_type),
            after,
            basis,
            projection,
            batch_rows,
        );
        lazily(move || Ok(Box::new(as_of_batches(scan?, valid)) as Batches))
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
        let schema = history_schema(entity_type);
        let projection = projection.unwrap_or_else(|| (0..schema.fields().len()).collect());
        let store = self.clone();
        let entity_type = Arc::clone(entity_type);
        lazily(move || {
            if let Some(kept) = store.snapshot(&entity_type, basis, &projection)? {
                let batches = kept.history_batches(span, schema, projection, batch_rows);
                return Ok(Box::new(batches) as Batches);
            }
            let scan = Scan::start(
                &store,
                &entity_type,
                schema,
                None,
                basis,
                projection,
                batch_rows,
            )?;
            let add = move |pages: &Pages, key: &[u8], head, basis, id: &str, rows: &mut Rows| {
                read::each_visible(pages, key, head, span, basis, |rect, row| match row {
                    None => Ok(()),
                    Some(row) => rows.push(id, rect, row),
                })
            };
            Ok(Box::new(batches(scan, add)))
        })
    }

    /// The kept snapshot that a pass over the type at `basis` may read instead of pages.
    fn snapshot(
        &self,
        entity_type: &EntityType,
        basis: SysTime,
        projection: &[usize],
    ) -> Result<Option<Arc<Snapshot>>> {
        let basis = self.check_readable(entity_type, basis)?;
        let attribute_count = entity_type.attributes().len();
        let attributes: Vec<usize> = projection
            .iter()
            .filter(|&&index| (1..=attribute_count).contains(&index))
            .map(|&index| index - 1)
            .collect();
        let snapshots = &self.inner.published.snapshots;
        snapshots.get(self, entity_type, basis, &attributes, Demand::Scan)
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// The batches that `start` opens when the first is asked for.
fn lazily(
    start: impl FnOnce() -> Result<Batches> + Send,
) -> impl Iterator<Item = Result<RecordBatch>> + Send {
    std::iter::once_with(start).flat_map(|started| match started {
        Ok(batches) => batches,
        Err(error) => Box::new(std::iter::once(Err(error))),
    })
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
        after: Option<&str>,
        basis: SysTime,
        projection: Vec<usize>,
        batch_rows: usize,
    ) -> Result<Self> {
        let basis = store.check_readable(entity_type, basis)?;
        let (from, to) = keys::type_range(entity_type.name(), after);
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

/// The batches of what is there at one point.
fn as_of_batches(scan: Scan, valid: ValidTime) -> impl Iterator<Item = Result<RecordBatch>> + Send {
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

/// The batches of a scan; `add` appends an entity's rows. Ends after the first error.
fn batches(
    scan: Scan,
    mut add: impl FnMut(&Pages, &[u8], Head, i64, &str, &mut Rows) -> Result<()> + Send,
) -> impl Iterator<Item = Result<RecordBatch>> + Send {
    let mut running = Some(scan);
    std::iter::from_fn(move || {
        let mut scan = running.take()?;
        match next_batch(&mut scan, &mut add) {
            Ok(None) => None,
            Ok(Some(batch)) => {
                running = Some(scan);
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
