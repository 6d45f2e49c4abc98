//! Entities: their pages as they lie, and what the log says that they should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{CheckReport, DERIVE, Progress, Result, describe, step};
use crate::{
    kv::Database,
    store::{
        self, EntityType,
        history::{Known, known_versions},
        journal::Journal,
        keys,
        pages::Pages,
        row,
        timeline::OPEN,
    },
};

/// Where problems of pages are.
const ENTITIES: &str = "entities";
/// The keyspace with one value per entity.
const HEADS: &str = "heads";
/// A basis that sees everything.
const LATEST: i64 = OPEN - 1;

/// Walks the pages of all entities.
pub(super) fn walk(
    journal: &Journal,
    types: &BTreeMap<String, Arc<EntityType>>,
    report: &mut CheckReport,
    progress: Progress<'_>,
) -> Result<()> {
    for key in head_keys(&journal.database)? {
        let key = key?;
        report.entities += 1;
        step(progress, "entities", report.entities);
        let problems = journal.pages.verify_entity(&key)?;
        let is_sound = problems.is_empty();
        for problem in problems {
            report.add(ENTITIES, problem, DERIVE);
        }
        let entity_type = match keys::parse_entity_key(&key) {
            None => {
                let what = format!("key {} names no entity", key.escape_ascii());
                report.add(ENTITIES, what, DERIVE);
                continue;
            }
            Some((name, id)) => match types.get(&name) {
                Some(entity_type) => entity_type,
                None => {
                    let what = format!("entity {id:?} is of type {name:?}, which is not declared");
                    report.add("types", what, super::RESTORE);
                    continue;
                }
            },
        };
        if is_sound {
            check_rows(&journal.pages, &key, entity_type, report)?;
        }
    }
    for problem in journal.pages.strays()? {
        report.add(ENTITIES, problem, DERIVE);
    }
    Ok(())
}

fn check_rows(
    pages: &Pages,
    key: &[u8],
    entity_type: &EntityType,
    report: &mut CheckReport,
) -> Result<()> {
    for (rect, row) in versions(pages, key)? {
        report.versions += 1;
        if let Some(row) = row
            && let Err(malformed) = row::decode(entity_type, &row)
        {
            let (key, cause) = (key.escape_ascii(), malformed.0);
            let what = format!("entity {key}: the row of version {rect:?}: {cause}");
            report.add(ENTITIES, what, DERIVE);
        }
    }
    Ok(())
}

/// Compares the histories of all entities with those that the log gives, but for those with commits that are not applied.
pub(super) fn compare(
    stored: &Journal,
    derived: &Journal,
    unapplied: &BTreeSet<Vec<u8>>,
    report: &mut CheckReport,
    progress: Progress<'_>,
) -> Result<()> {
    for key in head_keys(&derived.database)? {
        let key = key?;
        report.compared_entities += 1;
        step(progress, "compared entities", report.compared_entities);
        if !unapplied.contains(&key) && !is_equal(&stored.pages, &derived.pages, &key)? {
            let what = format!("entity {} is not what the log says", key.escape_ascii());
            report.add(ENTITIES, what, DERIVE);
        }
    }
    let heads = derived.database.keyspace(HEADS)?;
    for key in head_keys(&stored.database)? {
        let key = key?;
        if heads.get(&key)?.is_none() && !unapplied.contains(&key) {
            let what = format!("the log knows nothing of entity {}", key.escape_ascii());
            report.add(ENTITIES, what, DERIVE);
        }
    }
    Ok(())
}

/// Pages that do not read were told before: they are not compared.
fn is_equal(stored: &Pages, derived: &Pages, key: &[u8]) -> Result<bool> {
    match known_versions(stored, key, LATEST) {
        Ok(stored) => Ok(stored == known_versions(derived, key, LATEST)?),
        Err(error) => describe(error).map(|_| true),
    }
}

fn head_keys(database: &Database) -> Result<impl Iterator<Item = Result<Vec<u8>>>> {
    let heads = database.keyspace(HEADS)?;
    Ok(heads.prefix(&[]).map(|entry| Ok(entry?.0.to_vec())))
}

fn versions(pages: &Pages, key: &[u8]) -> store::Result<Vec<Known>> {
    known_versions(pages, key, LATEST)
}
