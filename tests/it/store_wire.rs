//! What the store's tests over gRPC share: a server over a store, and the wire's instants.

use hindcast::{
    grpc::entity_store::EntityStore, pb::entity_store_service_client::EntityStoreServiceClient,
    store::Store, time::ValidTime,
};
use prost_types::Timestamp;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use crate::store_support::Rig;

pub(crate) type Client = EntityStoreServiceClient<Channel>;

/// A client of a server over the store, which lives as long as the runtime does.
async fn client(store: Store) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server =
        tonic::transport::Server::builder().add_service(EntityStore::new(store).into_server());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Client::connect(format!("http://{address}"))
        .await
        .expect("connects")
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

/// Runs a test against a server over the rig's store.
pub(crate) fn run(rig: &Rig, test: impl AsyncFnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let client = client(rig.store().clone()).await;
        test(client).await;
    });
}

pub(crate) fn instant(micros: i64) -> Timestamp {
    let (seconds, nanos) = ValidTime::from_micros(micros).to_timestamp();
    Timestamp { seconds, nanos }
}

pub(crate) fn micros(instant: Option<Timestamp>) -> Option<i64> {
    instant.map(|at| {
        ValidTime::from_timestamp(at.seconds, at.nanos)
            .expect("an instant")
            .micros()
    })
}

/// The fields that a status says are at fault.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    assert_eq!(
        details.error_info().expect("always there").domain,
        "hindcast.dev"
    );
    let bad_request = details.bad_request().expect("names the field");
    bad_request
        .field_violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect()
}
