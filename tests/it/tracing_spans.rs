//! Spans and log lines: what belongs to a call or a partition says so, and an OpenTelemetry collector receives it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, OnceLock},
};

use hindcast::{
    pb,
    telemetry::{Exporter, Otlp, span_layer},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};
use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

use crate::backfill_support::{days, january, over_events};

/// A collector that keeps all that it is sent.
#[derive(Debug, Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let sent = request.into_inner().resource_spans;
        let scopes = sent.into_iter().flat_map(|it| it.scope_spans);
        let mut spans = self.spans.lock().expect("whole");
        spans.extend(scopes.flat_map(|it| it.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one; gives it with its address.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener)),
        );
        (collector, format!("http://{address}"))
    }

    fn named(&self, name: &str) -> Vec<Span> {
        let spans = self.spans.lock().expect("whole");
        spans.iter().filter(|it| it.name == name).cloned().collect()
    }
}

/// This thread's subscriber from now on, on which all tasks of a test run.
fn subscribe(subscriber: impl Into<Dispatch>) -> DefaultGuard {
    // With a single one in the process, a callsite asks the thread that comes first, which may be another test's.
    static OTHER: OnceLock<Dispatch> = OnceLock::new();
    OTHER.get_or_init(|| Dispatch::new(NoSubscriber::new()));
    tracing::dispatcher::set_default(&subscriber.into())
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: Option<&Value>| match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    span.attributes
        .iter()
        .map(|it| {
            let value = it.value.as_ref().and_then(|it| it.value.as_ref());
            (it.key.clone(), text(value))
        })
        .collect()
}

#[tokio::test]
async fn a_collector_receives_the_spans_of_calls_and_of_a_backfill() {
    let (collector, endpoint) = Collector::start().await;
    let exporter = Exporter::start(&Otlp {
        endpoint,
        sample_ratio: 1.0,
    });
    let exporter = exporter.expect("starts");
    let subscriber = tracing_subscriber::registry().with(span_layer(exporter.tracer()));
    let scope = subscribe(subscriber);

    let mut rig = january(3).await;
    let transform = over_events("kept", "SELECT v FROM events");
    rig.clients.register(transform).await.expect("registered");
    let mut request = Request::new(pb::CreateBackfillRequest {
        spec: Some(days("kept", "2013-01-01", "2013-01-04")),
        ..pb::CreateBackfillRequest::default()
    });
    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", caller.parse().expect("a value"));
    metadata.insert("x-request-id", "order-17".parse().expect("a value"));
    let created = rig.clients.backfills.create_backfill(request).await;
    let created = created.expect("created");
    assert_eq!(
        created.metadata().get("x-request-id").expect("sent back"),
        "order-17"
    );
    let name = created.into_inner().backfill.expect("it").name;
    let ended = rig.clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), pb::BackfillState::Succeeded);
    rig.stop().await;
    drop(scope);
    tokio::task::spawn_blocking(move || exporter.stop())
        .await
        .expect("stops");

    let calls = collector.named("hindcast.v1.BackfillService/CreateBackfill");
    let [call] = calls.as_slice() else {
        panic!("one call: {calls:?}");
    };
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
    assert_eq!(hex(&call.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&call.parent_span_id), "b7ad6b7169203331");
    let told = attributes(call);
    assert_eq!(told["request_id"], "order-17");
    assert_eq!(told["rpc.method"], "CreateBackfill");
    assert_eq!(told["code"], "OK");

    let backfills = collector.named("backfill");
    let [backfill] = backfills.as_slice() else {
        panic!("one backfill: {backfills:?}");
    };
    assert_eq!(attributes(backfill)["backfill"], name);
    let attempts = collector.named("attempt");
    let mut partitions: Vec<_> = attempts
        .iter()
        .map(|span| {
            assert_eq!(span.parent_span_id, backfill.span_id);
            assert_eq!(attributes(span)["attempt"], "1");
            attributes(span)["partition"].clone()
        })
        .collect();
    partitions.sort();
    assert_eq!(partitions, ["2013-01-01", "2013-01-02", "2013-01-03"]);
    let commits = collector.named("publish");
    assert!(!commits.is_empty());
    for commit in commits {
        assert_eq!(commit.trace_id, backfill.trace_id);
    }
}

/// Keeps what is logged.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn every_line_of_a_partition_names_it() {
    let lines = Lines::default();
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(lines.clone());
    let subscriber = tracing_subscriber::registry()
        .with(json)
        .with(tracing_subscriber::filter::LevelFilter::INFO);
    let scope = subscribe(subscriber);
    let mut rig = january(2).await;
    let transform = over_events("halved", "SELECT 10 / (v - 2) AS q FROM events");
    rig.clients.register(transform).await.expect("registered");
    let range = days("halved", "2013-01-01", "2013-01-03");
    let ended = rig.clients.run(range).await;
    assert_eq!(
        ended.backfill.state(),
        pb::BackfillState::PartiallySucceeded
    );
    rig.stop().await;
    drop(scope);

    let bytes = lines.0.lock().expect("whole").clone();
    let text = String::from_utf8(bytes).expect("UTF-8");
    let parsed: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let failed: Vec<_> = parsed
        .iter()
        .filter(|line| line["message"] == "an attempt failed")
        .collect();
    let [failed] = failed.as_slice() else {
        panic!("one line: {text}");
    };
    assert_eq!(failed["level"], "WARN");
    assert!(
        failed["error"]
            .as_str()
            .expect("text")
            .contains("ivide by zero")
    );
    let spans = failed["spans"].as_array().expect("spans");
    assert_eq!(spans[0]["backfill"], ended.backfill.name.as_str());
    assert_eq!(spans[1]["partition"], "2013-01-02");
    assert_eq!(spans[1]["attempt"], 1);
}
