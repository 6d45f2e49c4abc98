//! Random batches of every mutation, restarts and clock steps on the store and on a naive model, compared at every basis.
//!
//! The model keeps, for each commit, what was known of every point. `HINDCAST_MODEL_CASES` says how many lives are tried;
//! a failure prints the seed, and the steps of the shortest life that still fails.

mod knowledge;
mod steps;

use std::collections::BTreeMap;

use hindcast::{
    error::{Classify, ErrorKind},
    store::{
        Answer, AttributeKind, Batch, ChangedState, EntityTypeSpec, EntityTypeState, Mutation,
        Step as ChangeStep, Version,
    },
    time::{Interval, SysTime, ValidTime},
};
use proptest::{prelude::*, test_runner::RngSeed};

use self::{
    knowledge::{Model, POINTS, Timeline, answer_of, index, pair_of, range_around, told},
    steps::{Guess, IDS, Step, TYPE, a_batch, guessed, imported, steps},
};
use crate::store_support::{Rig, spec};

/// When imports are made: after every system time that they give.
const IMPORTED_AT: i64 = 1_000_000;

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
