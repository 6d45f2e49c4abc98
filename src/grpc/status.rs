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

/// `error` as the wire shows it.
pub fn to_status(error: &impl Classify) -> Status {
    let kind = error.kind();
    let mut details = ErrorDetails::new();
    let mut metadata = HashMap::new();
    if let Some((resource_type, name)) = error.resource() {
        metadata.insert("resource_type".to_owned(), resource_type.to_owned());
        metadata.insert("resource_name".to_owned(), name.clone());
        details.set_resource_info(resource_type, name, "", error.to_string());
    }
    details.set_error_info(error.reason(), DOMAIN, metadata);
    let violations = error.violations();
    if !violations.is_empty() {
        let fields = violations
            .into_iter()
            .map(|violation| FieldViolation::new(violation.field, violation.problem))
            .collect::<Vec<_>>();
        details.set_bad_request(fields);
    }
    if kind == ErrorKind::FailedPrecondition {
        details.add_precondition_failure_violation(error.reason(), "", error.to_string());
    }
    if let ErrorKind::Exhausted { retry_after } = kind {
        details.set_retry_info(Some(retry_after));
    }
    Status::with_error_details(code(kind), public_text(error, kind), details)
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
        | ErrorKind::Cancelled => error.to_string(),
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
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}
