//! Pages that reads come by again and again, checked once: what lies between the head of an entity with much history and the
//! version that is looked for. An entity whose history fits into its head has nothing here.
//!
//! **Fresh.** A page is put here by the reader that loads it, into a place that it reserved before it looked at the disk. The
//! committer first writes the page and then empties its place, reserved or filled, before any reader can be at its commit's
//! basis: what was loaded before the write and comes after it finds its place gone.
//!
//! **Cost**: a hash and a lock of one shard per page. Bounded in bytes, keys and bookkeeping included; a page is forgotten in
//! favour of those that are used more often, so that going through all pages of an entity does not drive out what others need.

use std::{hash::Hash, sync::Arc};

use quick_cache::{
    Equivalent, Weighter,
    sync::{Cache, GuardResult},
};

use super::{error::Error, page_codec::PageId, page_view::PageView};

/// What an entry takes beside its key's and its page's bytes.
const ENTRY_BYTES: usize = 160;
/// The part of the bytes, as a divisor, that lists of roots may take.
const ROOTS_PART: u64 = 8;
/// Bytes of a page, roughly: how many entries to expect.
const TYPICAL_BYTES: u64 = 2048;

/// Pages and lists of earlier roots, by entity.
#[derive(Debug)]
pub(super) struct PageCache {
    pages: Cache<Key, PageView, Bytes>,
    /// When an entity's earlier roots were made, in order.
    roots: Cache<Vec<u8>, Arc<[i64]>, Bytes>,
}

/// A page of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The root that was made at this system time, and is one no more.
    EarlierRoot(i64),
    /// One that is no root.
    Below(PageId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    entity: Box<[u8]>,
    place: Place,
}

impl Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        KeyRef::of(&self.entity, self.place).hash(state);
    }
}

/// A [`Key`] whose entity lies elsewhere.
#[derive(Hash)]
struct KeyRef<'a> {
    entity: &'a [u8],
    place: Place,
}

impl<'a> KeyRef<'a> {
    fn of(entity: &'a [u8], place: Place) -> Self {
        Self { entity, place }
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.place == key.place && *self.entity == *key.entity
    }
}

/// Weighs entries in bytes.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Key, PageView> for Bytes {
    fn weight(&self, key: &Key, page: &PageView) -> u64 {
        (ENTRY_BYTES + key.entity.len() + page.stored_bytes()) as u64
    }
}

impl Weighter<Vec<u8>, Arc<[i64]>> for Bytes {
    fn weight(&self, entity: &Vec<u8>, roots: &Arc<[i64]>) -> u64 {
        (ENTRY_BYTES + entity.len() + size_of_val(&**roots)) as u64
    }
}

impl PageCache {
    /// An empty one that holds at most so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let for_roots = bytes / ROOTS_PART;
        let for_pages = bytes - for_roots;
        let entries = |bytes: u64| usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX);
        Self {
            pages: Cache::with_weighter(entries(for_pages), for_pages, Bytes),
            roots: Cache::with_weighter(entries(for_roots), for_roots, Bytes),
        }
    }

    /// The page; `load` reads it if it is not here.
    #[inline]
    pub(super) fn page(
        &self,
        entity: &[u8],
        place: Place,
        load: impl FnOnce() -> Result<PageView, Error>,
    ) -> Result<PageView, Error> {
        if let Some(page) = self.pages.get(&KeyRef::of(entity, place)) {
            return Ok(page);
        }
        let key = Key {
            entity: entity.into(),
            place,
        };
        loaded(self.pages.get_value_or_guard(&key, None), load)
    }

    /// When the entity's earlier roots were made, in order; `load` reads them if they are not here.
    pub(super) fn roots(
        &self,
        entity: &[u8],
        load: impl FnOnce() -> Result<Arc<[i64]>, Error>,
    ) -> Result<Arc<[i64]>, Error> {
        if let Some(roots) = self.roots.get(entity) {
            return Ok(roots);
        }
        loaded(self.roots.get_value_or_guard(entity, None), load)
    }

    /// A page was written or removed. By the committer alone, after it is done.
    pub(super) fn forget(&self, entity: &[u8], place: Place) {
        self.pages.remove(&KeyRef::of(entity, place));
    }

    /// The entity's root that was made at `since` is one no more, and lies with the earlier ones. By the committer alone, after
    /// it was written.
    pub(super) fn archived(&self, entity: &[u8], since: i64) {
        self.forget(entity, Place::EarlierRoot(since));
        let known = self.roots.peek(entity);
        match known.filter(|roots| roots.last().is_none_or(|last| *last < since)) {
            Some(roots) => {
                let longer = roots.iter().copied().chain([since]).collect();
                self.roots.insert(entity.into(), longer);
            }
            // Archived once more by a replay, or not here: reserved, perhaps.
            None => drop(self.roots.remove(entity)),
        }
    }

    /// Pages of an entity were removed. By the committer alone, after it is done. Rare: nothing is kept of any entity.
    pub(super) fn forget_all(&self) {
        self.pages.clear();
        self.roots.clear();
    }
}

/// What was found, or what `load` reads: kept, unless its place was emptied meanwhile.
fn loaded<K, V, We, B, L>(
    found: GuardResult<'_, K, V, We, B, L>,
    load: impl FnOnce() -> Result<V, Error>,
) -> Result<V, Error>
where
    K: Eq + Hash,
    V: Clone,
    We: Weighter<K, V>,
    B: std::hash::BuildHasher,
    L: quick_cache::Lifecycle<K, V>,
{
    match found {
        GuardResult::Value(value) => Ok(value),
        GuardResult::Guard(place) => {
            let value = load()?;
            // A place that is gone was emptied by a commit that readers at this basis need not know of.
            let _ = place.insert(value.clone());
            Ok(value)
        }
        // Never asked for.
        GuardResult::Timeout => load(),
    }
}
