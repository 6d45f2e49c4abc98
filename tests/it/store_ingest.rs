//! Bulk loads: acknowledged in order, resumable, and never with a gap.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use hindcast::{
    pb::{
        self, entity_store_service_client::EntityStoreServiceClient, ingest_request::Message,
        mutation, put, value::Kind,
    },
    time::{ManualClock, SystemClock},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    cli::{Served, code, stderr, stdout},
    support::{Service, from_micros},
};

type Client = EntityStoreServiceClient<Channel>;

/// An open stream.
struct Load {
    requests: mpsc::Sender<pb::IngestRequest>,
    answers: Streaming<pb::IngestResponse>,
}

impl Load {
    /// Opens a stream; gives it and the offset at which it stands.
    async fn open(client: &mut Client, name: &str) -> Result<(Self, u64), Status> {
        let start = Message::Start(pb::IngestStart {
            stream: name.to_owned(),
        });
        let (requests, mut answers) = call(client, start).await?;
        let stands = answers.message().await?.expect("a first answer");
        assert_eq!((stands.system_time, stands.versions_written), (None, 0));
        let load = Self { requests, answers };
        Ok((load, stands.acknowledged_offset))
    }

    /// As [`Load::open`], while the server has not noticed yet that the stream before is gone.
    async fn reopen(client: &mut Client, name: &str) -> (Self, u64) {
        for _ in 0..200 {
            match Self::open(client, name).await {
                Err(status) if status.code() == Code::Aborted => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                outcome => return outcome.expect("opens"),
            }
        }
        panic!("the stream stays open");
    }

    async fn send(&self, offset: u64, mutations: Vec<pb::Mutation>) {
        let batch = pb::IngestBatch {
            offset,
            mutations,
            import_system_time: None,
        };
        // The server may have ended the stream.
        drop(self.requests.send(request(Message::Batch(batch))).await);
    }

    /// Ends it, and gives the offsets that were acknowledged and how it ended.
    async fn finish(self) -> (Vec<u64>, Result<(), Status>) {
        let Self {
            requests,
            mut answers,
        } = self;
        drop(requests);
        let mut acknowledged = Vec::new();
        loop {
            match answers.message().await {
                Ok(Some(answer)) => acknowledged.push(answer.acknowledged_offset),
                Ok(None) => return (acknowledged, Ok(())),
                Err(status) => return (acknowledged, Err(status)),
            }
        }
    }
}

fn request(message: Message) -> pb::IngestRequest {
    pb::IngestRequest {
        message: Some(message),
    }
}

async fn call(
    client: &mut Client,
    first: Message,
) -> Result<
    (
        mpsc::Sender<pb::IngestRequest>,
        Streaming<pb::IngestResponse>,
    ),
    Status,
> {
    let (requests, receiver) = mpsc::channel(64);
    requests.send(request(first)).await.expect("room");
    let answers = client.ingest(ReceiverStream::new(receiver)).await?;
    Ok((requests, answers.into_inner()))
}

async fn service() -> Service {
    let mut service = Service::start(ManualClock::starting_at(1_000_000_000)).await;
    let attributes = [("n", pb::AttributeKind::Int64)];
    service.create_type("thing", &attributes).await;
    service
}

fn thing(id: u64) -> pb::Mutation {
    crate::support::put(
        "thing",
        &format!("e{id}"),
        [("n", Kind::Int64Value(1))],
        from_micros(0),
        None,
    )
}

/// Ends before it starts, which only the commit can tell: it starts at the commit's system time.
fn backwards(id: u64) -> pb::Mutation {
    pb::Mutation {
        operation: Some(mutation::Operation::Put(pb::Put {
            valid_from: None,
            until: Some(put::Until::ValidTo(from_micros(5))),
            ..Default::default()
        })),
        ..thing(id)
    }
}

/// Which of the things are there.
async fn there(client: &mut Client, ids: std::ops::Range<u64>) -> Vec<u64> {
    let request = pb::BatchGetEntitiesRequest {
        entity_type: "thing".to_owned(),
        entity_ids: ids.clone().map(|id| format!("e{id}")).collect(),
        ..Default::default()
    };
    let got = client.batch_get_entities(request).await.expect("reads");
    let results = got.into_inner().entities;
    ids.zip(results)
        .filter(|(_, result)| result.outcome() == pb::EntityOutcome::Value)
        .map(|(id, _)| id)
        .collect()
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let request = details.bad_request().expect("names the field");
    let fields = request.field_violations.iter();
    fields.map(|violation| violation.field.clone()).collect()
}

#[tokio::test]
async fn batches_are_acknowledged_in_order_and_the_load_goes_on_where_it_ended() {
    let mut service = service().await;
    let (load, stands) = Load::open(&mut service.entities, "nightly")
        .await
        .expect("opens");
    assert_eq!(stands, 0);
    for offset in [5, 6, 9] {
        load.send(offset, vec![thing(offset), thing(offset + 100)])
            .await;
    }
    let (acknowledged, ended) = load.finish().await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(acknowledged, [5, 6, 9]);

    let (mut load, stands) = Load::open(&mut service.entities, "nightly")
        .await
        .expect("opens");
    assert_eq!(stands, 9);
    load.send(9, vec![thing(50)]).await;
    let again = load
        .answers
        .message()
        .await
        .expect("goes on")
        .expect("answer");
    assert_eq!((again.acknowledged_offset, again.versions_written), (9, 0));
    load.send(12, vec![thing(12)]).await;
    let next = load
        .answers
        .message()
        .await
        .expect("goes on")
        .expect("answer");
    assert_eq!((next.acknowledged_offset, next.versions_written), (12, 1));
    assert!(next.system_time.is_some());
    load.finish().await.1.expect("ends well");
    assert_eq!(
        there(&mut service.entities, 0..110).await,
        [5, 6, 9, 12, 105, 106, 109]
    );
    service.stop().await;
}

#[tokio::test]
async fn a_bad_batch_ends_the_stream_and_nothing_behind_it_is_applied() {
    let mut service = service().await;
    let mut inverted = thing(3);
    if let Some(mutation::Operation::Put(put)) = &mut inverted.operation {
        put.until = Some(put::Until::ValidTo(from_micros(-1)));
    }
    for (name, bad, field) in [
        (
            "told by itself",
            inverted,
            "batch.mutations[1].put.valid_to",
        ),
        (
            "told by the commit",
            backwards(3),
            "batch.mutations[1].put.valid_to",
        ),
    ] {
        let (load, _) = Load::open(&mut service.entities, name)
            .await
            .expect("opens");
        load.send(1, vec![thing(1)]).await;
        load.send(2, vec![thing(2)]).await;
        load.send(3, vec![thing(20), bad]).await;
        for offset in 4..12 {
            load.send(offset, vec![thing(offset)]).await;
        }
        let (acknowledged, ended) = load.finish().await;
        assert_eq!(acknowledged, [1, 2], "{name}");
        let status = ended.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("batch 3"), "{status}");
        assert_eq!(fields(&status), [field]);
        let (load, stands) = Load::reopen(&mut service.entities, name).await;
        assert_eq!(stands, 2, "{name}");
        load.finish().await.1.expect("ends well");
        assert_eq!(there(&mut service.entities, 0..30).await, [1, 2], "{name}");
    }
    service.stop().await;
}

#[tokio::test]
async fn one_stream_of_a_name_is_open_at_a_time() {
    let mut service = service().await;
    let (load, _) = Load::open(&mut service.entities, "a").await.expect("opens");
    let status = Load::open(&mut service.entities, "a")
        .await
        .err()
        .expect("refused");
    assert_eq!(status.code(), Code::Aborted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("there").reason, "INGEST_OPEN");
    let (other, _) = Load::open(&mut service.entities, "b").await.expect("opens");
    other.finish().await.1.expect("ends well");
    load.finish().await.1.expect("ends well");
    Load::reopen(&mut service.entities, "a").await;
    service.stop().await;
}

#[tokio::test]
async fn what_is_no_load_is_refused_with_the_field() {
    let mut service = service().await;
    let batch = |offset, mutations| {
        Message::Batch(pb::IngestBatch {
            offset,
            mutations,
            import_system_time: None,
        })
    };
    let start = |stream: &str| {
        Message::Start(pb::IngestStart {
            stream: stream.to_owned(),
        })
    };
    let unknown = pb::Mutation {
        entity_type: "nothing".to_owned(),
        ..thing(1)
    };
    let many = vec![thing(1); 10_001];
    let mut large = thing(1);
    large.entity_id = "x".repeat(5 << 20);
    let first = [
        (batch(1, vec![thing(1)]), "start"),
        (start(""), "start.stream"),
        (start(&"x".repeat(129)), "start.stream"),
    ];
    for (message, field) in first {
        let refused = call(&mut service.entities, message).await;
        assert_eq!(fields(&refused.expect_err(field)), [field]);
    }
    let later = [
        (vec![start("x")], "start"),
        (vec![batch(0, vec![thing(1)])], "batch.offset"),
        (
            vec![batch(1, vec![thing(1)]), batch(1, vec![thing(2)])],
            "batch.offset",
        ),
        (vec![batch(1, Vec::new())], "batch.mutations"),
        (vec![batch(1, many)], "batch.mutations"),
        (vec![batch(1, vec![large])], "batch.mutations"),
        (
            vec![batch(
                1,
                vec![pb::Mutation {
                    operation: None,
                    ..thing(1)
                }],
            )],
            "batch.mutations[0].operation",
        ),
    ];
    for (index, (messages, field)) in later.into_iter().enumerate() {
        let name = format!("load {index}");
        let (load, _) = Load::open(&mut service.entities, &name)
            .await
            .expect("opens");
        for message in messages {
            drop(load.requests.send(request(message)).await);
        }
        let status = load.finish().await.1.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(fields(&status), [field]);
    }
    let (load, _) = Load::open(&mut service.entities, "unknown")
        .await
        .expect("opens");
    load.send(1, vec![unknown]).await;
    let status = load.finish().await.1.expect_err("unknown type");
    assert_eq!(status.code(), Code::NotFound);
    let (load, _) = Load::open(&mut service.entities, "empty")
        .await
        .expect("opens");
    drop(
        load.requests
            .send(pb::IngestRequest { message: None })
            .await,
    );
    assert_eq!(
        fields(&load.finish().await.1.expect_err("empty")),
        ["batch"]
    );
    service.stop().await;
}

#[tokio::test]
async fn a_load_that_was_cut_leaves_a_prefix_that_its_offset_tells() {
    let mut service = service().await;
    for round in 0..10u64 {
        let name = format!("cut {round}");
        let base = round * 100;
        let (mut load, _) = Load::open(&mut service.entities, &name)
            .await
            .expect("opens");
        for offset in 1..=40 {
            load.send(offset, vec![thing(base + offset)]).await;
        }
        let mut acknowledged = 0;
        while acknowledged < round * 2 {
            let answer = load
                .answers
                .message()
                .await
                .expect("goes on")
                .expect("more");
            acknowledged = answer.acknowledged_offset;
        }
        drop(load);
        let (load, stands) = Load::reopen(&mut service.entities, &name).await;
        assert!(stands >= acknowledged, "{stands} < {acknowledged}");
        let expected: Vec<_> = (base + 1..=base + stands).collect();
        assert_eq!(
            there(&mut service.entities, base..base + 50).await,
            expected
        );
        for offset in stands + 1..=40 {
            load.send(offset, vec![thing(base + offset)]).await;
        }
        load.finish().await.1.expect("ends well");
        assert_eq!(
            there(&mut service.entities, base..base + 50).await.len(),
            40
        );
    }
    service.stop().await;
}

#[tokio::test]
async fn a_load_is_remembered_over_a_restart() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data_dir = folder.path().join("data");
    let mut service = Service::open(&data_dir, SystemClock::shared()).await;
    let attributes = [("n", pb::AttributeKind::Int64)];
    service.create_type("thing", &attributes).await;
    let (load, _) = Load::open(&mut service.entities, "a").await.expect("opens");
    load.send(7, vec![thing(7)]).await;
    assert_eq!(load.finish().await.0, [7]);
    service.stop().await;
    let mut service = Service::open(&data_dir, SystemClock::shared()).await;
    let (load, stands) = Load::open(&mut service.entities, "a").await.expect("opens");
    assert_eq!(stands, 7);
    load.finish().await.1.expect("ends well");
    service.stop().await;
}

#[test]
fn a_file_is_loaded_refused_by_line_and_resumed() {
    let served = Served::defined();
    let path = served.folder.path().join("pumps.ndjson.gz");
    let file = path.display();
    let line = |id: usize, pressure: &str| {
        format!(
            r#"{{"release":"x","entity_type":"pump","entity_id":"p{id}","value":{{"pressure":{pressure}}},"valid_from":"2024-01-01T00:00:00Z"}}"#
        )
    };
    let write = |bad: Option<usize>| {
        let mut out = GzEncoder::new(
            std::fs::File::create(&path).expect("created"),
            Compression::fast(),
        );
        for id in 1..=12_000 {
            let valid_to = r#""valid_to":"2023-01-01T00:00:00Z","valid_from""#;
            let mut text = line(id, "1.5");
            if bad == Some(id) {
                text = text.replace(r#""valid_from""#, valid_to);
            }
            writeln!(out, "{text}").expect("written");
        }
        out.finish().expect("written");
    };
    write(Some(11_000));
    let refused = served.run(&format!("entity load {file}"));
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("unknown field `release`"),
        "{}",
        stderr(&refused)
    );
    assert!(
        stderr(&refused).contains("--ignore"),
        "{}",
        stderr(&refused)
    );

    let load = format!("entity load --ignore release --resume pumps {file}");
    let refused = served.run(&load);
    assert_eq!(code(&refused), 1);
    let text = stderr(&refused);
    assert!(text.contains("line 11000, put.valid_to"), "{text}");
    assert!(text.contains("lines 10001 to 12000"), "{text}");
    assert!(
        text.contains("the lines up to 10000 are on disk; --resume pumps"),
        "{text}"
    );

    write(None);
    let resumed = served.run(&load);
    assert_eq!(code(&resumed), 0, "{}", stderr(&resumed));
    let text = stdout(&resumed);
    assert!(
        text.contains("2,000 mutations after line 10,000 in 1 batch, 2,000 versions written"),
        "{text}"
    );
    let whole = served.run(&format!("entity load --ignore release {file}"));
    assert!(
        stdout(&whole).contains("12,000 mutations, nothing to write"),
        "{}",
        stdout(&whole)
    );
    let two = served.run(&format!("entity load --resume a {file} {file}"));
    assert_eq!(code(&two), 2);
}
