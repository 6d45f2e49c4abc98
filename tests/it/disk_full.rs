//! A disk that fills up: writes are refused clearly, reads go on, backfills wait, nothing is lost, and all of it goes on by
//! itself once there is room.
//!
//! With a probe that says what a test wants, everywhere; and on a small ext4 that really is full, where the machine lets a test
//! mount one.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hindcast::{
    disk::{Probe, Space},
    pb::{self, BackfillState, PartitionState},
    server::{RunningServer, ServerConfig, start},
    time::ManualClock,
};
use tonic::{Code, Status};
use tonic_health::pb::{health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt;

use crate::{
    backfill_support::{
        Clients, SLOW, at, csv_source, days, float, micros, numbered_days, over_events,
        partition_changes,
    },
    health::{health_of, probe},
};

const PLENTY: u64 = 1 << 40;
const MINIMUM: u64 = 512 << 20;

/// As many free bytes as a test says.
#[derive(Debug)]
struct Said(AtomicU64);

impl Said {
    fn say(&self, free_bytes: u64) {
        self.0.store(free_bytes, Ordering::SeqCst);
    }
}

impl Probe for Said {
    fn space(&self, _folder: &Path) -> std::io::Result<Space> {
        Ok(Space {
            free_bytes: self.0.load(Ordering::SeqCst),
            total_bytes: PLENTY,
        })
    }
}

fn config(data_dir: PathBuf) -> ServerConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ServerConfig {
        listen: any,
        metrics_listen: Some(any),
        store_cache_bytes: 16 << 20,
        ..ServerConfig::new(data_dir)
    }
}

async fn serve(config: ServerConfig) -> (RunningServer, Clients) {
    let clock = ManualClock::starting_at(micros("2013-12-31T00:00:00Z"));
    let server = Box::pin(start(config, clock)).await.expect("starts");
    let clients = Clients::connect(server.local_addr()).await;
    (server, clients)
}

/// A server whose disk has the room that the probe says; nothing is written yet.
async fn rig() -> (tempfile::TempDir, Arc<Said>, RunningServer, Clients) {
    let folder = tempfile::tempdir().expect("a folder");
    let said = Arc::new(Said(AtomicU64::new(PLENTY)));
    let (server, clients) = serve(ServerConfig {
        disk_probe: Arc::clone(&said) as _,
        ..config(folder.path().join("data"))
    })
    .await;
    (folder, said, server, clients)
}

fn station(id: &str, count: usize) -> pb::WriteRequest {
    let mutation = |number: usize| pb::Mutation {
        entity_type: "station".to_owned(),
        entity_id: format!("{id}-{number}"),
        operation: Some(pb::mutation::Operation::Put(pb::Put {
            attributes: HashMap::from([("temp".to_owned(), float(number as f64))]),
            valid_from: Some(at("2013-01-01T00:00:00Z")),
            until: None,
        })),
        ..pb::Mutation::default()
    };
    pb::WriteRequest {
        mutations: (0..count).map(mutation).collect(),
        ..pb::WriteRequest::default()
    }
}

async fn read(clients: &mut Clients, id: &str) -> Result<pb::GetEntityResponse, Status> {
    let request = pb::GetEntityRequest {
        entity_type: "station".to_owned(),
        entity_id: id.to_owned(),
        valid_time: Some(at("2013-01-02T00:00:00Z")),
        ..pb::GetEntityRequest::default()
    };
    let got = clients.entities.get_entity(request).await?;
    Ok(got.into_inner())
}

/// Checks that it is the refusal of a full disk.
fn assert_full(refused: &Status) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().expect("it").reason, "DISK_FULL");
    let retry = details.retry_info().expect("when to ask again");
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(10)));
}

/// Waits until `/readyz` answers with this status.
async fn until_ready(metrics: SocketAddr, status: u16) -> String {
    loop {
        let (found, text) = probe(metrics, "/readyz").await;
        if found == status {
            return text;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_writes_and_answers_reads() {
    let (_folder, said, server, mut clients) = rig().await;
    let metrics = server.metrics_addr().expect("it is on");
    clients.create_stations().await;
    let written = clients.entities.write(station("oslo", 1)).await;
    written.expect("there is room");

    // The minimum itself is enough.
    said.say(MINIMUM);
    let written = clients.entities.write(station("bergen", 1)).await;
    written.expect("there is room");
    said.say(MINIMUM - 1);
    let refused = clients.entities.write(station("tromso", 1)).await;
    let refused = refused.expect_err("no room");
    assert_full(&refused);
    for part in ["536870911 free bytes", "needs 536870912"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    let transform = over_events("kept", "SELECT v FROM events");
    assert_full(&clients.register(transform).await.expect_err("no room"));
    let range = days("kept", "2013-01-01", "2013-01-02");
    assert_full(&clients.create(range).await.expect_err("no room"));

    read(&mut clients, "oslo-0").await.expect("reads go on");
    let unknown = read(&mut clients, "tromso-0").await.expect("reads go on");
    assert!(
        !format!("{unknown:?}").contains("Float64Value"),
        "{unknown:?}"
    );
    let why = until_ready(metrics, 503).await;
    assert!(why.contains("disk"), "{why}");
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", server.local_addr()));
    let channel = channel.expect("an address").connect().await;
    let mut health = HealthClient::new(channel.expect("connects"));
    let entities = "hindcast.v1.EntityStoreService";
    let admin = "hindcast.v1.AdminService";
    let mut statuses = (
        health_of(&mut health, entities).await,
        health_of(&mut health, admin).await,
    );
    assert_eq!(
        statuses,
        (ServingStatus::NotServing, ServingStatus::Serving)
    );
    let (_, page) = probe(metrics, "/metrics").await;
    assert!(page.contains("hindcast_disk_full 1\n"), "{page}");
    assert!(
        page.contains("hindcast_disk_refused_writes_total 3\n"),
        "{page}"
    );

    said.say(PLENTY);
    until_ready(metrics, 200).await;
    statuses.0 = health_of(&mut health, entities).await;
    assert_eq!(statuses.0, ServingStatus::Serving);
    let written = clients.entities.write(station("tromso", 1)).await;
    written.expect("there is room again");
    drop((clients, health));
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn backfills_wait_for_room_and_use_up_no_attempt() {
    let (folder, said, server, mut clients) = rig().await;
    let metrics = server.metrics_addr().expect("it is on");
    let events = folder.path().join("events.csv");
    std::fs::write(&events, numbered_days(30)).expect("written");
    let source = csv_source("events", &events, &[("v", "int64")]);
    clients.create_source(source).await.expect("created");
    let sql = format!("SELECT v, {SLOW} AS s FROM events");
    clients
        .register(over_events("slow", &sql))
        .await
        .expect("registered");
    let mut range = days("slow", "2013-01-01", "2013-01-31");
    range.max_active_partitions = 1;
    let created = clients.create(range).await.expect("created");

    said.say(0);
    until_ready(metrics, 503).await;
    let count = |partitions: &[pb::Partition], state| {
        let found = partitions.iter().filter(|it| it.state() == state);
        found.count()
    };
    let waiting = loop {
        let partitions = clients.partitions(&created.name).await;
        if count(&partitions, PartitionState::Running) == 0 {
            let waiting = partitions.iter();
            let waiting = waiting.filter(|it| it.state() == PartitionState::Pending);
            for partition in waiting.clone() {
                let told = "waits for room on the disk: cannot write: the disk of ";
                assert!(partition.message.starts_with(told), "{partition:?}");
            }
            break waiting.count();
        }
    };
    assert!(waiting > 0, "all was over before the disk was full");
    assert_eq!(
        clients.get(&created.name).await.state(),
        BackfillState::Running
    );
    // Nothing starts, however often somebody asks.
    for _ in 0..20 {
        clients.pause(&created.name).await.expect("paused");
        clients.resume(&created.name).await.expect("resumed");
        let partitions = clients.partitions(&created.name).await;
        assert_eq!(count(&partitions, PartitionState::Pending), waiting);
    }

    said.say(PLENTY);
    let ended = clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    for change in partition_changes(&ended.events) {
        assert!(change.attempt <= 1, "{change:?}");
    }
    drop(clients);
    server.shutdown().await.expect("stops");
}

/// A small ext4 in a file, mounted; taken down when it is dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, after saying so, where that is not allowed.
    fn new(size_bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("image");
        let file = File::create(&image).expect("an image");
        file.set_len(size_bytes).expect("an image");
        let disk = Self { folder };
        std::fs::create_dir(disk.path()).expect("a folder");
        let made = run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-e", "remount-ro"])
            .arg(&image));
        let mounted = made.and_then(|()| {
            let mut mount = Command::new("mount");
            run(mount.args(["-o", "loop"]).arg(&image).arg(disk.path()))
        });
        match mounted {
            Ok(()) => Some(disk),
            Err(problem) => {
                println!("skipped: no file system can be mounted here: {problem}");
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Lets the file system find a fault in itself: from then on nothing can be written.
    fn break_off(&self) -> Result<(), String> {
        let mut find = Command::new("findmnt");
        find.args(["--noheadings", "--output", "SOURCE"])
            .arg(self.path());
        let output = find.output().map_err(|error| error.to_string())?;
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let name = device.trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        std::fs::write(&trigger, "broken by a test").map_err(|error| format!("{trigger}: {error}"))
    }

    /// Writes a file until there is no byte left.
    fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![7; size];
            while file.write_all(&block).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also what was never mounted.
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(complaint.trim().to_owned()),
    }
}

/// Writes batches until one is refused; the ids of those that were acknowledged.
async fn write_until_full(clients: &mut Clients) -> (Vec<String>, Status) {
    let mut acknowledged = Vec::new();
    for batch in 0..10_000 {
        let id = format!("batch{batch}");
        match clients.entities.write(station(&id, 1_000)).await {
            Ok(_) => acknowledged.push(id),
            Err(refused) => {
                assert_full(&refused);
                return (acknowledged, refused);
            }
        }
    }
    panic!("it is never full");
}

#[tokio::test]
async fn a_disk_that_really_is_full_loses_nothing_and_needs_no_restart() {
    let Some(disk) = SmallDisk::new(256 << 20) else {
        return;
    };
    let config = ServerConfig {
        // Nothing is refused before the operating system does.
        minimum_free_bytes: 0,
        ..config(disk.path().join("data"))
    };
    let (server, mut clients) = serve(config.clone()).await;
    clients.create_stations().await;
    let events = disk.folder.path().join("events.csv");
    std::fs::write(&events, numbered_days(3)).expect("written");
    let source = csv_source("events", &events, &[("v", "int64")]);
    clients.create_source(source).await.expect("created");
    let transform = over_events("kept", "SELECT v FROM events");
    clients.register(transform).await.expect("registered");
    let unmade = over_events("unmade", "SELECT v FROM events");
    clients.register(unmade).await.expect("registered");
    clients
        .run_well(days("kept", "2013-01-01", "2013-01-02"))
        .await;

    disk.fill();
    let range = days("unmade", "2013-01-01", "2013-01-02");
    let refused = clients.create(range).await;
    assert_full(&refused.expect_err("there is no room for a new table"));
    let (acknowledged, refused) = write_until_full(&mut clients).await;
    assert!(refused.message().contains("No space left"), "{refused}");
    assert!(
        acknowledged.len() > 10,
        "the reserve: {}",
        acknowledged.len()
    );
    for id in &acknowledged {
        let id = format!("{id}-999");
        read(&mut clients, &id).await.expect("reads go on");
    }

    let range = days("kept", "2013-01-02", "2013-01-04");
    let created = loop {
        // For a moment after a refusal the disk counts as full, whatever is measured.
        match clients.create(range.clone()).await {
            Ok(created) => break created,
            Err(refused) => assert_full(&refused),
        }
    };
    let waiting = loop {
        let partitions = clients.partitions(&created.name).await;
        if partitions.iter().any(|it| !it.message.is_empty()) {
            break partitions;
        }
        tokio::task::yield_now().await;
    };
    for partition in waiting.iter().filter(|it| !it.message.is_empty()) {
        assert!(
            partition
                .message
                .starts_with("waits for room on the disk: "),
            "{}",
            partition.message
        );
    }

    // A restart finds its way without a byte of room, and what waited waits on.
    drop(clients);
    server.shutdown().await.expect("stops");
    let (server, mut clients) = serve(config.clone()).await;
    for id in &acknowledged {
        let id = format!("{id}-0");
        read(&mut clients, &id).await.expect("reads go on");
    }

    std::fs::remove_file(disk.filler()).expect("removed");
    let ended = clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert_eq!(
        clients.rows("kept").await,
        ["2013-01-01 v=1", "2013-01-02 v=2", "2013-01-03 v=3"]
    );
    loop {
        match clients.entities.write(station("late", 1_000)).await {
            Ok(_) => break,
            Err(refused) => assert_full(&refused),
        }
    }
    drop(clients);
    server.shutdown().await.expect("stops");

    let (server, mut clients) = serve(config).await;
    for id in acknowledged.iter().map(String::as_str).chain(["late"]) {
        for number in [0, 500, 999] {
            let id = format!("{id}-{number}");
            let found = read(&mut clients, &id).await.expect("read");
            let value = format!(
                "{:?}",
                Some(pb::value::Kind::Float64Value(f64::from(number)))
            );
            assert!(format!("{found:?}").contains(&value), "{id}: {found:?}");
        }
    }
    println!(
        "{} batches were acknowledged on a full disk",
        acknowledged.len()
    );
    drop(clients);
    server.shutdown().await.expect("stops");
}

/// What the server writes for itself lives on room that it took while there was some.
#[tokio::test]
async fn a_journal_on_a_full_disk_goes_on() {
    let Some(disk) = SmallDisk::new(256 << 20) else {
        return;
    };
    let config = ServerConfig {
        minimum_free_bytes: 0,
        ..config(disk.path().join("data"))
    };
    let (server, mut clients) = serve(config.clone()).await;
    let events = disk.folder.path().join("events.csv");
    std::fs::write(&events, numbered_days(3)).expect("written");
    let source = csv_source("events", &events, &[("v", "int64")]);
    clients.create_source(source).await.expect("created");
    let sql = format!("SELECT v, {SLOW} AS s FROM events");
    clients
        .register(over_events("slow", &sql))
        .await
        .expect("registered");
    let range = days("slow", "2013-01-01", "2013-01-04");
    let created = clients.create(range).await.expect("created");
    clients.pause(&created.name).await.expect("paused");

    disk.fill();
    for _ in 0..50 {
        clients.resume(&created.name).await.expect("journalled");
        clients.pause(&created.name).await.expect("journalled");
    }
    drop(clients);
    server.shutdown().await.expect("stops");
    let (server, mut clients) = serve(config).await;
    clients.resume(&created.name).await.expect("journalled");

    std::fs::remove_file(disk.filler()).expect("removed");
    let ended = clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    drop(clients);
    server.shutdown().await.expect("stops");
}

/// Nothing but a restart helps a database whose flush failed: probes say so, and reads go on until then.
#[tokio::test]
async fn a_disk_that_breaks_asks_for_a_restart() {
    let Some(disk) = SmallDisk::new(256 << 20) else {
        return;
    };
    let config = ServerConfig {
        minimum_free_bytes: 0,
        ..config(disk.path().join("data"))
    };
    let (server, mut clients) = serve(config).await;
    let metrics = server.metrics_addr().expect("it is on");
    clients.create_stations().await;
    let written = clients.entities.write(station("oslo", 1)).await;
    written.expect("it is whole");
    until_ready(metrics, 200).await;
    assert_eq!(probe(metrics, "/livez").await.0, 200);

    if let Err(problem) = disk.break_off() {
        println!("skipped: the disk cannot be broken here: {problem}");
        return;
    }
    let refused = loop {
        if let Err(refused) = clients.entities.write(station("bergen", 1)).await {
            break refused;
        }
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().expect("it").reason, "STORAGE_POISONED");
    let why = until_ready(metrics, 503).await;
    assert!(why.contains("only a restart helps"), "{why}");
    assert_eq!(probe(metrics, "/livez").await.0, 503);
    read(&mut clients, "oslo-0").await.expect("reads go on");
    drop(clients);
    server
        .shutdown()
        .await
        .expect_err("what was written last cannot be flushed");
}
