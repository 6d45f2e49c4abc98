//! Inner pages of a tree under a commit: their children, and what becomes of those that are unsound.

use std::ops::Range;

use super::{
    cut::{self, Item},
    error::Error,
    page::Row,
    page_codec::{self, Entry, Header, MAX_HEADER_BYTES, PageId},
    page_list,
    timeline::{OPEN, Span},
    tree::{Commit, INNER_FILL_BYTES, LOW_BYTES, Node, PAGE_BYTES, REFILL_BYTES, Result},
};

/// A live inner page.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) header: Header,
    pub(super) changed: bool,
    /// Entries of children that died during the page's life.
    pub(super) dead: Vec<Entry>,
    /// In order of `from`; they tile the span.
    pub(super) live: Vec<Child>,
}

/// A live child.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) from: i64,
    pub(super) since: i64,
    /// The commit that made it.
    pub(super) made_by: u64,
    /// `None` until it is needed.
    pub(super) node: Option<Box<Node>>,
}

impl Inner {
    /// The page above the pages that a root was cut into.
    pub(super) fn above(level: u8, children: Vec<Node>, commit: &Commit<'_>) -> Self {
        Self {
            header: Header {
                level: level + 1,
                span: Span::ALL,
                since: commit.at,
                made_by: commit.sequence,
                until: OPEN,
                applied_sequence: 0,
                erased_until: None,
            },
            changed: true,
            dead: Vec::new(),
            live: children.into_iter().map(Child::fresh).collect(),
        }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let live = self.live.iter().map(|child| Entry {
            from: child.from,
            since: child.since,
            made_by: child.made_by,
            until: OPEN,
        });
        let mut entries: Vec<_> = self.dead.iter().copied().chain(live).collect();
        entries.sort_unstable_by_key(|entry| (entry.from, entry.since));
        entries
    }

    pub(super) fn is_too_long(&self) -> bool {
        let room = PAGE_BYTES - MAX_HEADER_BYTES;
        page_list::most_bytes(self.dead.len() + self.live.len()) > room
            && page_codec::inner_bytes(&self.entries()) > room
    }

    fn index_at(&self, point: i64) -> usize {
        let after = self.live.partition_point(|child| child.from <= point);
        after.saturating_sub(1)
    }

    pub(super) fn child_at(&mut self, commit: &Commit<'_>, point: i64) -> Result<&mut Node> {
        let index = self.index_at(point);
        let level = self.header.level - 1;
        self.live
            .get_mut(index)
            .ok_or_else(|| Error::damaged("an inner page", "it has no live child"))?
            .load(commit, level)
    }

    pub(super) fn assert_over(
        &mut self,
        commit: &Commit<'_>,
        span: Span,
        row: Option<&Row>,
    ) -> Result<bool> {
        let level = self.header.level - 1;
        let first = self.index_at(span.from);
        let after = self.live.partition_point(|child| child.from < span.to);
        let touched = first..after.max(first);
        let mut changed = false;
        for child in &mut self.live[touched.clone()] {
            changed |= child.load(commit, level)?.assert_over(commit, span, row)?;
        }
        if changed {
            self.settle(commit, touched)?;
        }
        Ok(changed)
    }

    /// Replaces the unsound ones among these children.
    fn settle(&mut self, commit: &Commit<'_>, touched: Range<usize>) -> Result<()> {
        let (mut index, mut left) = (touched.start, touched.len());
        while left > 0 && index < self.live.len() {
            if !self.is_child_unsound(index) {
                (index, left) = (index + 1, left - 1);
                continue;
            }
            let mut group = index..index + 1;
            while group.end < self.live.len() && self.is_child_unsound(group.end) {
                group.end += 1;
            }
            left = left.saturating_sub(group.len());
            let (next, taken_right) = self.replace(commit, group)?;
            index = next;
            left = left.saturating_sub(taken_right);
        }
        Ok(())
    }

    fn is_child_unsound(&mut self, index: usize) -> bool {
        let has_siblings = self.live.len() > 1;
        self.live[index]
            .node
            .as_mut()
            .is_some_and(|node| node.is_unsound(has_siblings))
    }

    /// Replaces neighbouring children by pages made of their live parts. Returns the index after those, and how many siblings
    /// it took in from the right.
    fn replace(&mut self, commit: &Commit<'_>, group: Range<usize>) -> Result<(usize, usize)> {
        let mut start = group.start;
        let mut taken_right = 0;
        let mut pool = self.retire(commit, group)?;
        loop {
            if let Node::Inner(pool) = &mut pool {
                // Leaves that had no sibling under their old parent may have one now.
                pool.settle(commit, 0..pool.live.len())?;
            }
            if pool.live_bytes() >= REFILL_BYTES || self.live.is_empty() {
                break;
            }
            // The left one if there is one: replay takes in the same.
            let nodes = if start > 0 {
                start -= 1;
                vec![self.retire(commit, start..start + 1)?, pool]
            } else {
                taken_right += 1;
                vec![pool, self.retire(commit, 0..1)?]
            };
            pool = some_pool(Node::pooled(nodes, commit))?;
        }
        let pages = pool.cut();
        let next = start + pages.len();
        let fresh = pages.into_iter().map(Child::fresh);
        self.live.splice(start..start, fresh);
        self.changed = true;
        Ok((next, taken_right))
    }

    /// Takes children out, closes their entries, and pools their live parts.
    fn retire(&mut self, commit: &Commit<'_>, group: Range<usize>) -> Result<Node> {
        let level = self.header.level - 1;
        let mut nodes = Vec::with_capacity(group.len());
        for child in self.live.drain(group) {
            // Of one made at this very system time no reader knows, nor, through this page, of those that end as it begins.
            if child.since < commit.at && self.header.since < commit.at {
                self.dead.push(Entry {
                    from: child.from,
                    since: child.since,
                    made_by: child.made_by,
                    until: commit.at,
                });
            }
            commit.bury(child.id(level));
            nodes.push(child.into_node(commit, level)?);
        }
        some_pool(Node::pooled(nodes, commit))
    }

    pub(super) fn cut(mut self) -> Vec<Self> {
        let items: Vec<_> = page_list::item_bytes(&self.entries())
            .into_iter()
            .map(|bytes| Item {
                bytes,
                shared: None,
            })
            .collect();
        let mut pages = Vec::new();
        let mut end = self.header.span.to;
        for piece in cut::balanced(&items, INNER_FILL_BYTES, LOW_BYTES)
            .into_iter()
            .rev()
        {
            let live = self.live.split_off(piece.start);
            let from = match live.first() {
                Some(first) if piece.start > 0 => first.from,
                _ => self.header.span.from,
            };
            pages.push(Self {
                header: Header {
                    span: Span { from, to: end },
                    ..self.header
                },
                changed: true,
                dead: Vec::new(),
                live,
            });
            end = from;
        }
        pages.reverse();
        pages
    }
}

impl Child {
    fn fresh(node: Node) -> Self {
        let id = node.id();
        Self {
            from: id.from,
            since: id.since,
            made_by: id.made_by,
            node: Some(Box::new(node)),
        }
    }

    pub(super) fn load(&mut self, commit: &Commit<'_>, level: u8) -> Result<&mut Node> {
        if self.node.is_none() {
            self.node = Some(Box::new(load(commit, self.id(level))?));
        }
        self.node
            .as_deref_mut()
            .ok_or_else(|| Error::damaged("a page", "it is gone after it was read"))
    }

    fn into_node(self, commit: &Commit<'_>, level: u8) -> Result<Node> {
        let id = self.id(level);
        match self.node {
            Some(node) => Ok(*node),
            None => load(commit, id),
        }
    }

    pub(super) fn id(&self, level: u8) -> PageId {
        PageId {
            level,
            since: self.since,
            made_by: self.made_by,
            from: self.from,
        }
    }
}

fn load(commit: &Commit<'_>, id: PageId) -> Result<Node> {
    let view = (commit.load)(id)?;
    Node::from_view(&view).map_err(|malformed| Error::damaged(format!("page {id:?}"), malformed.0))
}

fn some_pool(pool: Option<Node>) -> Result<Node> {
    pool.ok_or_else(|| Error::damaged("a page", "it has no children to pool"))
}
