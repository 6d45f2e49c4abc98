//! How an outside system's answers slow a limit down: multiplicative decrease, additive increase, `Retry-After`. Pure.

use std::time::Duration;

use super::{bucket::Instant, model::Outcome};

/// What is left after a throttled answer.
const DECREASE: f64 = 0.5;
/// What a second with success wins back, of the whole.
const INCREASE: f64 = 0.05;
/// It never becomes slower than this part of the whole.
const SLOWEST: f64 = 0.01;
/// Answers to calls that were under way together count once.
const ROUND: Instant = 1_000_000_000;
/// The longest `Retry-After` that is believed.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How much of its quota a limit may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Backoff {
    factor: f64,
    blocked_until: Instant,
    decreased: Option<Instant>,
    increased: Option<Instant>,
}

impl Backoff {
    /// All of it.
    pub(super) fn new() -> Self {
        Self {
            factor: 1.0,
            blocked_until: 0,
            decreased: None,
            increased: None,
        }
    }

    /// Takes an answer in. `true`: the factor or the block changed.
    pub(super) fn report(&mut self, outcome: Outcome, now: Instant) -> bool {
        let before = *self;
        match outcome {
            Outcome::Success => self.increase(now),
            Outcome::Throttled { retry_after } => {
                let until = retry_after.map_or(0, |wait| {
                    let nanos = wait.min(MAX_RETRY_AFTER).as_nanos();
                    now.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
                });
                let in_this_round = self
                    .decreased
                    .is_some_and(|at| now < at.saturating_add(ROUND))
                    || now < self.blocked_until;
                self.blocked_until = self.blocked_until.max(until);
                if !in_this_round {
                    self.factor = (self.factor * DECREASE).max(SLOWEST);
                    self.decreased = Some(now);
                }
                // The climb starts a round after the answer.
                self.increased = Some(now.max(self.blocked_until));
            }
        }
        before.factor != self.factor || before.blocked_until != self.blocked_until
    }

    fn increase(&mut self, now: Instant) {
        let since = self.increased.get_or_insert(now);
        if now < since.saturating_add(ROUND) || self.factor >= 1.0 {
            return;
        }
        self.increased = Some(now);
        self.factor = (self.factor + INCREASE).min(1.0);
    }

    /// The part of the quota that is in force, over 0 and at most 1.
    pub(super) fn factor(&self) -> f64 {
        self.factor
    }

    /// Nothing is granted before this.
    pub(super) fn blocked_until(&self) -> Instant {
        self.blocked_until
    }

    /// `interval` at this factor, rounded up.
    pub(super) fn stretch(&self, interval_nanos: u64) -> u64 {
        if self.factor >= 1.0 {
            return interval_nanos;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an interval is at most 30 days, far below 2^53 ns; rounding goes up"
        )]
        let stretched = (interval_nanos as f64 / self.factor).ceil() as u64;
        stretched.max(interval_nanos)
    }

    /// `calls` at this factor, rounded down, at least 1.
    pub(super) fn shrink(&self, calls: u32) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of calls times at most 1"
        )]
        let shrunk = (f64::from(calls) * self.factor).floor() as u32;
        shrunk.clamp(1, calls.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Instant = 1_000_000_000;
    const THROTTLED: Outcome = Outcome::Throttled { retry_after: None };

    #[test]
    fn one_round_of_throttled_answers_halves_once() {
        let mut backoff = Backoff::new();
        assert!(backoff.report(THROTTLED, 5 * SECOND));
        assert!(!backoff.report(THROTTLED, 6 * SECOND - 1));
        assert_eq!(backoff.factor(), 0.5);
        assert!(backoff.report(THROTTLED, 6 * SECOND));
        assert_eq!(backoff.factor(), 0.25);
        assert_eq!(backoff.stretch(1_000), 4_000);
        assert_eq!((backoff.shrink(10), backoff.shrink(1)), (2, 1));
    }

    #[test]
    fn success_climbs_back_step_by_step_and_never_above() {
        let mut backoff = Backoff::new();
        backoff.report(THROTTLED, SECOND);
        assert!(!backoff.report(Outcome::Success, 2 * SECOND - 1));
        for second in 2..20 {
            backoff.report(Outcome::Success, second * SECOND);
            assert!(!backoff.report(Outcome::Success, second * SECOND + 1));
            assert!(backoff.factor() <= 1.0);
        }
        assert_eq!(backoff.factor(), 1.0);
        assert_eq!(backoff.stretch(1_000), 1_000);
    }

    #[test]
    fn retry_after_blocks_and_later_answers_do_not_shorten_it() {
        let mut backoff = Backoff::new();
        let wait = |seconds| Outcome::Throttled {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        backoff.report(wait(30), SECOND);
        backoff.report(wait(2), 2 * SECOND);
        assert_eq!(backoff.blocked_until(), 31 * SECOND);
        assert_eq!(backoff.factor(), 0.5, "calls of the same round");
        backoff.report(wait(u64::MAX), 2 * SECOND);
        assert_eq!(backoff.blocked_until(), 2 * SECOND + 86_400 * SECOND);
    }

    #[test]
    fn it_never_stops_altogether() {
        let mut backoff = Backoff::new();
        for round in 1..100 {
            backoff.report(THROTTLED, round * SECOND);
        }
        assert_eq!(backoff.factor(), SLOWEST);
    }
}
