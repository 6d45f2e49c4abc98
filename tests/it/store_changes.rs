//! What commits changed, compared with reads before and after each.

use std::{collections::BTreeMap, time::Duration};

use hindcast::{
    pb::{self, EntityOutcome, list_changes_response::State, value::Kind},
    store::{Answer, AttributeKind, Batch, Mutation, Until},
};
use prost_types::Timestamp;
use tonic::{Code, Status, Streaming};

use crate::{
    store_support::{Rig, end, put, spec, text, until},
    store_wire::{Client, fields, instant, micros, run},
};

fn other(id: &str, from: i64) -> Mutation {
    Mutation {
        entity_type: "other".to_owned(),
        ..put(id, Some(&from.to_string()), from, Until::Forever)
    }
}

const COMMITS: i64 = 60;
const POINTS: std::ops::Range<i64> = 0..40;

/// Sixty commits of up to four changes each, over three things and one entity of another type.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.declare(spec("other", &[("v", AttributeKind::String)]));
    let mut seed = 7u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((seed >> 33) % below).expect("small")
    };
    for commit in 0..COMMITS {
        let mut batch = Vec::new();
        for _ in 0..=random(4) {
            let id = format!("id{}", random(3));
            let from = random(30);
            let to = match random(3) {
                0 => Until::Forever,
                1 => Until::NextChange,
                _ => until(from + 1 + random(9)),
            };
            batch.push(match random(5) {
                0 => end(&id, from, to),
                1 => put(&id, None, from, to),
                n => put(
                    &id,
                    Some(["x", "y", "z"][usize::try_from(n - 2).expect("small")]),
                    from,
                    to,
                ),
            });
        }
        if commit % 10 == 3 {
            batch.push(other("o", commit));
        }
        rig.write_at(1_000 + commit * 10, batch).expect("written");
    }
    rig
}

async fn open(
    client: &mut Client,
    request: pb::ListChangesRequest,
) -> Result<Streaming<pb::ListChangesResponse>, Status> {
    client
        .list_changes(request)
        .await
        .map(tonic::Response::into_inner)
}

/// All messages of a listing that does not follow.
async fn list(
    client: &mut Client,
    request: pb::ListChangesRequest,
) -> Vec<pb::ListChangesResponse> {
    let mut stream = open(client, request).await.expect("opens");
    let mut told = Vec::new();
    while let Some(message) = stream.message().await.expect("told") {
        told.push(message);
    }
    told
}

fn told(answer: &Answer) -> (EntityOutcome, Option<String>) {
    match answer {
        Answer::Value(version) => (EntityOutcome::Value, Some(text(version))),
        Answer::Ended(_) => (EntityOutcome::Ended, None),
        Answer::NotKnown => (EntityOutcome::NotKnown, None),
        Answer::Erased => (EntityOutcome::Erased, None),
    }
}

fn seen(state: &Option<State>) -> (EntityOutcome, Option<String>) {
    let state = state.as_ref().expect("a state");
    let value = state
        .attributes
        .get("v")
        .map_or("null".to_owned(), |value| match &value.kind {
            Some(Kind::StringValue(text)) => text.clone(),
            kind => format!("{kind:?}"),
        });
    (
        state.outcome(),
        (state.outcome() == EntityOutcome::Value).then_some(value),
    )
}

#[test]
fn each_commit_tells_exactly_the_points_whose_answer_it_changed() {
    let rig = rig();
    run(&rig, async |mut client| {
        let mut by_commit: BTreeMap<i64, Vec<pb::list_changes_response::Change>> = BTreeMap::new();
        let messages = list(&mut client, pb::ListChangesRequest::default()).await;
        let (last, changes) = messages.split_last().expect("messages");
        assert!(last.heartbeat && last.changes.is_empty());
        for message in changes {
            let at = micros(message.system_time).expect("set");
            by_commit
                .entry(at)
                .or_default()
                .extend(message.changes.clone());
        }
        for commit in 0..COMMITS {
            let at = 1_000 + commit * 10;
            let changes = by_commit.remove(&at).unwrap_or_default();
            let order: Vec<_> = changes
                .iter()
                .map(|change| {
                    (
                        change.entity_type.clone(),
                        change.entity_id.clone(),
                        micros(change.valid_from),
                    )
                })
                .collect();
            assert!(order.is_sorted(), "{order:?}");
            for id in ["id0", "id1", "id2"] {
                for point in POINTS {
                    let before = told(&rig.get(id, point, at - 1));
                    let after = told(&rig.get(id, point, at));
                    let found: Vec<_> = changes
                        .iter()
                        .filter(|change| change.entity_type == "thing" && change.entity_id == id)
                        .filter(|change| {
                            micros(change.valid_from).is_none_or(|from| from <= point)
                                && micros(change.valid_to).is_none_or(|to| point < to)
                        })
                        .map(|change| (seen(&change.before), seen(&change.after)))
                        .collect();
                    let expected = if before == after {
                        vec![]
                    } else {
                        vec![(before, after)]
                    };
                    assert_eq!(found, expected, "{id} at {point}, commit {at}");
                }
            }
        }
        assert!(by_commit.is_empty(), "no other commits");
    });
}

#[test]
fn listings_keep_to_their_bases_and_types() {
    let rig = rig();
    run(&rig, async |mut client| {
        let times = async |client: &mut Client, request| -> Vec<i64> {
            let messages = list(client, request).await;
            messages
                .iter()
                .filter(|message| !message.heartbeat)
                .filter_map(|message| micros(message.system_time))
                .collect()
        };
        let others = pb::ListChangesRequest {
            entity_types: vec!["other".to_owned()],
            ..Default::default()
        };
        assert_eq!(
            times(&mut client, others.clone()).await,
            [1_030, 1_130, 1_230, 1_330, 1_430, 1_530]
        );
        let part = pb::ListChangesRequest {
            from_basis: Some(instant(1_030)),
            to_basis: Some(instant(1_230)),
            ..others.clone()
        };
        assert_eq!(times(&mut client, part.clone()).await, [1_130, 1_230]);
        let between = pb::ListChangesRequest {
            from_basis: Some(instant(1_029)),
            to_basis: Some(instant(1_229)),
            ..others
        };
        assert_eq!(times(&mut client, between).await, [1_030, 1_130]);
        let end = list(&mut client, part).await.pop().expect("an end");
        assert_eq!(micros(end.system_time), Some(1_230));
        let empty = pb::ListChangesRequest {
            from_basis: Some(instant(1_590)),
            ..Default::default()
        };
        assert!(times(&mut client, empty).await.is_empty());
    });
}

#[test]
fn every_token_goes_on_where_its_message_ended() {
    let rig = rig();
    let wide: Vec<_> = (0..700i64)
        .map(|n| put("big", Some(&n.to_string()), n * 2, until(n * 2 + 1)))
        .collect();
    rig.write_at(2_000, wide).expect("written");
    rig.write_at(
        2_010,
        vec![
            put("big", Some("all"), 0, until(1_400)),
            put("after", Some("a"), 0, Until::Forever),
        ],
    )
    .expect("written");
    run(&rig, async |mut client| {
        let flat = |messages: &[pb::ListChangesResponse]| -> Vec<_> {
            messages
                .iter()
                .flat_map(|message| {
                    message.changes.iter().map(|change| {
                        let id = (change.entity_type.clone(), change.entity_id.clone());
                        (
                            micros(message.system_time),
                            id,
                            micros(change.valid_from),
                            micros(change.valid_to),
                            seen(&change.after),
                        )
                    })
                })
                .collect()
        };
        let all = list(&mut client, pb::ListChangesRequest::default()).await;
        let large = all
            .iter()
            .filter(|message| micros(message.system_time) == Some(2_010) && !message.heartbeat);
        assert!(
            large.count() >= 2,
            "a large commit comes in several messages"
        );
        for (index, message) in all.iter().enumerate() {
            let request = pb::ListChangesRequest {
                resume_token: message.resume_token.clone(),
                ..Default::default()
            };
            let rest = list(&mut client, request).await;
            assert_eq!(
                flat(&rest),
                flat(&all[index + 1..]),
                "after message {index}"
            );
        }
    });
}

#[test]
fn followers_hear_of_commits_as_they_come_and_of_quiet() {
    let rig = rig();
    run(&rig, async |mut client| {
        let request = pb::ListChangesRequest {
            from_basis: Some(instant(1_590)),
            follow: true,
            entity_types: vec!["thing".to_owned()],
            ..Default::default()
        };
        let mut stream = open(&mut client, request).await.expect("opens");
        let mut next = async || {
            let message = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
            message
                .expect("in time")
                .map(|message| message.expect("goes on"))
        };
        let quiet = next().await.expect("told");
        assert!(quiet.heartbeat, "at once: nothing to tell");
        assert_eq!(micros(quiet.system_time), Some(1_590));
        for round in 0..3i64 {
            rig.clock.set(3_000 + round);
            let mutations = vec![
                put("new", Some(&round.to_string()), 0, Until::Forever),
                other("o", 500 + round),
            ];
            let batch = Batch {
                mutations,
                ..Default::default()
            };
            rig.store().write(batch).await.expect("written");
            let message = next().await.expect("told");
            assert_eq!(micros(message.system_time), Some(3_000 + round));
            assert_eq!(message.changes.len(), 1);
            assert_eq!(
                seen(&message.changes[0].after),
                (EntityOutcome::Value, Some(round.to_string()))
            );
        }
        let quiet = next().await.expect("told");
        assert!(quiet.heartbeat, "after a while");
        assert_eq!(micros(quiet.system_time), Some(3_002));
        rig.store().end_streams();
        assert_eq!(next().await.expect_err("ended").code(), Code::Unavailable);
    });
}

#[test]
fn malformed_listings_are_refused_with_the_field() {
    let rig = rig();
    run(&rig, async |mut client| {
        let token = list(&mut client, pb::ListChangesRequest::default()).await[0]
            .resume_token
            .clone();
        let cases = [
            (
                pb::ListChangesRequest {
                    follow: true,
                    to_basis: Some(instant(1_100)),
                    ..Default::default()
                },
                "to_basis",
            ),
            (
                pb::ListChangesRequest {
                    from_basis: Some(instant(1_100)),
                    to_basis: Some(instant(1_099)),
                    ..Default::default()
                },
                "to_basis",
            ),
            (
                pb::ListChangesRequest {
                    from_basis: Some(Timestamp {
                        seconds: 0,
                        nanos: -1,
                    }),
                    ..Default::default()
                },
                "from_basis",
            ),
            (
                pb::ListChangesRequest {
                    entity_types: vec![String::new()],
                    ..Default::default()
                },
                "entity_types[0]",
            ),
            (
                pb::ListChangesRequest {
                    resume_token: "00".to_owned(),
                    ..Default::default()
                },
                "resume_token",
            ),
            (
                pb::ListChangesRequest {
                    resume_token: token,
                    entity_types: vec!["thing".to_owned()],
                    ..Default::default()
                },
                "resume_token",
            ),
        ];
        for (request, field) in cases {
            let status = open(&mut client, request).await.expect_err(field);
            assert_eq!(
                (status.code(), fields(&status)),
                (Code::InvalidArgument, vec![field.to_owned()])
            );
        }
        for (from, to) in [
            (Some(instant(5_000_000)), None),
            (None, Some(instant(5_000_000))),
        ] {
            let request = pb::ListChangesRequest {
                from_basis: from,
                to_basis: to,
                ..Default::default()
            };
            let status = open(&mut client, request).await.expect_err("in the future");
            assert_eq!(status.code(), Code::OutOfRange);
        }
        let request = pb::ListChangesRequest {
            entity_types: vec!["nothing".to_owned()],
            ..Default::default()
        };
        assert_eq!(
            open(&mut client, request)
                .await
                .expect_err("no such type")
                .code(),
            Code::NotFound
        );
    });
}
