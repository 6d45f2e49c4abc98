//! `hindcast token`: making tokens.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    error::Error,
    output::{self, Format},
};
use crate::{
    auth::{Role, TOKEN_PREFIX, digest},
    ids::SystemIds,
};

/// Tokens by which a server knows its clients
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Makes a token, and what the server's configuration needs to know it
    ///
    /// The token is shown once and stored nowhere: the configuration has its SHA-256 alone.
    #[command(after_help = "Example:\n  hindcast token new nightly-pipeline --role writer")]
    New {
        /// Who uses it: for the server's log and rate limits
        name: String,
        /// What it lets do: reader, writer, operator or admin
        #[arg(long, value_parser = parse_role, value_name = "ROLE")]
        role: Role,
    },
}

#[derive(Debug, Serialize)]
struct New<'a> {
    name: &'a str,
    role: &'a str,
    token: &'a str,
    sha256: &'a str,
}

fn parse_role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|()| {
        let roles = Role::ALL.map(Role::name).join(", ");
        format!("it is none of {roles}")
    })
}

/// Runs a command.
pub(crate) fn run(command: &Command, format: Format) -> Result<(), Error> {
    let Command::New { name, role } = command;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
        return Err(Error::Usage(format!(
            "{name:?} is no name of a token: 1 to 64 letters, digits, '-', '_' and '.'"
        )));
    }
    let token = format!("{TOKEN_PREFIX}{}", hex(&SystemIds::shared().secret()));
    let sha256 = hex(&digest(&token));
    match format {
        Format::Json => output::json_value_line(&New {
            name,
            role: role.name(),
            token: &token,
            sha256: &sha256,
        }),
        Format::Table => output::line(format!(
            "# The token, shown this once. Clients send it: HINDCAST_TOKEN, or --token-file.\n# {token}\n\n\
             # For the server's configuration or tokens file:\n[[token]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\n\
             role = \"{role}\""
        )),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
