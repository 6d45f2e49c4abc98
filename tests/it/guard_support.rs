//! What tests of the guarded server share: settings, tokens, certificates, and raw calls of any method.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hindcast::{
    auth::{Role, StaticToken, digest},
    server::{RunningServer, ServerConfig, start},
    time::{Clock, SystemClock},
};
use tempfile::TempDir;
use tonic::{Request, Status, transport::Channel};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

/// How often a test looks whether something has come about, and how long in between.
const LOOKS: usize = 500;
const BETWEEN: Duration = Duration::from_millis(20);
/// How long it waits for what must come about by itself.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn clock() -> Arc<dyn Clock> {
    SystemClock::shared()
}

/// Any free port of this machine.
pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Any free port of this machine, everything in `folder`.
pub(crate) fn settings(folder: &TempDir) -> ServerConfig {
    ServerConfig {
        listen: any_port(),
        store_cache_bytes: 16 << 20,
        reload_interval: Duration::from_millis(20),
        ..ServerConfig::new(folder.path().join("data"))
    }
}

pub(crate) async fn serve(config: ServerConfig) -> RunningServer {
    Box::pin(start(config, clock())).await.expect("starts")
}

/// Why a server does not start.
pub(crate) async fn refused_start(config: ServerConfig) -> String {
    let started = Box::pin(start(config, clock())).await;
    started.expect_err("refused").to_string()
}

pub(crate) async fn plain(server: &RunningServer) -> Channel {
    let address = format!("http://127.0.0.1:{}", server.local_addr().port());
    let endpoint = Channel::from_shared(address).expect("an address");
    endpoint.connect().await.expect("connects")
}

/// A token's text: as good as a real one.
pub(crate) fn token_of(name: &str) -> String {
    format!("hct_{name}-0123456789abcdef")
}

pub(crate) fn token(name: &str, role: Role) -> StaticToken {
    StaticToken {
        name: name.to_owned(),
        sha256: digest(&token_of(name)),
        role,
        line: 1,
    }
}

/// A token's table as a file has it.
pub(crate) fn token_table(name: &str, role: Role) -> String {
    let hex: String = digest(&token_of(name))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hex}\"\nrole = \"{role}\"\n")
}

/// Calls any method with an empty message; gives whether it was let in, which the first headers tell.
pub(crate) async fn call(
    channel: &Channel,
    path: &str,
    token: Option<&str>,
) -> Result<tonic::metadata::MetadataMap, Status> {
    let mut request = Request::new(tokio_stream::iter([()]));
    request.set_timeout(Duration::from_secs(30));
    if let Some(token) = token {
        let header = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", header);
    }
    send(channel, path, request).await
}

/// Sends a request to any method.
pub(crate) async fn send<S>(
    channel: &Channel,
    path: &str,
    request: Request<S>,
) -> Result<tonic::metadata::MetadataMap, Status>
where
    S: tokio_stream::Stream<Item = ()> + Send + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("connected");
    let path = path.parse().expect("a path");
    let codec = ProstCodec::<(), ()>::default();
    let answered = grpc.streaming(request, path, codec).await?;
    Ok(answered.metadata().clone())
}

/// The reason that a status carries.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .map_or_else(String::new, |info| info.reason.clone())
}

/// Looks until `look` finds something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let clock = clock();
    for _ in 0..LOOKS {
        if let Some(found) = look().await {
            return found;
        }
        clock.sleep(BETWEEN).await;
    }
    panic!("never: {what}");
}

/// What `future` gives, if it ever does.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::select! {
        done = future => done,
        () = clock().sleep(PATIENCE) => panic!("never: {what}"),
    }
}

/// An authority, and certificates that it signs.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            pem,
        }
    }

    /// For `localhost`, from now on.
    pub(crate) fn sign(&self) -> Pair {
        self.sign_for(2020..=4000)
    }

    /// For `localhost`, from the first day of a year to that of another.
    pub(crate) fn sign_for(&self, years: std::ops::RangeInclusive<i32>) -> Pair {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(*years.start(), 1, 1);
        params.not_after = rcgen::date_time_ymd(*years.end(), 1, 1);
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Writes a text into a folder; who looks meanwhile sees the old one or the new one, whole.
pub(crate) fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    std::fs::write(&new, text).expect("written");
    std::fs::rename(&new, &path).expect("in its place");
    path
}

/// How often looking at `files` again came to `outcome`, of a server with a metrics port.
pub(crate) async fn reloads(server: &RunningServer, files: &str, outcome: &str) -> u64 {
    let address = server.metrics_addr().expect("it is on");
    let page = reqwest::get(format!("http://{address}/metrics")).await;
    let page = page.expect("answers").text().await.expect("text");
    let series = format!("hindcast_reloads_total{{files=\"{files}\",outcome=\"{outcome}\"}} ");
    let mut lines = page.lines();
    let count = lines.find_map(|line| line.strip_prefix(&series));
    count.expect("it is exposed").parse().expect("a number")
}
