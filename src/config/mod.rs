//! The server's configuration: one typed value from a TOML file, the environment and flags; what comes later wins.
//!
//! Every key is declared once, in [`keys`]: the file's keys, the variables, the flags, `hindcast config show` and
//! `docs/configuration.md` are drawn from that table. Reading finds every fault, not only the first, and names its place.
//! Unknown keys and variables are faults: a limit that is misspelt protects nobody.

mod environment;
mod file;
pub mod keys;
mod reference;
mod tokens;

use std::{ffi::OsString, fmt, path::PathBuf};

pub use keys::{KEYS, Key};
pub use reference::reference;
pub use tokens::read_tokens;

use crate::{
    server::{ServerConfig, TlsFiles},
    telemetry::{LogFormat, Otlp},
};

/// Where data is kept unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "hindcast-data";
/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "HINDCAST_CONFIG";

/// All that a server process is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server's own part.
    pub server: ServerConfig,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged, as `RUST_LOG` has it; `None`: the usual.
    pub log_filter: Option<String>,
    /// Where spans are sent over OTLP; `None`: nowhere.
    pub otlp_endpoint: Option<String>,
    /// The share of traces that is sent, 0 to 1.
    pub otlp_sample_ratio: f64,
    tls: TlsParts,
}

/// The keys of TLS as they come, one by one.
#[derive(Debug, Clone, Default)]
struct TlsParts {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerConfig::new(PathBuf::from(DEFAULT_DATA_DIR)),
            log_format: LogFormat::default(),
            log_filter: None,
            otlp_endpoint: None,
            otlp_sample_ratio: 1.0,
            tls: TlsParts::default(),
        }
    }
}

impl Config {
    /// Where spans are sent, if anywhere.
    pub fn otlp(&self) -> Option<Otlp> {
        Some(Otlp {
            endpoint: self.otlp_endpoint.clone()?,
            sample_ratio: self.otlp_sample_ratio,
        })
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that a flag names; without it [`CONFIG_VARIABLE`] may name one.
    pub file: Option<PathBuf>,
    /// The process' variables.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags by key.
    pub flags: Vec<(&'static Key, String)>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File {
        /// As given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value that was given, not yet read.
#[derive(Debug, Clone)]
struct Given {
    key: &'static Key,
    text: String,
    origin: Origin,
}

/// One key as it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key's name.
    pub key: &'static str,
    /// The value as people write it, without secrets; empty: unset.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Something that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it is: a line of a file, a variable, a flag.
    pub place: String,
    /// What is wrong, lowercase, without a full stop.
    pub problem: String,
}

impl Fault {
    fn new(place: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self {
            place: place.to_string(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// All that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the configuration: {}", list(.0))]
pub struct Faults(pub Vec<Fault>);

fn list(faults: &[Fault]) -> String {
    match faults {
        [fault] => fault.to_string(),
        _ => {
            let lines = faults.iter().map(|fault| format!("\n  {fault}"));
            format!("{} faults{}", faults.len(), lines.collect::<String>())
        }
    }
}

/// A configuration, and where each value of it comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every key, in the table's order; tokens last.
    pub settings: Vec<Setting>,
}

/// Reads all sources. Later ones win: file, environment, flags.
///
/// # Errors
/// Everything that is wrong: a file that cannot be read or is no TOML, unknown keys and variables, values that do not fit,
/// keys that do not go together.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let mut faults = Vec::new();
    let mut given = Vec::new();
    let mut config = Config::default();
    if let Some(path) = sources.file.clone().or_else(|| named_file(sources)) {
        let read = file::read(&path, &mut faults);
        given.extend(read.values);
        config.server.tokens = read.tokens;
    }
    given.extend(environment::read(&sources.environment, &mut faults));
    given.extend(sources.flags.iter().map(|(key, text)| Given {
        key,
        text: text.clone(),
        origin: Origin::Flag(key.flag()),
    }));
    let mut settings = Vec::with_capacity(KEYS.len() + 1);
    for key in KEYS {
        // The last one: later sources win.
        let last = given.iter().rev().find(|one| one.key.name == key.name);
        settings.push(apply(key, last, &mut config, &mut faults));
    }
    settings.push(tokens_setting(&config, sources));
    join(&mut config, &mut faults);
    if faults.is_empty() {
        Ok(Loaded { config, settings })
    } else {
        Err(Faults(faults))
    }
}

fn named_file(sources: &Sources) -> Option<PathBuf> {
    environment::named_file(&sources.environment).map(PathBuf::from)
}

fn apply(
    key: &'static Key,
    given: Option<&Given>,
    config: &mut Config,
    faults: &mut Vec<Fault>,
) -> Setting {
    let (text, origin) = given.map_or((key.default, &Origin::Default), |given| {
        (given.text.as_str(), &given.origin)
    });
    if !(text.is_empty() && given.is_none())
        && let Err(problem) = key.shape.set(text, config)
    {
        faults.push(Fault::new(origin, format!("{}: {problem}", key.name)));
    }
    Setting {
        key: key.name,
        value: without_credentials(text),
        origin: origin.clone(),
    }
}

/// `https://user:password@host` without what is secret in it.
pub(crate) fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest.find('/').unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://(hidden){}", &rest[at..]),
        None => text.to_owned(),
    }
}

fn tokens_setting(config: &Config, sources: &Sources) -> Setting {
    let tokens = &config.server.tokens;
    let names = tokens
        .iter()
        .map(|token| format!("{} ({})", token.name, token.role));
    let path = sources.file.clone().or_else(|| named_file(sources));
    let line = tokens.first().map(|token| token.line);
    let origin = line
        .zip(path)
        .map(|(line, path)| Origin::File { path, line });
    Setting {
        key: "token",
        value: names.collect::<Vec<_>>().join(", "),
        origin: origin.unwrap_or(Origin::Default),
    }
}

/// What only makes sense together.
fn join(config: &mut Config, faults: &mut Vec<Fault>) {
    let TlsParts {
        cert,
        key,
        client_ca,
    } = config.tls.clone();
    config.server.tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsFiles {
            cert,
            key,
            client_ca,
        }),
        (None, None) => {
            if client_ca.is_some() {
                faults.push(Fault::new(
                    "tls_client_ca",
                    "it needs tls_cert and tls_key too",
                ));
            }
            None
        }
        (Some(_), None) => {
            faults.push(Fault::new("tls_cert", "it needs tls_key too"));
            None
        }
        (None, Some(_)) => {
            faults.push(Fault::new("tls_key", "it needs tls_cert too"));
            None
        }
    };
    if config.server.protection.client_burst.is_some()
        && config.server.protection.client_rate.is_none()
    {
        faults.push(Fault::new("client_burst", "it needs client_rate too"));
    }
    for (name, folder) in [
        ("data_dir", Some(&config.server.data_dir)),
        ("warehouse", config.server.warehouse_dir.as_ref()),
    ] {
        if let Some(folder) = folder
            && folder.exists()
            && !folder.is_dir()
        {
            let problem = format!("{} is no folder", folder.display());
            faults.push(Fault::new(name, problem));
        }
    }
}

/// The known name that `unknown` is most likely meant to be.
fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Names less alike than this have nothing to do with each other.
    const ALIKE: f64 = 0.7;
    known
        .map(|name| (name, strsim::jaro_winkler(unknown, name)))
        .filter(|(_, likeness)| *likeness >= ALIKE)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests;
