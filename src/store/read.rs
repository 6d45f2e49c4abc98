//! Answers, one by one.

use std::{collections::HashMap, ops::RangeInclusive};

use super::{
    Result, Store,
    error::Error,
    keys,
    model::{Answer, EntityType, Version},
    page::{ENDED, Page},
    pages::{Head, Pages},
    row,
    timeline::{self, OPEN, Rect, Span},
};
use crate::{
    kv,
    time::{Interval, SysTime, ValidTime},
};

impl Store {
    /// What is there at (`valid`, `basis`). Blocks.
    ///
    /// **Cost**: one `get` while the entity's versions fit one page; beyond that one more seek, and one for each further
    /// page over which the answer's range of valid time extends.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id that is empty or too long; [`Error::BasisNotPinned`]; [`Error::Damaged`]; storage faults.
    pub fn get(
        &self,
        entity_type: &EntityType,
        id: &str,
        valid: ValidTime,
        basis: SysTime,
    ) -> Result<Answer> {
        let basis = self.check_basis(basis)?;
        check_id("entity_id", id)?;
        self.answer(entity_type, id, valid, basis)
    }

    /// What is there at (`valid`, `basis`) for each id, in the order asked. Blocks.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_many(
        &self,
        entity_type: &EntityType,
        ids: &[String],
        valid: ValidTime,
        basis: SysTime,
    ) -> Result<Vec<Answer>> {
        let basis = self.check_basis(basis)?;
        for (index, id) in ids.iter().enumerate() {
            check_id(&format!("entity_ids[{index}]"), id)?;
        }
        ids.iter()
            .map(|id| self.answer(entity_type, id, valid, basis))
            .collect()
    }

    fn answer(
        &self,
        entity_type: &EntityType,
        id: &str,
        valid: ValidTime,
        basis: i64,
    ) -> Result<Answer> {
        let key = keys::entity_key(entity_type.name(), id);
        let pages = &self.inner.pages;
        let found = as_of(pages, &key, pages.head(&key)?, valid.micros(), basis)?;
        Ok(match found {
            None => Answer::NotKnown,
            Some(found) => {
                let version = version(entity_type, id, &found.rect, found.row())?;
                if version.ended {
                    Answer::Ended(version)
                } else {
                    Answer::Value(version)
                }
            }
        })
    }

    /// Every entity of the type that has a value at (`valid`, `basis`) and whose id comes after `after` in byte order, by id.
    /// Blocks.
    ///
    /// **Cost**: one range scan over the type's entities.
    pub fn scan(
        &self,
        entity_type: &EntityType,
        valid: ValidTime,
        basis: SysTime,
        after: Option<&str>,
    ) -> impl Iterator<Item = Result<Version>> + Send + use<> {
        let (refusal, basis) = match self.check_basis(basis) {
            Ok(basis) => (None, basis),
            Err(error) => (Some(Err(error)), 0),
        };
        let pages = self.inner.pages.clone();
        let prefix_bytes = keys::type_prefix(entity_type.name()).len();
        let (from, to) = keys::type_range(entity_type.name(), after);
        let entity_type = entity_type.clone();
        let answer_of = move |entry: Result<(kv::Slice, Head)>| -> Result<Option<Version>> {
            let (key, head) = entry?;
            let Some(found) = as_of(&pages, &key, head, valid.micros(), basis)? else {
                return Ok(None);
            };
            let Some(row) = found.row() else {
                return Ok(None);
            };
            let id = entity_id(&key, prefix_bytes)?;
            version(&entity_type, &id, &found.rect, Some(row)).map(Some)
        };
        let heads = refusal
            .is_none()
            .then(|| self.inner.pages.heads(&from, &to));
        let answers = heads
            .into_iter()
            .flatten()
            .filter_map(move |entry| answer_of(entry).transpose());
        refusal.into_iter().chain(answers)
    }

    /// The versions of one entity whose rectangle meets `valid` × `system`, whole, as known at `basis`: later ones are not
    /// there, later ends are open. By `valid.from`, then `system.from`; ended ranges are versions too. Blocks.
    ///
    /// **Cost**: all pages of the entity.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn history(
        &self,
        entity_type: &EntityType,
        id: &str,
        valid: Interval<ValidTime>,
        system: Interval<SysTime>,
        basis: SysTime,
    ) -> Result<Vec<Version>> {
        let basis = self.check_basis(basis)?;
        check_id("entity_id", id)?;
        let key = keys::entity_key(entity_type.name(), id);
        known_versions(&self.inner.pages, &key, basis)?
            .iter()
            .map(|(rect, row)| version(entity_type, id, rect, row.as_deref()))
            .filter(|version| match version {
                Ok(version) => version.valid.overlaps(&valid) && version.system.overlaps(&system),
                Err(_) => true,
            })
            .collect()
    }
}

/// A version that was found, with the page that holds its row.
pub(super) struct Found {
    pub(super) rect: Rect,
    page: Page,
}

impl Found {
    /// Its row; `None`: ended.
    pub(super) fn row(&self) -> Option<&[u8]> {
        self.page.row(self.rect.state)
    }
}

/// What a reader at `basis` sees at `point`, with the whole range of valid time over which its owner holds.
pub(super) fn as_of(
    pages: &Pages,
    key: &[u8],
    head: Head,
    point: i64,
    basis: i64,
) -> Result<Option<Found>> {
    let (page, is_whole) = match head {
        Head::Absent => return Ok(None),
        Head::Inline(page) => (page, true),
        Head::Spilled => (pages.leaf(key, point)?.page, false),
    };
    let Some(rect) = timeline::as_of(&page.rects, point, basis) else {
        return Ok(None);
    };
    let mut found = Found { rect, page };
    if !is_whole {
        extend(pages, key, &mut found, basis)?;
    }
    Ok(Some(found))
}

/// Extends a version over the leaves beside its own, where the same owner goes on.
fn extend(pages: &Pages, key: &[u8], found: &mut Found, basis: i64) -> Result<()> {
    let mut edge = found.page.span.from;
    while found.rect.from == edge && edge != i64::MIN {
        let page = pages.leaf(key, edge - 1)?.page;
        match timeline::as_of(&page.rects, edge - 1, basis) {
            Some(run) if is_same_owner(found, &page, &run) => found.rect.from = run.from,
            _ => break,
        }
        edge = page.span.from;
    }
    let mut edge = found.page.span.to;
    while found.rect.to == edge && edge != OPEN {
        let page = pages.leaf(key, edge)?.page;
        match timeline::as_of(&page.rects, edge, basis) {
            Some(run) if is_same_owner(found, &page, &run) => found.rect.to = run.to,
            _ => break,
        }
        edge = page.span.to;
    }
    Ok(())
}

fn is_same_owner(found: &Found, page: &Page, run: &Rect) -> bool {
    run.system_from == found.rect.system_from && page.row(run.state) == found.row()
}

/// Hands every version that a reader at `basis` sees over `span` to `each`, clipped to it, in order of valid time; `None`
/// for the row of an ended one. A version that leaves have cut comes whole.
pub(super) fn each_visible(
    pages: &Pages,
    key: &[u8],
    head: Head,
    span: Span,
    basis: i64,
    mut each: impl FnMut(&Rect, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    match head {
        Head::Absent => Ok(()),
        Head::Inline(page) => timeline::visible(&page.rects, basis)
            .filter_map(|run| run.clipped(span))
            .try_for_each(|run| each(&run, page.row(run.state))),
        Head::Spilled => {
            let mut held: Option<(Rect, Page)> = None;
            let mut point = span.from;
            while point < span.to {
                let page = pages.leaf(key, point)?.page;
                let part = Span {
                    from: point,
                    to: page.span.to.min(span.to),
                };
                for run in timeline::visible(&page.rects, basis).filter_map(|run| run.clipped(part))
                {
                    match &mut held {
                        Some((before, its)) if is_continued(before, its, &run, &page) => {
                            before.to = run.to
                        }
                        _ => {
                            if let Some((before, its)) = held.replace((run, page.clone())) {
                                each(&before, its.row(before.state))?;
                            }
                        }
                    }
                }
                point = part.to;
            }
            held.map_or(Ok(()), |(before, its)| each(&before, its.row(before.state)))
        }
    }
}

/// As [`each_visible`] over the leaves that meet `points`, with the first version whole to its left: for callers that look
/// up points in that range and want to know since when the answer holds.
pub(super) fn each_visible_whole(
    pages: &Pages,
    key: &[u8],
    head: Head,
    points: RangeInclusive<i64>,
    basis: i64,
    mut each: impl FnMut(&Rect, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let Head::Spilled = head else {
        return each_visible(pages, key, head, Span::ALL, basis, each);
    };
    let span = Span {
        from: *points.start(),
        to: points.end().saturating_add(1),
    };
    each_visible(pages, key, head, span, basis, |rect, row| {
        let mut rect = *rect;
        if rect.from == span.from
            && let Some(found) = as_of(pages, key, Head::Spilled, rect.from, basis)?
        {
            rect.from = found.rect.from;
        }
        each(&rect, row)
    })
}

fn is_continued(before: &Rect, its_page: &Page, run: &Rect, page: &Page) -> bool {
    before.to == run.from
        && before.system_from == run.system_from
        && its_page.row(before.state) == page.row(run.state)
}

/// All versions of an entity as known at `basis`, with their rows, in canonical order.
pub(super) fn known_versions(
    pages: &Pages,
    key: &[u8],
    basis: i64,
) -> Result<Vec<(Rect, Option<Vec<u8>>)>> {
    let mut rects = Vec::new();
    let mut states: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut absorb = |page: &Page, part: Span| {
        for mut rect in timeline::known_at(&page.rects, basis)
            .into_iter()
            .filter_map(|rect| rect.clipped(part))
        {
            rect.state = match page.row(rect.state) {
                None => ENDED,
                Some(row) => match states.get(row) {
                    Some(&state) => state,
                    None => {
                        let state = u32::try_from(states.len() + 1).unwrap_or(u32::MAX);
                        states.insert(row.to_vec(), state);
                        state
                    }
                },
            };
            rects.push(rect);
        }
    };
    match pages.head(key)? {
        Head::Absent => {}
        Head::Inline(page) => absorb(&page, Span::ALL),
        Head::Spilled => {
            let mut point = i64::MIN;
            while point < OPEN {
                let page = pages.leaf(key, point)?.page;
                absorb(
                    &page,
                    Span {
                        from: point,
                        to: page.span.to,
                    },
                );
                point = page.span.to;
            }
        }
    }
    timeline::coalesce(&mut rects);
    let rows: HashMap<u32, Vec<u8>> = states
        .into_iter()
        .map(|(row, state)| (state, row))
        .collect();
    Ok(rects
        .into_iter()
        .map(|rect| (rect, rows.get(&rect.state).cloned()))
        .collect())
}

fn version(entity_type: &EntityType, id: &str, rect: &Rect, row: Option<&[u8]>) -> Result<Version> {
    let attributes = match row {
        None => Vec::new(),
        Some(row) => row::decode(entity_type, row).map_err(|malformed| {
            Error::damaged(
                format!("a row of {} {id:?}", entity_type.name()),
                malformed.0,
            )
        })?,
    };
    Ok(Version {
        entity_id: id.to_owned(),
        attributes,
        valid: Interval {
            from: ValidTime::from_micros(rect.from),
            to: (rect.to != OPEN).then(|| ValidTime::from_micros(rect.to)),
        },
        system: Interval {
            from: SysTime::from_micros(rect.system_from),
            to: (rect.system_to != OPEN).then(|| SysTime::from_micros(rect.system_to)),
        },
        ended: row.is_none(),
    })
}

pub(super) fn entity_id(key: &[u8], prefix_bytes: usize) -> Result<String> {
    keys::entity_id(key, prefix_bytes).ok_or_else(|| {
        Error::damaged(
            format!("page {}", key.escape_ascii()),
            "its key names no entity",
        )
    })
}

fn check_id(field: &str, id: &str) -> Result<()> {
    super::validate::check_entity_id(field, id).map_err(|violation| Error::Invalid {
        violations: vec![violation],
    })
}
