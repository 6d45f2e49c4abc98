//! What external calls record.

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

/// What became of one request to an outside system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// It was answered.
    Answered,
    /// The outside system asks for fewer requests.
    Throttled,
    /// It failed in a way that may pass.
    Failed,
    /// It can never be answered: asking again does not help.
    Refused,
}

const OUTCOMES: [&str; 4] = ["answered", "throttled", "failed", "refused"];

/// The requests of external calls since the server started. Cheap to clone: clones count together.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// By outcome.
    requests: [AtomicU64; OUTCOMES.len()],
    durations: Histogram,
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                requests: Default::default(),
                durations: Histogram::durations(),
            }),
        }
    }
}

impl CallMetrics {
    /// A request ended, between these monotonic times.
    pub fn asked(&self, outcome: RequestOutcome, start_micros: i64, end_micros: i64) {
        if let Some(count) = self.inner.requests.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.durations.record_span(start_micros, end_micros);
    }
}

impl Collect for CallMetrics {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Inner {
            requests,
            durations,
        } = self.inner.as_ref();
        let requests = OUTCOMES.iter().zip(requests);
        sheet.counters(
            "hindcast_external_requests",
            "Requests of external calls that ended, by their outcome.",
            requests.map(|(outcome, count)| {
                (vec![("outcome", *outcome)], count.load(Ordering::Relaxed))
            }),
        )?;
        sheet.histogram(
            "hindcast_external_request_duration_seconds",
            "Time from an external request to its answer, without the wait for a permit.",
            durations,
        )
    }
}
