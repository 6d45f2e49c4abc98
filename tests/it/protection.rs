//! What one client, or all together, may ask for; deadlines; request ids.

use std::{num::NonZeroU32, time::Duration};

use hindcast::{
    auth::Role,
    pb::{
        self, backfill_service_client::BackfillServiceClient,
        entity_store_service_client::EntityStoreServiceClient, ingest_request,
    },
    server::Protection,
};
use tempfile::TempDir;
use tonic::{Code, Request, transport::Channel};
use tonic_types::StatusExt;

use super::guard_support::{call, plain, reason, send, serve, settings, token, token_of, until};

const LIST: &str = "/hindcast.v1.EntityStoreService/ListEntityTypes";
const LOOKUP: &str = "/hindcast.v1.EntityStoreService/Lookup";
const INGEST: &str = "/hindcast.v1.EntityStoreService/Ingest";
const WATCH: &str = "/hindcast.v1.BackfillService/WatchBackfills";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

#[tokio::test]
async fn a_client_that_calls_too_often_is_told_when_to_come_back() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.tokens = vec![token("eager", Role::Reader), token("calm", Role::Reader)];
    config.protection = Protection {
        client_rate: NonZeroU32::new(1),
        client_burst: NonZeroU32::new(5),
        ..Protection::default()
    };
    let server = serve(config).await;
    let channel = plain(&server).await;
    let mut refused = None;
    // Five at once, then one a second: the twentieth would take 15 s if none were refused.
    for _ in 0..20 {
        refused = refused.or(call(&channel, LIST, Some(&token_of("eager"))).await.err());
    }
    let refused = refused.expect("one of twenty is too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "CLIENT_RATE_LIMITED");
    let details = refused.get_error_details();
    let wait = details
        .retry_info()
        .and_then(|info| info.retry_delay)
        .expect("a wait");
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_secs(1),
        "{wait:?}"
    );
    assert!(refused.message().contains("\"eager\""), "{refused:?}");

    call(&channel, LIST, Some(&token_of("calm")))
        .await
        .expect("another client");
    call(&channel, LOOKUP, Some(&token_of("eager")))
        .await
        .expect("another method");
    for _ in 0..20 {
        call(&channel, HEALTH, None)
            .await
            .expect("health is never limited");
    }
    drop(channel);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_full_class_refuses_at_once_and_starves_no_other() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.protection.max_watch_streams = 1;
    let server = serve(config).await;
    let channel = plain(&server).await;
    let mut backfills = BackfillServiceClient::new(channel.clone());
    let watching = backfills
        .watch_backfills(pb::WatchBackfillsRequest::default())
        .await
        .expect("watches");
    let refused = call(&channel, WATCH, None).await.expect_err("full");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "SERVER_BUSY");
    let details = refused.get_error_details();
    assert!(details.retry_info().is_some(), "{refused:?}");
    call(&channel, LIST, None)
        .await
        .expect("unary calls have their own room");
    let bulk = call(&channel, LOOKUP, None).await.err();
    assert_ne!(
        bulk.map(|status| reason(&status)).as_deref(),
        Some("SERVER_BUSY")
    );
    call(&channel, HEALTH, None)
        .await
        .expect("health has no limit");
    // The client goes away: its place is free.
    drop(watching);
    until("there is room again", || async {
        call(&channel, WATCH, None).await.ok()
    })
    .await;
    drop((channel, backfills));
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_deadline_ends_a_stream_and_frees_its_place() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.protection.max_watch_streams = 1;
    let server = serve(config).await;
    let mut backfills = BackfillServiceClient::new(plain(&server).await);
    for _ in 0..3 {
        let mut request = Request::new(pb::WatchBackfillsRequest::default());
        request.set_timeout(Duration::from_millis(100));
        let mut stream = backfills
            .watch_backfills(request)
            .await
            .expect("watches")
            .into_inner();
        let ended = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        let status = ended.expect_err("the deadline passes");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert_eq!(reason(&status), "DEADLINE_PASSED");
    }
    assert_eq!(server.refusals().counts()[5], ("DEADLINE_PASSED", 3));
    drop(backfills);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_has_not_answered() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.protection.max_bulk_streams = 1;
    let server = serve(config).await;
    let channel = plain(&server).await;
    // Ingest answers after the first message, which never comes.
    let (_sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    request.set_timeout(Duration::from_millis(100));
    // The client's own clock may be the first to say so: then the server sees that it went away.
    send(&channel, INGEST, request)
        .await
        .expect_err("the deadline passes");
    until("its place is free", || async {
        let answer = call(&channel, LOOKUP, None).await;
        let refused = answer.err().map(|status| reason(&status));
        (refused.as_deref() != Some("SERVER_BUSY")).then_some(())
    })
    .await;
    drop(channel);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_deadline_ends_a_bulk_load_whose_client_says_no_more() {
    let folder = TempDir::new().expect("a folder");
    let server = serve(settings(&folder)).await;
    let entities = EntityStoreServiceClient::new(plain(&server).await);
    let (_said_no_more, mut answers) = ingest(entities.clone()).await.expect("open");
    let status = answers.message().await.expect_err("the deadline passes");
    assert_eq!(reason(&status), "DEADLINE_PASSED", "{status:?}");
    // Though the client has not ended its side.
    until("the name is free", || async {
        ingest(entities.clone()).await.ok()
    })
    .await;
    drop((answers, entities));
    server.shutdown().await.expect("stops");
}

type Load = (
    tokio::sync::mpsc::Sender<pb::IngestRequest>,
    tonic::Streaming<pb::IngestResponse>,
);

/// Opens a bulk load with a short deadline, and hears where it stands.
async fn ingest(mut entities: EntityStoreServiceClient<Channel>) -> Result<Load, tonic::Status> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let start = pb::IngestStart {
        stream: "nightly".to_owned(),
    };
    let message = Some(ingest_request::Message::Start(start));
    let sent = sender.send(pb::IngestRequest { message }).await;
    sent.expect("there is room");
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    request.set_timeout(Duration::from_millis(500));
    let mut answers = entities.ingest(request).await?.into_inner();
    answers.message().await?;
    Ok((sender, answers))
}

#[tokio::test]
async fn every_answer_carries_its_request_id() {
    let folder = TempDir::new().expect("a folder");
    let server = serve(settings(&folder)).await;
    let channel = plain(&server).await;
    let id_of = |given: Option<&'static str>| {
        let channel = channel.clone();
        async move {
            let mut request = Request::new(tokio_stream::iter([()]));
            if let Some(given) = given {
                let given = given.parse().expect("a header");
                request.metadata_mut().insert("x-request-id", given);
            }
            let headers = send(&channel, LIST, request).await.expect("answers");
            let id = headers.get("x-request-id").expect("an id");
            id.to_str().expect("text").to_owned()
        }
    };
    assert_eq!(id_of(Some("order-17")).await, "order-17");
    let (first, second) = (id_of(None).await, id_of(None).await);
    assert_eq!((first.len(), second.len()), (32, 32));
    assert_ne!(first, second);
    drop(channel);
    server.shutdown().await.expect("stops");
}
