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
//! - [`Gate`]: what is needed of rate limits.
//!
//! Invariants: a question about an instant at or after the partition's end is refused before it gets here (`PT-1`, in
//! `engine`); all attempts of a partition get the same answers (`PT-2`), because they are kept before they are used, and
//! those that were there when the backfill was created are preferred.

mod address;
mod client;
mod column;
mod definition;
mod error;
mod gate;
mod memory;
mod meter;
mod refusal;
mod run;
mod secret;
mod template;

use std::sync::Arc;

pub use definition::Definition;
pub use error::Error;
pub use gate::{Gate, Permit, Told};
pub use memory::{DeclareError, declare};
pub use meter::{CallCounts, CallMeter, Wait};
pub use refusal::{Fault, Refused};
pub use run::{CallRun, CallWork, Question};
pub use secret::Secrets;

use crate::{ids::IdSource, store::Store, telemetry::CallMetrics, time::Clock};

/// What calls are made with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls {
    store: Store,
    gate: Arc<dyn Gate>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    http: Arc<client::Http>,
    metrics: CallMetrics,
}

impl Calls {
    /// Calls that keep their answers in `store`.
    pub fn new(
        store: Store,
        gate: Arc<dyn Gate>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        secrets: Secrets,
    ) -> Self {
        Self {
            store,
            gate,
            clock,
            ids,
            http: Arc::new(client::Http::new(secrets)),
            metrics: CallMetrics::default(),
        }
    }

    /// The rate limits.
    pub fn gate(&self) -> &Arc<dyn Gate> {
        &self.gate
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
