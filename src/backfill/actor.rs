//! The one task that writes backfills.
//!
//! It takes commands, lets [`decide`] say what they lead to, journals the events of a whole turn with one flush, and only then
//! shows them and acts on them. Attempts and commits run beside it and report back as commands; a report of an attempt that
//! is no longer the current one is fenced off.

mod attempts;
mod requests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span};

use super::{
    Error, Result,
    decide::{Action, Command, Cost, decide},
    executor::{Shared, same_request},
    journal::bounded_message,
    meter,
    model::{BackfillSpec, BackfillState, Change, Event, Parent, PartitionWaits, Plan, Record},
    publish::{PublishDone, PublishItem, Publisher},
    slots::{self, Claim},
    state::State,
    watch::{Watched, finished_rows},
};
use crate::{
    catalog::Output,
    engine::{self, Computed, Engine, PinnedInputs},
    ids::IdSource,
    time::Interval,
};

/// Commands that one turn takes up: they share a flush.
const TURN: usize = 1024;

/// Backfills that ended whose latest events are kept in memory.
const ENDED: usize = 16;
/// How long a table rests after a commit, in times that the commit took. Partitions gather meanwhile: a commit costs the more
/// the more snapshots a table has, and so takes no more than a fifth of the time.
const REST_FACTOR: u32 = 4;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// What the task is told.
#[derive(Debug)]
pub(super) enum Message {
    Create {
        spec: BackfillSpec,
        plan: Box<Plan>,
        parent: Option<Parent>,
        request_id: Option<String>,
        reply: Reply,
    },
    /// Something is asked of a backfill that is there.
    Control {
        name: String,
        ask: Ask,
        reply: Reply,
    },
    /// All attempts of a task ended.
    TaskEnded {
        name: String,
        attempts: Vec<EndedAttempt>,
    },
    /// An attempt waits for a rate limit.
    Waits {
        name: String,
        waits: PartitionWaits,
    },
    PublishEnded {
        done: PublishDone,
        took: Duration,
    },
    /// The rest after a commit is over.
    Rested {
        output: Output,
    },
    RetryDue {
        name: String,
        index: u32,
        attempt: u32,
    },
    /// The disk is full now, or has room again.
    RoomChanged,
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct EndedAttempt {
    index: u32,
    attempt: u32,
    outcome: engine::Result<Computed>,
    /// It was stopped because it took longer than this.
    timed_out: Option<Duration>,
    cost: Cost,
    end_micros: i64,
}

/// What may be asked of a backfill that is there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    Pause,
    Resume,
    SetConcurrency(u32),
    Retry,
    Cancel,
}

/// A backfill that has not ended.
struct Live {
    watched: Arc<Watched>,
    /// By transform.
    inputs: Vec<Arc<PinnedInputs>>,
    /// Ahead of what watchers see by the events of the turn under way.
    state: State,
    /// Attempts under way, by partition.
    attempts: HashMap<u32, CancellationToken>,
    /// Rows of attempts that are computed and not yet handed on.
    computed: HashMap<(u32, u32), StagedAttempt>,
    /// When it got its last slot, in grants of the server.
    last_grant: u64,
    /// What all that is done for it lies in, until it ends or the server stops.
    span: Span,
}

impl Live {
    /// Whether an attempt is under way that will be published to `output`.
    fn is_computing(&self, output: &Output) -> bool {
        let plan = &self.watched.record.plan;
        let mut writers = self.attempts.keys().filter_map(|index| {
            let planned = plan.partitions.get(*index as usize)?;
            plan.transforms.get(planned.transform as usize)
        });
        writers.any(|transform| transform.output == *output)
    }
}

/// What an attempt computed.
#[derive(Debug)]
struct StagedAttempt {
    computed: Computed,
    staged_at_micros: i64,
    cost: Cost,
}

/// The task's own state.
pub(super) struct Actor {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    publisher: Publisher,
    ids: Arc<dyn IdSource>,
    messages: mpsc::Sender<Message>,
    live: BTreeMap<String, Live>,
    /// Outputs that have something new to commit, each once.
    to_commit: Vec<Output>,
    /// Tasks that compute at once, of all backfills together.
    max_active: usize,
    /// Slots granted so far.
    grants: u64,
    /// The latest that ended: their watchers are still being told.
    ended: VecDeque<Arc<Watched>>,
    /// The tidying up after backfills that ended. Nothing of theirs may start before it is over.
    tidying: HashMap<String, JoinHandle<()>>,
    tasks: TaskTracker,
    closing: Option<oneshot::Sender<()>>,
}

/// Who waits for what came of a command.
type Reply = oneshot::Sender<Result<Arc<Watched>>>;

/// What one turn journals, and what it does after that.
#[derive(Default)]
struct Turn {
    events: BTreeMap<String, Vec<Event>>,
    actions: Vec<(String, Action)>,
    replies: Vec<(Reply, Arc<Watched>)>,
}

impl Actor {
    pub(super) fn new(
        shared: Arc<Shared>,
        engine: Arc<dyn Engine>,
        publisher: Publisher,
        ids: Arc<dyn IdSource>,
        messages: mpsc::Sender<Message>,
        max_active: u32,
    ) -> Self {
        Self {
            shared,
            engine,
            publisher,
            ids,
            messages,
            live: BTreeMap::new(),
            to_commit: Vec::new(),
            max_active: max_active as usize,
            grants: 0,
            ended: VecDeque::new(),
            tidying: HashMap::new(),
            tasks: TaskTracker::new(),
            closing: None,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(TURN);
        while inbox.recv_many(&mut messages, TURN).await > 0 {
            let mut turn = Turn::default();
            for message in messages.drain(..) {
                self.handle(message, &mut turn).await;
            }
            if let Err(error) = self.finish_turn(turn).await {
                tracing::error!(%error, "cannot journal; the executor stops, and a restart resumes from what is on disk");
                self.shared.journal.broken().cancel();
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
    pub(super) async fn take_up(&mut self, loaded: Vec<(Record, State)>) -> Result<()> {
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
            let inputs = self.shared.planner.inputs(&watched.record.plan)?;
            self.adopt(watched, inputs, state);
            tracing::info!(backfill = %name, "resuming");
            self.command(&name, Command::Recover { published }, &mut turn);
        }
        self.finish_turn(turn).await
    }

    fn adopt(&mut self, watched: Arc<Watched>, inputs: Vec<Arc<PinnedInputs>>, state: State) {
        let name = watched.record.name.clone();
        let span = tracing::info_span!(
            parent: None,
            "backfill",
            backfill = %name,
            transforms = %watched.record.plan.names(),
        );
        let live = Live {
            span,
            watched,
            inputs,
            state,
            attempts: HashMap::new(),
            computed: HashMap::new(),
            last_grant: 0,
        };
        self.live.insert(name, live);
    }

    async fn handle(&mut self, message: Message, turn: &mut Turn) {
        match message {
            Message::Create {
                spec,
                plan,
                parent,
                request_id,
                reply,
            } => match self.create(spec, *plan, parent, request_id, turn).await {
                Ok(watched) => turn.replies.push((reply, watched)),
                // The caller may be gone.
                Err(error) => drop(reply.send(Err(error))),
            },
            Message::Control { name, ask, reply } => match self.control(&name, ask, turn).await {
                Ok(watched) => turn.replies.push((reply, watched)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Message::TaskEnded { name, attempts } => {
                for ended in attempts {
                    self.attempt_ended(&name, ended, turn);
                }
            }
            Message::Waits { name, waits } => {
                self.command(&name, Command::Waits(waits), turn);
            }
            Message::PublishEnded { done, took } => self.publish_ended(done, took, turn),
            Message::Rested { output } => {
                self.publisher.rested(&output);
                self.publish_more(&output);
            }
            Message::RetryDue {
                name,
                index,
                attempt,
            } => {
                self.command(&name, Command::RetryDue { index, attempt }, turn);
            }
            // The end of the turn shares the slots out, or none.
            Message::RoomChanged => {}
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
        let decision = decide(&live.watched.record, &mut live.state, now_micros, command);
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

    fn publish_ended(&mut self, done: PublishDone, took: Duration, turn: &mut Turn) {
        self.publisher.ended(&done);
        self.rest(done.output.clone(), took);
        for partition in done.partitions {
            let command = match partition.outcome {
                Ok(published) => Command::Published(published),
                Err(failure) if failure.no_room => {
                    self.shared.disk.ran_out();
                    Command::NoRoom {
                        index: partition.index,
                        attempt: partition.attempt,
                        message: bounded_message(failure.message),
                    }
                }
                Err(failure) => Command::Failed {
                    index: partition.index,
                    attempt: partition.attempt,
                    message: bounded_message(failure.message),
                    retryable: failure.retryable,
                    jitter: self.ids.fraction(),
                    cost: partition.cost,
                },
            };
            self.command(&done.backfill, command, turn);
        }
        self.publish_more(&done.output);
    }

    /// Journals the turn, shows it, and acts on it. Actions may lead to more events: then another turn follows.
    async fn finish_turn(&mut self, mut turn: Turn) -> Result<()> {
        loop {
            self.fill_slots(&mut turn);
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
            // All that was staged in this turn goes into one commit per output.
            for output in std::mem::take(&mut self.to_commit) {
                self.publish_more(&output);
            }
            if turn.events.is_empty() && turn.actions.is_empty() {
                return Ok(());
            }
        }
    }

    /// Shares the free slots out.
    fn fill_slots(&mut self, turn: &mut Turn) {
        let claims: Vec<_> = self
            .live
            .values()
            .map(|live| Claim {
                priority: live.watched.record.spec.priority,
                active: live.state.computing_count(),
                wanted: live.state.wanted(&live.watched.record.plan),
                last_grant: live.last_grant,
            })
            .collect();
        let active: usize = claims.iter().map(|claim| claim.active).sum();
        let free = if self.shared.disk.is_full() {
            0
        } else {
            self.max_active.saturating_sub(active)
        };
        let granted = slots::share(&claims, free, &mut self.grants);
        let granted: Vec<_> = self
            .live
            .keys()
            .cloned()
            .zip(granted)
            .filter(|(_, count)| *count > 0)
            .collect();
        for (name, count) in granted {
            if let Some(live) = self.live.get_mut(&name) {
                live.last_grant = self.grants;
            }
            self.command(&name, Command::Fill { count }, turn);
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
            let mut recent = live.watched.recent.lock();
            for event in events {
                meter::record(&self.shared.metrics, event, &visible);
                visible.apply(event);
                recent.push(event);
                meter.start(now_micros);
                if let Some(rows) = finished_rows(event) {
                    meter.record(now_micros, rows);
                }
            }
            live.watched.sequence.send_replace(visible.last_sequence);
        }
        if !events.is_empty() {
            self.shared.changed.send_modify(|count| *count += 1);
        }
    }

    fn act(&mut self, name: &str, action: Action, turn: &mut Turn) {
        match action {
            Action::StartTask { attempts } => self.start_task(name, &attempts),
            Action::Publish { index, attempt } => self.publish(name, index, attempt),
            Action::Discard { index, attempt } => {
                if let Some(live) = self.live.get_mut(name)
                    && let Some(found) = live.computed.remove(&(index, attempt))
                {
                    self.tasks.spawn(Publisher::discard(found.computed.staged));
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

    fn publish(&mut self, name: &str, index: u32, attempt: u32) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        let Some(found) = live.computed.remove(&(index, attempt)) else {
            return;
        };
        let StagedAttempt {
            computed,
            staged_at_micros,
            cost,
        } = found;
        let plan = &live.watched.record.plan;
        let Some(planned) = plan.partitions.get(index as usize) else {
            return;
        };
        let Some(transform) = plan.transform_of(planned) else {
            return;
        };
        let item = PublishItem {
            index,
            attempt,
            window: Interval::new(planned.partition.start, planned.partition.end),
            rows_read: computed.rows_read,
            staged_at_micros,
            staged: computed.staged,
            cost,
        };
        let output = transform.output.clone();
        self.publisher.enqueue(name, transform, item);
        if !self.to_commit.contains(&output) {
            self.to_commit.push(output);
        }
    }

    /// Starts the next commit on `output`, if none is under way: all that is ready goes into it. An output that rests is left
    /// alone while more is being computed for it.
    fn publish_more(&mut self, output: &Output) {
        let more_comes = self.live.values().any(|live| live.is_computing(output));
        let Some((name, commit)) = self.publisher.next_commit(output, more_comes) else {
            return;
        };
        let messages = self.messages.clone();
        let clock = Arc::clone(&self.shared.clock);
        let parent = self.live.get(&name).and_then(|live| live.span.id());
        let span = tracing::info_span!(parent: parent, "publish", backfill = %name);
        self.tasks.spawn(async move {
            let started_micros = clock.monotonic_micros();
            let done = commit.instrument(span).await;
            let took_micros = clock.monotonic_micros() - started_micros;
            let took = Duration::from_micros(u64::try_from(took_micros).unwrap_or(0));
            // An executor that is gone asks the table when it comes back.
            let _ = messages.send(Message::PublishEnded { done, took }).await;
        });
    }

    /// Lets partitions gather after a commit that took so long.
    fn rest(&self, output: Output, took: Duration) {
        let rest = took.saturating_mul(REST_FACTOR).min(LONGEST_REST);
        let pause = self.shared.clock.sleep(rest);
        let messages = self.messages.clone();
        // Not tracked: nobody need wait for it.
        tokio::spawn(async move {
            pause.await;
            // An executor that is gone needs no waking.
            let _ = messages.send(Message::Rested { output }).await;
        });
    }

    fn finish(&mut self, name: &str) {
        let Some(live) = self.live.remove(name) else {
            return;
        };
        live.span
            .in_scope(|| tracing::info!(state = ?live.state.state, "ended"));
        self.ended.push_back(Arc::clone(&live.watched));
        if self.ended.len() > ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            oldest.recent.lock().clear();
        }
        let journal = self.shared.journal.clone();
        let leftovers = self.publisher.remove_leftovers(&live.watched.record);
        let notes = self.publisher.forget(&live.watched.record);
        let key = name.to_owned();
        let name = name.to_owned();
        self.tidying.retain(|_, tidying| !tidying.is_finished());
        let tidying = self.tasks.spawn(async move {
            if let Err(error) = leftovers.await {
                tracing::warn!(backfill = %name, %error, "cannot remove files that were staged and not published");
            }
            if let Err(error) = notes.await {
                tracing::warn!(backfill = %name, %error, "cannot remove notes that are no longer needed");
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
        self.tidying.insert(key, tidying);
    }
}
