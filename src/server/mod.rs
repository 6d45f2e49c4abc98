//! All of it put together: opens the data folder, recovers, serves, stops.

mod certificate;
pub(crate) mod deadline;
mod gate;
mod guard;
mod held;
mod listen;
pub mod methods;
pub(crate) mod place;
mod protection;
mod reload;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

pub use gate::Refusals;
pub use guard::{Unguarded, check};
pub use listen::Peer;
pub use protection::{MAX_HEALTH_STREAMS, Protection};
pub use tls::{Error as TlsError, TlsFiles};

use crate::{
    auth::StaticToken,
    backfill::{self, Executor, ExecutorConfig, Handle, WatchSettings},
    calls::{Calls, Secrets},
    catalog::{self, Catalog},
    disk::{self, Disk},
    engine::{self, Embedded, EmbeddedConfig},
    grpc::{
        admin::AdminApi, backfill::BackfillApi, catalog::CatalogApi, entity_store::EntityStore,
        opening::Opening, rate_limit::RateLimitApi,
    },
    ids::{IdSource, SystemIds},
    kv::{self, Database},
    lake::{self, Lake},
    limits::{self, Leases, Limits},
    pb::{
        self, FILE_DESCRIPTOR_SET, admin_service_server::AdminServiceServer,
        backfill_service_server::BackfillServiceServer,
        catalog_service_server::CatalogServiceServer,
        rate_limit_service_server::RateLimitServiceServer,
    },
    store::{self, Store},
    telemetry::{CallMetrics, Instruments, ServiceHealth},
    time::Clock,
};

/// Where a server listens unless it is told otherwise.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4780);
/// Partitions of one backfill that run at once, unless it says otherwise.
pub const DEFAULT_MAX_ACTIVE_PARTITIONS: u32 = 4;
/// Partitions of all backfills together that compute at once.
pub const DEFAULT_SERVER_ACTIVE_PARTITIONS: u32 = 16;
/// Bytes of stored pages that are kept in memory.
pub const DEFAULT_STORE_CACHE_BYTES: u64 = 256 << 20;
/// Bytes of working memory of all running queries.
pub const DEFAULT_ENGINE_MEMORY_BYTES: u64 = 1 << 30;
/// How often certificates and tokens are looked at.
pub const DEFAULT_RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// How long open requests may take to end once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The services as their health is asked for. A backup is made on a full disk too.
const SERVICES: [ServiceHealth; 6] = [
    ServiceHealth::writing(""),
    ServiceHealth::writing(pb::entity_store_service_server::SERVICE_NAME),
    ServiceHealth::writing(pb::catalog_service_server::SERVICE_NAME),
    ServiceHealth::writing(pb::backfill_service_server::SERVICE_NAME),
    ServiceHealth::reading(pb::admin_service_server::SERVICE_NAME),
    ServiceHealth::writing(pb::rate_limit_service_server::SERVICE_NAME),
];

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Holds everything that must survive.
    pub data_dir: PathBuf,
    /// Port 0: any free port.
    pub listen: SocketAddr,
    /// Where tables are; `None`: `warehouse` in the data folder.
    pub warehouse_dir: Option<PathBuf>,
    /// Partitions of one backfill that run at once, unless it says otherwise.
    pub max_active_partitions: u32,
    /// Partitions of all backfills together that compute at once: fairly shared out, higher priorities first.
    pub server_active_partitions: u32,
    /// Bytes of stored pages that are kept in memory.
    pub store_cache_bytes: u64,
    /// Bytes of working memory of all running queries; beyond it they spill to disk.
    pub engine_memory_bytes: u64,
    /// Threads that compute partitions; `None`: one per core.
    pub engine_threads: Option<usize>,
    /// How watchers are served.
    pub watch: WatchSettings,
    /// Where metrics and probes are answered; `None`: nowhere. Port 0: any free port.
    pub metrics_listen: Option<SocketAddr>,
    /// Free bytes on the disks of the data folder and the warehouse below which writes are refused and backfills wait.
    pub minimum_free_bytes: u64,
    /// What measures them.
    pub disk_probe: Arc<dyn disk::Probe>,
    /// The server's certificates; `None`: no TLS.
    pub tls: Option<TlsFiles>,
    /// Who may call, beside those of the tokens file.
    pub tokens: Vec<StaticToken>,
    /// A file of further tokens, read again when it changes.
    pub tokens_file: Option<PathBuf>,
    /// The folder whose files external calls may name as secrets; `None`: they may name none.
    pub secrets_dir: Option<PathBuf>,
    /// Whether it may serve beyond loopback without TLS, tokens and client certificates.
    pub insecure: bool,
    /// How often certificates and the tokens file are looked at.
    pub reload_interval: Duration,
    /// What clients may ask for.
    pub protection: Protection,
}

impl ServerConfig {
    /// The defaults, with everything in `data_dir`.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            listen: DEFAULT_LISTEN,
            warehouse_dir: None,
            max_active_partitions: DEFAULT_MAX_ACTIVE_PARTITIONS,
            server_active_partitions: DEFAULT_SERVER_ACTIVE_PARTITIONS,
            store_cache_bytes: DEFAULT_STORE_CACHE_BYTES,
            engine_memory_bytes: DEFAULT_ENGINE_MEMORY_BYTES,
            engine_threads: None,
            watch: WatchSettings::default(),
            metrics_listen: None,
            minimum_free_bytes: disk::DEFAULT_MINIMUM_FREE_BYTES,
            disk_probe: Arc::new(disk::FileSystem),
            tls: None,
            tokens: Vec::new(),
            tokens_file: None,
            secrets_dir: None,
            insecure: false,
            reload_interval: DEFAULT_RELOAD_INTERVAL,
            protection: Protection::default(),
        }
    }
}

/// Why a server cannot start or stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", port_hint(source))]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// What is to guard it cannot be used, or is missing.
    #[error(transparent)]
    Unguarded(#[from] Unguarded),
    /// The data folder cannot be opened.
    #[error(transparent)]
    Storage(#[from] kv::Error),
    /// The entity store cannot recover.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// The rate limits cannot be read.
    #[error(transparent)]
    Limits(#[from] limits::Error),
    /// The warehouse cannot be opened.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// The engine cannot start.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The backfills cannot be taken up.
    #[error(transparent)]
    Backfill(#[from] backfill::Error),
    /// The network layer failed.
    #[error("cannot serve: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A part broke.
    #[error("the server broke off: {0}")]
    Broken(String),
}

fn port_hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        "; another process has the port: stop it, or choose another with --listen"
    } else {
        ""
    }
}

/// A server that serves.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    backfills: Handle,
    store: Store,
    limits: Limits,
    database: Database,
    stop: oneshot::Sender<()>,
    cut: CancellationToken,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    reloading: JoinHandle<()>,
    refusals: Arc<Refusals>,
    clock: Arc<dyn Clock>,
    instruments: Instruments,
}

/// Opens the data folder, recovers, takes up the backfills that were under way, and serves.
///
/// The port is bound first and the data folder second, so that a wrong start touches nothing. While the data folder recovers,
/// health is answered and all other calls are refused with `RECOVERING`; when this returns, all are answered.
///
/// # Errors
/// Certificates or tokens that cannot be used, or none where they are needed; a port that is taken; a data folder that another
/// process has open, or that is damaged.
pub async fn start(config: ServerConfig, clock: Arc<dyn Clock>) -> Result<RunningServer, Error> {
    let listen_error = |source| Error::Listen {
        address: config.listen,
        source,
    };
    let guard = guard::Guard::prepare(&config, Arc::clone(&clock))?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let instruments = start_instruments(&config, &clock).await?;
    let (reporter, health) = tonic_health::server::health_reporter();
    instruments.readiness.report(reporter, &SERVICES).await;
    let opening = Opening::default();
    let (stop, stopped) = oneshot::channel();
    let cut = guard.accepting.cut.clone();
    let incoming = guard.accepting.start(listener);
    let protection = &config.protection;
    let refusals = Arc::clone(&guard.gate.refusals);
    instruments.metrics.add(Arc::clone(&refusals));
    instruments.metrics.add(Arc::clone(&guard.watched.reloads));
    // What a call passes, outermost first: span, request id and metrics; who, how much and how long; whether the services are
    // there and the disk has room.
    let serving = tokio::spawn(
        Server::builder()
            .http2_keepalive_interval(Some(protection.keepalive_interval))
            .http2_keepalive_timeout(Some(protection.keepalive_timeout))
            .max_concurrent_streams(protection.max_streams_per_connection)
            .layer(instruments.rpc_layer(&clock))
            .layer(guard.gate)
            .layer(opening.clone())
            .add_service(health)
            .serve_with_incoming_shutdown(incoming, async {
                // Dropped without a word: the server object is gone, and that is a stop too.
                let _ = stopped.await;
            }),
    );
    let parts = open(&config, Arc::clone(&clock)).await?;
    opening.open(routes(&parts, &clock)?, parts.disk.clone());
    instruments.add_disk(&parts.disk);
    instruments.add_parts(&parts.database, &parts.store, &parts.engine);
    instruments.add_outside(&parts.limits, &parts.call_metrics);
    instruments.add_backfills(&parts.backfills);
    instruments
        .readiness
        .change(|standing| standing.has_recovered = true);
    let reloading = guard
        .watched
        .watch(config.reload_interval, Arc::clone(&clock));
    tracing::info!(%address, data_dir = %config.data_dir.display(), tls = config.tls.is_some(), "serving");
    Ok(RunningServer {
        address,
        backfills: parts.backfills,
        store: parts.store,
        limits: parts.limits,
        database: parts.database,
        stop,
        cut,
        serving,
        reloading: tokio::spawn(reloading),
        refusals,
        clock,
        instruments,
    })
}

async fn start_instruments(
    config: &ServerConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Instruments, Error> {
    let started = Instruments::start(config.metrics_listen, clock).await;
    started.map_err(|source| Error::Listen {
        address: config.metrics_listen.unwrap_or(config.listen),
        source,
    })
}

impl RunningServer {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many calls it refused, and why.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Where metrics and probes are answered.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.instruments.local_addr()
    }

    /// Stops: new calls are refused, attempts under way go back to the queue, streams end, open requests are waited for.
    ///
    /// # Errors
    /// The network layer failed, or what was written cannot be flushed.
    pub async fn shutdown(self) -> Result<(), Error> {
        let Self {
            address,
            backfills,
            store,
            limits,
            database,
            stop,
            cut,
            serving,
            reloading,
            refusals: _,
            clock,
            instruments,
        } = self;
        tracing::info!(%address, "stopping");
        reloading.abort();
        instruments
            .readiness
            .change(|standing| standing.is_stopping = true);
        // The task may have ended by itself.
        let _ = stop.send(());
        backfills.shutdown().await;
        store.end_streams();
        limits.stop();
        let mut serving = serving;
        let drained = tokio::select! {
            drained = &mut serving => drained,
            () = clock.sleep(DRAIN_TIMEOUT) => {
                tracing::warn!("requests were still open after {} s; they are cut", DRAIN_TIMEOUT.as_secs());
                cut.cancel();
                serving.await
            }
        };
        let outcome = drained.map_err(|error| Error::Broken(error.to_string()))?;
        tokio::task::spawn_blocking(move || {
            store.close();
            limits.close()?;
            Ok::<_, Error>(database.flush()?)
        })
        .await
        .map_err(|error| Error::Broken(error.to_string()))??;
        instruments.stop().await;
        Ok(outcome?)
    }
}

/// What the services stand on.
struct Parts {
    database: Database,
    catalog: Catalog,
    store: Store,
    lake: Lake,
    limits: Limits,
    call_metrics: CallMetrics,
    engine: Embedded,
    disk: Disk,
    backfills: Handle,
}

async fn open(config: &ServerConfig, clock: Arc<dyn Clock>) -> Result<Parts, Error> {
    let opening = config.clone();
    let opening_clock = Arc::clone(&clock);
    let (database, catalog, store, lake, limits, disk) =
        tokio::task::spawn_blocking(move || open_storage(&opening, opening_clock))
            .await
            .map_err(|error| Error::Broken(error.to_string()))??;
    let engine_config = EmbeddedConfig {
        threads: config.engine_threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
        }),
        memory_bytes: usize::try_from(config.engine_memory_bytes).unwrap_or(usize::MAX),
        spill_folder: config.data_dir.join("spill"),
    };
    let ids = SystemIds::shared() as Arc<dyn IdSource>;
    let calls = Calls::new(
        store.clone(),
        Arc::new(limits.clone()),
        Arc::clone(&clock),
        Arc::clone(&ids),
        Secrets {
            folder: config.secrets_dir.clone(),
        },
    );
    let call_metrics = calls.metrics().clone();
    let engine = Embedded::start(store.clone(), lake.clone(), calls, &engine_config)?;
    let executor = Executor {
        database: database.clone(),
        catalog: catalog.clone(),
        store: store.clone(),
        lake: lake.clone(),
        engine: Arc::new(engine.clone()),
        clock,
        ids,
        disk: disk.clone(),
        config: ExecutorConfig {
            default_max_active_partitions: config.max_active_partitions,
            max_active_partitions: config.server_active_partitions,
            watch: config.watch,
        },
    };
    let backfills = Box::pin(executor.start()).await?;
    Ok(Parts {
        database,
        catalog,
        store,
        lake,
        limits,
        call_metrics,
        engine,
        disk,
        backfills,
    })
}

fn open_storage(
    config: &ServerConfig,
    clock: Arc<dyn Clock>,
) -> Result<(Database, Catalog, Store, Lake, Limits, Disk), Error> {
    let database = Database::open(
        &config.data_dir.join(store::copy::DATABASE_FOLDER),
        config.store_cache_bytes,
    )?;
    let catalog = Catalog::open(&database)?;
    let store = Store::open(&database, Arc::clone(&clock))?;
    store.restore_claims(catalog.entity_writers());
    let warehouse = config
        .warehouse_dir
        .clone()
        .unwrap_or_else(|| config.data_dir.join("warehouse"));
    let lake = Lake::open(&warehouse, &database, Arc::clone(&clock))?;
    let limits = Limits::open(&database, Arc::clone(&clock))?;
    let folders = [("data", config.data_dir.clone()), ("warehouse", warehouse)];
    let probe = Arc::clone(&config.disk_probe);
    let disk = Disk::new(probe, clock, config.minimum_free_bytes, folders);
    store.guard(disk.clone());
    Ok((database, catalog, store, lake, limits, disk))
}

fn routes(parts: &Parts, clock: &Arc<dyn Clock>) -> Result<Routes, Error> {
    let entity_store = EntityStore::new(parts.store.clone()).into_server();
    let catalog = CatalogServiceServer::new(CatalogApi {
        catalog: parts.catalog.clone(),
        store: parts.store.clone(),
        engine: parts.engine.clone(),
        lake: parts.lake.clone(),
        clock: Arc::clone(clock),
    });
    let backfill = BackfillServiceServer::new(BackfillApi {
        backfills: parts.backfills.clone(),
    });
    let admin = AdminServiceServer::new(AdminApi {
        store: parts.store.clone(),
    });
    let rate_limit = RateLimitServiceServer::new(RateLimitApi {
        limits: parts.limits.clone(),
        leases: Leases::new(SystemIds::shared(), Arc::clone(clock)),
    });
    let reflection = |error: tonic_reflection::server::Error| Error::Broken(error.to_string());
    let reflection_v1 = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(reflection)?;
    let reflection_v1alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1alpha()
        .map_err(reflection)?;
    Ok(Routes::new(entity_store)
        .add_service(catalog)
        .add_service(backfill)
        .add_service(admin)
        .add_service(rate_limit)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha))
}
