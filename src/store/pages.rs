//! Pages on disk: where an entity's pages lie, and why readers need no lock.
//!
//! The root of an entity's tree lies in `heads`; for the ordinary entity it is a leaf, and all there is. Roots before it lie
//! in `roots`, other pages in `pages`, long rows in `rows`; see `tree` for how they grow.
//!
//! **Order.** A commit writes rows first, then the pages it made or changed, children before parents, then the old root into
//! `roots` if it has died, then the head. What is removed goes after the head: all of an erased entity, and pages that
//! commits of one system time made and buried.
//!
//! **Readers** at a served basis take no lock, whatever the committer is doing:
//! - A page is one value: it is seen as it was before a commit or after.
//! - A change in place adds versions or entries from a later system time and ends others at one: a reader at a served basis
//!   sees the same in both states.
//! - A page that died stays as it was, and its parent (old or new) still names it for bases before its death. If there are
//!   none, it is removed: only in an import, which is not read before it is finished.
//! - A head that a reader has read, new or old, names only pages that were written before it. If the basis lies before the
//!   head's `since`, the root for it was archived before that head was written.
//! - An erasure takes pages away from under readers that have an older head: one that misses a page looks at the head again.
//!
//! **After a crash** the engine gives back the writes up to some point, in order, and the log is applied again. Pages carry
//! the last commit that changed them (`applied_sequence`). Take a commit whose writes were cut off.
//! - A page that died, or that the commit replaced while working, was not written: replay finds it as the commit did.
//! - A page that was written in place survived the commit, so it was never unsound and never pooled in it. Replay leaves it
//!   and all below it alone: children were written before. What happens to other pages does not depend on it.
//! - So replay makes the same pages again, under the same keys (level, `since`, sequence, start), with the same bytes.
//! - If the head was written, so was everything; if the head did not change, its place in this order is the end.
//! - If any write of a later commit is there, this commit is whole: each page that it changed has its sequence or a later
//!   one, and where it changed nothing, it changes nothing again.
//! - A page that was to be removed may still lie there when its parent forgot it already. Nothing comes to it again; replay
//!   ends with looking for such pages (see [`path::unreached`]).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    codec::Malformed,
    error::Error,
    keys,
    page::RowHash,
    page_cache::{PageCache, Place},
    page_codec::{self, PageId},
    page_view::PageView,
    path,
};
use crate::kv::{self, Database, Keyspace, Slice};

/// An entity's head.
#[derive(Debug, Clone)]
pub(super) enum Head {
    /// Nothing was ever said about the entity.
    Absent,
    /// The root of its tree.
    Root(PageView),
}

impl Head {
    /// When the root was made.
    pub(super) fn since(&self) -> Option<i64> {
        match self {
            Self::Absent => None,
            Self::Root(root) => Some(root.header.since),
        }
    }

    /// Whether every answer at `basis` is that the entity was erased.
    pub(super) fn is_erased_at(&self, basis: i64) -> bool {
        match self {
            Self::Absent => false,
            Self::Root(root) => root.header.erased_until.is_some_and(|until| basis < until),
        }
    }
}

/// Where readers find an entity's pages.
pub(super) trait Source {
    /// The head of the entity at `key`.
    fn head(&self, key: &[u8]) -> Result<Head, Error>;

    /// A page that is no root.
    fn page(&self, key: &[u8], id: PageId) -> Result<PageView, Error>;

    /// The root for readers at a basis before the head's `since`: there is one, unless the entity was erased meanwhile.
    fn earlier_root(&self, key: &[u8], basis: i64) -> Result<PageView, Error>;

    /// A row outside of pages.
    fn row(&self, key: &[u8], hash: &RowHash) -> Result<Slice, Error>;

    /// All leaves that were made at or before `basis`, but for a head's.
    fn leaves(&self, key: &[u8], basis: i64) -> Result<Vec<PageView>, Error>;

    /// The pages that are no roots and were made at `since`.
    fn made_at(&self, key: &[u8], since: i64) -> Result<Vec<PageId>, Error>;
}

/// One step of writing an entity's pages. In the order in which they are made, any number of the first steps may be all that
/// is there after a crash.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Row(RowHash, Vec<u8>),
    Page(PageId, Vec<u8>),
    /// The root that dies, made at this system time.
    Archive(i64, Vec<u8>),
    Head(Vec<u8>),
    /// Removes a page that no reader comes to.
    Remove(PageId),
    /// Removes the pages that earlier commits than `sequence` made, the roots that were made before `at`, its system time,
    /// and the rows that only such pages name.
    Wipe {
        at: i64,
        sequence: u64,
    },
}

/// No tree is as high: even the smallest inner pages have dozens of children.
const LEVELS: u8 = 16;

/// Checked pages take this part of the bytes that the database's cache has, as a divisor, beside them; what both hold lies in
/// memory once.
const CACHE_PART: u64 = 4;

/// How many pages reads have touched since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageStats {
    /// Point reads.
    pub reads: u64,
    /// Pages that point reads have fetched: heads, earlier roots, inner pages and leaves. Rows outside of pages are not.
    pub pages: u64,
}

/// The system time that an earlier root's key says, and the root.
type EarlierRoot = (i64, Result<PageView, Error>);

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    pages: AtomicU64,
}

/// The keyspaces that hold versions. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    heads: Keyspace,
    roots: Keyspace,
    pages: Keyspace,
    rows: Keyspace,
    cache: Arc<PageCache>,
    counters: Arc<Counters>,
}

impl Pages {
    pub(super) fn open(database: &Database) -> kv::Result<Self> {
        Ok(Self {
            heads: database.keyspace("heads")?,
            roots: database.keyspace("roots")?,
            pages: database.keyspace("pages")?,
            rows: database.keyspace("rows")?,
            cache: Arc::new(PageCache::new(database.cache_bytes() / CACHE_PART)),
            counters: Arc::default(),
        })
    }

    /// The head of the entity at `key`.
    pub(super) fn head(&self, key: &[u8]) -> Result<Head, Error> {
        match self.heads.get(key)? {
            None => Ok(Head::Absent),
            Some(stored) => Ok(Head::Root(read(key, stored)?)),
        }
    }

    /// The heads with keys in `[from, to)`, in order.
    pub(super) fn heads(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<(Slice, Head), Error>> + Send + use<> {
        self.heads.range(from, to).map(|entry| {
            let (key, stored) = entry?;
            let head = Head::Root(read(&key, stored)?);
            Ok((key, head))
        })
    }

    /// The keys of all entities, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = Result<Slice, Error>> + Send + use<> {
        self.heads.prefix(&[]).map(|entry| Ok(entry?.0))
    }

    /// The entity's earlier roots, each with the system time that its key says; one that does not read is an error of its own.
    pub(super) fn earlier_roots(&self, key: &[u8]) -> Result<Vec<EarlierRoot>, Error> {
        let mut roots = Vec::new();
        for entry in self.roots.prefix(key) {
            let (root_key, stored) = entry?;
            if let Some(since) = keys::parse_root_key(&root_key, key) {
                roots.push((since, read(key, stored)));
            }
        }
        Ok(roots)
    }

    /// A page that is no root, from the database whatever is in the cache.
    pub(super) fn stored_page(&self, key: &[u8], id: PageId) -> Result<PageView, Error> {
        let page_key = keys::page_key(key, id);
        match self.pages.get(&page_key)? {
            Some(stored) => read(&page_key, stored),
            None => Err(damaged(&page_key, Malformed("it is not there"))),
        }
    }

    /// When the entity's earlier roots were made, in order. **Cost**: all of them.
    fn roots_of(&self, key: &[u8]) -> Result<Arc<[i64]>, Error> {
        let mut made = Vec::new();
        for entry in self.roots.prefix(key) {
            made.extend(keys::parse_root_key(&entry?.0, key));
        }
        Ok(made.into())
    }

    /// All pages of the entity that are no roots.
    pub(super) fn page_ids(&self, key: &[u8]) -> Result<Vec<PageId>, Error> {
        let mut ids = Vec::new();
        for entry in self.pages.prefix(key) {
            ids.extend(keys::parse_page_key(&entry?.0, key));
        }
        Ok(ids)
    }

    /// Hands what lies outside of heads to `each`: what it is, its key, and the key of its entity (`None` if it is too short
    /// to have one).
    pub(super) fn each_part(
        &self,
        mut each: impl FnMut(&str, &[u8], Option<&[u8]>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let parts = [
            ("page", &self.pages, keys::PAGE_SUFFIX_BYTES),
            ("root", &self.roots, keys::ROOT_SUFFIX_BYTES),
            ("row", &self.rows, keys::ROW_SUFFIX_BYTES),
        ];
        for (what, keyspace, suffix_bytes) in parts {
            for entry in keyspace.prefix(&[]) {
                let (part_key, _) = entry?;
                let length = part_key.len().checked_sub(suffix_bytes);
                each(what, &part_key, length.map(|length| &part_key[..length]))?;
            }
        }
        Ok(())
    }

    pub(super) fn has_head(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.heads.get(key)?.is_some())
    }

    /// Counts a point read that has fetched so many pages.
    pub(super) fn count_read(&self, pages: u64) {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.counters.pages.fetch_add(pages, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> PageStats {
        PageStats {
            reads: self.counters.reads.load(Ordering::Relaxed),
            pages: self.counters.pages.load(Ordering::Relaxed),
        }
    }

    /// Does what a commit wants written to the entity at `key`. Not durable before the next flush.
    pub(super) fn write(&self, key: &[u8], writes: &[Write]) -> Result<(), Error> {
        for write in writes {
            match write {
                Write::Row(hash, bytes) => self.rows.insert(&keys::row_key(key, hash), bytes)?,
                Write::Page(id, bytes) => {
                    self.pages.insert(&keys::page_key(key, *id), bytes)?;
                    self.cache.forget(key, Place::Below(*id));
                }
                Write::Archive(since, bytes) => {
                    self.roots.insert(&keys::root_key(key, *since), bytes)?;
                    self.cache.archived(key, *since);
                }
                Write::Head(bytes) => self.heads.insert(key, bytes)?,
                Write::Remove(id) => self.remove(key, *id)?,
                Write::Wipe { at, sequence } => {
                    self.wipe(key, *at, *sequence)?;
                    self.cache.forget_all();
                }
            }
        }
        Ok(())
    }

    /// Removes the pages of the entity at `key` that were made at `at` and that no reader comes to. Not durable before the
    /// next flush. **Cost**: see [`path::unreached`].
    pub(super) fn sweep(&self, key: &[u8], at: i64) -> Result<(), Error> {
        for id in path::unreached(self, key, at)? {
            self.remove(key, id)?;
        }
        Ok(())
    }

    fn remove(&self, key: &[u8], id: PageId) -> Result<(), Error> {
        self.pages.remove(&keys::page_key(key, id))?;
        self.cache.forget(key, Place::Below(id));
        Ok(())
    }

    /// **Cost**: all pages and rows of the entity.
    fn wipe(&self, key: &[u8], at: i64, sequence: u64) -> Result<(), Error> {
        let mut named = Vec::new();
        let mut keep = |view: &PageView| -> Result<(), Error> {
            if view.header.level == 0 {
                let page = view.leaf().map_err(|malformed| damaged(key, malformed))?;
                named.extend(page.rows);
            }
            Ok(())
        };
        if let Head::Root(head) = self.head(key)? {
            keep(&head)?;
        }
        for entry in self.roots.prefix(key) {
            let (root_key, stored) = entry?;
            match keys::parse_root_key(&root_key, key) {
                Some(since) if since >= at => keep(&read(key, stored)?)?,
                _ => self.roots.remove(&root_key)?,
            }
        }
        for entry in self.pages.prefix(key) {
            let (page_key, stored) = entry?;
            match keys::parse_page_key(&page_key, key) {
                Some(id) if id.made_by >= sequence => keep(&read(&page_key, stored)?)?,
                _ => self.pages.remove(&page_key)?,
            }
        }
        let named: std::collections::HashSet<_> = named
            .iter()
            .filter_map(|row| row.hash())
            .map(|hash| keys::row_key(key, hash))
            .collect();
        for entry in self.rows.prefix(key) {
            let (row_key, _) = entry?;
            if !named.contains(&row_key[..]) {
                self.rows.remove(&row_key)?;
            }
        }
        Ok(())
    }
}

impl Source for Pages {
    fn head(&self, key: &[u8]) -> Result<Head, Error> {
        self.head(key)
    }

    fn page(&self, key: &[u8], id: PageId) -> Result<PageView, Error> {
        self.cache
            .page(key, Place::Below(id), || self.stored_page(key, id))
    }

    fn earlier_root(&self, key: &[u8], basis: i64) -> Result<PageView, Error> {
        let roots = self.cache.roots(key, || self.roots_of(key))?;
        let missing = |since| {
            let root_key = keys::root_key(key, since);
            damaged(&root_key, Malformed("no root was made before it"))
        };
        let until = roots.partition_point(|since| *since <= basis);
        let since = until.checked_sub(1).map(|last| roots[last]);
        let since = since.ok_or_else(|| missing(basis))?;
        self.cache.page(key, Place::EarlierRoot(since), || {
            let root_key = keys::root_key(key, since);
            let stored = self.roots.get(&root_key)?;
            read_root(key, &root_key, stored.ok_or_else(|| missing(since))?)
        })
    }

    fn row(&self, key: &[u8], hash: &RowHash) -> Result<Slice, Error> {
        let row_key = keys::row_key(key, hash);
        let what = || format!("row {}", row_key.escape_ascii());
        match self.rows.get(&row_key)? {
            Some(stored) => page_codec::decode_row(&row_key, &stored)
                .map_err(|malformed| Error::damaged(what(), malformed.0)),
            None => Err(Error::damaged(what(), "it is not there")),
        }
    }

    fn leaves(&self, key: &[u8], basis: i64) -> Result<Vec<PageView>, Error> {
        let mut leaves = Vec::new();
        for entry in self.roots.prefix(key) {
            let (root_key, stored) = entry?;
            if keys::parse_root_key(&root_key, key).is_some_and(|since| since <= basis) {
                let root = read_root(key, &root_key, stored)?;
                if root.header.level == 0 {
                    leaves.push(root);
                }
            }
        }
        let (from, to) = keys::leaves_until(key, basis);
        for entry in self.pages.range(&from, &to) {
            let (page_key, stored) = entry?;
            leaves.push(read(&page_key, stored)?);
        }
        Ok(leaves)
    }

    fn made_at(&self, key: &[u8], since: i64) -> Result<Vec<PageId>, Error> {
        let mut ids = Vec::new();
        for level in 0..LEVELS {
            for entry in self.pages.prefix(&keys::pages_made_at(key, level, since)) {
                ids.extend(keys::parse_page_key(&entry?.0, key));
            }
        }
        Ok(ids)
    }
}

fn read(key: &[u8], stored: Slice) -> Result<PageView, Error> {
    PageView::read(key, stored).map_err(|malformed| damaged(key, malformed))
}

/// An earlier root. It is sealed with the entity's key: another root of the same entity is told by its start.
fn read_root(key: &[u8], root_key: &[u8], stored: Slice) -> Result<PageView, Error> {
    let root = read(key, stored)?;
    if keys::parse_root_key(root_key, key) == Some(root.header.since) {
        return Ok(root);
    }
    Err(damaged(root_key, Malformed("it holds another root")))
}

/// The page at `key` is not what was written.
pub(super) fn damaged(key: &[u8], malformed: Malformed) -> Error {
    Error::damaged(format!("page {}", key.escape_ascii()), malformed.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        log::Change,
        read::{self, Seen},
        timeline::Span,
        workspace::Workspace,
    };

    fn change(from: i64, row: u8) -> Change {
        Change {
            entity_type: "t".to_owned(),
            entity_id: "e".to_owned(),
            span: Span { from, to: from + 3 },
            row: Some(vec![row; 60 + usize::from(row)]),
        }
    }

    /// What lies under the entity's key, but for its head.
    fn parts(pages: &Pages) -> usize {
        let mut count = 0;
        let each = |_: &str, _: &[u8], _: Option<&[u8]>| {
            count += 1;
            Ok(())
        };
        pages.each_part(each).expect("reads");
        count
    }

    #[test]
    fn an_erasure_takes_all_pages_and_rows_away_and_a_later_put_starts_clean() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), 1 << 22).expect("opens");
        let pages = Pages::open(&database).expect("opens");
        let key = keys::entity_key("t", "e");
        let commit = |sequence: u64, is_erased: bool, changes: &[Change]| {
            let at = i64::try_from(sequence).expect("small") * 10;
            let mut workspace = Workspace::new(&pages, sequence, at);
            if is_erased {
                workspace.erase(&key).expect("erases");
            }
            for change in changes {
                workspace.apply(change).expect("applies");
            }
            workspace.seal();
            workspace.write().expect("writes");
        };
        let seen = |point, basis| {
            let head = pages.head(&key).expect("reads");
            read::as_of(&pages, &key, head, point, basis).expect("reads")
        };
        for sequence in 1..=40 {
            let step = i64::try_from(sequence).expect("small");
            let changes: Vec<_> = (0..9u8)
                .map(|nth| change(step * 37 % 300 + i64::from(nth) * 30, nth * 20))
                .collect();
            commit(sequence, false, &changes);
        }
        assert!(parts(&pages) > 20, "{} parts", parts(&pages));
        assert!(matches!(seen(211, 300), Seen::Version(_)));
        commit(41, true, &[]);
        assert_eq!(parts(&pages), 0);
        for basis in [0, 300, 409, 410, 1_000] {
            assert!(matches!(seen(211, basis), Seen::Erased), "at {basis}");
        }
        commit(42, false, &[change(500, 200)]);
        for (point, basis) in [(211, 300), (501, 300), (501, 419)] {
            assert!(matches!(seen(point, basis), Seen::Erased), "at {basis}");
        }
        assert!(matches!(seen(211, 420), Seen::Nothing));
        let Seen::Version(found) = seen(501, 420) else {
            panic!("a version");
        };
        assert_eq!(found.row(), Some(&[200u8; 260][..]));
        // Replaying the erasure takes nothing of what came after it.
        commit(41, true, &[]);
        assert!(matches!(seen(501, 420), Seen::Version(_)));
        assert_eq!(parts(&pages), 1, "the long row");
    }
}
