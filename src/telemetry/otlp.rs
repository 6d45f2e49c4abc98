//! Spans for an OpenTelemetry collector, over OTLP.
//!
//! Spans are sent in batches by a thread of their own. A collector that is not there costs nothing but the spans: the queue is
//! bounded, what does not fit is dropped, and the log says it once, and once more when it is back.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{RetryPolicy, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData,
        SpanExporter,
    },
};
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::config::without_credentials;

/// How long the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long spans wait for others that go with them.
const BATCH_DELAY: Duration = Duration::from_secs(2);
/// How long a process that ends waits for its last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// What spans come from, in the collector.
const SERVICE: &str = "hindcast";

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// The collector's gRPC address, such as `http://otel-collector:4317`; `https` takes the system's root certificates.
    pub endpoint: String,
    /// The share of traces that are kept, 0 to 1. A caller that has decided for its trace is followed.
    pub sample_ratio: f64,
}

/// An address that is none.
#[derive(Debug, thiserror::Error)]
#[error("cannot send spans to {endpoint:?}: {cause}")]
pub struct Error {
    /// Without credentials.
    endpoint: String,
    cause: String,
}

/// The sending of spans. [`Exporter::stop`] sends what waits.
#[derive(Debug, Clone)]
pub struct Exporter {
    provider: SdkTracerProvider,
}

impl Exporter {
    /// Starts the thread that sends. Inside of a Tokio runtime, which must outlive it; nothing is connected yet.
    ///
    /// # Errors
    /// The address is none.
    pub fn start(otlp: &Otlp) -> Result<Self, Error> {
        let error = |cause: String| Error {
            endpoint: without_credentials(&otlp.endpoint),
            cause,
        };
        let mut endpoint = Endpoint::from_shared(otlp.endpoint.clone())
            .map_err(|cause| error(cause.to_string()))?
            .timeout(EXPORT_TIMEOUT)
            .connect_timeout(EXPORT_TIMEOUT);
        match endpoint.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                let tls = ClientTlsConfig::new().with_native_roots();
                let secure = endpoint.tls_config(tls);
                endpoint = secure.map_err(|cause| error(cause.to_string()))?;
            }
            Some(_) | None => return Err(error("it is no http or https URL".to_owned())),
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_channel(endpoint.connect_lazy())
            // The next batch is the next try.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|cause| error(cause.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let exporter = Told::new(exporter, &otlp.endpoint);
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let sampler = Sampler::TraceIdRatioBased(otlp.sample_ratio);
        let resource = Resource::builder()
            .with_service_name(SERVICE)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(resource)
            .build();
        Ok(Self { provider })
    }

    /// What a subscriber makes spans with.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(SERVICE)
    }

    /// Sends what waits, for some seconds at most, and stops. Blocks: not on a thread of the runtime that it was started in.
    pub fn stop(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// Says once that the collector is gone, and once that it is back.
#[derive(Debug)]
struct Told {
    exporter: opentelemetry_otlp::SpanExporter,
    /// Without credentials.
    endpoint: String,
    is_failing: AtomicBool,
}

impl Told {
    fn new(exporter: opentelemetry_otlp::SpanExporter, endpoint: &str) -> Self {
        Self {
            exporter,
            endpoint: without_credentials(endpoint),
            is_failing: AtomicBool::new(false),
        }
    }
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Err(error) if !was_failing => {
                tracing::warn!(endpoint = %self.endpoint, %error, "cannot send spans; they are dropped until it works again");
            }
            Ok(()) if was_failing => {
                tracing::info!(endpoint = %self.endpoint, "spans are sent again");
            }
            Ok(()) | Err(_) => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The span of the caller, if it named one. **Source**: W3C Trace Context.
pub(super) fn caller(headers: &HeaderMap) -> Option<Context> {
    static PROPAGATOR: OnceLock<TraceContextPropagator> = OnceLock::new();
    if !headers.contains_key("traceparent") {
        return None;
    }
    let propagator = PROPAGATOR.get_or_init(TraceContextPropagator::new);
    let context = propagator.extract_with_context(&Context::new(), &Headers(headers));
    let is_valid = context.span().span_context().is_valid();
    is_valid.then_some(context)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_a_well_formed_header_alone() {
        let called_with = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", http::HeaderValue::from_static(text));
            caller(&headers)
        };
        let context = called_with("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let context = context.expect("a caller");
        assert_eq!(
            context.span().span_context().trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        for odd in [
            "",
            "00-0af7",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert!(called_with(odd).is_none(), "{odd:?}");
        }
        assert!(caller(&HeaderMap::new()).is_none());
    }

    #[derive(Debug, Clone, Default)]
    struct Lines(std::sync::Arc<parking_lot::Mutex<String>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_collector_that_is_gone_is_told_of_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let endpoint = format!("http://user:password@{address}");
        let channel = Endpoint::from_shared(endpoint.clone()).expect("an address");
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_channel(channel.connect_lazy())
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .expect("built");
        let told = Told::new(exporter, &endpoint);
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let scope = tracing::subscriber::set_default(subscriber);
        for _ in 0..3 {
            let sent = told.export(Vec::new()).await;
            assert!(sent.is_err(), "{sent:?}");
        }
        drop(scope);
        let text = lines.0.lock().clone();
        assert_eq!(text.matches("cannot send spans").count(), 1, "{text}");
        assert!(!text.contains("password"), "{text}");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        for endpoint in ["", "collector", "ftp://collector:4317", "http://"] {
            let otlp = Otlp {
                endpoint: endpoint.to_owned(),
                sample_ratio: 1.0,
            };
            let refused = Exporter::start(&otlp).expect_err("refused");
            assert!(refused.to_string().contains(endpoint), "{refused}");
        }
        let otlp = Otlp {
            endpoint: "ftp://user:password@collector:4317".to_owned(),
            sample_ratio: 1.0,
        };
        let refused = Exporter::start(&otlp).expect_err("refused").to_string();
        assert!(!refused.contains("password"), "{refused}");
    }
}
