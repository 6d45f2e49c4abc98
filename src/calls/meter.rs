//! What the calls of one attempt came to.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::time::Clock;

/// What the calls of one attempt came to, also while it runs.
#[derive(Debug, Default)]
pub struct CallMeter {
    requests: AtomicU64,
    answers: AtomicU64,
    hashes: RandomState,
    /// Hashes of the answers that were there already.
    remembered: Mutex<HashSet<u64>>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Calls that wait now.
    count: u64,
    /// Since when at least one waits, in the clock's monotonic microseconds.
    since_micros: i64,
    /// What has been waited before that.
    total_micros: i64,
    /// What the latest of them waits for.
    limit: Arc<str>,
}

/// A wait that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The rate limit.
    pub limit: Arc<str>,
    /// How long it has gone on.
    pub micros: u64,
}

/// What calls came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct CallCounts {
    /// Requests that were sent, those that were sent again included.
    pub requests: u64,
    /// Answers that were asked for.
    pub answers: u64,
    /// Answers that were there already.
    pub remembered: u64,
    /// Time in which at least one call waited: for a permit, to be tried again, or for an answer that another asks for.
    pub waited_micros: u64,
}

impl CallCounts {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CallMeter {
    pub(super) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer was there already; each id counts once.
    pub(super) fn remembered(&self, entity_type: &str, id: &str) {
        let hash = self.hashes.hash_one((entity_type, id));
        self.remembered.lock().insert(hash);
    }

    /// Notes a wait for as long as what it gives lives.
    pub(super) fn wait(self: &Arc<Self>, clock: &Arc<dyn Clock>, limit: &str) -> WaitGuard {
        let mut waiting = self.waiting.lock();
        if waiting.count == 0 {
            waiting.since_micros = clock.monotonic_micros();
        }
        waiting.count += 1;
        waiting.limit = limit.into();
        WaitGuard {
            meter: Arc::clone(self),
            clock: Arc::clone(clock),
        }
    }

    /// Time in which at least one call waited, up to now.
    pub fn waited_micros(&self, clock: &dyn Clock) -> u64 {
        let waiting = self.waiting.lock();
        let mut total = waiting.total_micros;
        if waiting.count > 0 {
            total += clock.monotonic_micros() - waiting.since_micros;
        }
        u64::try_from(total).unwrap_or(0)
    }

    /// The wait that is under way.
    pub fn current_wait(&self, clock: &dyn Clock) -> Option<Wait> {
        let waiting = self.waiting.lock();
        (waiting.count > 0).then(|| Wait {
            limit: Arc::clone(&waiting.limit),
            micros: u64::try_from(clock.monotonic_micros() - waiting.since_micros).unwrap_or(0),
        })
    }

    /// What they came to so far.
    pub fn counts(&self, clock: &dyn Clock) -> CallCounts {
        CallCounts {
            requests: self.requests.load(Ordering::Relaxed),
            answers: self.answers.load(Ordering::Relaxed),
            remembered: self.remembered.lock().len() as u64,
            waited_micros: self.waited_micros(clock),
        }
    }
}

/// A wait that is under way.
pub(super) struct WaitGuard {
    meter: Arc<CallMeter>,
    clock: Arc<dyn Clock>,
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        let mut waiting = self.meter.waiting.lock();
        waiting.count -= 1;
        if waiting.count == 0 {
            waiting.total_micros += self.clock.monotonic_micros() - waiting.since_micros;
        }
    }
}
