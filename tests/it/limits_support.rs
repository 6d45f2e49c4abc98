//! What the tests of rate limits share: a clock that is stepped by hand, and a server's client.

use std::{
    collections::BinaryHeap,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hindcast::{
    pb::{self, rate_limit_service_client::RateLimitServiceClient},
    time::Clock,
};
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::support::Service;

/// A clock on which time passes only when it is told to: sleepers wake in order, each at its own instant.
#[derive(Debug)]
pub(crate) struct SteppedClock {
    state: Mutex<Steps>,
}

#[derive(Debug, Default)]
struct Steps {
    wall_micros: i64,
    monotonic_micros: i64,
    sleepers: BinaryHeap<Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    until: i64,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}
impl Eq for Sleeper {}
impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Sleeper {
    /// The earliest is the greatest: the heap gives it first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.until.cmp(&self.until)
    }
}

impl SteppedClock {
    pub(crate) fn starting_at(wall_micros: i64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Steps {
                wall_micros,
                monotonic_micros: 1_000_000,
                sleepers: BinaryHeap::new(),
            }),
        })
    }

    /// Lets `duration` pass, stopping wherever someone wakes until everyone has done what it woke for.
    pub(crate) async fn pass(&self, duration: Duration) {
        let end = self.monotonic_micros() + i64::try_from(duration.as_micros()).expect("short");
        loop {
            settle().await;
            let woken = {
                let mut state = self.state.lock().expect("whole");
                let next = state.sleepers.peek().map_or(end, |it| it.until.min(end));
                let step = (next - state.monotonic_micros).max(0);
                state.monotonic_micros += step;
                state.wall_micros += step;
                let is_due = state.sleepers.peek().is_some_and(|it| it.until <= next);
                if is_due { state.sleepers.pop() } else { None }
            };
            match woken {
                // Whoever slept may have gone away.
                Some(sleeper) => drop(sleeper.wake.send(())),
                None => return settle().await,
            }
        }
    }
}

/// Lets every task that can run do so. Writes go to threads of their own: those are waited for by what they lead to.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

impl Clock for SteppedClock {
    fn now_micros(&self) -> i64 {
        self.state.lock().expect("whole").wall_micros
    }

    fn monotonic_micros(&self) -> i64 {
        self.state.lock().expect("whole").monotonic_micros
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut state = self.state.lock().expect("whole");
        let micros = i64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(i64::MAX);
        if micros == 0 {
            return Box::pin(std::future::ready(()));
        }
        let (wake, woken) = oneshot::channel();
        let until = state.monotonic_micros.saturating_add(micros);
        state.sleepers.push(Sleeper { until, wake });
        Box::pin(async {
            // A clock that has gone away wakes nobody.
            if woken.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// A client of the service's rate limits.
pub(crate) async fn client(service: &Service) -> RateLimitServiceClient<Channel> {
    RateLimitServiceClient::connect(service.url())
        .await
        .expect("connects")
}

/// A rate limit of so many permits a second.
pub(crate) fn per_second(name: &str, permits: u32, burst: u32) -> pb::RateLimit {
    pb::RateLimit {
        name: name.to_owned(),
        rate: Some(pb::PermitRate { permits, per: None }),
        burst: Some(burst),
        ..Default::default()
    }
}

/// Creates a rate limit that must be new.
pub(crate) async fn create(limits: &mut RateLimitServiceClient<Channel>, limit: pb::RateLimit) {
    let request = pb::CreateRateLimitRequest {
        rate_limit: Some(limit),
    };
    let created = limits.create_rate_limit(request).await.expect("created");
    assert!(created.into_inner().created);
}

/// A request of a live caller for `permits` of `limit`.
pub(crate) fn ask(limit: &str, permits: u32) -> pb::AcquirePermitsRequest {
    pb::AcquirePermitsRequest {
        limit: limit.to_owned(),
        permits,
        caller_class: pb::CallerClass::Live.into(),
        ..Default::default()
    }
}
