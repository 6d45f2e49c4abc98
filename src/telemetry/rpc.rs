//! What every call is measured by and known as: a layer around all services.
//!
//! A call begins with its request and ends with the last byte of its answer, which carries its code. It has a span `rpc`, in
//! which everything that is logged for it lies, named by a request id: the caller's `x-request-id`, or one that is made here
//! and sent back.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tower::{Layer, Service};
use tracing::{Instrument, Span, field::Empty, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    instrument::{Histogram, Labels, Sheet},
    metrics::Collect,
    otlp,
};
use crate::{ids::IdSource, time::Clock};

/// The header that names a request, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The longest request id that is taken from a caller.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// The service and the method of calls that no proto declares.
const UNKNOWN: &str = "unknown";

/// All codes, at the place of their number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The calls of one method.
#[derive(Debug)]
struct Method {
    service: String,
    method: String,
    /// By code.
    ended: [AtomicU64; CODES.len()],
    durations: Histogram,
    in_flight: AtomicI64,
}

impl Method {
    fn new(service: &str, method: &str) -> Arc<Self> {
        Arc::new(Self {
            service: service.to_owned(),
            method: method.to_owned(),
            ended: Default::default(),
            durations: Histogram::durations(),
            in_flight: AtomicI64::new(0),
        })
    }

    fn labels(&self) -> Labels<'_> {
        vec![("service", &self.service), ("method", &self.method)]
    }

    fn was_called(&self) -> bool {
        self.durations.count() > 0 || self.in_flight.load(Ordering::Relaxed) > 0
    }
}

/// The calls of all methods that the protos declare. **Cost** of a call: one look-up by path, and a few atomic additions.
#[derive(Debug)]
pub struct RpcMetrics {
    /// By path, such as `/hindcast.v1.AdminService/Backup`.
    methods: HashMap<String, Arc<Method>>,
    unknown: Arc<Method>,
}

impl RpcMetrics {
    /// Of the methods that these encoded descriptor sets declare; one that does not read declares none.
    pub fn new(descriptor_sets: &[&[u8]]) -> Arc<Self> {
        let mut methods = HashMap::new();
        for set in descriptor_sets {
            let Ok(set) = FileDescriptorSet::decode(*set) else {
                continue;
            };
            for file in &set.file {
                for service in &file.service {
                    let name = format!("{}.{}", file.package(), service.name());
                    for method in &service.method {
                        let path = format!("/{name}/{}", method.name());
                        methods.insert(path, Method::new(&name, method.name()));
                    }
                }
            }
        }
        Arc::new(Self {
            methods,
            unknown: Method::new(UNKNOWN, UNKNOWN),
        })
    }

    fn method(&self, path: &str) -> &Arc<Method> {
        self.methods.get(path).unwrap_or(&self.unknown)
    }
}

impl Collect for RpcMetrics {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let mut methods: Vec<_> = (self.methods.values())
            .chain([&self.unknown])
            .filter(|method| method.was_called())
            .collect();
        methods.sort_by_key(|method| method.labels());
        let by_code = methods.iter().flat_map(|method| {
            let counts = CODES.iter().zip(&method.ended);
            counts.filter_map(|(code, count)| {
                let count = count.load(Ordering::Relaxed);
                let labels = || [method.labels(), vec![("code", *code)]].concat();
                (count > 0).then(|| (labels(), count))
            })
        });
        sheet.counters("hindcast_rpcs", "Calls that ended, by their code.", by_code)?;
        sheet.histograms(
            "hindcast_rpc_duration_seconds",
            "Time from a call's request to the end of its answer; of streams all of it.",
            methods
                .iter()
                .map(|method| (method.labels(), &method.durations)),
        )?;
        let in_flight = methods.iter().map(|method| {
            let in_flight = method.in_flight.load(Ordering::Relaxed);
            (method.labels(), in_flight)
        });
        sheet.gauges(
            "hindcast_rpcs_in_flight",
            "Calls whose answer has not ended.",
            in_flight,
        )
    }
}

/// Puts [`RpcService`] around a service.
#[derive(Debug, Clone)]
pub struct RpcLayer {
    metrics: Arc<RpcMetrics>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl RpcLayer {
    /// A layer that records into `metrics`.
    pub fn new(metrics: Arc<RpcMetrics>, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self {
            metrics,
            clock,
            ids,
        }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service whose calls are measured and have spans.
#[derive(Debug, Clone)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for RpcService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
{
    type Response = Response<CallBody<ResponseBody>>;
    type Error = S::Error;
    type Future = CallFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> CallFuture<S::Future> {
        let call = Call::begin(&self.layer, &mut request);
        let span = call.span.clone();
        let calling = span.in_scope(|| self.inner.call(request));
        CallFuture {
            calling: Box::pin(calling.instrument(span)),
            call: Some(call),
        }
    }
}

/// A call under way. One that is dropped before its end was cancelled.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    clock: Arc<dyn Clock>,
    start_micros: i64,
    request_id: HeaderValue,
    span: Span,
    has_ended: bool,
}

impl Call {
    fn begin<B>(layer: &RpcLayer, request: &mut Request<B>) -> Self {
        let method = Arc::clone(layer.metrics.method(request.uri().path()));
        let request_id = request_id(request.headers(), layer.ids.as_ref());
        let span = tracing::info_span!(
            "rpc",
            otel.name = format!("{}/{}", method.service, method.method),
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = %method.service,
            rpc.method = %method.method,
            request_id = request_id.to_str().unwrap_or_default(),
            code = Empty,
        );
        if let Some(caller) = otlp::caller(request.headers()) {
            // Without a collector there is nobody to tell.
            let _ = span.set_parent(caller);
        }
        request.headers_mut().insert(REQUEST_ID, request_id.clone());
        method.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            method,
            start_micros: layer.clock.monotonic_micros(),
            clock: Arc::clone(&layer.clock),
            request_id,
            span,
            has_ended: false,
        }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let place = code as usize;
        if let (Some(count), Some(name)) = (self.method.ended.get(place), CODES.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
            self.span.record("code", name);
        }
        let now_micros = self.clock.monotonic_micros();
        self.method
            .durations
            .record_span(self.start_micros, now_micros);
        self.method.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The caller's name for its request, if it is one to print; else a new one.
fn request_id(headers: &HeaderMap, ids: &dyn IdSource) -> HeaderValue {
    let is_plain = |value: &&HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        (1..=MAX_REQUEST_ID_BYTES).contains(&text.len())
    };
    match headers.get(REQUEST_ID).filter(is_plain) {
        Some(value) => value.clone(),
        None => HeaderValue::from_str(&ids.unique())
            .unwrap_or_else(|_| HeaderValue::from_static(UNKNOWN)),
    }
}

/// The code that headers or trailers carry.
fn code_of(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get(GRPC_STATUS)?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// The wait for an answer's headers.
#[derive(Debug)]
pub struct CallFuture<F> {
    calling: Pin<Box<Instrumented<F>>>,
    call: Option<Call>,
}

impl<F, B, E> Future for CallFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CallBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = ready!(self.calling.as_mut().poll(context));
        let mut call = self.call.take();
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                if let Some(call) = &mut call {
                    call.end(Code::Unknown);
                }
                return Poll::Ready(Err(error));
            }
        };
        if let Some(call) = &mut call {
            // An answer without messages has its code here.
            if let Some(code) = code_of(response.headers()) {
                call.end(code);
            }
            response
                .headers_mut()
                .insert(REQUEST_ID, call.request_id.clone());
        }
        Poll::Ready(Ok(response.map(|body| CallBody { body, call })))
    }
}

/// An answer whose end is the call's.
#[derive(Debug)]
pub struct CallBody<B> {
    body: B,
    call: Option<Call>,
}

impl<B: Body + Unpin> Body for CallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let span = this.call.as_ref().map(|call| call.span.clone());
        let entered = span.as_ref().map(Span::enter);
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        drop(entered);
        if let Some(call) = &mut this.call {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(code) = frame.trailers_ref().and_then(code_of) {
                        call.end(code);
                    }
                }
                Some(Err(_)) | None => call.end(Code::Unknown),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Default> Default for CallBody<B> {
    fn default() -> Self {
        Self {
            body: B::default(),
            call: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::SystemIds, pb::FILE_DESCRIPTOR_SET};

    #[test]
    fn codes_stand_at_the_place_of_their_number() {
        for (number, name) in (0..).zip(CODES) {
            let debug = format!("{:?}", Code::from_i32(number)).to_uppercase();
            assert_eq!(name.replace('_', ""), debug);
        }
    }

    #[test]
    fn every_declared_method_has_its_own_counts() {
        let metrics = RpcMetrics::new(&[FILE_DESCRIPTOR_SET, b"no descriptors"]);
        let get = metrics.method("/hindcast.v1.EntityStoreService/GetEntity");
        assert_eq!(
            (get.service.as_str(), get.method.as_str()),
            ("hindcast.v1.EntityStoreService", "GetEntity")
        );
        assert_eq!(metrics.method("/made.up/Path").service, UNKNOWN);
    }

    #[test]
    fn a_request_id_that_cannot_be_printed_is_replaced() {
        let id_of = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(text).expect("a value");
            headers.insert(REQUEST_ID, value);
            request_id(&headers, &SystemIds)
        };
        assert_eq!(id_of(b"order-17"), "order-17");
        for odd in [&b""[..], &[0xE4], &[b'x'; MAX_REQUEST_ID_BYTES + 1]] {
            let made = id_of(odd);
            assert_eq!(made.len(), 32, "{made:?}");
        }
    }
}
