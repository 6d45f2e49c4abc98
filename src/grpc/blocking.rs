//! Calls that block, off the reactor.

use tonic::Status;

use super::status::to_status;
use crate::{engine, error::Classify};

/// Runs `work` on a thread that may block. A panic in it is a fault of ours.
pub(super) async fn blocking<T: Send + 'static, E: Classify + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| to_status(&error)),
        Err(error) => Err(to_status(&engine::Error::Broken {
            cause: error.to_string(),
        })),
    }
}
