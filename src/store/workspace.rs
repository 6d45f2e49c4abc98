//! The entities that one commit touches, in memory: mutations are resolved and applied here before anything is written.

use std::collections::BTreeMap;

use super::{
    edit::{Edit, Segment},
    error::Error,
    keys,
    log::Change,
    page::{Page, Row},
    pages::Pages,
    timeline::{self, OPEN, Span},
};

/// Since when a point has its owner, and the row (`None`: ended). `None`: nothing is known.
pub(super) type Owner = Option<(i64, Option<Vec<u8>>)>;

/// A basis at which everything that is live is visible.
const LIVE: i64 = OPEN - 1;

/// The touched entities of a commit.
pub(super) struct Workspace<'a> {
    pages: &'a Pages,
    sequence: u64,
    system_time: i64,
    entities: BTreeMap<Vec<u8>, Edit<'a, Pages>>,
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

    /// Applies a change. Pages that this commit has reached before, in an earlier life of the process, are left alone.
    /// `false`: no page is other than it was.
    pub(super) fn apply(&mut self, change: &Change) -> Result<bool, Error> {
        let key = keys::entity_key(&change.entity_type, &change.entity_id);
        self.entity(&key)?
            .assert_over(change.span, change.row.as_deref())
    }

    /// Forgets all that was ever said about the entity at `key`; every answer at a basis before its next change is "erased".
    ///
    /// **Cost**: all its pages, when written.
    pub(super) fn erase(&mut self, key: &[u8]) -> Result<(), Error> {
        self.entity(key)?.erase();
        Ok(())
    }

    /// Whether nothing is held of the entity at `key`.
    pub(super) fn is_empty(&mut self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.entity(key)?.is_empty())
    }

    /// What is live of the entity at `key` over `span`, clipped to it, in order: contiguous points of one owner once, with its
    /// row (`None`: ended).
    pub(super) fn live_over(&mut self, key: &[u8], span: Span) -> Result<Vec<Segment>, Error> {
        self.entity(key)?.live(span)
    }

    /// The basis up to which every answer about the entity at `key` is "erased", exclusive.
    pub(super) fn erased_until(&mut self, key: &[u8]) -> Result<Option<i64>, Error> {
        Ok(self.entity(key)?.erased_until())
    }

    /// Who owns `point` of the entity at `key` as it stands.
    pub(super) fn owner(&mut self, key: &[u8], point: i64) -> Result<Owner, Error> {
        let entity = self.entity(key)?;
        let Some((since, row)) = owner_at(&entity.leaf(point)?.page, point) else {
            return Ok(None);
        };
        let row = row.map(|row| entity.row_bytes(&row)).transpose()?;
        Ok(Some((since, row)))
    }

    /// The first point after `point` at which the entity's timeline, as it stands, changes owner.
    pub(super) fn next_change(
        &mut self,
        entity_type: &str,
        entity_id: &str,
        point: i64,
    ) -> Result<i64, Error> {
        let entity = self.entity(&keys::entity_key(entity_type, entity_id))?;
        let page = &entity.leaf(point)?.page;
        let owner = owner_at(page, point);
        let mut reached = page_change(page, point);
        let mut page_end = page.span.to;
        while reached == page_end && reached != OPEN {
            let page = &entity.leaf(reached)?.page;
            if owner_at(page, reached) != owner {
                break;
            }
            (reached, page_end) = (page_change(page, reached), page.span.to);
        }
        Ok(reached)
    }

    /// Brings the changed pages into the form in which they are stored, and counts the versions that the commit made.
    pub(super) fn seal(&mut self) -> u64 {
        self.entities.values_mut().map(Edit::seal).sum()
    }

    /// Writes the changed pages. Not durable before the next flush.
    pub(super) fn write(self) -> Result<(), Error> {
        for (key, entity) in &self.entities {
            self.pages.write(key, &entity.writes())?;
        }
        Ok(())
    }

    fn entity(&mut self, key: &[u8]) -> Result<&mut Edit<'a, Pages>, Error> {
        if !self.entities.contains_key(key) {
            let edit = Edit::open(self.pages, key, self.sequence, self.system_time)?;
            self.entities.insert(key.to_vec(), edit);
        }
        self.entities
            .get_mut(key)
            .ok_or_else(|| Error::damaged("the workspace", "an entity is gone"))
    }
}

/// Who owns `point`: since when, and the row (`None`: ended). `None`: nothing is known.
fn owner_at(page: &Page, point: i64) -> Option<(i64, Option<Row>)> {
    timeline::as_of(&page.rects, point, LIVE)
        .map(|run| (run.system_from, page.row(run.state).cloned()))
}

/// The next change of owner in the page, its end at the latest.
fn page_change(page: &Page, point: i64) -> i64 {
    timeline::next_change(&page.rects, point).min(page.span.to)
}
