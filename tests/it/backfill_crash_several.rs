//! `kill -9` of the real binary while several transforms that read each other are backfilled.

use std::{collections::BTreeMap, path::Path, time::Duration};

use hindcast::pb::{self, BackfillState, PartitionState};

use crate::{
    backfill_crash::{
        HOURS, Process, Random, control, follow, go_on, hourly, hours, hours_source, serve,
    },
    backfill_support::{Clients, assert_dense, daily, partition_changes},
};

const DAYS: usize = HOURS / 24;
const KILLS: usize = 4;
/// A life of the server ends after at most this long.
const LONGEST_LIFE_MS: u64 = 700;

/// A server over the hourly rows, and its folder.
async fn over_hours() -> (tempfile::TempDir, Process, Clients) {
    let folder = tempfile::tempdir().expect("a folder");
    let (process, mut clients) = serve(folder.path()).await;
    hours_source(&mut clients, folder.path()).await;
    (folder, process, clients)
}

/// Kills the server again and again while the backfill runs, then lets it end; its events, as a watcher that came back after
/// each kill saw them.
async fn shake(
    folder: &Path,
    mut process: Process,
    mut clients: Clients,
    name: &str,
    (random, parallel): (&mut Random, bool),
) -> (Process, Clients, Vec<pb::Event>) {
    let mut events = Vec::new();
    let mut kills = 0;
    while kills < KILLS {
        let life = Duration::from_millis(random.below(LONGEST_LIFE_MS));
        follow(&mut clients, name, life, &mut events).await;
        control(&mut clients, name, random, parallel).await;
        if clients.get(name).await.end_time.is_some() {
            break;
        }
        drop(process);
        kills += 1;
        (process, clients) = serve(folder).await;
        go_on(&mut clients, name).await;
    }
    println!("{name}: {kills} kills");
    follow(&mut clients, name, Duration::from_secs(60), &mut events).await;
    assert_dense(&events);
    assert_eq!(events, clients.events(name, 0).await, "PR-1");
    (process, clients, events)
}

/// Hours, days that read them, and a running total that reads the hours and itself.
fn chain(prefix: &str) -> [pb::Transform; 3] {
    let hours = format!("{prefix}_hours");
    let reads = vec![pb::TableInput {
        table: hours.clone(),
        lookback: None,
    }];
    let slow = "SELECT v, n FROM events CROSS JOIN (SELECT count(*) AS n FROM generate_series(1, 200) a, generate_series(1, 200) b)";
    let total = format!(
        "SELECT coalesce((SELECT max(v) FROM prior), 0) + coalesce((SELECT sum(v) FROM {hours}), 0) AS v"
    );
    [
        hourly(
            &hours,
            &format!("SELECT v + n - 40000 AS v FROM ({slow})"),
            false,
        ),
        pb::Transform {
            tables: reads.clone(),
            ..daily(
                &format!("{prefix}_days"),
                &format!("SELECT sum(v) AS v, count(*) AS n FROM {hours}"),
            )
        },
        pb::Transform {
            tables: reads,
            sources: Vec::new(),
            ..hourly(&format!("{prefix}_total"), &total, true)
        },
    ]
}

fn whole_chain(prefix: &str) -> pb::BackfillSpec {
    let names = ["total", "days", "hours"].map(|name| format!("{prefix}_{name}"));
    pb::BackfillSpec {
        transform: String::new(),
        transforms: names
            .into_iter()
            .map(|transform| pb::TransformRevision {
                transform,
                revision: 0,
            })
            .collect(),
        partitions_per_task: 3,
        ..hours("")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_transforms_survive_kills() {
    let mut random = Random::seeded("several");
    let (folder, process, mut clients) = over_hours().await;
    for transform in chain("shaken").into_iter().chain(chain("calm")) {
        clients.register(transform).await.expect("registered");
    }
    let name = clients.create(whole_chain("shaken")).await;
    let name = name.expect("created").name;
    let how = (&mut random, true);
    let (process, mut clients, events) =
        Box::pin(shake(folder.path(), process, clients, &name, how)).await;
    let ended = clients.ended(&name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    let mut published: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for change in partition_changes(&events) {
        let key = (change.transform.as_str(), change.label.as_str());
        if change.state() == PartitionState::Succeeded {
            *published.entry(key).or_default() += 1;
        }
        if change.state() == PartitionState::Running && change.transform == "shaken_days" {
            let read = published.keys().filter(|(transform, label)| {
                *transform == "shaken_hours" && label.starts_with(&change.label)
            });
            assert_eq!(read.count(), 24, "{change:?} before what it reads");
        }
    }
    assert_eq!(published.len(), 2 * HOURS + DAYS);
    assert!(published.values().all(|&count| count == 1), "{published:?}");
    for (table, count) in [("hours", HOURS), ("days", DAYS), ("total", HOURS)] {
        let replaced = clients.table(&format!("shaken_{table}")).await.snapshots;
        let replaced: u32 = replaced.iter().map(|it| it.partition_count).sum();
        assert_eq!(replaced as usize, count, "{table}");
    }

    let calm = clients.run_well(whole_chain("calm")).await;
    for table in ["hours", "days", "total"] {
        let rows = clients.rows(&format!("shaken_{table}")).await;
        assert_eq!(
            rows,
            clients.rows(&format!("calm_{table}")).await,
            "{table}"
        );
    }
    assert_eq!(ended.backfill.rows_read, calm.backfill.rows_read);
    assert_eq!(ended.backfill.rows_written, calm.backfill.rows_written);
    drop(process);
}
