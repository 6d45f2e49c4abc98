//! What a server tells of itself: log lines, metrics, spans.
//!
//! Each part of the house owns the instruments that it records with ([`CommitMetrics`], [`BackfillMetrics`], [`CallMetrics`], [`RpcMetrics`]),
//! and [`Metrics`] gathers them for one server: nothing is global, so that several servers in one process stay apart.
//! Recording is a few atomic additions; all else is done when somebody asks. `docs/observability.md` lists every metric; a
//! test holds it to that.

mod backfills;
mod calls;
mod collect;
mod commits;
mod health;
mod http;
mod instrument;
mod instruments;
mod log;
mod metrics;
mod otlp;
mod process;
mod rpc;

pub use backfills::{BackfillMetrics, Outcome};
pub use calls::{CallMetrics, RequestOutcome};
pub use collect::{EngineCollector, StoreCollector};
pub use commits::CommitMetrics;
pub use health::{Readiness, ServiceHealth, Standing};
pub use http::MetricsEndpoint;
pub use instrument::{Histogram, Labels, Sheet};
pub use instruments::Instruments;
pub use log::{Error, Installed, LogFormat, Telemetry, span_layer};
pub use metrics::{Collect, Metrics};
pub use otlp::{Error as OtlpError, Exporter, Otlp};
pub use process::ProcessCollector;
pub use rpc::{CallBody, CallFuture, REQUEST_ID, RpcLayer, RpcMetrics, RpcService};
