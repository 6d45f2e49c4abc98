//! Log lines and spans: one subscriber for the process. Lines go to standard error, so that standard output is the command's
//! alone.

use clap::ValueEnum;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

use super::otlp::{self, Exporter, Otlp};

/// What a server logs unless `RUST_LOG` says otherwise: its own state changes, and only trouble from libraries.
const SERVER_FILTER: &str = "warn,hindcast=info";
/// What a client command logs unless `RUST_LOG` says otherwise.
const CLIENT_FILTER: &str = "error";
/// Spans of other crates are theirs: those of the exporter's own connection would be sent by it in turn.
const OWN_TARGET: &str = "hindcast";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object per line.
    Json,
}

/// What is logged, and how; where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    format: LogFormat,
    /// As the configuration has it; without it `RUST_LOG` counts.
    filter: Option<String>,
    default_filter: &'static str,
    otlp: Option<Otlp>,
}

/// Logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` is set to something that is no filter.
    #[error("cannot use RUST_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// There is a subscriber already.
    #[error("cannot set up logging: {0}")]
    Subscriber(#[from] TryInitError),
    /// Spans cannot be sent.
    #[error(transparent)]
    Otlp(#[from] otlp::Error),
}

/// The installed subscriber. [`Installed::finish`] it before the process ends.
#[derive(Debug)]
#[must_use = "the last spans are sent when it is finished"]
pub struct Installed {
    exporter: Option<Exporter>,
}

impl Installed {
    /// Sends the spans that wait. Blocks for some seconds at most: not on a thread of the runtime.
    pub fn finish(self) {
        if let Some(exporter) = self.exporter {
            exporter.stop();
        }
    }
}

impl Telemetry {
    /// A server's.
    pub fn server(format: LogFormat) -> Self {
        Self {
            format,
            filter: None,
            default_filter: SERVER_FILTER,
            otlp: None,
        }
    }

    /// A client command's: only what a person must look at.
    pub fn client() -> Self {
        Self {
            format: LogFormat::Pretty,
            filter: None,
            default_filter: CLIENT_FILTER,
            otlp: None,
        }
    }

    /// Logs what `filter` lets through, which the configuration has checked.
    #[must_use]
    pub fn with_filter(mut self, filter: Option<String>) -> Self {
        self.filter = filter;
        self
    }

    /// Sends spans there too.
    #[must_use]
    pub fn with_otlp(mut self, otlp: Option<Otlp>) -> Self {
        self.otlp = otlp;
        self
    }

    /// Installs the process' subscriber. Once per process, inside of its Tokio runtime.
    ///
    /// # Errors
    /// `RUST_LOG` is malformed, there is a subscriber already, or the collector's address is none.
    pub fn install(&self) -> Result<Installed, Error> {
        let filter = match (&self.filter, std::env::var_os(EnvFilter::DEFAULT_ENV)) {
            (Some(filter), _) => EnvFilter::new(filter),
            (None, Some(_)) => EnvFilter::try_from_default_env()?,
            (None, None) => EnvFilter::new(self.default_filter),
        };
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match self.format {
            LogFormat::Pretty => lines
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let exporter = self.otlp.as_ref().map(Exporter::start).transpose()?;
        let spans = exporter
            .as_ref()
            .map(|exporter| span_layer(exporter.tracer()));
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(spans)
            .try_init()?;
        Ok(Installed { exporter })
    }
}

/// Turns hindcast's own spans into OpenTelemetry's.
pub fn span_layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let own = |metadata: &Metadata<'_>| {
        metadata.target().starts_with(OWN_TARGET) && *metadata.level() <= LevelFilter::INFO
    };
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(own))
}
