//! The only home of "now". Everything else takes a [`Clock`].

#![expect(
    clippy::disallowed_methods,
    reason = "the one place that may read the clocks that the lint forbids elsewhere"
)]

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::Utc;

/// A source of "now" and of waiting.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Microseconds since the Unix epoch. May step backwards: nothing may rely on its order.
    fn now_micros(&self) -> i64;

    /// Microseconds since an arbitrary start; never steps backwards. For durations.
    fn monotonic_micros(&self) -> i64;

    /// Ends after `duration` of real time.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// The machine's clock, shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self {
            start: std::time::Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        Utc::now().timestamp_micros()
    }

    fn monotonic_micros(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock whose date stands where a test puts it. Durations and waiting are real.
#[derive(Debug)]
pub struct ManualClock {
    now_micros: AtomicI64,
    start: std::time::Instant,
}

impl ManualClock {
    /// A clock that stands at `micros` since the Unix epoch.
    pub fn starting_at(micros: i64) -> Arc<Self> {
        Arc::new(Self {
            now_micros: AtomicI64::new(micros),
            start: std::time::Instant::now(),
        })
    }

    /// Moves the clock, backwards too.
    pub fn set(&self, micros: i64) {
        self.now_micros.store(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.now_micros.load(Ordering::SeqCst)
    }

    fn monotonic_micros(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}
