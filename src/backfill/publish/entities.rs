//! Publishing partitions to an entity type.
//!
//! What the store holds says what is still to be written, so an attempt that died in the middle needs no taking back: the next
//! one writes the rest, and one that follows a whole one writes nothing. The last batch of an attempt leaves a mark in the
//! store under the same commit; what the attempt came to is noted before it. So a restart that finds the mark knows that the
//! partition was published, and as what, although the journal had no time to say so.

use std::sync::Arc;

use super::{Owner, PublishItem, Published, Told, ended, failure, misdirected};
use crate::{
    backfill::{
        Error, Result,
        blocking::blocking,
        decide::PublishedAttempt,
        journal::{Journal, PublishNote},
        model::{EntityChanges, Receipt, Record},
    },
    engine::StagedOutput,
    store::{self, IngestMark, Replacing, Store},
};

/// Bytes of rows that may be on their way to the disk before they are waited for.
const BEGUN_BYTES: u64 = 8 << 20;

/// Publishes partitions that are ready, each by itself. Blocks.
pub(super) fn publish(
    store: &Store,
    journal: &Journal,
    owner: &Owner,
    items: Vec<PublishItem>,
) -> Vec<Published> {
    let writer: Arc<str> = owner.transform.as_str().into();
    let mut published = Vec::with_capacity(items.len());
    let mut begun = Vec::new();
    let mut begun_bytes = 0;
    // Several begin before the first is waited for: they share flushes.
    for item in items {
        let (told, staged) = item.split();
        begun_bytes += told.bytes_written;
        let replacing = begin(store, journal, owner, &writer, &told, staged);
        begun.push((told, replacing));
        if begun_bytes >= BEGUN_BYTES {
            published.extend(begun.drain(..).map(finish));
            begun_bytes = 0;
        }
    }
    published.extend(begun.into_iter().map(finish));
    published
}

/// Waits until a partition is on disk.
fn finish((told, replacing): (Told, Result<Replacing>)) -> Published {
    let outcome = match replacing.and_then(|replacing| Ok(replacing.finish()?)) {
        Ok((replaced, basis)) => Ok(Receipt::Entities(EntityChanges { replaced, basis })),
        Err(error) => Err(failure(&error)),
    };
    ended(told, outcome)
}

fn begin(
    store: &Store,
    journal: &Journal,
    owner: &Owner,
    writer: &Arc<str>,
    told: &Told,
    staged: StagedOutput,
) -> Result<Replacing> {
    let StagedOutput::Rows(rows) = staged else {
        return Err(misdirected());
    };
    let mark = IngestMark {
        stream: stream(&owner.backfill, told.index),
        offset: told.attempt.into(),
    };
    store.replace(rows, told.window, writer, mark, |replaced| {
        let note = PublishNote {
            attempt: told.attempt,
            rows_read: told.rows_read,
            rows_written: told.rows_written,
            bytes_written: told.bytes_written,
            staged_at_micros: told.staged_at_micros,
            replaced,
        };
        journal.note_publish(&owner.backfill, told.index, &note)
    })
}

/// The attempts of a backfill that the store has whole.
pub(super) async fn published_attempts(
    store: &Store,
    journal: &Journal,
    record: &Record,
) -> Result<Vec<PublishedAttempt>> {
    let reading = journal.clone();
    let name = record.name.clone();
    let notes = blocking(move || reading.publish_notes(&name)).await?;
    let mut published = Vec::new();
    for (index, note) in notes {
        let marked = store.ingest_offset(&stream(&record.name, index)).await?;
        if marked != Some(note.attempt.into()) {
            continue;
        }
        published.push(PublishedAttempt {
            index,
            attempt: note.attempt,
            rows_read: note.rows_read,
            rows_written: note.rows_written,
            bytes_written: note.bytes_written,
            staged_at_micros: Some(note.staged_at_micros),
            receipt: Receipt::Entities(EntityChanges {
                replaced: note.replaced,
                basis: store.latest_basis(),
            }),
        });
    }
    Ok(published)
}

/// Claims the entity type for the transform, if it has not done so.
pub(super) async fn ensure_type(store: &Store, entity_type: &str, transform: &str) -> Result<()> {
    match store.claim(entity_type, transform).await {
        Ok(()) => Ok(()),
        Err(error @ store::Error::Closed) => {
            tracing::debug!(%error, "the store closed first");
            Err(Error::Stopping)
        }
        Err(error) => Err(error.into()),
    }
}

/// The name under which the store marks a partition of a backfill: no client can use it.
fn stream(backfill: &str, index: u32) -> String {
    format!("\0{backfill}/{index}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        kv::Database,
        store::{Attribute, AttributeKind, EntityTypeSpec, Replaced, RowStager, Value},
        time::{Interval, ManualClock, ValidTime},
    };

    fn record() -> Record {
        let record = json!({
            "name": "bf-1",
            "spec": {
                "transform": "t", "revision": null, "from": 0, "to": 20, "knowledge": "AsKnownNow",
                "max_active_partitions": 2, "max_attempts": null, "labels": {},
            },
            "plan": {
                "transform": "t", "revision": 1, "output_entity": {"entity_type": "level", "key": ["id"]},
                "grain": "daily", "zone": "UTC", "knowledge": "AsKnownNow", "shape": "Independent",
                "max_active_partitions": 2,
                "retry": {
                    "max_attempts": 3, "initial_backoff": {"secs": 1, "nanos": 0},
                    "max_backoff": {"secs": 60, "nanos": 0},
                },
                "partitions": [], "sources": [], "warnings": [],
            },
            "create_time_micros": 5,
        });
        serde_json::from_value(record).expect("a record")
    }

    fn item(store: &Store, folder: &std::path::Path, index: u32, ids: &[&str]) -> PublishItem {
        let entity_type = store.entity_type("level").expect("declared");
        let mut stager = RowStager::new(entity_type, folder.join("rows"));
        for id in ids {
            let values = [Some(Value::Int64(i64::from(index)))];
            stager.push((*id).to_owned(), &values).expect("fits");
        }
        let start = i64::from(index) * 10;
        PublishItem {
            index,
            attempt: 3,
            window: Interval::new(
                ValidTime::from_micros(start),
                ValidTime::from_micros(start + 10),
            ),
            rows_read: 5,
            staged_at_micros: 6,
            staged: StagedOutput::Rows(stager.finish().expect("staged")),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restart_knows_what_was_published_before_it_was_journalled() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Database::open(&folder.path().join("db"), 1 << 20).expect("opens");
        let clock = ManualClock::starting_at(1_000);
        let database = open();
        let store = Store::open(&database, Arc::clone(&clock) as _).expect("opens");
        let spec = EntityTypeSpec {
            name: "level".to_owned(),
            attributes: vec![Attribute {
                name: "v".to_owned(),
                kind: AttributeKind::Int64,
                description: String::new(),
            }],
            ..EntityTypeSpec::default()
        };
        store.create_entity_type(spec).await.expect("declared");
        ensure_type(&store, "level", "t").await.expect("claimed");
        let journal = Journal::open(&database).expect("opens");
        let owner = Owner {
            backfill: "bf-1".to_owned(),
            transform: "t".to_owned(),
            revision: 1,
        };
        let items = vec![
            item(&store, folder.path(), 0, &["a", "b"]),
            item(&store, folder.path(), 1, &[]),
            item(&store, folder.path(), 2, &["c"]),
        ];
        let (writing, noting) = (store.clone(), journal.clone());
        let told = tokio::task::spawn_blocking(move || publish(&writing, &noting, &owner, items));
        let told = told.await.expect("published");
        let told: Vec<_> = told
            .into_iter()
            .map(|published| published.outcome.expect("published"))
            .collect();
        // Of an attempt that died before its last batch there is a note and no mark.
        let unmarked = PublishNote {
            attempt: 4,
            rows_read: 0,
            rows_written: 0,
            bytes_written: 0,
            staged_at_micros: 0,
            replaced: Replaced::default(),
        };
        journal.note_publish("bf-1", 2, &unmarked).expect("noted");
        store.close();
        drop((store, journal, database));

        let database = open();
        let store = Store::open(&database, clock).expect("opens");
        let journal = Journal::open(&database).expect("opens");
        let found = published_attempts(&store, &journal, &record()).await;
        let found = found.expect("read");
        // What wrote nothing left nothing: it is computed again, and writes nothing again.
        let at_a_later_basis = PublishedAttempt {
            receipt: found[0].receipt,
            ..told[0].clone()
        };
        assert_eq!(found, [at_a_later_basis]);
        assert_eq!((found[0].attempt, found[0].rows_written), (3, 2));
        let replaced = |at: usize| told[at].receipt.entities().expect("entities").replaced;
        let changes = found[0].receipt.entities().expect("entities");
        assert_eq!(changes.replaced, replaced(0));
        assert_eq!(changes.basis, store.latest_basis());
        assert_eq!((replaced(0).written, replaced(1).written), (2, 0));
        journal.forget_publish_notes("bf-1").expect("removed");
        let found = published_attempts(&store, &journal, &record()).await;
        assert_eq!(found.expect("read"), []);
        store.close();
    }
}
