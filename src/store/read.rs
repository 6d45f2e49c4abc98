//! Answers, one by one.

use std::ops::RangeInclusive;

use super::{
    Result, Store, codec,
    error::Error,
    history::known_versions,
    keys,
    model::{Answer, EntityType, Version},
    page::Row,
    page_rows::StoredRow,
    page_view::PageView,
    pages::{self, Head, PageStats, Pages, Source},
    path::{self, Path},
    row,
    timeline::{OPEN, Rect, Span},
};
use crate::{
    kv::Slice,
    time::{Interval, SysTime, ValidTime},
};

impl Store {
    /// What is there at (`valid`, `basis`). Blocks.
    ///
    /// **Cost**: one `get` while the entity's versions fit one page; beyond that one page for each level of the entity's tree at
    /// that basis, one more for a basis before its latest root, and one for each further page over which the answer's range
    /// of valid time extends. At 1,000,000 corrections that is up to 6 pages.
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
        let basis = self.check_readable(entity_type, basis)?;
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
        let basis = self.check_readable(entity_type, basis)?;
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
        let seen = as_of(pages, &key, pages.head(&key)?, valid.micros(), basis)?;
        Ok(match seen {
            Seen::Nothing => Answer::NotKnown,
            Seen::Erased => Answer::Erased,
            Seen::Version(found) => {
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
        let (refusal, basis) = match self.check_readable(entity_type, basis) {
            Ok(basis) => (None, basis),
            Err(error) => (Some(Err(error)), 0),
        };
        let pages = self.inner.pages.clone();
        let prefix_bytes = keys::type_prefix(entity_type.name()).len();
        let (from, to) = keys::type_range(entity_type.name(), after);
        let entity_type = entity_type.clone();
        let answer_of = move |entry: Result<(Slice, Head)>| -> Result<Option<Version>> {
            let (key, head) = entry?;
            let Seen::Version(found) = as_of(&pages, &key, head, valid.micros(), basis)? else {
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

    /// How many pages point reads have touched since the store was opened.
    pub fn page_stats(&self) -> PageStats {
        self.inner.pages.stats()
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
        let basis = self.check_readable(entity_type, basis)?;
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

/// What a reader sees at a point.
#[derive(Debug)]
pub(super) enum Seen {
    /// Nothing was ever said.
    Nothing,
    /// All that was said was erased.
    Erased,
    /// A version.
    Version(Found),
}

/// A version that was found, with its row.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) rect: Rect,
    row: Option<Slice>,
}

impl Found {
    /// Its row; `None`: ended.
    pub(super) fn row(&self) -> Option<&[u8]> {
        self.row.as_deref()
    }
}

/// What a reader at `basis` sees at `point`, with the whole range of valid time over which its owner holds.
pub(super) fn as_of(pages: &Pages, key: &[u8], head: Head, point: i64, basis: i64) -> Result<Seen> {
    let (seen, touched) = seen_at(pages, key, head, point, basis)?;
    pages.count_read(touched);
    Ok(seen)
}

/// As [`as_of`], with the count of pages that it took.
pub(super) fn seen_at(
    source: &impl Source,
    key: &[u8],
    head: Head,
    point: i64,
    basis: i64,
) -> Result<(Seen, u64)> {
    path::from_head(source, key, head, |head| {
        if head.is_erased_at(basis) {
            return Ok((Seen::Erased, 1));
        }
        let Head::Root(root) = head else {
            return Ok((Seen::Nothing, 1));
        };
        let (seen, touched) = if root.header.level == 0 && root.header.since <= basis {
            let seen = root.find(point, basis);
            (seen.map_err(|malformed| pages::damaged(key, malformed))?, 1)
        } else {
            let mut path = Path::start(source, key, root.clone(), basis)?;
            (path.find_whole(point)?, path.touched())
        };
        let Some((rect, row)) = seen else {
            return Ok((Seen::Nothing, touched));
        };
        let row = row
            .map(|row| path::row_bytes(source, key, &row))
            .transpose()?;
        Ok((Seen::Version(Found { rect, row }), touched))
    })
}

/// Hands every version that a reader at `basis` sees over `span` to `each`, clipped to it, in order of valid time; `None`
/// for the row of an ended one. A version that leaves have cut comes whole.
pub(super) fn each_visible(
    source: &impl Source,
    key: &[u8],
    head: Head,
    span: Span,
    basis: i64,
    mut each: impl FnMut(&Rect, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    if let Some(leaf) = only_leaf(&head, basis) {
        let done = each_run(leaf, span, basis, &mut each);
        if done.map_err(|malformed| pages::damaged(key, malformed))?? {
            return Ok(());
        }
    }
    let runs = path::from_head(source, key, head, |head| {
        let (runs, _) = visible_runs(source, key, head, span, basis, usize::MAX)?;
        Ok(runs)
    })?;
    runs.iter()
        .try_for_each(|found| each(&found.rect, found.row()))
}

/// As [`each_visible`] over the leaves that meet `points`, with the first and the last version whole: for callers that look
/// up points in that range and want to know over which range the answer holds.
pub(super) fn each_visible_whole(
    source: &impl Source,
    key: &[u8],
    head: Head,
    points: RangeInclusive<i64>,
    basis: i64,
    mut each: impl FnMut(&Rect, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let span = Span {
        from: *points.start(),
        to: points.end().saturating_add(1),
    };
    // All of an ordinary entity is at hand.
    if only_leaf(&head, basis).is_some() {
        return each_visible(source, key, head, Span::ALL, basis, each);
    }
    let runs = path::from_head(source, key, head, |head| {
        let (mut runs, _) = visible_runs(source, key, head, span, basis, usize::MAX)?;
        let last = runs.len().saturating_sub(1);
        for (index, run) in runs.iter_mut().enumerate() {
            if (index == 0 && run.rect.from == span.from)
                || (index == last && run.rect.to == span.to)
            {
                let point = run.rect.from;
                let (seen, _) = seen_at(source, key, head.clone(), point, basis)?;
                if let Seen::Version(found) = seen {
                    run.rect = found.rect;
                }
            }
        }
        Ok(runs)
    })?;
    runs.iter()
        .try_for_each(|found| each(&found.rect, found.row()))
}

/// What [`each_visible`] hands out over the start of `span`, and the point up to which that is: the end of the page in which
/// there were `max_runs` of them, or of the span.
pub(super) fn visible_start(
    source: &impl Source,
    key: &[u8],
    head: Head,
    span: Span,
    basis: i64,
    max_runs: usize,
) -> Result<(Vec<Found>, i64)> {
    path::from_head(source, key, head, |head| {
        visible_runs(source, key, head, span, basis, max_runs)
    })
}

/// The leaf that is all there is for readers at `basis`.
fn only_leaf(head: &Head, basis: i64) -> Option<&PageView> {
    match head {
        Head::Root(root)
            if root.header.level == 0
                && root.header.since <= basis
                && !head.is_erased_at(basis) =>
        {
            Some(root)
        }
        Head::Root(_) | Head::Absent => None,
    }
}

/// Hands the runs of a leaf to `each`, straight from its bytes. `false`, and nothing handed: some of its rows lie outside.
fn each_run(
    leaf: &PageView,
    span: Span,
    basis: i64,
    each: &mut impl FnMut(&Rect, Option<&[u8]>) -> Result<()>,
) -> codec::Result<Result<bool>> {
    let rows = leaf.rows()?;
    if !rows.are_inside() {
        return Ok(Ok(false));
    }
    for run in leaf.runs(basis)? {
        let Some(run) = run?.clipped(span) else {
            continue;
        };
        let row = match rows.of(&run)? {
            Some(StoredRow::Inside(bytes)) => Some(bytes),
            Some(StoredRow::Outside(_)) | None => None,
        };
        if let Err(error) = each(&run, row) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(true))
}

/// Adds what is seen in a leaf's part to the runs before it.
fn add_runs(
    leaf: &PageView,
    part: Span,
    basis: i64,
    runs: &mut Vec<(Rect, Option<Row>)>,
) -> codec::Result<()> {
    let rows = leaf.rows()?;
    for run in leaf.runs(basis)? {
        let Some(run) = run?.clipped(part) else {
            continue;
        };
        let row = rows.of(&run)?.map(|row| leaf.shared(row));
        match runs.last_mut() {
            Some((before, its))
                if before.to == run.from
                    && before.system_from == run.system_from
                    && *its == row =>
            {
                before.to = run.to;
            }
            _ => runs.push((run, row)),
        }
    }
    Ok(())
}

fn visible_runs(
    source: &impl Source,
    key: &[u8],
    head: &Head,
    span: Span,
    basis: i64,
    max_runs: usize,
) -> Result<(Vec<Found>, i64)> {
    let mut runs: Vec<(Rect, Option<Row>)> = Vec::new();
    let Head::Root(root) = head else {
        return Ok((Vec::new(), span.to));
    };
    if head.is_erased_at(basis) {
        return Ok((Vec::new(), span.to));
    }
    let mut path = Path::start(source, key, root.clone(), basis)?;
    let mut point = span.from;
    while point < span.to && runs.len() < max_runs {
        let leaf = path.leaf(point)?;
        let part = leaf.header.span.intersection(span);
        add_runs(&leaf, part, basis, &mut runs)
            .map_err(|malformed| pages::damaged(key, malformed))?;
        point = part.to;
    }
    let runs: Result<Vec<_>> = runs
        .into_iter()
        .map(|(rect, row)| {
            let row = row
                .map(|row| path::row_bytes(source, key, &row))
                .transpose()?;
            Ok(Found { rect, row })
        })
        .collect();
    Ok((runs?, point))
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
