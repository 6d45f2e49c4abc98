//! `hindcast serve`: runs the server until it is told to stop.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock, OnceLock},
};

use clap::{Arg, ArgMatches, FromArgMatches};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{error::Error, output};
use crate::{
    config::{self, Config, KEYS, Key, Loaded, Sources, keys::Shape},
    server,
    time::Clock,
};

/// Exit code of a server that was told twice to stop, as shells have it for SIGINT.
const INTERRUPTED: i32 = 130;
const CONFIG_FLAG: &str = "config";

/// Runs the server until SIGTERM or SIGINT
///
/// The first signal ends streams cleanly, puts running attempts back into the queue and closes the store; a second one
/// exits at once, which loses nothing that was acknowledged.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Settings come from defaults, the file, variables and flags; the later one wins. `hindcast config show` says\n\
    what holds and where it comes from.\n\n\
    Examples:\n  hindcast serve\n  hindcast serve --config hindcast.toml --log-format json\n  \
    hindcast serve --listen 0.0.0.0:4780 --tls-cert tls.crt --tls-key tls.key --tokens-file tokens.toml"
)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
}

impl Args {
    /// All that the server is told.
    pub(crate) fn config(&self) -> Result<&Config, Error> {
        Ok(&self.settings.load()?.config)
    }
}

/// The flags of a server's configuration: one per key.
#[derive(Debug)]
pub(crate) struct Settings {
    file: Option<PathBuf>,
    flags: Vec<(&'static Key, String)>,
    /// Read once: what is logged and what is served come from the same file.
    loaded: OnceLock<Loaded>,
}

impl Settings {
    /// The configuration, with the process' variables.
    pub(crate) fn load(&self) -> Result<&Loaded, Error> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = config::load(&Sources {
            file: self.file.clone(),
            environment: std::env::vars_os().collect(),
            flags: self.flags.clone(),
        })?;
        Ok(self.loaded.get_or_init(|| loaded))
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &'static Key| {
            let text = matches.get_one::<String>(key.name)?;
            Some((key, text.clone()))
        };
        Ok(Self {
            file: matches.get_one::<PathBuf>(CONFIG_FLAG).cloned(),
            flags: KEYS.iter().filter_map(given).collect(),
            loaded: OnceLock::new(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new(CONFIG_FLAG)
            .long(CONFIG_FLAG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!(
                "A TOML file of settings [env: {}]",
                config::CONFIG_VARIABLE
            ));
        let flags = KEYS.iter().zip(FLAGS.iter()).map(|(key, flag)| {
            let arg = Arg::new(key.name)
                .long(flag.as_str())
                .value_name(key.shape.placeholder())
                .help(help(key))
                .help_heading(key.group.title())
                .value_parser(|text: &str| {
                    key.shape
                        .set(text, &mut Config::default())
                        .map(|()| text.to_owned())
                });
            if matches!(key.shape, Shape::Switch(_)) {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
            } else {
                arg
            }
        });
        command.arg(file).args(flags)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The flags' names, without dashes: the parser wants them for as long as the process lives.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| KEYS.iter().map(|key| key.name.replace('_', "-")).collect());

fn help(key: &Key) -> String {
    let variable = key.variable();
    if key.default.is_empty() {
        format!("{} [env: {variable}]", key.help)
    } else {
        format!("{} [env: {variable}] [default: {}]", key.help, key.default)
    }
}

/// Runs the command.
pub(crate) async fn run(args: &Args, clock: Arc<dyn Clock>) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let config = args.config()?.server.clone();
    raise_open_files(config.protection.max_connections);
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let data_dir = config.data_dir.display().to_string();
    let server = Box::pin(server::start(config, clock)).await?;
    output::line(format!(
        "hindcast serves {scheme}://{}, data in {data_dir}",
        server.local_addr(),
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

/// Lets the process open as many files as the system lets it: every connection is one.
fn raise_open_files(max_connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return warn_of_open_files(current, max_connections);
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => warn_of_open_files(maximum, max_connections),
        Err(error) => {
            warn!(%error, "cannot raise the number of files that may be open");
            warn_of_open_files(current, max_connections);
        }
    }
}

/// `limit`: `None` is none.
fn warn_of_open_files(limit: Option<u64>, max_connections: usize) {
    if let Some(limit) = limit
        && limit <= max_connections as u64
    {
        warn!(
            limit,
            max_connections,
            "fewer files may be open than connections; raise the limit (ulimit -n), or lower max_connections"
        );
    }
}

/// Acknowledged writes are on disk already; what runs is fenced off and tried again after the next start.
fn exit_at_once() {
    warn!("exiting without waiting for running work");
    std::process::exit(INTERRUPTED);
}
