//! How much working memory one query had reserved at most.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use datafusion::{
    common::Result,
    execution::{
        memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
        runtime_env::RuntimeEnv,
    },
};

/// The most working memory that a query had reserved at once, in bytes.
#[derive(Debug, Default)]
pub struct PeakMemory {
    reserved: AtomicUsize,
    peak: AtomicUsize,
}

impl PeakMemory {
    /// The peak so far.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed) as u64
    }

    fn add(&self, bytes: usize) {
        let reserved = self.reserved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(reserved, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.reserved.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// `runtime`, with what is reserved through it told to `peak`. The pool itself is shared by all.
pub(super) fn watched(runtime: &RuntimeEnv, peak: Arc<PeakMemory>) -> Arc<RuntimeEnv> {
    let pool = WatchedPool {
        pool: Arc::clone(&runtime.memory_pool),
        peak,
    };
    Arc::new(RuntimeEnv {
        memory_pool: Arc::new(pool),
        ..runtime.clone()
    })
}

/// Passes everything on to the pool that all queries share.
#[derive(Debug)]
struct WatchedPool {
    pool: Arc<dyn MemoryPool>,
    peak: Arc<PeakMemory>,
}

impl MemoryPool for WatchedPool {
    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
        self.peak.add(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
        self.peak.remove(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.pool.try_grow(reservation, additional)?;
        self.peak.add(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}
