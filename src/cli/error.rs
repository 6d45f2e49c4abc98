//! What can go wrong in a command, how it reads on a terminal, and which exit code it gives.

use std::{fmt::Write as _, io, path::PathBuf};

use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt};

use super::{definitions, times, values};
use crate::{config, error::Classify, server, store::copy};

/// Exit code of a command that failed.
const FAILURE: u8 = 1;
/// Exit code of arguments that make no sense; clap uses the same.
const BAD_USAGE: u8 = 2;
/// Exit code of a configuration or definitions file that cannot be used.
const BAD_CONFIGURATION: u8 = 64;

/// A command's failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arguments that parse, but make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A setting that cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// A server's settings.
    #[error(transparent)]
    Settings(#[from] config::Faults),
    /// A time, duration or size in an argument.
    #[error(transparent)]
    Time(#[from] times::Error),
    /// An attribute value in an argument.
    #[error(transparent)]
    Value(#[from] values::Error),
    /// A definitions file.
    #[error(transparent)]
    Definitions(#[from] definitions::Error),
    /// A line of a file of entities.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The batch of lines that the server refused.
    #[error("{}, lines {first_line} to {last_line}: {}", path.display(), status.message())]
    Batch {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        first_line: usize,
        /// Inclusive.
        last_line: usize,
        /// The server's answer.
        status: Box<Status>,
        /// Line of every mutation in the batch, in order.
        lines: Vec<usize>,
    },
    /// A load that ended early.
    #[error("{cause}")]
    Load {
        /// Why.
        cause: Box<Error>,
        /// The load's name.
        stream: String,
        /// The last line that is on disk; 0: none.
        last_line: u64,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {cause}", path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A backup, or a data folder that is looked at without a server.
    #[error(transparent)]
    Copy(#[from] copy::Error),
    /// No server answers.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// The server's address as given.
        url: String,
        /// Why.
        cause: String,
    },
    /// The server refused a call.
    #[error("{}", .0.message())]
    Rpc(Box<Status>),
    /// The server in this process.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// Something did not turn out as it must.
    #[error("{0}")]
    Failed(String),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

impl Error {
    /// The process' exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Time(_) | Self::Value(_) => BAD_USAGE,
            Self::Configuration(_)
            | Self::Settings(_)
            | Self::Definitions(_)
            | Self::Server(server::Error::Unguarded(_)) => BAD_CONFIGURATION,
            Self::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Load { cause, .. } => cause.exit_code(),
            Self::Line { .. }
            | Self::Batch { .. }
            | Self::File { .. }
            | Self::WriteFile { .. }
            | Self::Copy(_)
            | Self::Unreachable { .. }
            | Self::Rpc(_)
            | Self::Server(_)
            | Self::Output(_)
            | Self::Failed(_) => FAILURE,
        }
    }

    /// The text for standard error; `None` where silence is right: the reader of our output closed it.
    pub fn report(&self) -> Option<String> {
        if matches!(self, Self::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
            return None;
        }
        if let Self::Load {
            cause,
            stream,
            last_line,
        } = self
        {
            let report = cause.report()?;
            return Some(if *last_line == 0 {
                report
            } else {
                format!(
                    "{report}\nhint: the lines up to {last_line} are on disk; --resume {stream} goes on after them"
                )
            });
        }
        let mut text = format!("error: {self}");
        if let Self::Rpc(status) = self {
            push_details(&mut text, status, |field| field.to_owned());
        } else if let Self::Batch { status, lines, .. } = self {
            push_details(&mut text, status, |field| name_line(field, lines));
        } else if let Self::Copy(error) = self {
            let _infallible = write!(text, " [{}]", error.reason());
        }
        if let Some(hint) = self.hint() {
            let _infallible = write!(text, "\nhint: {hint}");
        }
        Some(text)
    }

    fn hint(&self) -> Option<String> {
        if let Self::Rpc(status) = self {
            return hint_for(status);
        }
        let unreachable = matches!(self, Self::Unreachable { .. });
        unreachable.then(|| {
            "is `hindcast serve` running there? --server or HINDCAST_SERVER name another address".to_owned()
        })
    }
}

/// Appends the stable reason and the fields at fault.
fn push_details(text: &mut String, status: &Status, field_name: impl Fn(&str) -> String) {
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        let _infallible = write!(text, " [{}]", info.reason);
    }
    for violation in details
        .bad_request()
        .iter()
        .flat_map(|request| &request.field_violations)
        .filter(|violation| {
            !said_already(status, violation) || field_name(&violation.field) != violation.field
        })
    {
        let field = field_name(&violation.field);
        let _infallible = write!(text, "\n  {field}: {}", violation.description);
    }
    for violation in details
        .precondition_failure()
        .iter()
        .flat_map(|failure| &failure.violations)
        .filter(|violation| !status.message().contains(&violation.description))
    {
        let _infallible = write!(text, "\n  {}: {}", violation.subject, violation.description);
    }
}

/// A fault that the message tells in full, its field included.
fn said_already(status: &Status, violation: &FieldViolation) -> bool {
    status.message().contains(&violation.description) && status.message().contains(&violation.field)
}

/// `mutations[3].put.valid_to` as `line 17: put.valid_to`.
fn name_line(field: &str, lines: &[usize]) -> String {
    let Some((index, rest)) = field
        .strip_prefix("batch.")
        .unwrap_or(field)
        .strip_prefix("mutations[")
        .and_then(|tail| tail.split_once(']'))
    else {
        return field.to_owned();
    };
    let line = index
        .parse::<usize>()
        .ok()
        .and_then(|index| lines.get(index));
    match line {
        Some(line) => {
            format!("line {line}{}", if rest.is_empty() { "" } else { ", " })
                + rest.trim_start_matches('.')
        }
        None => field.to_owned(),
    }
}

fn hint_for(status: &Status) -> Option<String> {
    let code = status.code();
    // A server that answers, with a reason, has not gone away.
    let is_reasoned = status.get_error_details().error_info().is_some();
    if code == Code::Unavailable && !is_reasoned {
        return Some("the server went away; is `hindcast serve` still running?".to_owned());
    }
    if code == Code::Unimplemented {
        return Some("that address is no hindcast server, or an older one".to_owned());
    }
    let (command, things) = match resource_type(status)
        .filter(|_| code == Code::NotFound)?
        .as_str()
    {
        "entity_type" => ("type", "types"),
        "source" => ("source", "sources"),
        "transform" => ("transform", "transforms"),
        "backfill" => ("backfill", "backfills"),
        "table" => ("table", "tables"),
        _ => return None,
    };
    Some(format!(
        "`hindcast {command} list` shows the {things} that exist"
    ))
}

fn resource_type(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    details.resource_info().map(|resource| {
        resource
            .resource_type
            .replace([' ', '-'], "_")
            .to_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_names_reason_and_fields() {
        let mut details = ErrorDetails::with_error_info(
            "INVALID_RANGE",
            "hindcast",
            std::collections::HashMap::new(),
        );
        details.add_bad_request_violation("spec.to", "must be after spec.from");
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "cannot plan backfill: the range is empty",
            details,
        );
        let report = Error::from(status).report().expect("not silent");
        assert_eq!(
            report,
            "error: cannot plan backfill: the range is empty [INVALID_RANGE]\n  spec.to: must be after spec.from"
        );
    }

    #[test]
    fn a_server_that_answers_has_not_gone_away() {
        let report = |status: Status| Error::from(status).report().expect("not silent");
        let gone = report(Status::unavailable("error trying to connect"));
        assert!(gone.contains("the server went away"), "{gone}");
        for reason in ["RECOVERING", "STORAGE_POISONED"] {
            let details =
                ErrorDetails::with_error_info(reason, "hindcast", std::collections::HashMap::new());
            let code = Code::Unavailable;
            let refused = report(Status::with_error_details(code, "not now", details));
            assert_eq!(refused, format!("error: not now [{reason}]"));
        }
    }

    #[test]
    fn a_refused_batch_names_the_line_of_the_file() {
        assert_eq!(
            name_line("mutations[1].put.valid_to", &[4, 7]),
            "line 7, put.valid_to"
        );
        assert_eq!(name_line("mutations[0]", &[4, 7]), "line 4");
        assert_eq!(name_line("batch.mutations[0].put", &[4, 7]), "line 4, put");
        assert_eq!(name_line("mutations[9].put", &[4, 7]), "mutations[9].put");
        assert_eq!(name_line("request_id", &[4, 7]), "request_id");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = Error::Output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((error.exit_code(), error.report()), (0, None));
    }
}
