//! The command line: `hindcast serve`, `hindcast quickstart`, and a client command for every call of the API.
//!
//! One file per command group. Commands speak to the server through the wire's clients alone; `serve` and `quickstart`
//! start one in this process. Output for people are plain columns, output for machines (`-o json`) the wire's messages
//! with their field names. Exit codes: 0 done, 1 failed, 2 arguments that make no sense, 64 a configuration or
//! definitions file that cannot be used.

mod apply;
mod backfill;
mod backup;
mod base64;
mod client;
mod config;
mod definitions;
mod entity;
mod entity_type;
mod error;
mod json;
mod limit;
mod load;
mod output;
mod progress;
mod quickstart;
mod restore;
mod serve;
mod source;
mod store;
mod style;
mod table;
pub(crate) mod times;
mod token;
mod transform;
mod values;
mod watch;

use std::{process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};

pub use error::Error;

use self::{client::Client, output::Format, style::Style};
use crate::{telemetry::Telemetry, time::Clock};

/// Where a server listens unless told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:4780";

/// The heading of what every command takes.
const COMMON: &str = "Server and output";

const TOUR: &str = "\
A first look (nothing needed, takes under a minute):
  hindcast quickstart

A server and its first backfill:
  hindcast serve &
  hindcast apply -f examples/flights/hindcast.toml
  hindcast entity load examples/flights/entities/*.ndjson
  hindcast backfill create daily_punctuality --from 2013-01-01 --to 2013-04-01 \\
    --knowledge as-known-now --watch
  hindcast table rows daily_punctuality --limit 10

Words:
  valid time    when a fact is true in the world
  system time   when hindcast learned it
  basis         a system time that a read is pinned to: the same answer for ever

Exit codes: 0 done, 1 failed, 2 arguments that make no sense, 64 settings or a
definitions file that cannot be used.";

/// Recomputes history correctly: a bitemporal entity store, and backfills that see the world as it was
#[derive(Debug, Parser)]
#[command(name = "hindcast", version, after_help = TOUR, max_term_width = 120)]
pub struct Cli {
    /// The server that client commands speak to
    #[arg(long, global = true, env = "HINDCAST_SERVER", default_value = DEFAULT_SERVER, value_name = "URL",
        help_heading = COMMON)]
    server: String,
    #[command(flatten)]
    credentials: client::Credentials,
    /// Who reads the output: people (table) or machines (json)
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "FORMAT",
        help_heading = COMMON
    )]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Quickstart(quickstart::Args),
    Apply(apply::Args),
    #[command(subcommand)]
    Type(entity_type::Command),
    #[command(subcommand)]
    Entity(entity::Command),
    #[command(subcommand)]
    Source(source::Command),
    #[command(subcommand)]
    Transform(transform::Command),
    #[command(subcommand)]
    Backfill(Box<backfill::Command>),
    #[command(subcommand)]
    Table(table::Command),
    #[command(subcommand)]
    Limit(limit::Command),
    Backup(backup::Args),
    Restore(restore::Args),
    #[command(subcommand)]
    Store(store::Command),
    #[command(subcommand)]
    Config(config::Command),
    #[command(subcommand)]
    Token(token::Command),
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// The command worked, but what it watched did not succeed; the output said so.
    Unsuccessful,
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Done
    }
}

impl Cli {
    /// What this command logs, and how.
    ///
    /// # Errors
    /// A server's configuration cannot be used.
    pub fn telemetry(&self) -> Result<Telemetry, Error> {
        if let Command::Serve(args) = &self.command {
            let config = args.config()?;
            Ok(Telemetry::server(config.log_format)
                .with_filter(config.log_filter.clone())
                .with_otlp(config.otlp()))
        } else {
            Ok(Telemetry::client())
        }
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// See [`Error`]; [`exit_code`] reports it.
    pub async fn run(self, clock: Arc<dyn Clock>) -> Result<Outcome, Error> {
        if let Command::Serve(args) = &self.command {
            return serve::run(args, clock).await.map(Outcome::from);
        }
        if let Command::Quickstart(args) = &self.command {
            return Box::pin(quickstart::run(args, clock))
                .await
                .map(Outcome::from);
        }
        if let Command::Restore(args) = &self.command {
            return restore::run(args, self.output, clock)
                .await
                .map(Outcome::from);
        }
        if let Command::Store(command) = &self.command {
            return store::run(command, self.output).await;
        }
        if let Command::Config(command) = &self.command {
            return config::run(command, self.output, clock.as_ref());
        }
        if let Command::Token(command) = &self.command {
            return token::run(command, self.output).map(Outcome::from);
        }
        let client = Client::connect(&self.server, &self.credentials).await?;
        Box::pin(run_client(&self.command, &client, self.output, &clock)).await
    }
}

async fn run_client(
    command: &Command,
    client: &Client,
    format: Format,
    clock: &Arc<dyn Clock>,
) -> Result<Outcome, Error> {
    match command {
        Command::Apply(args) => apply::run(args, client, format).await.map(Outcome::from),
        Command::Type(command) => entity_type::run(command, client, format)
            .await
            .map(Outcome::from),
        Command::Entity(command) => entity::run(command, client, format)
            .await
            .map(Outcome::from),
        Command::Source(command) => source::run(command, client, format)
            .await
            .map(Outcome::from),
        Command::Transform(command) => transform::run(command, client, format)
            .await
            .map(Outcome::from),
        Command::Backfill(command) => backfill::run(command, client, format, clock).await,
        Command::Table(command) => table::run(command, client, format).await.map(Outcome::from),
        Command::Limit(command) => limit::run(command, client, format).await.map(Outcome::from),
        Command::Backup(args) => backup::run(args, client, format).await.map(Outcome::from),
        Command::Serve(_)
        | Command::Quickstart(_)
        | Command::Restore(_)
        | Command::Store(_)
        | Command::Config(_)
        | Command::Token(_) => Ok(Outcome::Done),
    }
}

/// Reports a failure on standard error, and gives the process' exit code.
pub fn exit_code(outcome: Result<Outcome, Error>) -> ExitCode {
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unsuccessful) => ExitCode::FAILURE,
        Err(error) => {
            if let Some(report) = error.report() {
                let style = Style::stderr();
                let report = report.replacen("error:", &style.red(&style.bold("error:")), 1);
                eprintln!("{report}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_parse() {
        for line in [
            "serve --data-dir d --listen 127.0.0.1:0 --store-cache 64MiB --engine-memory 1GiB --log-format json",
            "quickstart --data-dir d",
            "apply -f hindcast.toml",
            "type create aircraft model:string seats:int64",
            "entity put aircraft N1 seats=5 --from 2013-01-01 --forever",
            "entity get aircraft N1 --at 2013-01-01 --basis 2026-01-01T00:00:00Z -o json",
            "entity load a.ndjson b.ndjson --server http://h:1",
            "entity load --resume n --ignore release --ignore note a.ndjson.gz",
            "transform register t --sql x --prior --output-column a --output-table t --grain daily",
            "backfill create t --from 2013-01-01 --to 2013-02-01 --knowledge as-known-then --availability-delay 6h -w",
            "backfill list --state failed --state running",
            "table rows t --from 2013-01-01 --limit 3",
            "limit create l --rate 100/s --burst 20 --per-day 50000 --time-zone America/New_York --live-share 20",
            "limit update l --rate 1/10s --remove per-day --remove burst",
            "limit acquire l --permits 5 --class backfill --client c --max-wait 10s",
            "backup --to f --basis 2026-01-01T00:00:00Z --force",
            "store check --data-dir d --deep",
            "store stats --data-dir d -o json",
            "restore --from f --data-dir d --store-cache 1GiB",
            "serve --config c.toml --listen 0.0.0.0:1 --insecure --client-rate 100",
            "serve --tls-cert c --tls-key k --tls-client-ca a --tokens-file t",
            "config check --config c.toml --store-cache 1GiB",
            "config show -o json --insecure=false",
            "config reference",
            "token new pipeline --role writer",
            "type list --server https://h:1 --ca a --client-cert c --client-key k --token-file t",
        ] {
            let parsed = Cli::try_parse_from(["hindcast"].into_iter().chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "backfill create t --from 2013-01-01 --to 2013-02-01",
            "backfill create t --from 2013-01-01 --to 2013-02-01 --knowledge at-basis",
            "backfill create t --from soon --to 2013-02-01 --knowledge as-known-now",
            "entity put aircraft N1 seats=5 --to 2013-01-01 --forever",
            "entity put aircraft N1",
            "transform register t --output-table t --grain daily",
            "serve --max-active-partitions 65",
            "serve --store-cache much",
            "serve --insecure=perhaps",
            "type list --client-cert c",
            "type list --token t --token-file f",
            "token new pipeline --role king",
            "limit create l --rate 100",
            "limit acquire l --class urgent",
        ] {
            assert!(
                Cli::try_parse_from(["hindcast"].into_iter().chain(line.split(' '))).is_err(),
                "{line}"
            );
        }
    }
}
