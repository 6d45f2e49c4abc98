//! Several batches of one system time in an import: the last one wins, whatever the pages go through meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use hindcast::{
    store::{Answer, Mutation},
    time::{SysTime, ValidTime},
};

use crate::{
    store_import::{finish, import, old_type, rig},
    store_lives::Random,
    store_support::{Rig, open_database, put, text, until},
};

const POINTS: u16 = 400;
/// As many points as the narrow puts of a batch.
const NARROW: u16 = 130;
const TIMES: i64 = 30;
/// The keyspaces of an entity's pages, in the order in which a commit writes them.
const PARTS: [&str; 4] = ["rows", "pages", "roots", "heads"];

/// By point of valid time: what was said of it, by system time.
struct Model(Vec<BTreeMap<i64, String>>);

impl Model {
    fn new() -> Self {
        Self(vec![BTreeMap::new(); usize::from(POINTS)])
    }

    /// A put over `[from, to)` at `at`.
    fn put(&mut self, at: i64, from: u16, to: u16, value: &str) -> Mutation {
        for point in &mut self.0[usize::from(from)..usize::from(to)] {
            point.insert(at, value.to_owned());
        }
        put("e", Some(value), i64::from(from), until(to.into()))
    }

    /// Narrow puts side by side.
    fn narrow(&mut self, at: i64, start: u16, batch: &str) -> Vec<Mutation> {
        (start..start + NARROW)
            .map(|point| self.put(at, point, point + 1, &format!("{batch} {point} {at:0>40}")))
            .collect()
    }

    fn told(&self, point: u16, basis: i64) -> String {
        let known = self.0[usize::from(point)].range(..=basis).next_back();
        known.map_or("not known".to_owned(), |(at, value)| {
            format!("{value} @{at}")
        })
    }
}

/// Imports many narrow puts, a wide one that replaces most of them, and many narrow ones again, all at one system time.
/// After each batch, `then` is called.
fn import_time(
    rig: &mut Rig,
    model: &mut Model,
    at: i64,
    starts: [u16; 2],
    mut then: impl FnMut(&mut Rig),
) {
    let (low, high) = (20 + starts[0] % 50, POINTS - starts[1] % 50);
    let first = model.narrow(at, starts[0], "first");
    let wide = model.put(at, low, high, &format!("wide {at:0>300}"));
    let last = model.narrow(at, starts[1], "last");
    for batch in [first, vec![wide], last] {
        import(rig, at, batch).expect("imported");
        then(rig);
    }
}

/// All answers are the model's, and nothing is wrong with the pages.
fn check(rig: &Rig, model: &Model, latest: i64) {
    let entity_type = old_type(rig);
    for point in 0..POINTS {
        for basis in (0..=latest).step_by(7) {
            let (valid, basis) = (point.into(), SysTime::from_micros(basis));
            let found = rig
                .store()
                .get(&entity_type, "e", ValidTime::from_micros(valid), basis);
            let told = match found.expect("reads") {
                Answer::NotKnown => "not known".to_owned(),
                Answer::Value(version) => {
                    format!("{} @{}", text(&version), version.system.from.micros())
                }
                other @ (Answer::Ended(_) | Answer::Erased) => format!("{other:?}"),
            };
            assert_eq!(told, model.told(point, basis.micros()), "{point} {basis:?}");
        }
    }
    assert_sound(rig);
}

fn assert_sound(rig: &Rig) {
    let mut problems = Vec::new();
    let checked = rig
        .store()
        .check_pages(|told| problems.push(told.to_owned()));
    checked.expect("reads");
    assert_eq!(problems, Vec::<String>::new());
}

type Parts = [BTreeMap<Vec<u8>, Vec<u8>>; 4];

/// All pages as they lie.
fn parts(rig: &Rig) -> Parts {
    PARTS.map(|keyspace| {
        let keyspace = rig.database().keyspace(keyspace).expect("keyspace");
        let entries = keyspace.prefix(&[]).map(|entry| entry.expect("reads"));
        entries
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect()
    })
}

/// Puts `pages` and a checkpoint into the folder of a stopped store.
fn lay(rig: &Rig, pages: &Parts, checkpoint: u8) {
    let database = open_database(rig.folder.path()).expect("opens");
    for (name, wanted) in PARTS.iter().zip(pages) {
        let keyspace = database.keyspace(name).expect("keyspace");
        for entry in keyspace.prefix(&[]).collect::<Vec<_>>() {
            let (key, _) = entry.expect("reads");
            keyspace.remove(&key).expect("removes");
        }
        for (key, value) in wanted {
            keyspace.insert(key, value).expect("inserts");
        }
    }
    let mut mark = vec![1, checkpoint];
    mark.extend_from_slice(&crc32fast::hash(&mark).to_be_bytes());
    let meta = database.keyspace("meta").expect("keyspace");
    meta.insert(b"checkpoint", &mark).expect("inserts");
    database.flush().expect("flushes");
}

/// Stops the store, has it lie on disk as if its process had died with `pages` written and the checkpoint not, and opens it.
fn reopen_with(rig: &mut Rig, pages: &Parts, checkpoint: u8) {
    rig.shut();
    lay(rig, pages, checkpoint);
    rig.reopen().expect("opens");
}

/// How the pages lie after the first writes of the commit that made `after` of `before`: those to the first `keyspaces` of
/// [`PARTS`], and no removal.
fn torn(before: &Parts, after: &Parts, keyspaces: usize) -> Parts {
    let mut torn = before.clone();
    for (index, part) in torn.iter_mut().enumerate().take(keyspaces) {
        part.extend(after[index].clone());
    }
    torn
}

#[test]
fn thousands_of_versions_with_several_batches_for_each_time() {
    let mut random = Random::seeded("import times");
    let mut start = || u16::try_from(random.below(u64::from(POINTS - NARROW))).expect("small");
    let (mut rig, mut model) = (rig(), Model::new());
    let (mut before, mut sequence, mut buried) = (parts(&rig), 0, 0);
    for time in 1..=TIMES {
        let starts = [start(), start()];
        import_time(&mut rig, &mut model, time * 10, starts, |rig| {
            sequence += 1;
            let after = parts(rig);
            let removed: BTreeSet<_> = before[1]
                .keys()
                .filter(|key| !after[1].contains_key(*key))
                .collect();
            buried += removed.len();
            // Some commits are cut off between any two keyspaces, and before the removals.
            if sequence > 6 && sequence % 20 < 3 {
                for keyspaces in 0..=PARTS.len() {
                    let torn = torn(&before, &after, keyspaces);
                    reopen_with(rig, &torn, sequence - 1 - sequence % 5);
                    assert!(
                        parts(rig) == after,
                        "commit {sequence}, torn at {keyspaces}"
                    );
                    assert_sound(rig);
                }
            }
            before = after;
        });
    }
    let pages = before[1].len();
    println!(
        "{sequence} batches, {pages} pages, {buried} buried, {} roots",
        before[2].len()
    );
    assert!(pages > 50 && buried > 20, "{pages} pages, {buried} buried");
    finish(&rig).expect("finished");
    for _ in 0..2 {
        check(&rig, &model, TIMES * 10 + 9);
        rig.reopen().expect("opens");
    }
}
