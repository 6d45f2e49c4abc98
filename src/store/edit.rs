//! What one commit does to one entity, from its stored pages to what must be written.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    error::Error,
    keys,
    page::{Row, RowHash},
    page_codec::{self, PageId},
    page_view::PageView,
    pages::{self, Head, Source, Write},
    path,
    timeline::{self, OPEN, Span},
    tree::{Commit, Leaf, Node, Tree},
};

/// A part of the live timeline with its row; `None`: ended.
pub(super) type Segment = (Span, Option<Vec<u8>>);

/// An entity's pages under a commit.
pub(super) struct Edit<'a, S> {
    source: &'a S,
    key: Vec<u8>,
    sequence: u64,
    at: i64,
    tree: Tree,
    /// The head on disk.
    stored: Option<PageView>,
    erased_until: Option<i64>,
    is_wiped: bool,
    /// Long rows that the commit brought.
    rows: BTreeMap<RowHash, Vec<u8>>,
    /// Stored pages that no reader can reach any more.
    buried: RefCell<Vec<PageId>>,
}

impl<'a, S: Source> Edit<'a, S> {
    /// The entity at `key`, under the commit of this sequence and system time.
    pub(super) fn open(source: &'a S, key: &[u8], sequence: u64, at: i64) -> Result<Self, Error> {
        let stored = match source.head(key)? {
            Head::Absent => None,
            Head::Root(root) => Some(root),
        };
        let tree = match &stored {
            None => Ok(Tree::empty(i64::MIN, 0)),
            Some(root) => Tree::from_root(root),
        };
        Ok(Self {
            source,
            key: key.to_vec(),
            sequence,
            at,
            tree: tree.map_err(|malformed| pages::damaged(key, malformed))?,
            erased_until: stored.as_ref().and_then(|root| root.header.erased_until),
            stored,
            is_wiped: false,
            rows: BTreeMap::new(),
            buried: RefCell::default(),
        })
    }

    /// Whether the commit had written this entity's head in an earlier life of the process, and all else before it.
    fn is_done(&self) -> bool {
        let stored = self.stored.as_ref();
        stored.is_some_and(|root| root.header.applied_sequence >= self.sequence)
    }

    /// Asserts a row, or "ended", over `span`. `false`: no page is other than it was.
    pub(super) fn assert_over(&mut self, span: Span, row: Option<&[u8]>) -> Result<bool, Error> {
        let fresh = row.map(Row::of);
        let (tree, load) = (&mut self.tree, loader(self.source, &self.key));
        let commit = Commit {
            sequence: self.sequence,
            at: self.at,
            load: &load,
            buried: &self.buried,
        };
        if !tree.assert_over(&commit, span, fresh.as_ref())? {
            return Ok(false);
        }
        if let (Some(Row::Outside(hash)), Some(row)) = (fresh, row) {
            self.rows.insert(hash, row.to_vec());
        }
        if self.erased_until == Some(OPEN) {
            self.erased_until = Some(self.at);
        }
        Ok(true)
    }

    /// Whether nothing is held of the entity.
    pub(super) fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// Forgets all that was ever said about the entity. Also where nothing is held: a log whose earlier records are redacted
    /// leaves the same mark.
    pub(super) fn erase(&mut self) {
        self.is_wiped = true;
        if self.is_done() {
            return;
        }
        self.tree = Tree::empty(self.at, self.sequence);
        self.tree.touch();
        self.erased_until = Some(OPEN);
        self.rows.clear();
        self.buried.borrow_mut().clear();
    }

    /// The basis up to which every answer is "erased", exclusive.
    pub(super) fn erased_until(&self) -> Option<i64> {
        self.erased_until
    }

    /// The live leaf that covers `point`, as the commit has changed it so far.
    pub(super) fn leaf(&mut self, point: i64) -> Result<&Leaf, Error> {
        let load = loader(self.source, &self.key);
        let commit = Commit {
            sequence: self.sequence,
            at: self.at,
            load: &load,
            buried: &self.buried,
        };
        self.tree.leaf(&commit, point)
    }

    /// The bytes of a row of one of its leaves.
    pub(super) fn row_bytes(&self, row: &Row) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = row.hash().and_then(|hash| self.rows.get(hash)) {
            return Ok(bytes.clone());
        }
        Ok(path::row_bytes(self.source, &self.key, row)?.to_vec())
    }

    /// What is live over `span`, clipped to it, in order: contiguous points of one owner once, with its row (`None`: ended).
    pub(super) fn live(&mut self, span: Span) -> Result<Vec<Segment>, Error> {
        let mut found: Vec<(Span, i64, Option<Row>)> = Vec::new();
        let mut point = span.from;
        while point < span.to {
            let page = &self.leaf(point)?.page;
            let part = page.span.intersection(span);
            for run in timeline::visible(&page.rects, OPEN - 1).filter_map(|run| run.clipped(part))
            {
                let row = page.row(run.state);
                match found.last_mut() {
                    Some((before, since, its))
                        if before.to == run.from
                            && *since == run.system_from
                            && its.as_ref() == row =>
                    {
                        before.to = run.to;
                    }
                    _ => found.push((run.span(), run.system_from, row.cloned())),
                }
            }
            point = part.to;
        }
        found
            .into_iter()
            .map(|(span, _, row)| {
                let row = row.map(|row| self.row_bytes(&row)).transpose()?;
                Ok((span, row))
            })
            .collect()
    }

    /// Brings the changed pages into the form in which they are stored, and counts the versions that the commit made.
    pub(super) fn seal(&mut self) -> u64 {
        self.tree.seal(self.sequence);
        self.tree.asserted_at(self.at)
    }

    /// What must be written, in order. After [`Edit::seal`].
    pub(super) fn writes(&self) -> Vec<Write> {
        let mut writes: Vec<_> = self
            .rows
            .iter()
            .map(|(hash, row)| {
                let bytes = page_codec::encode_row(&keys::row_key(&self.key, hash), row);
                Write::Row(*hash, bytes)
            })
            .collect();
        let root = &self.tree.root;
        let is_root = |node: &Node| std::ptr::eq(node, root);
        root.each_changed(&mut |node| {
            if !is_root(node) {
                let id = node.id();
                let bytes = node.encode(&keys::page_key(&self.key, id), None);
                writes.push(Write::Page(id, bytes));
            }
        });
        if root.is_changed() {
            writes.extend(self.archive(root.id().since));
            writes.push(Write::Head(root.encode(&self.key, self.erased_until)));
        }
        writes.extend(self.buried.borrow().iter().copied().map(Write::Remove));
        if self.is_wiped {
            writes.push(Write::Wipe {
                at: self.at,
                sequence: self.sequence,
            });
        }
        writes
    }
}

impl<S: Source> Edit<'_, S> {
    /// The root on disk goes into the archive when another one, made at `until`, takes its place. So does the empty one of an
    /// entity whose first commit fills more than a page: readers before it look there.
    fn archive(&self, until: i64) -> Option<Write> {
        let since = self
            .stored
            .as_ref()
            .map_or(i64::MIN, |stored| stored.header.since);
        if since == until || self.is_wiped {
            return None;
        }
        let bytes = match &self.stored {
            Some(stored) => stored.archived(&self.key, until),
            None => page_codec::encode_nothing(&self.key, until),
        };
        Some(Write::Archive(since, bytes))
    }
}

fn loader<'a>(
    source: &'a impl Source,
    key: &'a [u8],
) -> impl Fn(PageId) -> Result<PageView, Error> + 'a {
    move |id| source.page(key, id)
}
