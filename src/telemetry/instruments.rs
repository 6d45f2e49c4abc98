//! What one server is watched by, together.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    calls::CallMetrics,
    collect::{EngineCollector, StoreCollector},
    health::Readiness,
    http::MetricsEndpoint,
    metrics::Metrics,
    process::ProcessCollector,
    rpc::{RpcLayer, RpcMetrics},
};
use crate::{
    backfill::Handle, disk::Disk, engine::Embedded, ids::SystemIds, kv::Database, limits::Limits,
    pb::FILE_DESCRIPTOR_SET, store::Store, time::Clock,
};

/// The metrics, the readiness and the metrics port of one server.
#[derive(Debug)]
pub struct Instruments {
    /// All that is exposed; more may be added at any time.
    pub metrics: Metrics,
    /// Whether the server can do its work.
    pub readiness: Readiness,
    rpc: Arc<RpcMetrics>,
    /// What goes on in the background, until this is dropped.
    tasks: Mutex<JoinSet<()>>,
    endpoint: Option<MetricsEndpoint>,
}

impl Instruments {
    /// Opens the metrics port, if there is to be one. The parts of the server are added once they are there.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub async fn start(
        listen: Option<SocketAddr>,
        clock: &Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        let descriptors = [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let rpc = RpcMetrics::new(&descriptors);
        metrics.add(Arc::clone(&rpc));
        metrics.add(ProcessCollector::new(clock));
        metrics.add(readiness.clone());
        let endpoint = match listen {
            Some(address) => {
                let listener = TcpListener::bind(address).await?;
                let endpoint =
                    MetricsEndpoint::start(listener, metrics.clone(), readiness.clone())?;
                tracing::info!(address = %endpoint.local_addr(), "metrics are at /metrics");
                Some(endpoint)
            }
            None => None,
        };
        Ok(Self {
            metrics,
            readiness,
            rpc,
            tasks: Mutex::default(),
            endpoint,
        })
    }

    /// Adds what stores and computes.
    pub fn add_parts(&self, database: &Database, store: &Store, engine: &Embedded) {
        self.metrics.add(store.commit_metrics().clone());
        self.metrics.add(StoreCollector {
            store: store.clone(),
            database: database.clone(),
        });
        self.metrics.add(EngineCollector(engine.clone()));
        let (broken, readiness) = (database.broken().clone(), self.readiness.clone());
        self.tasks.lock().spawn(async move {
            broken.cancelled().await;
            readiness.change(|standing| standing.is_broken = true);
        });
    }

    /// Adds what goes to outside systems.
    pub fn add_outside(&self, limits: &Limits, calls: &CallMetrics) {
        self.metrics.add(limits.clone());
        self.metrics.add(calls.clone());
    }

    /// Adds the executor.
    pub fn add_backfills(&self, backfills: &Handle) {
        self.metrics.add(backfills.metrics().clone());
        self.metrics.add(backfills.clone());
    }

    /// Adds the disks, which are measured from now on: the server is not ready while they are full.
    pub fn add_disk(&self, disk: &Disk) {
        self.metrics.add(disk.clone());
        let mut tasks = self.tasks.lock();
        tasks.spawn(disk.clone().watch());
        let (mut full, readiness) = (disk.subscribe(), self.readiness.clone());
        tasks.spawn(async move {
            loop {
                let is_full = full.borrow_and_update().is_some();
                readiness.change(|standing| standing.is_disk_full = is_full);
                if full.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// The layer that goes around all services, outermost.
    pub fn rpc_layer(&self, clock: &Arc<dyn Clock>) -> RpcLayer {
        RpcLayer::new(
            Arc::clone(&self.rpc),
            Arc::clone(clock),
            SystemIds::shared(),
        )
    }

    /// Where the metrics port listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(MetricsEndpoint::local_addr)
    }

    /// Closes the metrics port.
    pub async fn stop(self) {
        if let Some(endpoint) = self.endpoint {
            endpoint.stop().await;
        }
    }
}
