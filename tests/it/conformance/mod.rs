//! Replays the bitemporal conformance scenarios, all of them, against a real server: `../shared/conformance` says what their
//! language means.

mod script;

use std::{collections::BTreeMap, sync::Arc};

use hindcast::{
    pb::{
        self, EntityOutcome, LookupMatch, list_changes_response::State, lookup_request,
        mutation::Operation, value::Kind,
    },
    time::ManualClock,
};
use prost_types::Timestamp;
use tonic::{Code, Status};

use self::script::{
    ATTRIBUTE, Addition, Expected, INF, Scenario, Step, TYPE, Transaction, attributes, bounds,
    instant, mutation, wire,
};
use crate::{beside::shared, store_support::CLOCK_START, support::Service};

const SCENARIO_COUNT: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_scenarios_hold() {
    let Some(path) = shared("conformance/bitemporal_scenarios.md") else {
        return;
    };
    let page = std::fs::read_to_string(&path).expect("the scenarios are beside the repository");
    let scenarios: Vec<_> = page.split("\n### ").skip(1).map(Scenario::read).collect();
    assert_eq!(scenarios.len(), SCENARIO_COUNT);
    for scenario in &scenarios {
        let checks = scenario.run().await;
        assert!(checks > 0, "{} checks nothing", scenario.name);
    }
}

impl Scenario {
    /// Runs every step; gives the number of checks.
    async fn run(&self) -> usize {
        if let Some(clock) = self.import_clock {
            return self.run_import(clock).await;
        }
        let mut rig = Rig::start(&self.name, CLOCK_START, pb::EntityTypeState::Active).await;
        let mut checks = 0;
        for step in &self.steps {
            match step {
                Step::Transaction(transaction) => rig.commit(transaction).await,
                Step::Check(line) => {
                    rig.check(line).await;
                    checks += 1;
                }
            }
        }
        rig.service.stop().await;
        checks
    }

    /// An imported type is not read before its import has ended: each check gets an import of its own.
    async fn run_import(&self, clock: i64) -> usize {
        let mut checks = 0;
        for (index, step) in self.steps.iter().enumerate() {
            let Step::Check(line) = step else { continue };
            let mut rig = Rig::start(&self.name, clock, pb::EntityTypeState::Importing).await;
            for before in &self.steps[..index] {
                if let Step::Transaction(transaction) = before {
                    rig.import(transaction).await;
                }
            }
            let request = pb::FinishImportRequest {
                name: TYPE.to_owned(),
            };
            let sealed = rig.service.entities.finish_import(request).await;
            sealed.expect("sealed");
            rig.check(line).await;
            rig.service.stop().await;
            checks += 1;
        }
        checks
    }
}

/// A server on a clock of its own.
struct Rig {
    name: String,
    clock: Arc<ManualClock>,
    service: Service,
}

impl Rig {
    async fn start(name: &str, clock: i64, state: pb::EntityTypeState) -> Self {
        let clock = ManualClock::starting_at(clock);
        let mut service = Service::start(Arc::clone(&clock) as _).await;
        let attribute = pb::Attribute {
            name: ATTRIBUTE.to_owned(),
            kind: pb::AttributeKind::String.into(),
            ..Default::default()
        };
        let request = pb::CreateEntityTypeRequest {
            entity_type: Some(pb::EntityType {
                name: TYPE.to_owned(),
                attributes: vec![attribute],
                state: state.into(),
                ..Default::default()
            }),
        };
        let declared = service.entities.create_entity_type(request).await;
        declared.expect("declared");
        Self {
            name: name.to_owned(),
            clock,
            service,
        }
    }

    async fn commit(&mut self, transaction: &Transaction) {
        self.clock.set(transaction.at);
        let mut mutations = transaction.mutations.clone();
        for addition in &transaction.additions {
            mutations.push(self.patch(addition).await);
        }
        let request = pb::WriteRequest {
            mutations,
            ..Default::default()
        };
        let written = self.service.entities.write(request).await;
        let name = &self.name;
        match transaction.expected {
            Expected::Done => {
                let written = written.unwrap_or_else(|status| panic!("{name}: {status}"));
                let written = written.into_inner();
                // A batch that changes nothing makes no commit.
                if written.versions_written > 0 {
                    assert_eq!(written.system_time, wire(transaction.at), "{name}");
                }
            }
            Expected::Rejected => assert_eq!(code(written), Code::InvalidArgument, "{name}"),
            Expected::Aborted => assert_eq!(code(written), Code::Aborted, "{name}"),
        }
    }

    async fn import(&mut self, transaction: &Transaction) {
        let request = pb::WriteRequest {
            mutations: transaction.mutations.clone(),
            import_system_time: wire(transaction.at),
            ..Default::default()
        };
        let written = self.service.entities.write(request).await;
        match transaction.expected {
            Expected::Done => {
                written.expect("imported");
            }
            Expected::Rejected => {
                assert_eq!(code(written), Code::FailedPrecondition, "{}", self.name);
            }
            Expected::Aborted => panic!("{}: no import is aborted", self.name),
        }
    }

    /// The addition to the one value that the range has.
    async fn patch(&mut self, addition: &Addition) -> pb::Mutation {
        let (from, to) = addition.range;
        let range = pb::TimeRange {
            from: wire(from),
            to: wire(to),
        };
        let versions = self.history(&addition.id, Some(range), None, None).await;
        let held: Vec<i64> = versions
            .iter()
            .filter(|version| version.system_to.is_none())
            .map(|version| text(version).parse().expect("a number"))
            .collect();
        assert_eq!(held.len(), 1, "{}: one value in the range", self.name);
        let patch = pb::Patch {
            attributes: attributes(&(held[0] + addition.by).to_string()),
            valid_from: wire(from),
            until: wire(to).map(pb::patch::Until::ValidTo),
        };
        mutation(&addition.id, Operation::Patch(patch), Vec::new())
    }

    async fn check(&mut self, line: &str) {
        let (question, expected) = line
            .split_once("=>")
            .unwrap_or_else(|| panic!("{}: {line}", self.name));
        let words: Vec<_> = question.split_whitespace().collect();
        let answer = match words[0] {
            "get" => self.get(&words, expected.contains('@')).await,
            "timeline" => self.timeline(words[1], words[2]).await,
            "versions" => {
                let versions = self.history(words[1], None, None, None).await;
                let values = versions.iter().filter(|version| !version.ended);
                values.count().to_string()
            }
            "visible" => self.visible(&words).await,
            "diff" => self.diff(&words).await,
            "pit" => self.point_in_time(&words).await,
            other => panic!("{}: no check {other}", self.name),
        };
        let expected = normalise(words[0], expected.trim());
        assert_eq!(answer, expected, "{}: {line}", self.name);
    }

    async fn get(&mut self, words: &[&str], with_system_time: bool) -> String {
        let request = pb::GetEntityRequest {
            entity_type: TYPE.to_owned(),
            entity_id: words[1].to_owned(),
            valid_time: wire(instant(&words[2][2..])),
            basis: basis(words[3]),
        };
        let got = match self.service.entities.get_entity(request).await {
            Ok(got) => got.into_inner(),
            Err(status) if status.code() == Code::OutOfRange => return "!not_yet".to_owned(),
            Err(status) => panic!("{}: {status}", self.name),
        };
        let version = got.version.clone().unwrap_or_default();
        match got.outcome() {
            EntityOutcome::Value if with_system_time => {
                format!("{} @{}", text(&version), micros(version.system_from))
            }
            EntityOutcome::Value => text(&version),
            EntityOutcome::Ended | EntityOutcome::NotKnown => "absent".to_owned(),
            EntityOutcome::Erased => "erased".to_owned(),
            EntityOutcome::TooOld | EntityOutcome::Unspecified => panic!("{}", self.name),
        }
    }

    async fn history(
        &mut self,
        id: &str,
        valid_range: Option<pb::TimeRange>,
        system_range: Option<pb::TimeRange>,
        basis: Option<Timestamp>,
    ) -> Vec<pb::Version> {
        let request = pb::ListHistoryRequest {
            entity_type: TYPE.to_owned(),
            entity_id: id.to_owned(),
            valid_range,
            system_range,
            basis,
            ..Default::default()
        };
        let listed = self.service.entities.list_history(request).await;
        let listed = listed.expect("listed").into_inner();
        assert_eq!(listed.next_page_token, "", "{}: one page", self.name);
        listed.versions
    }

    async fn timeline(&mut self, id: &str, at: &str) -> String {
        let request = pb::ListHistoryRequest {
            entity_type: TYPE.to_owned(),
            entity_id: id.to_owned(),
            basis: basis(at),
            coalesce: true,
            ..Default::default()
        };
        let listed = self.service.entities.list_history(request).await;
        let told: Vec<_> = listed
            .expect("listed")
            .into_inner()
            .versions
            .iter()
            .filter(|version| version.system_to.is_none() && !version.ended)
            .map(|version| {
                let (from, to) = (micros(version.valid_from), to_micros(version.valid_to));
                format!("{}[{from},{to})", text(version))
            })
            .collect();
        told.join(" ")
    }

    /// Values whose system interval meets `[from, to)` or `[between, and]`.
    async fn visible(&mut self, words: &[&str]) -> String {
        let (kind, from) = words[2].split_once('=').expect("from=…");
        let (_, to) = words[3].split_once('=').expect("to=…");
        let range = pb::TimeRange {
            from: wire(instant(from)),
            to: wire(instant(to) + i64::from(kind == "between")),
        };
        let versions = self.history(words[1], None, Some(range), None).await;
        let mut values: Vec<_> = versions
            .iter()
            .map(|version| (micros(version.system_from), text(version)))
            .collect();
        values.sort();
        values.dedup();
        let texts: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
        texts.join(" ")
    }

    /// The changes between two bases, those of one range put together.
    async fn diff(&mut self, words: &[&str]) -> String {
        let request = pb::ListChangesRequest {
            from_basis: basis(words[2]),
            to_basis: basis(words[3]),
            ..Default::default()
        };
        let listed = self.service.entities.list_changes(request).await;
        let mut stream = listed.expect("listed").into_inner();
        let mut changes = Vec::new();
        while let Some(message) = stream.message().await.expect("the stream goes on") {
            changes.extend(message.changes);
        }
        changes.retain(|change| change.entity_id == words[1]);
        let mut bounds: Vec<_> = changes
            .iter()
            .flat_map(|change| [micros(change.valid_from), to_micros(change.valid_to)])
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        let mut told: Vec<(i64, i64, String)> = Vec::new();
        for pair in bounds.windows(2) {
            let mut over = changes.iter().filter(|change| {
                micros(change.valid_from) <= pair[0] && pair[1] <= to_micros(change.valid_to)
            });
            let Some(first) = over.next() else { continue };
            let last = over.next_back().unwrap_or(first);
            let (old, new) = (state(first.before.as_ref()), state(last.after.as_ref()));
            if old == new {
                continue;
            }
            let change = format!("{old}->{new}");
            match told.last_mut() {
                Some((_, to, before)) if *to == pair[0] && *before == change => *to = pair[1],
                _ => told.push((pair[0], pair[1], change)),
            }
        }
        let texts: Vec<_> = told
            .iter()
            .map(|(from, to, change)| format!("[{from},{to}) {change}"))
            .collect();
        texts.join(" ")
    }

    /// `pit ID at=E MODE [strict]`, as a lookup.
    async fn point_in_time(&mut self, words: &[&str]) -> String {
        let at = instant(words[2].strip_prefix("at=").expect("at=…"));
        let is_strict = words.get(4) == Some(&"strict");
        let settings = pb::LookupSettings {
            entity_type: TYPE.to_owned(),
            r#match: if is_strict {
                LookupMatch::Strict.into()
            } else {
                LookupMatch::Inclusive.into()
            },
            ..Default::default()
        };
        let row = pb::lookup_rows::Row {
            entity_id: words[1].to_owned(),
            valid_time: wire(at),
            basis: match words[3] {
                "then" => wire(at - i64::from(is_strict)),
                "now" => None,
                other => panic!("{}: no mode {other}", self.name),
            },
        };
        let messages = [
            lookup_request::Message::Settings(settings),
            lookup_request::Message::Rows(pb::LookupRows { rows: vec![row] }),
        ]
        .map(|message| pb::LookupRequest {
            message: Some(message),
        });
        let opened = self.service.entities.lookup(tokio_stream::iter(messages));
        let mut stream = opened.await.expect("opened").into_inner();
        let mut results = Vec::new();
        while let Some(message) = stream.message().await.expect("the stream goes on") {
            results.extend(message.results);
        }
        assert_eq!(results.len(), 1, "{}: one row, one result", self.name);
        match results[0].outcome() {
            EntityOutcome::Value => kind_text(results[0].values[0].kind.as_ref()),
            EntityOutcome::Ended | EntityOutcome::NotKnown => "absent".to_owned(),
            outcome @ (EntityOutcome::Erased
            | EntityOutcome::TooOld
            | EntityOutcome::Unspecified) => format!("{outcome:?}"),
        }
    }
}

fn code<T>(outcome: Result<T, Status>) -> Code {
    outcome.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn text(version: &pb::Version) -> String {
    kind_text(
        version
            .attributes
            .get(ATTRIBUTE)
            .and_then(|value| value.kind.as_ref()),
    )
}

fn kind_text(kind: Option<&Kind>) -> String {
    match kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => "null".to_owned(),
    }
}

fn state(state: Option<&State>) -> String {
    let state = state.cloned().unwrap_or_default();
    match state.outcome() {
        EntityOutcome::Value => {
            let held: BTreeMap<_, _> = state.attributes.into_iter().collect();
            kind_text(held.get(ATTRIBUTE).and_then(|value| value.kind.as_ref()))
        }
        EntityOutcome::Ended | EntityOutcome::NotKnown => "absent".to_owned(),
        outcome @ (EntityOutcome::Erased | EntityOutcome::TooOld | EntityOutcome::Unspecified) => {
            format!("{outcome:?}")
        }
    }
}

/// `t=…`, `t1=…`; unset: the latest.
fn basis(word: &str) -> Option<Timestamp> {
    let (_, at) = word.split_once('=').expect("t=…");
    if at == "now" { None } else { wire(instant(at)) }
}

fn micros(timestamp: Option<Timestamp>) -> i64 {
    timestamp.map_or(i64::MIN, |at| {
        at.seconds * 1_000_000 + i64::from(at.nanos / 1_000)
    })
}

fn to_micros(timestamp: Option<Timestamp>) -> i64 {
    timestamp.map_or(INF, |at| micros(Some(at)))
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
                    Some((value, range)) => {
                        let (from, to) = bounds(range);
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
