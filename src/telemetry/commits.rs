//! What the store's committer records.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    instrument::{Histogram, Sheet},
    metrics::Collect,
};

/// Commits and the syncs that make them durable. Cheap to clone: clones count together.
#[derive(Debug, Clone)]
pub struct CommitMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mutations: Histogram,
    bytes: Histogram,
    syncs: Histogram,
    versions: AtomicU64,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                mutations: Histogram::counts(),
                bytes: Histogram::sizes(),
                syncs: Histogram::durations(),
                versions: AtomicU64::new(0),
            }),
        }
    }
}

impl CommitMetrics {
    /// A commit was written, not yet synced: of so many mutations, which made so many versions, in a log record of so many
    /// bytes.
    pub fn committed(&self, mutation_count: usize, versions_written: u64, record_bytes: usize) {
        self.inner.mutations.record(mutation_count as u64);
        self.inner.bytes.record(record_bytes as u64);
        self.inner
            .versions
            .fetch_add(versions_written, Ordering::Relaxed);
    }

    /// What was written since the last sync was put on disk, between these monotonic times.
    pub fn synced(&self, start_micros: i64, end_micros: i64) {
        self.inner.syncs.record_span(start_micros, end_micros);
    }
}

impl Collect for CommitMetrics {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Inner {
            mutations,
            bytes,
            syncs,
            versions,
        } = self.inner.as_ref();
        sheet.histogram(
            "hindcast_store_commit_mutations",
            "Mutations of one commit.",
            mutations,
        )?;
        sheet.histogram(
            "hindcast_store_commit_bytes",
            "Bytes of one commit's log record.",
            bytes,
        )?;
        sheet.histogram(
            "hindcast_store_sync_duration_seconds",
            "Time that one flush to disk took; it serves all commits that wait.",
            syncs,
        )?;
        sheet.counter(
            "hindcast_store_versions_written",
            "Versions that commits have written.",
            versions.load(Ordering::Relaxed),
        )
    }
}
