//! What one client, or all of them together, may ask for: rates, and how many calls are open at once.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter, clock::Clock as _, middleware::NoOpMiddleware, nanos::Nanos,
    state::keyed::HashMapStateStore,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    listen::Peer,
    methods::{Class, Method},
};
use crate::{
    auth::Principal,
    error::{Classify, ErrorKind},
    time::Clock,
};

/// When a client that was turned away by a full server may try again.
const BUSY_RETRY: Duration = Duration::from_millis(500);
/// Streams of health that are open at once. Anybody may open them, without a token.
pub const MAX_HEALTH_STREAMS: usize = 256;
/// Clients and methods beyond which those that were quiet are forgotten.
const REMEMBERED: usize = 16_384;

/// How a server protects itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// Calls per second of one client to one method; `None`: no limit.
    pub client_rate: Option<NonZeroU32>,
    /// Calls that may come at once after a pause; `None`: as many as the rate.
    pub client_burst: Option<NonZeroU32>,
    /// Calls with one answer that are open at once.
    pub max_unary_calls: usize,
    /// Bulk streams that are open at once. Each has a thread that may block, of which there are 512: the rest is for the
    /// others.
    pub max_bulk_streams: usize,
    /// Streams that mostly wait, open at once.
    pub max_watch_streams: usize,
    /// Connections that are open at once.
    pub max_connections: usize,
    /// Calls that are open at once on one connection.
    pub max_streams_per_connection: u32,
    /// How long a connection may take until its client has shaken hands and said its first words.
    pub handshake_timeout: Duration,
    /// How often a connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may go unanswered.
    pub keepalive_timeout: Duration,
}

impl Default for Protection {
    fn default() -> Self {
        Self {
            client_rate: None,
            client_burst: None,
            max_unary_calls: 4_096,
            max_bulk_streams: 256,
            max_watch_streams: 16_384,
            max_connections: 10_000,
            max_streams_per_connection: 200,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// Why a call is turned away. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// The client calls this method more often than it may.
    #[error("cannot call {method}: {client} may do so {rate} times per second")]
    TooOften {
        /// The path.
        method: String,
        /// The client, for people.
        client: String,
        /// The limit.
        rate: NonZeroU32,
        /// When the next call is let in.
        retry_after: Duration,
    },
    /// As many calls of this class are open as may be.
    #[error("cannot call {method}: {open} calls of its kind are open, the most that may be")]
    Busy {
        /// The path.
        method: String,
        /// The limit.
        open: usize,
    },
    /// The client's deadline passed.
    #[error("cannot finish {method}: the client's deadline of {deadline:?} has passed")]
    Deadline {
        /// The path.
        method: String,
        /// As the client gave it.
        deadline: Duration,
    },
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooOften { retry_after, .. } => ErrorKind::Exhausted {
                retry_after: *retry_after,
            },
            Self::Busy { .. } => ErrorKind::Exhausted {
                retry_after: BUSY_RETRY,
            },
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooOften { .. } => "CLIENT_RATE_LIMITED",
            Self::Busy { .. } => "SERVER_BUSY",
            Self::Deadline { .. } => "DEADLINE_PASSED",
        }
    }
}

/// Who a rate limit goes by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
    Token(Arc<str>),
    Address(Option<IpAddr>),
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(name) => write!(f, "token {name:?}"),
            Self::Address(Some(address)) => write!(f, "{address}"),
            Self::Address(None) => f.write_str("this client"),
        }
    }
}

/// The house's clock, as governor has it.
#[derive(Debug, Clone)]
struct Ticks(Arc<dyn Clock>);

impl governor::clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let micros = u64::try_from(self.0.monotonic_micros()).unwrap_or(0);
        Nanos::from(micros.saturating_mul(1_000))
    }
}

type Key = (Client, &'static str);
type Rates = RateLimiter<Key, HashMapStateStore<Key>, Ticks, NoOpMiddleware<Nanos>>;

/// Lets calls in, or turns them away at once: nobody waits here.
pub(super) struct Admission {
    rates: Option<(NonZeroU32, Rates)>,
    ticks: Ticks,
    unary: Room,
    bulk: Room,
    watch: Room,
    health: Room,
}

struct Room {
    size: usize,
    free: Arc<Semaphore>,
}

impl Room {
    fn new(size: usize) -> Self {
        Self {
            size,
            free: Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS))),
        }
    }
}

impl Admission {
    pub(super) fn new(protection: &Protection, clock: Arc<dyn Clock>) -> Self {
        let ticks = Ticks(clock);
        let rates = protection.client_rate.map(|rate| {
            let burst = protection.client_burst.unwrap_or(rate);
            let quota = Quota::per_second(rate).allow_burst(burst);
            let store = HashMapStateStore::default();
            (rate, RateLimiter::new(quota, store, ticks.clone()))
        });
        Self {
            rates,
            ticks,
            unary: Room::new(protection.max_unary_calls),
            bulk: Room::new(protection.max_bulk_streams),
            watch: Room::new(protection.max_watch_streams),
            health: Room::new(MAX_HEALTH_STREAMS),
        }
    }

    /// Lets a call in; its place is free again when what is given is dropped.
    pub(super) fn admit(
        &self,
        method: &'static Method,
        principal: &Principal,
        peer: Option<&Peer>,
    ) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let room = match method.class {
            Class::Free => return Ok(None),
            Class::Unary => &self.unary,
            Class::Bulk => &self.bulk,
            Class::Watch => &self.watch,
            Class::Health => &self.health,
        };
        self.check_rate(method, principal, peer)?;
        let permit = Arc::clone(&room.free).try_acquire_owned();
        permit.map(Some).map_err(|_| Error::Busy {
            method: method.path.to_owned(),
            open: room.size,
        })
    }

    fn check_rate(
        &self,
        method: &'static Method,
        principal: &Principal,
        peer: Option<&Peer>,
    ) -> Result<(), Error> {
        let Some((rate, rates)) = &self.rates else {
            return Ok(());
        };
        let client = principal.name.as_ref().map_or_else(
            || Client::Address(peer.map(|peer| peer.address.ip())),
            |name| Client::Token(Arc::clone(name)),
        );
        let key = (client, method.path);
        let Err(not_until) = rates.check_key(&key) else {
            if rates.len() > REMEMBERED {
                rates.retain_recent();
            }
            return Ok(());
        };
        Err(Error::TooOften {
            method: method.path.to_owned(),
            client: key.0.to_string(),
            rate: *rate,
            retry_after: not_until.wait_time_from(self.ticks.now()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::Role, server::methods, time::SystemClock};

    const READ: &str = "/hindcast.v1.EntityStoreService/GetEntity";
    const SCAN: &str = "/hindcast.v1.EntityStoreService/ScanEntities";
    const WATCH: &str = "/hindcast.v1.BackfillService/WatchBackfill";
    const HEALTH: &str = "/grpc.health.v1.Health/Check";

    fn principal(name: &str) -> Principal {
        Principal {
            name: Some(name.into()),
            role: Role::Reader,
        }
    }

    fn admit(
        admission: &Admission,
        path: &str,
        name: &str,
    ) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let method = methods::find(path).expect("a method");
        admission.admit(method, &principal(name), None)
    }

    #[test]
    fn a_full_class_leaves_the_others_their_room() {
        let protection = Protection {
            max_unary_calls: 1,
            max_bulk_streams: 1,
            max_watch_streams: 1,
            ..Protection::default()
        };
        let admission = Admission::new(&protection, SystemClock::shared());
        let scan = admit(&admission, SCAN, "a").expect("let in");
        let refused = admit(&admission, SCAN, "b").expect_err("full");
        assert_eq!(refused.reason(), "SERVER_BUSY");
        let _watch = admit(&admission, WATCH, "a").expect("a class of its own");
        let _read = admit(&admission, READ, "a").expect("a class of its own");
        for _ in 0..100 {
            assert!(admit(&admission, HEALTH, "a").expect("always").is_none());
        }
        drop(scan);
        admit(&admission, SCAN, "b").expect("there is room again");
    }

    #[test]
    fn a_rate_holds_for_each_client_and_method() {
        let protection = Protection {
            client_rate: NonZeroU32::new(1),
            client_burst: NonZeroU32::new(3),
            ..Protection::default()
        };
        let admission = Admission::new(&protection, SystemClock::shared());
        for _ in 0..3 {
            admit(&admission, READ, "a").expect("within the burst");
        }
        let refused = admit(&admission, READ, "a").expect_err("beyond it");
        let ErrorKind::Exhausted { retry_after } = refused.kind() else {
            panic!("{refused}");
        };
        assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(1));
        admit(&admission, READ, "b").expect("another client");
        admit(&admission, SCAN, "a").expect("another method");
    }
}
