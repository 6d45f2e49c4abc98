//! Logging: one subscriber for the process, on standard error, so that standard output is the command's alone.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// What a server logs unless `RUST_LOG` says otherwise: its own state changes, and only trouble from libraries.
const SERVER_FILTER: &str = "warn,hindcast=info";
/// What a client command logs unless `RUST_LOG` says otherwise.
const CLIENT_FILTER: &str = "error";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object per line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    format: LogFormat,
    /// As the configuration has it; without it `RUST_LOG` counts.
    filter: Option<String>,
    default_filter: &'static str,
}

/// Logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` is set to something that is no filter.
    #[error("cannot use RUST_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// There is a subscriber already.
    #[error("cannot set up logging: {0}")]
    Subscriber(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl Telemetry {
    /// A server's; `filter` is one that its configuration has checked.
    pub fn server(format: LogFormat, filter: Option<String>) -> Self {
        Self {
            format,
            filter,
            default_filter: SERVER_FILTER,
        }
    }

    /// A client command's: only what a person must look at.
    pub fn client() -> Self {
        Self {
            format: LogFormat::Pretty,
            filter: None,
            default_filter: CLIENT_FILTER,
        }
    }

    /// Installs the process' subscriber. Once per process.
    ///
    /// # Errors
    /// `RUST_LOG` is malformed, or there is a subscriber already.
    pub fn install(&self) -> Result<(), Error> {
        let filter = match (&self.filter, std::env::var_os(EnvFilter::DEFAULT_ENV)) {
            (Some(filter), _) => EnvFilter::new(filter),
            (None, Some(_)) => EnvFilter::try_from_default_env()?,
            (None, None) => EnvFilter::new(self.default_filter),
        };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        match self.format {
            LogFormat::Pretty => builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .try_init()?,
            LogFormat::Json => builder.json().flatten_event(true).try_init()?,
        }
        Ok(())
    }
}
