//! The table of keys: the one place in which each is declared.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use super::Config;
use crate::{cli::times, telemetry::LogFormat};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// In the file. The flag is `--` with `-` for `_`, the variable `HINDCAST_` with capitals.
    pub name: &'static str,
    /// Which keys it stands with.
    pub group: Group,
    /// What it may be, and where it goes.
    pub shape: Shape,
    /// As people write it; empty: unset.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Keys that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Where things are.
    Place,
    /// Who may come in.
    Security,
    /// How large the parts are.
    Size,
    /// What one client, or all of them, may ask for.
    Protection,
    /// What it tells about itself.
    Observation,
}

impl Group {
    /// All, in the order of the page.
    pub const ALL: [Self; 5] = [
        Self::Place,
        Self::Security,
        Self::Size,
        Self::Protection,
        Self::Observation,
    ];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Place => "Places",
            Self::Security => "Security",
            Self::Size => "Sizes",
            Self::Protection => "Protection",
            Self::Observation => "Observation",
        }
    }
}

/// What a key's value may be, and how it is put into the configuration.
#[derive(Debug)]
pub enum Shape {
    /// An IP address and a port.
    Address(fn(&mut Config, SocketAddr)),
    /// A file or folder.
    Path(fn(&mut Config, PathBuf)),
    /// A whole number, bounds inclusive.
    Count(u32, u32, fn(&mut Config, u32)),
    /// Bytes, bounds inclusive.
    Size(u64, u64, fn(&mut Config, u64)),
    /// A duration, bounds inclusive.
    Time(Duration, Duration, fn(&mut Config, Duration)),
    /// 0 to 1.
    Ratio(fn(&mut Config, f64)),
    /// `true` or `false`.
    Switch(fn(&mut Config, bool)),
    /// One of some words.
    Choice(&'static [&'static str], fn(&mut Config, &str)),
    /// An http or https URL.
    Url(fn(&mut Config, String)),
    /// A filter of log lines.
    Filter(fn(&mut Config, String)),
}

impl Shape {
    /// Puts a value into `config`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&self, text: &str, config: &mut Config) -> Result<(), String> {
        match self {
            Self::Address(set) => set(config, address(text)?),
            Self::Path(set) => match text {
                "" => return Err("the path is empty".to_owned()),
                path => set(config, PathBuf::from(path)),
            },
            Self::Count(least, most, set) => {
                let bad = || format!("{text:?} is not a whole number from {least} to {most}");
                let count = text.replace('_', "").parse().map_err(|_| bad())?;
                let fits = (*least..=*most).contains(&count);
                set(config, fits.then_some(count).ok_or_else(bad)?);
            }
            Self::Size(least, most, set) => {
                let size = times::parse_size(text).map_err(|error| error.to_string())?;
                within(text, &size, least, most, |size| show_size(*size))?;
                set(config, size);
            }
            Self::Time(least, most, set) => {
                let time = times::parse_duration(text).map_err(|error| error.to_string())?;
                within(text, &time, least, most, |time| {
                    humantime::format_duration(*time).to_string()
                })?;
                set(config, time);
            }
            Self::Ratio(set) => {
                let ratio = text.parse::<f64>().ok();
                let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
                set(
                    config,
                    ratio.ok_or_else(|| format!("{text:?} is not a number from 0 to 1"))?,
                );
            }
            Self::Switch(set) => match text {
                "true" => set(config, true),
                "false" => set(config, false),
                _ => return Err(format!("{text:?} is neither true nor false")),
            },
            Self::Choice(words, set) => {
                if !words.contains(&text) {
                    return Err(format!("{text:?} is none of {}", words.join(", ")));
                }
                set(config, text);
            }
            Self::Url(set) => {
                let uri = text.parse::<http::Uri>().ok();
                let is_http = uri.is_some_and(|uri| {
                    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
                });
                if !is_http {
                    // The text may hold a password.
                    return Err("it is not a URL such as http://collector:4317".to_owned());
                }
                set(config, text.to_owned());
            }
            Self::Filter(set) => {
                tracing_subscriber::EnvFilter::try_new(text)
                    .map_err(|error| format!("{text:?} is no log filter: {error}"))?;
                set(config, text.to_owned());
            }
        }
        Ok(())
    }

    /// What stands for a value in help.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Self::Address(_) => "ADDRESS",
            Self::Path(_) => "PATH",
            Self::Count(..) => "N",
            Self::Size(..) => "SIZE",
            Self::Time(..) => "DURATION",
            Self::Ratio(_) => "RATIO",
            Self::Switch(_) => "true|false",
            Self::Choice(..) => "WORD",
            Self::Url(_) => "URL",
            Self::Filter(_) => "FILTER",
        }
    }

    /// What a value may be, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Address(_) => "address:port".to_owned(),
            Self::Path(_) => "path".to_owned(),
            Self::Count(least, u32::MAX, _) => format!("number, {least} or more"),
            Self::Count(least, most, _) => format!("number, {least} to {most}"),
            Self::Size(least, u64::MAX, _) => format!("size, {} or more", show_size(*least)),
            Self::Size(least, most, _) => {
                format!("size, {} to {}", show_size(*least), show_size(*most))
            }
            Self::Time(least, most, _) => format!(
                "duration, {} to {}",
                humantime::format_duration(*least),
                humantime::format_duration(*most)
            ),
            Self::Ratio(_) => "number, 0 to 1".to_owned(),
            Self::Switch(_) => "true or false".to_owned(),
            Self::Choice(words, _) => words.join(" or "),
            Self::Url(_) => "URL".to_owned(),
            Self::Filter(_) => "log filter".to_owned(),
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address and port such as 0.0.0.0:4780"))
}

fn within<T: PartialOrd>(
    text: &str,
    value: &T,
    least: &T,
    most: &T,
    show: impl Fn(&T) -> String,
) -> Result<(), String> {
    if value < least {
        return Err(format!("{text} is too little: at least {}", show(least)));
    }
    if value > most {
        return Err(format!("{text} is too much: at most {}", show(most)));
    }
    Ok(())
}

/// `0`, `512MiB`, `65537`: as the file takes it again.
fn show_size(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1_u64 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

impl Key {
    /// The flag, with its dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The variable.
    pub fn variable(&self) -> String {
        format!("HINDCAST_{}", self.name.to_ascii_uppercase())
    }
}

/// The key of a name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The variable that sets the log filter where `HINDCAST_LOG_FILTER` does not: everybody knows it.
pub const FILTER_VARIABLE: &str = "RUST_LOG";
/// The key that it sets.
pub const FILTER_KEY: &str = "log_filter";

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const MIB: u64 = 1 << 20;

/// Every key.
pub const KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        group: Group::Place,
        shape: Shape::Path(|config, path| config.server.data_dir = path),
        default: super::DEFAULT_DATA_DIR,
        help: "The folder that holds everything; made if it is not there",
    },
    Key {
        name: "listen",
        group: Group::Place,
        shape: Shape::Address(|config, address| config.server.listen = address),
        default: "127.0.0.1:4780",
        help: "Address and port to listen on; port 0 takes a free one. Beyond loopback it needs TLS and tokens (or client \
               certificates), or insecure",
    },
    Key {
        name: "warehouse",
        group: Group::Place,
        shape: Shape::Path(|config, path| config.server.warehouse_dir = Some(path)),
        default: "",
        help: "The folder for Iceberg tables; unset: warehouse in the data folder",
    },
    Key {
        name: "tls_cert",
        group: Group::Security,
        shape: Shape::Path(|config, path| config.tls.cert = Some(path)),
        default: "",
        help: "PEM file of the server's certificate and those that sign it, its own first; unset: no TLS",
    },
    Key {
        name: "tls_key",
        group: Group::Security,
        shape: Shape::Path(|config, path| config.tls.key = Some(path)),
        default: "",
        help: "PEM file of the certificate's private key",
    },
    Key {
        name: "tls_client_ca",
        group: Group::Security,
        shape: Shape::Path(|config, path| config.tls.client_ca = Some(path)),
        default: "",
        help: "PEM file of the authorities whose client certificates are taken: with it every client must show one (mutual \
               TLS)",
    },
    Key {
        name: "tokens_file",
        group: Group::Security,
        shape: Shape::Path(|config, path| config.server.tokens_file = Some(path)),
        default: "",
        help: "A TOML file of [[token]] tables, beside those in the configuration file; read again when it changes",
    },
    Key {
        name: "secrets_dir",
        group: Group::Security,
        shape: Shape::Path(|config, path| config.server.secrets_dir = Some(path)),
        default: "",
        help: "The folder whose files external calls may name in headers, as ${file:NAME}; unset: none",
    },
    Key {
        name: "insecure",
        group: Group::Security,
        shape: Shape::Switch(|config, is_so| config.server.insecure = is_so),
        default: "false",
        help: "Serve beyond loopback also without TLS, and without tokens or client certificates",
    },
    Key {
        name: "reload_interval",
        group: Group::Security,
        shape: Shape::Time(MILLISECOND, HOUR, |config, time| {
            config.server.reload_interval = time;
        }),
        default: "10s",
        help: "How often certificates and the tokens file are looked at; changed ones take effect for new connections and \
               requests",
    },
    Key {
        name: "max_active_partitions",
        group: Group::Size,
        // The wire's limit.
        shape: Shape::Count(1, 64, |config, count| {
            config.server.max_active_partitions = count;
        }),
        default: "4",
        help: "Partitions that one backfill runs at once, unless it says otherwise",
    },
    Key {
        name: "server_active_partitions",
        group: Group::Size,
        shape: Shape::Count(1, u32::MAX, |config, count| {
            config.server.server_active_partitions = count;
        }),
        default: "16",
        help: "Partitions that all backfills together compute at once",
    },
    Key {
        name: "store_cache",
        group: Group::Size,
        shape: Shape::Size(MIB, u64::MAX, |config, bytes| {
            config.server.store_cache_bytes = bytes;
        }),
        default: "256MiB",
        help: "Memory for the store's cache",
    },
    Key {
        name: "engine_memory",
        group: Group::Size,
        shape: Shape::Size(MIB, u64::MAX, |config, bytes| {
            config.server.engine_memory_bytes = bytes;
        }),
        default: "1GiB",
        help: "Memory for all running queries together; beyond it they spill to disk",
    },
    Key {
        name: "engine_threads",
        group: Group::Size,
        shape: Shape::Count(1, 1_024, |config, count| {
            config.server.engine_threads = Some(count as usize);
        }),
        default: "",
        help: "Threads that compute partitions; unset: one per core. They yield to those that serve requests",
    },
    Key {
        name: "minimum_free",
        group: Group::Size,
        shape: Shape::Size(0, u64::MAX, |config, bytes| {
            config.server.minimum_free_bytes = bytes;
        }),
        default: "512MiB",
        help: "Free space of the data folder's disk below which writes are refused and backfills wait",
    },
    Key {
        name: "client_rate",
        group: Group::Protection,
        shape: Shape::Count(1, 10_000_000, |config, count| {
            config.server.protection.client_rate = NonZeroU32::new(count);
        }),
        default: "",
        help: "Calls per second of one client (its token, else its address) to one method; unset: no limit",
    },
    Key {
        name: "client_burst",
        group: Group::Protection,
        shape: Shape::Count(1, 10_000_000, |config, count| {
            config.server.protection.client_burst = NonZeroU32::new(count);
        }),
        default: "",
        help: "Calls that may come at once after a pause; unset: as many as client_rate",
    },
    Key {
        name: "max_unary_calls",
        group: Group::Protection,
        shape: Shape::Count(1, 1_000_000, |config, count| {
            config.server.protection.max_unary_calls = count as usize;
        }),
        default: "4096",
        help: "Calls with one answer that are open at once; more are refused with SERVER_BUSY",
    },
    Key {
        name: "max_bulk_streams",
        group: Group::Protection,
        shape: Shape::Count(1, 1_000_000, |config, count| {
            config.server.protection.max_bulk_streams = count as usize;
        }),
        default: "256",
        help: "Bulk reads and loads (ScanEntities, Lookup, Ingest, ReadTable, Backup) that are open at once",
    },
    Key {
        name: "max_watch_streams",
        group: Group::Protection,
        shape: Shape::Count(1, 1_000_000, |config, count| {
            config.server.protection.max_watch_streams = count as usize;
        }),
        default: "16384",
        help: "Streams that mostly wait (WatchBackfill, WatchBackfills, ListChanges, AcquirePermits, StreamPermits) that are open at once",
    },
    Key {
        name: "max_connections",
        group: Group::Protection,
        shape: Shape::Count(1, 1_000_000, |config, count| {
            config.server.protection.max_connections = count as usize;
        }),
        default: "10000",
        help: "Connections that are open at once; further ones wait to be accepted",
    },
    Key {
        name: "max_streams_per_connection",
        group: Group::Protection,
        shape: Shape::Count(1, 1_000_000, |config, count| {
            config.server.protection.max_streams_per_connection = count;
        }),
        default: "200",
        help: "Calls that are open at once on one connection; further ones wait in the client",
    },
    Key {
        name: "handshake_timeout",
        group: Group::Protection,
        shape: Shape::Time(MILLISECOND, HOUR, |config, time| {
            config.server.protection.handshake_timeout = time;
        }),
        default: "10s",
        help: "How long a client may take to shake hands (TLS) and say its first words (HTTP/2)",
    },
    Key {
        name: "keepalive_interval",
        group: Group::Protection,
        shape: Shape::Time(SECOND, HOUR, |config, time| {
            config.server.protection.keepalive_interval = time;
        }),
        default: "30s",
        help: "How often a connection is probed",
    },
    Key {
        name: "keepalive_timeout",
        group: Group::Protection,
        shape: Shape::Time(SECOND, HOUR, |config, time| {
            config.server.protection.keepalive_timeout = time;
        }),
        default: "20s",
        help: "How long a probe may go unanswered before the connection is closed",
    },
    Key {
        name: "log_format",
        group: Group::Observation,
        shape: Shape::Choice(&["pretty", "json"], |config, word| {
            config.log_format = if word == "json" {
                LogFormat::Json
            } else {
                LogFormat::Pretty
            };
        }),
        default: "pretty",
        help: "How log lines look: pretty (for people) or json (an object per line)",
    },
    Key {
        name: FILTER_KEY,
        group: Group::Observation,
        shape: Shape::Filter(|config, filter| config.log_filter = Some(filter)),
        default: "",
        help: "What is logged to standard error, such as info or hindcast=debug; RUST_LOG sets it too",
    },
    Key {
        name: "metrics_listen",
        group: Group::Observation,
        shape: Shape::Address(|config, address| config.server.metrics_listen = Some(address)),
        default: "",
        help: "Address and port of /metrics, /livez and /readyz, without TLS and tokens; unset: off",
    },
    Key {
        name: "otlp_endpoint",
        group: Group::Observation,
        shape: Shape::Url(|config, url| config.otlp_endpoint = Some(url)),
        default: "",
        help: "The OpenTelemetry collector (OTLP over gRPC) that spans are sent to; unset: none",
    },
    Key {
        name: "otlp_sample_ratio",
        group: Group::Observation,
        shape: Shape::Ratio(|config, ratio| config.otlp_sample_ratio = ratio),
        default: "1",
        help: "The share of traces that is sent",
    },
];
