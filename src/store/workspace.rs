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
    pub(super) fn apply(&mut self, change: &Change) -> Result<(), Error> {
        let key = keys::entity_key(&change.entity_type, &change.entity_id);
        let (sequence, at) = (self.sequence, self.system_time);
        let mut point = change.span.from;
        while point < change.span.to {
            let leaf = self.leaf(&key, point)?;
            if leaf.page.applied_sequence < sequence {
                let before = leaf.page.rects.clone();
                leaf.page
                    .assert_over(change.span, change.row.as_deref(), at);
                leaf.changed |= leaf.page.rects != before;
            }
            point = leaf.page.span.to;
        }
        Ok(())
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
            leaves: leaves.into_iter().collect(),
        }
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
fn owner_at(page: &Page, point: i64) -> Option<(i64, Option<Vec<u8>>)> {
    timeline::as_of(&page.rects, point, LIVE)
        .map(|run| (run.system_from, page.row(run.state).map(<[u8]>::to_vec)))
}

/// The next change of owner in the page, its end at the latest.
fn page_change(page: &Page, point: i64) -> i64 {
    timeline::next_change(&page.rects, point).min(page.span.to)
}
