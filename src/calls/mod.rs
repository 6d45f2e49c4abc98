//! External calls: what a transform's SQL asks of outside systems.
//!
//! A call is a URL template in a transform's definition, and a function in its SQL. Every request takes a permit of a rate
//! limit first. An answer is kept as a version of an entity type before it is used, so that whatever happens then, nobody
//! asks for it again.
//!
//! - `template`, `secret`, `column`, [`Definition`]: a definition, and what is wrong with it ([`Refused`]). Pure, but for
//!   secrets, which are looked up for each request and live no longer than it.
//! - `address`, `client`: one request.
//! - `memory`: answers that are kept.
//! - [`CallRun`]: asking on behalf of one attempt; [`CallMeter`]: what that came to.
//! - `under_way`: questions that are being asked: whoever asks the same waits for that answer.
//! - [`RateLimiter`]: what is needed of rate limits.
//!
//! Invariants: a question about an instant at or after the partition's end is refused before it gets here (`PT-1`, in
//! `engine`); all attempts of a partition get the same answers (`PT-2`), because they are kept before they are used, and
//! those that were there when the backfill was created are preferred.

mod address;
mod client;
mod column;
mod definition;
mod error;
mod memory;
mod meter;
mod rate_limiter;
mod refusal;
mod run;
mod secret;
mod template;
mod under_way;

use std::sync::Arc;

pub use definition::Definition;
pub use error::Error;
pub use memory::{DeclareError, declare};
pub use meter::{CallCounts, CallMeter, Wait};
pub use rate_limiter::{Permit, RateLimiter, Told};
pub use refusal::{Fault, Refused};
pub use run::{CallRun, CallWork, Question};
pub use secret::Secrets;

use crate::{ids::IdSource, store::Store, telemetry::CallMetrics, time::Clock};

/// What calls are made with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls {
    store: Store,
    limiter: Arc<dyn RateLimiter>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    http: Arc<client::Http>,
    metrics: CallMetrics,
    under_way: under_way::UnderWay,
}

impl Calls {
    /// Calls that keep their answers in `store`.
    pub fn new(
        store: Store,
        limiter: Arc<dyn RateLimiter>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        secrets: Secrets,
    ) -> Self {
        Self {
            store,
            limiter,
            clock,
            ids,
            http: Arc::new(client::Http::new(secrets)),
            metrics: CallMetrics::default(),
            under_way: under_way::UnderWay::default(),
        }
    }

    /// The rate limits.
    pub fn limiter(&self) -> &Arc<dyn RateLimiter> {
        &self.limiter
    }

    /// What the requests of all attempts came to.
    pub fn metrics(&self) -> &CallMetrics {
        &self.metrics
    }

    /// Calls on behalf of one attempt.
    pub fn run(&self, work: CallWork) -> CallRun {
        CallRun {
            calls: self.clone(),
            work,
        }
    }
}
