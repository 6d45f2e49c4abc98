//! What may happen in a life: batches with right and wrong expectations, pins, restarts, imports.

use std::collections::BTreeMap;

use hindcast::{
    store::{Condition, Expectation, Mutation, Operation, Until, Value},
    time::{SysTime, ValidTime},
};
use proptest::prelude::*;

use super::knowledge::{Knowledge, Model, POINTS, Pair, index};
use crate::store_support::until;

pub(super) const IDS: [&str; 3] = ["a", "a\0b", "b"];
pub(super) const TYPE: &str = "pair";
/// A system time that no commit has yet.
const COMING: i64 = i64::MAX - 1;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The clock moves by this many microseconds first, backwards too.
    Write(i64, Vec<(Mutation, Vec<Guess>)>),
    /// Pins a basis this far below or at now, and reads there for ever.
    Pin(i64),
    Restart,
}

/// An expectation at a point, made when what is there is known.
#[derive(Debug, Clone)]
pub(super) enum Guess {
    /// That the value is what it is, if there is one; else that it is absent.
    Right(i64),
    /// That it is absent.
    Absent(i64),
    /// That it is something that it never is.
    Wrong(i64),
    /// That nothing changed since the commit this far back.
    Unchanged(i64, usize),
}

/// The expectation of a guess, and whether it holds.
pub(super) fn expectation(
    model: &Model,
    erased: &BTreeMap<String, i64>,
    state: &Knowledge,
    id: &str,
    guess: &Guess,
) -> (Expectation, bool) {
    let owner_at = |point: i64, state: &Knowledge| {
        let timeline = state.get(id);
        timeline.and_then(|timeline| timeline[index(point)].clone())
    };
    let value = |point: i64| owner_at(point, state).and_then(|(value, _)| value);
    let (point, condition, holds) = match guess {
        Guess::Right(point) => match value(*point) {
            None => (*point, Condition::Absent, true),
            Some(pair) => (*point, Condition::Value(attributes(&pair, true)), true),
        },
        Guess::Absent(point) => (*point, Condition::Absent, value(*point).is_none()),
        Guess::Wrong(point) => {
            let never = [Some("never".to_owned()), None];
            (*point, Condition::Value(attributes(&never, false)), false)
        }
        Guess::Unchanged(point, back) => {
            let basis = model.commits.keys().rev().nth(*back).copied();
            // What "unchanged" means across an erasure is not asked here.
            match basis.filter(|_| !erased.contains_key(id)) {
                None => (*point, Condition::Absent, value(*point).is_none()),
                Some(basis) => {
                    let holds = owner_at(*point, state) == owner_at(*point, &model.at(basis));
                    let since = SysTime::from_micros(basis);
                    (*point, Condition::UnchangedSince(since), holds)
                }
            }
        }
    };
    let expectation = Expectation {
        valid_time: Some(ValidTime::from_micros(point)),
        condition,
    };
    (expectation, holds)
}

/// The mutations with their expectations, and whether all of those hold.
pub(super) fn guessed(model: &Model, batch: &[(Mutation, Vec<Guess>)]) -> (Vec<Mutation>, bool) {
    let mut trial = Model {
        commits: model.commits.clone(),
        erased_until: model.erased_until.clone(),
    };
    let mut all_hold = true;
    let mut mutations = Vec::new();
    for (mutation, guesses) in batch {
        let mut mutation = mutation.clone();
        let state = trial.at(i64::MAX);
        for guess in guesses {
            let id = &mutation.entity_id;
            let (expectation, holds) = expectation(model, &trial.erased_until, &state, id, guess);
            mutation.expect.push(expectation);
            all_hold &= holds;
        }
        trial.commit(COMING, std::slice::from_ref(&mutation));
        mutations.push(mutation);
    }
    (mutations, all_hold)
}

pub(super) fn attributes(pair: &Pair, without_nulls: bool) -> BTreeMap<String, Option<Value>> {
    ["v", "w"]
        .into_iter()
        .zip(pair)
        .filter(|(_, value)| !without_nulls || value.is_some())
        .map(|(name, value)| (name.to_owned(), value.clone().map(Value::String)))
        .collect()
}

/// Values of some length, so that pages overflow while a life is short.
pub(super) fn value() -> impl Strategy<Value = String> {
    (
        0..4u8,
        prop_oneof![4 => Just(8usize), 1 => Just(400usize), 1 => Just(900usize)],
    )
        .prop_map(|(letter, length)| char::from(b'w' + letter).to_string().repeat(length))
}

pub(super) fn a_mutation() -> impl Strategy<Value = Mutation> {
    let ends = (0..POINTS, 0..8i64, 0..4u8);
    let pair = [
        prop::option::of(value()),
        prop::option::weighted(0.3, value()),
    ];
    (prop::sample::select(&IDS[..]), pair, ends, 0..40u8).prop_map(
        |(entity_id, pair, (from, length, kind), what)| {
            let operation = match what {
                0..8 => Operation::End,
                8..16 => Operation::Patch(match &pair {
                    [None, None] => attributes(&pair, false),
                    pair => attributes(pair, true),
                }),
                16 => Operation::Erase,
                _ => Operation::Put(attributes(&pair, what % 2 == 0)),
            };
            // Only a put must have something to put it on.
            let is_put = matches!(operation, Operation::Put(_));
            let to = (from + length.max(i64::from(is_put))).min(POINTS);
            let range = match kind {
                0 | 1 => until(to),
                2 => Until::NextChange,
                _ => Until::Forever,
            };
            let is_erase = operation == Operation::Erase;
            Mutation {
                entity_type: TYPE.to_owned(),
                entity_id: entity_id.to_owned(),
                operation,
                valid_from: (!is_erase).then(|| ValidTime::from_micros(from)),
                until: if is_erase { Until::default() } else { range },
                expect: Vec::new(),
            }
        },
    )
}

pub(super) fn a_guess() -> impl Strategy<Value = Guess> {
    prop_oneof![
        8 => (0..POINTS).prop_map(Guess::Right),
        2 => (0..POINTS).prop_map(Guess::Absent),
        1 => (0..POINTS).prop_map(Guess::Wrong),
        3 => (0..POINTS, 0..4usize).prop_map(|(point, back)| Guess::Unchanged(point, back)),
    ]
}

pub(super) fn a_batch() -> impl Strategy<Value = Vec<(Mutation, Vec<Guess>)>> {
    let guesses = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(a_guess(), 1..3),
    ];
    prop::collection::vec((a_mutation(), guesses), 1..5)
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (-3..10i64, a_batch()).prop_map(|(by, batch)| Step::Write(by, batch)),
        2 => (0..4i64).prop_map(Step::Pin),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// Batches with how far their system time lies after that of the one before, and whether the store restarts after them.
pub(super) fn imported() -> impl Strategy<Value = Vec<(i64, Vec<Mutation>, bool)>> {
    let ranged = a_mutation().prop_filter("an erasure has no place in a history", |mutation| {
        mutation.operation != Operation::Erase
    });
    let batch = (
        0..3i64,
        prop::collection::vec(ranged, 1..5),
        prop::bool::weighted(0.05),
    );
    prop::collection::vec(batch, 1..50)
}
