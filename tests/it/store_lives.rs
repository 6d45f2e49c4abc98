//! A life of the real server: writers that note what was acknowledged, and the check that all of it is there afterwards.
//!
//! Each writer owns a few entities and gives all of them the same batch after batch, so that their histories are equal
//! whenever no batch is half there. Batches overlap in valid time, differ in size, and now and then end an entity: pages
//! split and spill.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hindcast::{
    pb::{
        self, WriteRequest, entity_store_service_client::EntityStoreServiceClient, mutation,
        value::Kind,
    },
    store::{Store, Value},
    time::{Interval, SysTime, ValidTime},
};
use tonic::transport::Channel;

use crate::support::{from_micros, put};

/// Entities of one writer.
const ENTITIES: usize = 3;
/// Batches start at a valid time below this, in microseconds.
const POINTS: u64 = 60;
const TYPE: &str = "thing";

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

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

/// A number from the environment.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: not a number")),
    )
}

/// `hindcast serve` on a free port, killed with SIGKILL when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) client: EntityStoreServiceClient<Channel>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it on a data folder with these further variables in its environment.
    pub(crate) async fn start(data: &Path, environment: &[(&str, &std::ffi::OsStr)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hindcast"))
            .args(["serve", "--listen", "127.0.0.1:0", "--store-cache", "16MiB"])
            .arg("--data-dir")
            .arg(data)
            .envs(environment.iter().copied())
            .env("RUST_LOG", "off")
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).expect("a line");
            line
        })
        .await
        .expect("read");
        let address = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"))
            .unwrap_or_else(|| panic!("no address in {line:?}"))
            .trim_end_matches(',')
            .to_owned();
        let channel = Channel::from_shared(address).expect("an address");
        let client = EntityStoreServiceClient::new(channel.connect().await.expect("connects"));
        Self { child, client }
    }

    /// Declares the writers' type, unless it is there.
    pub(crate) async fn declare(&mut self) {
        let attribute = pb::Attribute {
            name: "v".to_owned(),
            kind: pb::AttributeKind::String.into(),
            ..Default::default()
        };
        let entity_type = pb::EntityType {
            name: TYPE.to_owned(),
            attributes: vec![attribute],
            ..Default::default()
        };
        let request = pb::CreateEntityTypeRequest {
            entity_type: Some(entity_type),
        };
        self.client
            .create_entity_type(request)
            .await
            .expect("declared");
    }
}

/// A batch that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    pub(crate) batch: u64,
    pub(crate) system_time: i64,
    /// What [`Writers::start`]'s `mark` said when the answer had come.
    pub(crate) mark: u64,
}

/// What one writer did.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    name: String,
    pub(crate) acknowledged: Vec<Acknowledged>,
}

/// One batch: the same for all of the writer's entities, and the same whenever it is sent.
struct Content {
    from: i64,
    to: i64,
    /// `None`: ended.
    text: Option<String>,
}

impl Content {
    fn new(batch: u64) -> Self {
        let mut random = Random::new(batch);
        let from = random.below(POINTS).cast_signed();
        let to = from + 1 + random.below(20).cast_signed();
        let padding = "x".repeat(random.below(200) as usize);
        let text = (random.below(8) > 0).then(|| format!("{batch}/{padding}"));
        Self { from, to, text }
    }
}

impl Writer {
    fn new(name: String) -> Self {
        Self {
            name,
            acknowledged: Vec::new(),
        }
    }

    /// With the batches alone that were acknowledged at this mark or before.
    pub(crate) fn until(&self, mark: u64) -> Self {
        let due = |acknowledged: &&Acknowledged| acknowledged.mark <= mark;
        Self {
            name: self.name.clone(),
            acknowledged: self.acknowledged.iter().take_while(due).cloned().collect(),
        }
    }

    /// The batch that would come next, or was under way.
    pub(crate) fn next(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    fn entity(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    fn request(&self, batch: u64) -> WriteRequest {
        let Content { from, to, text } = Content::new(batch);
        let mutation = |index| {
            let value = Kind::StringValue(text.clone().unwrap_or_default());
            let (from, to) = (from_micros(from), from_micros(to));
            let mut mutation = put(TYPE, &self.entity(index), [("v", value)], from, Some(to));
            if text.is_none() {
                mutation.operation = Some(mutation::Operation::End(pb::End {
                    valid_from: Some(from),
                    until: Some(pb::end::Until::ValidTo(to)),
                }));
            }
            mutation
        };
        WriteRequest {
            mutations: (0..ENTITIES).map(mutation).collect(),
            request_id: format!("{}-{batch}", self.name),
            ..Default::default()
        }
    }

    /// Sends one batch; `None`: no answer that says that it is there.
    async fn send(
        &self,
        client: &mut EntityStoreServiceClient<Channel>,
        batch: u64,
    ) -> Option<(i64, bool)> {
        let answer = client.write(self.request(batch)).await.ok()?.into_inner();
        let time = answer.system_time.expect("a system time");
        let micros = time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000;
        Some((micros, answer.replayed))
    }

    /// Sends the batch that was under way again: with its request id it is there once, whether it was before or not. Gives
    /// back whether it was.
    pub(crate) async fn finish(&mut self, process: &mut Process) -> bool {
        let batch = self.next();
        let sent = self.send(&mut process.client, batch).await;
        let (system_time, was_there) = sent.expect("written after the restart");
        self.acknowledged.push(Acknowledged {
            batch,
            system_time,
            mark: 0,
        });
        was_there
    }
}

/// Writers that go on until the server is gone.
pub(crate) struct Writers {
    running: Vec<tokio::task::JoinHandle<Writer>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Starts `count` writers of new entities. `mark` is called for each answer, once it has come.
    pub(crate) fn start(
        process: &Process,
        life: u64,
        count: usize,
        mark: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let mark = Arc::new(mark);
        let stop = Arc::new(AtomicBool::new(false));
        let running = (0..count).map(|index| {
            let (mark, stop) = (Arc::clone(&mark), Arc::clone(&stop));
            let mut client = process.client.clone();
            tokio::spawn(async move {
                let mut writer = Writer::new(format!("{life}-{index}"));
                loop {
                    let batch = writer.next();
                    let sent = writer.send(&mut client, batch).await;
                    let is_over = stop.load(Ordering::SeqCst);
                    let Some((system_time, _)) = sent.filter(|_| !is_over) else {
                        return writer;
                    };
                    writer.acknowledged.push(Acknowledged {
                        batch,
                        system_time,
                        mark: mark(),
                    });
                }
            })
        });
        Self {
            running: running.collect(),
            stop,
        }
    }

    /// Answers that come from now on do not count.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// What they did, once the server is gone.
    pub(crate) async fn join(self) -> Vec<Writer> {
        let mut writers = Vec::new();
        for running in self.running {
            writers.push(running.await.expect("a writer"));
        }
        writers
    }
}

/// One rectangle of a history.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rect {
    valid: (i64, Option<i64>),
    system: (i64, Option<i64>),
    text: Option<String>,
}

/// Where histories are read.
pub(crate) enum Reader<'a> {
    Server(&'a mut Process),
    Store(&'a Store),
}

impl Reader<'_> {
    /// All of an entity's rectangles, in order.
    async fn history(&mut self, entity: &str) -> Result<Vec<Rect>, String> {
        let mut rects = match self {
            Self::Server(process) => served(process, entity).await?,
            Self::Store(store) => stored(store, entity)?,
        };
        rects.sort();
        Ok(rects)
    }
}

async fn served(process: &mut Process, entity: &str) -> Result<Vec<Rect>, String> {
    let micros =
        |time: prost_types::Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000;
    let mut rects = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListHistoryRequest {
            entity_type: TYPE.to_owned(),
            entity_id: entity.to_owned(),
            page_size: 10_000,
            page_token,
            ..Default::default()
        };
        let listed = process.client.list_history(request).await;
        let listed = listed.map_err(|status| status.to_string())?.into_inner();
        for version in listed.versions {
            let value = version
                .attributes
                .get("v")
                .and_then(|value| value.kind.clone());
            rects.push(Rect {
                valid: (
                    micros(version.valid_from.ok_or("no valid_from")?),
                    version.valid_to.map(micros),
                ),
                system: (
                    micros(version.system_from.ok_or("no system_from")?),
                    version.system_to.map(micros),
                ),
                text: value.and_then(|kind| {
                    if let Kind::StringValue(text) = kind {
                        Some(text)
                    } else {
                        None
                    }
                }),
            });
        }
        page_token = listed.next_page_token;
        if page_token.is_empty() {
            return Ok(rects);
        }
    }
}

fn stored(store: &Store, entity: &str) -> Result<Vec<Rect>, String> {
    let entity_type = store.entity_type(TYPE).map_err(|error| error.to_string())?;
    let versions = store.history(
        &entity_type,
        entity,
        Interval::starting_at(ValidTime::MIN),
        Interval::starting_at(SysTime::MIN),
        store.latest_basis(),
    );
    let versions = versions.map_err(|error| error.to_string())?;
    let rect = |version: &hindcast::store::Version| Rect {
        valid: (
            version.valid.from.micros(),
            version.valid.to.map(ValidTime::micros),
        ),
        system: (
            version.system.from.micros(),
            version.system.to.map(SysTime::micros),
        ),
        text: match version.attributes.first() {
            Some(Some(Value::String(text))) => Some(text.clone()),
            _ => None,
        },
    };
    Ok(versions.iter().map(rect).collect())
}

/// Whether everything acknowledged is there, and no batch half. Says what is wrong.
pub(crate) async fn check(reader: &mut Reader<'_>, writer: &Writer) -> Result<(), String> {
    let mut histories = Vec::with_capacity(ENTITIES);
    for index in 0..ENTITIES {
        let entity = writer.entity(index);
        // No type, no entity.
        let history = reader.history(&entity).await;
        match history {
            Err(_) if writer.acknowledged.is_empty() => return Ok(()),
            history => histories.push(history.map_err(|error| format!("{entity}: {error}"))?),
        }
    }
    for (index, history) in histories.iter().enumerate() {
        if *history != histories[0] {
            return Err(format!(
                "half a batch: {} differs from {}: {history:?} {:?}",
                writer.entity(index),
                writer.entity(0),
                histories[0]
            ));
        }
    }
    for acknowledged in &writer.acknowledged {
        check_one(&histories[0], acknowledged)
            .map_err(|problem| format!("{}: {acknowledged:?}: {problem}", writer.name))?;
    }
    check_overlaps(&histories[0]).map_err(|problem| format!("{}: {problem}", writer.name))
}

/// Whether a batch is to be seen at its own system time, at both ends of its range.
fn check_one(history: &[Rect], acknowledged: &Acknowledged) -> Result<(), String> {
    let content = Content::new(acknowledged.batch);
    for point in [content.from, content.to - 1] {
        let found = history
            .iter()
            .find(|rect| holds(rect.valid, point) && holds(rect.system, acknowledged.system_time));
        match (found, &content.text) {
            (Some(rect), text) if rect.text == *text => {}
            // Ending what was never there says nothing.
            (None, None) => {}
            (found, _) => return Err(format!("lost: at valid time {point} there is {found:?}")),
        }
    }
    Ok(())
}

/// `BT-1`.
fn check_overlaps(history: &[Rect]) -> Result<(), String> {
    let bases: BTreeSet<i64> = history.iter().map(|rect| rect.system.0).collect();
    for basis in bases {
        let mut end = Some(i64::MIN);
        for rect in history.iter().filter(|rect| holds(rect.system, basis)) {
            if end.is_none_or(|end| rect.valid.0 < end) {
                return Err(format!("BT-1: overlap at basis {basis}: {rect:?}"));
            }
            end = rect.valid.1;
        }
    }
    Ok(())
}

fn holds((from, to): (i64, Option<i64>), point: i64) -> bool {
    from <= point && to.is_none_or(|to| point < to)
}
