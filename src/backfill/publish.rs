//! Putting staged partitions where they belong: one commit at a time per table or entity type, and all that is ready goes into
//! the next. How it is done for each is in `tables` and `entities`.

mod entities;
mod tables;

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
};

use super::{
    Error, Result,
    blocking::blocking,
    decide::{Cost, PublishedAttempt},
    journal::Journal,
    model::{Receipt, Record, TransformPlan},
};
use crate::{
    catalog::{Output, Transform},
    disk,
    engine::{self, StagedOutput},
    error::{Classify, ErrorKind},
    lake::Lake,
    store::Store,
    time::{Interval, ValidTime},
};

/// Partitions in one commit at most.
const COMMIT_PARTITIONS: usize = 256;

/// A staged partition that waits for its commit.
#[derive(Debug)]
pub(super) struct PublishItem {
    pub(super) index: u32,
    pub(super) attempt: u32,
    pub(super) window: Interval<ValidTime>,
    pub(super) rows_read: u64,
    pub(super) staged_at_micros: i64,
    pub(super) cost: Cost,
    pub(super) staged: StagedOutput,
}

/// What is told of a partition besides its rows.
#[derive(Debug)]
struct Told {
    index: u32,
    attempt: u32,
    window: Interval<ValidTime>,
    rows_read: u64,
    rows_written: u64,
    bytes_written: u64,
    staged_at_micros: i64,
    cost: Cost,
}

/// How a commit ended.
#[derive(Debug)]
pub(super) struct PublishDone {
    pub(super) output: Output,
    pub(super) backfill: String,
    pub(super) partitions: Vec<Published>,
}

/// How the publishing of a partition ended.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) index: u32,
    pub(super) attempt: u32,
    pub(super) cost: Cost,
    pub(super) outcome: std::result::Result<PublishedAttempt, PublishFailure>,
}

/// Why a commit failed.
#[derive(Debug, Clone)]
pub(super) struct PublishFailure {
    pub(super) message: String,
    pub(super) retryable: bool,
    /// The disk is full: it is tried again once there is room, however often.
    pub(super) no_room: bool,
}

/// What waits, by output.
#[derive(Debug)]
pub(super) struct Publisher {
    lake: Lake,
    store: Store,
    journal: Journal,
    queues: HashMap<Output, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    committing: bool,
    waiting: Vec<(Owner, PublishItem)>,
}

/// Whose partition it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    backfill: String,
    transform: String,
    revision: u32,
}

impl PublishItem {
    fn split(self) -> (Told, StagedOutput) {
        let told = Told {
            index: self.index,
            attempt: self.attempt,
            window: self.window,
            rows_read: self.rows_read,
            rows_written: self.staged.row_count(),
            bytes_written: self.staged.size_bytes(),
            staged_at_micros: self.staged_at_micros,
            cost: self.cost,
        };
        (told, self.staged)
    }
}

impl Publisher {
    pub(super) fn new(lake: Lake, store: Store, journal: Journal) -> Self {
        Self {
            lake,
            store,
            journal,
            queues: HashMap::new(),
        }
    }

    /// Whether nothing waits and no commit is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.queues
            .values()
            .all(|queue| !queue.committing && queue.waiting.is_empty())
    }

    pub(super) fn enqueue(&mut self, backfill: &str, plan: &TransformPlan, item: PublishItem) {
        let owner = Owner {
            backfill: backfill.to_owned(),
            transform: plan.transform.clone(),
            revision: plan.revision,
        };
        let queue = self.queues.entry(plan.output.clone()).or_default();
        queue.waiting.push((owner, item));
    }

    /// Takes back what waits of a backfill. A commit under way goes on.
    pub(super) fn withdraw(&mut self, output: &Output, backfill: &str) -> Vec<PublishItem> {
        let Some(queue) = self.queues.get_mut(output) else {
            return Vec::new();
        };
        queue
            .waiting
            .extract_if(.., |(owner, _)| owner.backfill == backfill)
            .map(|(_, item)| item)
            .collect()
    }

    /// The next commit on `output` and whose it is, unless one is under way or nothing waits. [`Publisher::ended`] must be
    /// told of its end.
    pub(super) fn next_commit(
        &mut self,
        output: &Output,
    ) -> Option<(String, impl Future<Output = PublishDone> + Send + use<>)> {
        let queue = self
            .queues
            .get_mut(output)
            .filter(|queue| !queue.committing)?;
        let owner = queue.waiting.first()?.0.clone();
        queue.committing = true;
        let mut items = Vec::new();
        for (_, item) in queue
            .waiting
            .extract_if(.., |(waiting, _)| *waiting == owner)
        {
            items.push(item);
            if items.len() == COMMIT_PARTITIONS {
                break;
            }
        }
        let target = Target {
            lake: self.lake.clone(),
            store: self.store.clone(),
            journal: self.journal.clone(),
            output: output.clone(),
        };
        let backfill = owner.backfill.clone();
        Some((backfill, target.publish(owner, items)))
    }

    /// A commit ended: the next may start.
    pub(super) fn ended(&mut self, done: &PublishDone) {
        if let Some(queue) = self.queues.get_mut(&done.output) {
            queue.committing = false;
        }
    }

    /// Makes the transform's table, or adds the columns that it lacks; claims its entity type.
    pub(super) async fn ensure_output(&self, transform: &Arc<Transform>) -> Result<()> {
        match &transform.spec.output {
            Output::Table(name) => {
                let (lake, name) = (self.lake.clone(), name.clone());
                let transform = Arc::clone(transform);
                blocking(move || tables::ensure_table(&lake, &name, &transform)).await
            }
            Output::Entities(output) => {
                let name = &output.entity_type;
                entities::ensure_type(&self.store, name, &transform.spec.name).await
            }
        }
    }

    /// The attempts of a backfill that were published.
    pub(super) async fn published_attempts(
        &self,
        record: &Record,
    ) -> Result<Vec<PublishedAttempt>> {
        let mut published = Vec::new();
        for (place, one) in (0u32..).zip(&record.plan.transforms) {
            if let Output::Table(name) = &one.output {
                let found = tables::published_attempts(&self.lake, name, record, place);
                published.extend(found.await?);
            }
        }
        if writes_entities(record) {
            let found = entities::published_attempts(&self.store, &self.journal, record);
            published.extend(found.await?);
        }
        Ok(published)
    }

    /// Removes files that attempts of a backfill staged and that were not published. No attempt of it may be under way.
    pub(super) fn remove_leftovers(
        &self,
        record: &Record,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let lake = self.lake.clone();
        // Rows of entities leave no files.
        let outputs = record.plan.transforms.iter().map(|one| &one.output);
        let tables: Vec<_> = outputs
            .filter_map(Output::table)
            .map(str::to_owned)
            .collect();
        let backfill = record.name.clone();
        blocking(move || {
            for table in tables {
                lake.remove_leftovers(&table, &backfill, &HashSet::new())?;
            }
            Ok(())
        })
    }

    /// Removes what was kept of a backfill's publishing. Only once its end is journalled.
    pub(super) fn forget(
        &self,
        record: &Record,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let journal = self.journal.clone();
        let backfill = record.name.clone();
        let has_notes = writes_entities(record);
        blocking(move || {
            if has_notes {
                journal.forget_publish_notes(&backfill)?;
            }
            Ok(())
        })
    }

    /// Removes one attempt's staged rows.
    pub(super) async fn discard(staged: StagedOutput) {
        let removed = blocking(move || match staged {
            StagedOutput::Files(staged) => Ok(staged.discard()?),
            StagedOutput::Rows(rows) => {
                drop(rows);
                Ok(())
            }
        })
        .await;
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove staged files; they are removed when the backfill ends");
        }
    }
}

/// Where a commit goes.
struct Target {
    lake: Lake,
    store: Store,
    journal: Journal,
    output: Output,
}

impl Target {
    async fn publish(self, owner: Owner, items: Vec<PublishItem>) -> PublishDone {
        let attempts: Vec<_> = items
            .iter()
            .map(|item| (item.index, item.attempt, item.cost))
            .collect();
        let output = self.output.clone();
        let backfill = owner.backfill.clone();
        let span = tracing::Span::current();
        let publishing = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            match &self.output {
                Output::Table(name) => tables::publish(&self.lake, name, &owner, items),
                Output::Entities(_) => entities::publish(&self.store, &self.journal, &owner, items),
            }
        });
        let partitions = publishing.await.unwrap_or_else(|error| {
            let broken = PublishFailure {
                message: format!("the commit broke off: {error}"),
                retryable: false,
                no_room: false,
            };
            let failed = attempts
                .into_iter()
                .map(|(index, attempt, cost)| Published {
                    index,
                    attempt,
                    cost,
                    outcome: Err(broken.clone()),
                });
            failed.collect()
        });
        PublishDone {
            output,
            backfill,
            partitions,
        }
    }
}

fn writes_entities(record: &Record) -> bool {
    let mut transforms = record.plan.transforms.iter();
    transforms.any(|one| one.output.entities().is_some())
}

fn ended(told: Told, outcome: std::result::Result<Receipt, PublishFailure>) -> Published {
    Published {
        index: told.index,
        attempt: told.attempt,
        cost: told.cost,
        outcome: outcome.map(|receipt| PublishedAttempt {
            index: told.index,
            attempt: told.attempt,
            rows_read: told.rows_read,
            rows_written: told.rows_written,
            bytes_written: told.bytes_written,
            staged_at_micros: Some(told.staged_at_micros),
            receipt,
            cost: told.cost,
        }),
    }
}

fn failure(error: &Error) -> PublishFailure {
    PublishFailure {
        message: error.to_string(),
        retryable: matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict),
        no_room: disk::is_out_of_space(error),
    }
}

/// Rows that were staged for the other kind of output.
fn misdirected() -> Error {
    let cause = "its rows were staged for another output".to_owned();
    engine::Error::Broken { cause }.into()
}
