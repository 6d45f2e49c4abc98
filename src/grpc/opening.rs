//! The port is open before the services are: while the server recovers, health is answered and everything else is refused.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tonic::{body::Body, service::Routes};
use tower::{Layer, Service};

use super::{room, status::to_status};
use crate::{
    disk::Disk,
    error::{Classify, ErrorKind},
};

/// What is answered from the start.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// When a client that came too early should ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The server recovers.
#[derive(Debug, thiserror::Error)]
#[error("the server recovers its data and will answer shortly")]
struct Recovering;

impl Classify for Recovering {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }

    fn reason(&self) -> &'static str {
        "RECOVERING"
    }

    fn retry_after(&self) -> Option<Duration> {
        Some(RETRY_AFTER)
    }
}

/// The services, once they are there. Cheap to clone. As a layer it stands around those that are there from the start.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    opened: Arc<OnceLock<(Routes, Disk)>>,
}

impl Opening {
    /// From now on these are asked, and what needs room is refused while `disk` is full; once only.
    pub fn open(&self, routes: Routes, disk: Disk) {
        // A second set is dropped.
        let _ = self.opened.set((routes.prepare(), disk));
    }
}

impl<S> Layer<S> for Opening {
    type Service = OpeningService<S>;

    fn layer(&self, early: S) -> OpeningService<S> {
        OpeningService {
            early,
            opening: self.clone(),
        }
    }
}

/// Asks the services that are there.
#[derive(Debug, Clone)]
pub struct OpeningService<S> {
    early: S,
    opening: Opening,
}

impl<S> Service<Request<Body>> for OpeningService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // All others are always ready.
        self.early.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path().starts_with(HEALTH) {
            return Box::pin(self.early.call(request));
        }
        let refused = match self.opening.opened.get() {
            Some((routes, disk)) => match room::check(disk, request.uri().path()) {
                Ok(()) => return Box::pin(routes.clone().call(request)),
                Err(refused) => *refused,
            },
            None => to_status(&Recovering),
        };
        Box::pin(std::future::ready(Ok(refused.into_http())))
    }
}
