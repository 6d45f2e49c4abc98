//! A quarter of calls to an outside system that refuses what goes beyond its quota.
//!
//! `HINDCAST_CALLS_IDS` says how many ids each of the 90 partitions asks about; `just calls-quota` asks about 1,000, on a machine
//! that does nothing else: only then is it held to time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use hindcast::{
    limits::LimitSpec,
    pb::{self, rate_limit_service_client::RateLimitServiceClient},
    time::SystemClock,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backfill_support::{Rig, days},
    calls_support::{ASK, Reply, Seen, Upstream, asking, length, per_second, rig, value_call},
};

const PARTITIONS: u32 = 90;
/// Ids, unless the environment says otherwise.
const IDS: u32 = 8;
/// What the outside system answers in any second.
const QUOTA: usize = 300;
/// What the limit allows of that, and at once.
const RATE: u32 = 250;
const BURST: u32 = 10;
/// The request that is refused whatever the quota says: the limit has to back off once.
const REFUSED: usize = 50;

fn measured_ids() -> Option<u32> {
    let text = std::env::var("HINDCAST_CALLS_IDS").ok()?;
    Some(text.parse().expect("a number"))
}

fn ids() -> u32 {
    measured_ids().unwrap_or(IDS)
}

/// Refuses one request, and what comes beyond the quota in any second before it.
fn with_quota(path: &str, seen: &[Seen], now_micros: i64) -> Reply {
    let throttled = || Reply {
        headers: vec![("retry-after", "1".to_owned())],
        ..Reply::of(429, "slow down")
    };
    let in_last_second = seen
        .iter()
        .rev()
        .take_while(|it| now_micros - it.at_micros < 1_000_000)
        .filter(|it| it.status == 200)
        .count();
    if seen.len() == REFUSED || in_last_second >= QUOTA {
        return throttled();
    }
    length(path)
}

/// The most requests in any second.
fn most_in_a_second(seen: &[Seen]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, it) in seen.iter().enumerate() {
        while it.at_micros - seen[first].at_micros >= 1_000_000 {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}

/// Takes a permit every 25 ms until it is to stop: how long each was waited for.
async fn live_caller(address: SocketAddr, stop: CancellationToken) -> Vec<Duration> {
    let address = format!("http://{address}");
    let mut limits = RateLimitServiceClient::connect(address)
        .await
        .expect("connects");
    let clock = SystemClock::shared();
    let mut waits = Vec::new();
    while !stop.is_cancelled() {
        let request = pb::AcquirePermitsRequest {
            limit: "usual".to_owned(),
            permits: 1,
            caller_class: pb::CallerClass::Live.into(),
            ..Default::default()
        };
        let granted = limits.acquire_permits(request).await.expect("granted");
        let waited = granted.into_inner().waited.unwrap_or_default();
        waits.push(Duration::try_from(waited).expect("a duration"));
        clock.sleep(Duration::from_millis(25)).await;
    }
    waits
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_of_calls_stays_under_the_quota_and_makes_each_once() {
    let upstream = Upstream::start_timed(with_quota).await;
    let limit = LimitSpec {
        live_share_percent: 20,
        ..per_second("usual", RATE, BURST)
    };
    let mut rig: Rig = rig(limit, PARTITIONS, ids()).await;
    let transform = asking("quarter", ASK, value_call(&upstream));
    rig.clients.register(transform).await.expect("registered");
    let mut spec = days("quarter", "2013-01-01", "2013-04-01");
    spec.max_active_partitions = 8;
    let stop = CancellationToken::new();
    let address = rig.server.as_ref().expect("it runs").local_addr();
    let live = tokio::spawn(live_caller(address, stop.clone()));
    let ended = rig.clients.run_well(spec.clone()).await;
    stop.cancel();
    let mut waits = live.await.expect("the live caller");
    waits.sort();
    let median = waits[waits.len() / 2];
    println!(
        "{} live permits, median wait {median:?}, longest {:?}",
        waits.len(),
        waits[waits.len() - 1]
    );
    assert_eq!(ended.partitions.len(), PARTITIONS as usize);
    let seen = upstream.seen();
    let wanted = (PARTITIONS * ids()) as usize;
    let mut answered: BTreeMap<&str, usize> = BTreeMap::new();
    for it in seen.iter().filter(|it| it.status == 200) {
        *answered.entry(&it.path).or_default() += 1;
    }
    assert_eq!(answered.len(), wanted, "each is answered");
    assert!(answered.values().all(|count| *count == 1), "and once");
    let throttled: Vec<_> = (0..)
        .zip(&seen)
        .filter(|(_, it)| it.status == 429)
        .collect();
    let throttled: Vec<_> = throttled.iter().map(|(at, _)| *at).collect();
    assert_eq!(throttled.first(), Some(&REFUSED));
    assert_eq!(seen.len(), wanted + throttled.len());
    let most = most_in_a_second(&seen);
    let took_micros = seen[seen.len() - 1].at_micros - seen[0].at_micros;
    println!(
        "{} requests in {:.1} s, at most {most} in a second of {QUOTA}",
        seen.len(),
        took_micros as f64 / 1e6
    );
    if measured_ids().is_some() {
        // 8 partitions with 64 requests each are before it in time, and none in turn.
        assert!(median < Duration::from_millis(500), "{median:?}");
        assert_eq!(throttled, [REFUSED], "no 429 after the first back-off");
        assert!(most <= QUOTA, "{most}");
    }
    let requests: u64 = ended
        .partitions
        .iter()
        .filter_map(|it| it.calls.as_ref())
        .map(|calls| calls.request_count)
        .sum();
    assert_eq!(requests, seen.len() as u64);

    let paths: BTreeSet<_> = seen.iter().map(|it| it.path.clone()).collect();
    assert_eq!(paths.len(), wanted);
    rig.clients.run_well(spec).await;
    assert_eq!(upstream.count(), seen.len(), "a re-run asks nothing");
    rig.stop().await;
}
