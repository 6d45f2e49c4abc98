//! Random batches of every mutation, restarts and clock steps on the store and on a naive model, compared at every basis.
//!
//! The model keeps, for each commit, what was known of every point. `HINDCAST_MODEL_CASES` says how many lives are tried;
//! a failure prints the seed, and the steps of the shortest life that still fails.

use std::collections::BTreeMap;

use hindcast::{
    error::{Classify, ErrorKind},
    store::{
        Answer, AttributeKind, Batch, ChangedState, Condition, EntityTypeSpec, EntityTypeState,
        Expectation, Mutation, Operation, Step as ChangeStep, Until, Value, Version,
    },
    time::{Interval, SysTime, ValidTime},
};
use proptest::{prelude::*, test_runner::RngSeed};
use rand::Rng;

use crate::store_support::{Rig, put, spec, text, until};

/// Valid times are in `0..POINTS`; the store's open ends are points of their own in the model.
const POINTS: i64 = 24;
const IDS: [&str; 3] = ["a", "a\0b", "b"];
const TYPE: &str = "pair";
/// When imports are made: after every system time that they give.
const IMPORTED_AT: i64 = 1_000_000;
/// A system time that no commit has yet.
const COMING: i64 = i64::MAX - 1;

/// The two attributes of a value.
type Pair = [Option<String>; 2];

/// A state with the system time of its assertion; `None`: ended.
type Owner = Option<(Option<Pair>, i64)>;

/// What is known of each point `0..=POINTS`, where the last stands for all later ones.
type Timeline = Vec<Owner>;

/// What is known of everything.
type Knowledge = BTreeMap<String, Timeline>;

#[derive(Default)]
struct Model {
    /// After each commit, by its system time.
    commits: BTreeMap<i64, Knowledge>,
    /// By entity: the basis up to which its answers are erased, exclusive.
    erased_until: BTreeMap<String, i64>,
}

impl Model {
    fn at(&self, basis: i64) -> Knowledge {
        self.commits
            .range(..=basis)
            .next_back()
            .map(|(_, state)| state.clone())
            .unwrap_or_default()
    }

    fn timeline(&self, id: &str, basis: i64) -> Timeline {
        self.at(basis).get(id).cloned().unwrap_or_else(unknown)
    }

    fn is_erased(&self, id: &str, basis: i64) -> bool {
        self.erased_until
            .get(id)
            .is_some_and(|&until| basis < until)
    }

    /// Applies what a batch said, at the system time that the store gave it. `false`: it changes nothing.
    fn commit(&mut self, at: i64, mutations: &[Mutation]) -> bool {
        let before = self.at(i64::MAX);
        let mut state = before.clone();
        let mut erased_until = self.erased_until.clone();
        let mut gone: Vec<String> = Vec::new();
        for mutation in mutations {
            let id = &mutation.entity_id;
            if mutation.operation == Operation::Erase {
                if state.remove(id).is_some() {
                    gone.push(id.clone());
                    erased_until.insert(id.clone(), i64::MAX);
                }
                continue;
            }
            let timeline = state.entry(id.clone()).or_insert_with(unknown);
            let is_changed = assert_over(timeline, mutation, at);
            if is_changed && erased_until.get(id) == Some(&i64::MAX) {
                erased_until.insert(id.clone(), at);
            }
            if *timeline == unknown() {
                state.remove(id);
            }
        }
        if state == before && gone.is_empty() {
            return false;
        }
        for past in self.commits.values_mut() {
            past.retain(|id, _| !gone.contains(id));
        }
        self.erased_until = erased_until;
        self.commits.insert(at, state);
        true
    }
}

/// Applies one mutation to a timeline. `false`: nothing differs.
fn assert_over(timeline: &mut Timeline, mutation: &Mutation, at: i64) -> bool {
    let from = index(mutation.valid_from.expect("given").micros());
    let to = match mutation.until {
        Until::At(to) => index(to.micros()),
        Until::Forever => timeline.len(),
        Until::NextChange => {
            let owner = timeline[from].clone();
            (from..timeline.len())
                .find(|&point| timeline[point] != owner)
                .unwrap_or(timeline.len())
        }
    };
    let mut is_changed = false;
    for owner in timeline.get_mut(from..to).unwrap_or_default() {
        let held = owner.as_ref().map(|(value, _)| value.clone());
        let told = match &mutation.operation {
            Operation::End => None,
            Operation::Put(attributes) => {
                Some(["v", "w"].map(|name| named(attributes, name).flatten()))
            }
            Operation::Patch(attributes) => match held.clone().flatten() {
                None => continue,
                Some([v, w]) => Some([
                    named(attributes, "v").unwrap_or(v),
                    named(attributes, "w").unwrap_or(w),
                ]),
            },
            Operation::Erase => unreachable!("erase has no range"),
        };
        if held.as_ref() != Some(&told) {
            *owner = Some((told, at));
            is_changed = true;
        }
    }
    is_changed
}

/// The value that is told for an attribute; `None`: none is.
fn named(attributes: &BTreeMap<String, Option<Value>>, name: &str) -> Option<Option<String>> {
    attributes.get(name).map(|value| match value {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    })
}

fn unknown() -> Timeline {
    vec![None; index(POINTS) + 1]
}

fn index(point: i64) -> usize {
    usize::try_from(point).expect("a point")
}

fn answer_of(owner: &Owner) -> (String, i64) {
    match owner {
        None => ("unknown".to_owned(), 0),
        Some((None, at)) => ("ended".to_owned(), *at),
        Some((Some(value), at)) => (format!("{value:?}"), *at),
    }
}

fn told(version: &Version) -> (String, i64) {
    let value = if version.ended {
        "ended".to_owned()
    } else {
        format!("{:?}", pair_of(&version.attributes))
    };
    (value, version.system.from.micros())
}

fn pair_of(values: &[Option<Value>]) -> Pair {
    [0, 1].map(|index| match &values[index] {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    })
}

/// The range around `point` with one owner, in the store's terms.
fn range_around(timeline: &Timeline, point: usize) -> (i64, Option<i64>) {
    let mut from = point;
    while from > 0 && timeline[from - 1] == timeline[point] {
        from -= 1;
    }
    let end = (point..timeline.len()).find(|&next| timeline[next] != timeline[point]);
    (from as i64, end.map(|end| end as i64))
}

/// The store, asked about [`TYPE`].
struct Asked<'a>(&'a Rig);

impl Asked<'_> {
    fn get(&self, id: &str, valid: i64, basis: i64) -> Answer {
        let store = self.0.store();
        let entity_type = store.entity_type(TYPE).expect("declared");
        let (valid, basis) = (ValidTime::from_micros(valid), SysTime::from_micros(basis));
        store.get(&entity_type, id, valid, basis).expect("reads")
    }

    fn history(&self, id: &str, basis: i64) -> Vec<Version> {
        let store = self.0.store();
        let entity_type = store.entity_type(TYPE).expect("declared");
        let (valid, system) = (
            Interval::starting_at(ValidTime::MIN),
            Interval::starting_at(SysTime::MIN),
        );
        let basis = SysTime::from_micros(basis);
        store
            .history(&entity_type, id, valid, system, basis)
            .expect("reads")
    }

    fn scan(&self, valid: i64, basis: i64) -> Vec<(String, (String, i64))> {
        let store = self.0.store();
        let entity_type = store.entity_type(TYPE).expect("declared");
        let (valid, basis) = (ValidTime::from_micros(valid), SysTime::from_micros(basis));
        store
            .scan(&entity_type, valid, basis, None)
            .map(|version| version.map(|version| (version.entity_id.clone(), told(&version))))
            .collect::<Result<_, _>>()
            .expect("scans")
    }
}

fn check_basis(rig: &Rig, model: &Model, basis: i64) {
    let asked = Asked(rig);
    for id in IDS {
        let timeline = model.timeline(id, basis);
        let is_erased = model.is_erased(id, basis);
        for point in 0..timeline.len() {
            let answer = asked.get(id, point as i64, basis);
            let found = match &answer {
                Answer::NotKnown => ("unknown".to_owned(), 0),
                Answer::Erased => ("erased".to_owned(), 0),
                Answer::Value(version) | Answer::Ended(version) => {
                    let to = version.valid.to.map(ValidTime::micros);
                    let range = (version.valid.from.micros(), to);
                    let expected = range_around(&timeline, point);
                    assert_eq!(range, expected, "{id:?} at {point}, basis {basis}");
                    told(version)
                }
            };
            let expected = if is_erased {
                ("erased".to_owned(), 0)
            } else {
                answer_of(&timeline[point])
            };
            assert_eq!(found, expected, "{id:?} at {point}, basis {basis}");
        }
        check_history(&asked, model, id, basis);
    }
    for point in [0, POINTS / 2, POINTS] {
        let expected: Vec<_> = IDS
            .iter()
            .filter(|id| !model.is_erased(id, basis))
            .map(|id| {
                let timeline = model.timeline(id, basis);
                ((*id).to_owned(), answer_of(&timeline[index(point)]))
            })
            .filter(|(_, (value, _))| value != "unknown" && value != "ended")
            .collect();
        assert_eq!(
            asked.scan(point, basis),
            expected,
            "scan at {point}, basis {basis}"
        );
    }
}

/// The history has, over each point, exactly the states that it had one after the other.
fn check_history(asked: &Asked<'_>, model: &Model, id: &str, basis: i64) {
    let history = asked.history(id, basis);
    for point in 0..=POINTS {
        let mut expected: Vec<(String, i64, Option<i64>)> = Vec::new();
        for (&at, state) in model.commits.range(..=basis) {
            if model.is_erased(id, at) {
                continue;
            }
            let timeline = state.get(id);
            let Some(owner) = timeline.and_then(|timeline| timeline[index(point)].clone()) else {
                continue;
            };
            if owner.1 == at {
                if let Some(before) = expected.last_mut() {
                    before.2 = Some(at);
                }
                let (value, from) = answer_of(&Some(owner));
                expected.push((value, from, None));
            }
        }
        let mut found: Vec<_> = history
            .iter()
            .filter(|version| version.valid.contains(ValidTime::from_micros(point)))
            .map(|version| {
                let (value, from) = told(version);
                (value, from, version.system.to.map(SysTime::micros))
            })
            .collect();
        found.sort_by_key(|(_, from, _)| *from);
        assert_eq!(
            found, expected,
            "history of {id:?} at {point}, basis {basis}"
        );
    }
    let order: Vec<_> = history
        .iter()
        .map(|version| (version.valid.from, version.system.from))
        .collect();
    assert!(order.is_sorted(), "history of {id:?} is in order");
    for version in &history {
        assert!(
            !version.valid.is_empty() && !version.system.is_empty(),
            "no empty rectangle"
        );
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The clock moves by this many microseconds first, backwards too.
    Write(i64, Vec<(Mutation, Vec<Guess>)>),
    /// Pins a basis this far below or at now, and reads there for ever.
    Pin(i64),
    Restart,
}

/// An expectation at a point, made when what is there is known.
#[derive(Debug, Clone)]
enum Guess {
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
fn expectation(
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
fn guessed(model: &Model, batch: &[(Mutation, Vec<Guess>)]) -> (Vec<Mutation>, bool) {
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

fn attributes(pair: &Pair, without_nulls: bool) -> BTreeMap<String, Option<Value>> {
    ["v", "w"]
        .into_iter()
        .zip(pair)
        .filter(|(_, value)| !without_nulls || value.is_some())
        .map(|(name, value)| (name.to_owned(), value.clone().map(Value::String)))
        .collect()
}

/// Values of some length, so that pages overflow while a life is short.
fn value() -> impl Strategy<Value = String> {
    (
        0..4u8,
        prop_oneof![4 => Just(8usize), 1 => Just(400usize), 1 => Just(900usize)],
    )
        .prop_map(|(letter, length)| char::from(b'w' + letter).to_string().repeat(length))
}

fn a_mutation() -> impl Strategy<Value = Mutation> {
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

fn a_guess() -> impl Strategy<Value = Guess> {
    prop_oneof![
        8 => (0..POINTS).prop_map(Guess::Right),
        2 => (0..POINTS).prop_map(Guess::Absent),
        1 => (0..POINTS).prop_map(Guess::Wrong),
        3 => (0..POINTS, 0..4usize).prop_map(|(point, back)| Guess::Unchanged(point, back)),
    ]
}

fn a_batch() -> impl Strategy<Value = Vec<(Mutation, Vec<Guess>)>> {
    let guesses = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(a_guess(), 1..3),
    ];
    prop::collection::vec((a_mutation(), guesses), 1..5)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (-3..10i64, a_batch()).prop_map(|(by, batch)| Step::Write(by, batch)),
        2 => (0..4i64).prop_map(Step::Pin),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// Batches with how far their system time lies after that of the one before, and whether the store restarts after them.
fn imported() -> impl Strategy<Value = Vec<(i64, Vec<Mutation>, bool)>> {
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

/// How many lives are tried.
fn cases() -> u32 {
    std::env::var("HINDCAST_MODEL_CASES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(1_000)
}

/// The seed of all lives, printed by a failure: `HINDCAST_MODEL_SEED`, or a new one each time.
fn seed() -> u64 {
    let seed = std::env::var("HINDCAST_MODEL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| rand::rng().random());
    println!("HINDCAST_MODEL_SEED={seed}");
    seed
}

/// One life of a store and of the model.
struct Life {
    rig: Rig,
    model: Model,
    now: i64,
    /// The latest system time or basis that was given away.
    served: i64,
}

impl Life {
    fn start(state: EntityTypeState) -> Self {
        let rig = Rig::without_disk();
        let attributes = [("v", AttributeKind::String), ("w", AttributeKind::String)];
        rig.declare(EntityTypeSpec {
            state,
            ..spec(TYPE, &attributes)
        });
        let served = rig.store().latest_basis().micros();
        Self {
            rig,
            model: Model::default(),
            now: 1_000,
            served,
        }
    }

    fn write(&mut self, by: i64, batch: &[(Mutation, Vec<Guess>)]) {
        self.now += by;
        self.rig.clock.set(self.now);
        let (mutations, all_hold) = guessed(&self.model, batch);
        let written = self.rig.write(mutations.clone());
        if !all_hold {
            let refused = written.expect_err("an expectation does not hold");
            assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
            return;
        }
        let committed = written.expect("written");
        let at = committed.system_time.micros();
        if self.model.commit(at, &mutations) {
            assert!(at > self.served, "BT-2, BT-3: {at} after {}", self.served);
        } else {
            assert_eq!(committed.versions_written, 0, "nothing differs");
            assert!(
                at <= self.served.max(self.now),
                "no basis that is not there yet"
            );
        }
        self.served = self.served.max(at);
    }

    fn pin(&mut self, below: i64) {
        self.rig.clock.set(self.now);
        let basis = self.now - below;
        self.rig.pin(basis).expect("not after now");
        self.served = self.served.max(basis);
        check_basis(&self.rig, &self.model, basis);
    }

    fn check(&mut self) {
        let bases: Vec<_> = self.model.commits.keys().copied().collect();
        for &basis in bases.iter().rev().step_by(bases.len() / 6 + 1) {
            check_basis(&self.rig, &self.model, basis);
        }
        self.rig.reopen().expect("opens");
        for &basis in bases.iter().rev().take(2) {
            check_basis(&self.rig, &self.model, basis);
        }
        if let [first, .., last] = &bases[..] {
            let middle = bases[bases.len() / 2];
            for (from, to) in [(*first, *last), (*first, middle), (middle, *last)] {
                check_changes(&self.rig, &self.model, from, to);
            }
        }
        let problem = |problem: &str| panic!("{problem}");
        self.rig.store().check_pages(problem).expect("reads");
    }

    /// A life whose type is imported: each batch has a system time of its own, not before that of the batch before.
    fn import(batches: &[(i64, Vec<Mutation>, bool)]) -> Self {
        let mut life = Self::start(EntityTypeState::Importing);
        life.rig.clock.set(IMPORTED_AT);
        for (by, mutations, restarts) in batches {
            life.now += by;
            let batch = Batch {
                mutations: mutations.clone(),
                import_time: Some(SysTime::from_micros(life.now)),
                ..Batch::default()
            };
            life.rig.write_batch(batch).expect("imported");
            life.model.commit(life.now, mutations);
            if *restarts {
                life.rig.reopen().expect("opens");
            }
        }
        let sealed = life.rig.store().finish_import(TYPE);
        life.rig.runtime.block_on(sealed).expect("sealed");
        life.now = IMPORTED_AT;
        life.served = life.rig.store().latest_basis().micros();
        life
    }
}

/// What the feed of changes tells between two bases, put together, is how the two differ.
fn check_changes(rig: &Rig, model: &Model, from: i64, to: i64) {
    let basis = |at| Some(SysTime::from_micros(at));
    let changes = rig.store().changes(basis(from), basis(to), &[], None);
    let mut changes = changes.expect("a walk");
    let mut told: BTreeMap<(String, i64), (String, String)> = BTreeMap::new();
    loop {
        let found = match changes.next(2).expect("reads") {
            ChangeStep::Told { changes, .. } => changes,
            ChangeStep::Searching => continue,
            ChangeStep::UpToDate(_) => break,
        };
        for change in found {
            for point in 0..=POINTS {
                if change.valid.contains(ValidTime::from_micros(point)) {
                    let after = changed_state(&change.after);
                    told.entry((change.entity_id.clone(), point))
                        .and_modify(|net| net.1.clone_from(&after))
                        .or_insert_with(|| (changed_state(&change.before), after));
                }
            }
        }
    }
    for id in IDS {
        // What was erased is told as erased, whatever it was.
        if model.erased_until.contains_key(id) {
            continue;
        }
        let (before, after) = (model.timeline(id, from), model.timeline(id, to));
        for point in 0..=POINTS {
            let state = |timeline: &Timeline| answer_of(&timeline[index(point)]).0;
            let expected = (state(&before), state(&after));
            match told.get(&(id.to_owned(), point)) {
                None => assert_eq!(expected.0, expected.1, "{id:?} at {point}: {from} to {to}"),
                Some(net) => assert_eq!(*net, expected, "{id:?} at {point}: {from} to {to}"),
            }
        }
    }
}

fn changed_state(state: &ChangedState) -> String {
    match state {
        ChangedState::Value(values) => format!("{:?}", pair_of(values)),
        ChangedState::Ended => "ended".to_owned(),
        ChangedState::NotKnown => "unknown".to_owned(),
        ChangedState::Erased => "erased".to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        rng_seed: RngSeed::Fixed(seed()),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn store_answers_as_the_model_does(steps in steps()) {
        let mut life = Life::start(EntityTypeState::Active);
        for step in &steps {
            match step {
                Step::Write(by, batch) => life.write(*by, batch),
                Step::Pin(below) => life.pin(*below),
                Step::Restart => life.rig.reopen().expect("opens"),
            }
        }
        life.check();
    }

    #[test]
    fn an_imported_history_answers_as_the_model_does(
        batches in imported(),
        more in prop::collection::vec((1..10i64, a_batch()), 0..4),
    ) {
        let mut life = Life::import(&batches);
        for (by, batch) in &more {
            life.write(*by, batch);
        }
        life.check();
    }
}

/// Corrects the same range over and over: one root after the other is archived.
#[test]
fn the_same_range_corrected_a_thousand_times_keeps_every_version() {
    let mut rig = Rig::new();
    for round in 0..1_000 {
        rig.write_at(
            1_000 + round,
            vec![put("a", Some(&format!("value {round:04}")), 0, until(10))],
        )
        .expect("written");
    }
    for pass in 0..2 {
        for round in [0, 1, 499, 998, 999] {
            let Answer::Value(version) = rig.get("a", 5, 1_000 + round) else {
                panic!("a value at {round}");
            };
            assert_eq!(text(&version), format!("value {round:04}"));
            assert_eq!(
                version.valid,
                Interval::new(ValidTime::from_micros(0), ValidTime::from_micros(10))
            );
        }
        assert_eq!(rig.history("a", 1_999).len(), 1_000);
        if pass == 0 {
            rig.reopen().expect("opens");
        }
    }
}

/// Hourly readings over valid time: pages split, and each answer's range is found across them.
#[test]
fn many_versions_spread_over_valid_time_are_all_found() {
    let mut rig = Rig::new();
    for chunk in 0..40i64 {
        let batch = (0..100)
            .map(|step| {
                // In an order that is neither ascending nor descending.
                let hour = (chunk * 100 + step) * 1_237 % 4_000;
                put(
                    "station",
                    Some(&format!("reading {hour}")),
                    hour,
                    Until::NextChange,
                )
            })
            .collect();
        rig.write_at(1_000 + chunk, batch).expect("written");
    }
    rig.reopen().expect("opens");
    for hour in 0..4_000 {
        let Answer::Value(version) = rig.get("station", hour, 1_039) else {
            panic!("a value at {hour}");
        };
        assert_eq!(text(&version), format!("reading {hour}"));
        let to = (hour < 3_999).then(|| ValidTime::from_micros(hour + 1));
        assert_eq!((version.valid.from.micros(), version.valid.to), (hour, to));
    }
}

/// `BT-2` while it is hardest: pages split and roots are archived under the readers' feet.
#[test]
fn readers_see_a_basis_unchanged_while_pages_split() {
    let rig = Rig::new();
    let value = |round: i64| format!("{round:0>150}");
    let batch = |round: i64| {
        let point = round * 7 % 400;
        vec![
            put("spread", Some(&value(round)), point, until(point + 3)),
            put("same", Some(&value(round)), 0, until(10)),
        ]
    };
    for round in 0..40 {
        rig.write_at(1_000 + round, batch(round)).expect("written");
    }
    let basis = 1_039;
    let expected = ["spread", "same"].map(|id| (id, rig.history(id, basis)));
    let (store, thing) = (rig.store().clone(), rig.thing());
    let done = std::sync::atomic::AtomicBool::new(false);
    let passes = std::thread::scope(|scope| {
        let read = || {
            let mut passes = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for (id, expected) in &expected {
                    let all = Interval::starting_at(ValidTime::MIN);
                    let at = SysTime::from_micros(basis);
                    let ever = Interval::starting_at(SysTime::MIN);
                    let found = store.history(&thing, id, all, ever, at).expect("reads");
                    assert_eq!(&found, expected);
                    for version in expected
                        .iter()
                        .filter(|version| version.system.to.is_none())
                    {
                        let answer = store
                            .get(&thing, id, version.valid.from, at)
                            .expect("reads");
                        assert_eq!(answer, Answer::Value(version.clone()));
                    }
                }
                passes += 1;
            }
            passes
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        for round in 40..700 {
            rig.write_at(1_000 + round, batch(round)).expect("written");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        readers.map(|reader| reader.join().expect("no reader fails"))
    });
    assert!(passes.iter().all(|&passes| passes > 0));
}
