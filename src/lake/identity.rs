//! Names and ids of tables, snapshots and metadata files: hashes of what they stand for, the time, and a counter.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// Tells apart what one process makes within one microsecond, or under a clock that stands still.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A fresh id for something called `what` made at `now_micros`.
///
/// Two calls in one process never agree. One process at a time has the database open, so two that agree across a restart
/// would need the same `what` at the same microsecond; callers put the table's version into `what`, which a restart only
/// repeats when nothing of that version was published.
pub(super) fn fresh_uuid(what: &str, now_micros: i64) -> Uuid {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut hash = Sha256::new();
    hash.update(what.as_bytes());
    hash.update(now_micros.to_be_bytes());
    hash.update(count.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// A positive snapshot id from an id.
pub(super) fn snapshot_id(uuid: Uuid) -> i64 {
    let (high, low) = uuid.as_u64_pair();
    // One bit less than 64: Iceberg's ids are signed and by custom positive.
    ((high ^ low) >> 1).cast_signed()
}
