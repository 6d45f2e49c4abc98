//! What makes other bitemporal stores slow: one entity corrected over and over, in seven patterns. As-of reads at random
//! points and bases must touch few pages, and say what a naive model says.
//!
//! `HINDCAST_ADVERSARIAL` is the number of corrections per pattern; `just adversarial` asks for a million.

use std::collections::BTreeMap;

use hindcast::{
    store::{Answer, Batch, Mutation, Version},
    time::{SysTime, ValidTime},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::store_support::{Rig, end, put, text, until};

const DEFAULT_CORRECTIONS: i64 = 3_000;
/// The bound that DESIGN.md names.
const MAX_PAGES: u64 = 6;
/// Writers at a time: they share flushes.
const WRITERS: usize = 100;
const READS: usize = 20_000;
const START: i64 = 1_000;

/// A correction: from, to, and the value (`None`: ended).
type Correction = (i64, i64, Option<i64>);

fn corrections() -> i64 {
    std::env::var("HINDCAST_ADVERSARIAL")
        .ok()
        .map(|count| count.parse().expect("HINDCAST_ADVERSARIAL is a number"))
        .unwrap_or(DEFAULT_CORRECTIONS)
}

fn run(pattern: &str, correction: impl Fn(&mut StdRng, i64, i64) -> Correction) {
    let count = corrections();
    let mut rng = StdRng::seed_from_u64(20_13);
    let all: Vec<_> = (0..count)
        .map(|step| correction(&mut rng, step, count))
        .collect();
    let rig = Rig::new();
    for (group, corrections) in all.chunks(WRITERS).enumerate() {
        let writes = corrections.iter().map(|correction| {
            rig.store().write(Batch {
                mutations: vec![mutation(correction)],
                request_id: None,
                ..Default::default()
            })
        });
        let first = START + i64::try_from(group * WRITERS).expect("small");
        rig.clock.set(first);
        let committed = rig.runtime.block_on(futures::future::join_all(writes));
        for (at, committed) in (first..).zip(committed) {
            let committed = committed.expect("written");
            assert_eq!(
                committed.system_time,
                SysTime::from_micros(at),
                "one after the other"
            );
        }
    }
    let last = START + count - 1;
    let mut reads: Vec<(i64, i64)> = (0..READS.min(all.len() * 2))
        .map(|_| {
            let (from, to, _) = all[rng.random_range(0..all.len())];
            let point = match rng.random_range(0..4) {
                0 => from,
                1 => to - 1,
                2 => rng.random_range(from..to),
                _ => rng.random_range(-10..2 * count),
            };
            (rng.random_range(START..=last), point)
        })
        .collect();
    reads.sort_unstable();
    let (mut most, mut total) = (0, 0);
    let mut model = Model::default();
    let mut known = 0;
    for &(basis, point) in &reads {
        while START + known <= basis {
            model.correct(START + known, all[usize::try_from(known).expect("small")]);
            known += 1;
        }
        let before = rig.store().page_stats();
        let answer = rig.get("a", point, basis);
        let touched = rig.store().page_stats().pages - before.pages;
        assert_eq!(
            told(&answer),
            model.at(point),
            "{pattern}: at {point}, basis {basis}"
        );
        assert!(
            touched <= MAX_PAGES,
            "{pattern}: {touched} pages at {point}, basis {basis}"
        );
        (most, total) = (touched.max(most), total + touched);
    }
    let mut problems = Vec::new();
    let entities = rig
        .store()
        .check_pages(|problem| problems.push(problem.to_owned()));
    assert_eq!(
        (entities.expect("reads"), &problems[..]),
        (1, &[][..]),
        "{pattern}"
    );
    let keys = |keyspace: &str| {
        let keyspace = rig.database().keyspace(keyspace).expect("keyspace");
        keyspace.prefix(&[]).count()
    };
    println!(
        "{pattern}: {count} corrections; pages per read at most {most}, mean {:.2}; {} pages, {} earlier roots, \
         {} bytes on disk",
        total as f64 / reads.len() as f64,
        keys("pages"),
        keys("roots"),
        rig.database().size_on_disk_bytes().expect("size"),
    );
}

fn mutation(&(from, to, value): &Correction) -> Mutation {
    match value {
        None => end("a", from, until(to)),
        Some(value) => put("a", Some(&value.to_string()), from, until(to)),
    }
}

/// The value with its range of valid time and since when it is known; `None`: not known.
type Told = Option<(Option<String>, i64, i64, i64)>;

fn told(answer: &Answer) -> Told {
    let told = |version: &Version, value| {
        let from = version.valid.from.micros();
        let to = version.valid.to.map_or(i64::MAX, ValidTime::micros);
        Some((value, from, to, version.system.from.micros()))
    };
    match answer {
        Answer::Value(version) => told(version, Some(text(version))),
        Answer::Ended(version) => told(version, None),
        Answer::NotKnown => None,
        Answer::Erased => panic!("nothing was erased"),
    }
}

/// The timeline as it stands: by start, the end, the value and the system time of each segment. Neighbours with one owner
/// are one segment.
#[derive(Default)]
struct Model(BTreeMap<i64, (i64, Option<i64>, i64)>);

impl Model {
    fn correct(&mut self, at: i64, (from, to, value): Correction) {
        let first = self.0.range(..from).next_back();
        let first = first
            .filter(|(_, (end, ..))| *end > from)
            .map(|(start, _)| *start);
        let touched: Vec<i64> = first
            .into_iter()
            .chain(self.0.range(from..to).map(|(start, _)| *start))
            .collect();
        let mut fresh_from = from;
        for start in touched {
            let Some((end, its, since)) = self.0.remove(&start) else {
                continue;
            };
            if start < from && its != value {
                self.insert(start, from, its, since);
            }
            if to < end && its != value {
                self.insert(to, end, its, since);
            }
            if its == value {
                if fresh_from < start {
                    self.insert(fresh_from, start, value, at);
                }
                self.insert(start, end, its, since);
                fresh_from = end;
            }
        }
        if fresh_from < to {
            self.insert(fresh_from, to, value, at);
        }
    }

    fn insert(&mut self, mut from: i64, mut to: i64, value: Option<i64>, since: i64) {
        let before = self
            .0
            .range(..from)
            .next_back()
            .map(|(start, its)| (*start, *its));
        if let Some((start, (end, its, known))) = before
            && (end, its, known) == (from, value, since)
        {
            self.0.remove(&start);
            from = start;
        }
        if let Some((end, its, known)) = self.0.get(&to).copied()
            && (its, known) == (value, since)
        {
            self.0.remove(&to);
            to = end;
        }
        self.0.insert(from, (to, value, since));
    }

    fn at(&self, point: i64) -> Told {
        let (from, (to, value, since)) = self.0.range(..=point).next_back()?;
        (point < *to).then(|| (value.map(|value| value.to_string()), *from, *to, *since))
    }
}

#[test]
fn appending() {
    run("append", |_, step, _| (step, step + 1, Some(step)));
}

#[test]
fn the_same_range_over_and_over() {
    run("same range", |_, step, _| (0, 10, Some(step)));
}

#[test]
fn random_ranges() {
    run("random ranges", |rng, step, count| {
        let from = rng.random_range(0..count);
        let length = 1 << rng.random_range(0..12);
        (from, from + length, Some(step))
    });
}

#[test]
fn newest_first() {
    run("newest first", |_, step, count| {
        (count - step, count - step + 1, Some(step))
    });
}

#[test]
fn nested_ranges() {
    run("nested", |_, step, count| {
        // Ever narrower, then from the widest on again.
        let inset = step % (count / 4).max(1);
        (inset, count - inset, Some(step))
    });
}

#[test]
fn wide_puts_over_many_segments() {
    run("wide over many", |rng, step, count| {
        if step % 100 == 99 {
            let from = rng.random_range(0..count / 2);
            return (from, from + count / 3, Some(step));
        }
        let from = rng.random_range(0..count);
        (from, from + 1, Some(step))
    });
}

#[test]
fn puts_and_ends_in_turn() {
    run("put and end", |_, step, count| {
        // Every end ends what was put before it: one that changes nothing would be no commit.
        let from = step / 2 * 7_919 % (count / 10 + 1) * 10;
        (from, from + 10, (step % 2 == 0).then_some(step))
    });
}

/// The pages that a read touches are those between its entity's head and its answer.
#[test]
fn an_ordinary_entity_is_one_page() {
    let rig = Rig::new();
    for round in 0..16 {
        rig.write_at(
            START + round,
            vec![put("a", Some("value"), round, until(round + 5))],
        )
        .expect("written");
    }
    let before = rig.store().page_stats();
    let answer = rig.store().get(
        &rig.thing(),
        "a",
        ValidTime::from_micros(3),
        SysTime::from_micros(START + 7),
    );
    assert!(matches!(answer, Ok(Answer::Value(_))));
    let after = rig.store().page_stats();
    assert_eq!(
        (after.reads - before.reads, after.pages - before.pages),
        (1, 1)
    );
}
