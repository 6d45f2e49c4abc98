//! What readers at two bases see of one entity, side by side.
//!
//! Readers look in three ways: at the state at one instant, at the states at any instant of a range, at the versions of a
//! window as rows. [`Comparison`] says where each of them would first see another answer at the later basis than at the
//! earlier one, if only some columns are looked at. What differs and differs back is no difference.

use std::sync::Arc;

use super::{
    Result, Store,
    error::Error,
    keys,
    model::{EntityType, Value},
    read, row,
    timeline::{OPEN, Span},
};
use crate::time::{Interval, SysTime, ValidTime};

/// Columns of an entity type that a reader looks at. Whether there is a value at all is always looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ComparedColumns {
    /// Attributes, by their place in the type.
    pub attributes: Vec<usize>,
    /// Since when a version is valid.
    pub valid_from: bool,
    /// Until when.
    pub valid_to: bool,
}

/// The first point at which a reader would see another answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The point.
    pub valid_time: ValidTime,
    /// The column that differs there; `None`: whether there is a value at all.
    pub column: Option<String>,
    /// Since which system time the later basis has this answer there; `None`: it knows nothing there.
    pub since: Option<SysTime>,
}

/// What is seen of one entity over a range of valid time at two bases.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    entity_type: Arc<EntityType>,
    before: Vec<Run>,
    after: Vec<Run>,
}

/// A version as a reader sees it. Two runs of one comparison do not overlap.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    span: Span,
    since: i64,
    /// `None`: ended.
    values: Option<Vec<Option<Value>>>,
}

impl Store {
    /// What readers at bases `before` and `after` see of an entity over `within`. An entity that is erased at a basis is not
    /// seen there. Blocks.
    ///
    /// **Cost**: two heads, and the pages that meet the range. **Memory**: the versions that are seen.
    ///
    /// # Errors
    /// [`Error::BasisNotPinned`]; [`Error::Importing`]; damaged pages; storage faults.
    pub fn compare(
        &self,
        entity_type: &Arc<EntityType>,
        id: &str,
        within: Interval<ValidTime>,
        before: SysTime,
        after: SysTime,
    ) -> Result<Comparison> {
        let span = span_of(within);
        let runs = |basis| self.runs(entity_type, id, span, basis);
        Ok(Comparison {
            entity_type: Arc::clone(entity_type),
            before: runs(before)?,
            after: runs(after)?,
        })
    }

    fn runs(
        &self,
        entity_type: &EntityType,
        id: &str,
        span: Span,
        basis: SysTime,
    ) -> Result<Vec<Run>> {
        let basis = self.check_readable(entity_type, basis)?;
        let pages = &self.inner.pages;
        let key = keys::entity_key(entity_type.name(), id);
        let mut runs = Vec::new();
        // Point reads are counted, and so is this: it tells how many entities were looked at.
        pages.count_read(1);
        read::each_visible(pages, &key, pages.head(&key)?, span, basis, |rect, row| {
            let values = row.map(|row| row::decode(entity_type, row)).transpose();
            let values = values.map_err(|malformed| {
                Error::damaged(
                    format!("a row of {} {id:?}", entity_type.name()),
                    malformed.0,
                )
            })?;
            runs.push(Run {
                span: rect.span(),
                since: rect.system_from,
                values,
            });
            Ok(())
        })?;
        Ok(runs)
    }
}

impl Comparison {
    /// Whether both see the same versions.
    pub fn is_equal(&self) -> bool {
        self.before == self.after
    }

    /// Where a reader of the states at any instants of `range` would first see another answer. For `valid_from` to be
    /// compared right, the comparison reaches back to the beginning of valid time.
    pub fn states(
        &self,
        range: Interval<ValidTime>,
        columns: &ComparedColumns,
    ) -> Option<Difference> {
        let range = span_of(range);
        let mut point = range.from;
        while point < range.to {
            let (before, before_to) = at(&self.before, point);
            let (after, after_to) = at(&self.after, point);
            if let Some(column) = self.differing(before, after, columns) {
                return Some(self.difference(point, column));
            }
            point = before_to.min(after_to);
        }
        None
    }

    /// Where the rows that a reader of all versions over `window`, clipped to it, sees would first be others. It looks at
    /// `columns` alone, but also sees how many versions there are.
    pub fn versions(
        &self,
        window: Interval<ValidTime>,
        columns: &ComparedColumns,
    ) -> Option<Difference> {
        let clip = span_of(window);
        let before = rows(&self.before, clip);
        let after = rows(&self.after, clip);
        let first = before
            .iter()
            .zip(&after)
            .position(|(before, after)| {
                self.differing(Some(before), Some(after), columns).is_some()
                    || (columns.valid_to && before.span.to != after.span.to)
            })
            .or_else(|| (before.len() != after.len()).then(|| before.len().min(after.len())))?;
        let all = ComparedColumns {
            attributes: (0..self.entity_type.attributes().len()).collect(),
            ..ComparedColumns::default()
        };
        let by_value = self
            .states(window, columns)
            .or_else(|| self.states(window, &all));
        by_value.or_else(|| {
            // The same values, in other versions.
            let starts = [before.get(first), after.get(first)];
            let point = starts
                .into_iter()
                .flatten()
                .map(|run| run.span.from)
                .max()?;
            Some(self.difference(point, Some("valid_from".to_owned())))
        })
    }

    /// The first of the columns by which two states differ; the inner `None`: one is there and the other is not.
    fn differing(
        &self,
        before: Option<&Run>,
        after: Option<&Run>,
        columns: &ComparedColumns,
    ) -> Option<Option<String>> {
        let (before, after, old, new) = match (valued(before), valued(after)) {
            (None, None) => return None,
            (Some(_), None) | (None, Some(_)) => return Some(None),
            (Some((before, old)), Some((after, new))) => (before, after, old, new),
        };
        let attribute = columns
            .attributes
            .iter()
            .find(|index| !same(old.get(**index), new.get(**index)));
        if let Some(attribute) = attribute {
            let name = self.entity_type.attributes().get(*attribute);
            return Some(name.map(|attribute| attribute.name.clone()));
        }
        let moved = columns.valid_from && before.span.from != after.span.from;
        moved.then(|| Some("valid_from".to_owned()))
    }

    fn difference(&self, point: i64, column: Option<String>) -> Difference {
        Difference {
            valid_time: ValidTime::from_micros(point),
            column,
            since: at(&self.after, point)
                .0
                .map(|run| SysTime::from_micros(run.since)),
        }
    }
}

fn span_of(interval: Interval<ValidTime>) -> Span {
    Span {
        from: interval.from.micros(),
        to: interval.to.map_or(OPEN, ValidTime::micros),
    }
}

/// The run at `point`, and up to where nothing changes.
fn at(runs: &[Run], point: i64) -> (Option<&Run>, i64) {
    let next = runs.partition_point(|run| run.span.to <= point);
    match runs.get(next) {
        None => (None, OPEN),
        Some(run) if run.span.from <= point => (Some(run), run.span.to),
        Some(run) => (None, run.span.from),
    }
}

/// The versions with a value, clipped.
fn rows(runs: &[Run], clip: Span) -> Vec<Run> {
    let first = runs.partition_point(|run| run.span.to <= clip.from);
    runs[first..]
        .iter()
        .take_while(|run| run.span.from < clip.to)
        .filter(|run| run.values.is_some())
        .map(|run| Run {
            span: run.span.intersection(clip),
            ..run.clone()
        })
        .collect()
}

/// A run that has a value, with it.
fn valued(run: Option<&Run>) -> Option<(&Run, &[Option<Value>])> {
    run.and_then(|run| Some((run, run.values.as_deref()?)))
}

/// Whether two values are the same to every query: floats by their bits.
fn same(a: Option<&Option<Value>>, b: Option<&Option<Value>>) -> bool {
    match (a, b) {
        (Some(Some(Value::Float64(a))), Some(Some(Value::Float64(b)))) => {
            a.to_bits() == b.to_bits()
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attribute, AttributeKind, EntityTypeSpec};

    fn entity_type() -> Arc<EntityType> {
        let attribute = |name: &str| Attribute {
            name: name.to_owned(),
            kind: AttributeKind::Int64,
            description: String::new(),
        };
        let spec = EntityTypeSpec {
            name: "t".to_owned(),
            attributes: vec![attribute("a"), attribute("b")],
            ..EntityTypeSpec::default()
        };
        Arc::new(EntityType::new(spec, SysTime::from_micros(0)))
    }

    fn run(from: i64, to: i64, values: [i64; 2]) -> Run {
        Run {
            span: Span { from, to },
            since: from + 100,
            values: Some(values.map(|value| Some(Value::Int64(value))).into()),
        }
    }

    fn compared(before: &[Run], after: &[Run]) -> Comparison {
        Comparison {
            entity_type: entity_type(),
            before: before.to_vec(),
            after: after.to_vec(),
        }
    }

    fn looking_at(attributes: &[usize], valid_from: bool) -> ComparedColumns {
        ComparedColumns {
            attributes: attributes.to_vec(),
            valid_from,
            valid_to: false,
        }
    }

    fn window(from: i64, to: i64) -> Interval<ValidTime> {
        Interval::new(ValidTime::from_micros(from), ValidTime::from_micros(to))
    }

    /// Where and what differs.
    fn found(difference: Option<Difference>) -> Option<(i64, String)> {
        let difference = difference?;
        let column = difference.column.unwrap_or_else(|| "-".to_owned());
        Some((difference.valid_time.micros(), column))
    }

    #[test]
    fn a_difference_is_found_where_it_begins_and_only_in_what_is_looked_at() {
        let both = compared(
            &[run(0, 30, [1, 1])],
            &[run(0, 10, [1, 1]), run(10, 20, [1, 2]), run(20, 30, [1, 1])],
        );
        let at = |from, to, columns: &[usize], valid_from| {
            found(both.states(window(from, to), &looking_at(columns, valid_from)))
        };
        assert_eq!(at(0, 30, &[0], false), None, "a is the same all over");
        assert_eq!(at(0, 30, &[1], false), Some((10, "b".to_owned())));
        assert_eq!(at(15, 16, &[1], false), Some((15, "b".to_owned())));
        assert_eq!(at(0, 10, &[1], false), None, "the end is exclusive");
        assert_eq!(at(20, 30, &[1], false), None);
        let since = both.states(window(0, 30), &looking_at(&[1], false));
        assert_eq!(
            since.and_then(|it| it.since),
            Some(SysTime::from_micros(110))
        );
        assert_eq!(at(20, 30, &[0], true), Some((20, "valid_from".to_owned())));
    }

    #[test]
    fn coming_and_going_is_seen_by_all_who_look_there() {
        let ended = Run {
            values: None,
            ..run(10, 20, [0, 0])
        };
        let both = compared(&[run(0, 20, [1, 1])], &[run(0, 10, [1, 1]), ended.clone()]);
        let at = |from, to| found(both.states(window(from, to), &looking_at(&[], false)));
        assert_eq!(at(0, 20), Some((10, "-".to_owned())));
        assert_eq!((at(0, 10), at(20, 90)), (None, None));
        let gone = compared(&[], &[ended]);
        assert!(!gone.is_equal(), "it is known now");
        let all = looking_at(&[0, 1], true);
        assert_eq!(gone.states(window(0, 90), &all), None, "but not a row");
        assert_eq!(gone.versions(window(0, 90), &all), None);
    }

    #[test]
    fn readers_of_versions_see_how_many_there_are() {
        let both = compared(
            &[run(0, 30, [1, 1])],
            &[run(0, 10, [1, 1]), run(10, 30, [1, 2])],
        );
        let at = |from, to, columns: &[usize]| {
            found(both.versions(window(from, to), &looking_at(columns, false)))
        };
        assert_eq!(at(0, 30, &[0]), Some((10, "b".to_owned())), "two rows");
        assert_eq!(at(0, 10, &[0, 1]), None);
        assert_eq!(at(10, 30, &[0]), None, "one row with the same a");
        assert_eq!(at(10, 30, &[1]), Some((10, "b".to_owned())));
        let again = compared(
            &[run(0, 30, [1, 1])],
            &[run(0, 10, [1, 1]), run(10, 30, [1, 1])],
        );
        let cut = again.versions(window(5, 15), &looking_at(&[], false));
        assert_eq!(found(cut), Some((10, "valid_from".to_owned())));
    }
}
