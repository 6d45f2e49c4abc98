//! When a failed partition is tried again: exponential backoff with full jitter.
//!
//! Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

use crate::catalog::RetryPolicy;

/// The wait after the `failure_count`-th failure (from 1): `jitter` (in `[0, 1)`) of the bound, which doubles per failure.
pub(super) fn backoff(policy: &RetryPolicy, failure_count: u32, jitter: f64) -> Duration {
    bound(policy, failure_count).mul_f64(jitter.clamp(0.0, 1.0))
}

fn bound(policy: &RetryPolicy, failure_count: u32) -> Duration {
    let doublings = failure_count.saturating_sub(1).min(31);
    policy
        .initial_backoff
        .saturating_mul(1 << doublings)
        .min(policy.max_backoff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_and_stops_at_the_maximum() {
        let policy = RetryPolicy {
            max_attempts: 9,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(5),
            attempt_timeout: None,
        };
        let bounds: Vec<_> = [1, 2, 3, 4, 40]
            .map(|failures| backoff(&policy, failures, 1.0).as_secs())
            .into();
        assert_eq!(bounds, [1, 2, 4, 5, 5]);
        assert_eq!(backoff(&policy, 3, 0.0), Duration::ZERO);
        assert_eq!(backoff(&policy, 3, 0.5), Duration::from_secs(2));
    }
}
