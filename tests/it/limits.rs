//! Rate limits in one process, on a clock that is stepped by hand: waiting, fairness, back-off, restarts. Invariant RL-1.

use std::{path::Path, sync::Arc, time::Duration};

use hindcast::{
    error::Classify,
    kv::Database,
    limits::{Acquire, Class, Error, LimitSpec, Limits, Outcome, Permits, Rate, WindowQuota},
    time::{Clock, Grain},
};
use tokio::task::JoinHandle;

use crate::limits_support::{SteppedClock, settle};
use crate::support::micros;

const START: &str = "2026-03-01T12:00:00Z";
const CACHE_BYTES: u64 = 1 << 20;

fn open(folder: &Path, clock: &Arc<SteppedClock>) -> Limits {
    let database = Database::open(folder, CACHE_BYTES).expect("opens");
    Limits::open(&database, Arc::clone(clock) as Arc<dyn Clock>).expect("limits")
}

fn rate(permits: u32, burst: u32) -> LimitSpec {
    LimitSpec {
        rate: Some(Rate {
            permits,
            per: Duration::from_secs(1),
        }),
        burst: Some(burst),
        ..LimitSpec::new("salesforce")
    }
}

fn daily(permits: u64) -> LimitSpec {
    LimitSpec {
        daily: Some(WindowQuota {
            permits,
            grain: Grain::Daily,
            zone: chrono_tz::Tz::America__New_York,
        }),
        ..LimitSpec::new("salesforce")
    }
}

fn ask(class: Class, client: &str, permits: u32) -> Acquire {
    Acquire::new("salesforce", permits, class, client)
}

fn spawn(limits: &Limits, request: Acquire) -> JoinHandle<Result<Permits, Error>> {
    let limits = limits.clone();
    tokio::spawn(async move { limits.acquire(request).await })
}

/// Takes one permit after the other until one is refused for want of time.
async fn take_while_possible(limits: &Limits) -> u64 {
    let mut taken = 0;
    loop {
        let request = Acquire {
            patience: Some(Duration::from_secs(3_600)),
            ..ask(Class::Backfill, "a", 1)
        };
        if limits
            .expected_wait("salesforce", Class::Backfill, 1)
            .expect("a wait")
            > Duration::ZERO
        {
            return taken;
        }
        limits.acquire(request).await.expect("a permit");
        taken += 1;
    }
}

#[tokio::test]
async fn waiters_are_served_at_the_rate_and_in_turn() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros(START));
    let limits = open(folder.path(), &clock);
    limits.create(rate(10, 2)).expect("created");
    let first = limits.acquire(ask(Class::Backfill, "a", 2)).await;
    assert_eq!(first.expect("a full burst").waited(), Duration::ZERO);
    let mut waiting: Vec<_> = (0..30)
        .map(|index| spawn(&limits, ask(Class::Backfill, ["a", "b", "c"][index % 3], 1)))
        .collect();
    settle().await;
    let live = spawn(&limits, ask(Class::Live, "z", 1));
    clock.pass(Duration::from_millis(99)).await;
    assert!(!live.is_finished());
    clock.pass(Duration::from_millis(1)).await;
    assert!(live.is_finished(), "the live caller goes first");
    for tenth in 1..=30 {
        clock.pass(Duration::from_millis(100)).await;
        let done = waiting.iter().filter(|it| it.is_finished()).count();
        assert_eq!(done, tenth, "one each tenth of a second");
    }
    let last = waiting.pop().expect("it").await.expect("no panic");
    assert_eq!(
        last.expect("granted").waited(),
        Duration::from_millis(3_100)
    );
    let status = limits.status("salesforce").expect("there");
    assert_eq!((status.granted.live, status.granted.backfill), (1, 32));
    assert_eq!(status.waiting.total(), 0);
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros(START));
    let limits = open(folder.path(), &clock);
    limits.create(rate(1, 1)).expect("created");
    limits.acquire(ask(Class::Live, "a", 1)).await.expect("one");
    let gone = spawn(&limits, ask(Class::Live, "a", 1));
    let stays = spawn(&limits, ask(Class::Live, "a", 1));
    settle().await;
    gone.abort();
    settle().await;
    let status = limits.status("salesforce").expect("there");
    assert_eq!(status.waiting.live, 1);
    clock.pass(Duration::from_secs(1)).await;
    assert!(stays.is_finished(), "its turn came a second earlier");
    // Granted, but never heard of: it goes back.
    let mut unheard = Box::pin(limits.acquire(ask(Class::Live, "a", 1)));
    assert!(futures::poll!(&mut unheard).is_pending());
    clock.pass(Duration::from_secs(1)).await;
    drop(unheard);
    let next = limits.acquire(ask(Class::Live, "a", 1)).await;
    assert_eq!(next.expect("given back").waited(), Duration::ZERO);
}

#[tokio::test]
async fn patience_ends_with_the_wait_that_would_have_been() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros(START));
    let limits = open(folder.path(), &clock);
    limits.create(rate(1, 5)).expect("created");
    limits.acquire(ask(Class::Live, "a", 5)).await.expect("all");
    let request = Acquire {
        patience: Some(Duration::from_secs(1)),
        ..ask(Class::Live, "a", 4)
    };
    let waits = spawn(&limits, request);
    clock.pass(Duration::from_secs(1)).await;
    let error = waits.await.expect("no panic").expect_err("too late");
    assert!(
        matches!(&error, Error::NotInTime { expected, .. } if *expected == Duration::from_secs(3)),
        "{error}"
    );
    assert_eq!(error.reason(), "PERMITS_NOT_IN_TIME");
    let now = limits.acquire(ask(Class::Live, "a", 1)).await;
    assert_eq!(now.expect("nothing was taken").waited(), Duration::ZERO);
}

#[tokio::test]
async fn calls_under_way_are_counted_until_their_permits_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros(START));
    let limits = open(folder.path(), &clock);
    let spec = LimitSpec {
        concurrent: Some(4),
        live_share_percent: 50,
        ..LimitSpec::new("salesforce")
    };
    limits.create(spec).expect("created");
    let backfill = limits.acquire(ask(Class::Backfill, "b", 2)).await;
    let mut backfill = backfill.expect("its share");
    let waits = spawn(&limits, ask(Class::Backfill, "b", 1));
    let live = limits.acquire(ask(Class::Live, "a", 2)).await;
    settle().await;
    assert!(!waits.is_finished(), "half is kept for live callers");
    assert_eq!(backfill.release(1), 1);
    settle().await;
    assert!(waits.is_finished());
    drop((backfill, live, waits));
    settle().await;
    let status = limits.status("salesforce").expect("there");
    assert_eq!(status.in_flight.total(), 0);
}

#[tokio::test]
async fn throttled_answers_slow_it_down_and_success_brings_it_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros(START));
    let limits = open(folder.path(), &clock);
    limits.create(rate(10, 5)).expect("created");
    let throttled = Outcome::Throttled {
        retry_after: Some(Duration::from_secs(30)),
    };
    limits.report("salesforce", throttled).expect("there");
    let status = limits.status("salesforce").expect("there");
    assert_eq!(status.effective_rate, Some(5.0));
    assert_eq!(status.blocked, Some(Duration::from_secs(30)));
    assert_eq!(status.throttled, 1);
    let waits = spawn(&limits, ask(Class::Live, "a", 1));
    clock.pass(Duration::from_secs(30)).await;
    assert!(!waits.is_finished(), "no burst follows");
    clock.pass(Duration::from_millis(200)).await;
    assert!(waits.is_finished());
    for _ in 0..20 {
        clock.pass(Duration::from_secs(1)).await;
        limits
            .report("salesforce", Outcome::Success)
            .expect("there");
    }
    let status = limits.status("salesforce").expect("there");
    assert_eq!(status.effective_rate, Some(10.0), "and never above");
}

#[tokio::test]
async fn changes_reach_those_who_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros(START));
    let limits = open(folder.path(), &clock);
    limits.create(rate(1, 5)).expect("created");
    limits.acquire(ask(Class::Live, "a", 5)).await.expect("all");
    let too_large = spawn(&limits, ask(Class::Live, "a", 5));
    let served = spawn(&limits, ask(Class::Live, "b", 2));
    let deleted = spawn(&limits, ask(Class::Live, "b", 2));
    settle().await;
    limits.update(rate(100, 4)).expect("updated");
    let error = too_large.await.expect("no panic").expect_err("never");
    assert_eq!(error.reason(), "PERMITS_ABOVE_BURST");
    assert!(error.to_string().contains("at most 4 at once"), "{error}");
    clock.pass(Duration::from_millis(31)).await;
    assert!(served.is_finished(), "a hundred a second now");
    limits.delete("salesforce").expect("deleted");
    let error = deleted.await.expect("no panic").expect_err("gone");
    assert_eq!(error.reason(), "RATE_LIMIT_NOT_FOUND");
    let error = limits.acquire(ask(Class::Live, "a", 1)).await;
    assert_eq!(error.expect_err("gone").reason(), "RATE_LIMIT_NOT_FOUND");
}

#[tokio::test]
async fn a_days_quota_survives_restarts_and_kills() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros("2026-03-02T04:50:00Z"));
    let limits = open(folder.path(), &clock);
    limits.create(daily(1_000)).expect("created");
    let mut taken = 0;
    for _ in 0..100 {
        limits
            .acquire(ask(Class::Backfill, "a", 1))
            .await
            .expect("one");
        taken += 1;
    }
    limits.stop();
    limits.close().expect("closed");
    drop(limits);
    let limits = open(folder.path(), &clock);
    let status = limits.status("salesforce").expect("kept");
    assert_eq!(status.windows[0].used, taken, "a stop in order loses none");
    assert_eq!(
        status.windows[0].reset_micros,
        micros("2026-03-02T05:00:00Z"),
        "midnight in New York"
    );
    for _ in 0..100 {
        limits
            .acquire(ask(Class::Backfill, "a", 1))
            .await
            .expect("one");
        taken += 1;
    }
    // As after kill -9: what was set aside is lost, and nothing is granted twice.
    drop(limits);
    let limits = open(folder.path(), &clock);
    let used = limits.status("salesforce").expect("kept").windows[0].used;
    assert!((taken..=taken + 10).contains(&used), "{used} of {taken}");
    // Deleting and creating it grants nothing anew either.
    limits.delete("salesforce").expect("deleted");
    limits.create(daily(1_000)).expect("created");
    taken += take_while_possible(&limits).await;
    assert!((990..=1_000).contains(&taken), "{taken}");
    let tomorrow = spawn(&limits, ask(Class::Backfill, "a", 1));
    settle().await;
    assert!(!tomorrow.is_finished());
    let error = limits
        .acquire(Acquire {
            patience: Some(Duration::ZERO),
            ..ask(Class::Live, "z", 1_000)
        })
        .await;
    assert!(matches!(error, Err(Error::NotInTime { expected, .. }) if expected > Duration::ZERO));
    clock.pass(Duration::from_secs(600)).await;
    tomorrow.await.expect("no panic").expect("of the new day");
}

#[tokio::test]
async fn a_stop_ends_all_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SteppedClock::starting_at(micros(START));
    let limits = open(folder.path(), &clock);
    limits.create(rate(1, 1)).expect("created");
    limits.acquire(ask(Class::Live, "a", 1)).await.expect("one");
    let waits = spawn(&limits, ask(Class::Live, "a", 1));
    settle().await;
    limits.stop();
    let error = waits.await.expect("no panic").expect_err("stopped");
    assert_eq!(error.reason(), "SERVER_STOPPING");
}
