//! Putting staged partitions on their table: one commit at a time per table, and all that is ready goes into the next.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
};

use super::{Result, blocking::blocking, decide::PublishedAttempt, model::Record};
use crate::{
    catalog::{ColumnDef, Transform},
    engine,
    error::{Classify, ErrorKind},
    lake::{self, Commit, Lake, PublishedPartition, Staged},
};

/// Partitions in one commit at most.
const COMMIT_PARTITIONS: usize = 256;

/// Staged partitions that do not wait for a table's rest to end.
const ENOUGH_PARTITIONS: usize = 48;

/// A staged partition that waits for its commit.
#[derive(Debug)]
pub(super) struct PublishItem {
    pub(super) index: u32,
    pub(super) attempt: u32,
    pub(super) rows_read: u64,
    pub(super) rows_written: u64,
    pub(super) staged_at_micros: i64,
    pub(super) staged: Staged,
}

/// How a commit ended.
#[derive(Debug)]
pub(super) struct PublishDone {
    pub(super) table: String,
    pub(super) backfill: String,
    pub(super) items: Vec<PublishItem>,
    /// The snapshot.
    pub(super) outcome: std::result::Result<i64, PublishFailure>,
}

/// Why a commit failed.
#[derive(Debug)]
pub(super) struct PublishFailure {
    pub(super) message: String,
    pub(super) retryable: bool,
}

/// What waits, by table.
#[derive(Debug)]
pub(super) struct Publisher {
    lake: Lake,
    queues: HashMap<String, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    committing: bool,
    /// After a commit: what is staged waits for more.
    resting: bool,
    waiting: Vec<(Owner, PublishItem)>,
}

/// Whose partition it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    backfill: String,
    revision: u32,
}

impl Publisher {
    pub(super) fn new(lake: Lake) -> Self {
        Self {
            lake,
            queues: HashMap::new(),
        }
    }

    /// Whether nothing waits and no commit is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.queues
            .values()
            .all(|queue| !queue.committing && queue.waiting.is_empty())
    }

    pub(super) fn enqueue(
        &mut self,
        table: &str,
        backfill: &str,
        revision: u32,
        item: PublishItem,
    ) {
        let owner = Owner {
            backfill: backfill.to_owned(),
            revision,
        };
        let queue = self.queues.entry(table.to_owned()).or_default();
        queue.waiting.push((owner, item));
    }

    /// Takes back what waits of a backfill. A commit under way goes on.
    pub(super) fn withdraw(&mut self, table: &str, backfill: &str) -> Vec<PublishItem> {
        let Some(queue) = self.queues.get_mut(table) else {
            return Vec::new();
        };
        queue
            .waiting
            .extract_if(.., |(owner, _)| owner.backfill == backfill)
            .map(|(_, item)| item)
            .collect()
    }

    /// The next commit on `table`, unless one is under way or nothing waits; or it rests, `more_comes`, and little waits.
    /// [`Publisher::ended`] must be told of its end, and [`Publisher::rested`] some time after.
    pub(super) fn next_commit(
        &mut self,
        table: &str,
        more_comes: bool,
    ) -> Option<impl Future<Output = PublishDone> + Send + use<>> {
        let queue = self
            .queues
            .get_mut(table)
            .filter(|queue| !queue.committing)?;
        if queue.resting && more_comes && queue.waiting.len() < ENOUGH_PARTITIONS {
            return None;
        }
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
        Some(commit(self.lake.clone(), table.to_owned(), owner, items))
    }

    /// A commit ended: the next may start, but the table rests.
    pub(super) fn ended(&mut self, done: &PublishDone) {
        if let Some(queue) = self.queues.get_mut(&done.table) {
            queue.committing = false;
            queue.resting = true;
        }
    }

    /// A table's rest is over.
    pub(super) fn rested(&mut self, table: &str) {
        if let Some(queue) = self.queues.get_mut(table) {
            queue.resting = false;
        }
    }

    /// Makes the transform's table, or adds the columns that it lacks.
    pub(super) async fn ensure_table(&self, transform: &Arc<Transform>) -> Result<()> {
        let lake = self.lake.clone();
        let transform = Arc::clone(transform);
        blocking(move || {
            let columns = ColumnDef::to_schema(&transform.columns)
                .map_err(|cause| engine::Error::Broken { cause })?;
            lake.ensure_table(&transform.spec.output_table, &columns, &transform.spec.name)?;
            Ok(())
        })
        .await
    }

    /// The attempts of a backfill that its table holds.
    pub(super) async fn published_attempts(
        &self,
        record: &Record,
    ) -> Result<Vec<PublishedAttempt>> {
        let lake = self.lake.clone();
        let table = record.plan.output_table.clone();
        let backfill = record.name.clone();
        let found = blocking(move || Ok(lake.published_by(&table, &backfill)?)).await?;
        let index_of: HashMap<_, _> = record
            .plan
            .partitions
            .iter()
            .zip(0u32..)
            .map(|(planned, index)| (planned.partition.start, index))
            .collect();
        Ok(found
            .into_iter()
            .filter_map(|found| {
                Some(PublishedAttempt {
                    index: *index_of.get(&found.partition_start)?,
                    attempt: found.attempt,
                    rows_read: found.rows_read,
                    rows_written: found.rows_written,
                    bytes_written: 0,
                    staged_at_micros: None,
                    snapshot_id: found.snapshot_id,
                })
            })
            .collect())
    }

    /// Removes files that attempts of a backfill staged and that were not published. No attempt of it may be under way.
    pub(super) fn remove_leftovers(
        &self,
        record: &Record,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let lake = self.lake.clone();
        let table = record.plan.output_table.clone();
        let backfill = record.name.clone();
        blocking(move || {
            lake.remove_leftovers(&table, &backfill, &HashSet::new())?;
            Ok(())
        })
    }

    /// Removes one attempt's staged files.
    pub(super) async fn discard(staged: Staged) {
        let removed = blocking(move || Ok(staged.discard()?)).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove staged files; they are removed when the backfill ends");
        }
    }
}

async fn commit(lake: Lake, table: String, owner: Owner, items: Vec<PublishItem>) -> PublishDone {
    let partitions = items
        .iter()
        .map(|item| PublishedPartition {
            staged: item.staged.clone(),
            attempt: item.attempt,
            rows_read: item.rows_read,
        })
        .collect();
    let commit = Commit {
        backfill: owner.backfill.clone(),
        revision: owner.revision,
        partitions,
    };
    let name = table.clone();
    let outcome = match tokio::task::spawn_blocking(move || lake.commit(&name, &commit)).await {
        Ok(Ok(published)) => Ok(published.snapshot_id),
        Ok(Err(error)) => Err(PublishFailure {
            message: error.to_string(),
            retryable: is_passing(&error),
        }),
        Err(error) => Err(PublishFailure {
            message: format!("the commit broke off: {error}"),
            retryable: false,
        }),
    };
    PublishDone {
        table,
        backfill: owner.backfill,
        items,
        outcome,
    }
}

fn is_passing(error: &lake::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict)
}
