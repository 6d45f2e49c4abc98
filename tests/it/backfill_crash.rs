//! `kill -9` of the real binary, again and again, in the middle of backfills: while they run, while the server stops being
//! asked, while it comes back.
//!
//! `HINDCAST_CRASH_KILLS` says how often each transform's server is killed; `just backfill-crash-rounds` kills 50 times.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hindcast::{
    pb::{self, BackfillState, PartitionState, watch_backfill_response::Message},
    time::SystemClock,
};
use tokio::time::timeout;

use crate::backfill_support::{
    Clients, assert_dense, csv_source, daily, entity_input, partition_changes, source_input, spec,
};

pub(crate) const HOURS: usize = 60;
/// Of each transform's server, unless the environment says otherwise.
const KILLS: usize = 15;
/// A life of the server ends after at most this long.
const LONGEST_LIFE_MS: u64 = 500;
/// A start that is not waited for ends after at most this long.
const LONGEST_START_MS: u64 = 150;
/// How long the tidying up after a backfill may take.
const TIDY: Duration = Duration::from_secs(20);

/// A secret that calls may name.
pub(crate) const SECRET: &str = "s3cr3t";

/// `hindcast serve`, killed when it is dropped.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(folder: &Path) -> Process {
    let child = Command::new(env!("CARGO_BIN_EXE_hindcast"))
        .args(["serve", "--listen", "127.0.0.1:0", "--store-cache", "16MiB"])
        .arg("--data-dir")
        .arg(folder.join("data"))
        .env("RUST_LOG", "error")
        .env("HINDCAST_SECRET_TOKEN", SECRET)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    Process(child)
}

pub(crate) async fn serve(folder: &Path) -> (Process, Clients) {
    let mut process = spawn(folder);
    let stdout = process.0.stdout.take().expect("piped");
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        line
    })
    .await
    .expect("read");
    let address = line
        .split("http://")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .unwrap_or_else(|| panic!("no address in {line:?}"));
    let clients = Clients::connect(address.parse().expect("an address")).await;
    (process, clients)
}

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// From `HINDCAST_TEST_SEED`, or else from the machine; printed for a failure's sake.
    pub(crate) fn seeded(what: &str) -> Self {
        let seed = match std::env::var("HINDCAST_TEST_SEED") {
            Ok(text) => text.parse().expect("a number"),
            Err(_) => std::hash::RandomState::new().build_hasher().finish(),
        };
        println!("{what}: HINDCAST_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Every fifth hour has no row: its partition is published empty.
fn hourly_rows() -> String {
    let mut text = "ts,v\n".to_owned();
    for hour in (0..HOURS).filter(|hour| hour % 5 != 4) {
        let (day, hour_of_day) = (1 + hour / 24, hour % 24);
        text.push_str(&format!("2013-01-{day:02}T{hour_of_day:02}:30:00,{hour}\n"));
    }
    text
}

/// The hourly rows as a source, and a station beside them.
pub(crate) async fn hours_source(clients: &mut Clients, folder: &Path) {
    let source = folder.join("events.csv");
    std::fs::write(&source, hourly_rows()).expect("written");
    clients
        .create_source(csv_source("events", &source, &[("v", "int64")]))
        .await
        .expect("created");
    clients.create_stations().await;
    clients.put_station("s", "2012-01-01T00:00:00Z", 1.0).await;
}

pub(crate) fn hourly(name: &str, sql: &str, prior: bool) -> pb::Transform {
    pb::Transform {
        sources: vec![source_input("events")],
        // Declared, and not read: what was recorded of each partition says so.
        entities: vec![entity_input("station")],
        grain: pb::Grain::Hourly.into(),
        prior: prior.then_some(pb::PriorInput { partitions: 0 }),
        output_columns: vec!["v int64".to_owned()],
        ..daily(name, sql)
    }
}

pub(crate) fn hours(name: &str) -> pb::BackfillSpec {
    let mut spec = spec(
        name,
        "2013-01-01T00:00:00Z",
        "2013-01-03T12:00:00Z",
        pb::Knowledge::AsKnownNow,
    );
    spec.max_active_partitions = 4;
    spec
}

/// Reads events into `events` until the stream ends, breaks, or `life` is over.
pub(crate) async fn follow(
    clients: &mut Clients,
    name: &str,
    life: Duration,
    events: &mut Vec<pb::Event>,
) {
    let after = events.last().map_or(0, |event| event.sequence);
    let mut stream = clients.watch(name, after).await;
    let reading = async {
        while let Ok(Some(item)) = stream.message().await {
            if let Some(Message::Event(event)) = item.message {
                events.push(event);
            }
        }
    };
    // Killed in the middle of whatever comes then.
    let _ = timeout(life, reading).await;
}

/// Pauses it or changes its concurrency, or does neither. It may have ended meanwhile.
pub(crate) async fn control(
    clients: &mut Clients,
    name: &str,
    random: &mut Random,
    parallel: bool,
) {
    let outcome = match random.below(3) {
        0 => clients.pause(name).await,
        1 if parallel => {
            let count = 1 + random.below(6) as u32;
            clients.set_concurrency(name, count).await
        }
        _ => return,
    };
    assert_ended_or_done(outcome);
}

/// A backfill that was paused when the server was killed is paused.
pub(crate) async fn go_on(clients: &mut Clients, name: &str) {
    assert_ended_or_done(clients.resume(name).await);
}

fn assert_ended_or_done(outcome: Result<pb::Backfill, tonic::Status>) {
    if let Err(refused) = outcome {
        assert!(refused.message().contains("it is succeeded"), "{refused}");
    }
}

async fn pause(millis: u64) {
    SystemClock::shared()
        .sleep(Duration::from_millis(millis))
        .await;
}

/// Kills a start at a random moment: while the server opens its folder, takes its backfills up, or runs them already.
async fn kill_a_start(folder: &Path, random: &mut Random) {
    let process = spawn(folder);
    pause(random.below(LONGEST_START_MS)).await;
    drop(process);
}

/// A server that is killed, and what a watcher of its backfill saw of all its lives.
struct Shaken<'a> {
    folder: &'a Path,
    process: Process,
    clients: Clients,
    random: Random,
    kills: usize,
    parallel: bool,
}

impl Shaken<'_> {
    /// Runs one backfill, killing the server until it ended or has been killed `most` times; then checks all of it.
    async fn run(&mut self, most: usize) -> pb::Backfill {
        let created = self.clients.create(hours("shaken")).await;
        let name = created.expect("created").name;
        let mut events = Vec::new();
        while self.kills < most {
            let life = Duration::from_millis(self.random.below(LONGEST_LIFE_MS));
            follow(&mut self.clients, &name, life, &mut events).await;
            control(&mut self.clients, &name, &mut self.random, self.parallel).await;
            if self.clients.get(&name).await.end_time.is_some() {
                break;
            }
            self.kill().await;
            go_on(&mut self.clients, &name).await;
        }
        go_on(&mut self.clients, &name).await;
        follow(
            &mut self.clients,
            &name,
            Duration::from_secs(120),
            &mut events,
        )
        .await;
        assert_dense(&events);
        assert_eq!(events, self.clients.events(&name, 0).await, "PR-1");
        check_published_once(&mut self.clients, &name, &events).await;
        self.clients.get(&name).await
    }

    async fn kill(&mut self) {
        // The process before the connection: no request ends in peace.
        self.process.0.kill().expect("killed");
        self.process.0.wait().expect("waited for");
        self.kills += 1;
        while self.random.below(3) == 0 {
            kill_a_start(self.folder, &mut self.random).await;
            self.kills += 1;
        }
        (self.process, self.clients) = serve(self.folder).await;
    }
}

async fn survives(what: &str, sql: &str, prior: bool) {
    let kills = match std::env::var("HINDCAST_CRASH_KILLS") {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => KILLS,
    };
    let random = Random::seeded(what);
    let folder = tempfile::tempdir().expect("a folder");
    let (process, mut clients) = serve(folder.path()).await;
    hours_source(&mut clients, folder.path()).await;
    for name in ["shaken", "calm"] {
        clients
            .register(hourly(name, sql, prior))
            .await
            .expect("registered");
    }
    let calm = clients.run_well(hours("calm")).await;
    let rows = clients.rows("calm").await;

    let mut shaken = Shaken {
        folder: folder.path(),
        process,
        clients,
        random,
        kills: 0,
        parallel: !prior,
    };
    let mut runs = 0;
    while shaken.kills < kills {
        let ended = shaken.run(kills).await;
        runs += 1;
        assert_eq!(shaken.clients.rows("shaken").await, rows);
        assert_eq!(ended.rows_read, calm.backfill.rows_read);
        assert_eq!(ended.rows_written, calm.backfill.rows_written);
        // One for each partition that has rows, and none that an attempt before a kill left.
        await_data_files(folder.path(), runs * (HOURS - HOURS / 5)).await;
    }
    println!("{what}: {} kills in {runs} backfills", shaken.kills);
    check_inputs_recorded(&mut shaken.clients).await;
}

/// What each partition read is known, whichever attempt was published, and how often the server went away in between: for
/// want of a record it would be taken for a reader of all that is declared.
async fn check_inputs_recorded(clients: &mut Clients) {
    clients.put_station("s", "2012-01-01T00:00:00Z", 2.0).await;
    let request = pb::ListStalePartitionsRequest {
        transform: "shaken".to_owned(),
        ..pb::ListStalePartitionsRequest::default()
    };
    let listed = clients.backfills.list_stale_partitions(request).await;
    let page = listed.expect("listed").into_inner();
    assert_eq!(page.published_count as usize, HOURS);
    assert_eq!(page.partitions, []);
}

/// Waits until the table has so many data files: those of dead attempts go after the backfill's end.
async fn await_data_files(folder: &Path, due: usize) {
    let data = folder.join("data/warehouse/shaken/data");
    let count = || std::fs::read_dir(&data).expect("a folder").count();
    let tidy = async {
        while count() != due {
            pause(20).await;
        }
    };
    if timeout(TIDY, tidy).await.is_err() {
        panic!("{} data files instead of {due}", count());
    }
}

/// `BF-1`, as the events, the partitions and the table itself tell it.
async fn check_published_once(clients: &mut Clients, name: &str, events: &[pb::Event]) {
    let ended = clients.ended(name).await;
    assert_eq!(
        ended.backfill.state(),
        BackfillState::Succeeded,
        "{:?}",
        ended.partitions
    );
    let mut published: BTreeMap<&str, u32> = BTreeMap::new();
    let mut attempts: BTreeMap<&str, u32> = BTreeMap::new();
    for change in partition_changes(events) {
        let counted = match change.state() {
            PartitionState::Succeeded => &mut published,
            PartitionState::Running => &mut attempts,
            PartitionState::Unspecified
            | PartitionState::Pending
            | PartitionState::Blocked
            | PartitionState::WaitingRetry
            | PartitionState::Failed
            | PartitionState::UpstreamFailed
            | PartitionState::Skipped
            | PartitionState::Cancelled => continue,
        };
        *counted.entry(&change.label).or_default() += 1;
    }
    assert_eq!(published.len(), HOURS);
    assert!(published.values().all(|&count| count == 1), "{published:?}");
    for partition in &ended.partitions {
        let begun = attempts[partition.label.as_str()];
        assert_eq!(partition.attempt_count, begun, "{}", partition.label);
        assert_ne!(partition.snapshot_id, 0, "{}", partition.label);
    }
    let table = clients.table("shaken").await;
    let replaced: u32 = table
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.backfill == name)
        .map(|snapshot| snapshot.partition_count)
        .sum();
    assert_eq!(replaced as usize, HOURS, "{:?}", table.snapshots);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parallel_backfill_survives_kills() {
    let sql = "SELECT v, n FROM events CROSS JOIN (SELECT count(*) AS n FROM generate_series(1, 200) a, generate_series(1, 200) b)";
    let sql = format!("SELECT v + n - 40000 AS v FROM ({sql})");
    Box::pin(survives("parallel", &sql, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_with_prior_survives_kills() {
    let sql = "SELECT v + coalesce((SELECT max(v) FROM prior), 0) AS v FROM events";
    Box::pin(survives("prior", sql, true)).await;
}
