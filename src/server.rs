//! Stand-in for the lead's server: dropped at the merge.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use crate::time::Clock;

/// Settings.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "stand-in, dropped at the merge")]
pub struct ServerConfig {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub warehouse_dir: Option<PathBuf>,
    pub max_active_partitions: u32,
    pub store_cache_bytes: u64,
    pub engine_memory_bytes: u64,
}

impl ServerConfig {
    /// Defaults.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            listen: SocketAddr::from(([127, 0, 0, 1], 4780)),
            warehouse_dir: None,
            max_active_partitions: 4,
            store_cache_bytes: 256 << 20,
            engine_memory_bytes: 1 << 30,
        }
    }
}

/// Failure.
#[derive(Debug, thiserror::Error)]
#[error("this build has no server")]
pub struct Error;

/// A running server.
#[derive(Debug)]
pub struct RunningServer {
    local_addr: SocketAddr,
}

/// Starts it.
///
/// # Errors
/// Always.
pub async fn start(config: ServerConfig, _clock: Arc<dyn Clock>) -> Result<RunningServer, Error> {
    let _unused = config;
    Err(Error)
}

impl RunningServer {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops it.
    ///
    /// # Errors
    /// Never.
    pub async fn shutdown(self) -> Result<(), Error> {
        Ok(())
    }
}
