//! Rate limits: how fast, how many at once and how many a day the outside systems may be called, by whoever calls them.
//!
//! Promises `RL-1`: in any window of time, granted permits are at most what the limit allows, over changes of the limit,
//! throttled answers, restarts and `kill -9`; and nothing starves while permits remain. Who is next, how many, and when is
//! pure (`gate` and what it is made of); `live` waits, locks and writes. How calls are made is left to others.
//!
//! - **Rate and burst** count on the monotonic clock. The burst counts as used up when a server starts: what an earlier one
//!   granted just before is not known.
//! - **Hours and dates** go by the calendar of a time zone and survive a restart; permits are set aside in lots and written
//!   down before they are granted (see `window`), so a crash loses at most two lots and what the request being served asked
//!   for, and never grants a permit twice.
//! - **Concurrent calls** of this process end with it. Those of callers that take permits from outside may outlive it, and are
//!   not counted any more after a restart.
//!
//! **Source**: GCRA, ITU-T I.371, by the governor crate; additive increase and multiplicative decrease, Chiu and Jain 1989.

mod backoff;
mod bucket;
mod error;
mod gate;
mod journal;
mod leases;
mod live;
mod metrics;
mod model;
mod permits;
mod queue;
mod window;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use backoff::MAX_RETRY_AFTER;
pub use error::{Error, Quota};
pub use leases::{DEFAULT_HOLD, Leases, MAX_HOLD};
pub use live::MAX_WAITERS;
pub use model::{
    Acquire, ByClass, Class, DEFAULT_BURST_TIME, LimitSpec, LimitStatus, MAX_CLIENT_BYTES,
    MAX_CONCURRENT, MAX_DESCRIPTION_BYTES, MAX_LIVE_SHARE_PERCENT, MAX_PERIOD,
    MAX_PERMITS_PER_SECOND, MAX_WINDOW_PERMITS, Outcome, Rate, RateLimit, WindowQuota,
    WindowStatus,
};
pub use permits::Permits;

use self::{
    gate::Histories,
    journal::Journal,
    live::{Live, Shared},
};
use crate::{
    kv::Database,
    time::{Clock, Grain},
};

/// Counts of deleted limits that ended longer ago than this are removed.
const MEMORY: Duration = Duration::from_secs(49 * 3_600);

/// Names of limits that were deleted and whose counts are remembered.
type Deleted = HashSet<String>;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// All rate limits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Limits {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    limits: RwLock<BTreeMap<String, Arc<Live>>>,
    /// Held over a change of any limit and its write, so that changes come one after the other. Never over an await.
    changing: Mutex<Deleted>,
    stopping: CancellationToken,
}

impl Limits {
    /// Reads all limits and what their hours and dates have used up. Blocks. Timers run on the runtime that this is called
    /// on; if there is none, on that of the first caller who waits.
    ///
    /// # Errors
    /// Storage faults; a limit that cannot be read is data loss.
    pub fn open(database: &Database, clock: Arc<dyn Clock>) -> Result<Self> {
        let journal = Journal::open(database)?;
        let mut histories = journal.histories()?;
        let statements = journal.limits()?;
        let runtime = OnceLock::new();
        if let Ok(handle) = Handle::try_current() {
            runtime.get_or_init(|| handle);
        }
        let shared = Arc::new(Shared {
            clock,
            journal,
            runtime,
        });
        let mut limits = BTreeMap::new();
        for limit in statements {
            let counted = histories.remove(&limit.spec.name).unwrap_or_default();
            let name = limit.spec.name.clone();
            let is_stated = |grain: Grain| limit.spec.quota_of(grain).is_some();
            let is_left_over = counted.iter().any(|(grain, _)| !is_stated(*grain));
            let live = Live::new(&shared, limit, &counted, true);
            if is_left_over {
                // A kill came between a change of the statement and that of its counts.
                live.rewrite()?;
            }
            limits.insert(name, live);
        }
        // What is left was counted of limits that were deleted.
        for (name, counted) in &histories {
            shared.forget_if_old(name, counted)?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                limits: RwLock::new(limits),
                changing: Mutex::new(histories.into_keys().collect()),
                stopping: CancellationToken::new(),
            }),
        })
    }

    /// Waits for permits. Dropping the future gives up the place and takes nothing.
    ///
    /// **Cost**: about a microsecond when nobody waits. The first permits of a lot of an hour's or a day's quota wait for
    /// the disk.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when the limit is deleted meanwhile; [`Error::NoPermits`]; [`Error::TooMany`], which says the
    /// most that can be had; [`Error::NotInTime`]; [`Error::TooManyWaiters`]; [`Error::Stopping`]; storage faults.
    pub async fn acquire(&self, request: Acquire) -> Result<Permits> {
        if request.client.len() > MAX_CLIENT_BYTES {
            return Err(Error::ClientTooLong {
                size_bytes: request.client.len(),
            });
        }
        self.live(&request.limit)?.acquire(&request).await
    }

    /// Takes in what the outside system said to a call: throttled answers slow the limit down, success lets it recover.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn report(&self, limit: &str, outcome: Outcome) -> Result<()> {
        self.live(limit)?.report(outcome);
        Ok(())
    }

    /// How long a request that comes now would wait, as things stand.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn expected_wait(&self, limit: &str, class: Class, permits: u32) -> Result<Duration> {
        Ok(self.live(limit)?.expected_wait(class, permits))
    }

    /// The limit of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, name: &str) -> Result<RateLimit> {
        Ok(self.live(name)?.limit())
    }

    /// How the limit of this name stands.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn status(&self, name: &str) -> Result<LimitStatus> {
        Ok(self.live(name)?.status())
    }

    /// How all limits stand, by name.
    pub fn snapshot(&self) -> Vec<LimitStatus> {
        let limits = self.inner.limits.read();
        limits.values().map(|limit| limit.status()).collect()
    }

    /// Puts a limit in force. `false`: one with the same statement is. Blocks. **Durability**: it is on disk on return.
    ///
    /// # Errors
    /// What [`LimitSpec::check`] says; [`Error::Exists`] when another limit has the name; storage faults.
    pub fn create(&self, spec: LimitSpec) -> Result<(RateLimit, bool)> {
        spec.check()?;
        let deleted = self.inner.changing.lock();
        if let Ok(existing) = self.get(&spec.name) {
            if existing.spec == spec {
                return Ok((existing, false));
            }
            return Err(Error::Exists { name: spec.name });
        }
        let is_known = deleted.contains(&spec.name);
        let now_micros = self.inner.shared.clock.now_micros();
        let limit = RateLimit {
            spec,
            create_time_micros: now_micros,
            update_time_micros: now_micros,
        };
        let name = limit.spec.name.clone();
        let counted = match is_known {
            true => self.inner.shared.journal.histories()?.remove(&name),
            false => None,
        };
        self.inner.shared.journal.store(&limit)?;
        let live = Live::new(
            &self.inner.shared,
            limit.clone(),
            &counted.unwrap_or_default(),
            is_known,
        );
        if is_known {
            live.rewrite()?;
        }
        self.inner.limits.write().insert(name, Arc::clone(&live));
        // A stop that came before the insertion did not see it.
        if self.inner.stopping.is_cancelled() {
            live.end(&Error::Stopping);
        }
        Ok((limit, true))
    }

    /// Changes a limit, for those who wait too. What was granted counts on. Blocks. **Durability**: it is on disk on return.
    ///
    /// # Errors
    /// What [`LimitSpec::check`] says; [`Error::NotFound`]; storage faults.
    pub fn update(&self, spec: LimitSpec) -> Result<RateLimit> {
        spec.check()?;
        let _changing = self.inner.changing.lock();
        let live = self.live(&spec.name)?;
        let old = live.limit();
        if old.spec == spec {
            return Ok(old);
        }
        let limit = RateLimit {
            spec,
            create_time_micros: old.create_time_micros,
            update_time_micros: self.inner.shared.clock.now_micros(),
        };
        self.inner.shared.journal.store(&limit)?;
        live.update(limit.clone())?;
        Ok(limit)
    }

    /// Removes a limit. Those who wait for it fail with [`Error::NotFound`]; what its hours and dates have used up is
    /// remembered, should it be created again. Blocks. **Durability**: it is on disk on return.
    ///
    /// # Errors
    /// [`Error::NotFound`]; storage faults.
    pub fn delete(&self, name: &str) -> Result<()> {
        let mut deleted = self.inner.changing.lock();
        let live = self.live(name)?;
        self.inner.shared.journal.remove(name)?;
        self.inner.limits.write().remove(name);
        deleted.insert(name.to_owned());
        live.end(&Error::NotFound {
            name: name.to_owned(),
        });
        live.close()?;
        Ok(())
    }

    /// Ends all waiting with [`Error::Stopping`]; nothing is granted any more.
    pub fn stop(&self) {
        self.inner.stopping.cancel();
        for limit in self.inner.limits.read().values() {
            limit.end(&Error::Stopping);
        }
    }

    /// Cancelled by [`Limits::stop`]: what holds permits for others ends then.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// Writes down what was really granted, so that a stop in order loses no permits. Blocks; [`Limits::stop`] comes first.
    ///
    /// # Errors
    /// Storage faults.
    pub fn close(&self) -> Result<()> {
        let limits: Vec<_> = self.inner.limits.read().values().cloned().collect();
        for limit in limits {
            limit.close()?;
        }
        Ok(())
    }

    fn live(&self, name: &str) -> Result<Arc<Live>> {
        let limits = self.inner.limits.read();
        limits.get(name).cloned().ok_or_else(|| Error::NotFound {
            name: name.to_owned(),
        })
    }
}

impl Shared {
    /// Removes counts that nothing goes by any more.
    fn forget_if_old(&self, name: &str, histories: &Histories) -> Result<()> {
        let memory = i64::try_from(MEMORY.as_micros()).unwrap_or(i64::MAX);
        let oldest = self.clock.now_micros().saturating_sub(memory);
        for (grain, history) in histories {
            if history.iter().all(|count| count.end < oldest) {
                self.journal.forget_history(name, *grain)?;
            }
        }
        Ok(())
    }
}
