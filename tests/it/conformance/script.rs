//! The scenarios' language, read into what is sent to the server.

use hindcast::{
    pb::{self, expect::Condition, mutation::Operation, value::Kind},
    time::ValidTime,
};
use prost_types::Timestamp;

use crate::store_support::CLOCK_START;

pub(super) const TYPE: &str = "thing";
pub(super) const ATTRIBUTE: &str = "v";
/// No end of time, and no beginning.
pub(super) const INF: i64 = i64::MAX;

/// One line of a script that is not an operation.
pub(super) enum Step {
    Transaction(Transaction),
    Check(String),
}

pub(super) struct Transaction {
    pub(super) at: i64,
    pub(super) expected: Expected,
    pub(super) mutations: Vec<pb::Mutation>,
    /// `patch ID +n [A,B)`: what a client computes from what it has read.
    pub(super) additions: Vec<Addition>,
}

pub(super) struct Addition {
    pub(super) id: String,
    pub(super) by: i64,
    pub(super) range: (i64, i64),
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Expected {
    Done,
    Rejected,
    Aborted,
}

pub(super) struct Scenario {
    pub(super) name: String,
    /// The caller gives the system times: the type is imported, with the clock at this time.
    pub(super) import_clock: Option<i64>,
    pub(super) steps: Vec<Step>,
}

impl Scenario {
    pub(super) fn read(section: &str) -> Self {
        let name = section
            .split_whitespace()
            .next()
            .expect("a name")
            .to_owned();
        let script = section.split("```bt\n").nth(1).expect("a script");
        let script = script.split("```").next().expect("its end");
        let mut scenario = Self {
            name,
            import_clock: None,
            steps: Vec::new(),
        };
        let mut expectations: Vec<(String, pb::Expect)> = Vec::new();
        for line in script.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(operation) = line.strip_prefix("  ") {
                let Some(Step::Transaction(transaction)) = scenario.steps.last_mut() else {
                    panic!("{}: an operation outside of a transaction", scenario.name);
                };
                transaction.read_operation(operation, &mut expectations);
            } else if let Some(header) = line.strip_prefix("tx ") {
                let words: Vec<_> = header.split_whitespace().collect();
                scenario.steps.push(Step::Transaction(Transaction {
                    at: instant(words[0]),
                    expected: match words.get(1) {
                        None => Expected::Done,
                        Some(&"!reject") => Expected::Rejected,
                        Some(&"!abort") => Expected::Aborted,
                        Some(other) => panic!("{}: {other}", scenario.name),
                    },
                    mutations: Vec::new(),
                    additions: Vec::new(),
                }));
            } else if let Some(at) = line.strip_prefix("clock ") {
                scenario.import_clock = Some(instant(at));
            } else {
                scenario.steps.push(Step::Check(line.to_owned()));
            }
        }
        scenario
    }
}

impl Transaction {
    pub(super) fn read_operation(
        &mut self,
        line: &str,
        expectations: &mut Vec<(String, pb::Expect)>,
    ) {
        let words: Vec<_> = line.split_whitespace().collect();
        let id = words[1];
        let operation = match words[0] {
            "match" => {
                let condition = match words[3] {
                    "absent" => Condition::Absent(pb::ExpectAbsent {}),
                    value => Condition::Value(pb::ExpectValue {
                        attributes: attributes(value),
                    }),
                };
                let expect = pb::Expect {
                    valid_time: wire(instant(&words[2][2..])),
                    condition: Some(condition),
                };
                expectations.push((id.to_owned(), expect));
                return;
            }
            "put" => put(words[2], &words[3..]),
            "delete" => end(&words[2..]),
            "erase" => Operation::Erase(pb::Erase {}),
            "patch" => {
                self.additions.push(Addition {
                    id: id.to_owned(),
                    by: words[2].parse().expect("a number to add"),
                    range: bounds(words[3]),
                });
                return;
            }
            other => panic!("no operation {other}"),
        };
        let expect = expectations
            .drain(..)
            .map(|(of, expect)| {
                assert_eq!(of, id, "a match belongs to the operation after it");
                expect
            })
            .collect();
        self.mutations.push(mutation(id, operation, expect));
    }
}

pub(super) fn mutation(id: &str, operation: Operation, expect: Vec<pb::Expect>) -> pb::Mutation {
    pb::Mutation {
        entity_type: TYPE.to_owned(),
        entity_id: id.to_owned(),
        operation: Some(operation),
        expect,
    }
}

/// Where a range ends.
enum RangeEnd {
    NextChange,
    Forever,
    At(i64),
}

fn range_of(range: &[&str]) -> (i64, RangeEnd) {
    match range {
        ["from", from] => (instant(from), RangeEnd::NextChange),
        [range] => match bounds(range) {
            (from, INF) => (from, RangeEnd::Forever),
            (from, to) => (from, RangeEnd::At(to)),
        },
        _ => panic!("no range in {range:?}"),
    }
}

pub(super) fn put(value: &str, range: &[&str]) -> Operation {
    use pb::put::Until;
    let (valid_from, end) = range_of(range);
    Operation::Put(pb::Put {
        attributes: attributes(value),
        valid_from: wire(valid_from),
        until: match end {
            RangeEnd::NextChange => Some(Until::UntilNextChange(pb::UntilNextChange {})),
            RangeEnd::Forever => Some(Until::Forever(pb::Forever {})),
            RangeEnd::At(to) => wire(to).map(Until::ValidTo),
        },
    })
}

pub(super) fn end(range: &[&str]) -> Operation {
    use pb::end::Until;
    let (valid_from, end) = range_of(range);
    Operation::End(pb::End {
        valid_from: wire(valid_from),
        until: match end {
            RangeEnd::NextChange => Some(Until::UntilNextChange(pb::UntilNextChange {})),
            RangeEnd::Forever => Some(Until::Forever(pb::Forever {})),
            RangeEnd::At(to) => wire(to).map(Until::ValidTo),
        },
    })
}

pub(super) fn attributes<M: FromIterator<(String, pb::Value)>>(value: &str) -> M {
    let kind = (value != "null").then(|| Kind::StringValue(value.to_owned()));
    std::iter::once((ATTRIBUTE.to_owned(), pb::Value { kind })).collect()
}

pub(super) fn bounds(text: &str) -> (i64, i64) {
    let (from, to) = text
        .trim_start_matches('[')
        .trim_end_matches(')')
        .split_once(',')
        .expect("two bounds");
    (instant(from), instant(to))
}

/// A date, an instant without a zone, a small integer, or the end of time; microseconds.
pub(super) fn instant(text: &str) -> i64 {
    match text {
        "inf" => INF,
        // A tick is a microsecond of year 5, so that the clock's start is before it.
        _ if text.parse::<i64>().is_ok() => CLOCK_START + 1 + text.parse::<i64>().expect("integer"),
        _ if text.contains('T') => ValidTime::parse(&format!("{text}Z"))
            .expect("instant")
            .micros(),
        _ => ValidTime::parse(&format!("{text}T00:00:00Z"))
            .expect("date")
            .micros(),
    }
}

pub(super) fn wire(micros: i64) -> Option<Timestamp> {
    (micros != INF).then(|| Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).expect("below a second"),
    })
}
