//! Random batches, restarts and clock steps on the store and on a naive model, compared at every basis.

use std::collections::BTreeMap;

use hindcast::{
    store::{Answer, Mutation, Operation, Until, Value, Version},
    time::{Interval, SysTime, ValidTime},
};
use proptest::prelude::*;

use crate::store_support::{Rig, end, put, text, until};

/// Valid times are in `0..POINTS`; the store's open ends are points of their own in the model.
const POINTS: i64 = 24;
const IDS: [&str; 3] = ["a", "a\0b", "b"];

/// A state with the system time of its assertion; `None`: ended.
type Owner = Option<(Option<String>, i64)>;

/// What is known of each point `0..=POINTS`, where the last stands for all later ones.
type Timeline = Vec<Owner>;

/// The timelines after each commit, by its system time.
#[derive(Default)]
struct Model {
    commits: BTreeMap<i64, BTreeMap<String, Timeline>>,
}

impl Model {
    fn at(&self, basis: i64) -> BTreeMap<String, Timeline> {
        self.commits
            .range(..=basis)
            .next_back()
            .map(|(_, state)| state.clone())
            .unwrap_or_default()
    }

    fn timeline(&self, id: &str, basis: i64) -> Timeline {
        self.at(basis).get(id).cloned().unwrap_or_else(unknown)
    }

    fn commit(&mut self, at: i64, mutations: &[Mutation]) {
        let mut state = self.at(i64::MAX);
        for mutation in mutations {
            let timeline = state
                .entry(mutation.entity_id.clone())
                .or_insert_with(unknown);
            let value = match &mutation.operation {
                Operation::End | Operation::Patch(_) | Operation::Erase => None,
                Operation::Put(attributes) => match &attributes["v"] {
                    Some(Value::String(text)) => Some(text.clone()),
                    _ => Some("null".to_owned()),
                },
            };
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
            for owner in &mut timeline[from..to] {
                if owner.as_ref().map(|(value, _)| value) != Some(&value) {
                    *owner = Some((value.clone(), at));
                }
            }
        }
        self.commits.insert(at, state);
    }
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
        Some((Some(value), at)) => (value.clone(), *at),
    }
}

fn told(version: &Version) -> (String, i64) {
    let value = if version.ended {
        "ended".to_owned()
    } else {
        text(version)
    };
    (value, version.system.from.micros())
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

fn check_basis(rig: &Rig, model: &Model, basis: i64) {
    for id in IDS {
        let timeline = model.timeline(id, basis);
        for point in 0..timeline.len() {
            let answer = rig.get(id, point as i64, basis);
            let found = match &answer {
                Answer::NotKnown => ("unknown".to_owned(), 0),
                Answer::Erased => ("erased".to_owned(), 0),
                Answer::Value(version) | Answer::Ended(version) => {
                    let range = (
                        version.valid.from.micros(),
                        version.valid.to.map(ValidTime::micros),
                    );
                    assert_eq!(
                        range,
                        range_around(&timeline, point),
                        "{id} at {point}, basis {basis}"
                    );
                    told(version)
                }
            };
            assert_eq!(
                found,
                answer_of(&timeline[point]),
                "{id} at {point}, basis {basis}"
            );
        }
        check_history(rig, model, id, basis);
    }
    for point in [0, POINTS / 2, POINTS] {
        let (valid, at) = (ValidTime::from_micros(point), SysTime::from_micros(basis));
        let scanned: Vec<_> = rig
            .store()
            .scan(&rig.thing(), valid, at, None)
            .map(|version| version.map(|version| (version.entity_id.clone(), told(&version))))
            .collect::<Result<_, _>>()
            .expect("scans");
        let expected: Vec<_> = IDS
            .iter()
            .map(|id| {
                (
                    (*id).to_owned(),
                    answer_of(&model.timeline(id, basis)[index(point)]),
                )
            })
            .filter(|(_, (value, _))| value != "unknown" && value != "ended")
            .collect();
        assert_eq!(scanned, expected, "scan at {point}, basis {basis}");
    }
}

/// The history has, over each point, exactly the states that it had one after the other.
fn check_history(rig: &Rig, model: &Model, id: &str, basis: i64) {
    let history = rig.history(id, basis);
    for point in 0..=POINTS {
        let mut expected: Vec<(String, i64, Option<i64>)> = Vec::new();
        for (&at, state) in model.commits.range(..=basis) {
            let Some(owner) = state
                .get(id)
                .and_then(|timeline| timeline[index(point)].clone())
            else {
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
        let found: Vec<_> = history
            .iter()
            .filter(|version| version.valid.contains(ValidTime::from_micros(point)))
            .map(|version| {
                let (value, from) = told(version);
                (value, from, version.system.to.map(SysTime::micros))
            })
            .collect();
        let mut found_in_order = found;
        found_in_order.sort_by_key(|(_, from, _)| *from);
        assert_eq!(
            found_in_order, expected,
            "history of {id} at {point}, basis {basis}"
        );
    }
    let order: Vec<_> = history
        .iter()
        .map(|version| (version.valid.from, version.system.from))
        .collect();
    assert!(order.is_sorted(), "history of {id} is in order");
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
    Write(i64, Vec<Mutation>),
    /// Pins a basis this far below or at now, and reads there for ever.
    Pin(i64),
    Restart,
}

/// Values of some length, so that pages spill, split and chain while a test is short.
fn value() -> impl Strategy<Value = String> {
    (0..4u8, prop_oneof![4 => Just(8usize), 1 => Just(900usize)])
        .prop_map(|(letter, length)| char::from(b'w' + letter).to_string().repeat(length))
}

fn a_mutation() -> impl Strategy<Value = Mutation> {
    let ends = (0..POINTS, 1..8i64, 0..4u8);
    (prop::sample::select(&IDS[..]), value(), ends, 0..5u8).prop_map(
        |(id, value, (from, length, kind), what)| {
            let ends = match kind {
                0 | 1 => until((from + length).min(POINTS)),
                2 => Until::NextChange,
                _ => Until::Forever,
            };
            match what {
                0 => end(id, from, ends),
                1 => put(id, None, from, ends),
                _ => put(id, Some(&value), from, ends),
            }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (-3..10i64, prop::collection::vec(a_mutation(), 1..5)).prop_map(|(by, batch)| Step::Write(by, batch)),
        2 => (0..4i64).prop_map(Step::Pin),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn store_answers_as_the_model_does(steps in steps()) {
        let mut rig = Rig::new();
        let mut model = Model::default();
        let mut now = 1_000;
        let mut served = rig.store().latest_basis().micros();
        for step in steps {
            match step {
                Step::Write(by, mutations) => {
                    now += by;
                    rig.clock.set(now);
                    let committed = rig.write(mutations.clone()).expect("written");
                    let at = committed.system_time.micros();
                    if committed.versions_written == 0 {
                        prop_assert!(at <= served, "nothing is written");
                        continue;
                    }
                    prop_assert!(at > served, "BT-2: {at} after {served}");
                    served = at;
                    model.commit(at, &mutations);
                }
                Step::Pin(below) => {
                    rig.clock.set(now);
                    let basis = now - below;
                    rig.pin(basis).expect("not after now");
                    served = served.max(basis);
                    check_basis(&rig, &model, basis);
                }
                Step::Restart => rig.reopen().expect("opens"),
            }
        }
        let bases: Vec<_> = model.commits.keys().copied().collect();
        for &basis in bases.iter().rev().step_by(bases.len() / 6 + 1) {
            check_basis(&rig, &model, basis);
        }
        rig.reopen().expect("opens");
        for &basis in bases.iter().rev().take(2) {
            check_basis(&rig, &model, basis);
        }
    }
}

/// Corrects the same range over and over: the page cannot split, and is chained.
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

/// `BT-2` while it is hardest: pages spill, split and are chained under the readers' feet.
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
