//! Calls that block, off the reactor.

use super::Result;
use crate::engine;

/// Runs `work` on a thread that may block. A panic in it is an error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(engine::Error::Broken {
            cause: error.to_string(),
        }
        .into()),
    }
}
