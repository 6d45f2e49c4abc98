//! What calls need of rate limits.

use async_trait::async_trait;

use super::Error;
use crate::{
    error::{Classify, ErrorKind},
    limits::{Acquire, Class, Limits, Outcome},
};

/// What became of a request, for the limit that it took a permit of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was answered.
    Answered,
    /// The outside system asks for fewer requests.
    Throttled {
        /// When it wants to be asked again, if it says so.
        retry_after: Option<std::time::Duration>,
    },
}

/// A permit: giving it up frees its place.
pub type Permit = Box<dyn Send>;

/// Rate limits, as calls use them.
#[async_trait]
pub trait RateLimiter: Send + Sync + std::fmt::Debug + 'static {
    /// Whether there is a limit of this name.
    fn exists(&self, limit: &str) -> bool;

    /// Waits for one permit of `limit`, for `call` of the backfill `client`. A caller that is dropped leaves the queue.
    ///
    /// # Errors
    /// [`Error::Limit`]: there is no such limit any more, or it cannot be asked.
    async fn enter(&self, call: &str, limit: &str, client: &str) -> Result<Permit, Error>;

    /// Tells the limit what became of a request.
    fn told(&self, limit: &str, told: Told);
}

#[async_trait]
impl RateLimiter for Limits {
    fn exists(&self, limit: &str) -> bool {
        self.get(limit).is_ok()
    }

    async fn enter(&self, call: &str, limit: &str, client: &str) -> Result<Permit, Error> {
        let request = Acquire::new(limit, 1, Class::Backfill, client);
        match self.acquire(request).await {
            Ok(permits) => Ok(Box::new(permits)),
            Err(error) => Err(Error::Limit {
                call: call.to_owned(),
                problem: error.to_string(),
                retryable: matches!(
                    error.kind(),
                    ErrorKind::Exhausted { .. } | ErrorKind::Unavailable | ErrorKind::Cancelled
                ),
            }),
        }
    }

    fn told(&self, limit: &str, told: Told) {
        let outcome = match told {
            Told::Answered => Outcome::Success,
            Told::Throttled { retry_after } => Outcome::Throttled { retry_after },
        };
        // A limit that was deleted meanwhile has nothing to learn.
        let _ = self.report(limit, outcome);
    }
}
