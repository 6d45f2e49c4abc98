//! The pages that one commit touches, in memory: mutations are resolved and applied here before anything is written.

use std::collections::BTreeMap;

use super::{
    error::Error,
    keys,
    log::Change,
    page::Page,
    page_codec::Chain,
    pages::{Head, Pages},
    timeline::{self, OPEN, Span},
};

/// Since when a point has its owner, and the row (`None`: ended). `None`: nothing is known.
pub(super) type Owner = Option<(i64, Option<Vec<u8>>)>;

/// A range of valid time and the row that holds over it (`None`: ended).
pub(super) type Segment = (Span, Option<Vec<u8>>);

/// A basis at which everything that is live is visible.
const LIVE: i64 = OPEN - 1;

/// The touched pages of a commit.
pub(super) struct Workspace<'a> {
    pages: &'a Pages,
    sequence: u64,
    system_time: i64,
    entities: BTreeMap<Vec<u8>, Entity>,
}

struct Entity {
    is_spilled: bool,
    /// Whether what lies on disk is to go.
    is_erased: bool,
    /// By the start of their span.
    leaves: BTreeMap<i64, Edited>,
}

struct Edited {
    page: Page,
    chain: Option<Chain>,
    changed: bool,
}

impl<'a> Workspace<'a> {
    pub(super) fn new(pages: &'a Pages, sequence: u64, system_time: i64) -> Self {
        Self {
            pages,
            sequence,
            system_time,
            entities: BTreeMap::new(),
        }
    }

    /// Applies a change. A page that this commit has reached before, in an earlier life of the process, is left alone.
    /// `false`: no page is other than it was.
    pub(super) fn apply(&mut self, change: &Change) -> Result<bool, Error> {
        let key = keys::entity_key(&change.entity_type, &change.entity_id);
        let (sequence, at) = (self.sequence, self.system_time);
        let mut point = change.span.from;
        let mut altered = false;
        while point < change.span.to {
            let leaf = self.leaf(&key, point)?;
            if leaf.page.applied_sequence < sequence {
                let before = leaf.page.rects.clone();
                leaf.page
                    .assert_over(change.span, change.row.as_deref(), at);
                let differs = leaf.page.rects != before;
                leaf.changed |= differs;
                altered |= differs;
            }
            point = leaf.page.span.to;
        }
        Ok(altered)
    }

    /// Removes all that is held of the entity at `key`. `false`: there is nothing. What this commit has erased before, in an
    /// earlier life of the process, and written again, is left alone.
    pub(super) fn erase(&mut self, key: &[u8]) -> Result<bool, Error> {
        let known = self.entities.get(key);
        let is_empty = known.is_none_or(Entity::is_empty);
        if is_empty && known.is_some_and(|entity| entity.is_erased) {
            return Ok(false);
        }
        let was_applied = match self.pages.head(key)? {
            Head::Absent if is_empty => return Ok(false),
            Head::Absent => false,
            Head::Inline(page) => page.applied_sequence >= self.sequence,
            Head::Spilled => self.leaf(key, i64::MIN)?.page.applied_sequence >= self.sequence,
        };
        if !was_applied {
            self.entities.insert(key.to_vec(), Entity::erased());
        }
        Ok(true)
    }

    /// What the entity at `key` is over `span` as it stands, in order of valid time: the row of each value, `None` where it
    /// was ended. A segment may go on in the next one.
    pub(super) fn live_over(&mut self, key: &[u8], span: Span) -> Result<Vec<Segment>, Error> {
        let mut segments = Vec::new();
        let mut point = span.from;
        while point < span.to {
            let page = &self.leaf(key, point)?.page;
            let part = page.span.intersection(span);
            for run in timeline::visible(&page.rects, LIVE).filter_map(|run| run.clipped(part)) {
                segments.push((run.span(), page.row(run.state).map(<[u8]>::to_vec)));
            }
            point = page.span.to;
        }
        Ok(segments)
    }

    /// Who owns `point` of the entity at `key` as it stands: since when, and the row (`None`: ended).
    pub(super) fn owner(&mut self, key: &[u8], point: i64) -> Result<Owner, Error> {
        Ok(owner_at(&self.leaf(key, point)?.page, point))
    }

    /// The first point after `point` at which the entity's timeline, as it stands, changes owner.
    pub(super) fn next_change(
        &mut self,
        entity_type: &str,
        entity_id: &str,
        point: i64,
    ) -> Result<i64, Error> {
        let key = keys::entity_key(entity_type, entity_id);
        let page = &self.leaf(&key, point)?.page;
        let owner = owner_at(page, point);
        let mut reached = page_change(page, point);
        let mut page_end = page.span.to;
        while reached == page_end && reached != OPEN {
            let page = &self.leaf(&key, reached)?.page;
            if owner_at(page, reached) != owner {
                break;
            }
            (reached, page_end) = (page_change(page, reached), page.span.to);
        }
        Ok(reached)
    }

    /// Brings the changed pages into the form in which they are stored, and counts the versions that the commit made.
    pub(super) fn seal(&mut self) -> u64 {
        let mut versions_written = 0;
        for entity in self.entities.values_mut() {
            for leaf in entity.leaves.values_mut().filter(|leaf| leaf.changed) {
                leaf.page.canonicalise();
                leaf.page.applied_sequence = self.sequence;
            }
            versions_written += entity.asserted_at(self.system_time);
        }
        versions_written
    }

    /// Writes the changed pages. Not durable before the next flush.
    pub(super) fn write(self) -> Result<(), Error> {
        for (key, entity) in self.entities {
            if entity.is_erased {
                self.pages.remove(&key)?;
            }
            for leaf in entity.leaves.values().filter(|leaf| leaf.changed) {
                if entity.is_spilled {
                    self.pages.write_leaf(&key, &leaf.page, leaf.chain)?;
                } else {
                    self.pages.write_inline(&key, &leaf.page)?;
                }
            }
        }
        Ok(())
    }

    /// The page of the entity at `key` that covers `point`, read when it is first asked for.
    fn leaf(&mut self, key: &[u8], point: i64) -> Result<&mut Edited, Error> {
        if !self.entities.contains_key(key) {
            let entity = Entity::from_head(self.pages.head(key)?);
            self.entities.insert(key.to_vec(), entity);
        }
        let entity = self
            .entities
            .get_mut(key)
            .ok_or_else(|| Error::damaged("the workspace", "an entity is gone"))?;
        entity.leaf(self.pages, key, point)
    }
}

impl Entity {
    fn from_head(head: Head) -> Self {
        let (page, is_spilled) = match head {
            Head::Absent => (Some(Page::empty(Span::ALL)), false),
            Head::Inline(page) => (Some(page), false),
            Head::Spilled => (None, true),
        };
        let leaves = page.map(|page| (page.span.from, Edited::unchanged(page, None)));
        Self {
            is_spilled,
            is_erased: false,
            leaves: leaves.into_iter().collect(),
        }
    }

    fn erased() -> Self {
        Self {
            is_erased: true,
            ..Self::from_head(Head::Absent)
        }
    }

    fn is_empty(&self) -> bool {
        self.leaves.values().all(|leaf| leaf.page.rects.is_empty())
    }

    fn leaf(&mut self, pages: &Pages, key: &[u8], point: i64) -> Result<&mut Edited, Error> {
        let known = self
            .leaves
            .range(..=point)
            .next_back()
            .filter(|(_, leaf)| leaf.page.span.contains(point))
            .map(|(start, _)| *start);
        let start = match known {
            Some(start) => start,
            None => {
                let leaf = pages.leaf(key, point)?;
                let start = leaf.page.span.from;
                self.leaves
                    .insert(start, Edited::unchanged(leaf.page, leaf.chain));
                start
            }
        };
        self.leaves
            .get_mut(&start)
            .ok_or_else(|| Error::damaged("the workspace", "a leaf is gone"))
    }

    /// Versions asserted at a system time; one that leaves have cut counts once.
    fn asserted_at(&self, at: i64) -> u64 {
        let mut count = 0;
        let mut before: Option<(i64, Option<&[u8]>)> = None;
        for leaf in self.leaves.values().filter(|leaf| leaf.changed) {
            for rect in timeline::asserted_at(&leaf.page.rects, at) {
                let row = leaf.page.row(rect.state);
                if before != Some((rect.from, row)) {
                    count += 1;
                }
                before = Some((rect.to, row));
            }
        }
        count
    }
}

impl Edited {
    fn unchanged(page: Page, chain: Option<Chain>) -> Self {
        Self {
            page,
            chain,
            changed: false,
        }
    }
}

/// Who owns `point`: since when, and the row (`None`: ended). `None`: nothing is known.
fn owner_at(page: &Page, point: i64) -> Owner {
    timeline::as_of(&page.rects, point, LIVE)
        .map(|run| (run.system_from, page.row(run.state).map(<[u8]>::to_vec)))
}

/// The next change of owner in the page, its end at the latest.
fn page_change(page: &Page, point: i64) -> i64 {
    timeline::next_change(&page.rects, point).min(page.span.to)
}
