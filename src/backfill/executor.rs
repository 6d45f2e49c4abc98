//! The executor: the only writer of backfills.
//!
//! One task takes commands, lets [`state::decide`] say what they lead to, journals the events of a whole turn with one flush,
//! and only then shows them and acts on them. Attempts and commits run beside it and report back as commands; a report of an
//! attempt that is no longer the current one is fenced off.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Error, Result,
    journal::{Journal, bounded_message},
    model::{BackfillSpec, BackfillState, Change, DependencyShape, Event, Plan, Record},
    planner::Planner,
    publish::{PublishDone, PublishItem, Publisher},
    state::{self, Action, Command, PublishedAttempt, State},
    watch::{Progress, WatchItem, WatchSettings, Watched, Watcher, finished_rows},
};
use crate::{
    catalog::Catalog,
    engine::{self, Computed, Engine, PartitionWork, PinnedInputs},
    ids::IdSource,
    kv::Database,
    lake::{AttemptId, Lake},
    store::Store,
    time::Clock,
};

/// Commands that may wait for the executor.
const QUEUE: usize = 1024;
/// Commands that one turn takes up: they share a flush.
const TURN: usize = 1024;

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

#[derive(Debug)]
struct Shared {
    journal: Journal,
    planner: Planner,
    backfills: parking_lot::RwLock<BTreeMap<String, Arc<Watched>>>,
    clock: Arc<dyn Clock>,
    watch: WatchSettings,
    stopping: CancellationToken,
}

/// Where the backfill goes that a caller asked for.
type Reply = oneshot::Sender<Result<Arc<Watched>>>;

#[derive(Debug)]
enum Message {
    Create {
        spec: BackfillSpec,
        plan: Box<Plan>,
        request_id: Option<String>,
        reply: Reply,
    },
    Cancel {
        name: String,
        reply: Reply,
    },
    AttemptEnded {
        name: String,
        index: u32,
        attempt: u32,
        outcome: Box<engine::Result<Computed>>,
    },
    PublishEnded(PublishDone),
    RetryDue {
        name: String,
        index: u32,
        attempt: u32,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
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
        let mut actor = Actor {
            shared: Arc::clone(&shared),
            engine: self.engine,
            publisher: Publisher::new(self.lake),
            ids: self.ids,
            messages: messages.clone(),
            live: BTreeMap::new(),
            tasks: TaskTracker::new(),
            closing: None,
        };
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

fn same_request(existing: &Watched, spec: &BackfillSpec, request_id: &str) -> Result<()> {
    if existing.record.spec == *spec {
        return Ok(());
    }
    Err(Error::RequestIdReused {
        request_id: request_id.to_owned(),
        name: existing.record.name.clone(),
    })
}

/// A backfill that has not ended.
struct Live {
    watched: Arc<Watched>,
    inputs: Arc<PinnedInputs>,
    /// Ahead of what watchers see by the events of the turn under way.
    state: State,
    /// Attempts under way, by partition.
    attempts: HashMap<u32, CancellationToken>,
    /// Rows of attempts that are computed and not yet handed on.
    computed: HashMap<(u32, u32), Computed>,
}

struct Actor {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    publisher: Publisher,
    ids: Arc<dyn IdSource>,
    messages: mpsc::Sender<Message>,
    live: BTreeMap<String, Live>,
    tasks: TaskTracker,
    closing: Option<oneshot::Sender<()>>,
}

/// What one turn journals, and what it does after that.
#[derive(Default)]
struct Turn {
    events: BTreeMap<String, Vec<Event>>,
    actions: Vec<(String, Action)>,
    replies: Vec<(Reply, Arc<Watched>)>,
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(TURN);
        while inbox.recv_many(&mut messages, TURN).await > 0 {
            let mut turn = Turn::default();
            for message in messages.drain(..) {
                self.handle(message, &mut turn).await;
            }
            if let Err(error) = self.finish_turn(turn).await {
                tracing::error!(%error, "cannot journal; the executor stops, and a restart resumes from what is on disk");
                self.stop_everything();
                break;
            }
            if self.closing.is_some() && self.is_idle() {
                break;
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(reply) = self.closing.take() {
            // Whoever asked may be gone.
            let _ = reply.send(());
        }
    }

    fn is_idle(&self) -> bool {
        self.publisher.is_idle() && self.live.values().all(|live| live.attempts.is_empty())
    }

    fn stop_everything(&self) {
        for live in self.live.values() {
            live.attempts.values().for_each(CancellationToken::cancel);
        }
        self.shared.stopping.cancel();
    }

    /// Takes up the backfills that the journal holds.
    async fn take_up(&mut self, loaded: Vec<(Record, State)>) -> Result<()> {
        let mut turn = Turn::default();
        for (record, state) in loaded {
            let watched = Arc::new(Watched::new(Arc::new(record), state.clone()));
            let name = watched.record.name.clone();
            self.shared
                .backfills
                .write()
                .insert(name.clone(), Arc::clone(&watched));
            if state.state.is_terminal() {
                continue;
            }
            let published = self.publisher.published_attempts(&watched.record).await?;
            self.publisher.remove_leftovers(&watched.record).await?;
            let inputs = Arc::new(self.shared.planner.inputs(&watched.record.plan)?);
            self.adopt(watched, inputs, state);
            tracing::info!(backfill = %name, "resuming");
            self.command(&name, Command::Resume { published }, &mut turn);
        }
        self.finish_turn(turn).await
    }

    fn adopt(&mut self, watched: Arc<Watched>, inputs: Arc<PinnedInputs>, state: State) {
        let name = watched.record.name.clone();
        let live = Live {
            watched,
            inputs,
            state,
            attempts: HashMap::new(),
            computed: HashMap::new(),
        };
        self.live.insert(name, live);
    }

    async fn handle(&mut self, message: Message, turn: &mut Turn) {
        match message {
            Message::Create {
                spec,
                plan,
                request_id,
                reply,
            } => match self.create(spec, *plan, request_id, turn).await {
                Ok(watched) => turn.replies.push((reply, watched)),
                // The caller may be gone.
                Err(error) => drop(reply.send(Err(error))),
            },
            Message::Cancel { name, reply } => match self.cancel(&name, turn) {
                Ok(watched) => turn.replies.push((reply, watched)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Message::AttemptEnded {
                name,
                index,
                attempt,
                outcome,
            } => self.attempt_ended(&name, index, attempt, *outcome, turn),
            Message::PublishEnded(done) => self.publish_ended(done, turn),
            Message::RetryDue {
                name,
                index,
                attempt,
            } => {
                self.command(&name, Command::RetryDue { index, attempt }, turn);
            }
            Message::Shutdown { reply } => {
                self.closing = Some(reply);
                for name in self.live.keys().cloned().collect::<Vec<_>>() {
                    self.command(&name, Command::Release, turn);
                }
            }
        }
    }

    fn command(&mut self, name: &str, command: Command, turn: &mut Turn) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        let now_micros = self.shared.clock.now_micros();
        let decision = state::decide(&live.watched.record, &mut live.state, now_micros, command);
        if !decision.events.is_empty() {
            turn.events
                .entry(name.to_owned())
                .or_default()
                .extend(decision.events);
        }
        let actions = decision.actions.into_iter();
        turn.actions
            .extend(actions.map(|action| (name.to_owned(), action)));
    }

    async fn create(
        &mut self,
        spec: BackfillSpec,
        plan: Plan,
        request_id: Option<String>,
        turn: &mut Turn,
    ) -> Result<Arc<Watched>> {
        if self.closing.is_some() {
            return Err(Error::Stopping);
        }
        if let Some(existing) = self.made_by(request_id.as_deref())? {
            same_request(&existing, &spec, request_id.as_deref().unwrap_or_default())?;
            return Ok(existing);
        }
        self.check_runs(&plan)?;
        self.check_overlap(&plan)?;
        let inputs = Arc::new(self.shared.planner.inputs(&plan)?);
        let record = Record {
            name: format!("bf-{}", self.ids.unique()),
            spec,
            plan,
            create_time_micros: self.shared.clock.now_micros(),
        };
        self.publisher.ensure_table(&inputs.transform).await?;
        let mut state = State::new(&record);
        let created = Event {
            sequence: 1,
            time_micros: record.create_time_micros,
            change: Change::Created,
        };
        let journal = self.shared.journal.clone();
        let first = created.clone();
        let record = tokio::task::spawn_blocking(move || {
            let written = journal.create(&record, request_id.as_deref(), &[first]);
            written.map(|()| record)
        })
        .await
        .map_err(|_| Error::Stopping)??;
        state.apply(&created);
        let name = record.name.clone();
        let watched = Arc::new(Watched::new(Arc::new(record), state.clone()));
        self.shared
            .backfills
            .write()
            .insert(name.clone(), Arc::clone(&watched));
        self.adopt(Arc::clone(&watched), inputs, state);
        tracing::info!(backfill = %name, transform = %watched.record.plan.transform, "created");
        self.command(&name, Command::Start, turn);
        Ok(watched)
    }

    fn made_by(&self, request_id: Option<&str>) -> Result<Option<Arc<Watched>>> {
        let Some(request_id) = request_id else {
            return Ok(None);
        };
        // One small key, likely cached: a thread's hop would cost more.
        let name = self.shared.journal.made_by(request_id)?;
        Ok(name.and_then(|name| self.shared.backfills.read().get(&name).cloned()))
    }

    fn check_runs(&self, plan: &Plan) -> Result<()> {
        if plan.run_count() > 0 {
            return Ok(());
        }
        let reason = match plan.partitions.first() {
            None => "the range holds no partition".to_owned(),
            Some(first) => format!(
                "partition {}: {}",
                first.partition.label,
                first.skip_reason.as_deref().unwrap_or("it is skipped")
            ),
        };
        Err(Error::NothingToRun { reason })
    }

    /// Two active backfills may not write the same partitions of a table. Those of a transform that reads its own output may
    /// not run beside each other at all: what one reads, the other writes.
    fn check_overlap(&self, plan: &Plan) -> Result<()> {
        let range = plan.range();
        let sequential = plan.shape == DependencyShape::Sequential;
        let other = self
            .live
            .values()
            .map(|live| &live.watched.record)
            .find(|record| {
                record.plan.output_table == plan.output_table
                    && (sequential || record.plan.range().overlaps(&range))
            });
        match other {
            None => Ok(()),
            Some(record) => Err(Error::Overlap {
                other: record.name.clone(),
                table: plan.output_table.clone(),
            }),
        }
    }

    fn cancel(&mut self, name: &str, turn: &mut Turn) -> Result<Arc<Watched>> {
        if let Some(live) = self.live.get(name) {
            let watched = Arc::clone(&live.watched);
            self.command(name, Command::Cancel, turn);
            return Ok(watched);
        }
        let Some(watched) = self.shared.backfills.read().get(name).cloned() else {
            return Err(Error::NotFound {
                name: name.to_owned(),
            });
        };
        let ended = watched.visible.read().state;
        let state = match ended {
            BackfillState::Cancelled => return Ok(watched),
            BackfillState::Succeeded => "succeeded",
            BackfillState::PartiallySucceeded => "partially succeeded",
            BackfillState::Failed => "failed",
            BackfillState::Pending | BackfillState::Running | BackfillState::Cancelling => {
                "not running here"
            }
        };
        Err(Error::Ended {
            name: name.to_owned(),
            state,
        })
    }

    fn attempt_ended(
        &mut self,
        name: &str,
        index: u32,
        attempt: u32,
        outcome: engine::Result<Computed>,
        turn: &mut Turn,
    ) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        live.attempts.remove(&index);
        let command = match outcome {
            Ok(computed) => {
                live.computed.insert((index, attempt), computed);
                Command::Staged { index, attempt }
            }
            Err(engine::Error::Stopped) => Command::Stopped { index, attempt },
            Err(error) => Command::Failed {
                index,
                attempt,
                message: bounded_message(error.message()),
                retryable: error.retryable(),
                jitter: self.ids.fraction(),
            },
        };
        self.command(name, command, turn);
    }

    fn publish_ended(&mut self, done: PublishDone, turn: &mut Turn) {
        self.publisher.ended(&done);
        for item in done.items {
            let command = match &done.outcome {
                Ok(snapshot_id) => Command::Published(PublishedAttempt {
                    index: item.index,
                    attempt: item.attempt,
                    rows_read: item.rows_read,
                    rows_written: item.rows_written,
                    snapshot_id: *snapshot_id,
                }),
                Err(failure) => Command::Failed {
                    index: item.index,
                    attempt: item.attempt,
                    message: bounded_message(failure.message.clone()),
                    retryable: failure.retryable,
                    jitter: self.ids.fraction(),
                },
            };
            self.command(&done.backfill, command, turn);
        }
        self.publish_more(&done.table);
    }

    /// Journals the turn, shows it, and acts on it. Actions may lead to more events: then another turn follows.
    async fn finish_turn(&mut self, mut turn: Turn) -> Result<()> {
        loop {
            let Turn {
                events,
                actions,
                replies,
            } = turn;
            self.journal(&events).await?;
            self.show(&events);
            for (reply, watched) in replies {
                // Whoever asked may be gone.
                let _ = reply.send(Ok(watched));
            }
            turn = Turn::default();
            for (name, action) in actions {
                self.act(&name, action, &mut turn);
            }
            if turn.events.is_empty() && turn.actions.is_empty() {
                return Ok(());
            }
        }
    }

    async fn journal(&self, events: &BTreeMap<String, Vec<Event>>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let journal = self.shared.journal.clone();
        let events = events.clone();
        let written = tokio::task::spawn_blocking(move || {
            let logs: Vec<_> = events
                .iter()
                .map(|(name, events)| (name.as_str(), events.as_slice()))
                .collect();
            journal.append(&logs)
        });
        written.await.map_err(|_| Error::Stopping)?
    }

    /// Lets watchers see what is on disk now.
    fn show(&self, events: &BTreeMap<String, Vec<Event>>) {
        let now_micros = self.shared.clock.monotonic_micros();
        for (name, events) in events {
            let Some(live) = self.live.get(name) else {
                continue;
            };
            let mut visible = live.watched.visible.write();
            let mut meter = live.watched.meter.lock();
            for event in events {
                visible.apply(event);
                meter.start(now_micros);
                if let Some(rows) = finished_rows(event) {
                    meter.record(now_micros, rows);
                }
            }
            live.watched.sequence.send_replace(visible.last_sequence);
        }
    }

    fn act(&mut self, name: &str, action: Action, turn: &mut Turn) {
        match action {
            Action::StartAttempt { index, attempt } => self.start_attempt(name, index, attempt),
            Action::Publish { index, attempt } => self.publish(name, index, attempt),
            Action::Discard { index, attempt } => {
                if let Some(live) = self.live.get_mut(name)
                    && let Some(computed) = live.computed.remove(&(index, attempt))
                {
                    self.tasks.spawn(Publisher::discard(computed.staged));
                }
            }
            Action::WaitRetry {
                index,
                attempt,
                at_micros,
            } => self.wait_retry(name, index, attempt, at_micros),
            Action::StopAttempts => self.stop_attempts(name, turn),
            Action::Finish => self.finish(name),
        }
    }

    fn start_attempt(&mut self, name: &str, index: u32, attempt: u32) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        let Some(planned) = live.watched.record.plan.partitions.get(index as usize) else {
            return;
        };
        let work = PartitionWork {
            inputs: Arc::clone(&live.inputs),
            partition: planned.partition.clone(),
            basis: planned.basis,
            available_by: live.watched.record.plan.available_by(planned),
            attempt: AttemptId {
                backfill: name.to_owned(),
                attempt,
            },
        };
        let cancel = CancellationToken::new();
        live.attempts.insert(index, cancel.clone());
        let engine = Arc::clone(&self.engine);
        let messages = self.messages.clone();
        let name = name.to_owned();
        self.tasks.spawn(async move {
            let outcome = Box::new(engine.run(work, cancel).await);
            let report = Message::AttemptEnded {
                name,
                index,
                attempt,
                outcome,
            };
            // An executor that is gone fences the attempt off by itself.
            let _ = messages.send(report).await;
        });
    }

    fn publish(&mut self, name: &str, index: u32, attempt: u32) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        let Some(computed) = live.computed.remove(&(index, attempt)) else {
            return;
        };
        let table = live.watched.record.plan.output_table.clone();
        let item = PublishItem {
            index,
            attempt,
            rows_read: computed.rows_read,
            rows_written: computed.staged.row_count,
            staged: computed.staged,
        };
        self.publisher
            .enqueue(&table, name, live.watched.record.plan.revision, item);
        self.publish_more(&table);
    }

    /// Starts the next commit on `table`, if none is under way: all that is ready goes into it.
    fn publish_more(&mut self, table: &str) {
        let Some(commit) = self.publisher.next_commit(table) else {
            return;
        };
        let messages = self.messages.clone();
        self.tasks.spawn(async move {
            let done = commit.await;
            // An executor that is gone asks the table when it comes back.
            let _ = messages.send(Message::PublishEnded(done)).await;
        });
    }

    fn wait_retry(&mut self, name: &str, index: u32, attempt: u32, at_micros: i64) {
        let wait_micros = u64::try_from(at_micros - self.shared.clock.now_micros()).unwrap_or(0);
        let pause = self
            .shared
            .clock
            .sleep(std::time::Duration::from_micros(wait_micros));
        let messages = self.messages.clone();
        let name = name.to_owned();
        let stopping = self.shared.stopping.clone();
        // Not tracked: a stop need not wait for a wait.
        tokio::spawn(async move {
            tokio::select! {
                () = pause => {
                    let _ = messages.send(Message::RetryDue { name, index, attempt }).await;
                }
                () = stopping.cancelled() => {}
            }
        });
    }

    fn stop_attempts(&mut self, name: &str, turn: &mut Turn) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        live.attempts.values().for_each(CancellationToken::cancel);
        let table = live.watched.record.plan.output_table.clone();
        for item in self.publisher.withdraw(&table, name) {
            let (index, attempt) = (item.index, item.attempt);
            self.tasks.spawn(Publisher::discard(item.staged));
            self.command(name, Command::Stopped { index, attempt }, turn);
        }
    }

    fn finish(&mut self, name: &str) {
        let Some(live) = self.live.remove(name) else {
            return;
        };
        tracing::info!(backfill = %name, state = ?live.state.state, "ended");
        let journal = self.shared.journal.clone();
        let leftovers = self.publisher.remove_leftovers(&live.watched.record);
        let name = name.to_owned();
        self.tasks.spawn(async move {
            if let Err(error) = leftovers.await {
                tracing::warn!(backfill = %name, %error, "cannot remove files that were staged and not published");
            }
            let remembered = tokio::task::spawn_blocking({
                let name = name.clone();
                move || journal.remember_end(&name, &live.state)
            });
            match remembered.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(backfill = %name, %error, "cannot remember how it ended; its log says it"),
                Err(error) => tracing::warn!(backfill = %name, %error, "cannot remember how it ended; its log says it"),
            }
        });
    }
}
