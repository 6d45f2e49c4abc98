//! Who may come in, how much of it, how long: the layer between what is measured and the services.
//!
//! 1. **Who**: the token, and whether its role may call the method; see [`auth`].
//! 2. **How much**: the client's rate and the room of the call's class; see [`protection`](super::protection). A place is held
//!    until the answer's last byte is sent or the client is gone, and by what goes on beyond that; see [`place`](super::place).
//! 3. **How long**: the client's `grpc-timeout`. When it passes, handler and stream are dropped, which ends their work: senders
//!    of streams see that nobody receives; see [`held`](super::held).
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
};

use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    deadline::Deadline,
    held::hold,
    listen::Peer,
    methods,
    place::{self, Place},
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

    /// Counts a call that is not let in, and logs it.
    pub(crate) fn note(&self, error: &auth::Error) {
        tracing::info!(reason = error.reason(), "a call was refused");
        let counter = match error {
            auth::Error::Missing { .. } => &self.token_missing,
            auth::Error::Unknown { .. } => &self.token_unknown,
            auth::Error::Role { .. } => &self.role_too_low,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, error: &protection::Error) {
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
        let deadline = Deadline::of(&request, &self.gate.refusals, self.gate.clock.as_ref());
        let answer = place::holding(place.clone(), self.inner.call(request));
        Box::pin(async move {
            let Some(mut deadline) = deadline else {
                let response = answer.await?;
                return Ok(response.map(|body| hold(body, place, None)));
            };
            let answered = tokio::select! {
                biased;
                response = answer => Some(response?),
                () = deadline.passed() => None,
            };
            Ok(match answered {
                None => deadline.refuse().into_http(),
                Some(response) => response.map(|body| hold(body, place, Some(deadline))),
            })
        })
    }
}

impl Gate {
    /// Lets a request in, with who made it in its extensions, and where refusals are counted.
    fn admit(&self, request: &mut Request<Body>) -> Result<Option<Place>, Status> {
        let path = request.uri().path();
        let method = methods::find(path);
        let principal = self
            .tokens
            .authorize(path, method.map(|method| method.access), request.headers())
            .map_err(|error| {
                self.refusals.note(&error);
                to_status(&error)
            })?;
        let place = match method {
            // Routes answers that there is no such method.
            None => None,
            Some(method) => {
                let peer = request.extensions().get::<Peer>();
                let admitted = self.admission.admit(method, &principal, peer);
                let admitted = admitted.map_err(|error| {
                    self.refusals.count(&error);
                    to_status(&error)
                })?;
                admitted.map(Arc::new)
            }
        };
        let extensions = request.extensions_mut();
        extensions.insert(principal);
        // Some calls are refused for what is in them.
        extensions.insert(Arc::clone(&self.refusals));
        Ok(place)
    }
}
