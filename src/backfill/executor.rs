//! The executor, from outside: how it is started, and the handle that everyone else asks.

mod restate;
mod stale;

use std::{collections::BTreeMap, sync::Arc};

pub use restate::Restatement;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Result,
    actor::{Actor, Ask, Message},
    attempts::Attempt,
    blocking::blocking,
    inputs::InputsStore,
    journal::Journal,
    model::{BackfillSpec, Parent, Record},
    plan::MAX_ACTIVE_PARTITIONS,
    planner::{CheckedFiles, Planner},
    publish::Publisher,
    stale::Finder,
    state::State,
    watch::{Progress, WatchItem, WatchSettings, Watched, Watcher},
    watch_all::{AllWatcher, WatchAllItem},
};
use crate::{
    catalog::Catalog,
    disk::{self, Disk},
    engine::Engine,
    ids::IdSource,
    kv::Database,
    lake::Lake,
    store::Store,
    telemetry::BackfillMetrics,
    time::Clock,
};

pub use super::planner::Planned;

/// Commands that may wait for the executor.
const QUEUE: usize = 1024;

/// How the executor is set up.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Partitions of one backfill that run at once, unless it says otherwise.
    pub default_max_active_partitions: u32,
    /// Partitions of all backfills together that compute at once.
    pub max_active_partitions: u32,
    /// How watchers are served.
    pub watch: WatchSettings,
}

/// What the executor works with.
#[derive(Debug)]
pub struct Executor {
    /// Where backfills are journalled.
    pub database: Database,
    /// Definitions.
    pub catalog: Catalog,
    /// Entity state.
    pub store: Store,
    /// Output tables.
    pub lake: Lake,
    /// What computes partitions.
    pub engine: Arc<dyn Engine>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Names and jitter.
    pub ids: Arc<dyn IdSource>,
    /// Where it is written to: while it is full, nothing starts.
    pub disk: Disk,
    /// Settings.
    pub config: ExecutorConfig,
}

/// The executor, for those who ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    messages: mpsc::Sender<Message>,
}

/// All backfills by name, as they stand. Names sort by creation.
pub(super) type Backfills = Arc<parking_lot::RwLock<BTreeMap<String, Arc<Watched>>>>;

/// What the actor and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) journal: Journal,
    pub(super) planner: Planner,
    pub(super) backfills: Backfills,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) watch: WatchSettings,
    /// Bumped after every change of any backfill.
    pub(super) changed: watch::Sender<u64>,
    pub(super) stopping: CancellationToken,
    pub(super) metrics: BackfillMetrics,
    pub(super) disk: Disk,
}

impl Executor {
    /// Reads the journal, takes up what was under way, and starts.
    ///
    /// # Errors
    /// The journal cannot be read, or a table cannot be asked what it holds.
    pub async fn start(self) -> Result<Handle> {
        let journal = Journal::open(&self.database)?;
        let loading = journal.clone();
        let loaded = tokio::task::spawn_blocking(move || loading.load())
            .await
            .map_err(|_| Error::Stopping)??;
        let (messages, inbox) = mpsc::channel(QUEUE);
        let backfills = Backfills::default();
        let finder = Finder {
            catalog: self.catalog.clone(),
            store: self.store.clone(),
            lake: self.lake.clone(),
            inputs: InputsStore::open(&self.database)?,
            backfills: Arc::clone(&backfills),
        };
        let publisher = Publisher::new(self.lake.clone(), self.store.clone(), journal.clone());
        let shared = Arc::new(Shared {
            journal,
            planner: Planner {
                catalog: self.catalog,
                store: self.store,
                lake: self.lake.clone(),
                default_max_active: self.config.default_max_active_partitions,
                backfills: Arc::clone(&backfills),
                finder,
                checked: CheckedFiles::default(),
            },
            backfills,
            clock: self.clock,
            watch: self.config.watch,
            changed: watch::Sender::new(0),
            stopping: CancellationToken::new(),
            metrics: BackfillMetrics::default(),
            disk: self.disk,
        });
        let mut actor = Actor::new(
            Arc::clone(&shared),
            self.engine,
            publisher,
            self.ids,
            messages.clone(),
            self.config.max_active_partitions,
        );
        actor.take_up(loaded).await?;
        tokio::spawn(actor.run(inbox));
        tokio::spawn(wake_for_room(Arc::clone(&shared), messages.clone()));
        Ok(Handle { shared, messages })
    }
}

/// Tells the actor when the disk fills up and when it has room again, until the server stops.
async fn wake_for_room(shared: Arc<Shared>, messages: mpsc::Sender<Message>) {
    let mut room = shared.disk.subscribe();
    loop {
        tokio::select! {
            changed = room.changed() => if changed.is_err() {
                return;
            },
            () = shared.stopping.cancelled() => return,
        }
        if messages.send(Message::RoomChanged).await.is_err() {
            return;
        }
    }
}

impl Handle {
    /// What [`Handle::create`] would do. Its bases are stable from then on.
    ///
    /// # Errors
    /// A spec, definition or file that cannot be used.
    pub async fn plan(&self, spec: &BackfillSpec) -> Result<Planned> {
        self.shared.planner.plan(spec).await
    }

    /// Plans, freezes and starts a backfill. **Durability**: it is on disk when this returns, and goes on after a restart.
    ///
    /// # Errors
    /// As [`Handle::plan`]; [`Error::NothingToRun`], [`Error::Overlap`], [`Error::PlanMoved`], [`Error::RequestIdReused`].
    pub async fn create(
        &self,
        spec: BackfillSpec,
        request_id: Option<String>,
        expected_plan_hash: Option<&str>,
    ) -> Result<(Arc<Record>, State)> {
        if let Some(existing) = self.made_by(request_id.as_deref(), &spec, None).await? {
            return Ok(existing);
        }
        let planned = self.plan(&spec).await?;
        self.start(spec, planned, None, request_id, expected_plan_hash)
            .await
    }

    /// Freezes and starts what was planned.
    async fn start(
        &self,
        spec: BackfillSpec,
        planned: Planned,
        parent: Option<Parent>,
        request_id: Option<String>,
        expected_plan_hash: Option<&str>,
    ) -> Result<(Arc<Record>, State)> {
        let plan = planned.plan;
        if let Some(expected) = expected_plan_hash {
            let actual = plan.hash()?;
            if actual != expected {
                return Err(Error::PlanMoved {
                    expected: expected.to_owned(),
                    actual,
                });
            }
        }
        let (reply, answer) = oneshot::channel();
        self.send(Message::Create {
            spec,
            plan: Box::new(plan),
            parent,
            request_id,
            reply,
        })
        .await?;
        let watched = answer.await.map_err(|_| Error::Stopping)??;
        Ok(snapshot(&watched))
    }

    async fn made_by(
        &self,
        request_id: Option<&str>,
        spec: &BackfillSpec,
        parent: Option<&Parent>,
    ) -> Result<Option<(Arc<Record>, State)>> {
        let Some(request_id) = request_id.map(str::to_owned) else {
            return Ok(None);
        };
        let journal = self.shared.journal.clone();
        let id = request_id.clone();
        let name = tokio::task::spawn_blocking(move || journal.made_by(&id))
            .await
            .map_err(|_| Error::Stopping)??;
        let Some(existing) = name.and_then(|name| self.find(&name)) else {
            return Ok(None);
        };
        same_request(&existing, spec, parent, &request_id)?;
        Ok(Some(snapshot(&existing)))
    }

    /// The full disk for which nothing starts now.
    pub fn no_room(&self) -> Option<disk::Full> {
        self.shared.disk.full()
    }

    /// What its attempts are measured by.
    pub fn metrics(&self) -> &BackfillMetrics {
        &self.shared.metrics
    }

    /// One backfill as it stands.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, name: &str) -> Result<(Arc<Record>, State)> {
        self.watched(name).map(|watched| snapshot(&watched))
    }

    /// All backfills that `wanted` accepts, newest first, from the one after `after` on, `limit` at most. `wanted` sees each
    /// under its lock: it must be quick.
    pub fn list<T>(
        &self,
        after: Option<&str>,
        limit: usize,
        mut wanted: impl FnMut(&Record, &State) -> Option<T>,
    ) -> Vec<T> {
        let backfills = self.shared.backfills.read();
        let range = match after {
            None => backfills.range::<str, _>(..),
            Some(after) => backfills
                .range::<str, _>((std::ops::Bound::Unbounded, std::ops::Bound::Excluded(after))),
        };
        range
            .rev()
            .filter_map(|(_, watched)| wanted(&watched.record, &watched.visible.read()))
            .take(limit)
            .collect()
    }

    /// Reads one backfill under its lock: `read` must be quick.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn read<T>(&self, name: &str, read: impl FnOnce(&Record, &State) -> T) -> Result<T> {
        let watched = self.watched(name)?;
        let state = watched.visible.read();
        Ok(read(&watched.record, &state))
    }

    /// Where one backfill stands.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn progress(&self, name: &str) -> Result<Progress> {
        Ok(self.watched(name)?.progress(self.shared.clock.as_ref()))
    }

    /// Stops a backfill for good. **Durability**: the request is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ended`] when it ended otherwise.
    pub async fn cancel(&self, name: &str) -> Result<(Arc<Record>, State)> {
        self.control(name, Ask::Cancel).await
    }

    /// Lets nothing new of a backfill start; attempts under way go on. Pausing a paused one changes nothing. **Durability**:
    /// it is on disk when this returns, and stays so over restarts.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ended`].
    pub async fn pause(&self, name: &str) -> Result<(Arc<Record>, State)> {
        self.control(name, Ask::Pause).await
    }

    /// Lets a paused backfill go on. Resuming one that runs changes nothing. **Durability**: as [`Handle::pause`].
    ///
    /// # Errors
    /// As [`Handle::pause`].
    pub async fn resume(&self, name: &str) -> Result<(Arc<Record>, State)> {
        self.control(name, Ask::Resume).await
    }

    /// Lets `count` partitions of a backfill compute at once from now on; attempts under way go on. **Durability**: as
    /// [`Handle::pause`].
    ///
    /// # Errors
    /// As [`Handle::pause`]; a count that is not in 1 to 64; [`Error::OneAtATime`].
    pub async fn set_concurrency(&self, name: &str, count: u32) -> Result<(Arc<Record>, State)> {
        if !(1..=MAX_ACTIVE_PARTITIONS).contains(&count) {
            return Err(Error::invalid(
                "max_active_partitions",
                format!("{count} is not in 1 to {MAX_ACTIVE_PARTITIONS}"),
            ));
        }
        self.control(name, Ask::SetConcurrency(count)).await
    }

    /// Takes up what a backfill that ended in failure did not publish: in the same pinned world, with attempts numbered on.
    /// **Durability**: as [`Handle::pause`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::StillActive`]; [`Error::NothingToRetry`]; [`Error::Overlap`]; a table that its revision
    /// no longer fills.
    pub async fn retry(&self, name: &str) -> Result<(Arc<Record>, State)> {
        self.control(name, Ask::Retry).await
    }

    async fn control(&self, name: &str, ask: Ask) -> Result<(Arc<Record>, State)> {
        self.watched(name)?;
        let (reply, answer) = oneshot::channel();
        self.send(Message::Control {
            name: name.to_owned(),
            ask,
            reply,
        })
        .await?;
        let watched = answer.await.map_err(|_| Error::Stopping)??;
        Ok(snapshot(&watched))
    }

    /// Events after `after_sequence`, then what follows, until the backfill ends.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::SequenceAhead`].
    pub fn watch(
        &self,
        name: &str,
        after_sequence: u64,
    ) -> Result<mpsc::Receiver<Result<WatchItem>>> {
        let watched = self.watched(name)?;
        let last_sequence = watched.visible.read().last_sequence;
        if after_sequence > last_sequence {
            return Err(Error::SequenceAhead {
                name: name.to_owned(),
                after_sequence,
                last_sequence,
            });
        }
        let watcher = Watcher {
            watched,
            journal: self.shared.journal.clone(),
            clock: Arc::clone(&self.shared.clock),
            settings: self.shared.watch,
            stopping: self.shared.stopping.clone(),
            seen_sequence: after_sequence,
        };
        Ok(watcher.spawn())
    }

    /// How all backfills stand that `show` says something of, then each as it changes, until the server stops. Those that
    /// ended before come with `include_ended`. `show` sees each under its lock: it must be quick.
    pub fn watch_all<T: Send + 'static>(
        &self,
        include_ended: bool,
        show: impl Fn(&Record, &State) -> Option<T> + Send + Sync + 'static,
    ) -> mpsc::Receiver<Result<WatchAllItem<T>>> {
        let watcher = AllWatcher {
            backfills: Arc::clone(&self.shared.backfills),
            changed: self.shared.changed.subscribe(),
            clock: Arc::clone(&self.shared.clock),
            settings: self.shared.watch,
            stopping: self.shared.stopping.clone(),
            include_ended,
            show,
        };
        watcher.spawn()
    }

    /// Every attempt at the partitions at `indices` of a backfill's plan, oldest first. **Cost**: a read of its whole log.
    ///
    /// # Errors
    /// [`Error::NotFound`]; storage faults.
    pub async fn attempts(
        &self,
        name: &str,
        indices: Vec<u32>,
    ) -> Result<BTreeMap<u32, Vec<Attempt>>> {
        let name = self.watched(name)?.record.name.clone();
        let journal = self.shared.journal.clone();
        blocking(move || journal.attempts(&name, &indices)).await
    }

    /// Stops: attempts under way go back to the queue, commits under way are waited for, watchers are told.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self
            .messages
            .send(Message::Shutdown { reply })
            .await
            .is_ok()
        {
            // An executor that is gone has stopped too.
            let _ = done.await;
        }
        self.shared.stopping.cancel();
    }

    async fn send(&self, message: Message) -> Result<()> {
        self.messages
            .send(message)
            .await
            .map_err(|_| Error::Stopping)
    }

    fn find(&self, name: &str) -> Option<Arc<Watched>> {
        self.shared.backfills.read().get(name).cloned()
    }

    fn watched(&self, name: &str) -> Result<Arc<Watched>> {
        self.find(name).ok_or_else(|| Error::NotFound {
            name: name.to_owned(),
        })
    }
}

fn snapshot(watched: &Watched) -> (Arc<Record>, State) {
    (Arc::clone(&watched.record), watched.visible.read().clone())
}

/// Whether `existing` is what the same request made.
pub(super) fn same_request(
    existing: &Watched,
    spec: &BackfillSpec,
    parent: Option<&Parent>,
    request_id: &str,
) -> Result<()> {
    if existing.record.spec == *spec && existing.record.parent.as_ref() == parent {
        return Ok(());
    }
    Err(Error::RequestIdReused {
        request_id: request_id.to_owned(),
        name: existing.record.name.clone(),
    })
}
