//! `kill -9` of the real binary while its calls are under way: what was answered and kept is not asked again.

use std::{collections::BTreeSet, time::Duration};

use hindcast::{pb, time::SystemClock};

use crate::{
    backfill_crash::{Random, SECRET, follow, serve},
    backfill_support::{Clients, csv_source, days},
    calls_support::{ASK, Upstream, asking, length, per_second, put_limit, rows, value_call},
};

const DAYS: u32 = 10;
const IDS: u32 = 40;
const KILLS: usize = 4;
/// Requests that may be under way when the server is killed: 64 of each of 4 partitions.
const UNDER_WAY: usize = 4 * 64;

/// The paths whose answers were kept before an instant.
async fn kept(clients: &mut Clients, before_micros: i64) -> BTreeSet<String> {
    let request = pb::ScanEntitiesRequest {
        entity_type: "asked_value".to_owned(),
        ..Default::default()
    };
    let scan = clients
        .entities
        .scan_entities(request)
        .await
        .expect("scans");
    let mut scan = scan.into_inner();
    let mut kept = BTreeSet::new();
    while let Some(page) = scan.message().await.expect("goes on") {
        for version in page.versions {
            let kept_at = version.system_from.expect("a system time");
            if kept_at.seconds * 1_000_000 + i64::from(kept_at.nanos) / 1_000 >= before_micros {
                continue;
            }
            let (_, arguments) = version.entity_id.split_once('/').expect("a digest");
            let (id, at) = arguments.split_once('/').expect("two arguments");
            kept.insert(format!("/v/{id}?at={at}"));
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_goes_on_without_asking_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut random = Random::seeded("calls_crash");
    let upstream = Upstream::start(|path, _| length(path)).await;
    put_limit(folder, per_second("usual", 200, 20));
    let source = folder.join("asks.csv");
    std::fs::write(&source, rows(DAYS, IDS)).expect("written");
    let (mut process, mut clients) = serve(folder).await;
    clients
        .create_source(csv_source("asks", &source, &[("id", "int64")]))
        .await
        .expect("created");
    let mut call = value_call(&upstream);
    call.headers = vec![pb::CallHeader {
        name: "X-Token".to_owned(),
        value: "${env:HINDCAST_SECRET_TOKEN}".to_owned(),
    }];
    clients
        .register(asking("asked", ASK, call))
        .await
        .expect("registered");
    let mut spec = days("asked", "2013-01-01", "2013-01-11");
    spec.max_active_partitions = 4;
    let name = clients.create(spec.clone()).await.expect("created").name;
    let mut events = Vec::new();
    let mut kills = 0;
    // Of each life after the first: the requests that came before it, and what was kept then.
    let mut lives = Vec::new();
    let clock = SystemClock::shared();
    while kills < KILLS {
        let life = Duration::from_millis(100 + random.below(400));
        follow(&mut clients, &name, life, &mut events).await;
        if clients.get(&name).await.end_time.is_some() {
            break;
        }
        drop(process);
        kills += 1;
        // Nothing is asked between the two.
        let before = upstream.count();
        let killed_at_micros = clock.now_micros();
        (process, clients) = serve(folder).await;
        lives.push((before, kept(&mut clients, killed_at_micros).await));
    }
    follow(&mut clients, &name, Duration::from_secs(120), &mut events).await;
    let backfill = clients.get(&name).await;
    assert_eq!(backfill.state(), pb::BackfillState::Succeeded);
    let wanted = (DAYS * IDS) as usize;
    assert_eq!(clients.rows("asked").await.len(), wanted);
    assert_eq!(kept(&mut clients, i64::MAX).await.len(), wanted);
    let seen = upstream.seen();
    for (before, kept) in &lives {
        let again = seen[*before..].iter().find(|it| kept.contains(&it.path));
        assert!(
            again.is_none(),
            "{again:?} was answered and kept, and asked again"
        );
    }
    assert!(
        lives.iter().any(|(_, kept)| !kept.is_empty()),
        "killed too early"
    );
    println!(
        "{kills} kills, {} requests for {wanted} answers",
        seen.len()
    );
    assert!(seen.len() <= wanted + kills * UNDER_WAY, "{}", seen.len());
    assert!(seen.iter().all(|it| it.token == SECRET));
    let count = upstream.count();
    let again = clients.run_well(spec).await;
    assert_eq!(upstream.count(), count, "{:?}", again.partitions[0].calls);
    drop(process);
}
