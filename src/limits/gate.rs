//! A limit as a pure machine: who gets permits next, how many, and when to look again. `RL-1` is kept here.
//!
//! The instant of each call is a parameter; waiting, locking and writing are the shell's ([`super::live`]).
//!
//! **Order.** Live callers come before backfills; within a class clients take turns. Whoever is next and cannot be served yet
//! is waited for, so that large requests are not overtaken by small ones for ever. The one exception is an hour's or a day's
//! quota that does not hold a request any more: it waits for the next window, where it is first again, and what is left in
//! this one goes to others.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    Error,
    backoff::Backoff,
    bucket::{Bucket, Instant, Mark},
    model::{ByClass, Class, LimitSpec, LimitStatus, Outcome, RateLimit, WindowStatus},
    queue::{Queue, Ticket},
    window::{Counter, Empty, History},
};
use crate::time::Grain;

/// The instant of a call, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Nanoseconds of the monotonic clock.
    pub(super) nanos: Instant,
    /// Microseconds since the Unix epoch: what hours and dates go by.
    pub(super) wall: i64,
}

/// What was counted of each window, by the length of windows.
pub(super) type Histories = Vec<(Grain, History)>;

/// Permits as they were granted: what must be known to take them back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) class: Class,
    pub(super) permits: u32,
    /// Where each counter counted them.
    windows: Vec<(Grain, i64)>,
    /// Where the buckets stood.
    rate: Option<Marks>,
}

/// Of the bucket of all permits, and of that of backfills.
type Marks = (Mark, Option<Mark>);

/// What became of a request that waited.
pub(super) type Answer = (Ticket, Result<Grant, Error>);

/// What a look at the waiting requests led to.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// To be told now.
    pub(super) answers: Vec<Answer>,
    /// When to look again, if nothing happens before; `None`: nothing waits for time.
    pub(super) look_again: Option<Duration>,
    /// What must be on disk before the next is granted: then [`Gate::written`], and look again.
    pub(super) write: Option<Write>,
}

/// A lot of a counter, to be put on disk.
#[derive(Debug)]
pub(super) struct Write {
    /// Later writes have greater ones.
    pub(super) id: u64,
    pub(super) grain: Grain,
    pub(super) history: History,
}

/// Why a request is not served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    /// Time brings what it lacks.
    Until(Instant),
    /// The window that starts at this microsecond does.
    Window(i64),
    /// Someone who is done does.
    Places,
    /// Writing down does.
    Unwritten(Grain),
}

/// A limit.
#[derive(Debug)]
pub(super) struct Gate {
    limit: RateLimit,
    /// All permits, and those of backfills.
    buckets: Option<(Bucket, Bucket)>,
    /// How often buckets were made.
    generation: u32,
    counters: Vec<Counter>,
    backoff: Backoff,
    in_flight: ByClass,
    live: Queue,
    backfill: Queue,
    clients: HashMap<Ticket, (Class, Arc<str>)>,
    next_ticket: Ticket,
    next_write: u64,
    granted: ByClass,
    given_back: ByClass,
    throttled: u64,
}

impl Gate {
    /// `is_known`: it granted permits before, nobody knows when; its burst counts as used up.
    pub(super) fn new(limit: RateLimit, histories: &Histories, is_known: bool, now: Now) -> Self {
        let mut gate = Self {
            counters: counters(&limit.spec, histories, Vec::new(), now),
            buckets: None,
            generation: 0,
            limit,
            backoff: Backoff::new(),
            in_flight: ByClass::default(),
            live: Queue::default(),
            backfill: Queue::default(),
            clients: HashMap::new(),
            next_ticket: 0,
            next_write: 1,
            granted: ByClass::default(),
            given_back: ByClass::default(),
            throttled: 0,
        };
        gate.shape(now);
        if is_known {
            gate.drain(now.nanos);
        }
        gate
    }

    /// The limit as it is stated.
    pub(super) fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Another statement, in force at once. Requests that can never be granted any more are answered.
    /// [`Gate::rewrite`] comes next.
    pub(super) fn update(&mut self, limit: RateLimit, now: Now) -> Vec<Answer> {
        self.advance(now);
        let histories = self.histories();
        let old = std::mem::take(&mut self.counters);
        self.counters = counters(&limit.spec, &histories, old, now);
        self.limit = limit;
        let had_rate = self.buckets.is_some();
        self.shape(now);
        if !had_rate {
            // How fast calls were made just before is not known.
            self.drain(self.free_from(now));
        }
        [Class::Live, Class::Backfill]
            .into_iter()
            .flat_map(|class| self.refuse_too_large(class))
            .collect()
    }

    fn refuse_too_large(&mut self, class: Class) -> Vec<Answer> {
        let Some((most, _)) = self.limit.spec.most(class) else {
            return Vec::new();
        };
        let removed = self.queue(class).remove_above(most);
        let refuse = |(ticket, permits): (Ticket, u32)| {
            self.clients.remove(&ticket);
            let refused = self.check(class, permits);
            (ticket, refused.and(Err(self.not_found())))
        };
        removed.into_iter().map(refuse).collect()
    }

    fn not_found(&self) -> Error {
        Error::NotFound {
            name: self.limit.spec.name.clone(),
        }
    }

    /// Refuses what can never be granted.
    pub(super) fn check(&self, class: Class, permits: u32) -> Result<(), Error> {
        if permits == 0 {
            return Err(Error::NoPermits);
        }
        match self.limit.spec.most(class) {
            Some((most, quota)) if u64::from(permits) > most => Err(Error::TooMany {
                name: self.limit.spec.name.clone(),
                permits,
                class,
                most,
                quota,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Grants at once, if nobody waits who comes first.
    pub(super) fn try_take(&mut self, class: Class, permits: u32, now: Now) -> Option<Grant> {
        let is_first = match class {
            Class::Live => self.live.is_empty(),
            Class::Backfill => self.live.is_empty() && self.backfill.is_empty(),
        };
        if !is_first {
            return None;
        }
        self.advance(now);
        self.take(class, permits, now).ok()
    }

    /// Lets a request wait.
    pub(super) fn wait(&mut self, class: Class, client: &str, permits: u32) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let client: Arc<str> = Arc::from(client);
        self.queue(class).push(&client, ticket, permits);
        self.clients.insert(ticket, (class, client));
        ticket
    }

    /// Nobody waits for this request any more.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if let Some((class, client)) = self.clients.remove(&ticket) {
            self.queue(class).remove(&client, ticket);
        }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.live.len() + self.backfill.len()
    }

    /// All of them, none of which is served any more.
    pub(super) fn dismiss(&mut self) -> Vec<Ticket> {
        self.live = Queue::default();
        self.backfill = Queue::default();
        self.clients.drain().map(|(ticket, _)| ticket).collect()
    }

    /// Grants what can be granted at `now`.
    pub(super) fn turn(&mut self, now: Now) -> Turn {
        let mut turn = Turn::default();
        self.advance(now);
        // Backfills go on only if no live request waits for something that they would take from it.
        if self.serve(Class::Live, now, &mut turn) {
            self.serve(Class::Backfill, now, &mut turn);
        }
        if turn.write.is_none() {
            turn.write = self.refill();
        }
        turn
    }

    /// Serves a class. `false`: whoever is next must be waited for.
    fn serve(&mut self, class: Class, now: Now, turn: &mut Turn) -> bool {
        let mut skip = 0;
        while let Some((_, ticket, permits)) = self.queue(class).peek(skip) {
            match self.take(class, permits, now) {
                Ok(grant) => {
                    self.queue(class).pop(skip);
                    self.clients.remove(&ticket);
                    turn.answers.push((ticket, Ok(grant)));
                }
                Err(Short::Window(at)) => {
                    let micros = u64::try_from(at.saturating_sub(now.wall)).unwrap_or(0);
                    turn.look_within(Duration::from_micros(micros));
                    if self.is_used_up(class) {
                        return true;
                    }
                    skip += 1;
                }
                Err(Short::Until(at)) => {
                    turn.look_within(Duration::from_nanos(at.saturating_sub(now.nanos)));
                    return false;
                }
                Err(Short::Places) => return false,
                Err(Short::Unwritten(grain)) => {
                    turn.write = self.set_aside(grain, permits);
                    return false;
                }
            }
        }
        true
    }

    /// The heart of it: checks every quota, and only then takes from each.
    fn take(&mut self, class: Class, permits: u32, now: Now) -> Result<Grant, Short> {
        if now.nanos < self.backoff.blocked_until() {
            return Err(Short::Until(self.backoff.blocked_until()));
        }
        if let Some(places) = self.places() {
            let most = self.limit.spec.share(class, u64::from(places));
            let permits = u64::from(permits);
            // A request that is larger than what back-off leaves is let through alone, or it would wait for ever.
            let fits = |taken: u64, most: u64| taken == 0 || taken + permits <= most;
            if !fits(self.in_flight.total(), u64::from(places))
                || !fits(self.in_flight.get(class), most)
            {
                return Err(Short::Places);
            }
        }
        let mut unwritten = None;
        for counter in &self.counters {
            let most = self.limit.spec.share(class, counter.quota().permits);
            match counter.check(class, permits, most) {
                Ok(()) => {}
                Err(Empty::Until(at)) => return Err(Short::Window(at)),
                Err(Empty::Unwritten) => unwritten = Some(counter.quota().grain),
            }
        }
        self.check_rate(class, permits, now.nanos)?;
        // Last, so that a crash loses nothing that would have had to wait anyway.
        if let Some(grain) = unwritten {
            return Err(Short::Unwritten(grain));
        }
        let rate = self.take_rate(class, permits, now.nanos)?;
        let count = |counter: &mut Counter| (counter.quota().grain, counter.take(class, permits));
        let windows = self.counters.iter_mut().map(count).collect();
        *self.in_flight.of(class) += u64::from(permits);
        *self.granted.of(class) += u64::from(permits);
        Ok(Grant {
            class,
            permits,
            windows,
            rate,
        })
    }

    /// Whether the rest of an hour or a date does not hold a single permit of `class` any more.
    fn is_used_up(&self, class: Class) -> bool {
        self.counters.iter().any(|counter| {
            let most = self.limit.spec.share(class, counter.quota().permits);
            matches!(counter.check(class, 1, most), Err(Empty::Until(_)))
        })
    }

    fn check_rate(&self, class: Class, permits: u32, now: Instant) -> Result<(), Short> {
        let Some((all, backfills)) = &self.buckets else {
            return Ok(());
        };
        let whole = all.when(0, permits, now);
        let at = match class {
            Class::Live => whole,
            Class::Backfill => whole.max(backfills.when(0, permits, now)),
        };
        if at > now {
            return Err(Short::Until(at));
        }
        Ok(())
    }

    /// [`Gate::check_rate`] comes first: a bucket that refused after the other was taken from would leave that one short.
    fn take_rate(
        &mut self,
        class: Class,
        permits: u32,
        now: Instant,
    ) -> Result<Option<Marks>, Short> {
        let Some((all, backfills)) = &self.buckets else {
            return Ok(None);
        };
        let mark = all.take(permits, now).map_err(Short::Until)?;
        let share = match class {
            Class::Live => None,
            Class::Backfill => Some(backfills.take(permits, now).map_err(Short::Until)?),
        };
        Ok(Some((mark, share)))
    }

    /// Takes `permits` of a grant back as if they had never been granted; their places are free too.
    pub(super) fn put_back(&mut self, grant: &Grant, permits: u32, now: Now) {
        let permits = permits.min(grant.permits);
        if let (Some((all, backfills)), Some((mark, share))) = (&mut self.buckets, grant.rate) {
            all.put_back(permits, mark, now.nanos);
            if let Some(share) = share {
                backfills.put_back(permits, share, now.nanos);
            }
        }
        for (grain, start) in &grant.windows {
            if let Some(counter) = self.counter(*grain) {
                counter.put_back(grant.class, permits, *start);
            }
        }
        let granted = self.granted.of(grant.class);
        *granted = granted.saturating_sub(u64::from(permits));
        *self.given_back.of(grant.class) += u64::from(permits);
        self.done(grant.class, permits);
    }

    /// `permits` calls are not under way any more.
    pub(super) fn done(&mut self, class: Class, permits: u32) {
        let in_flight = self.in_flight.of(class);
        *in_flight = in_flight.saturating_sub(u64::from(permits));
    }

    /// Takes an outside system's answer in. `true`: it may be that more can be granted, or less.
    pub(super) fn report(&mut self, outcome: Outcome, now: Now) -> bool {
        if matches!(outcome, Outcome::Throttled { .. }) {
            self.throttled += 1;
        }
        if !self.backoff.report(outcome, now.nanos) {
            return false;
        }
        self.shape(now);
        if matches!(outcome, Outcome::Throttled { .. }) {
            // Whoever was throttled does not want a burst next.
            self.drain(self.free_from(now));
        }
        true
    }

    /// What [`Turn::write`] asked for is on disk, or could not be put there.
    pub(super) fn written(&mut self, grain: Grain, id: u64, on_disk: bool) {
        if let Some(counter) = self.counter(grain) {
            counter.written(id, on_disk);
        }
    }

    /// What must be on disk after a change of the statement: what counts on, and nothing of quotas that are not stated any
    /// more. Those come last, because what counts on was made of them.
    pub(super) fn rewrite(&mut self) -> Vec<Write> {
        let promised = |counter: &mut Counter| (counter.quota().grain, counter.promised());
        let mut counts: Histories = self.counters.iter_mut().map(promised).collect();
        for grain in [Grain::Hourly, Grain::Daily] {
            if counts.iter().all(|(counted, _)| *counted != grain) {
                counts.push((grain, History::new()));
            }
        }
        let write = |(grain, history)| {
            let id = self.next_write;
            self.next_write += 1;
            Write { id, grain, history }
        };
        counts.into_iter().map(write).collect()
    }

    /// What was really granted, for a stop in order. Nothing that was set aside is granted after it.
    pub(super) fn close(&mut self) -> Histories {
        self.counters
            .iter_mut()
            .map(|counter| (counter.quota().grain, counter.close()))
            .collect()
    }

    /// Everything that was granted.
    fn histories(&self) -> Histories {
        self.counters
            .iter()
            .map(|counter| (counter.quota().grain, counter.history()))
            .collect()
    }

    /// How long a request that comes now would wait, as things stand.
    pub(super) fn expected_wait(&self, class: Class, permits: u32, now: Now) -> Duration {
        let ahead = match class {
            Class::Live => self.live.permits(),
            Class::Backfill => self.live.permits() + self.backfill.permits(),
        };
        let mut at = self.free_from(now);
        if let Some((all, backfills)) = &self.buckets {
            at = at.max(all.when(ahead, permits, now.nanos));
            if class == Class::Backfill {
                at = at.max(backfills.when(self.backfill.permits(), permits, now.nanos));
            }
        }
        let mut wait = Duration::from_nanos(at.saturating_sub(now.nanos));
        for counter in &self.counters {
            let most = self.limit.spec.share(class, counter.quota().permits);
            if let Err(Empty::Until(at)) = counter.check(class, permits, most) {
                let micros = u64::try_from(at.saturating_sub(now.wall)).unwrap_or(0);
                wait = wait.max(Duration::from_micros(micros));
            }
        }
        wait
    }

    /// How it stands.
    pub(super) fn status(&mut self, now: Now) -> LimitStatus {
        self.advance(now);
        let window = |counter: &Counter| {
            let (used, reset_micros) = counter.standing();
            WindowStatus {
                quota: counter.quota(),
                used: used.total(),
                reset_micros,
            }
        };
        let blocked = self.backoff.blocked_until().saturating_sub(now.nanos);
        LimitStatus {
            limit: self.limit.clone(),
            effective_rate: (self.limit.spec.rate)
                .map(|rate| rate.per_second() * self.backoff.factor()),
            effective_concurrent: self.places(),
            blocked: (blocked > 0).then(|| Duration::from_nanos(blocked)),
            in_flight: self.in_flight,
            waiting: ByClass {
                live: self.live.len() as u64,
                backfill: self.backfill.len() as u64,
            },
            granted: self.granted,
            given_back: self.given_back,
            throttled: self.throttled,
            windows: self.counters.iter().map(window).collect(),
        }
    }

    /// Concurrent calls that back-off leaves. Where there is a rate, that alone is slowed down.
    fn places(&self) -> Option<u32> {
        let concurrent = self.limit.spec.concurrent?;
        Some(match self.limit.spec.rate {
            Some(_) => concurrent,
            None => self.backoff.shrink(concurrent),
        })
    }

    /// From when permits can be granted at all.
    fn free_from(&self, now: Now) -> Instant {
        now.nanos.max(self.backoff.blocked_until())
    }

    /// Makes the buckets what the limit states and back-off leaves.
    fn shape(&mut self, now: Now) {
        // A bucket that was drained for the end of a block holds the block too, which does not become longer with the interval.
        let at = self.free_from(now);
        let spec = &self.limit.spec;
        let (Some(rate), Some(burst)) = (spec.rate, spec.effective_burst()) else {
            self.buckets = None;
            return;
        };
        let interval = self.backoff.stretch(rate.interval_nanos());
        let percent = u64::from(100 - spec.live_share_percent.min(99));
        let slower = interval.saturating_mul(100).div_ceil(percent);
        let share = spec.share(Class::Backfill, u64::from(burst));
        let smaller = u32::try_from(share).unwrap_or(burst);
        match &mut self.buckets {
            Some((all, backfills)) => {
                all.reshape(interval, burst, at);
                backfills.reshape(slower, smaller, at);
            }
            None => {
                self.generation = self.generation.wrapping_add(1);
                let bucket = |interval, burst| Bucket::new(interval, burst, self.generation);
                self.buckets = Some((bucket(interval, burst), bucket(slower, smaller)));
            }
        }
    }

    fn drain(&self, at: Instant) {
        if let Some((all, backfills)) = &self.buckets {
            all.drain(at);
            backfills.drain(at);
        }
    }

    fn advance(&mut self, now: Now) {
        for counter in &mut self.counters {
            counter.advance(now.wall);
        }
    }

    /// A lot for a counter that runs low, before anyone has to wait for it.
    fn refill(&mut self) -> Option<Write> {
        let low = self.counters.iter().find(|it| it.runs_low())?;
        self.set_aside(low.quota().grain, 0)
    }

    /// Whether a counter runs low.
    pub(super) fn runs_low(&self) -> bool {
        self.counters.iter().any(Counter::runs_low)
    }

    fn set_aside(&mut self, grain: Grain, permits: u32) -> Option<Write> {
        let id = self.next_write;
        let history = self.counter(grain)?.set_aside(permits, id)?;
        self.next_write += 1;
        Some(Write { id, grain, history })
    }

    fn counter(&mut self, grain: Grain) -> Option<&mut Counter> {
        self.counters
            .iter_mut()
            .find(|counter| counter.quota().grain == grain)
    }

    fn queue(&mut self, class: Class) -> &mut Queue {
        match class {
            Class::Live => &mut self.live,
            Class::Backfill => &mut self.backfill,
        }
    }
}

impl Turn {
    fn look_within(&mut self, wait: Duration) {
        self.look_again = Some(self.look_again.map_or(wait, |other| other.min(wait)));
    }
}

/// Counters of what `spec` states: those of `old` that go on, and new ones that start from what was counted. A quota goes by
/// its own counts, where there are any: those of dates say too little of hours.
fn counters(
    spec: &LimitSpec,
    histories: &Histories,
    mut old: Vec<Counter>,
    now: Now,
) -> Vec<Counter> {
    let counted = |grain: Grain| {
        let own = histories.iter().find(|(counted, _)| *counted == grain);
        let known = own.or(histories.first());
        known.map_or_else(History::new, |(_, history)| history.clone())
    };
    [spec.hourly, spec.daily]
        .into_iter()
        .flatten()
        .map(|quota| {
            let goes_on = |counter: &Counter| {
                (counter.quota().grain, counter.quota().zone) == (quota.grain, quota.zone)
            };
            match old.iter().position(goes_on) {
                Some(index) => {
                    let mut counter = old.swap_remove(index);
                    counter.set_permits(quota.permits);
                    counter
                }
                None => Counter::new(quota, &counted(quota.grain), now.wall),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
