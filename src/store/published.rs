//! What readers see of the committer's work: moved on after each flush, never before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    entity_type::{EntityType, EntityTypeState},
    error::Error,
    journal::Journal,
    marks::ImportMark,
    snapshots::{MAX_SNAPSHOT_BYTES, Snapshots},
};
use crate::{disk::Disk, telemetry::CommitMetrics};

/// What the committer publishes to readers.
#[derive(Debug)]
pub(super) struct Published {
    /// The system time of the last flushed commit.
    watermark: AtomicI64,
    /// The latest basis at which answers are stable: the watermark or the floor.
    stable: AtomicI64,
    pub(super) types: RwLock<BTreeMap<String, Arc<EntityType>>>,
    pub(super) first_known: RwLock<BTreeMap<String, i64>>,
    /// By type: who alone writes to it. Only the committer's thread writes this once there are clients.
    pub(super) owners: RwLock<BTreeMap<String, String>>,
    /// By type: its last commit since the store was opened.
    last_changed: RwLock<BTreeMap<String, i64>>,
    /// By type: how far its import has come.
    pub(super) imports: RwLock<BTreeMap<String, ImportMark>>,
    /// The last commit when the store was opened.
    opened_at: i64,
    /// What readers share. Whatever changes answers at bases that have passed must be forgotten there.
    pub(super) snapshots: Snapshots,
    /// The last flushed commit: its sequence, 0 before the first, and its system time.
    pub(super) last: watch::Sender<(u64, i64)>,
    pub(super) metrics: CommitMetrics,
    /// Where it is written to, if somebody watches that.
    pub(super) disk: OnceLock<Disk>,
}

impl Published {
    /// What a recovered journal holds. `floor` is durable.
    pub(super) fn new(
        journal: &Journal,
        floor: i64,
        types: BTreeMap<String, Arc<EntityType>>,
    ) -> Self {
        let watermark = journal.end.system_time.unwrap_or(floor);
        Self {
            watermark: AtomicI64::new(watermark),
            stable: AtomicI64::new(watermark.max(floor)),
            types: RwLock::new(types),
            first_known: RwLock::new(journal.first_known.clone()),
            owners: RwLock::default(),
            last_changed: RwLock::default(),
            imports: RwLock::new(journal.imports.clone()),
            snapshots: Snapshots::new(MAX_SNAPSHOT_BYTES),
            opened_at: watermark,
            last: watch::Sender::new((journal.end.sequence, watermark)),
            metrics: CommitMetrics::default(),
            disk: OnceLock::new(),
        }
    }

    /// Readers see what `journal` holds: it is flushed.
    pub(super) fn advance(
        &self,
        journal: &Journal,
        floor: i64,
        types: &BTreeMap<String, Arc<EntityType>>,
        erased_types: &BTreeSet<String>,
    ) {
        self.types.write().clone_from(types);
        self.first_known.write().clone_from(&journal.first_known);
        self.last_changed.write().clone_from(&journal.last_changed);
        self.imports.write().clone_from(&journal.imports);
        let watermark = journal.end.system_time.unwrap_or(self.watermark());
        // The watermark late, the commit last: whoever has seen them may read at them.
        self.stable.store(floor.max(watermark), Ordering::Release);
        self.watermark.store(watermark, Ordering::Release);
        self.last.send_replace((journal.end.sequence, watermark));
        for entity_type in erased_types {
            self.snapshots.forget(entity_type);
        }
    }

    pub(super) fn watermark(&self) -> i64 {
        self.watermark.load(Ordering::Acquire)
    }

    pub(super) fn stable(&self) -> i64 {
        self.stable.load(Ordering::Acquire)
    }

    /// Whether `writer` may claim the type; `true`: it has done so already.
    pub(super) fn check_claim(
        &self,
        entity_type: &EntityType,
        writer: &str,
        holds_something: bool,
    ) -> Result<bool, Error> {
        let name = || entity_type.name().to_owned();
        match self.owners.read().get(entity_type.name()) {
            Some(owner) if owner == writer => return Ok(true),
            Some(owner) => {
                return Err(Error::Owned {
                    name: name(),
                    writer: owner.clone(),
                });
            }
            None => {}
        }
        match entity_type.state() {
            EntityTypeState::Importing => Err(Error::Importing { name: name() }),
            EntityTypeState::Active if holds_something => Err(Error::NotEmpty { name: name() }),
            EntityTypeState::Active => Ok(false),
        }
    }

    /// A system time after which no commit up to the stable basis wrote to the type. Ask for the stable basis first.
    pub(super) fn last_changed(&self, entity_type: &str) -> i64 {
        let last_changed = self.last_changed.read();
        last_changed
            .get(entity_type)
            .copied()
            .unwrap_or(self.opened_at)
    }
}
