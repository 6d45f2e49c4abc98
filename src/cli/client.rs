//! The connection to a server, and the services on it.

use std::{error::Error as _, time::Duration};

use tonic::transport::{Channel, Endpoint};

use super::error::Error;
use crate::pb::{
    admin_service_client::AdminServiceClient, backfill_service_client::BackfillServiceClient,
    catalog_service_client::CatalogServiceClient,
    entity_store_service_client::EntityStoreServiceClient,
    rate_limit_service_client::RateLimitServiceClient,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an open connection is probed, so that a watcher notices a server that is gone without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Answers may be larger than tonic's 4 MiB: a plan names every partition.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// An open connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    url: String,
    channel: Channel,
}

impl Client {
    /// Connects to `url`, such as `http://127.0.0.1:4780`; the scheme may be left out.
    ///
    /// # Errors
    /// The URL is none, or nothing answers there.
    pub(crate) async fn connect(url: &str) -> Result<Self, Error> {
        let full_url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let endpoint = Endpoint::from_shared(full_url.clone())
            .ok()
            .filter(|endpoint| {
                endpoint.uri().scheme_str() == Some("http") && endpoint.uri().host().is_some()
            })
            .ok_or_else(|| {
                Error::Configuration(format!(
                    "{url:?} is not a server URL such as http://127.0.0.1:4780"
                ))
            })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(|error| Error::Unreachable {
                url: full_url.clone(),
                cause: root_cause(&error),
            })?;
        Ok(Self {
            url: full_url,
            channel,
        })
    }

    /// The server's address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The entity store.
    pub(crate) fn store(&self) -> EntityStoreServiceClient<Channel> {
        EntityStoreServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Sources, transforms and tables.
    pub(crate) fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Rate limits.
    pub(crate) fn limits(&self) -> RateLimitServiceClient<Channel> {
        RateLimitServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Care of the server.
    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Backfills.
    pub(crate) fn backfills(&self) -> BackfillServiceClient<Channel> {
        BackfillServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// The innermost cause says it best: `Connection refused`, not `transport error`.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A field that every hindcast server sets in its answer.
///
/// # Errors
/// It is unset: the server is none of ours.
pub(crate) fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Error> {
    field.ok_or_else(|| {
        Error::Failed(format!(
            "the server's answer has no {name}; it may be of another version"
        ))
    })
}

impl Error {
    /// A broken stream or connection, which a later call may find whole again.
    pub(crate) fn is_connection_loss(&self) -> bool {
        if let Self::Rpc(status) = self {
            let dropped = matches!(
                status.code(),
                tonic::Code::Unknown | tonic::Code::Internal | tonic::Code::Cancelled
            ) && status.source().is_some();
            return dropped || status.code() == tonic::Code::Unavailable;
        }
        matches!(self, Self::Unreachable { .. })
    }
}
