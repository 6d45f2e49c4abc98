//! A reader's way through an entity's pages at one basis.

use super::{
    codec::Malformed,
    error::Error,
    page::Row,
    page_codec::PageId,
    page_view::PageView,
    pages::{self, Head, Source},
    timeline::{OPEN, Rect},
};
use crate::kv::Slice;

/// The pages from the root to a leaf, as a reader at one basis sees them. Going on to a neighbouring leaf reads only what is
/// not on the way already.
pub(super) struct Path<'a, S> {
    source: &'a S,
    key: &'a [u8],
    basis: i64,
    /// The root first; each covers what the next one covers. Never empty.
    way: Vec<PageView>,
    /// How many pages were fetched, the head included.
    touched: u64,
}

/// What a reader sees at a point: the version, with as much of its range as was asked for, and its row (`None`: ended).
pub(super) type Seen = Option<(Rect, Option<Row>)>;

impl<'a, S: Source> Path<'a, S> {
    /// The way from the root for `basis`.
    pub(super) fn start(
        source: &'a S,
        key: &'a [u8],
        head: PageView,
        basis: i64,
    ) -> Result<Self, Error> {
        let (root, touched) = if head.header.since <= basis {
            (head, 1)
        } else {
            (source.earlier_root(key, basis)?, 2)
        };
        if root.header.until <= basis {
            return Err(pages::damaged(key, Malformed("an earlier root is missing")));
        }
        Ok(Self {
            source,
            key,
            basis,
            way: vec![root],
            touched,
        })
    }

    pub(super) fn touched(&self) -> u64 {
        self.touched
    }

    /// The leaf that covers `point`.
    pub(super) fn leaf(&mut self, point: i64) -> Result<PageView, Error> {
        while self.way.len() > 1
            && !self
                .way
                .last()
                .is_some_and(|page| page.header.span.contains(point))
        {
            self.way.pop();
        }
        loop {
            let Some(page) = self.way.last() else {
                return Err(self.damaged(Malformed("it has no root")));
            };
            if page.header.level == 0 {
                return Ok(page.clone());
            }
            let id = page
                .child_at(point, self.basis)
                .map_err(|malformed| self.damaged(malformed))?;
            let child = self.source.page(self.key, id)?;
            self.touched += 1;
            let header = &child.header;
            if header.level != id.level || !header.span.contains(point) {
                return Err(self.damaged(Malformed("a child does not cover its range")));
            }
            self.way.push(child);
        }
    }

    /// Whether the way to the start of a page's span goes through the page.
    fn comes_to(&mut self, id: PageId) -> Result<bool, Error> {
        let leads_there =
            |page: &PageView| page.header.level > id.level && page.header.span.contains(id.from);
        while self.way.len() > 1 && !self.way.last().is_some_and(leads_there) {
            self.way.pop();
        }
        while let Some(page) = self.way.last()
            && page.header.level > id.level
        {
            let child = page
                .child_at(id.from, self.basis)
                .map_err(|malformed| self.damaged(malformed))?;
            if child.level == id.level {
                return Ok(child == id);
            }
            self.way.push(self.source.page(self.key, child)?);
        }
        Ok(false)
    }

    /// What is seen at `point`, within its leaf.
    pub(super) fn find(&mut self, point: i64) -> Result<Seen, Error> {
        self.leaf(point)?
            .find(point, self.basis)
            .map_err(|malformed| self.damaged(malformed))
    }

    /// What is seen at `point`, with the whole range over which its owner holds.
    pub(super) fn find_whole(&mut self, point: i64) -> Result<Seen, Error> {
        let Some((mut rect, row)) = self.find(point)? else {
            return Ok(None);
        };
        let span = self.leaf(point)?.header.span;
        if rect.to == span.to {
            self.extend_right(&mut rect, row.as_ref())?;
        }
        if rect.from == span.from {
            self.extend_left(&mut rect, row.as_ref())?;
        }
        Ok(Some((rect, row)))
    }

    fn extend_left(&mut self, rect: &mut Rect, row: Option<&Row>) -> Result<(), Error> {
        while rect.from != i64::MIN {
            let Some((next, its)) = self.find(rect.from - 1)? else {
                break;
            };
            if next.system_from != rect.system_from || its.as_ref() != row {
                break;
            }
            rect.from = next.from;
            if rect.from != self.leaf(next.from)?.header.span.from {
                break;
            }
        }
        Ok(())
    }

    fn extend_right(&mut self, rect: &mut Rect, row: Option<&Row>) -> Result<(), Error> {
        while rect.to != OPEN {
            let Some((next, its)) = self.find(rect.to)? else {
                break;
            };
            if next.system_from != rect.system_from || its.as_ref() != row {
                break;
            }
            let end = self.leaf(rect.to)?.header.span.to;
            rect.to = next.to;
            if rect.to != end {
                break;
            }
        }
        Ok(())
    }

    fn damaged(&self, malformed: Malformed) -> Error {
        pages::damaged(self.key, malformed)
    }
}

/// The bytes of a row, fetched if they lie outside of pages.
pub(super) fn row_bytes(source: &impl Source, key: &[u8], row: &Row) -> Result<Slice, Error> {
    match row {
        Row::Inside(bytes) => Ok(bytes.clone()),
        Row::Outside(hash) => source.row(key, hash),
    }
}

/// The pages of an entity that were made at `at` and that no reader comes to: buried by a later commit of the same system
/// time, whose process died before it had removed them.
///
/// **Cost**: the keys of all pages made at `at`, and a way down to each.
pub(super) fn unreached(source: &impl Source, key: &[u8], at: i64) -> Result<Vec<PageId>, Error> {
    let made = source.made_at(key, at)?;
    let root = match source.head(key)? {
        head if made.is_empty() || head.is_erased_at(at) => return Ok(Vec::new()),
        Head::Absent => return Ok(Vec::new()),
        Head::Root(root) => root,
    };
    let mut path = Path::start(source, key, root, at)?;
    let mut unreached = Vec::new();
    for id in made {
        if !path.comes_to(id)? {
            unreached.push(id);
        }
    }
    Ok(unreached)
}

/// Runs a read from the entity's head. If pages are missing that the head named, and there is another head by now, then the
/// entity was erased meanwhile: the read runs again from that one.
pub(super) fn from_head<S: Source, T>(
    source: &S,
    key: &[u8],
    mut head: Head,
    mut read: impl FnMut(&Head) -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        let error = match read(&head) {
            Err(error @ Error::Damaged { .. }) => error,
            outcome => return outcome,
        };
        let now = source.head(key)?;
        // An erasure begins a new root, as a version split does.
        if head.since() == now.since() {
            return Err(error);
        }
        head = now;
    }
}
