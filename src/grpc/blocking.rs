//! Calls that block, off the reactor.

use tonic::Status;

use super::status::to_status;
use crate::{engine, error::Classify, server::place};

/// Runs `work` on a thread that may block; it keeps the call's place. A panic in it is a fault of ours.
pub(super) async fn blocking<T: Send + 'static, E: Classify + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Status> {
    let place = place::own();
    let working = move || {
        let _place = place;
        work()
    };
    match tokio::task::spawn_blocking(working).await {
        Ok(outcome) => outcome.map_err(|error| to_status(&error)),
        Err(error) => Err(to_status(&engine::Error::Broken {
            cause: error.to_string(),
        })),
    }
}
