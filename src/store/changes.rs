//! What commits changed: the commit log walked in order, each commit told as the states before and after it.
//!
//! A record says which ranges of valid time a commit wrote to. What the answers there were just before it and are since is
//! read from the pages, at the basis before its system time and at it: ranges whose answer stayed the same are not told.
//!
//! - Commits are told in the order in which they were made, and chosen by the system time of their versions: of imported
//!   ones, the caller's. Commits that were imported under one system time are one step from one state to another: each tells
//!   that step over the ranges it wrote to.
//! - A type that is being imported is not read, so its commits are left out.
//! - Of an entity that was erased later, earlier records say nothing any more; where one still does, both states are
//!   [`ChangedState::Erased`].
//!
//! **Memory**: one record and about [`MAX_RUNS`] versions of one entity at a time, whatever a commit changed.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Result, Store,
    error::Error,
    keys,
    log::Record,
    log_store::LogStore,
    model::{EntityType, Value},
    pages::Pages,
    read, row,
    timeline::{OPEN, Span},
};
use crate::time::{Interval, SysTime, ValidTime};

/// Versions of one entity that are held at a time.
const MAX_RUNS: usize = 256;
/// Records that one call of [`Changes::next`] looks at before it gives its caller a chance to stop.
const RECORDS_PER_CALL: usize = 256;

/// What is there at a point, without since when.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangedState {
    /// A value: one per attribute of the type, `None` for null.
    Value(Vec<Option<Value>>),
    /// It was said that there is no such entity.
    Ended,
    /// Nothing was ever said.
    NotKnown,
    /// The entity was erased.
    Erased,
}

/// One range of valid time over which a commit changed the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The entity's type.
    pub entity_type: Arc<EntityType>,
    /// Whose answer it is.
    pub entity_id: String,
    /// Where.
    pub valid: Interval<ValidTime>,
    /// Just before the commit.
    pub before: ChangedState,
    /// Since the commit.
    pub after: ChangedState,
}

/// A place between two changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePosition {
    /// All commits up to this one have been told.
    pub sequence: u64,
    /// How far the commit after that has been told.
    pub within: Option<WithinCommit>,
}

/// A place within a commit, in the order of entity type, entity id and valid time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithinCommit {
    /// The entity's type.
    pub entity_type: String,
    /// The entity.
    pub entity_id: String,
    /// Told up to this point of valid time, exclusive.
    pub valid_to: ValidTime,
}

/// What one call of [`Changes::next`] found.
#[derive(Debug)]
pub enum Step {
    /// Changes of one commit: all of them, or some, and the rest next.
    Told {
        /// The commit's place in the log.
        sequence: u64,
        /// The commit's system time; of an imported one, the caller's.
        system_time: SysTime,
        /// In the order of entity type, entity id and valid time. Never empty.
        changes: Vec<Change>,
    },
    /// Nothing yet, and there is more to look at.
    Searching,
    /// Everything up to this basis has been told.
    UpToDate(SysTime),
}

/// A walk over the commit log. Blocks in every call.
#[derive(Debug)]
pub struct Changes {
    store: Store,
    /// `None`: all types.
    types: Option<BTreeSet<String>>,
    /// Commits up to this basis are left out.
    from: SysTime,
    to: SysTime,
    /// The last commit that may have been imported: up to there, system times are in no order.
    last_import: u64,
    position: ChangePosition,
}

/// Reads commit records beside the committer.
#[derive(Debug, Clone)]
pub(super) struct Records(LogStore);

impl Records {
    pub(super) fn new(log: LogStore) -> Self {
        Self(log)
    }

    /// The record of a commit that is there.
    pub(super) fn get(&self, sequence: u64) -> Result<Record> {
        match self.0.get(sequence)? {
            Some((record, _)) => Ok(record),
            None => Err(Error::damaged(
                format!("log record {sequence}"),
                "it is not there",
            )),
        }
    }

    /// The last commit up to `last` whose system time is at or before `basis`; 0 if there is none.
    pub(super) fn last_at_or_before(&self, basis: SysTime, last: u64) -> Result<u64> {
        let (mut known_before, mut known_after) = (0, last + 1);
        while known_after - known_before > 1 {
            let middle = known_before + (known_after - known_before) / 2;
            if self.get(middle)?.system_time <= basis.micros() {
                known_before = middle;
            } else {
                known_after = middle;
            }
        }
        Ok(known_before)
    }
}

impl Store {
    /// Walks what commits changed after basis `from` (`None`: all), or from a place that an earlier walk had reached, up to
    /// basis `to` (`None`: without end). `types`: only these; empty: all. Blocks.
    ///
    /// **Cost**: a search through the log by halves; then, for each commit, its record and the pages that it wrote to.
    ///
    /// # Errors
    /// [`Error::UnknownType`]; [`Error::BasisNotPinned`] for `to`; a place beyond the last commit is [`Error::Invalid`];
    /// [`Error::Damaged`]; storage faults.
    pub fn changes(
        &self,
        from: Option<SysTime>,
        to: Option<SysTime>,
        types: &[String],
        resume: Option<ChangePosition>,
    ) -> Result<Changes> {
        for name in types {
            self.entity_type(name)?;
        }
        if let Some(to) = to {
            self.check_basis(to)?;
        }
        let (last, _) = self.last_commit();
        let position = match (resume, from) {
            (Some(position), _) if position.sequence > last => {
                return Err(Error::invalid(
                    "resume_token",
                    "it is not of this store: it lies after the last commit",
                ));
            }
            (Some(position), _) => position,
            (None, None) => ChangePosition::after(0),
            (None, Some(from)) => {
                let mut start = self.inner.records.last_at_or_before(from, last)?;
                for import in self.inner.published.imports.read().values() {
                    if import.last_time > from.micros() {
                        start = start.min(import.first_sequence.saturating_sub(1));
                    }
                }
                ChangePosition::after(start)
            }
        };
        let imports = self.inner.published.imports.read();
        let last_import = imports.values().map(|import| import.last_sequence).max();
        Ok(Changes {
            store: self.clone(),
            types: (!types.is_empty()).then(|| types.iter().cloned().collect()),
            from: from.unwrap_or(SysTime::MIN),
            to: to.unwrap_or(SysTime::from_micros(i64::MAX)),
            last_import: last_import.unwrap_or(0),
            position,
        })
    }

    /// Returns once there is a commit after the one of this sequence.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn commit_after(&self, sequence: u64) -> Result<()> {
        let mut published = self.inner.published.last.subscribe();
        let waited = published.wait_for(|last| last.0 > sequence).await;
        waited.map(drop).map_err(|_| Error::Closed)
    }

    /// The sequence and system time of the last durable commit.
    pub(super) fn last_commit(&self) -> (u64, SysTime) {
        let (sequence, system_time) = *self.inner.published.last.borrow();
        (sequence, SysTime::from_micros(system_time))
    }
}

impl ChangePosition {
    /// All up to and with this commit has been told.
    fn after(sequence: u64) -> Self {
        Self {
            sequence,
            within: None,
        }
    }
}

impl Changes {
    /// Where the walk stands: what the last [`Step::Told`] told lies before it.
    pub fn position(&self) -> &ChangePosition {
        &self.position
    }

    /// Goes on, and tells at most about `max_changes`.
    ///
    /// # Errors
    /// [`Error::Damaged`]; storage faults.
    pub fn next(&mut self, max_changes: usize) -> Result<Step> {
        let (last, basis) = self.store.last_commit();
        let basis = basis.min(self.to);
        for _ in 0..RECORDS_PER_CALL {
            let sequence = self.position.sequence + 1;
            if sequence > last {
                return Ok(Step::UpToDate(basis));
            }
            let record = self.store.inner.records.get(sequence)?;
            if record.system_time > self.to.micros() && sequence > self.last_import {
                return Ok(Step::UpToDate(basis));
            }
            let at = told_time(&record);
            if at <= self.from.micros() || at > self.to.micros() {
                self.position = ChangePosition::after(sequence);
                continue;
            }
            let changes = self.tell(&record, max_changes.max(1))?;
            if !changes.is_empty() {
                return Ok(Step::Told {
                    sequence,
                    system_time: SysTime::from_micros(told_time(&record)),
                    changes,
                });
            }
        }
        Ok(Step::Searching)
    }

    /// Tells a record from where the walk stands in it, and moves on.
    fn tell(&mut self, record: &Record, max_changes: usize) -> Result<Vec<Change>> {
        let mut told = Vec::new();
        let mut within = self.position.within.take();
        for (type_name, id, spans) in written(record, self.types.as_ref()) {
            if self.store.check_imported(&type_name).is_err() {
                continue;
            }
            let reached = match &within {
                Some(place) if (&place.entity_type, &place.entity_id) > (&type_name, &id) => {
                    continue;
                }
                Some(place) if (&place.entity_type, &place.entity_id) == (&type_name, &id) => {
                    place.valid_to.micros()
                }
                Some(_) | None => i64::MIN,
            };
            let entity = Told {
                pages: &self.store.inner.pages,
                key: keys::entity_key(&type_name, &id),
                entity_type: self.store.entity_type(&type_name)?,
                id,
                at: told_time(record),
            };
            for span in entity.changed(spans)? {
                let mut point = span.from.max(reached);
                while point < span.to {
                    let part = Span {
                        from: point,
                        to: span.to,
                    };
                    point = entity.tell(part, &mut told)?;
                    if told.len() >= max_changes {
                        self.position.within = Some(WithinCommit {
                            entity_type: type_name,
                            entity_id: entity.id,
                            valid_to: ValidTime::from_micros(point),
                        });
                        return Ok(told);
                    }
                }
            }
            within = None;
        }
        self.position = ChangePosition::after(record.sequence);
        Ok(told)
    }
}

/// The system time at which a record's changes are seen.
fn told_time(record: &Record) -> i64 {
    record.at()
}

/// What a record wrote to: per entity, in order, the ranges of valid time, disjoint and in order.
fn written(
    record: &Record,
    types: Option<&BTreeSet<String>>,
) -> impl Iterator<Item = (String, String, Vec<Span>)> {
    let mut spans: Vec<_> = record
        .entries
        .iter()
        .filter_map(|entry| {
            let (entity_type, id) = entry.entity()?;
            Some((entity_type, id, entry.span()))
        })
        .filter(|(entity_type, _, _)| types.is_none_or(|types| types.contains(*entity_type)))
        .collect();
    spans.sort_by_key(|(entity_type, id, span)| (*entity_type, *id, span.from));
    let grouped: Vec<_> = spans
        .chunk_by(|a, b| (a.0, a.1) == (b.0, b.1))
        .map(|group| {
            let spans = united(group.iter().map(|(_, _, span)| *span));
            (group[0].0.to_owned(), group[0].1.to_owned(), spans)
        })
        .collect();
    grouped.into_iter()
}

/// Spans in order of their start, as disjoint ones.
fn united(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut united: Vec<Span> = Vec::new();
    for span in spans.filter(|span| !span.is_empty()) {
        match united.last_mut() {
            Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
            _ => united.push(span),
        }
    }
    united
}

/// One entity that a commit wrote to.
struct Told<'a> {
    pages: &'a Pages,
    key: Vec<u8>,
    entity_type: Arc<EntityType>,
    id: String,
    /// The commit's system time.
    at: i64,
}

/// A state over a range, as stored.
#[derive(Debug, Clone, PartialEq)]
enum Stored {
    Row(Vec<u8>),
    Ended,
    NotKnown,
    Erased,
}

impl Told<'_> {
    /// The ranges that the commit may have changed. The first put after an erasure changes all of them: what was erased at
    /// every point is not known from then on, except where the put says otherwise.
    fn changed(&self, written: Vec<Span>) -> Result<Vec<Span>> {
        let head = self.pages.head(&self.key)?;
        if head.is_erased_at(self.at.saturating_sub(1)) {
            return Ok(vec![Span::ALL]);
        }
        Ok(written)
    }

    /// Appends what changed over the start of `span`; returns the point up to which that is.
    fn tell(&self, span: Span, told: &mut Vec<Change>) -> Result<i64> {
        let before = self.runs(span, self.at.saturating_sub(1))?;
        let after = self.runs(span, self.at)?;
        let reached = before.reached.min(after.reached);
        let part = Span {
            from: span.from,
            to: reached,
        };
        for (range, before, after) in differences(&before.runs, &after.runs, part) {
            told.push(Change {
                entity_type: Arc::clone(&self.entity_type),
                entity_id: self.id.clone(),
                valid: Interval {
                    from: ValidTime::from_micros(range.from),
                    to: (range.to != OPEN).then(|| ValidTime::from_micros(range.to)),
                },
                before: self.state(before)?,
                after: self.state(after)?,
            });
        }
        Ok(reached)
    }

    /// What is visible at `basis` over the start of `span`, gaps included.
    fn runs(&self, span: Span, basis: i64) -> Result<Runs> {
        let head = self.pages.head(&self.key)?;
        if head.is_erased_at(basis) {
            return Ok(Runs {
                runs: vec![(span.from, Stored::Erased)],
                reached: span.to,
            });
        }
        let (visible, reached) =
            read::visible_start(self.pages, &self.key, head, span, basis, MAX_RUNS)?;
        let mut runs = Vec::with_capacity(visible.len() + 1);
        let mut covered_to = span.from;
        for found in visible {
            if covered_to < found.rect.from {
                runs.push((covered_to, Stored::NotKnown));
            }
            let row = found.row().map(<[u8]>::to_vec);
            runs.push((found.rect.from, row.map_or(Stored::Ended, Stored::Row)));
            covered_to = found.rect.to;
        }
        if covered_to < reached {
            runs.push((covered_to, Stored::NotKnown));
        }
        Ok(Runs { runs, reached })
    }

    fn state(&self, stored: Stored) -> Result<ChangedState> {
        Ok(match stored {
            Stored::Row(row) => {
                ChangedState::Value(row::decode(&self.entity_type, &row).map_err(|malformed| {
                    Error::damaged(
                        format!("a row of {} {:?}", self.entity_type.name(), self.id),
                        malformed.0,
                    )
                })?)
            }
            Stored::Ended => ChangedState::Ended,
            Stored::NotKnown => ChangedState::NotKnown,
            Stored::Erased => ChangedState::Erased,
        })
    }
}

/// States by where they start, without gaps, up to `reached`.
struct Runs {
    runs: Vec<(i64, Stored)>,
    reached: i64,
}

/// The parts of `span` over which `before` and `after` differ, equal neighbours joined. An entity that is erased in both is
/// told too: that is the change.
fn differences(
    before: &[(i64, Stored)],
    after: &[(i64, Stored)],
    span: Span,
) -> Vec<(Span, Stored, Stored)> {
    let mut found: Vec<(Span, Stored, Stored)> = Vec::new();
    let (mut old, mut new) = (0, 0);
    let mut from = span.from;
    while from < span.to
        && let (Some((_, was)), Some((_, is))) = (before.get(old), after.get(new))
    {
        let next_old = before.get(old + 1).map_or(span.to, |next| next.0);
        let next_new = after.get(new + 1).map_or(span.to, |next| next.0);
        let to = next_old.min(next_new).min(span.to);
        if was != is || *was == Stored::Erased {
            match found.last_mut() {
                Some((last, a, b)) if last.to == from && a == was && b == is => last.to = to,
                _ => found.push((Span { from, to }, was.clone(), is.clone())),
            }
        }
        old += usize::from(next_old <= to);
        new += usize::from(next_new <= to);
        from = to;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Stored {
        Stored::Row(text.as_bytes().to_vec())
    }

    fn span(from: i64, to: i64) -> Span {
        Span { from, to }
    }

    #[test]
    fn only_what_differs_is_told_and_neighbours_are_joined() {
        let before = [(0, row("a")), (10, Stored::NotKnown), (20, row("b"))];
        let after = [(0, row("a")), (5, row("c")), (8, row("c")), (25, row("b"))];
        assert_eq!(
            differences(&before, &after, span(0, 30)),
            [
                (span(5, 10), row("a"), row("c")),
                (span(10, 20), Stored::NotKnown, row("c")),
                (span(20, 25), row("b"), row("c")),
            ]
        );
        assert!(differences(&before, &before, span(0, 30)).is_empty());
        assert!(differences(&before, &after, span(0, 5)).is_empty());
    }

    #[test]
    fn spans_that_touch_are_one() {
        let spans = [span(0, 5), span(3, 4), span(5, 7), span(9, 9), span(9, 12)];
        assert_eq!(united(spans.into_iter()), [span(0, 7), span(9, 12)]);
    }
}
