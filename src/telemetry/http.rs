//! The port for those who watch: `/metrics` for Prometheus, `/livez` and `/readyz` for the probes of Kubernetes.
//!
//! It is open while the server recovers. There is no authentication on it: it shows no data, and is to be reachable by those
//! who watch alone.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    rt::Timer as _,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{health::Readiness, metrics::Metrics};

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 32;
/// How long a request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting rests after a fault such as too many open files.
const REST: Duration = Duration::from_millis(50);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The open port. Dropped or stopped, it closes.
#[derive(Debug)]
pub struct MetricsEndpoint {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Answers {
    metrics: Metrics,
    readiness: Readiness,
}

impl MetricsEndpoint {
    /// Answers on `listener` from now on.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start(
        listener: TcpListener,
        metrics: Metrics,
        readiness: Readiness,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let answers = Arc::new(Answers { metrics, readiness });
        tasks.spawn(accept(listener, answers, stop.clone(), tasks.clone()));
        tasks.close();
        Ok(Self {
            address,
            stop,
            tasks,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and its connections.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for MetricsEndpoint {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    answers: Arc<Answers>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut is_failing = false;
    loop {
        let accepted = async {
            // It is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            let accepted = listener.accept().await;
            if let Err(error) = &accepted {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "cannot accept connections for metrics; they wait until it works again");
                }
                TokioTimer::new().sleep(REST).await;
            }
            (accepted, slot)
        };
        let (accepted, slot) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            continue;
        };
        is_failing = false;
        let (answers, stop) = (Arc::clone(&answers), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = serve(stream, answers) => {}
                () = stop.cancelled() => {}
            }
            drop(slot);
        });
    }
}

async fn serve(stream: TcpStream, answers: Arc<Answers>) {
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        // Scrapers go away as they like.
        tracing::debug!(%error, "a connection for metrics broke off");
    }
}

impl Answers {
    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/livez" => probed(self.readiness.standing().not_alive()),
            "/readyz" => probed(self.readiness.standing().not_ready()),
            _ => text(
                StatusCode::NOT_FOUND,
                PLAIN,
                "there are /metrics, /livez and /readyz\n",
            ),
        }
    }

    async fn metrics(self: &Arc<Self>) -> Response<Full<Bytes>> {
        let this = Arc::clone(self);
        // Some of it asks the file system.
        let scraped = tokio::task::spawn_blocking(move || this.metrics.scrape()).await;
        match scraped {
            Ok(Ok(page)) => text(StatusCode::OK, OPEN_METRICS, page),
            Ok(Err(_)) | Err(_) => {
                tracing::error!("cannot write the metrics down");
                text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    PLAIN,
                    "cannot write the metrics down\n",
                )
            }
        }
    }
}

/// The answer to a probe, with what is wrong.
fn probed(wrong: Option<&'static str>) -> Response<Full<Bytes>> {
    match wrong {
        None => text(StatusCode::OK, PLAIN, "ok\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
    }
}

fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}
