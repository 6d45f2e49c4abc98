//! Which partitions would see another answer of an entity, from the commit log.
//!
//! The log says which entities were written to since the oldest basis, and where in valid time. Only those that were written
//! to where an undecided partition looked are read: their answers at the basis that was read and at the one that would be
//! read now are compared, so what changed back, or was said again, makes nothing stale.
//!
//! **Cost**: the log's records since the oldest basis, one after the other; then two reads for each entity written to within
//! reach, for each basis among the partitions that it may concern. Nothing of entities that were not written to.
//! **Memory**: [`CHUNK`] writes at a time.

use std::{collections::BTreeMap, sync::Arc};

use super::{Differs, StaleReason};
use crate::{
    backfill::Result,
    engine::{EVERY_ATTRIBUTE, EntityRead, Sight},
    store::{
        ComparedColumns, Comparison, Difference, EntityType, Store, WrittenEntry, WrittenWhat,
    },
    time::{Interval, SysTime, ValidTime},
};

/// Writes that are gathered before their entities are read.
const CHUNK: usize = 1 << 16;
/// Commits that are tried to tell when a difference was learned.
const LEARNED_TRIES: usize = 16;

/// A published partition, as far as it looked at entities.
#[derive(Debug)]
pub(super) struct Look<'a> {
    /// The basis that it read.
    pub(super) basis: SysTime,
    /// The basis that it would read now. `None`: the same again.
    pub(super) target: Option<SysTime>,
    /// The latest basis when it ran.
    pub(super) started_at: SysTime,
    /// What it looked at.
    pub(super) reads: &'a [EntityRead],
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// As the looks.
    pub(super) reasons: Vec<Option<StaleReason>>,
    pub(super) commit_count: u64,
    pub(super) comparison_count: u64,
}

/// Goes through the log up to basis `latest`.
pub(super) fn find(store: &Store, looks: &[Look<'_>], latest: SysTime) -> Result<Found> {
    let mut search = Search::new(store, looks, latest)?;
    let Some(from) = search.from() else {
        return Ok(search.found);
    };
    let types = search.types.keys().cloned().collect();
    let mut touched = Touched::default();
    for written in store.written(from, latest, types)? {
        let written = written?;
        search.found.commit_count += 1;
        for entry in written.entries {
            search.take(written.system_time, entry, &mut touched);
        }
        if touched.count >= CHUNK {
            search.settle(std::mem::take(&mut touched))?;
        }
        if search.undecided == 0 {
            break;
        }
    }
    search.settle(touched)?;
    Ok(search.found)
}

/// What was written to, by type and id: when and where.
#[derive(Debug, Default)]
struct Touched {
    entities: BTreeMap<(String, String), Vec<Touch>>,
    count: usize,
}

#[derive(Debug, Clone, Copy)]
struct Touch {
    at: SysTime,
    valid: Interval<ValidTime>,
}

/// One look at an entity type, ready to be compared.
#[derive(Debug)]
struct Watch<'a> {
    /// The place of its partition.
    look: usize,
    read: &'a EntityRead,
    /// The basis that it was read at.
    basis: SysTime,
    /// The basis that it would be read at now; `None`: the same.
    target: Option<SysTime>,
    reach: Interval<ValidTime>,
    columns: ComparedColumns,
}

/// All looks at one entity type.
#[derive(Debug)]
struct TypeWatches<'a> {
    entity_type: Arc<EntityType>,
    watches: Vec<Watch<'a>>,
    /// What those with a target reach, disjoint and ascending.
    reach: Vec<Interval<ValidTime>>,
    /// The oldest basis of those.
    oldest: Option<SysTime>,
}

struct Search<'a> {
    store: &'a Store,
    looks: &'a [Look<'a>],
    types: BTreeMap<String, TypeWatches<'a>>,
    /// Looks at entities for which no reason was found.
    undecided: usize,
    found: Found,
}

impl<'a> Search<'a> {
    fn new(store: &'a Store, looks: &'a [Look<'a>], latest: SysTime) -> Result<Self> {
        let mut types: BTreeMap<String, TypeWatches<'a>> = BTreeMap::new();
        for (look, its) in looks.iter().enumerate() {
            for read in its.reads {
                if !types.contains_key(&read.entity_type) {
                    let watches = TypeWatches {
                        entity_type: store.entity_type(&read.entity_type)?,
                        watches: Vec::new(),
                        reach: Vec::new(),
                        oldest: None,
                    };
                    types.insert(read.entity_type.clone(), watches);
                }
                if let Some(watches) = types.get_mut(&read.entity_type) {
                    watches.add(look, its, read, latest);
                }
            }
        }
        for watches in types.values_mut() {
            watches.reach = united(std::mem::take(&mut watches.reach));
        }
        Ok(Self {
            store,
            looks,
            types,
            undecided: looks.iter().filter(|look| !look.reads.is_empty()).count(),
            found: Found {
                reasons: vec![None; looks.len()],
                ..Found::default()
            },
        })
    }

    /// Commits up to this basis matter to nobody. `None`: nobody looked at entities.
    fn from(&self) -> Option<SysTime> {
        let looks = self.looks.iter().filter(|look| !look.reads.is_empty());
        looks
            .map(|look| match look.target {
                Some(_) => look.basis.min(look.started_at),
                None => look.started_at,
            })
            .min()
    }

    /// Takes a write in: decides at once what an erasure decides, keeps what has to be compared.
    fn take(&mut self, at: SysTime, entry: WrittenEntry, touched: &mut Touched) {
        let Some(watches) = self.types.get(&entry.entity_type) else {
            return;
        };
        match entry.what {
            WrittenWhat::Erased { known_from } => {
                if let Some(known_from) = known_from {
                    self.erased(at, known_from, &entry);
                }
            }
            WrittenWhat::Said(valid) => {
                if watches.oldest.is_some_and(|oldest| oldest < at)
                    && overlaps_any(&watches.reach, &valid)
                {
                    let key = (entry.entity_type, entry.entity_id);
                    let touches = touched.entities.entry(key).or_default();
                    touches.push(Touch { at, valid });
                    touched.count += 1;
                }
            }
        }
    }

    /// What the entity was is gone at every basis: whoever may have seen it is stale.
    fn erased(&mut self, at: SysTime, known_from: SysTime, entry: &WrittenEntry) {
        let Some(watches) = self.types.get(&entry.entity_type) else {
            return;
        };
        for watch in &watches.watches {
            let look = &self.looks[watch.look];
            let saw_it = look.started_at < at
                && known_from <= watch.basis
                && watch.read.is_of(&entry.entity_id);
            if saw_it && self.found.reasons[watch.look].is_none() {
                self.undecided -= 1;
                self.found.reasons[watch.look] = Some(StaleReason::Entity {
                    entity_type: entry.entity_type.clone(),
                    entity_id: entry.entity_id.clone(),
                    differs: Differs::Erased,
                    valid_time: None,
                    learned_at: at,
                });
            }
        }
    }

    /// Compares what was written to.
    fn settle(&mut self, touched: Touched) -> Result<()> {
        for ((entity_type, entity_id), touches) in touched.entities {
            if self.undecided == 0 {
                return Ok(());
            }
            self.settle_entity(&entity_type, &entity_id, &touches)?;
        }
        Ok(())
    }

    fn settle_entity(&mut self, type_name: &str, id: &str, touches: &[Touch]) -> Result<()> {
        let Some(watches) = self.types.get(type_name) else {
            return Ok(());
        };
        // One comparison serves all who read the same basis.
        let mut concerned: BTreeMap<(SysTime, SysTime), Vec<&Watch<'_>>> = BTreeMap::new();
        for watch in &watches.watches {
            let Some(target) = watch.target else {
                continue;
            };
            let is_touched =
                |touch: &Touch| touch.at > watch.basis && touch.valid.overlaps(&watch.reach);
            if self.found.reasons[watch.look].is_none()
                && touches.iter().any(is_touched)
                && watch.read.is_of(id)
            {
                let bases = (watch.basis, target);
                concerned.entry(bases).or_default().push(watch);
            }
        }
        for ((basis, target), concerned) in concerned {
            let entity = Entity {
                store: self.store,
                entity_type: &watches.entity_type,
                id,
                basis,
                touches,
            };
            let comparison = entity.compare(hull(&concerned), target)?;
            self.found.comparison_count += 1;
            if comparison.is_equal() {
                continue;
            }
            for watch in concerned {
                if self.found.reasons[watch.look].is_some() {
                    continue;
                }
                if let Some(difference) = watch.difference(&comparison) {
                    let learned_at = entity.learned_at(watch, &difference)?;
                    self.undecided -= 1;
                    self.found.reasons[watch.look] = Some(StaleReason::Entity {
                        entity_type: type_name.to_owned(),
                        entity_id: id.to_owned(),
                        differs: difference
                            .column
                            .map_or(Differs::Existence, Differs::Column),
                        valid_time: Some(difference.valid_time),
                        learned_at,
                    });
                }
            }
        }
        Ok(())
    }
}

impl<'a> TypeWatches<'a> {
    fn add(&mut self, look: usize, its: &Look<'_>, read: &'a EntityRead, latest: SysTime) {
        let (basis, target) = match read.basis {
            None => (its.basis, its.target),
            Some(basis) => (basis, Some(latest)),
        };
        let attributes = self.entity_type.attributes();
        let all = || (0..attributes.len()).collect();
        let place = |name: &String| attributes.iter().position(|it| it.name == *name);
        let named: Option<Vec<usize>> = read.attributes.iter().map(place).collect();
        let reads_all = read.attributes.iter().any(|name| name == EVERY_ATTRIBUTE);
        let watch = Watch {
            look,
            read,
            basis,
            target,
            reach: read.reach(),
            columns: ComparedColumns {
                attributes: named.filter(|_| !reads_all).unwrap_or_else(all),
                valid_from: read.valid_from,
                valid_to: read.valid_to,
            },
        };
        if target.is_some() {
            self.reach.push(watch.reach);
            self.oldest = Some(self.oldest.map_or(basis, |it| it.min(basis)));
        }
        self.watches.push(watch);
    }
}

impl Watch<'_> {
    fn difference(&self, comparison: &Comparison) -> Option<Difference> {
        match self.read.sight {
            Sight::State(instant) => {
                let instant = Interval::new(instant, instant.saturating_add_micros(1));
                comparison.states(instant, &self.columns)
            }
            Sight::States(range) => comparison.states(range, &self.columns),
            Sight::Versions(window) => comparison.versions(window, &self.columns),
        }
    }
}

/// An entity that was written to after a basis.
struct Entity<'a> {
    store: &'a Store,
    entity_type: &'a Arc<EntityType>,
    id: &'a str,
    basis: SysTime,
    touches: &'a [Touch],
}

impl Entity<'_> {
    fn compare(&self, within: Interval<ValidTime>, target: SysTime) -> Result<Comparison> {
        let compared = self
            .store
            .compare(self.entity_type, self.id, within, self.basis, target);
        Ok(compared?)
    }

    /// The first commit that made `watch` see a difference where `difference` is; the last one that wrote there if that takes
    /// too long to tell.
    fn learned_at(&self, watch: &Watch<'_>, difference: &Difference) -> Result<SysTime> {
        let mut after: Vec<_> = self
            .touches
            .iter()
            .filter(|touch| touch.at > self.basis)
            .collect();
        let wrote_there = |touch: &Touch| touch.valid.contains(difference.valid_time);
        if after.iter().any(|touch| wrote_there(touch)) {
            after.retain(|touch| wrote_there(touch));
        }
        if let [only] = after.as_slice() {
            return Ok(only.at);
        }
        for touch in after.iter().take(LEARNED_TRIES) {
            if self.differed_at(touch.at, watch, difference)? {
                return Ok(touch.at);
            }
        }
        let last = after.last().map(|touch| touch.at);
        Ok(difference.since.or(last).unwrap_or(self.basis))
    }

    fn differed_at(&self, at: SysTime, watch: &Watch<'_>, found: &Difference) -> Result<bool> {
        let is_of_states = !matches!(watch.read.sight, Sight::Versions(_));
        if is_of_states && !watch.columns.valid_from {
            let to = found.valid_time.saturating_add_micros(1);
            let point = Interval::new(found.valid_time, to);
            let compared = self.compare(point, at)?;
            return Ok(compared.states(point, &watch.columns).is_some());
        }
        let compared = self.compare(watch.reach, at)?;
        Ok(watch.difference(&compared).is_some())
    }
}

/// From the first to the last point that any of them reaches.
fn hull(watches: &[&Watch<'_>]) -> Interval<ValidTime> {
    let reach = |watch: &&Watch<'_>| watch.reach;
    let from = watches.iter().map(|it| reach(it).from).min();
    let ends: Option<Vec<_>> = watches.iter().map(|it| reach(it).to).collect();
    Interval {
        from: from.unwrap_or(ValidTime::MIN),
        to: ends.and_then(|ends| ends.into_iter().max()),
    }
}

/// The points of any of them, as disjoint intervals in order.
fn united(mut intervals: Vec<Interval<ValidTime>>) -> Vec<Interval<ValidTime>> {
    intervals.sort_by_key(|interval| interval.from);
    let mut united: Vec<Interval<ValidTime>> = Vec::new();
    for interval in intervals {
        match united.last_mut() {
            Some(last) if last.to.is_none_or(|to| interval.from <= to) => {
                last.to = match (last.to, interval.to) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    (None, _) | (_, None) => None,
                };
            }
            _ => united.push(interval),
        }
    }
    united
}

fn overlaps_any(united: &[Interval<ValidTime>], interval: &Interval<ValidTime>) -> bool {
    let first = united.partition_point(|it| it.to.is_some_and(|to| to <= interval.from));
    united.get(first).is_some_and(|it| it.overlaps(interval))
}
