//! Permits in hand.

use std::{sync::Arc, time::Duration};

use super::{gate::Grant, live::Live};

/// Permits that were granted. Dropping them frees their places among the concurrent calls; the calls themselves count as
/// made, unless they are given back.
#[derive(Debug)]
pub struct Permits {
    live: Arc<Live>,
    grant: Grant,
    /// Those that were neither given back nor released.
    held: u32,
    waited: Duration,
}

impl Permits {
    pub(super) fn new(live: Arc<Live>, grant: Grant, waited: Duration) -> Self {
        Self {
            live,
            held: grant.permits,
            grant,
            waited,
        }
    }

    /// How many are in hand.
    pub fn count(&self) -> u32 {
        self.held
    }

    /// Whether their limit counts calls under way.
    pub fn count_as_concurrent(&self) -> bool {
        self.live.limit().spec.concurrent.is_some()
    }

    /// How long they were waited for.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Gives back `permits` that were not used: they count as never granted, in every quota. How many there were to give.
    pub fn give_back(&mut self, permits: u32) -> u32 {
        let permits = permits.min(self.held);
        if permits > 0 {
            self.held -= permits;
            self.live.put_back(&self.grant, permits);
        }
        permits
    }

    /// `permits` calls are over: their places are free. How many there were.
    pub fn release(&mut self, permits: u32) -> u32 {
        let permits = permits.min(self.held);
        if permits > 0 {
            self.held -= permits;
            self.live.done(self.grant.class, permits);
        }
        permits
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.release(self.held);
    }
}
