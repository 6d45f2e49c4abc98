//! `hindcast config`: a server's settings, looked at without starting it.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    Outcome,
    error::Error,
    output::{self, Columns, Format, row},
    serve::Settings,
};
use crate::{config, server, time::Clock};

/// A server's settings: checking and showing them without starting it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Says whether a server would start with these settings
    ///
    /// Reads the file, the variables and the flags as `hindcast serve` does, opens certificates and the tokens file, and
    /// tells every fault. Exit code 0: a server would start; 64: it would not.
    #[command(after_help = "Example:\n  hindcast config check --config hindcast.toml")]
    Check {
        #[command(flatten)]
        settings: Settings,
    },
    /// Shows every setting and where it comes from, secrets hidden
    #[command(after_help = "Example:\n  hindcast config show --config hindcast.toml -o json")]
    Show {
        #[command(flatten)]
        settings: Settings,
    },
    /// Prints the reference of all settings, in Markdown
    Reference,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    key: &'a str,
    value: Option<&'a str>,
    origin: String,
}

/// Runs a command.
pub(crate) fn run(command: &Command, format: Format, clock: &dyn Clock) -> Result<Outcome, Error> {
    match command {
        Command::Check { settings } => check(settings, clock),
        Command::Show { settings } => show(settings, format),
        Command::Reference => output::line(config::reference().trim_end()),
    }
    .map(Outcome::from)
}

fn check(settings: &Settings, clock: &dyn Clock) -> Result<(), Error> {
    let server = &settings.load()?.config.server;
    let faults = server::check(server, clock);
    if let [first, rest @ ..] = faults.as_slice() {
        let mut text = first.to_string();
        for fault in rest {
            let _infallible = write!(text, "\nerror: {fault}");
        }
        return Err(Error::Configuration(text));
    }
    output::line("a server would start with these settings")
}

fn show(settings: &Settings, format: Format) -> Result<(), Error> {
    let shown = settings.load()?.settings.iter().map(|setting| Shown {
        key: setting.key,
        value: (!setting.value.is_empty()).then_some(setting.value.as_str()),
        origin: setting.origin.to_string(),
    });
    match format {
        Format::Json => {
            for one in shown {
                output::json_value_line(&one)?;
            }
            Ok(())
        }
        Format::Table => {
            let mut columns = Columns::new(&["KEY", "VALUE", "FROM"]);
            for one in shown {
                columns.row(row![one.key, one.value.unwrap_or("-"), one.origin]);
            }
            columns.print("nothing is set")
        }
    }
}
