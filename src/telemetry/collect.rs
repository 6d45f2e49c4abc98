//! What the parts of a server say of themselves when they are asked.

use std::{collections::BTreeMap, fmt};

use super::{instrument::Sheet, metrics::Collect};
use crate::{
    backfill::{BackfillState, Handle, PartitionState},
    engine::Embedded,
    kv::Database,
    store::Store,
};

/// The store's pages, its cache and its size.
#[derive(Debug)]
pub struct StoreCollector {
    /// The open store.
    pub store: Store,
    /// What it stands on.
    pub database: Database,
}

impl Collect for StoreCollector {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let stats = self.store.page_stats();
        sheet.counter(
            "hindcast_store_point_reads",
            "Point reads of entities.",
            stats.reads,
        )?;
        sheet.counter(
            "hindcast_store_pages_read",
            "Pages that point reads have touched.",
            stats.pages,
        )?;
        sheet.gauge(
            "hindcast_store_snapshot_cache_bytes",
            "Memory that decoded snapshots of entity types take.",
            self.store.snapshot_cache_bytes() as u64,
        )?;
        sheet.gauge(
            "hindcast_store_entity_types",
            "Entity types that are declared.",
            self.store.entity_type_count() as u64,
        )?;
        let latest_seconds = self.store.latest_basis().micros() as f64 / 1e6;
        sheet.gauge(
            "hindcast_store_latest_basis_seconds",
            "System time of the last durable commit, in seconds since the Unix epoch.",
            latest_seconds,
        )?;
        // A fault of the engine is told where it is met; here it is one value less.
        if let Ok(size_bytes) = self.database.size_on_disk_bytes() {
            sheet.gauge(
                "hindcast_store_size_bytes",
                "Bytes of the database's files.",
                size_bytes,
            )?;
        }
        Ok(())
    }
}

/// The memory and disk that queries use.
#[derive(Debug)]
pub struct EngineCollector(pub Embedded);

impl Collect for EngineCollector {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let usage = self.0.usage();
        sheet.gauge(
            "hindcast_engine_memory_bytes",
            "Working memory that running queries have reserved.",
            usage.memory_bytes,
        )?;
        sheet.gauge(
            "hindcast_engine_spilled_bytes",
            "Bytes on disk that running queries have spilled.",
            usage.spilled_bytes,
        )
    }
}

/// How many backfills and partitions are in which state. **Cost**: a look at every backfill.
impl Collect for Handle {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let mut backfills = BackfillState::ALL.map(|state| (state, 0u64));
        let mut partitions: BTreeMap<_, u64> = PartitionState::ALL.map(|state| (state, 0)).into();
        self.list(None, usize::MAX, |_, state| {
            for (_, count) in backfills.iter_mut().filter(|(of, _)| *of == state.state) {
                *count += 1;
            }
            if !state.state.is_terminal() {
                for (of, count) in state.counts() {
                    *partitions.entry(*of).or_default() += u64::from(*count);
                }
            }
            None::<()>
        });
        sheet.gauges(
            "hindcast_backfills",
            "Backfills by state, those that ended included.",
            backfills.map(|(state, count)| (vec![("state", state.name())], count)),
        )?;
        sheet.gauges(
            "hindcast_partitions",
            "Partitions by state, of backfills that have not ended.",
            partitions
                .into_iter()
                .map(|(state, count)| (vec![("state", state.name())], count)),
        )
    }
}
