//! The one place that turns errors into `Status`.
//!
//! Every status carries `ErrorInfo` with a stable reason. Faults of ours show a generic text; their cause goes to the log,
//! once, here.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::{Classify, ErrorKind};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "hindcast.dev";

/// Bytes of a text about the whole error, and of one about a part of it. A status travels in HTTP headers, of which clients
/// take 8 to 16 KiB in all; a longer one reaches them as another error, without code and reason.
const MAX_TEXT_BYTES: usize = 1_024;
const MAX_PART_BYTES: usize = 256;
/// Fields that are named at most.
const MAX_FIELDS: usize = 8;

/// `error` as the wire shows it.
pub fn to_status(error: &impl Classify) -> Status {
    let kind = error.kind();
    let mut details = ErrorDetails::new();
    let mut metadata = HashMap::new();
    if let Some((resource_type, name)) = error.resource() {
        metadata.insert("resource_type".to_owned(), resource_type.to_owned());
        let name = bounded(name, MAX_PART_BYTES);
        metadata.insert("resource_name".to_owned(), name.clone());
        let description = bounded(error.to_string(), MAX_PART_BYTES);
        details.set_resource_info(resource_type, name, "", description);
    }
    details.set_error_info(error.reason(), DOMAIN, metadata);
    let violations = error.violations();
    if !violations.is_empty() {
        let fields = violations
            .into_iter()
            .take(MAX_FIELDS)
            .map(|violation| {
                let field = bounded(violation.field, MAX_PART_BYTES);
                FieldViolation::new(field, bounded(violation.problem, MAX_PART_BYTES))
            })
            .collect::<Vec<_>>();
        details.set_bad_request(fields);
    }
    if kind == ErrorKind::FailedPrecondition {
        let description = bounded(error.to_string(), MAX_PART_BYTES);
        details.add_precondition_failure_violation(error.reason(), "", description);
    }
    if let ErrorKind::Exhausted { retry_after } = kind {
        details.set_retry_info(Some(retry_after));
    } else if let Some(retry_after) = error.retry_after() {
        details.set_retry_info(Some(retry_after));
    }
    let text = bounded(public_text(error, kind), MAX_TEXT_BYTES);
    Status::with_error_details(code(kind), text, details)
}

/// `text`, cut to at most `max_bytes` with an ellipsis where it is longer.
fn bounded(mut text: String, max_bytes: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() > max_bytes {
        let cut = text.floor_char_boundary(max_bytes - ELLIPSIS.len());
        text.truncate(cut);
        text.push_str(ELLIPSIS);
    }
    text
}

fn public_text(error: &impl Classify, kind: ErrorKind) -> String {
    match kind {
        ErrorKind::Internal => {
            log_fault(error);
            "internal error; the server's log says more".to_owned()
        }
        ErrorKind::DataLoss => {
            log_fault(error);
            "stored data is damaged; the server's log says more".to_owned()
        }
        ErrorKind::InvalidArgument
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::FailedPrecondition
        | ErrorKind::Conflict
        | ErrorKind::OutOfRange
        | ErrorKind::Exhausted { .. }
        | ErrorKind::Unavailable
        | ErrorKind::Unauthenticated
        | ErrorKind::Denied
        | ErrorKind::Cancelled
        | ErrorKind::DeadlineExceeded => error.to_string(),
    }
}

fn log_fault(error: &impl Classify) {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        chain.push_str(": ");
        chain.push_str(&current.to_string());
        cause = current.source();
    }
    tracing::error!(reason = error.reason(), error = %chain, "a request failed by a fault of ours");
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Exhausted { .. } => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}
