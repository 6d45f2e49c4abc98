//! What a batch comes to: mutations in the words of their callers become changes over absolute ranges, each against the state
//! that the ones before have made.
//!
//! What changes nothing is left out. So every change in the log has left its system time in the entity's versions, which is
//! how an erasure finds the records that it has to redact.

use std::collections::BTreeSet;

use super::{
    error::Error,
    history::known_versions,
    journal::Journal,
    keys,
    log::{Change, Entry, Erasure},
    model::Until,
    prepared::{Deed, PreparedCondition, PreparedExpectation, PreparedMutation},
    row::{self, RowPatch},
    timeline::{OPEN, Span},
    workspace::{Owner, Workspace},
};
use crate::time::SysTime;

/// The most bytes that the changes of one batch may come to: a patch is one change for each value that it meets.
pub const MAX_RESOLVED_BYTES: usize = 32 << 20;

/// A basis at which everything is visible.
const LATEST: i64 = OPEN - 1;

/// The entity of a mutation.
struct Entity {
    entity_type: String,
    entity_id: String,
    key: Vec<u8>,
}

/// Resolves the mutations of one batch.
pub(super) struct Resolver<'p, 'j> {
    workspace: Workspace<'p>,
    journal: &'j Journal,
    /// The system time of the batch's versions.
    at: i64,
    /// The latest basis that was served.
    stable: i64,
    entries: Vec<Entry>,
    size_bytes: usize,
}

impl<'p, 'j> Resolver<'p, 'j> {
    pub(super) fn new(
        workspace: Workspace<'p>,
        journal: &'j Journal,
        at: i64,
        stable: i64,
    ) -> Self {
        Self {
            workspace,
            journal,
            at,
            stable,
            entries: Vec::new(),
            size_bytes: 0,
        }
    }

    /// The pages as the batch leaves them, and what it changed.
    pub(super) fn finish(self) -> (Workspace<'p>, Vec<Entry>) {
        (self.workspace, self.entries)
    }

    /// Checks what the mutation at `index` expects, and applies it.
    pub(super) fn resolve(
        &mut self,
        index: usize,
        mutation: PreparedMutation,
    ) -> Result<(), Error> {
        let from = mutation.valid_from.unwrap_or(self.at);
        mutation
            .check_end(index, from)
            .map_err(|violation| Error::Invalid {
                violations: vec![violation],
            })?;
        let entity_type = mutation.entity_type.name();
        let entity = Entity {
            entity_type: entity_type.to_owned(),
            key: keys::entity_key(entity_type, &mutation.entity_id),
            entity_id: mutation.entity_id,
        };
        for (place, expectation) in mutation.expect.iter().enumerate() {
            self.check(&entity, from, expectation)?
                .map_err(|found| Error::ExpectationFailed {
                    mutation: index,
                    expectation: place,
                    found,
                })?;
        }
        match mutation.deed {
            Deed::Erase => self.erase(entity),
            Deed::Put(row) => {
                let span = self.span(&entity, from, mutation.until)?;
                self.assert(index, "put", &entity, span, Some(row))
            }
            Deed::End => {
                let span = self.span(&entity, from, mutation.until)?;
                self.assert(index, "end", &entity, span, None)
            }
            Deed::Patch(patch) => {
                let span = self.span(&entity, from, mutation.until)?;
                self.patch(index, &entity, span, &patch)
            }
        }
    }

    fn span(&mut self, entity: &Entity, from: i64, until: Until) -> Result<Span, Error> {
        let to = match until {
            Until::NextChange => {
                self.workspace
                    .next_change(&entity.entity_type, &entity.entity_id, from)?
            }
            Until::At(valid_to) => valid_to.micros(),
            Until::Forever => OPEN,
        };
        Ok(Span { from, to })
    }

    fn assert(
        &mut self,
        index: usize,
        operation: &str,
        entity: &Entity,
        span: Span,
        row: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        let change = Change {
            entity_type: entity.entity_type.clone(),
            entity_id: entity.entity_id.clone(),
            span,
            row,
        };
        if !self.workspace.apply(&change)? {
            return Ok(());
        }
        self.size_bytes += change.entity_type.len()
            + change.entity_id.len()
            + change.row.as_ref().map_or(0, Vec::len)
            + 24;
        if self.size_bytes > MAX_RESOLVED_BYTES {
            return Err(Error::invalid(
                format!("mutations[{index}].{operation}"),
                format!(
                    "the batch comes to more than {MAX_RESOLVED_BYTES} bytes of changes: write fewer or \
                     shorter ranges at a time"
                ),
            ));
        }
        self.entries.push(Entry::Change(change));
        Ok(())
    }

    /// Asserts the merged row over each value of the range; neighbours that come to the same row in one go.
    fn patch(
        &mut self,
        index: usize,
        entity: &Entity,
        span: Span,
        patch: &RowPatch,
    ) -> Result<(), Error> {
        let mut held: Option<(Span, Vec<u8>)> = None;
        for (part, row) in self.workspace.live_over(&entity.key, span)? {
            let Some(row) = row else {
                continue;
            };
            let merged = patch.apply(&row).map_err(|malformed| {
                let Entity {
                    entity_type,
                    entity_id,
                    ..
                } = entity;
                Error::damaged(format!("a row of {entity_type} {entity_id:?}"), malformed.0)
            })?;
            row::check_size(&merged).map_err(|problem| {
                Error::invalid(format!("mutations[{index}].patch.attributes"), problem)
            })?;
            match &mut held {
                Some((before, row)) if before.to == part.from && *row == merged => {
                    before.to = part.to;
                }
                _ => {
                    if let Some((before, row)) = held.replace((part, merged)) {
                        self.assert(index, "patch", entity, before, Some(row))?;
                    }
                }
            }
        }
        match held {
            None => Ok(()),
            Some((last, row)) => self.assert(index, "patch", entity, last, Some(row)),
        }
    }

    /// Removes the entity, and what the batch has said of it so far.
    fn erase(&mut self, entity: Entity) -> Result<(), Error> {
        if self.workspace.is_empty(&entity.key)? {
            return Ok(());
        }
        let redacts = self.records_of(&entity)?;
        self.workspace.erase(&entity.key)?;
        let is_of_entity = |change: &Change| {
            change.entity_id == entity.entity_id && change.entity_type == entity.entity_type
        };
        self.entries
            .retain(|entry| !matches!(entry, Entry::Change(change) if is_of_entity(change)));
        self.entries.push(Entry::Erase(Erasure {
            entity_type: entity.entity_type,
            entity_id: entity.entity_id,
            redacts,
        }));
        Ok(())
    }

    /// The sequences of the records that speak of the entity, ascending.
    fn records_of(&self, entity: &Entity) -> Result<Vec<u64>, Error> {
        let mut times = BTreeSet::new();
        let pages = &self.journal.pages;
        for (rect, _) in known_versions(pages, &entity.key, LATEST)? {
            times.insert(rect.system_from);
            times.insert(rect.system_to);
        }
        times.remove(&OPEN);
        self.journal
            .sequences_of(&entity.entity_type, &entity.entity_id, &times)
    }

    /// `Err`: what is there instead of what is expected.
    fn check(
        &mut self,
        entity: &Entity,
        from: i64,
        expectation: &PreparedExpectation,
    ) -> Result<Result<(), String>, Error> {
        let point = expectation.valid_time.unwrap_or(from);
        if let PreparedCondition::UnchangedSince(basis) = expectation.condition
            && basis > self.stable
        {
            return Err(Error::BasisNotPinned {
                basis: SysTime::from_micros(basis),
                latest: SysTime::from_micros(self.stable),
            });
        }
        let erased_until = self.workspace.erased_until(&entity.key)?;
        if let PreparedCondition::UnchangedSince(basis) = expectation.condition
            && erased_until.is_some_and(|until| basis < until)
        {
            return Ok(Err("the entity was erased".to_owned()));
        }
        let owner = self.workspace.owner(&entity.key, point)?;
        let holds = match (&expectation.condition, &owner) {
            (PreparedCondition::Value(expected), Some((_, Some(row)))) => expected == row,
            (PreparedCondition::Value(_), Some((_, None)) | None) => false,
            (PreparedCondition::Absent, Some((_, row))) => row.is_none(),
            (PreparedCondition::Absent | PreparedCondition::UnchangedSince(_), None) => true,
            (PreparedCondition::UnchangedSince(basis), Some((since, _))) => since <= basis,
        };
        Ok(if holds { Ok(()) } else { Err(describe(&owner)) })
    }
}

/// What is there, without its values.
fn describe(owner: &Owner) -> String {
    match owner {
        None => "nothing is known there".to_owned(),
        Some((since, None)) => format!("it was ended at {}", SysTime::from_micros(*since)),
        Some((since, Some(_))) => {
            format!(
                "there is a value, written at {}",
                SysTime::from_micros(*since)
            )
        }
    }
}
