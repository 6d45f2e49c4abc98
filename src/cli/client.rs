//! The connection to a server, and the services on it.

use std::{
    error::Error as _,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Uri;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{COMMON, error::Error};
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

/// How a client command shows who it is, and knows whom it speaks to.
#[derive(Default, clap::Args)]
pub(crate) struct Credentials {
    /// PEM file of the authorities that sign the server's certificate; without it the system's
    #[arg(long, global = true, env = "HINDCAST_CA", value_name = "FILE", help_heading = COMMON)]
    ca: Option<PathBuf>,
    /// PEM file of this client's certificate, for servers that ask for one
    #[arg(long, global = true, env = "HINDCAST_CLIENT_CERT", value_name = "FILE", requires = "client_key",
        help_heading = COMMON)]
    client_cert: Option<PathBuf>,
    /// PEM file of the private key of --client-cert
    #[arg(long, global = true, env = "HINDCAST_CLIENT_KEY", value_name = "FILE", requires = "client_cert",
        help_heading = COMMON)]
    client_key: Option<PathBuf>,
    /// The token to show. Others on this machine can see arguments: the variable or --token-file are safer
    #[arg(long, global = true, env = "HINDCAST_TOKEN", value_name = "TOKEN", hide_env_values = true,
        help_heading = COMMON)]
    token: Option<String>,
    /// A file that holds the token
    #[arg(long, global = true, env = "HINDCAST_TOKEN_FILE", value_name = "FILE", conflicts_with = "token",
        help_heading = COMMON)]
    token_file: Option<PathBuf>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    fn bearer(&self) -> Result<Bearer, Error> {
        let read = self.token_file.as_deref().map(read).transpose()?;
        let given = read.as_deref().or(self.token.as_deref().map(str::as_bytes));
        let Some(token) = given.map(<[u8]>::trim_ascii).filter(|it| !it.is_empty()) else {
            return Ok(Bearer { header: None });
        };
        let text = [b"Bearer ".as_slice(), token].concat();
        let header = MetadataValue::try_from(text.as_slice()).map_err(|_| {
            Error::Configuration("the token holds characters that none has".to_owned())
        })?;
        Ok(Bearer {
            header: Some(header),
        })
    }

    fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca {
            None => tls.with_native_roots(),
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        };
        if let Some((cert, key)) = self.client_cert.as_deref().zip(self.client_key.as_deref()) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|cause| Error::File {
        path: path.to_owned(),
        cause,
    })
}

/// Shows the token with every call.
#[derive(Clone)]
pub(crate) struct Bearer {
    header: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.header {
            request
                .metadata_mut()
                .insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// A channel that shows the token.
pub(crate) type Authorized = InterceptedService<Channel, Bearer>;

/// An open connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    channel: Channel,
    bearer: Bearer,
}

impl Client {
    /// Connects to `url`, such as `http://127.0.0.1:4780`; `http://` may be left out.
    ///
    /// # Errors
    /// The URL is none, credentials cannot be read, nothing answers there, or with a certificate that is not to be trusted.
    pub(crate) async fn connect(url: &str, credentials: &Credentials) -> Result<Self, Error> {
        let full_url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let endpoint = Endpoint::from_shared(full_url.clone())
            .ok()
            .filter(|endpoint| {
                matches!(endpoint.uri().scheme_str(), Some("http" | "https"))
                    && endpoint.uri().host().is_some()
            })
            .ok_or_else(|| {
                Error::Configuration(format!(
                    "{url:?} is not a server URL such as http://127.0.0.1:4780"
                ))
            })?;
        let bearer = credentials.bearer()?;
        if bearer.header.is_some() && !is_private(endpoint.uri()) {
            return Err(Error::Configuration(format!(
                "a token is not sent to {full_url} unencrypted: whoever is on the way could read it; use https://"
            )));
        }
        let endpoint = if endpoint.uri().scheme_str() == Some("https") {
            endpoint.tls_config(credentials.tls()?).map_err(|error| {
                let cause = root_cause(&error);
                Error::Configuration(format!("cannot use the certificates: {cause}"))
            })?
        } else {
            endpoint
        };
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
            bearer,
        })
    }

    /// The server's address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn authorized(&self) -> Authorized {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// The entity store.
    pub(crate) fn store(&self) -> EntityStoreServiceClient<Authorized> {
        EntityStoreServiceClient::new(self.authorized()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Sources, transforms and tables.
    pub(crate) fn catalog(&self) -> CatalogServiceClient<Authorized> {
        CatalogServiceClient::new(self.authorized()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Rate limits.
    pub(crate) fn limits(&self) -> RateLimitServiceClient<Authorized> {
        RateLimitServiceClient::new(self.authorized()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Care of the server.
    pub(crate) fn admin(&self) -> AdminServiceClient<Authorized> {
        AdminServiceClient::new(self.authorized()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Backfills.
    pub(crate) fn backfills(&self) -> BackfillServiceClient<Authorized> {
        BackfillServiceClient::new(self.authorized()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// Whether nobody else can read what is sent there.
fn is_private(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    url.scheme_str() == Some("https")
        || host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.is_loopback())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_goes_over_tls_or_stays_on_the_machine() {
        let credentials = Credentials {
            token: Some("hct_secret".to_owned()),
            ..Credentials::default()
        };
        for (url, is_sent) in [
            ("http://192.0.2.1:1", false),
            ("192.0.2.1:1", false),
            ("http://localhost.example:1", false),
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("localhost:1", true),
        ] {
            let Err(refused) = Client::connect(url, &credentials).await else {
                panic!("nothing is there: {url}");
            };
            let text = refused.to_string();
            assert_eq!(!text.contains("unencrypted"), is_sent, "{url}: {text}");
            assert!(!text.contains("hct_secret"), "{text}");
        }
    }
}
