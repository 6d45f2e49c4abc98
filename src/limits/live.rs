//! A limit in force: the pure [`Gate`] behind a lock, with those who wait, the timer that looks for them, and the disk.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

use super::{
    Error, Result,
    gate::{Answer, Gate, Grant, Histories, Now, Turn, Write},
    journal::Journal,
    model::{Acquire, Class, LimitStatus, Outcome, RateLimit},
    permits::Permits,
    queue::Ticket,
};
use crate::{
    telemetry::Histogram,
    time::{Clock, Grain},
};

/// Requests that wait for one limit at most.
pub const MAX_WAITERS: usize = 100_000;
/// The longest time without a look at the clock: the date may be set while someone waits for tomorrow.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What all limits share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) journal: Journal,
    /// Where timers and writes run.
    pub(super) runtime: OnceLock<Handle>,
}

impl Shared {
    pub(super) fn now(&self) -> Now {
        let micros = u64::try_from(self.clock.monotonic_micros()).unwrap_or(0);
        Now {
            nanos: micros.saturating_mul(1_000),
            wall: self.clock.now_micros(),
        }
    }
}

/// A limit in force.
#[derive(Debug)]
pub(super) struct Live {
    name: String,
    shared: Arc<Shared>,
    // Held for short, pure work only; never over an await or a write.
    state: Mutex<State>,
    /// The last write of the hour's and of the day's counts that was put on disk. Held over the write.
    disk: Mutex<[u64; 2]>,
    changed: Notify,
    /// How long permits were waited for, in microseconds; those that were there at once count as 0.
    waits: Histogram,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    waiters: HashMap<Ticket, oneshot::Sender<Result<Grant>>>,
    /// When the timer is to look, in nanoseconds of the monotonic clock.
    look_at: Option<u64>,
    has_timer: bool,
    /// Why nothing is granted any more.
    ended: Option<Error>,
}

impl Live {
    pub(super) fn new(
        shared: &Arc<Shared>,
        limit: RateLimit,
        histories: &Histories,
        is_known: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: limit.spec.name.clone(),
            state: Mutex::new(State {
                gate: Gate::new(limit, histories, is_known, shared.now()),
                waiters: HashMap::new(),
                look_at: None,
                has_timer: false,
                ended: None,
            }),
            shared: Arc::clone(shared),
            disk: Mutex::default(),
            changed: Notify::new(),
            waits: Histogram::durations(),
        })
    }

    /// Waits for permits. Dropping the future gives up the place and takes nothing.
    pub(super) async fn acquire(self: &Arc<Self>, request: &Acquire) -> Result<Permits> {
        let start = self.shared.now();
        let entered = self.enter(request, start)?;
        let grant = match entered {
            Entered::Granted(grant) => grant,
            Entered::Waits(waiting) => self.wait(waiting, request).await?,
        };
        let waited = Duration::from_nanos(self.shared.now().nanos.saturating_sub(start.nanos));
        self.waits
            .record(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        Ok(Permits::new(Arc::clone(self), grant, waited))
    }

    fn enter(self: &Arc<Self>, request: &Acquire, now: Now) -> Result<Entered> {
        let Acquire {
            limit: _,
            permits,
            class,
            client,
            patience: _,
        } = request;
        // The first caller's runtime, unless the limits were opened on one.
        self.shared.runtime.get_or_init(Handle::current);
        let mut state = self.state.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        state.gate.check(*class, *permits)?;
        if let Some(grant) = state.gate.try_take(*class, *permits, now) {
            if state.gate.runs_low() {
                self.settle(&mut state, now);
            }
            return Ok(Entered::Granted(grant));
        }
        let waiting = state.gate.waiting();
        if waiting >= MAX_WAITERS {
            return Err(Error::TooManyWaiters {
                name: self.name.clone(),
                waiting,
                expected: state.gate.expected_wait(*class, *permits, now),
            });
        }
        let ticket = state.gate.wait(*class, client, *permits);
        let (sender, answer) = oneshot::channel();
        state.waiters.insert(ticket, sender);
        self.settle(&mut state, now);
        Ok(Entered::Waits(Waiting {
            live: Arc::clone(self),
            ticket,
            answer,
        }))
    }

    async fn wait(&self, mut waiting: Waiting, request: &Acquire) -> Result<Grant> {
        let Some(patience) = request.patience else {
            return waiting.answer().await;
        };
        tokio::select! {
            // What was granted at the last moment is granted.
            biased;
            answer = waiting.answer() => answer,
            () = self.shared.clock.sleep(patience) => {
                drop(waiting);
                Err(self.not_in_time(request))
            }
        }
    }

    fn not_in_time(&self, request: &Acquire) -> Error {
        let now = self.shared.now();
        let state = self.state.lock();
        Error::NotInTime {
            name: self.name.clone(),
            permits: request.permits,
            expected: state
                .gate
                .expected_wait(request.class, request.permits, now),
        }
    }

    /// Grants what can be granted, tells those who waited for it, and sees to it that someone looks again in time.
    fn settle(self: &Arc<Self>, state: &mut State, now: Now) {
        let Turn {
            answers,
            look_again,
            write,
        } = state.gate.turn(now);
        self.tell(state, answers);
        if let Some(write) = write {
            self.write(write);
        }
        state.look_at = look_again.map(|wait| {
            let nanos = wait.min(LONGEST_PAUSE).as_nanos();
            now.nanos
                .saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
        if state.has_timer {
            self.changed.notify_one();
        } else if state.look_at.is_some()
            && let Some(runtime) = self.shared.runtime.get()
        {
            state.has_timer = true;
            runtime.spawn(Arc::clone(self).look_in_time());
        }
    }

    fn tell(&self, state: &mut State, answers: Vec<Answer>) {
        for (ticket, answer) in answers {
            let Some(waiter) = state.waiters.remove(&ticket) else {
                continue;
            };
            if let Err(Ok(grant)) = waiter.send(answer) {
                state
                    .gate
                    .put_back(&grant, grant.permits, self.shared.now());
            }
        }
    }

    /// Looks whenever time may have brought what the next request lacks. Ends when nobody waits for time.
    async fn look_in_time(self: Arc<Self>) {
        loop {
            let pause = {
                let mut state = self.state.lock();
                let Some(at) = state.look_at else {
                    state.has_timer = false;
                    return;
                };
                let now = self.shared.now();
                if at <= now.nanos {
                    self.settle(&mut state, now);
                    continue;
                }
                Duration::from_nanos(at - now.nanos)
            };
            tokio::select! {
                () = self.shared.clock.sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Puts a lot on disk, and grants from it then.
    fn write(self: &Arc<Self>, write: Write) {
        let Some(runtime) = self.shared.runtime.get() else {
            return;
        };
        let live = Arc::clone(self);
        runtime.spawn_blocking(move || {
            let outcome = live.put_on_disk(&write);
            let mut state = live.state.lock();
            state.gate.written(write.grain, write.id, outcome.is_ok());
            match outcome {
                Ok(()) => live.settle(&mut state, live.shared.now()),
                Err(error) => live.dismiss(&mut state, &error),
            }
        });
    }

    /// Later writes win, in whatever order they come here.
    fn put_on_disk(&self, write: &Write) -> Result<()> {
        let mut disk = self.disk.lock();
        let last = &mut disk[usize::from(write.grain == Grain::Daily)];
        if *last < write.id {
            self.shared
                .journal
                .store_history(&self.name, write.grain, &write.history)?;
            *last = write.id;
        }
        Ok(())
    }

    fn dismiss(&self, state: &mut State, error: &Error) {
        let tickets = state.gate.dismiss();
        let answers = tickets.into_iter().map(|it| (it, Err(error.clone())));
        self.tell(state, answers.collect());
        state.look_at = None;
        self.changed.notify_one();
    }

    /// Another statement, in force at once. Blocks.
    pub(super) fn update(self: &Arc<Self>, limit: RateLimit) -> Result<()> {
        let now = self.shared.now();
        {
            let mut state = self.state.lock();
            let refused = state.gate.update(limit, now);
            self.tell(&mut state, refused);
            self.settle(&mut state, now);
        }
        self.rewrite()
    }

    /// Puts on disk what counts on under this statement, and nothing else. Blocks.
    pub(super) fn rewrite(&self) -> Result<()> {
        // Not within the call below: the lock would be held over the writes.
        let writes = self.state.lock().gate.rewrite();
        writes.iter().try_for_each(|write| self.put_on_disk(write))
    }

    /// Grants nothing any more; those who wait get `error`.
    pub(super) fn end(&self, error: &Error) {
        let mut state = self.state.lock();
        state.ended = Some(error.clone());
        self.dismiss(&mut state, error);
    }

    /// Writes down what was really granted. Blocks; [`Live::end`] comes first.
    pub(super) fn close(&self) -> Result<()> {
        let mut disk = self.disk.lock();
        // No write that is still under way comes after this one.
        *disk = [u64::MAX; 2];
        let histories = self.state.lock().gate.close();
        for (grain, history) in &histories {
            self.shared
                .journal
                .store_history(&self.name, *grain, history)?;
        }
        Ok(())
    }

    pub(super) fn put_back(self: &Arc<Self>, grant: &Grant, permits: u32) {
        let mut state = self.state.lock();
        state.gate.put_back(grant, permits, self.shared.now());
        self.settle_waiting(&mut state);
    }

    pub(super) fn done(self: &Arc<Self>, class: Class, permits: u32) {
        let mut state = self.state.lock();
        state.gate.done(class, permits);
        self.settle_waiting(&mut state);
    }

    pub(super) fn report(self: &Arc<Self>, outcome: Outcome) {
        let now = self.shared.now();
        let mut state = self.state.lock();
        if state.gate.report(outcome, now) && state.gate.waiting() > 0 {
            self.settle(&mut state, now);
        }
    }

    fn settle_waiting(self: &Arc<Self>, state: &mut State) {
        if state.gate.waiting() > 0 {
            self.settle(state, self.shared.now());
        }
    }

    pub(super) fn limit(&self) -> RateLimit {
        self.state.lock().gate.limit().clone()
    }

    pub(super) fn status(&self) -> LimitStatus {
        let now = self.shared.now();
        self.state.lock().gate.status(now)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn waits(&self) -> &Histogram {
        &self.waits
    }

    pub(super) fn expected_wait(&self, class: Class, permits: u32) -> Duration {
        let now = self.shared.now();
        self.state.lock().gate.expected_wait(class, permits, now)
    }
}

/// What a request came to at once.
enum Entered {
    Granted(Grant),
    Waits(Waiting),
}

/// A request that waits. Dropping it gives up its place; what was granted to it meanwhile goes back.
struct Waiting {
    live: Arc<Live>,
    ticket: Ticket,
    answer: oneshot::Receiver<Result<Grant>>,
}

impl Waiting {
    async fn answer(&mut self) -> Result<Grant> {
        (&mut self.answer).await.unwrap_or(Err(Error::Stopping))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.live.state.lock();
        if state.waiters.remove(&self.ticket).is_some() {
            state.gate.leave(self.ticket);
        } else if let Ok(Ok(grant)) = self.answer.try_recv() {
            let now = self.live.shared.now();
            state.gate.put_back(&grant, grant.permits, now);
        } else {
            return;
        }
        self.live.settle_waiting(&mut state);
        if state.gate.waiting() == 0 {
            state.look_at = None;
            self.live.changed.notify_one();
        }
    }
}
