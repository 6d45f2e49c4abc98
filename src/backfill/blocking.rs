//! Calls that block, off the reactor.

use super::Result;
use crate::{engine, server::place};

/// Runs `work` on a thread that may block; it keeps the call's place, if it is done for one. A panic in it is an error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let place = place::own();
    let working = move || {
        let _place = place;
        work()
    };
    match tokio::task::spawn_blocking(working).await {
        Ok(outcome) => outcome,
        Err(error) => Err(engine::Error::Broken {
            cause: error.to_string(),
        }
        .into()),
    }
}
