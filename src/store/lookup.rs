//! The point-in-time join: states at each row's own instant, as columns.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, StringArray, StructArray, TimestampMicrosecondArray, UInt32Array},
    buffer::NullBuffer,
    compute::take,
};

use super::{
    Result, Store,
    column_builder::Rows,
    columns::{UTC, as_of_schema, state_fields},
    keys,
    model::EntityType,
    read,
    snapshots::Demand,
};
use crate::time::{SysTime, ValidTime};

/// What is there at one row's point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A value.
    Value,
    /// It was said that there is no such entity.
    Ended,
    /// Nothing was ever said, or the row asks for nothing.
    NotKnown,
    /// The entity was erased.
    Erased,
}

/// The answers to a lookup, one per row, with the attributes as columns that rows with the same answer share.
#[derive(Debug)]
pub struct States {
    outcomes: Vec<Outcome>,
    valid_from: Vec<i64>,
    /// By row: its place in the columns, if it has a value.
    positions: Vec<Option<u32>>,
    columns: Vec<ArrayRef>,
}

impl States {
    /// `count` rows about which nothing is known yet.
    pub(super) fn unknown(count: usize) -> Self {
        Self {
            outcomes: vec![Outcome::NotKnown; count],
            valid_from: vec![0; count],
            positions: vec![None; count],
            columns: Vec::new(),
        }
    }

    pub(super) fn set_value(&mut self, row: usize, valid_from: i64, position: u32) {
        self.outcomes[row] = Outcome::Value;
        self.valid_from[row] = valid_from;
        self.positions[row] = Some(position);
    }

    pub(super) fn set_ended(&mut self, row: usize, valid_from: i64) {
        self.outcomes[row] = Outcome::Ended;
        self.valid_from[row] = valid_from;
    }

    pub(super) fn set_erased(&mut self, row: usize) {
        self.outcomes[row] = Outcome::Erased;
    }

    pub(super) fn set_columns(&mut self, columns: Vec<ArrayRef>) {
        self.columns = columns;
    }

    /// What each row found.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Since when the row's answer holds, if it is a value or ended; [`ValidTime::MIN`]: from the beginning of time.
    pub fn valid_from(&self, row: usize) -> Option<ValidTime> {
        match self.outcomes[row] {
            Outcome::Value | Outcome::Ended => Some(ValidTime::from_micros(self.valid_from[row])),
            Outcome::NotKnown | Outcome::Erased => None,
        }
    }

    /// By row: its place in [`States::columns`], if it has a value.
    pub fn positions(&self) -> &[Option<u32>] {
        &self.positions
    }

    /// The asked attributes, in the order in which they were asked for.
    pub fn columns(&self) -> &[ArrayRef] {
        &self.columns
    }
}

impl Store {
    /// The state of each (`ids[i]`, `at[i]`) at `basis`, as a struct of [`state_fields`]; null where there is no value, or
    /// either input is null. Blocks.
    ///
    /// **Cost**: as [`Store::look_up`].
    ///
    /// # Errors
    /// As [`Store::look_up`].
    pub fn lookup_batch(
        &self,
        entity_type: &EntityType,
        ids: &StringArray,
        at: &TimestampMicrosecondArray,
        basis: SysTime,
    ) -> Result<StructArray> {
        let attributes: Vec<usize> = (0..entity_type.attributes().len()).collect();
        let states = self.look_up(entity_type, ids, at, basis, &attributes)?;
        let validity = NullBuffer::from_iter(states.positions.iter().map(Option::is_some));
        let indices = UInt32Array::from(states.positions);
        let mut columns = states
            .columns
            .iter()
            .map(|column| take(column, &indices, None))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let valid_from =
            TimestampMicrosecondArray::new(states.valid_from.into(), Some(validity.clone()))
                .with_timezone(UTC);
        columns.push(Arc::new(valid_from));
        Ok(StructArray::try_new_with_length(
            state_fields(entity_type),
            columns,
            Some(validity),
            ids.len(),
        )?)
    }

    /// The state of each (`ids[i]`, `at[i]`) at `basis`; a row with a null input finds nothing. `attributes` are indices into
    /// the type's attributes, without repeats: only these are decoded. Blocks.
    ///
    /// **Cost**: in pages, one pass in order of (id, instant): each entity's pages are read once, however many rows ask for
    /// them. Where many rows are asked for at one basis, they share a decoded snapshot of the type.
    ///
    /// # Errors
    /// Inputs of different lengths; [`Error::BasisNotPinned`](super::Error::BasisNotPinned);
    /// [`Error::Damaged`](super::Error::Damaged); storage faults.
    pub fn look_up(
        &self,
        entity_type: &EntityType,
        ids: &StringArray,
        at: &TimestampMicrosecondArray,
        basis: SysTime,
        attributes: &[usize],
    ) -> Result<States> {
        let basis = self.check_readable(entity_type, basis)?;
        if ids.len() != at.len() {
            return Err(arrow::error::ArrowError::InvalidArgumentError(format!(
                "{} ids and {} instants",
                ids.len(),
                at.len()
            ))
            .into());
        }
        let snapshots = &self.inner.published.snapshots;
        let demand = Demand::Rows(ids.len());
        match snapshots.get(self, entity_type, basis, attributes, demand)? {
            Some(snapshot) => snapshot.look_up(ids, at, attributes),
            None => self.look_up_in_pages(entity_type, ids, at, basis, attributes),
        }
    }

    fn look_up_in_pages(
        &self,
        entity_type: &EntityType,
        ids: &StringArray,
        at: &TimestampMicrosecondArray,
        basis: i64,
        attributes: &[usize],
    ) -> Result<States> {
        // The columns of the scan's schema: all attributes come after the id.
        let projection = attributes.iter().map(|index| index + 1).collect();
        let mut rows = Rows::new(entity_type, &as_of_schema(entity_type), projection)?;
        let mut states = States::unknown(ids.len());
        let mut order: Vec<usize> = (0..ids.len())
            .filter(|&row| ids.is_valid(row) && at.is_valid(row))
            .collect();
        order.sort_unstable_by(|&a, &b| {
            (ids.value(a), at.value(a)).cmp(&(ids.value(b), at.value(b)))
        });
        for asked in order.chunk_by(|&a, &b| ids.value(a) == ids.value(b)) {
            self.look_up_entity(
                entity_type,
                ids.value(asked[0]),
                asked,
                at,
                basis,
                &mut rows,
                &mut states,
            )?;
        }
        states.set_columns(rows.finish_columns());
        Ok(states)
    }

    /// Answers the rows `asked`, in order of their instants, from the pages of one entity.
    fn look_up_entity(
        &self,
        entity_type: &EntityType,
        id: &str,
        asked: &[usize],
        at: &TimestampMicrosecondArray,
        basis: i64,
        rows: &mut Rows,
        states: &mut States,
    ) -> Result<()> {
        let (first, last) = (at.value(asked[0]), at.value(asked[asked.len() - 1]));
        let mut open = asked.iter().copied().peekable();
        let key = keys::entity_key(entity_type.name(), id);
        let pages = &self.inner.pages;
        let head = pages.head(&key)?;
        if head.is_erased_at(basis) {
            for &row in asked {
                states.set_erased(row);
            }
            return Ok(());
        }
        read::each_visible_whole(pages, &key, head, first..=last, basis, |run, row| {
            while open.next_if(|&next| at.value(next) < run.from).is_some() {}
            let mut position = None;
            while let Some(next) = open.next_if(|&next| at.value(next) < run.to) {
                let Some(row) = row else {
                    states.set_ended(next, run.from);
                    continue;
                };
                let place = match position {
                    Some(place) => place,
                    None => {
                        let place = rows.count();
                        rows.push(id, run, row)?;
                        *position.insert(place)
                    }
                };
                states.set_value(next, run.from, place);
            }
            Ok(())
        })
    }
}
