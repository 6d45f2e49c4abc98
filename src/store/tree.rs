//! One entity's pages as a multiversion B-tree (Becker, Gschwind, Ohler, Seeger, Widmayer: An asymptotically optimal
//! multiversion B-tree, VLDB Journal 1996), as far as a commit touches them: pure but for loading pages.
//!
//! **Shape.** A page covers a range of valid time, from the system time at which it was made until others take its place.
//! Leaves hold versions, inner pages hold children. At any system time the live children of a page tile its span, so a point
//! of valid time has one leaf at each basis, and all leaves are as far below the root.
//!
//! **Change** (all of a commit's changes carry one system time, `at`). Versions are asserted in the leaves that a range
//! meets. A page then is *unsound* when it outgrows [`PAGE_BYTES`], or when its live part falls under [`LOW_BYTES`] while it
//! has siblings. An unsound page dies: on disk it stays as it was, for readers at earlier bases, and its parent closes its
//! entry at `at`. The live parts of unsound neighbours are pooled; a pool under [`REFILL_BYTES`] takes one live sibling in
//! (which dies too); the pool is cut into pages that are made at `at`, each at most [`LEAF_FILL_BYTES`] or
//! [`INNER_FILL_BYTES`]. Cuts fall where a live version starts, so none is cut then. This may make the parent unsound, and
//! so on up. An unsound root is archived and replaced by its live part, one level higher if that needs several pages; a root
//! with one live child is replaced by that child's live part.
//!
//! **Bounds.** A page that was just made can take a third of a page of changes before it dies, so a change makes O(1) pages
//! amortised, a wide one that meets many pages replaces them by few, and space is linear in the number of versions. An as-of
//! read touches one page per level of what was live at its basis. Pages that the commit itself made, which nothing on disk
//! refers to yet, are replaced freely within it.
//!
//! **Commits of one system time.** An import gives its own, and may give one several times. A page that an earlier commit
//! made at `at` lies on disk: it is changed in place or dies, as any other. If it dies, its life is empty: its entry vanishes
//! instead of being closed, and the page is removed once all else is written. Keys have the commit's sequence, so that what
//! takes the page's place never lies where it lies. A page that began before `at` and died at `at` under the second of
//! three commits may name children that the first one made and the third one buried: no reader comes to them.

use std::{cell::RefCell, ops::Range};

use super::{
    cut::{self, Item},
    error::Error,
    inner::{Child, Inner},
    page::{Page, Row},
    page_codec::{self, Header, MAX_HEADER_BYTES, PageId},
    page_list,
    page_view::PageView,
    timeline::{self, OPEN, Span},
};

/// The longest encoded page. Leaves room under [`crate::kv::MAX_VALUE_BYTES`] for what a later format may add. Unit tests
/// have small pages, so that short histories make high trees.
pub(super) const PAGE_BYTES: usize = if cfg!(test) { 800 } else { 4000 };
/// A live page with siblings whose live part takes less dies.
pub(super) const LOW_BYTES: usize = PAGE_BYTES / 8;
/// Less live than this is not made into a page while there is a sibling to take in.
pub(super) const REFILL_BYTES: usize = PAGE_BYTES / 4;
/// The most that a new leaf holds.
const LEAF_FILL_BYTES: usize = PAGE_BYTES * 60 / 100;
/// The most that a new inner page holds.
pub(super) const INNER_FILL_BYTES: usize = PAGE_BYTES * 75 / 100;
/// What a live child takes in a page, about.
const LIVE_ENTRY_BYTES: usize = 12;

/// A result of the store's inside.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// The commit that a tree is changed by, and where its pages come from.
pub(super) struct Commit<'a> {
    pub(super) sequence: u64,
    /// Its system time.
    pub(super) at: i64,
    pub(super) load: &'a dyn Fn(PageId) -> Result<PageView>,
    /// See [`Commit::bury`].
    pub(super) buried: &'a RefCell<Vec<PageId>>,
}

impl Commit<'_> {
    /// Notes the death of a page. If an earlier commit made it at this one's system time, it had no life for readers, and no
    /// page that they reach names it: it is to be removed.
    pub(super) fn bury(&self, id: PageId) {
        if id.since == self.at && id.made_by < self.sequence {
            self.buried.borrow_mut().push(id);
        }
    }
}

/// The live pages of an entity, as far as they are loaded.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Node,
}

/// A live page.
#[derive(Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

/// A live leaf.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) page: Page,
    pub(super) changed: bool,
}

impl Tree {
    /// The tree of an entity about which nothing is known.
    pub(super) fn empty(since: i64, made_by: u64) -> Self {
        Self {
            root: Node::Leaf(Leaf {
                page: Page::empty(Span::ALL, since, made_by),
                changed: false,
            }),
        }
    }

    /// The tree below a stored root.
    pub(super) fn from_root(root: &PageView) -> super::codec::Result<Self> {
        Ok(Self {
            root: Node::from_view(root)?,
        })
    }

    /// Asserts a row, or "ended", over `span`. `false`: all of that was there already, or the commit had reached these pages
    /// in an earlier life of the process.
    pub(super) fn assert_over(
        &mut self,
        commit: &Commit<'_>,
        span: Span,
        row: Option<&Row>,
    ) -> Result<bool> {
        let changed = self.root.assert_over(commit, span, row)?;
        if changed {
            self.settle_root(commit)?;
        }
        Ok(changed)
    }

    /// The live leaf that covers `point`.
    pub(super) fn leaf(&mut self, commit: &Commit<'_>, point: i64) -> Result<&Leaf> {
        let mut node = &mut self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return Ok(leaf),
                Node::Inner(inner) => node = inner.child_at(commit, point)?,
            }
        }
    }

    /// Whether it holds no version.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.root, Node::Leaf(leaf) if leaf.page.rects.is_empty())
    }

    /// Has the root written even if nothing is asserted.
    pub(super) fn touch(&mut self) {
        match &mut self.root {
            Node::Leaf(leaf) => leaf.changed = true,
            Node::Inner(inner) => inner.changed = true,
        }
    }

    /// Brings the changed pages into the form in which they are stored.
    pub(super) fn seal(&mut self, sequence: u64) {
        self.root.seal(sequence);
    }

    /// How many versions were asserted at `at`; one that leaves have cut counts once.
    pub(super) fn asserted_at(&self, at: i64) -> u64 {
        let mut count = 0;
        let mut before: Option<(i64, Option<Row>)> = None;
        self.root.each_changed(&mut |node| {
            let Node::Leaf(Leaf { page, .. }) = node else {
                return;
            };
            for rect in timeline::asserted_at(&page.rects, at) {
                let row = page.row(rect.state);
                let continues = before
                    .as_ref()
                    .is_some_and(|(to, its)| *to == rect.from && its.as_ref() == row);
                count += u64::from(!continues);
                before = Some((rect.to, row.cloned()));
            }
        });
        count
    }

    fn settle_root(&mut self, commit: &Commit<'_>) -> Result<()> {
        loop {
            if self.root.is_too_long() {
                let level = self.root.level();
                let mut pages = self.root.take_live(commit).cut();
                self.root = if pages.len() == 1 {
                    pages.swap_remove(0)
                } else {
                    Node::Inner(Inner::above(level, pages, commit))
                };
            } else if let Node::Inner(inner) = &mut self.root
                && let [only] = &mut inner.live[..]
            {
                let level = inner.header.level - 1;
                commit.bury(only.id(level));
                self.root = only.load(commit, level)?.take_live(commit);
            } else {
                return Ok(());
            }
        }
    }
}

impl Node {
    /// The page that lies on disk.
    pub(super) fn from_view(view: &PageView) -> super::codec::Result<Self> {
        if view.header.level == 0 {
            return Ok(Self::Leaf(Leaf {
                page: view.leaf()?,
                changed: false,
            }));
        }
        let (mut dead, mut live) = (Vec::new(), Vec::new());
        for entry in view.entries()? {
            if entry.until == OPEN {
                live.push(Child {
                    from: entry.from,
                    since: entry.since,
                    made_by: entry.made_by,
                    node: None,
                });
            } else {
                dead.push(entry);
            }
        }
        Ok(Self::Inner(Inner {
            header: view.header,
            changed: false,
            dead,
            live,
        }))
    }

    fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner(inner) => inner.header.level,
        }
    }

    pub(super) fn id(&self) -> PageId {
        let (since, made_by, span) = match self {
            Self::Leaf(Leaf { page, .. }) => (page.since, page.made_by, page.span),
            Self::Inner(Inner { header, .. }) => (header.since, header.made_by, header.span),
        };
        PageId {
            level: self.level(),
            since,
            made_by,
            from: span.from,
        }
    }

    pub(super) fn is_changed(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.changed,
            Self::Inner(inner) => inner.changed,
        }
    }

    /// Its bytes under `key`.
    pub(super) fn encode(&self, key: &[u8], erased_until: Option<i64>) -> Vec<u8> {
        match self {
            Self::Leaf(leaf) => page_codec::encode_leaf(key, &leaf.page, erased_until),
            Self::Inner(inner) => {
                let header = Header {
                    erased_until,
                    ..inner.header
                };
                page_codec::encode_inner(key, &header, &inner.entries())
            }
        }
    }

    /// Hands the changed pages to `each`, children before parents, in order of valid time.
    pub(super) fn each_changed(&self, each: &mut impl FnMut(&Self)) {
        if let Self::Inner(inner) = self {
            for child in inner.live.iter().filter_map(|child| child.node.as_ref()) {
                child.each_changed(each);
            }
        }
        if self.is_changed() {
            each(self);
        }
    }

    pub(super) fn assert_over(
        &mut self,
        commit: &Commit<'_>,
        span: Span,
        row: Option<&Row>,
    ) -> Result<bool> {
        match self {
            // Replay: a page that has the commit's changes is in the state in which the commit left it, and so is all below.
            Self::Leaf(leaf) if leaf.page.applied_sequence >= commit.sequence => Ok(false),
            Self::Inner(inner) if inner.header.applied_sequence >= commit.sequence => Ok(false),
            Self::Leaf(leaf) => {
                let changed = leaf.page.assert_over(span, row, commit.at);
                leaf.changed |= changed;
                Ok(changed)
            }
            Self::Inner(inner) => inner.assert_over(commit, span, row),
        }
    }

    pub(super) fn seal(&mut self, sequence: u64) {
        match self {
            Self::Leaf(leaf) => {
                if leaf.changed {
                    leaf.page.canonicalise();
                    leaf.page.applied_sequence = sequence;
                }
            }
            Self::Inner(inner) => {
                if inner.changed {
                    inner.header.applied_sequence = sequence;
                }
                for child in &mut inner.live {
                    if let Some(node) = &mut child.node {
                        node.seal(sequence);
                    }
                }
            }
        }
    }

    fn is_too_long(&mut self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.changed && is_leaf_too_long(&mut leaf.page),
            Self::Inner(inner) => inner.changed && inner.is_too_long(),
        }
    }

    /// About what its live part takes.
    pub(super) fn live_bytes(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.page.live_bytes(),
            Self::Inner(inner) => inner.live.len() * LIVE_ENTRY_BYTES,
        }
    }

    /// Whether it must die. A page that the commit did not change is sound, loaded or not: so replay, which loads fewer pages,
    /// decides as the commit did.
    pub(super) fn is_unsound(&mut self, has_siblings: bool) -> bool {
        self.is_changed() && ((has_siblings && self.live_bytes() < LOW_BYTES) || self.is_too_long())
    }

    /// Its live part, as a page that the commit made.
    fn take_live(&mut self, commit: &Commit<'_>) -> Self {
        match self {
            Self::Leaf(leaf) => {
                let pages = std::slice::from_ref(&leaf.page);
                Self::fresh_leaf(Page::pooled(pages, commit.at, commit.sequence))
            }
            Self::Inner(inner) => Self::Inner(Inner {
                header: Header {
                    since: commit.at,
                    made_by: commit.sequence,
                    applied_sequence: 0,
                    ..inner.header
                },
                changed: true,
                dead: Vec::new(),
                live: std::mem::take(&mut inner.live),
            }),
        }
    }

    fn fresh_leaf(page: Page) -> Self {
        Self::Leaf(Leaf {
            page,
            changed: true,
        })
    }

    /// The live parts of neighbours of one level, in order, as one page that the commit made, however long. `None`
    /// without any.
    pub(super) fn pooled(nodes: Vec<Self>, commit: &Commit<'_>) -> Option<Self> {
        let (mut pages, mut pool) = (Vec::new(), None::<Inner>);
        for mut node in nodes {
            match node.take_live(commit) {
                Self::Leaf(leaf) => pages.push(leaf.page),
                Self::Inner(mut next) => match &mut pool {
                    None => pool = Some(next),
                    Some(pool) => {
                        pool.header.span.to = next.header.span.to;
                        pool.live.append(&mut next.live);
                    }
                },
            }
        }
        match pool {
            Some(pool) => Some(Self::Inner(pool)),
            None if pages.is_empty() => None,
            None => Some(Self::fresh_leaf(Page::pooled(
                &pages,
                commit.at,
                commit.sequence,
            ))),
        }
    }

    /// A pool as pages of a good size.
    pub(super) fn cut(self) -> Vec<Self> {
        match self {
            Self::Leaf(leaf) => cut_leaf(&leaf.page)
                .into_iter()
                .map(Self::fresh_leaf)
                .collect(),
            Self::Inner(inner) => inner.cut().into_iter().map(Self::Inner).collect(),
        }
    }
}

fn is_leaf_too_long(page: &mut Page) -> bool {
    let room = PAGE_BYTES - MAX_HEADER_BYTES;
    let at_most = |page: &Page| {
        let rows: usize = page.rows.iter().map(Row::weight_bytes).sum();
        rows + page_list::most_bytes(page.rects.len())
    };
    if at_most(page) <= room || page_codec::leaf_bytes(page) <= room {
        return false;
    }
    // Rows that nothing uses any more may make the difference.
    page.canonicalise();
    page_codec::leaf_bytes(page) > room
}

fn cut_leaf(page: &Page) -> Vec<Page> {
    let items: Vec<_> = page_list::item_bytes(&page.rects)
        .into_iter()
        .zip(&page.rects)
        .map(|(bytes, rect)| Item {
            bytes,
            shared: page
                .row(rect.state)
                .map(|row| (rect.state as usize, row.weight_bytes())),
        })
        .collect();
    let pieces = cut::balanced(&items, LEAF_FILL_BYTES, LOW_BYTES);
    let starts_at = |piece: &Range<usize>| match page.rects.get(piece.start) {
        Some(rect) if piece.start > 0 => rect.from,
        _ => page.span.from,
    };
    let ends = pieces.iter().skip(1).map(starts_at).chain([page.span.to]);
    pieces
        .iter()
        .zip(ends)
        .map(|(piece, to)| {
            let span = Span {
                from: starts_at(piece),
                to,
            };
            page.piece(span, piece.clone())
        })
        .collect()
}
