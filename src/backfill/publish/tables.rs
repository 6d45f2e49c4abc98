//! Publishing partitions to a table: all that are ready in one commit.

use std::collections::HashMap;

use super::{Owner, PublishFailure, PublishItem, Published, ended, failure, misdirected};
use crate::{
    backfill::{
        Result,
        blocking::blocking,
        decide::PublishedAttempt,
        model::{Receipt, Record},
    },
    catalog::{ColumnDef, Transform},
    engine::{self, StagedOutput},
    lake::{Commit, Lake, PublishedPartition},
};

/// Publishes partitions that are ready. Blocks.
pub(super) fn publish(
    lake: &Lake,
    table: &str,
    owner: &Owner,
    items: Vec<PublishItem>,
) -> Vec<Published> {
    let mut told = Vec::new();
    let mut partitions = Vec::new();
    let mut stray = false;
    for item in items {
        let (it, staged) = item.split();
        match staged {
            StagedOutput::Files(staged) => partitions.push(PublishedPartition {
                staged,
                attempt: it.attempt,
                rows_read: it.rows_read,
            }),
            StagedOutput::Rows(_) => stray = true,
        }
        told.push(it);
    }
    let outcome = if stray {
        Err(failure(&misdirected()))
    } else {
        commit(lake, table, owner, partitions)
    };
    told.into_iter()
        .map(|it| ended(it, outcome.clone()))
        .collect()
}

fn commit(
    lake: &Lake,
    table: &str,
    owner: &Owner,
    partitions: Vec<PublishedPartition>,
) -> std::result::Result<Receipt, PublishFailure> {
    let commit = Commit {
        backfill: owner.backfill.clone(),
        revision: owner.revision,
        partitions,
    };
    match lake.commit(table, &commit) {
        Ok(published) => Ok(Receipt::Snapshot(published.snapshot_id)),
        Err(error) => Err(failure(&error.into())),
    }
}

/// The attempts of a backfill that its table holds.
pub(super) async fn published_attempts(
    lake: &Lake,
    table: &str,
    record: &Record,
) -> Result<Vec<PublishedAttempt>> {
    let lake = lake.clone();
    let table = table.to_owned();
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
                receipt: Receipt::Snapshot(found.snapshot_id),
            })
        })
        .collect())
}

/// Makes the transform's table, or adds the columns that it lacks. Blocks.
pub(super) fn ensure_table(lake: &Lake, table: &str, transform: &Transform) -> Result<()> {
    let columns = ColumnDef::to_schema(&transform.columns)
        .map_err(|cause| engine::Error::Broken { cause })?;
    lake.ensure_table(table, &columns, &transform.spec.name)?;
    Ok(())
}
