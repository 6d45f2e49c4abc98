//! Who may come in, how much of it, how long: the layer between what is measured and the services.
//!
//! 1. **Who**: the token, and whether its role may call the method; see [`auth`].
//! 2. **How much**: the client's rate and the room of the call's class; see [`protection`](super::protection). A place is held
//!    until the answer's last byte is sent or the client is gone.
//! 3. **How long**: the client's `grpc-timeout`. When it passes, handler and stream are dropped, which ends their work: senders
//!    of streams see that nobody receives.
//!
//! Nothing waits here: a call goes on at once, or is refused at once.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    listen::Peer,
    methods,
    protection::{self, Admission},
};
use crate::{
    auth::{self, Tokens},
    error::Classify,
    grpc::status::to_status,
    telemetry::{Collect, Sheet},
    time::Clock,
};

type Pinned<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the gate stands on. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) tokens: Tokens,
    pub(super) admission: Arc<Admission>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) clock: Arc<dyn Clock>,
}

/// How many calls were refused, and why, since the start.
#[derive(Debug, Default)]
pub struct Refusals {
    token_missing: AtomicU64,
    token_unknown: AtomicU64,
    role_too_low: AtomicU64,
    rate_limited: AtomicU64,
    busy: AtomicU64,
    deadline_passed: AtomicU64,
}

impl Refusals {
    /// Counts by reason.
    pub fn counts(&self) -> [(&'static str, u64); 6] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("TOKEN_MISSING", read(&self.token_missing)),
            ("TOKEN_UNKNOWN", read(&self.token_unknown)),
            ("ROLE_TOO_LOW", read(&self.role_too_low)),
            ("CLIENT_RATE_LIMITED", read(&self.rate_limited)),
            ("SERVER_BUSY", read(&self.busy)),
            ("DEADLINE_PASSED", read(&self.deadline_passed)),
        ]
    }

    fn count_auth(&self, error: &auth::Error) {
        let counter = match error {
            auth::Error::Missing { .. } => &self.token_missing,
            auth::Error::Unknown { .. } => &self.token_unknown,
            auth::Error::Role { .. } => &self.role_too_low,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, error: &protection::Error) {
        let counter = match error {
            protection::Error::TooOften { .. } => &self.rate_limited,
            protection::Error::Busy { .. } => &self.busy,
            protection::Error::Deadline { .. } => &self.deadline_passed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Collect for Refusals {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let counts = self.counts();
        let values = counts.map(|(reason, count)| (vec![("reason", reason)], count));
        sheet.counters(
            "hindcast_refused_calls",
            "Calls that were refused or cut off before a handler was done, by reason.",
            values,
        )
    }
}

impl<S> Layer<S> for Gate {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted {
            gate: self.clone(),
            inner,
        }
    }
}

/// Lets in who may come in, for as long as it may last.
#[derive(Clone)]
pub(super) struct Admitted<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pinned<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let place = match self.gate.admit(&mut request) {
            Ok(place) => place,
            Err(status) => return Box::pin(std::future::ready(Ok(status.into_http()))),
        };
        let deadline = timeout(request.headers()).map(|timeout| Deadline {
            method: request.uri().path().to_owned(),
            timeout,
            refusals: Arc::clone(&self.gate.refusals),
            passed: self.gate.clock.sleep(timeout),
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let Some(mut deadline) = deadline else {
                let response = answer.await?;
                return Ok(response.map(|body| Held::wrap(body, place, None)));
            };
            let answered = tokio::select! {
                biased;
                response = answer => Some(response?),
                () = &mut deadline.passed => None,
            };
            Ok(match answered {
                None => deadline.status().into_http(),
                Some(response) => response.map(|body| Held::wrap(body, place, Some(deadline))),
            })
        })
    }
}

impl Gate {
    /// Lets a request in, with who made it in its extensions.
    fn admit(&self, request: &mut Request<Body>) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let path = request.uri().path();
        let method = methods::find(path);
        let principal = self
            .tokens
            .authorize(path, method.map(|method| method.access), request.headers())
            .map_err(|error| {
                self.refusals.count_auth(&error);
                tracing::info!(reason = error.reason(), "a call was refused");
                to_status(&error)
            })?;
        let place = match method {
            // Routes answers that there is no such method.
            None => None,
            Some(method) => {
                let peer = request.extensions().get::<Peer>();
                let admitted = self.admission.admit(method, &principal, peer);
                admitted.map_err(|error| {
                    self.refusals.count(&error);
                    to_status(&error)
                })?
            }
        };
        request.extensions_mut().insert(principal);
        Ok(place)
    }
}

/// The client's deadline: at most 8 digits and a unit, from hours to nanoseconds. A malformed one is none.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

struct Deadline {
    method: String,
    timeout: Duration,
    refusals: Arc<Refusals>,
    passed: Pinned<()>,
}

impl Deadline {
    fn status(&self) -> Status {
        let error = protection::Error::Deadline {
            method: self.method.clone(),
            deadline: self.timeout,
        };
        self.refusals.count(&error);
        to_status(&error)
    }
}

/// An answer on its way, which holds the call's place and ends at its deadline.
struct Held {
    /// `None`: all of it is sent.
    body: Option<Body>,
    place: Option<OwnedSemaphorePermit>,
    deadline: Option<Deadline>,
}

impl Held {
    fn wrap(body: Body, place: Option<OwnedSemaphorePermit>, deadline: Option<Deadline>) -> Body {
        // Trailers alone, or nothing: there is nothing to hold on to.
        if body.is_end_stream() || (place.is_none() && deadline.is_none()) {
            return body;
        }
        Body::new(
            Self {
                body: Some(body),
                place,
                deadline,
            }
            .boxed_unsync(),
        )
    }
}

impl hyper::body::Body for Held {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            if frame.is_none() {
                self.body = None;
                self.place = None;
            }
            return Poll::Ready(frame);
        }
        let Some(deadline) = self.deadline.as_mut() else {
            return Poll::Pending;
        };
        if deadline.passed.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let status = deadline.status();
        self.body = None;
        self.place = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header"));
            timeout(&headers)
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(
            read("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3_600))
        );
        for malformed in ["", "5", "m", "123456789n", "-1S", "1x", "+1S"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
    }
}
