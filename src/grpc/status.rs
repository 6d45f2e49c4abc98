//! Errors to `Status`: the only place that makes one.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Classify, ErrorKind};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "hindcast.dev";

/// The status of an error: always with `ErrorInfo`, with `BadRequest`, `ResourceInfo` and `RetryInfo` where they apply.
///
/// What the caller cannot act on (`Internal`, `DataLoss`) is told in general terms; its causes go to the log, here.
pub fn to_status(error: &impl Classify) -> Status {
    let kind = error.kind();
    let mut details =
        ErrorDetails::with_error_info(error.reason(), DOMAIN, HashMap::<String, String>::new());
    for violation in error.violations() {
        details.add_bad_request_violation(violation.field, violation.problem);
    }
    if let Some((resource_type, name)) = error.resource() {
        details.set_resource_info(resource_type, name, "", "");
    }
    if let ErrorKind::Exhausted { retry_after } = kind {
        details.set_retry_info(Some(retry_after));
    }
    Status::with_error_details(code(kind), message(error, kind), details)
}

fn message(error: &impl Classify, kind: ErrorKind) -> String {
    match kind {
        ErrorKind::DataLoss => {
            log_causes(error);
            "stored data is damaged; the server's log says where".to_owned()
        }
        ErrorKind::Internal => {
            log_causes(error);
            "internal error; the server's log says more".to_owned()
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

fn log_causes(error: &impl Classify) {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    tracing::error!(
        reason = error.reason(),
        causes = causes.join(": "),
        "a request failed"
    );
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
