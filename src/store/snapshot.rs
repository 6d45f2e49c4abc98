//! A type's whole history as known at one basis, decoded into columns.
//!
//! Looking a row up is a hash of its id and a search by halves in the entity's part of one array; its attributes are a
//! position in columns that all rows share. One pass over the type's pages builds it.
//!
//! **Shape**: versions in order of entity id, then `valid_from`, ended ranges among them; entity `n` has the versions
//! `starts[n]..starts[n + 1]`, and they do not overlap (`BT-1`).

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
        UInt32Array,
    },
    compute::take,
    datatypes::SchemaRef,
};

use super::{
    Result, Store,
    column_builder::Rows,
    columns::{UTC, as_of_schema},
    error::Error,
    keys,
    lookup::States,
    model::EntityType,
    read,
    timeline::{OPEN, Span},
};

/// What a version takes beside its row: two instants, a mark, its share of what the vectors keep free.
const VERSION_BYTES: usize = 32;
/// What an entity takes beside its id, which is there twice.
const ENTITY_BYTES: usize = 64;
/// What an attribute takes beside the bytes of its value: an offset or a fixed width, and its bit of the nulls.
const VALUE_BYTES: usize = 9;

/// The decoded history of one type.
#[derive(Debug)]
pub(super) struct Snapshot {
    entities: HashMap<Box<str>, u32>,
    ids: StringArray,
    /// By entity: its first version. One more than there are entities.
    starts: Vec<u32>,
    erased: Vec<bool>,
    valid_from: Vec<i64>,
    valid_to: Vec<i64>,
    ended: Vec<bool>,
    /// By attribute: its column, if it is decoded.
    columns: Vec<Option<ArrayRef>>,
    size_bytes: usize,
}

/// Versions of a snapshot that a scan gives, with the part of valid time that it gives of each.
struct Selected {
    entities: Vec<u32>,
    versions: Vec<u32>,
    valid: Vec<Span>,
}

impl Snapshot {
    /// Decodes the history of `entity_type` as known at `basis`, with these attributes. `None`: it would take more than about
    /// `max_bytes`.
    ///
    /// **Cost**: one pass over the type's pages.
    pub(super) fn build(
        store: &Store,
        entity_type: &EntityType,
        basis: i64,
        attributes: &[usize],
        max_bytes: usize,
    ) -> Result<Option<Self>> {
        let projection = attributes.iter().map(|index| index + 1).collect();
        let mut rows = Rows::new(entity_type, &as_of_schema(entity_type), projection)?;
        let mut snapshot = Self::empty(entity_type.attributes().len());
        let mut ids = Vec::new();
        let version_bytes = VERSION_BYTES + attributes.len() * VALUE_BYTES;
        let prefix_bytes = keys::type_prefix(entity_type.name()).len();
        let (from, to) = keys::type_range(entity_type.name(), None);
        let pages = &store.inner.pages;
        for entry in pages.heads(&from, &to) {
            let (key, head) = entry?;
            let id = read::entity_id(&key, prefix_bytes)?;
            let first = rows.count();
            let is_erased = head.is_erased_at(basis);
            read::each_visible(pages, &key, head, Span::ALL, basis, |rect, row| {
                snapshot.size_bytes += version_bytes + row.map_or(0, <[u8]>::len);
                if snapshot.size_bytes > max_bytes {
                    return Ok(());
                }
                snapshot.valid_from.push(rect.from);
                snapshot.valid_to.push(rect.to);
                snapshot.ended.push(row.is_none());
                match row {
                    None => rows.push_ended(&id, rect),
                    Some(row) => rows.push(&id, rect, row)?,
                }
                Ok(())
            })?;
            if snapshot.size_bytes > max_bytes {
                return Ok(None);
            }
            if rows.count() > first || is_erased {
                snapshot.size_bytes += ENTITY_BYTES + 2 * id.len();
                snapshot.erased.push(is_erased);
                snapshot.starts.push(rows.count());
                ids.push(id);
            }
        }
        for (&index, column) in attributes.iter().zip(rows.finish_columns()) {
            let place = snapshot.columns.get_mut(index);
            *place.ok_or_else(|| no_such(index, attributes.len()))? = Some(column);
        }
        snapshot.ids = StringArray::from_iter_values(&ids);
        snapshot.entities = (0..)
            .zip(ids)
            .map(|(place, id)| (id.into(), place))
            .collect();
        Ok(Some(snapshot))
    }

    fn empty(attribute_count: usize) -> Self {
        Self {
            entities: HashMap::new(),
            ids: StringArray::new_null(0),
            starts: vec![0],
            erased: Vec::new(),
            valid_from: Vec::new(),
            valid_to: Vec::new(),
            ended: Vec::new(),
            columns: vec![None; attribute_count],
            size_bytes: 0,
        }
    }

    /// Nothing, said to take so much.
    #[cfg(test)]
    pub(super) fn sized(size_bytes: usize) -> Self {
        Self {
            size_bytes,
            ..Self::empty(0)
        }
    }

    /// About how much memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// How many versions it holds.
    pub(super) fn version_count(&self) -> usize {
        self.valid_from.len()
    }

    /// Whether these attributes are decoded.
    pub(super) fn has(&self, attributes: &[usize]) -> bool {
        attributes
            .iter()
            .all(|&index| self.columns.get(index).is_some_and(Option::is_some))
    }

    /// The attributes that are decoded.
    pub(super) fn attributes(&self) -> impl Iterator<Item = usize> {
        let columns = self.columns.iter().enumerate();
        columns.filter_map(|(index, column)| column.is_some().then_some(index))
    }

    /// The state of each (`ids[i]`, `at[i]`), with these attributes. All of them must be decoded.
    ///
    /// **Cost**: per row a hash of its id, unless it is that of the row before, and a search by halves in its versions.
    pub(super) fn look_up(
        &self,
        ids: &StringArray,
        at: &TimestampMicrosecondArray,
        attributes: &[usize],
    ) -> Result<States> {
        let mut states = States::unknown(ids.len());
        let mut last: Option<(&str, Option<u32>)> = None;
        for (row, (id, at)) in ids.iter().zip(at.iter()).enumerate() {
            let (Some(id), Some(at)) = (id, at) else {
                continue;
            };
            let entity = match last {
                Some((known, entity)) if known == id => entity,
                Some(_) | None => self.entities.get(id).copied(),
            };
            last = Some((id, entity));
            if let Some(entity) = entity {
                self.answer(entity as usize, at, row, &mut states);
            }
        }
        let columns = attributes.iter().map(|&index| self.attribute(index));
        states.set_columns(columns.collect::<Result<_>>()?);
        Ok(states)
    }

    fn answer(&self, entity: usize, at: i64, row: usize, states: &mut States) {
        if self.erased[entity] {
            states.set_erased(row);
            return;
        }
        let Some(version) = self.version_at(entity, at) else {
            return;
        };
        let valid_from = self.valid_from[version as usize];
        if self.ended[version as usize] {
            states.set_ended(row, valid_from);
        } else {
            states.set_value(row, valid_from, version);
        }
    }

    /// The version of an entity that holds at `at`.
    fn version_at(&self, entity: usize, at: i64) -> Option<u32> {
        let Range { start, end } = self.versions(entity);
        let begun = self.valid_from[start as usize..end as usize]
            .partition_point(|&from| from <= at)
            .checked_sub(1)?;
        let version = start as usize + begun;
        (at < self.valid_to[version]).then_some(start + u32::try_from(begun).ok()?)
    }

    fn versions(&self, entity: usize) -> Range<u32> {
        self.starts[entity]..self.starts[entity + 1]
    }

    fn attribute(&self, index: usize) -> Result<ArrayRef> {
        let column = self.columns.get(index).and_then(Option::as_ref);
        column
            .cloned()
            .ok_or_else(|| no_such(index, self.columns.len()))
    }

    /// The entities that have a value at `at`, as batches of [`as_of_schema`].
    pub(super) fn as_of_batches(
        self: Arc<Self>,
        at: i64,
        schema: SchemaRef,
        projection: Vec<usize>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let mut selected = Selected::none();
        for entity in 0..self.erased.len() {
            if let Some(version) = self.version_at(entity, at)
                && !self.ended[version as usize]
            {
                selected.push(entity, version, self.span(version));
            }
        }
        self.batches(selected, schema, projection, batch_rows)
    }

    /// The versions with a value that meet `window`, clipped to it, as batches of [`super::columns::history_schema`].
    pub(super) fn history_batches(
        self: Arc<Self>,
        window: Span,
        schema: SchemaRef,
        projection: Vec<usize>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let mut selected = Selected::none();
        for entity in 0..self.erased.len() {
            let Range { start, end } = self.versions(entity);
            let ends = &self.valid_to[start as usize..end as usize];
            let first = ends.partition_point(|&to| to <= window.from);
            for version in (start..end).skip(first) {
                let part = self.span(version).intersection(window);
                if part.is_empty() {
                    break;
                }
                if !self.ended[version as usize] {
                    selected.push(entity, version, part);
                }
            }
        }
        self.batches(selected, schema, projection, batch_rows)
    }

    fn span(&self, version: u32) -> Span {
        Span {
            from: self.valid_from[version as usize],
            to: self.valid_to[version as usize],
        }
    }

    fn batches(
        self: Arc<Self>,
        selected: Selected,
        schema: SchemaRef,
        projection: Vec<usize>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let count = selected.versions.len();
        (0..count).step_by(batch_rows.max(1)).map(move |start| {
            let rows = start..count.min(start + batch_rows.max(1));
            self.batch(&selected, rows, &schema, &projection)
        })
    }

    fn batch(
        &self,
        selected: &Selected,
        rows: Range<usize>,
        schema: &SchemaRef,
        projection: &[usize],
    ) -> Result<RecordBatch> {
        let versions = UInt32Array::from(selected.versions[rows.clone()].to_vec());
        let valid = &selected.valid[rows.clone()];
        let attribute_count = self.columns.len();
        let column = |&index: &usize| -> Result<ArrayRef> {
            if index == 0 {
                let entities = UInt32Array::from(selected.entities[rows.clone()].to_vec());
                return Ok(take(&self.ids, &entities, None)?);
            }
            if index <= attribute_count {
                return Ok(take(&self.attribute(index - 1)?, &versions, None)?);
            }
            let instants: TimestampMicrosecondArray = match index - attribute_count {
                1 => valid.iter().map(|span| Some(span.from)).collect(),
                2 => valid
                    .iter()
                    .map(|span| (span.to != OPEN).then_some(span.to))
                    .collect(),
                _ => return Err(no_such(index, schema.fields().len())),
            };
            Ok(Arc::new(instants.with_timezone(UTC)))
        };
        let columns = projection.iter().map(column).collect::<Result<_>>()?;
        Ok(RecordBatch::try_new_with_options(
            Arc::new(schema.project(projection)?),
            columns,
            &RecordBatchOptions::new().with_row_count(Some(rows.len())),
        )?)
    }
}

impl Selected {
    fn none() -> Self {
        Self {
            entities: Vec::new(),
            versions: Vec::new(),
            valid: Vec::new(),
        }
    }

    fn push(&mut self, entity: usize, version: u32, valid: Span) {
        self.entities
            .push(u32::try_from(entity).unwrap_or(u32::MAX));
        self.versions.push(version);
        self.valid.push(valid);
    }
}

fn no_such(index: usize, count: usize) -> Error {
    Error::NoSuchColumn { index, count }
}
