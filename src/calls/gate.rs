//! What calls need of rate limits.

use async_trait::async_trait;

use super::Error;

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
pub trait Gate: Send + Sync + std::fmt::Debug + 'static {
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

/// No rate limits: nothing can be called.
#[derive(Debug, Clone, Copy)]
pub struct NoLimits;

#[async_trait]
impl Gate for NoLimits {
    fn exists(&self, _limit: &str) -> bool {
        false
    }

    async fn enter(&self, call: &str, limit: &str, _client: &str) -> Result<Permit, Error> {
        Err(Error::Limit {
            call: call.to_owned(),
            limit: limit.to_owned(),
            problem: "it does not exist".to_owned(),
            retryable: false,
        })
    }

    fn told(&self, _limit: &str, _told: Told) {}
}
