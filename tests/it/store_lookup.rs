//! The point-in-time join over gRPC, compared with reads one by one.

use std::{collections::BTreeMap, time::Duration};

use hindcast::{
    pb::{
        self, EntityOutcome, LookupMatch, lookup_request::Message, lookup_rows::Row, value::Kind,
    },
    store::{Answer, AttributeKind, Mutation, Operation, Until, Value},
    time::ValidTime,
};
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::{
    store_support::{Rig, end, put, spec, text, until},
    store_wire::{Client, fields, instant, run},
};

const LAST: i64 = 1_299;

/// Six entities, one of them with many versions, over 300 commits.
fn rig() -> Rig {
    let rig = Rig::new();
    for round in 0..300i64 {
        let mut batch = vec![put(
            "big",
            Some(&format!("reading {round}")),
            round * 7_919 % 3_000,
            Until::NextChange,
        )];
        if round < 50 {
            let id = format!("id{}", round % 5);
            batch.push(put(
                &id,
                Some(&format!("x{round}")),
                round,
                until(round + 100),
            ));
            batch.push(put(&id, None, round + 5, until(round + 8)));
            batch.push(end(&id, round + 10, until(round + 12)));
        }
        rig.write_at(1_000 + round, batch).expect("written");
    }
    rig
}

fn row(id: &str, valid: i64, basis: Option<i64>) -> Row {
    Row {
        entity_id: id.to_owned(),
        valid_time: Some(instant(valid)),
        basis: basis.map(instant),
    }
}

fn settings() -> pb::LookupSettings {
    pb::LookupSettings {
        entity_type: "thing".to_owned(),
        basis: Some(instant(LAST)),
        ..Default::default()
    }
}

fn rows(rows: Vec<Row>) -> Message {
    Message::Rows(pb::LookupRows { rows })
}

type Outcome = Result<Vec<pb::LookupResponse>, (Vec<pb::LookupResponse>, Status)>;

/// Sends the messages and collects the answers.
async fn ask(client: &mut Client, messages: Vec<Message>) -> Outcome {
    let requests = messages.into_iter().map(|message| pb::LookupRequest {
        message: Some(message),
    });
    let answered = client
        .lookup(tokio_stream::iter(requests.collect::<Vec<_>>()))
        .await;
    let mut stream = answered
        .map_err(|status| (Vec::new(), status))?
        .into_inner();
    let mut told = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(response)) => told.push(response),
            Ok(None) => return Ok(told),
            Err(status) => return Err((told, status)),
        }
    }
}

fn results(responses: Vec<pb::LookupResponse>) -> Vec<pb::lookup_response::Result> {
    responses
        .into_iter()
        .flat_map(|response| response.results)
        .collect()
}

/// As the wire tells an answer that was read one by one.
fn told(answer: &Answer) -> (EntityOutcome, Option<String>, Option<i64>) {
    match answer {
        Answer::Value(version) => {
            let from = Some(version.valid.from.micros());
            (EntityOutcome::Value, Some(text(version)), from)
        }
        Answer::Ended(version) => {
            let from = Some(version.valid.from.micros());
            (EntityOutcome::Ended, None, from)
        }
        Answer::NotKnown => (EntityOutcome::NotKnown, None, None),
        Answer::Erased => (EntityOutcome::Erased, None, None),
    }
}

fn seen(result: &pb::lookup_response::Result) -> (EntityOutcome, Option<String>, Option<i64>) {
    let value = result.values.first().map(|value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => "null".to_owned(),
    });
    let from = result.valid_from.map(|from| {
        ValidTime::from_timestamp(from.seconds, from.nanos)
            .expect("an instant")
            .micros()
    });
    (result.outcome(), value, from)
}

#[test]
fn rows_are_answered_in_order_as_reads_one_by_one_are() {
    let rig = rig();
    let names = ["big", "id0", "id3", "nobody", "id4"];
    let asked: Vec<(&str, i64, Option<i64>)> = (0..2_000i64)
        .map(|n| {
            let name = names[usize::try_from(n * 7 % 5).expect("small")];
            let basis = (n % 3 == 0).then_some(990 + n * 31 % 310);
            (name, n * 7_919 % 3_100, basis)
        })
        .collect();
    run(&rig, async |mut client| {
        for (matching, earlier) in [(LookupMatch::Inclusive, 0), (LookupMatch::Strict, 1)] {
            let mut messages = vec![Message::Settings(pb::LookupSettings {
                r#match: matching.into(),
                ..settings()
            })];
            messages.extend(asked.chunks(700).map(|chunk| {
                rows(
                    chunk
                        .iter()
                        .map(|&(id, valid, basis)| row(id, valid, basis))
                        .collect(),
                )
            }));
            let responses = ask(&mut client, messages).await.expect("answered");
            assert_eq!(responses[0].attributes, ["v"]);
            assert_eq!(responses[0].basis, Some(instant(LAST)));
            assert!(responses[0].results.is_empty());
            let found = results(responses);
            assert_eq!(found.len(), asked.len());
            for (result, &(id, valid, basis)) in found.iter().zip(&asked) {
                let expected = rig.get(id, valid - earlier, basis.unwrap_or(LAST));
                assert_eq!(
                    seen(result),
                    told(&expected),
                    "{id} at {valid} as of {basis:?}"
                );
            }
        }
    });
}

#[test]
fn strict_sees_what_held_just_before_and_age_counts_from_the_instant() {
    let rig = Rig::new();
    let batch = vec![
        put("a", Some("old"), 10, Until::NextChange),
        put("a", Some("new"), 20, until(30)),
        end("a", 30, Until::Forever),
    ];
    rig.write_at(1_000, batch).expect("written");
    run(&rig, async |mut client| {
        let mut outcomes = async |matching: LookupMatch, valid: i64| {
            let first = Message::Settings(pb::LookupSettings {
                r#match: matching.into(),
                max_age: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 5_000,
                }),
                basis: None,
                ..settings()
            });
            let asked = vec![first, rows(vec![row("a", valid, None)])];
            let found = results(ask(&mut client, asked).await.expect("answered"));
            seen(&found[0])
        };
        let value = |text: &str, from| (EntityOutcome::Value, Some(text.to_owned()), Some(from));
        let too_old = |text: &str, from| (EntityOutcome::TooOld, Some(text.to_owned()), Some(from));
        use LookupMatch::{Inclusive, Strict};
        assert_eq!(outcomes(Inclusive, 10).await, value("old", 10));
        assert_eq!(
            outcomes(Strict, 10).await,
            (EntityOutcome::NotKnown, None, None)
        );
        assert_eq!(outcomes(Strict, 11).await, value("old", 10));
        assert_eq!(outcomes(Inclusive, 15).await, value("old", 10));
        assert_eq!(outcomes(Inclusive, 16).await, too_old("old", 10));
        assert_eq!(outcomes(Strict, 20).await, too_old("old", 10));
        assert_eq!(outcomes(Inclusive, 20).await, value("new", 20));
        assert_eq!(
            outcomes(Inclusive, 30).await,
            (EntityOutcome::Ended, None, Some(30))
        );
        assert_eq!(outcomes(Strict, 30).await, too_old("new", 20));
    });
}

#[test]
fn attributes_come_in_the_order_asked_and_null_is_not_missing() {
    let rig = Rig::new();
    rig.declare(spec(
        "pair",
        &[
            ("a", AttributeKind::Int64),
            ("b", AttributeKind::Bool),
            ("c", AttributeKind::Date),
        ],
    ));
    let attributes = BTreeMap::from([
        ("a".to_owned(), Some(Value::Int64(7))),
        ("c".to_owned(), Some(Value::Date(0))),
    ]);
    let mutation = Mutation {
        entity_type: "pair".to_owned(),
        operation: Operation::Put(attributes),
        ..put("x", None, 0, Until::Forever)
    };
    rig.write_at(1_000, vec![mutation]).expect("written");
    run(&rig, async |mut client| {
        let first = Message::Settings(pb::LookupSettings {
            entity_type: "pair".to_owned(),
            attributes: vec!["c".to_owned(), "b".to_owned(), "a".to_owned()],
            ..Default::default()
        });
        let responses = ask(&mut client, vec![first, rows(vec![row("x", 5, None)])])
            .await
            .expect("answered");
        assert_eq!(responses[0].attributes, ["c", "b", "a"]);
        let kinds: Vec<_> = responses[1].results[0]
            .values
            .iter()
            .map(|value| value.kind.clone())
            .collect();
        let date = Kind::DateValue("1970-01-01".to_owned());
        assert_eq!(kinds, [Some(date), None, Some(Kind::Int64Value(7))]);
    });
}

#[test]
fn large_answers_come_in_messages_that_every_client_takes() {
    let rig = Rig::new();
    let batch = (0..1_000)
        .map(|n| {
            put(
                &format!("e{n:04}"),
                Some(&format!("{n:03000}")),
                0,
                Until::Forever,
            )
        })
        .collect();
    rig.write_at(1_000, batch).expect("written");
    run(&rig, async |client| {
        let mut client = client.max_decoding_message_size(4 << 20);
        let asked = (0..5_000).map(|n| row(&format!("e{:04}", n % 1_000), n, None));
        let messages = vec![
            Message::Settings(pb::LookupSettings {
                basis: None,
                ..settings()
            }),
            rows(asked.collect()),
        ];
        let responses = ask(&mut client, messages).await.expect("answered");
        assert!(responses.len() > 10);
        let found = results(responses);
        assert_eq!(found.len(), 5_000);
        for (n, result) in found.iter().enumerate() {
            assert_eq!(seen(result).1, Some(format!("{:03000}", n % 1_000)));
        }
    });
}

#[test]
fn malformed_streams_are_refused_with_the_field_and_earlier_answers_stay() {
    let rig = rig();
    let good = || row("big", 5, None);
    let set = |change: fn(&mut pb::LookupSettings)| {
        let mut settings = settings();
        change(&mut settings);
        vec![Message::Settings(settings)]
    };
    let then = |row: Row| vec![Message::Settings(settings()), rows(vec![good(), row])];
    let cases: Vec<(Vec<Message>, Code, &str)> = vec![
        (vec![], Code::InvalidArgument, "settings"),
        (vec![rows(vec![good()])], Code::InvalidArgument, "settings"),
        (
            vec![Message::Settings(settings()), Message::Settings(settings())],
            Code::InvalidArgument,
            "settings",
        ),
        (
            set(|s| s.entity_type.clear()),
            Code::InvalidArgument,
            "settings.entity_type",
        ),
        (
            set(|s| s.attributes = vec!["v".to_owned(), "w".to_owned()]),
            Code::InvalidArgument,
            "settings.attributes[1]",
        ),
        (
            set(|s| s.attributes = vec!["v".to_owned(), "v".to_owned()]),
            Code::InvalidArgument,
            "settings.attributes[1]",
        ),
        (
            set(|s| s.r#match = 9),
            Code::InvalidArgument,
            "settings.match",
        ),
        (
            set(|s| {
                s.max_age = Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                })
            }),
            Code::InvalidArgument,
            "settings.max_age",
        ),
        (
            set(|s| {
                s.basis = Some(Timestamp {
                    seconds: 0,
                    nanos: -1,
                })
            }),
            Code::InvalidArgument,
            "settings.basis",
        ),
        (
            set(|s| s.basis = Some(instant(5_000_000))),
            Code::OutOfRange,
            "settings.basis",
        ),
        (
            vec![Message::Settings(settings()), rows(vec![])],
            Code::InvalidArgument,
            "rows",
        ),
        (
            vec![Message::Settings(settings()), rows(vec![good(); 10_001])],
            Code::InvalidArgument,
            "rows",
        ),
        (
            then(row("", 5, None)),
            Code::InvalidArgument,
            "rows[1].entity_id",
        ),
        (
            then(row(&"i".repeat(513), 5, None)),
            Code::InvalidArgument,
            "rows[1].entity_id",
        ),
        (
            then(Row {
                valid_time: None,
                ..good()
            }),
            Code::InvalidArgument,
            "rows[1].valid_time",
        ),
        (
            then(Row {
                valid_time: Some(Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                ..good()
            }),
            Code::InvalidArgument,
            "rows[1].valid_time",
        ),
        (
            then(row("big", 5, Some(5_000_000))),
            Code::OutOfRange,
            "rows[1].basis",
        ),
    ];
    run(&rig, async |mut client| {
        for (messages, code, field) in cases {
            let (_, status) = ask(&mut client, messages).await.expect_err(field);
            assert_eq!(
                (status.code(), fields(&status)),
                (code, vec![field.to_owned()]),
                "{status}"
            );
        }
        let unknown = Message::Settings(pb::LookupSettings {
            entity_type: "nothing".to_owned(),
            ..settings()
        });
        let (_, status) = ask(&mut client, vec![unknown])
            .await
            .expect_err("no such type");
        assert_eq!(status.code(), Code::NotFound);
        let cut = vec![
            Message::Settings(settings()),
            rows(vec![good(); 3]),
            rows(vec![]),
        ];
        let (before, _) = ask(&mut client, cut).await.expect_err("no rows");
        assert_eq!(results(before).len(), 3);
    });
}

#[test]
fn a_stream_ends_when_the_store_ends_streams() {
    let rig = rig();
    run(&rig, async |mut client| {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let first = pb::LookupRequest {
            message: Some(Message::Settings(settings())),
        };
        sender.send(first).await.expect("sent");
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut stream = client.lookup(requests).await.expect("opens").into_inner();
        assert!(stream.message().await.expect("answered").is_some());
        rig.store().end_streams();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
        let status = ended.expect("at once").expect_err("ended");
        assert_eq!(status.code(), Code::Unavailable);
        drop(sender);
    });
}
