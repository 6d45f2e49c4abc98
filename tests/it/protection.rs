//! What one client, or all together, may ask for; deadlines; request ids.

use std::{future::Future, net::SocketAddr, num::NonZeroU32, pin::Pin, sync::Arc, time::Duration};

use hindcast::{
    auth::Role,
    pb::{
        self, backfill_service_client::BackfillServiceClient,
        entity_store_service_client::EntityStoreServiceClient, ingest_request, mutation,
        value::Kind,
    },
    server::{MAX_HEALTH_STREAMS, Protection, RunningServer, ServerConfig, start},
    time::Clock,
};
use prost::Message;
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use super::{
    guard_support::{
        call, clock, plain, reason, send, serve, settings, token, token_of, until, within,
    },
    health::StalledClock,
};

const LIST: &str = "/hindcast.v1.EntityStoreService/ListEntityTypes";
const LOOKUP: &str = "/hindcast.v1.EntityStoreService/Lookup";
const INGEST: &str = "/hindcast.v1.EntityStoreService/Ingest";
const CREATE_LIMIT: &str = "/hindcast.v1.RateLimitService/CreateRateLimit";
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

/// Calls a method with a deadline that only the server knows of; gives the status' code.
async fn cut_off(address: SocketAddr, path: &str, message: &impl Message) -> String {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short");
    let body = [&[0], length.to_be_bytes().as_slice(), &message].concat();
    let client = reqwest::Client::builder().http2_prior_knowledge().build();
    let answer = client
        .expect("a client")
        .post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "100m")
        .body(body)
        .send()
        .await
        .expect("answers");
    let status = answer.headers().get("grpc-status");
    let code = status.expect("it is refused").to_str();
    code.expect("a number").to_owned()
}

#[tokio::test]
async fn a_call_that_is_cut_off_keeps_its_place_until_its_work_is_done() {
    let folder = TempDir::new().expect("a folder");
    let clock = StalledClock::new();
    clock.release();
    let mut config = settings(&folder);
    config.protection.max_unary_calls = 1;
    let starting = Box::pin(start(config, Arc::clone(&clock) as _));
    let server = starting.await.expect("starts");
    let channel = plain(&server).await;
    call(&channel, LIST, None).await.expect("there is room");

    // The limit's time of creation is asked for on another thread.
    clock.stall();
    let request = pb::CreateRateLimitRequest {
        rate_limit: Some(pb::RateLimit {
            name: "usual".to_owned(),
            concurrent: Some(1),
            ..Default::default()
        }),
    };
    let code = cut_off(server.local_addr(), CREATE_LIMIT, &request).await;
    let refused = call(&channel, LIST, None).await;
    // Before anything may fail: a thread that waits would hold the test up.
    clock.release();
    assert_ne!(code, "0");
    let refused = refused.expect_err("the work goes on");
    assert_eq!(reason(&refused), "SERVER_BUSY");
    until("the work is done", || async {
        call(&channel, LIST, None).await.ok()
    })
    .await;
    drop(channel);
    server.shutdown().await.expect("stops");
}

/// Opens a scan of two messages, of which the first is larger than its client's window, and does not read it.
async fn unread_scan(
    server: &RunningServer,
    timeout: Option<Duration>,
) -> Streaming<pb::ScanEntitiesResponse> {
    const WINDOW_BYTES: u32 = 65_535;
    let endpoint = Channel::from_shared(format!("http://{}", server.local_addr()));
    let endpoint = endpoint
        .expect("an address")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let mut entities = EntityStoreServiceClient::new(endpoint.connect().await.expect("connects"));
    let create = pb::CreateEntityTypeRequest {
        entity_type: Some(pb::EntityType {
            name: "page".to_owned(),
            attributes: vec![pb::Attribute {
                name: "text".to_owned(),
                kind: pb::AttributeKind::String.into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
    };
    entities.create_entity_type(create).await.expect("made");
    let text = pb::Value {
        kind: Some(Kind::StringValue("x".repeat(200))),
    };
    let put = pb::Put {
        attributes: [("text".to_owned(), text)].into(),
        ..Default::default()
    };
    let mutation = |index: usize| pb::Mutation {
        entity_type: "page".to_owned(),
        entity_id: format!("p{index}"),
        operation: Some(mutation::Operation::Put(put.clone())),
        ..Default::default()
    };
    let write = pb::WriteRequest {
        mutations: (0..1_500).map(mutation).collect(),
        ..Default::default()
    };
    entities.write(write).await.expect("written");
    let mut request = Request::new(pb::ScanEntitiesRequest {
        entity_type: "page".to_owned(),
        ..Default::default()
    });
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let scanning = entities.scan_entities(request).await;
    scanning.expect("scans").into_inner()
}

/// Reads a stream to its end.
async fn end_of<T>(mut stream: Streaming<T>) -> Result<(), Status> {
    while stream.message().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn a_deadline_ends_a_stream_that_its_client_does_not_read() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.protection.max_bulk_streams = 1;
    let server = serve(config).await;
    let unread = unread_scan(&server, Some(Duration::from_secs(1))).await;
    let channel = plain(&server).await;
    until("its place is free", || async {
        let answer = call(&channel, LOOKUP, None).await;
        let refused = answer.err().map(|status| reason(&status));
        (refused.as_deref() != Some("SERVER_BUSY")).then_some(())
    })
    .await;
    assert_eq!(server.refusals().counts()[5], ("DEADLINE_PASSED", 1));
    let status = end_of(unread).await.expect_err("it is cut off");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(reason(&status), "DEADLINE_PASSED");
    drop(channel);
    server.shutdown().await.expect("stops");
}

/// A clock on which nobody waits for long.
#[derive(Debug)]
struct HastyClock(Arc<dyn Clock>);

impl Clock for HastyClock {
    fn now_micros(&self) -> i64 {
        self.0.now_micros()
    }

    fn monotonic_micros(&self) -> i64 {
        self.0.monotonic_micros()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.sleep(duration.min(Duration::from_millis(500)))
    }
}

#[tokio::test]
async fn a_server_that_stops_cuts_calls_that_do_not_end() {
    let folder = TempDir::new().expect("a folder");
    let hasty = Arc::new(HastyClock(clock()));
    let starting = Box::pin(start(settings(&folder), hasty));
    let server = starting.await.expect("starts");
    let unread = unread_scan(&server, None).await;
    within("it stops", server.shutdown()).await.expect("stops");
    end_of(unread).await.expect_err("it is cut");
}

fn one_connection(folder: &TempDir) -> ServerConfig {
    let mut config = settings(folder);
    config.protection.max_connections = 1;
    config
}

#[tokio::test]
async fn a_connection_whose_client_says_nothing_is_closed() {
    let folder = TempDir::new().expect("a folder");
    let mut config = one_connection(&folder);
    config.protection.handshake_timeout = Duration::from_millis(200);
    let server = serve(config).await;
    let mut silent = TcpStream::connect(server.local_addr())
        .await
        .expect("connects");
    let channel = plain(&server).await;
    call(&channel, LIST, None)
        .await
        .expect("the place of the silent one is free");
    // It is the end, or a reset.
    let _ = within("it is closed", silent.read_to_end(&mut Vec::new())).await;
    call(&channel, LIST, None)
        .await
        .expect("one that has spoken stays");
    drop(channel);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_until_another_is_closed() {
    let folder = TempDir::new().expect("a folder");
    let server = serve(one_connection(&folder)).await;
    let first = plain(&server).await;
    call(&first, LIST, None).await.expect("served");
    let second = plain(&server).await;
    let waiting = tokio::spawn(async move { call(&second, LIST, None).await.map(drop) });
    for _ in 0..50 {
        call(&first, LIST, None).await.expect("served");
    }
    assert!(!waiting.is_finished(), "there is one place");
    drop(first);
    let served = within("it is served", waiting).await;
    served.expect("no panic").expect("served");
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn streams_of_health_are_counted_though_anybody_may_open_them() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.tokens = vec![token("t", Role::Reader)];
    let server = serve(config).await;
    let (mut channels, mut watching) = (Vec::new(), Vec::new());
    let refused = loop {
        assert!(watching.len() <= MAX_HEALTH_STREAMS, "no end to them");
        // Fewer on each connection than it may have.
        if watching.len() % 100 == 0 {
            channels.push(plain(&server).await);
        }
        let channel = channels.last().expect("one").clone();
        let watched = HealthClient::new(channel)
            .watch(HealthCheckRequest::default())
            .await;
        match watched {
            Ok(stream) => watching.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&refused), "SERVER_BUSY");
    assert_eq!(watching.len(), MAX_HEALTH_STREAMS);
    call(&channels[0], HEALTH, None)
        .await
        .expect("who asks once is answered");
    call(&channels[0], LIST, Some(&token_of("t")))
        .await
        .expect("others have their own room");
    drop((channels, watching));
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
