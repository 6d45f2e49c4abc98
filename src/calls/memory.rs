//! Answers that were given, as versions of an entity type: what was asked once is not asked again.
//!
//! An answer is the entity whose id names the definition and the arguments. It is valid from the instant that was asked
//! about, or, of a call without one, from when it was asked; it has the call's columns and [`ASKED_AT`]. The transform owns
//! the type: clients read it, and may erase entities of it, which are then asked for again.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, StringArray, StructArray, TimestampMicrosecondArray},
    datatypes::DataType,
};

use super::{
    Error,
    client::Answer,
    definition::{ASKED_AT, Definition},
    refusal::{Fault, Refused},
    under_way::Claim,
};
use crate::{
    catalog::{TransformSpec, call_type_name},
    store::{
        self, Attribute, AttributeKind, Batch, EntityType, EntityTypeSpec, EntityTypeUpdate,
        Mutation, Operation, Store, Until, Value, columns,
    },
    time::{SysTime, ValidTime},
};

/// An answer that is to be kept.
#[derive(Debug)]
pub(super) struct Answered {
    /// Held until the answer is on disk.
    pub(super) claim: Claim,
    /// `None`: from when it is kept.
    pub(super) valid_from: Option<ValidTime>,
    pub(super) answer: Answer,
}

/// The answers of one call.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    store: Store,
    definition: Arc<Definition>,
    entity_type: Arc<EntityType>,
}

impl Memory {
    pub(super) fn open(store: &Store, definition: &Arc<Definition>) -> Result<Self, Error> {
        let entity_type = store
            .entity_type(&definition.entity_type())
            .map_err(|error| failed(definition, error))?;
        Ok(Self {
            store: store.clone(),
            definition: Arc::clone(definition),
            entity_type,
        })
    }

    pub(super) fn entity_type(&self) -> &str {
        self.entity_type.name()
    }

    /// The answers that are known at `basis`, and when they were given; null where there is none. Blocks.
    pub(super) fn find(
        &self,
        ids: &StringArray,
        at: &TimestampMicrosecondArray,
        basis: SysTime,
    ) -> Result<Found, Error> {
        let broken = || Error::Setup {
            cause: format!(
                "the answers of {} have other columns",
                self.definition.name()
            ),
        };
        let states = self
            .store
            .lookup_batch(&self.entity_type, ids, at, basis)
            .map_err(|error| failed(&self.definition, error))?;
        let column = |name: &str| states.column_by_name(name).cloned().ok_or_else(broken);
        let asked_at = column(ASKED_AT)?;
        let asked_at = asked_at
            .as_any()
            .downcast_ref::<TimestampMicrosecondArray>()
            .cloned()
            .ok_or_else(broken)?;
        let columns = self
            .definition
            .column_names()
            .map(column)
            .collect::<Result<Vec<_>, _>>()?;
        let DataType::Struct(fields) = self.definition.answer_type() else {
            return Err(broken());
        };
        let validity = asked_at.nulls().cloned();
        let answers = StructArray::try_new_with_length(fields, columns, validity, ids.len())
            .map_err(|error| failed(&self.definition, error.into()))?;
        Ok(Found { answers, asked_at })
    }

    /// Keeps answers. **Durability**: on disk when it returns.
    ///
    /// # Errors
    /// The first answer that cannot be kept; the others are.
    pub(super) async fn keep(
        self,
        mut answers: Vec<Answered>,
        asked_at_micros: i64,
    ) -> Result<(), Error> {
        let whole = self.write(&answers, asked_at_micros).await;
        if answers.len() == 1 || !matches!(whole, Err(store::Error::Invalid { .. })) {
            return whole.map_err(|error| failed(&self.definition, error));
        }
        // One that cannot be kept does not take the others with it.
        let mut outcome = Ok(());
        for answer in answers.drain(..) {
            let one = self.write(&[answer], asked_at_micros).await;
            outcome = outcome.and(one.map_err(|error| failed(&self.definition, error)));
        }
        outcome
    }

    async fn write(&self, answers: &[Answered], asked_at_micros: i64) -> Result<(), store::Error> {
        let mutations = answers.iter().map(|answered| {
            let mut attributes: BTreeMap<_, _> = answered.answer.clone();
            let asked_at = Some(Value::Timestamp(asked_at_micros));
            attributes.insert(ASKED_AT.to_owned(), asked_at);
            Mutation {
                entity_type: self.entity_type.name().to_owned(),
                entity_id: answered.claim.id().to_owned(),
                operation: Operation::Put(attributes),
                valid_from: answered.valid_from,
                until: Until::Forever,
                expect: Vec::new(),
            }
        });
        let batch = Batch {
            mutations: mutations.collect(),
            ..Batch::default()
        };
        let writer = &self.definition.transform;
        self.store.write_as(writer, batch).await.map(drop)
    }
}

/// Answers that are known.
pub(super) struct Found {
    pub(super) answers: StructArray,
    /// Null where there is none.
    pub(super) asked_at: TimestampMicrosecondArray,
}

impl Found {
    /// Whether there is an answer in this row that was given at `since` or after it.
    pub(super) fn has(&self, row: usize, since: Option<i64>) -> bool {
        self.asked_at.is_valid(row) && since.is_none_or(|since| self.asked_at.value(row) >= since)
    }
}

impl Definition {
    /// What the function gives: a struct of the columns, all nullable.
    pub fn answer_type(&self) -> DataType {
        let attributes = self.columns.iter().map(|column| Attribute {
            name: column.name.clone(),
            kind: column.kind,
            description: String::new(),
        });
        DataType::Struct(columns::fields_of(attributes))
    }
}

fn failed(definition: &Definition, error: store::Error) -> Error {
    Error::Store {
        call: definition.name().to_owned(),
        cause: Arc::new(error),
    }
}

/// Why the answers of a transform's calls cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// A definition does not fit the answers that are kept.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Declares the entity types that keep the answers of a transform's calls, and claims them for it. With `check_only` it only
/// finds out whether that is possible.
///
/// # Errors
/// A column that has another type in the answers that are kept; a type of that name that somebody else writes to.
pub async fn declare(
    store: &Store,
    spec: &TransformSpec,
    check_only: bool,
) -> Result<(), DeclareError> {
    for (index, definition) in Definition::all(spec)?.iter().enumerate() {
        let name = definition.entity_type();
        let missing = match store.entity_type(&name) {
            Ok(existing) => Some(missing_attributes(index, definition, &existing)?),
            Err(store::Error::UnknownType { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if check_only {
            if missing.is_some() {
                store.check_claim(&name, &spec.name)?;
            }
            continue;
        }
        match missing {
            None => {
                store.create_entity_type(type_of(definition)).await?;
            }
            Some(added) => {
                // Of a type that is somebody else's nothing is changed.
                store.check_claim(&name, &spec.name)?;
                if !added.is_empty() {
                    let update = EntityTypeUpdate {
                        add_attributes: added,
                        ..EntityTypeUpdate::default()
                    };
                    store.update_entity_type(&name, update).await?;
                }
            }
        }
        store.claim(&name, &spec.name).await?;
    }
    Ok(())
}

fn type_of(definition: &Definition) -> EntityTypeSpec {
    EntityTypeSpec {
        name: definition.entity_type(),
        attributes: attributes(definition),
        description: format!(
            "answers to {} of transform {}, by definition and arguments",
            definition.name(),
            definition.transform
        ),
        ..EntityTypeSpec::default()
    }
}

fn attributes(definition: &Definition) -> Vec<Attribute> {
    let attribute = |name: &str, kind: AttributeKind, description: String| Attribute {
        name: name.to_owned(),
        kind,
        description,
    };
    let asked_at = attribute(
        ASKED_AT,
        AttributeKind::Timestamp,
        "when the answer came".to_owned(),
    );
    let columns = definition
        .columns
        .iter()
        .map(|column| attribute(&column.name, column.kind, String::new()));
    std::iter::once(asked_at).chain(columns).collect()
}

/// The attributes that `existing` lacks.
fn missing_attributes(
    index: usize,
    definition: &Definition,
    existing: &EntityType,
) -> Result<Vec<Attribute>, Refused> {
    let mut missing = Vec::new();
    for (place, wanted) in attributes(definition).into_iter().enumerate() {
        let Some(found) = existing.attribute_index(&wanted.name) else {
            missing.push(wanted);
            continue;
        };
        let kept = existing.attributes().get(found).map(|it| it.kind);
        if let Some(kept) = kept
            && kept != wanted.kind
        {
            // asked_at is the first.
            let column = place.saturating_sub(1);
            return Err(Refused::new(
                Fault::Column,
                format!("transform.calls[{index}].columns[{column}].type"),
                format!(
                    "entity type {:?}, which keeps the answers, has {:?} as {}: name the column otherwise",
                    existing.name(),
                    wanted.name,
                    call_type_name(kept)
                ),
            ));
        }
    }
    Ok(missing)
}
