//! Asking which published partitions are stale.

use super::*;
use crate::backfill::stale::{Scope, StalePage, StaleQuery};

impl Handle {
    /// The stale partitions among those that a transform's backfills published, by start.
    ///
    /// **Cost**: for each page the partitions of all backfills of the table and a read for each published one; a listing of
    /// the sources that they read; and the commit log since the oldest basis that one of them read. Of entities, only those
    /// that were written to since, where a partition looked.
    ///
    /// # Errors
    /// A transform or revision that does not exist; a basis after the latest; a source that cannot be listed; storage faults.
    pub async fn list_stale(&self, query: StaleQuery) -> Result<StalePage> {
        let planner = &self.shared.planner;
        let transform = planner
            .catalog
            .transform(&query.transform, query.revision)?;
        let basis = planner.store.pin(query.basis).await?;
        let scope = Scope {
            transform,
            range: query.range,
            after: query.after,
            latest: basis,
        };
        let finder = planner.finder.clone();
        let found = blocking(move || finder.find(&scope)).await?;
        let published_count = found.partitions.len() as u64;
        let mut stale = found
            .partitions
            .iter()
            .filter(|finding| !finding.reasons.is_empty());
        let partitions = stale
            .by_ref()
            .take(query.limit)
            .map(|finding| finding.to_stale())
            .collect();
        Ok(StalePage {
            partitions,
            more: stale.next().is_some(),
            basis,
            published_count,
            commit_count: found.commit_count,
            comparison_count: found.comparison_count,
        })
    }
}
