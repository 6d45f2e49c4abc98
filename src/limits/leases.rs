//! Permits held for callers that come back: their places among the concurrent calls are free once the caller says so, or
//! its time is over.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::{Error, Permits, Result};
use crate::{ids::IdSource, time::Clock};

/// How long permits are held, unless the caller says otherwise.
pub const DEFAULT_HOLD: Duration = Duration::from_secs(60);
/// The longest that they may be held.
pub const MAX_HOLD: Duration = Duration::from_secs(3_600);

/// Permits held for others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leases {
    held: Arc<Mutex<HashMap<String, Lease>>>,
    ids: Arc<dyn IdSource>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Lease {
    permits: Permits,
    expiry: AbortHandle,
}

impl Leases {
    /// None yet.
    pub fn new(ids: Arc<dyn IdSource>, clock: Arc<dyn Clock>) -> Self {
        Self {
            held: Arc::default(),
            ids,
            clock,
        }
    }

    /// Holds `permits` for at most `hold`. The id releases them.
    pub fn hold(&self, permits: Permits, hold: Duration) -> String {
        let id = self.ids.unique();
        let expired = self.clock.sleep(hold);
        let held = Arc::clone(&self.held);
        let key = id.clone();
        // Locked before the task can run, so that it finds what it is to end.
        let mut leases = self.held.lock();
        let expiry = tokio::spawn(async move {
            expired.await;
            let lease = held.lock().remove(&key);
            if lease.is_some() {
                tracing::info!(lease = key, "permits were not released in time");
            }
        });
        let lease = Lease {
            permits,
            expiry: expiry.abort_handle(),
        };
        leases.insert(id.clone(), lease);
        id
    }

    /// Ends a lease; `unused` of its permits count as never granted.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn release(&self, id: &str, unused: u32) -> Result<()> {
        let lease = self.held.lock().remove(id);
        let Some(Lease {
            mut permits,
            expiry,
        }) = lease
        else {
            return Err(Error::LeaseNotFound { id: id.to_owned() });
        };
        expiry.abort();
        permits.give_back(unused);
        Ok(())
    }
}
