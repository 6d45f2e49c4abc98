//! The snapshots that are kept, for all who read the same type at the same basis.
//!
//! Two bases between which no commit touched the type have the same snapshot: it is kept under the type's last commit, so
//! that the partitions of a backfill share one, and go on sharing it while other types are written.
//!
//! Building one costs a pass over the type, reading pages costs something per row: so a snapshot is built once about as much
//! has been asked for as that pass is worth, and never costs more than twice what the better choice would have.
//!
//! **Memory**: [`MAX_SNAPSHOT_BYTES`] in all, those that are being built not counted; the ones longest unused go first.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{Result, Store, model::EntityType, snapshot::Snapshot};

/// The memory that kept snapshots may take, together.
pub(super) const MAX_SNAPSHOT_BYTES: usize = 256 << 20;
/// The fewest rows that are worth a snapshot.
const LEAST_ROWS: usize = 4_096;
/// Versions that a pass decodes in the time that looking up one row in its pages takes.
const VERSIONS_PER_ROW: usize = 8;
/// How many bases are remembered for which there is no snapshot yet.
const MAX_SLOTS: usize = 1_024;

/// The kept snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    max_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    slots: HashMap<Key, Slot>,
    /// By type: what its last snapshot held; [`usize::MAX`]: more than there is room for.
    version_counts: HashMap<String, usize>,
    /// By type: how often its snapshots were forgotten.
    forgotten: HashMap<String, u64>,
    uses: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    entity_type: String,
    /// Attributes are only ever added.
    attribute_count: usize,
    /// Of the type's last commit, or the one that is read at if that is earlier.
    basis: i64,
}

#[derive(Debug, Default)]
struct Slot {
    last_use: u64,
    asked_rows: usize,
    snapshot: Option<Arc<Snapshot>>,
    /// Held by the one who builds.
    building: Arc<Mutex<()>>,
}

/// What is asked of a snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) enum Demand {
    /// The states of so many rows.
    Rows(usize),
    /// A pass over the type.
    Scan,
}

enum Asked {
    Ready(Arc<Snapshot>),
    NotWorthIt,
    Build(Arc<Mutex<()>>),
}

impl Snapshots {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            held: Mutex::default(),
        }
    }

    /// The snapshot of a type at a basis, if it is there or is worth building now. At least these attributes are decoded.
    ///
    /// Whoever asks while it is being built waits for it.
    ///
    /// # Errors
    /// [`Error::Damaged`](super::Error::Damaged); storage faults.
    pub(super) fn get(
        &self,
        store: &Store,
        entity_type: &EntityType,
        basis: i64,
        attributes: &[usize],
        demand: Demand,
    ) -> Result<Option<Arc<Snapshot>>> {
        let key = Key {
            entity_type: entity_type.name().to_owned(),
            attribute_count: entity_type.attributes().len(),
            basis: basis.min(store.inner.published.last_changed(entity_type.name())),
        };
        let building = match self.held.lock().ask(&key, attributes, demand) {
            Asked::Ready(snapshot) => return Ok(Some(snapshot)),
            Asked::NotWorthIt => return Ok(None),
            Asked::Build(building) => building,
        };
        let building = building.lock();
        let (attributes, forgotten) = {
            let mut held = self.held.lock();
            if let Some(snapshot) = held.ready(&key, attributes) {
                return Ok(Some(snapshot));
            }
            (held.with_decoded(&key, attributes), held.forgotten(&key))
        };
        let built = Snapshot::build(store, entity_type, key.basis, &attributes, self.max_bytes)?;
        let kept = self.held.lock().keep(key, built, forgotten, self.max_bytes);
        drop(building);
        Ok(kept)
    }

    /// Memory that the kept ones take.
    pub(super) fn size_bytes(&self) -> usize {
        self.held.lock().size_bytes()
    }

    /// Forgets all that is decoded of a type: what its answers are at bases that have passed has changed.
    pub(super) fn forget(&self, entity_type: &str) {
        let mut held = self.held.lock();
        *held.forgotten.entry(entity_type.to_owned()).or_default() += 1;
        held.slots.retain(|key, _| key.entity_type != entity_type);
    }
}

impl Held {
    fn ask(&mut self, key: &Key, attributes: &[usize], demand: Demand) -> Asked {
        if let Some(snapshot) = self.ready(key, attributes) {
            return Asked::Ready(snapshot);
        }
        let versions = self.version_counts.get(&key.entity_type).copied();
        if versions == Some(usize::MAX) {
            return Asked::NotWorthIt;
        }
        let worth_rows = LEAST_ROWS.max(versions.unwrap_or(0) / VERSIONS_PER_ROW);
        self.make_room_for_slot(key);
        let slot = self.slots.entry(key.clone()).or_default();
        slot.last_use = self.uses;
        slot.asked_rows = slot.asked_rows.saturating_add(match demand {
            Demand::Rows(count) => count,
            // The second pass at the same basis is worth it.
            Demand::Scan => worth_rows / 2 + 1,
        });
        if slot.asked_rows < worth_rows {
            return Asked::NotWorthIt;
        }
        Asked::Build(Arc::clone(&slot.building))
    }

    fn ready(&mut self, key: &Key, attributes: &[usize]) -> Option<Arc<Snapshot>> {
        self.uses += 1;
        let slot = self.slots.get_mut(key)?;
        slot.last_use = self.uses;
        let snapshot = slot.snapshot.as_ref()?;
        snapshot.has(attributes).then(|| Arc::clone(snapshot))
    }

    /// These attributes and those that the kept snapshot has, ascending: the next one serves both.
    fn with_decoded(&self, key: &Key, attributes: &[usize]) -> Vec<usize> {
        let kept = self.slots.get(key).and_then(|slot| slot.snapshot.as_ref());
        let mut all: Vec<_> = kept.iter().flat_map(|kept| kept.attributes()).collect();
        all.extend_from_slice(attributes);
        all.sort_unstable();
        all.dedup();
        all
    }

    fn forgotten(&self, key: &Key) -> u64 {
        let forgotten = self.forgotten.get(&key.entity_type);
        forgotten.copied().unwrap_or(0)
    }

    /// Keeps what was built, unless its type has been forgotten since. Answers it if it may be used.
    fn keep(
        &mut self,
        key: Key,
        built: Option<Snapshot>,
        forgotten: u64,
        max_bytes: usize,
    ) -> Option<Arc<Snapshot>> {
        if self.forgotten(&key) != forgotten {
            return None;
        }
        let Some(snapshot) = built.map(Arc::new) else {
            self.version_counts.insert(key.entity_type, usize::MAX);
            return None;
        };
        self.version_counts
            .insert(key.entity_type.clone(), snapshot.version_count());
        let slot = self.slots.entry(key.clone()).or_default();
        slot.last_use = self.uses;
        slot.snapshot = Some(Arc::clone(&snapshot));
        self.evict(&key, max_bytes);
        Some(snapshot)
    }

    fn size_bytes(&self) -> usize {
        let kept = self
            .slots
            .values()
            .filter_map(|slot| slot.snapshot.as_ref());
        kept.map(|snapshot| snapshot.size_bytes()).sum()
    }

    /// Drops the snapshots that have not been used for longest until the rest fits, never the one of `key`.
    fn evict(&mut self, key: &Key, max_bytes: usize) {
        loop {
            let held = self.slots.iter().filter_map(|(key, slot)| {
                let snapshot = slot.snapshot.as_ref()?;
                Some((key, slot.last_use, snapshot.size_bytes()))
            });
            let size_bytes: usize = held.clone().map(|(_, _, size_bytes)| size_bytes).sum();
            if size_bytes <= max_bytes {
                return;
            }
            let oldest = held
                .filter(|(other, _, _)| *other != key)
                .min_by_key(|(_, last_use, _)| *last_use)
                .map(|(other, _, _)| other.clone());
            match oldest {
                Some(oldest) => self.slots.remove(&oldest),
                None => return,
            };
        }
    }

    fn make_room_for_slot(&mut self, key: &Key) {
        if self.slots.len() < MAX_SLOTS || self.slots.contains_key(key) {
            return;
        }
        let oldest = self.slots.iter().min_by_key(|(_, slot)| slot.last_use);
        if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
            self.slots.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(basis: i64) -> Key {
        Key {
            entity_type: "thing".to_owned(),
            attribute_count: 0,
            basis,
        }
    }

    fn is_ready(held: &mut Held, basis: i64) -> bool {
        held.ready(&key(basis), &[]).is_some()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut held = Held::default();
        for basis in 0..3 {
            held.keep(key(basis), Some(Snapshot::sized(40)), 0, 100);
            assert!(is_ready(&mut held, 0), "used again and again");
        }
        assert!(!is_ready(&mut held, 1));
        assert!(is_ready(&mut held, 2));
        held.keep(key(3), Some(Snapshot::sized(100)), 0, 100);
        assert!(is_ready(&mut held, 3) && !is_ready(&mut held, 0));
    }

    #[test]
    fn a_snapshot_is_built_once_enough_was_asked_for() {
        let mut held = Held::default();
        let worth = |held: &mut Held, basis, demand| {
            matches!(held.ask(&key(basis), &[], demand), Asked::Build(_))
        };
        assert!(!worth(&mut held, 0, Demand::Rows(LEAST_ROWS - 1)));
        assert!(worth(&mut held, 0, Demand::Rows(1)));
        assert!(!worth(&mut held, 1, Demand::Scan));
        assert!(worth(&mut held, 1, Demand::Scan));
        held.version_counts
            .insert("thing".to_owned(), 80 * LEAST_ROWS);
        assert!(!worth(&mut held, 2, Demand::Rows(9 * LEAST_ROWS)));
        assert!(worth(&mut held, 2, Demand::Rows(LEAST_ROWS)));
        held.keep(key(2), None, 0, 100);
        assert!(
            !worth(&mut held, 2, Demand::Rows(usize::MAX)),
            "it has no room"
        );
    }

    #[test]
    fn what_was_forgotten_while_it_was_built_is_not_kept() {
        let snapshots = Snapshots::new(100);
        snapshots
            .held
            .lock()
            .keep(key(0), Some(Snapshot::sized(1)), 0, 100);
        snapshots.forget("thing");
        let mut held = snapshots.held.lock();
        assert!(!is_ready(&mut held, 0));
        assert!(
            held.keep(key(0), Some(Snapshot::sized(1)), 0, 100)
                .is_none()
        );
        assert!(!is_ready(&mut held, 0));
        assert!(
            held.keep(key(0), Some(Snapshot::sized(1)), 1, 100)
                .is_some()
        );
    }

    #[test]
    fn bases_without_a_snapshot_are_bounded_too() {
        let mut held = Held::default();
        for basis in 0..3 * MAX_SLOTS as i64 {
            assert!(matches!(
                held.ask(&key(basis), &[], Demand::Rows(1)),
                Asked::NotWorthIt
            ));
        }
        assert_eq!(held.slots.len(), MAX_SLOTS);
    }
}
