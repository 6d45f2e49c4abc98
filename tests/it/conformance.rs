//! Replays the bitemporal conformance scenarios that need no more than put and delete.

use hindcast::{
    store::{Answer, Error, Until},
    time::ValidTime,
};

use crate::beside::shared;
use crate::store_support::{Rig, end, put, text, until};

/// The scenarios that this store must pass. S08's `match` and all later operations (patch, erase, import, `diff`) are skipped
/// where a scenario has them.
const SCENARIOS: [&str; 19] = [
    "S01", "S02", "S03", "S04", "S05", "S06", "S07", "S08", "S09", "S10", "S11", "S13", "S14",
    "S15", "S17", "S18", "S19", "S20", "S23",
];

const MIN: i64 = i64::MIN;

#[test]
fn listed_scenarios_hold() {
    let Some(path) = shared("conformance/bitemporal_scenarios.md") else {
        return;
    };
    let page = std::fs::read_to_string(&path).expect("the scenarios are beside the repository");
    for name in SCENARIOS {
        let script = script_of(&page, name).unwrap_or_else(|| panic!("scenario {name} is missing"));
        let checks = Scenario::new(name).run(script);
        assert!(checks > 0, "{name} checks nothing");
    }
}

fn script_of<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let section = page
        .split("\n### ")
        .find(|section| section.starts_with(&format!("{name} ")))?;
    section.split("```bt\n").nth(1)?.split("```").next()
}

struct Transaction {
    at: i64,
    is_rejected: bool,
    operations: Vec<hindcast::store::Mutation>,
}

struct Scenario {
    name: String,
    rig: Rig,
    checks: usize,
}

impl Scenario {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rig: Rig::new(),
            checks: 0,
        }
    }

    fn run(mut self, script: &str) -> usize {
        let mut open: Option<Transaction> = None;
        let mut skips_transaction = false;
        for line in script.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(operation) = line.strip_prefix("  ") {
                let transaction = open
                    .as_mut()
                    .expect("an operation outside of a transaction");
                // A precondition that holds changes nothing; a transaction whose precondition fails is left out whole.
                if !skips_transaction && !operation.starts_with("match ") {
                    transaction.operations.push(mutation(operation));
                }
                continue;
            }
            if let Some(transaction) = open.take().filter(|_| !skips_transaction) {
                self.commit(transaction);
            }
            skips_transaction = line.ends_with("!abort");
            match line.strip_prefix("tx ") {
                Some(header) => {
                    let words: Vec<_> = header.split_whitespace().collect();
                    open = Some(Transaction {
                        at: instant(words[0]),
                        is_rejected: words.contains(&"!reject"),
                        operations: Vec::new(),
                    });
                }
                None => self.check(line),
            }
        }
        self.checks
    }

    fn commit(&self, transaction: Transaction) {
        let Transaction {
            at,
            is_rejected,
            operations,
        } = transaction;
        if is_rejected {
            self.rig.clock.set(at);
            let outcome = self.rig.write(operations);
            assert!(
                matches!(outcome, Err(Error::Invalid { .. })),
                "{}: {outcome:?}",
                self.name
            );
        } else {
            self.rig
                .write_at(at, operations)
                .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
    }

    fn check(&mut self, line: &str) {
        let (question, expected) = line
            .split_once("=>")
            .unwrap_or_else(|| panic!("{}: {line}", self.name));
        let expected = expected.trim();
        let words: Vec<_> = question.split_whitespace().collect();
        let answer = match words[0] {
            "get" => self.get(&words, expected.contains('@')),
            "timeline" => self.timeline(words[1], self.basis(words[2])),
            "versions" => self
                .rig
                .history(words[1], self.latest())
                .iter()
                .filter(|version| !version.ended)
                .count()
                .to_string(),
            "visible" => self.visible(&words),
            "diff" => self.diff(&words),
            other => panic!("{}: no check {other}", self.name),
        };
        let expected = normalise(words[0], expected);
        assert_eq!(answer, expected, "{}: {line}", self.name);
        self.checks += 1;
    }

    fn latest(&self) -> i64 {
        self.rig.store().latest_basis().micros()
    }

    /// `t=…`; a basis after the last commit is pinned, as a service would.
    fn basis(&self, word: &str) -> i64 {
        let (_, at) = word.split_once('=').expect("t=…");
        if at == "now" {
            return self.latest();
        }
        let basis = instant(at);
        self.rig.clock.set(basis.max(self.latest()));
        self.rig.pin(basis).expect("pinned").micros()
    }

    fn get(&self, words: &[&str], with_system_time: bool) -> String {
        let valid = instant(&words[2][2..]);
        match self.rig.get(words[1], valid, self.basis(words[3])) {
            Answer::Value(version) if with_system_time => {
                format!("{} @{}", text(&version), version.system.from.micros())
            }
            Answer::Value(version) => text(&version),
            Answer::Ended(_) | Answer::NotKnown => "absent".to_owned(),
            Answer::Erased => "erased".to_owned(),
        }
    }

    /// Contiguous equal values joined, whoever asserted them.
    fn timeline(&self, id: &str, basis: i64) -> String {
        let mut ranges: Vec<(String, i64, i64)> = Vec::new();
        for version in self.rig.history(id, basis) {
            if version.ended || version.system.to.is_some() {
                continue;
            }
            let (from, to) = (
                version.valid.from.micros(),
                version.valid.to.map_or(i64::MAX, ValidTime::micros),
            );
            match ranges.last_mut() {
                Some((value, _, last)) if *last == from && *value == text(&version) => *last = to,
                _ => ranges.push((text(&version), from, to)),
            }
        }
        let told: Vec<_> = ranges
            .iter()
            .map(|(value, from, to)| format!("{value}[{from},{to})"))
            .collect();
        told.join(" ")
    }

    /// Values whose system interval meets `[from, to)` or `[between, and]`.
    fn visible(&self, words: &[&str]) -> String {
        let (kind, from) = words[2].split_once('=').expect("from=…");
        let (_, to) = words[3].split_once('=').expect("to=…");
        let to = instant(to) + i64::from(kind == "between");
        let mut values: Vec<_> = self
            .rig
            .history(words[1], self.latest())
            .iter()
            .filter(|version| {
                let system_to = version.system.to.map_or(i64::MAX, |to| to.micros());
                version.system.from.micros() < to && instant(from) < system_to
            })
            .map(|version| (version.system.from, text(version)))
            .collect();
        values.sort();
        values.dedup();
        let texts: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
        texts.join(" ")
    }

    /// Ranges between all bounds of either basis in which the answer differs, joined.
    fn diff(&self, words: &[&str]) -> String {
        let (before, after) = (self.basis(words[2]), self.basis(words[3]));
        let mut bounds: Vec<_> = [before, after]
            .iter()
            .flat_map(|basis| self.rig.history(words[1], *basis))
            .flat_map(|version| {
                [
                    version.valid.from.micros(),
                    version.valid.to.map_or(i64::MAX, ValidTime::micros),
                ]
            })
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        let value = |at, basis| match self.rig.get(words[1], at, basis) {
            Answer::Value(version) => text(&version),
            Answer::Ended(_) | Answer::NotKnown => "absent".to_owned(),
            Answer::Erased => "erased".to_owned(),
        };
        let mut told: Vec<(i64, i64, String)> = Vec::new();
        for pair in bounds.windows(2) {
            let change = format!("{}->{}", value(pair[0], before), value(pair[0], after));
            let (old, new) = change.split_once("->").expect("two values");
            if old == new {
                continue;
            }
            match told.last_mut() {
                Some((_, to, last)) if *to == pair[0] && *last == change => *to = pair[1],
                _ => told.push((pair[0], pair[1], change)),
            }
        }
        let texts: Vec<_> = told
            .iter()
            .map(|(from, to, change)| format!("[{from},{to}) {change}"))
            .collect();
        texts.join(" ")
    }
}

fn mutation(operation: &str) -> hindcast::store::Mutation {
    let words: Vec<_> = operation.split_whitespace().collect();
    let is_put = words[0] == "put";
    assert!(is_put || words[0] == "delete", "no operation {operation}");
    let id = words[1];
    let range = &words[if is_put { 3 } else { 2 }..];
    let (from, ends) = match range {
        ["from", from] => (instant(from), Until::NextChange),
        [bounds] => {
            let (from, to) = bounds_of(bounds);
            let ends = if to == i64::MAX {
                Until::Forever
            } else {
                until(to)
            };
            (from, ends)
        }
        _ => panic!("no range in {operation}"),
    };
    match (is_put, words[2]) {
        (false, _) => end(id, from, ends),
        (true, "null") => put(id, None, from, ends),
        (true, value) => put(id, Some(value), from, ends),
    }
}

fn bounds_of(bounds: &str) -> (i64, i64) {
    let (from, to) = bounds
        .trim_start_matches('[')
        .trim_end_matches(')')
        .split_once(',')
        .expect("two bounds");
    (instant(from), instant(to))
}

/// A date, an instant without a zone, a small integer, or an end of time; microseconds.
fn instant(text: &str) -> i64 {
    match text {
        "inf" => i64::MAX,
        "-inf" => MIN,
        // A tick is a microsecond of year 1, so that the clock's start is before it.
        _ if text.parse::<i64>().is_ok() => {
            crate::store_support::CLOCK_START + 1 + text.parse::<i64>().expect("integer")
        }
        _ if text.contains('T') => ValidTime::parse(&format!("{text}Z"))
            .expect("instant")
            .micros(),
        _ => ValidTime::parse(&format!("{text}T00:00:00Z"))
            .expect("date")
            .micros(),
    }
}

/// The expected text with every instant as microseconds.
fn normalise(kind: &str, expected: &str) -> String {
    match kind {
        "get" => match expected.split_once(" @") {
            Some((value, at)) => format!("{value} @{}", instant(at)),
            None => expected.to_owned(),
        },
        "timeline" | "diff" => {
            let words: Vec<_> = expected
                .split_whitespace()
                .map(|word| match word.split_once('[') {
                    Some((value, bounds)) => {
                        let (from, to) = bounds_of(bounds);
                        format!("{value}[{from},{to})")
                    }
                    None => word.to_owned(),
                })
                .collect();
            words.join(" ")
        }
        _ => expected.to_owned(),
    }
}
