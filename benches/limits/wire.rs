//! Permits over gRPC against an echo that answers with a message of the same size and does nothing else.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::Ipv4Addr,
    sync::Arc,
    task::{Context, Poll},
};

use hindcast::{
    pb::{
        self, AcquirePermitsRequest, AcquirePermitsResponse,
        rate_limit_service_client::RateLimitServiceClient,
    },
    server::{self, ServerConfig},
    time::{Clock, SystemClock},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Body as HttpBody, BoxFuture, Service, StdError, http},
    server::{NamedService, UnaryService},
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use crate::{
    Fault, Scale,
    report::{Goal, Report, Rounds},
};

const IN_FLIGHT: usize = 64;

/// Answers every request with the same message.
#[derive(Clone)]
struct Echo(AcquirePermitsResponse);

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<AcquirePermitsRequest> for Echo {
    type Response = AcquirePermitsResponse;
    type Future = Ready<Result<Response<AcquirePermitsResponse>, Status>>;

    fn call(&mut self, _: Request<AcquirePermitsRequest>) -> Self::Future {
        ready(Ok(Response::new(self.0.clone())))
    }
}

impl<B> Service<http::Request<B>> for Echo
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(grpc.unary(echo, request).await)
        })
    }
}

async fn connect(address: std::net::SocketAddr) -> Result<Channel, Fault> {
    Ok(Channel::from_shared(format!("http://{address}"))?
        .connect()
        .await?)
}

pub(crate) fn unary(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let clock = SystemClock::shared();
    let folder = tempfile::tempdir()?;
    let config = ServerConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        ..ServerConfig::new(folder.path().to_owned())
    };
    let server = runtime.block_on(Box::pin(server::start(config, Arc::clone(&clock))))?;
    let channel = runtime.block_on(connect(server.local_addr()))?;
    let mut client = RateLimitServiceClient::new(channel.clone());
    let limit = pb::RateLimit {
        name: "l".to_owned(),
        rate: Some(pb::PermitRate {
            permits: 1_000_000,
            per: None,
        }),
        burst: Some(1_000_000),
        ..Default::default()
    };
    let request = pb::CreateRateLimitRequest {
        rate_limit: Some(limit),
    };
    runtime.block_on(client.create_rate_limit(request))?;
    let sample = runtime.block_on(client.acquire_permits(ask(0)))?;
    let sample = sample.into_inner();
    let size = prost::Message::encoded_len(&sample);
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let echoing = runtime.spawn(
        Server::builder()
            .add_service(Echo(sample))
            .serve_with_incoming(incoming),
    );
    let echo = runtime.block_on(connect(address))?;
    let calls = scale.calls.next_multiple_of(IN_FLIGHT);
    let all = |channel, path| call_all(&runtime, &clock, channel, path, calls);
    let rounds = Rounds::measure(
        scale.rounds,
        || all(&echo, "/bench.Echo/Get"),
        || all(&channel, "/hindcast.v1.RateLimitService/AcquirePermits"),
    )?;
    let detail = format!(
        "{:.0}/s against an echo's {:.0}/s, answers of {size} bytes",
        1e6 / rounds.ours(),
        1e6 / rounds.bare()
    );
    report.ratio(
        "permits over gRPC, 64 in flight",
        rounds.speed(),
        Goal::AtLeast(0.7),
        &detail,
    )?;
    echoing.abort();
    drop((client, channel, echo));
    Ok(runtime.block_on(server.shutdown())?)
}

fn ask(client: usize) -> AcquirePermitsRequest {
    AcquirePermitsRequest {
        limit: "l".to_owned(),
        permits: 1,
        caller_class: pb::CallerClass::Backfill.into(),
        client: format!("worker-{client}"),
        ..Default::default()
    }
}

/// Microseconds per call, with [`IN_FLIGHT`] under way.
fn call_all(
    runtime: &Runtime,
    clock: &Arc<dyn Clock>,
    channel: &Channel,
    path: &'static str,
    calls: usize,
) -> Result<f64, Fault> {
    let start = clock.monotonic_micros();
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|task| {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            runtime.spawn(async move {
                for _ in 0..calls / IN_FLIGHT {
                    grpc.ready().await?;
                    let codec: ProstCodec<AcquirePermitsRequest, AcquirePermitsResponse> =
                        ProstCodec::default();
                    let path = http::uri::PathAndQuery::from_static(path);
                    grpc.unary(Request::new(ask(task)), path, codec).await?;
                }
                Ok::<(), Fault>(())
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await??;
        }
        Ok::<(), Fault>(())
    })?;
    Ok((clock.monotonic_micros() - start) as f64 / calls as f64)
}
