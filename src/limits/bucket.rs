//! Rate and burst: governor's GCRA over a stamp of our clock, with a state that can be moved to another rate.
//!
//! The state is the theoretical arrival time: what was taken and has not come back yet, as the time that it takes. With `n`
//! permits taken at once it is never more than `burst` intervals ahead of now, so in any window of length `w` at most
//! `burst + w / interval` permits are granted. Pure: the instant of each call is a parameter.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

/// Nanoseconds of the monotonic clock.
pub(super) type Instant = u64;

/// The longest that a bucket takes to fill, about 73 years: what governor adds up from there stays below the end of time.
const MAX_FULL_NANOS: u64 = u64::MAX / 8;
/// The furthest that what was taken can lie ahead.
const MAX_AHEAD_NANOS: u64 = u64::MAX / 4;

/// A clock that stands where the last call put it.
#[derive(Debug, Clone, Default)]
struct Stamp(Arc<AtomicU64>);

impl Clock for Stamp {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

/// The theoretical arrival time. One thread at a time changes it: the limit's lock sees to that.
#[derive(Debug, Clone, Default)]
struct Arrival(Arc<AtomicU64>);

impl StateStore for Arrival {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = decide(Some(Nanos::new(self.0.load(Ordering::Relaxed))))?;
        self.0.store(next.as_u64(), Ordering::Relaxed);
        Ok(outcome)
    }
}

/// Where a bucket stood when permits were taken: what must be known to put them back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    arrival: Instant,
    put_back_nanos: u64,
    shape: u64,
}

/// A rate with a burst.
#[derive(Debug)]
pub(super) struct Bucket {
    interval_nanos: u64,
    burst: u32,
    stamp: Stamp,
    arrival: Arrival,
    limiter: RateLimiter<NotKeyed, Arrival, Stamp, NoOpMiddleware<Nanos>>,
    /// All that was ever put back.
    put_back_nanos: u64,
    /// How often the rate was changed.
    shape: u64,
}

impl Bucket {
    /// A full bucket: `burst` permits can be taken at once. `generation` tells it from those before it.
    pub(super) fn new(interval_nanos: u64, burst: u32, generation: u32) -> Self {
        Self {
            shape: u64::from(generation) << 32,
            ..Self::with(interval_nanos, burst, Arrival::default())
        }
    }

    fn with(interval_nanos: u64, burst: u32, arrival: Arrival) -> Self {
        let stamp = Stamp::default();
        let size = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let interval_nanos = interval_nanos.clamp(1, MAX_FULL_NANOS / u64::from(size.get()));
        let quota = Quota::with_period(Duration::from_nanos(interval_nanos))
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
            .allow_burst(size);
        Self {
            interval_nanos,
            burst: size.get(),
            // Its start is the stamp's zero, so that the arrival time counts on the same axis as our instants.
            limiter: RateLimiter::new(quota, arrival.clone(), stamp.clone()),
            stamp,
            arrival,
            put_back_nanos: 0,
            shape: 0,
        }
    }

    /// The same bucket with another rate and burst: what was taken and has not come back at `now` stays taken.
    pub(super) fn reshape(&mut self, interval_nanos: u64, burst: u32, now: Instant) {
        let reshaped = Self {
            shape: self.shape + 1,
            ..Self::with(interval_nanos, burst, Arrival::default())
        };
        if (reshaped.interval_nanos, reshaped.burst) == (self.interval_nanos, self.burst) {
            return;
        }
        let behind = self.arrival().saturating_sub(now);
        let taken = u128::from(behind) * u128::from(reshaped.interval_nanos);
        let behind = taken.div_ceil(u128::from(self.interval_nanos));
        let behind = u64::try_from(behind).unwrap_or(u64::MAX);
        let arrival = now.saturating_add(behind.min(MAX_AHEAD_NANOS));
        reshaped.arrival.0.store(arrival, Ordering::Relaxed);
        *self = reshaped;
    }

    /// Takes `permits`, or says when they could be taken.
    pub(super) fn take(&self, permits: u32, now: Instant) -> Result<Mark, Instant> {
        let Some(permits) = NonZeroU32::new(permits) else {
            return Ok(self.mark());
        };
        self.stamp.0.store(now, Ordering::Relaxed);
        match self.limiter.check_n(permits) {
            Ok(Ok(())) => Ok(self.mark()),
            Ok(Err(not_until)) => Err(not_until.earliest_possible().as_u64()),
            // Whoever asks has been told the most; after a change of the burst it is checked again.
            Err(_) => Err(Instant::MAX),
        }
    }

    /// Puts back `permits` that were taken at `mark`: they count as never taken.
    ///
    /// What time has brought back since is not brought back twice: had the permits not been taken, the bucket would have been
    /// full for a while. It was at least as empty since then as `mark` says, less the time that has passed and what others put
    /// back; more than that does not come back. After a change of the rate nothing does.
    pub(super) fn put_back(&mut self, permits: u32, mark: Mark, now: Instant) {
        if mark.shape != self.shape {
            return;
        }
        let others = self.put_back_nanos.saturating_sub(mark.put_back_nanos);
        let still_out = mark.arrival.saturating_sub(others).saturating_sub(now);
        let taken = self.interval_nanos.saturating_mul(u64::from(permits));
        let back = taken.min(still_out);
        self.put_back_nanos = self.put_back_nanos.saturating_add(back);
        let arrival = self.arrival().saturating_sub(back);
        self.arrival.0.store(arrival, Ordering::Relaxed);
    }

    fn mark(&self) -> Mark {
        Mark {
            arrival: self.arrival(),
            put_back_nanos: self.put_back_nanos,
            shape: self.shape,
        }
    }

    /// Takes all that is there at `now`.
    pub(super) fn drain(&self, now: Instant) {
        let full = self.interval_nanos.saturating_mul(u64::from(self.burst));
        let arrival = self.arrival().max(now.saturating_add(full));
        self.arrival.0.store(arrival, Ordering::Relaxed);
    }

    /// When `permits` more than the `ahead` could be taken, if nobody else takes any.
    pub(super) fn when(&self, ahead: u64, permits: u32, now: Instant) -> Instant {
        let total = ahead.saturating_add(u64::from(permits));
        let total = self.interval_nanos.saturating_mul(total);
        let full = self.interval_nanos.saturating_mul(u64::from(self.burst));
        let arrival = self.arrival().max(now);
        arrival.saturating_add(total).saturating_sub(full).max(now)
    }

    fn arrival(&self) -> Instant {
        self.arrival.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn take(bucket: &Bucket, permits: u32, now: Instant) -> Result<(), Instant> {
        bucket.take(permits, now).map(|_| ())
    }

    #[test]
    fn a_burst_then_one_each_interval() {
        let bucket = Bucket::new(10 * MS, 3, 0);
        let start = 1_000 * MS;
        assert_eq!(take(&bucket, 3, start), Ok(()));
        assert_eq!(take(&bucket, 1, start), Err(start + 10 * MS));
        assert_eq!(take(&bucket, 1, start + 10 * MS - 1), Err(start + 10 * MS));
        assert_eq!(take(&bucket, 1, start + 10 * MS), Ok(()));
        assert_eq!(take(&bucket, 2, start + 10 * MS), Err(start + 30 * MS));
        assert_eq!(bucket.when(0, 2, start + 10 * MS), start + 30 * MS);
        assert_eq!(bucket.when(4, 2, start + 10 * MS), start + 70 * MS);
    }

    #[test]
    fn what_is_put_back_can_be_taken_again() {
        let mut bucket = Bucket::new(10 * MS, 3, 0);
        let mark = bucket.take(3, MS).expect("a full bucket");
        bucket.put_back(2, mark, MS);
        assert_eq!(take(&bucket, 2, MS), Ok(()));
        assert!(bucket.take(1, MS).is_err());
    }

    #[test]
    fn what_time_brought_back_is_not_put_back_too() {
        let mut bucket = Bucket::new(10 * MS, 3, 0);
        let first = bucket.take(1, MS).expect("a full bucket");
        assert_eq!(take(&bucket, 3, 11 * MS), Ok(()), "full again");
        bucket.put_back(1, first, 11 * MS);
        assert_eq!(take(&bucket, 1, 11 * MS), Err(21 * MS));

        let mut bucket = Bucket::new(10 * MS, 3, 0);
        let mark = bucket.take(2, MS).expect("a full bucket");
        bucket.put_back(1, mark, 6 * MS);
        bucket.put_back(1, mark, 6 * MS);
        assert_eq!(take(&bucket, 3, 6 * MS), Ok(()));
        assert_eq!(take(&bucket, 1, 6 * MS), Err(16 * MS), "no more than full");
    }

    #[test]
    fn another_rate_keeps_what_was_taken() {
        let mut bucket = Bucket::new(10 * MS, 4, 0);
        let now = 500 * MS;
        assert_eq!(take(&bucket, 4, now), Ok(()));
        bucket.reshape(20 * MS, 4, now);
        assert_eq!(take(&bucket, 1, now), Err(now + 20 * MS));
        bucket.reshape(5 * MS, 4, now);
        assert_eq!(take(&bucket, 1, now), Err(now + 5 * MS));
        bucket.reshape(5 * MS, 8, now);
        assert_eq!(
            take(&bucket, 4, now),
            Ok(()),
            "a larger burst is there at once"
        );
    }

    #[test]
    fn the_slowest_rate_and_the_widest_ratio_stay_within_time() {
        let mut bucket = Bucket::new(1, u32::MAX, 0);
        let now = 86_400_000 * MS;
        assert_eq!(take(&bucket, u32::MAX, now), Ok(()));
        bucket.reshape(u64::MAX, 1, now);
        let at = take(&bucket, 1, now).expect_err("it was taken");
        assert!(at > now && at <= now + MAX_AHEAD_NANOS);
        assert_eq!(take(&bucket, 1, at), Ok(()));
        let next = take(&bucket, 1, at).expect_err("it was taken");
        assert_eq!(next, at + MAX_FULL_NANOS);
    }

    #[test]
    fn a_drained_bucket_fills_at_its_rate() {
        let bucket = Bucket::new(10 * MS, 4, 0);
        bucket.drain(100 * MS);
        assert_eq!(take(&bucket, 1, 100 * MS), Err(110 * MS));
        assert_eq!(take(&bucket, 2, 120 * MS), Ok(()));
    }
}
