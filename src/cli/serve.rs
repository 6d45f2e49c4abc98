//! `hindcast serve`: runs the server until it is told to stop.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{error::Error, output, times};
use crate::{
    server::{self, ServerConfig},
    telemetry::LogFormat,
    time::Clock,
};

/// Where data is kept unless told otherwise.
const DEFAULT_DATA_DIR: &str = "hindcast-data";
/// Partitions that one backfill may run at once, at most: the wire's limit.
const MAX_ACTIVE_PARTITIONS: i64 = 64;
/// Exit code of a server that was told twice to stop, as shells have it for SIGINT.
const INTERRUPTED: i32 = 130;

/// Runs the server until SIGTERM or SIGINT
///
/// The first signal ends streams cleanly, puts running attempts back into the queue and closes the store; a second one
/// exits at once, which loses nothing that was acknowledged.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "RUST_LOG sets what is logged to standard error, such as info or hindcast=debug.\n\n\
    Examples:\n  hindcast serve\n  hindcast serve --data-dir /srv/hindcast --listen 0.0.0.0:4780 --log-format json"
)]
pub(crate) struct Args {
    /// The folder that holds everything; made if it is not there
    #[arg(long, env = "HINDCAST_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Address and port to listen on; port 0 takes a free one. Without it: 127.0.0.1:4780
    #[arg(long, env = "HINDCAST_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The folder for Iceberg tables; without it: one in the data folder
    #[arg(long, env = "HINDCAST_WAREHOUSE", value_name = "DIR")]
    warehouse: Option<PathBuf>,
    /// Partitions that one backfill runs at once unless it says otherwise, 1 to 64. Without it: 4
    #[arg(long, env = "HINDCAST_MAX_ACTIVE_PARTITIONS", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=MAX_ACTIVE_PARTITIONS))]
    max_active_partitions: Option<u32>,
    /// Partitions that all backfills together compute at once, at least 1. Without it: 16
    #[arg(long, env = "HINDCAST_SERVER_ACTIVE_PARTITIONS", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..))]
    server_active_partitions: Option<u32>,
    /// Memory for the store's cache, such as 512MiB. Without it: 256MiB
    #[arg(long, env = "HINDCAST_STORE_CACHE", value_name = "SIZE", value_parser = times::parse_size)]
    store_cache: Option<u64>,
    /// Memory for all running queries together, such as 2GiB; beyond it they spill to disk.
    /// Without it: 1GiB
    #[arg(long, env = "HINDCAST_ENGINE_MEMORY", value_name = "SIZE", value_parser = times::parse_size)]
    engine_memory: Option<u64>,
    /// How log lines look: pretty (for people) or json (an object per line)
    #[arg(
        long,
        env = "HINDCAST_LOG_FORMAT",
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
}

impl Args {
    /// How log lines look.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.log_format
    }

    fn config(&self) -> Result<ServerConfig, Error> {
        for folder in [Some(&self.data_dir), self.warehouse.as_ref()]
            .into_iter()
            .flatten()
        {
            if folder.exists() && !folder.is_dir() {
                return Err(Error::Configuration(format!(
                    "{} is no folder",
                    folder.display()
                )));
            }
        }
        let mut config = ServerConfig::new(self.data_dir.clone());
        config.listen = self.listen.unwrap_or(config.listen);
        config.warehouse_dir = self.warehouse.clone().or(config.warehouse_dir);
        config.max_active_partitions = self
            .max_active_partitions
            .unwrap_or(config.max_active_partitions);
        config.server_active_partitions = self
            .server_active_partitions
            .unwrap_or(config.server_active_partitions);
        config.store_cache_bytes = self.store_cache.unwrap_or(config.store_cache_bytes);
        config.engine_memory_bytes = self.engine_memory.unwrap_or(config.engine_memory_bytes);
        Ok(config)
    }
}

/// Runs the command.
pub(crate) async fn run(args: &Args, clock: Arc<dyn Clock>) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = server::start(args.config()?, clock).await?;
    output::line(format!(
        "hindcast serves http://{}, data in {}",
        server.local_addr(),
        args.data_dir.display()
    ))?;
    tokio::select! {
        _ = terminate.recv() => info!(signal = "SIGTERM", "stopping"),
        _ = interrupt.recv() => info!(signal = "SIGINT", "stopping; a second one exits at once"),
    }
    tokio::select! {
        stopped = server.shutdown() => stopped?,
        _ = terminate.recv() => exit_at_once(),
        _ = interrupt.recv() => exit_at_once(),
    }
    info!("stopped");
    Ok(())
}

/// Acknowledged writes are on disk already; what runs is fenced off and tried again after the next start.
fn exit_at_once() {
    warn!("exiting without waiting for running work");
    std::process::exit(INTERRUPTED);
}
