//! What the executor records.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    instrument::{Histogram, Sheet},
    metrics::Collect,
};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its rows are published.
    Succeeded,
    /// It failed, and is tried again.
    Retried,
    /// It failed, for good.
    Failed,
    /// It was cancelled with its backfill.
    Cancelled,
    /// It was stopped through no fault of its own, and goes back into the queue.
    Released,
}

const OUTCOMES: [&str; 5] = ["succeeded", "retried", "failed", "cancelled", "released"];

/// What attempts at partitions did since the server started. Cheap to clone: clones count together.
#[derive(Debug, Clone)]
pub struct BackfillMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    started: AtomicU64,
    /// By outcome.
    ended: [AtomicU64; OUTCOMES.len()],
    durations: Histogram,
    slot_waits: Histogram,
    rows_read: AtomicU64,
    rows_written: AtomicU64,
    bytes_written: AtomicU64,
}

impl Default for BackfillMetrics {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                started: AtomicU64::new(0),
                ended: Default::default(),
                durations: Histogram::durations(),
                slot_waits: Histogram::durations(),
                rows_read: AtomicU64::new(0),
                rows_written: AtomicU64::new(0),
                bytes_written: AtomicU64::new(0),
            }),
        }
    }
}

impl BackfillMetrics {
    /// An attempt started, after it had waited for a slot.
    pub fn started(&self, slot_wait_micros: u64) {
        self.inner.started.fetch_add(1, Ordering::Relaxed);
        self.inner.slot_waits.record(slot_wait_micros);
    }

    /// An attempt ended, so long after its start.
    pub fn ended(&self, outcome: Outcome, duration_micros: u64) {
        if let Some(count) = self.inner.ended.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.durations.record(duration_micros);
    }

    /// What a partition read and wrote was published.
    pub fn published(&self, rows_read: u64, rows_written: u64, bytes_written: u64) {
        let inner = &self.inner;
        inner.rows_read.fetch_add(rows_read, Ordering::Relaxed);
        inner
            .rows_written
            .fetch_add(rows_written, Ordering::Relaxed);
        inner
            .bytes_written
            .fetch_add(bytes_written, Ordering::Relaxed);
    }
}

impl Collect for BackfillMetrics {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Inner {
            started,
            ended,
            durations,
            slot_waits,
            rows_read,
            rows_written,
            bytes_written,
        } = self.inner.as_ref();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        sheet.counter(
            "hindcast_attempts_started",
            "Attempts at partitions that started.",
            read(started),
        )?;
        let ended = OUTCOMES.iter().zip(ended);
        sheet.counters(
            "hindcast_attempts",
            "Attempts at partitions that ended, by their outcome.",
            ended.map(|(outcome, count)| (vec![("outcome", *outcome)], read(count))),
        )?;
        sheet.histogram(
            "hindcast_attempt_duration_seconds",
            "Time from an attempt's start to its end, its publishing included.",
            durations,
        )?;
        sheet.histogram(
            "hindcast_attempt_slot_wait_seconds",
            "Time that a partition that could run waited for a slot.",
            slot_waits,
        )?;
        sheet.counter(
            "hindcast_backfill_rows_read",
            "Rows that published partitions have read from sources.",
            read(rows_read),
        )?;
        sheet.counter(
            "hindcast_backfill_rows_written",
            "Rows that published partitions have written.",
            read(rows_written),
        )?;
        sheet.counter(
            "hindcast_backfill_written_bytes",
            "Bytes of data files that published partitions have written.",
            read(bytes_written),
        )
    }
}
