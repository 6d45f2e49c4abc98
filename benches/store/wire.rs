//! As-of reads over gRPC against an echo that answers with a message of the same size and does nothing else.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::Ipv4Addr,
    sync::Arc,
    task::{Context, Poll},
};

use hindcast::{
    pb::{
        self, GetEntityRequest, GetEntityResponse,
        entity_store_service_client::EntityStoreServiceClient, mutation, put, value::Kind,
    },
    server::{self, ServerConfig},
    time::{Clock, SystemClock},
};
use prost_types::Timestamp;
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
    bed::{id, runtime, scattered},
    report::{Goal, Report, Rounds},
};

const IN_FLIGHT: usize = 64;
const BATCH: usize = 500;
/// Fewer than the store's: each takes a round trip.
const CALLS_PER_READ: usize = 4;

/// Answers every request with the same message.
#[derive(Clone)]
struct Echo(Arc<GetEntityResponse>);

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<GetEntityRequest> for Echo {
    type Response = GetEntityResponse;
    type Future = Ready<Result<Response<GetEntityResponse>, Status>>;

    fn call(&mut self, _: Request<GetEntityRequest>) -> Self::Future {
        ready(Ok(Response::new(GetEntityResponse::clone(&self.0))))
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
    let runtime = runtime()?;
    let clock = SystemClock::shared();
    let folder = tempfile::tempdir()?;
    let config = ServerConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        ..ServerConfig::new(folder.path().to_owned())
    };
    let server = runtime.block_on(Box::pin(server::start(config, Arc::clone(&clock))))?;
    let channel = runtime.block_on(connect(server.local_addr()))?;
    let mut client = EntityStoreServiceClient::new(channel.clone());
    let count = scale.read_entities.min(20_000);
    runtime.block_on(load(&mut client, count))?;
    let sample = runtime
        .block_on(client.get_entity(request(0)))?
        .into_inner();
    let size = prost::Message::encoded_len(&sample);
    let echo = Echo(Arc::new(sample));
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let echoing = runtime.spawn(
        Server::builder()
            .add_service(echo)
            .serve_with_incoming(incoming),
    );
    let echo_channel = runtime.block_on(connect(address))?;
    let calls = (scale.reads / CALLS_PER_READ).next_multiple_of(IN_FLIGHT);
    let rounds = Rounds::measure(
        scale.rounds,
        || {
            call_all(
                &runtime,
                &clock,
                &echo_channel,
                "/bench.Echo/Get",
                (calls, count),
            )
        },
        || {
            call_all(
                &runtime,
                &clock,
                &channel,
                "/hindcast.v1.EntityStoreService/GetEntity",
                (calls, count),
            )
        },
    )?;
    let detail = format!(
        "{:.0}/s against an echo's {:.0}/s, answers of {size} bytes",
        1e6 / rounds.ours(),
        1e6 / rounds.bare()
    );
    report.ratio(
        "the same over gRPC, 64 in flight",
        rounds.speed(),
        Goal::AtLeast(0.7),
        &detail,
    )?;
    echoing.abort();
    drop((client, channel, echo_channel));
    Ok(runtime.block_on(server.shutdown())?)
}

fn request(entity: usize) -> GetEntityRequest {
    GetEntityRequest {
        entity_type: "station".to_owned(),
        entity_id: id(entity),
        valid_time: Some(Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        ..Default::default()
    }
}

async fn load(client: &mut EntityStoreServiceClient<Channel>, count: usize) -> Result<(), Fault> {
    let attribute = |(name, kind): (&str, pb::AttributeKind)| pb::Attribute {
        name: name.to_owned(),
        kind: kind.into(),
        ..Default::default()
    };
    let attributes = [
        ("temp", pb::AttributeKind::Float64),
        ("wind", pb::AttributeKind::Float64),
        ("sky", pb::AttributeKind::String),
    ];
    let entity_type = pb::EntityType {
        name: "station".to_owned(),
        attributes: attributes.map(attribute).into(),
        ..Default::default()
    };
    let declared = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type),
    };
    client.create_entity_type(declared).await?;
    let entities: Vec<usize> = (0..count).collect();
    for chunk in entities.chunks(BATCH) {
        let written = pb::WriteRequest {
            mutations: chunk.iter().map(|&entity| mutation(entity)).collect(),
            ..Default::default()
        };
        client.write(written).await?;
    }
    Ok(())
}

fn mutation(entity: usize) -> pb::Mutation {
    let value = |kind| pb::Value { kind: Some(kind) };
    let attributes = [
        ("temp", Kind::Float64Value(entity as f64)),
        ("wind", Kind::Float64Value(-(entity as f64))),
        ("sky", Kind::StringValue("overcast".to_owned())),
    ];
    let put = pb::Put {
        attributes: attributes
            .map(|(name, kind)| (name.to_owned(), value(kind)))
            .into(),
        valid_from: Some(Timestamp {
            seconds: 0,
            nanos: 0,
        }),
        until: Some(put::Until::Forever(pb::Forever::default())),
    };
    pb::Mutation {
        entity_type: "station".to_owned(),
        entity_id: id(entity),
        operation: Some(mutation::Operation::Put(put)),
        ..Default::default()
    }
}

/// Microseconds per call, with [`IN_FLIGHT`] under way.
fn call_all(
    runtime: &Runtime,
    clock: &Arc<dyn Clock>,
    channel: &Channel,
    path: &'static str,
    (calls, count): (usize, usize),
) -> Result<f64, Fault> {
    let start = clock.monotonic_micros();
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|task| {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            runtime.spawn(async move {
                for step in 0..calls / IN_FLIGHT {
                    let entity = scattered(step * IN_FLIGHT + task, count);
                    grpc.ready().await?;
                    let codec: ProstCodec<GetEntityRequest, GetEntityResponse> =
                        ProstCodec::default();
                    let path = http::uri::PathAndQuery::from_static(path);
                    let answer = grpc
                        .unary(Request::new(request(entity)), path, codec)
                        .await?;
                    if answer.into_inner().version.is_none() {
                        return Err(Fault::from("no version"));
                    }
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
