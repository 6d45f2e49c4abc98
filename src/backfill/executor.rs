//! The executor, from outside: how it is started, and the handle that everyone else asks.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Result,
    actor::{Actor, Message},
    journal::Journal,
    model::{BackfillSpec, Plan, Record},
    planner::Planner,
    publish::Publisher,
    state::State,
    watch::{Progress, WatchItem, WatchSettings, Watched, Watcher},
};
use crate::{
    catalog::Catalog, engine::Engine, ids::IdSource, kv::Database, lake::Lake, store::Store,
    time::Clock,
};

/// Commands that may wait for the executor.
const QUEUE: usize = 1024;

/// How the executor is set up.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Partitions of one backfill that run at once, unless it says otherwise.
    pub default_max_active_partitions: u32,
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
    /// Settings.
    pub config: ExecutorConfig,
}

/// The executor, for those who ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    messages: mpsc::Sender<Message>,
}

/// What the actor and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) journal: Journal,
    pub(super) planner: Planner,
    pub(super) backfills: parking_lot::RwLock<BTreeMap<String, Arc<Watched>>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) watch: WatchSettings,
    pub(super) stopping: CancellationToken,
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
        let shared = Arc::new(Shared {
            journal,
            planner: Planner {
                catalog: self.catalog,
                store: self.store,
                default_max_active: self.config.default_max_active_partitions,
            },
            backfills: parking_lot::RwLock::default(),
            clock: self.clock,
            watch: self.config.watch,
            stopping: CancellationToken::new(),
        });
        let mut actor = Actor::new(
            Arc::clone(&shared),
            self.engine,
            Publisher::new(self.lake),
            self.ids,
            messages.clone(),
        );
        actor.take_up(loaded).await?;
        tokio::spawn(actor.run(inbox));
        Ok(Handle { shared, messages })
    }
}

impl Handle {
    /// What [`Handle::create`] would do. Its bases are stable from then on.
    ///
    /// # Errors
    /// A spec, definition or file that cannot be used.
    pub async fn plan(&self, spec: &BackfillSpec) -> Result<Plan> {
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
        if let Some(existing) = self.made_by(request_id.as_deref(), &spec).await? {
            return Ok(existing);
        }
        let plan = self.plan(&spec).await?;
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
        same_request(&existing, spec, &request_id)?;
        Ok(Some(snapshot(&existing)))
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
        wanted: impl Fn(&Record, &State) -> Option<T>,
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
        self.watched(name)?;
        let (reply, answer) = oneshot::channel();
        self.send(Message::Cancel {
            name: name.to_owned(),
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
    request_id: &str,
) -> Result<()> {
    if existing.record.spec == *spec {
        return Ok(());
    }
    Err(Error::RequestIdReused {
        request_id: request_id.to_owned(),
        name: existing.record.name.clone(),
    })
}
