//! `RL-1` on the pure machine: random lives of a limit against a log of what it granted.

use std::time::Duration;

use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;
use crate::{
    limits::model::{Rate, WindowQuota},
    time::ValidTime,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// Where lives begin: 20 s before midnight in UTC, so that dates change in them.
const START_WALL: i64 = 20_000 * 86_400_000_000 - 20_000_000;

/// One step of a life.
#[derive(Debug, Clone)]
enum Step {
    Ask(Class, u8, u32),
    /// One of those that wait goes away.
    Leave(prop::sample::Index),
    /// Calls of one of the grants are over.
    Done(prop::sample::Index),
    /// Part of one of the grants was not used.
    GiveBack(prop::sample::Index, u32),
    Wait(u64),
    /// The date is set to another time.
    SetClock(i64),
    Report(Outcome),
    Update(LimitSpec),
    /// Whatever is being written reaches the disk, or fails.
    Written(bool),
    /// As after kill -9.
    Crash,
}

fn spec() -> impl Strategy<Value = LimitSpec> {
    let rate = prop::option::of((1u32..50, 1u64..3).prop_map(|(permits, seconds)| Rate {
        permits,
        per: Duration::from_secs(seconds),
    }));
    let zone = prop_oneof![Just(Tz::UTC), Just(Tz::Asia__Kolkata)];
    let window = move |grain, most: u64| {
        prop::option::of(
            (5..most, zone.clone()).prop_map(move |(permits, zone)| WindowQuota {
                permits,
                grain,
                zone,
            }),
        )
    };
    (
        rate,
        prop::option::of(5u32..12),
        prop::option::of(5u32..9),
        window(Grain::Hourly, 60),
        window(Grain::Daily, 400),
        prop_oneof![Just(0u32), 1..60u32],
    )
        .prop_map(
            |(rate, burst, concurrent, hourly, daily, share)| LimitSpec {
                rate,
                burst: rate.and(burst.or(Some(6))),
                // At least one quota.
                concurrent: concurrent.or(match (rate, hourly, daily) {
                    (None, None, None) => Some(8),
                    _ => None,
                }),
                hourly,
                daily,
                live_share_percent: share,
                ..LimitSpec::new("l")
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![Just(Class::Live), Just(Class::Backfill)];
    let index = any::<prop::sample::Index>;
    let outcome = prop_oneof![
        3 => Just(Outcome::Success),
        1 => prop::option::of(0u64..3_000).prop_map(|millis| Outcome::Throttled {
            retry_after: millis.map(Duration::from_millis),
        }),
    ];
    prop_oneof![
        10 => (class, 0u8..4, 1u32..9).prop_map(|(class, client, n)| Step::Ask(class, client, n)),
        2 => index().prop_map(Step::Leave),
        6 => index().prop_map(Step::Done),
        2 => (index(), 1u32..9).prop_map(|(at, n)| Step::GiveBack(at, n)),
        8 => (0u64..2_000).prop_map(Step::Wait),
        1 => (0u64..40_000).prop_map(Step::Wait),
        2 => (-4_000i64..4_000).prop_map(Step::SetClock),
        1 => (-40_000_000i64..40_000_000).prop_map(Step::SetClock),
        2 => outcome.prop_map(Step::Report),
        1 => spec().prop_map(Step::Update),
        6 => prop::bool::weighted(0.9).prop_map(Step::Written),
        1 => Just(Step::Crash),
    ]
}

/// A grant as the outside system saw it.
#[derive(Debug)]
struct Seen {
    nanos: u64,
    wall: i64,
    class: Class,
    /// Without those given back.
    permits: u32,
    grant: Grant,
    under_way: u32,
    /// Which statement was in force.
    statement: usize,
}

/// A limit with everything around it.
struct Life {
    gate: Gate,
    now: Now,
    waiting: Vec<(Ticket, Class, u32)>,
    seen: Vec<Seen>,
    /// From when which statement was in force.
    statements: Vec<(u64, LimitSpec)>,
    /// Of each grain, with the id of its write.
    disk: HashMap<u8, (u64, History)>,
    writing: Vec<Write>,
    blocked_until: u64,
    crashes: u64,
    /// The latest that the wall's clock ever showed.
    latest_wall: i64,
}

fn limit(spec: LimitSpec) -> RateLimit {
    RateLimit {
        spec,
        create_time_micros: 0,
        update_time_micros: 0,
    }
}

impl Life {
    fn new(spec: LimitSpec) -> Self {
        let now = Now {
            nanos: 1_000 * SECOND,
            wall: START_WALL,
        };
        spec.check().expect("a limit");
        Self {
            gate: Gate::new(limit(spec.clone()), &Vec::new(), false, now),
            now,
            waiting: Vec::new(),
            seen: Vec::new(),
            statements: vec![(0, spec)],
            disk: HashMap::new(),
            writing: Vec::new(),
            blocked_until: 0,
            crashes: 0,
            latest_wall: START_WALL,
        }
    }

    /// A life that begins at half past the hour of 10 on its first day.
    fn in_the_morning(spec: LimitSpec) -> Self {
        let mut life = Self::new(spec);
        life.pass(20 * SECOND + 10 * HOUR + 30 * MINUTE);
        life
    }

    fn spec(&self) -> &LimitSpec {
        &self.statements[self.statements.len() - 1].1
    }

    fn live(&mut self, step: Step) {
        match step {
            Step::Ask(class, client, permits) => self.ask(class, client, permits),
            Step::Leave(index) => {
                if !self.waiting.is_empty() {
                    let (ticket, _, _) = self.waiting.remove(index.index(self.waiting.len()));
                    self.gate.leave(ticket);
                }
            }
            Step::Done(index) => self.with_grant(index, |gate, seen| {
                gate.done(seen.class, seen.under_way);
                seen.under_way = 0;
            }),
            Step::GiveBack(index, permits) => {
                let now = self.now;
                self.with_grant(index, |gate, seen| {
                    let permits = permits.min(seen.under_way);
                    gate.put_back(&seen.grant, permits, now);
                    seen.under_way -= permits;
                    seen.permits -= permits;
                });
            }
            Step::Wait(millis) => self.pass(millis * MS),
            Step::SetClock(seconds) => self.now.wall += seconds * 1_000_000,
            Step::Report(outcome) => self.report(outcome),
            Step::Update(spec) => {
                self.statements.push((self.now.nanos, spec.clone()));
                let answers = self.gate.update(limit(spec), self.now);
                self.hear(answers);
                for write in self.gate.rewrite() {
                    self.put_on_disk(write);
                }
            }
            Step::Written(on_disk) => self.written(on_disk),
            Step::Crash => self.crash(),
        }
        self.latest_wall = self.latest_wall.max(self.now.wall);
        self.turn();
    }

    fn pass(&mut self, nanos: u64) {
        self.now.nanos += nanos;
        self.now.wall += i64::try_from(nanos / 1_000).expect("short");
    }

    fn ask(&mut self, class: Class, client: u8, permits: u32) {
        if self.gate.check(class, permits).is_err() {
            return;
        }
        match self.gate.try_take(class, permits, self.now) {
            Some(grant) => self.see(grant),
            None => {
                let ticket = self.gate.wait(class, &format!("c{client}"), permits);
                self.waiting.push((ticket, class, permits));
            }
        }
    }

    fn with_grant(&mut self, index: prop::sample::Index, act: impl Fn(&mut Gate, &mut Seen)) {
        let gate = &mut self.gate;
        let mut open: Vec<_> = self.seen.iter_mut().filter(|it| it.under_way > 0).collect();
        if !open.is_empty() {
            let at = index.index(open.len());
            act(gate, open[at]);
        }
    }

    fn report(&mut self, outcome: Outcome) {
        self.gate.report(outcome, self.now);
        if let Outcome::Throttled {
            retry_after: Some(wait),
        } = outcome
        {
            let until = self.now.nanos + u64::try_from(wait.as_nanos()).expect("short");
            self.blocked_until = self.blocked_until.max(until);
        }
    }

    fn written(&mut self, on_disk: bool) {
        for write in std::mem::take(&mut self.writing) {
            let (grain, id) = (write.grain, write.id);
            if on_disk {
                self.put_on_disk(write);
            }
            self.gate.written(grain, id, on_disk);
        }
    }

    /// Later writes win.
    fn put_on_disk(&mut self, write: Write) {
        let last = self.disk.entry(write.grain as u8).or_default();
        if last.0 < write.id {
            *last = (write.id, write.history);
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        let mut histories = Histories::new();
        for grain in [Grain::Hourly, Grain::Daily] {
            let (id, history) = self.disk.entry(grain as u8).or_default();
            *id = 0;
            if !history.is_empty() {
                histories.push((grain, history.clone()));
            }
        }
        // Nothing starts in no time.
        self.pass(MS);
        self.gate = Gate::new(limit(self.spec().clone()), &histories, true, self.now);
        self.waiting.clear();
        self.writing.clear();
        self.blocked_until = 0;
        for seen in &mut self.seen {
            seen.under_way = 0;
        }
    }

    fn turn(&mut self) -> Option<Duration> {
        let turn = self.gate.turn(self.now);
        self.hear(turn.answers);
        self.writing.extend(turn.write);
        turn.look_again
    }

    fn hear(&mut self, answers: Vec<Answer>) {
        for (ticket, answer) in answers {
            let at = self.waiting.iter().position(|it| it.0 == ticket);
            let (_, class, permits) = self.waiting.remove(at.expect("it waited"));
            match answer {
                Ok(grant) => {
                    assert_eq!(
                        (grant.class, grant.permits),
                        (class, permits),
                        "all or nothing"
                    );
                    self.see(grant);
                }
                Err(error) => assert!(matches!(error, Error::TooMany { .. }), "{error}"),
            }
        }
    }

    /// A grant reaches the outside system: everything that `RL-1` says must hold now.
    fn see(&mut self, grant: Grant) {
        let class = grant.class;
        self.seen.push(Seen {
            nanos: self.now.nanos,
            wall: self.now.wall,
            class: grant.class,
            permits: grant.permits,
            under_way: grant.permits,
            statement: self.statements.len() - 1,
            grant,
        });
        assert!(self.now.nanos >= self.blocked_until, "Retry-After");
        for classes in [&[Class::Live, Class::Backfill][..], &[Class::Backfill]] {
            if !classes.contains(&class) {
                // What backfills were granted before their share was lowered is no fault of a live grant.
                continue;
            }
            self.check_rate(classes);
            self.check_windows(classes);
            self.check_under_way(classes);
        }
    }

    /// What `classes` may have of `quota`.
    fn share(spec: &LimitSpec, classes: &[Class], quota: u64) -> u64 {
        match classes {
            [Class::Backfill] => spec.share(Class::Backfill, quota),
            _ => quota,
        }
    }

    /// In every window that ends now, at most a burst and what the rate gave.
    fn check_rate(&self, classes: &[Class]) {
        let mut granted = 0;
        for seen in self.seen.iter().rev() {
            if !classes.contains(&seen.class) {
                continue;
            }
            granted += u64::from(seen.permits);
            if let Some(allowed) = self.allowed_since(seen, classes) {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let granted = granted as f64;
                assert!(
                    granted <= allowed + 1e-6,
                    "{granted} > {allowed} permits since {} ns for {classes:?}",
                    seen.nanos
                );
            }
        }
    }

    /// `None`: some of the time there was no rate.
    fn allowed_since(&self, first: &Seen, classes: &[Class]) -> Option<f64> {
        let mut end = self.now.nanos;
        let mut burst = 0;
        let mut allowed = 0.0;
        for (from, spec) in self.statements[first.statement..].iter().rev() {
            let from = (*from).max(first.nanos);
            let full = Self::share(spec, classes, u64::from(spec.effective_burst()?));
            burst = burst.max(full);
            let percent = match classes {
                [Class::Backfill] => 100 - spec.live_share_percent,
                _ => 100,
            };
            let seconds = Duration::from_nanos(end - from).as_secs_f64();
            allowed += seconds * spec.rate?.per_second() * f64::from(percent) / 100.0;
            end = from;
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        Some(allowed + burst as f64)
    }

    /// In the hour and on the date of now, at most their quota, whatever happened since they began. What was granted while
    /// neither was limited is not known.
    fn check_windows(&self, classes: &[Class]) {
        let spec = self.spec();
        let is_counted = |(_, spec): &(u64, LimitSpec)| spec.hourly.or(spec.daily).is_some();
        let uncounted = self.statements.iter().rposition(|it| !is_counted(it));
        for quota in [spec.hourly, spec.daily].into_iter().flatten() {
            let window = quota
                .calendar()
                .partition_containing(ValidTime::from_micros(self.now.wall))
                .expect("in range");
            let range = window.start.micros()..window.end.micros();
            let granted: u64 = self
                .seen
                .iter()
                .filter(|seen| range.contains(&seen.wall) && classes.contains(&seen.class))
                .filter(|seen| uncounted.is_none_or(|uncounted| seen.statement > uncounted))
                .map(|seen| u64::from(seen.permits))
                .sum();
            let most = Self::share(spec, classes, quota.permits);
            assert!(granted <= most, "{granted} > {most} in {}", window.label);
        }
    }

    fn check_under_way(&self, classes: &[Class]) {
        if let Some(concurrent) = self.spec().concurrent {
            let under_way: u64 = self
                .seen
                .iter()
                .filter(|seen| classes.contains(&seen.class))
                .map(|seen| u64::from(seen.under_way))
                .sum();
            let most = Self::share(self.spec(), classes, u64::from(concurrent));
            assert!(under_way <= most, "{under_way} > {most} calls");
        }
    }

    /// Takes permits, and waits only for what is written.
    fn take(&mut self, class: Class, permits: u32) {
        self.ask(class, 0, permits);
        for _ in 0..9 {
            self.written(true);
            self.turn();
        }
        assert!(self.waiting.is_empty(), "{permits} are there");
    }

    fn used(&mut self) -> Vec<u64> {
        let windows = self.gate.status(self.now).windows;
        windows.into_iter().map(|window| window.used).collect()
    }

    /// Once calls end and time passes, whoever waits is served: nothing starves while permits remain.
    fn serve_all(&mut self) {
        let most = self.longest_wait();
        let start = self.now.nanos;
        for _ in 0..20_000 {
            if self.waiting.is_empty() {
                return;
            }
            for seen in &mut self.seen {
                self.gate.done(seen.class, seen.under_way);
                seen.under_way = 0;
            }
            self.written(true);
            let pause = self.turn().unwrap_or_default();
            self.pass(u64::try_from(pause.as_nanos()).expect("short"));
            let waited = Duration::from_nanos(self.now.nanos - start);
            assert!(
                waited <= most,
                "{:?} still wait after {waited:?}, of {most:?} at most",
                self.waiting
            );
        }
        panic!("{:?} still wait", self.waiting);
    }

    /// The time that the quotas themselves can make those wait who do.
    fn longest_wait(&self) -> Duration {
        let spec = self.spec();
        let requests = u32::try_from(self.waiting.len()).expect("few");
        let permits: u64 = self.waiting.iter().map(|it| u64::from(it.2)).sum();
        let mut wait = Duration::from_nanos(self.blocked_until.saturating_sub(self.now.nanos));
        if let Some(rate) = spec.rate {
            // A burst of any statement may count as used up.
            let taken = u32::try_from(permits + 12).expect("few");
            let interval = rate.per / rate.permits * 100 / (100 - spec.live_share_percent);
            wait += interval.div_f64(self.gate.backoff.factor()) * taken + Duration::from_secs(1);
        }
        for quota in [spec.hourly, spec.daily].into_iter().flatten() {
            let window = quota
                .calendar()
                .partition_containing(ValidTime::from_micros(self.now.wall))
                .expect("in range");
            let range = window.start.micros()..window.end.micros();
            let here = self.seen.iter().filter(|it| range.contains(&it.wall));
            let granted: u64 = here.map(|it| u64::from(it.permits)).sum();
            // Two lots of one permit each, and a request.
            let lost = 10 * self.crashes;
            let is_known = self.statements.len() == 1;
            if is_known && granted + lost + permits <= spec.share(Class::Backfill, quota.permits) {
                continue;
            }
            let hours = if quota.grain == Grain::Hourly { 1 } else { 25 };
            let length = Duration::from_secs(hours * 3_600);
            // Each window that nothing was granted in serves one request at least.
            wait += length * (1 + requests);
            let ahead = self.latest_wall.saturating_sub(self.now.wall);
            wait += Duration::from_micros(u64::try_from(ahead).unwrap_or(0));
            if !is_known {
                // What was set aside under another calendar counts until that one's window ends.
                wait += Duration::from_secs(25 * 3_600);
            }
        }
        wait
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// RL-1.
    #[test]
    fn granted_is_at_most_allowed_and_nobody_starves(
        spec in spec(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut life = Life::new(spec);
        for step in steps {
            life.live(step);
        }
        life.serve_all();
    }
}

fn quota(grain: Grain, permits: u64) -> Option<WindowQuota> {
    Some(WindowQuota {
        permits,
        grain,
        zone: Tz::UTC,
    })
}

/// RL-1: the permits that remain of an hour are there after a restart, however many the date has used up.
#[test]
fn an_hour_goes_by_its_own_counts_after_a_restart() {
    let mut life = Life::in_the_morning(LimitSpec {
        hourly: quota(Grain::Hourly, 50),
        daily: quota(Grain::Daily, 400),
        ..LimitSpec::new("l")
    });
    for _ in 0..2 {
        life.take(Class::Live, 40);
        life.pass(HOUR);
    }
    life.take(Class::Live, 10);
    life.crash();
    let used = life.used();
    assert!((10..=12).contains(&used[0]), "{used:?}");
    assert!((90..=94).contains(&used[1]), "{used:?}");
    life.take(Class::Live, 38);
    life.pass(HOUR);
    assert_eq!(life.used()[0], 0);
}

/// RL-1: what a date has used up may all have been in this hour, and was not in the next.
#[test]
fn an_hours_quota_that_is_new_is_burdened_until_its_hour_ends() {
    let daily = LimitSpec {
        daily: quota(Grain::Daily, 400),
        ..LimitSpec::new("l")
    };
    let mut life = Life::in_the_morning(daily.clone());
    life.take(Class::Live, 80);
    life.live(Step::Update(LimitSpec {
        hourly: quota(Grain::Hourly, 50),
        ..daily
    }));
    for _ in 0..2 {
        assert_eq!(life.used()[0], 80);
        // What counts on is on disk before anything is granted from it.
        life.crash();
    }
    life.pass(HOUR);
    assert_eq!(life.used()[0], 0);
    life.take(Class::Live, 50);
}

/// RL-1: a block is as long as was asked for, and no burst follows it, whatever becomes of the rate meanwhile.
#[test]
fn a_change_of_the_rate_neither_stretches_nor_shortens_a_block() {
    for (from, to) in [(100, 1), (1, 100), (1_000_000, 1), (1, 1_000_000)] {
        let spec = |permits| LimitSpec {
            rate: Some(Rate {
                permits,
                per: Duration::from_secs(1),
            }),
            burst: Some(5),
            ..LimitSpec::new("l")
        };
        let (mut gate, mut now) = gate(spec(from));
        let throttled = Outcome::Throttled {
            retry_after: Some(Duration::from_secs(3_600)),
        };
        gate.report(throttled, now);
        now.nanos += 30 * MINUTE;
        gate.update(limit(spec(to)), now);
        now.nanos += 30 * MINUTE;
        assert!(gate.try_take(Class::Live, 1, now).is_none(), "{from} {to}");
        // Back-off has halved the rate.
        now.nanos += 2 * SECOND / u64::from(to) + 10;
        assert!(gate.try_take(Class::Live, 1, now).is_some(), "{from} {to}");
        assert!(gate.try_take(Class::Live, 1, now).is_none(), "{from} {to}");
    }
}

/// What live callers give back, and backfills take then, is on disk as theirs.
#[test]
fn a_share_holds_over_a_restart_after_a_give_back() {
    let spec = LimitSpec {
        hourly: quota(Grain::Hourly, 20),
        live_share_percent: 50,
        ..LimitSpec::new("l")
    };
    let mut life = Life::in_the_morning(spec);
    life.take(Class::Live, 9);
    let (grant, now) = (life.seen[0].grant.clone(), life.now);
    life.gate.put_back(&grant, 9, now);
    life.seen.clear();
    life.take(Class::Backfill, 8);
    life.crash();
    assert!(life.gate.expected_wait(Class::Backfill, 3, life.now) > Duration::ZERO);
}

#[test]
fn nothing_is_set_aside_for_a_request_that_waits_for_the_rate() {
    let spec = LimitSpec {
        rate: Some(Rate {
            permits: 1,
            per: Duration::from_secs(1),
        }),
        burst: Some(500),
        daily: quota(Grain::Daily, 1_000),
        ..LimitSpec::new("l")
    };
    let mut life = Life::in_the_morning(spec);
    life.crash();
    life.ask(Class::Live, 0, 400);
    let mut pause = None;
    for _ in 0..9 {
        pause = life.turn();
        life.written(true);
    }
    assert_eq!(pause, Some(Duration::from_secs(400)));
    life.crash();
    assert!(life.used()[0] <= 10, "two lots at most: {:?}", life.used());
}

#[test]
fn a_look_that_takes_nothing_leaves_what_can_be_put_back() {
    let (mut gate, now) = gate(LimitSpec {
        live_share_percent: 40,
        ..slow()
    });
    let backfill = gate.try_take(Class::Backfill, 2, now).expect("its share");
    let live = gate.try_take(Class::Live, 3, now).expect("the rest");
    assert!(gate.try_take(Class::Backfill, 1, now).is_none());
    gate.put_back(&live, 3, now);
    gate.put_back(&backfill, 2, now);
    assert!(gate.try_take(Class::Backfill, 3, now).is_some());
}

fn gate(spec: LimitSpec) -> (Gate, Now) {
    let life = Life::new(spec);
    (life.gate, life.now)
}

fn tickets(turn: &Turn) -> Vec<Ticket> {
    turn.answers.iter().map(|(ticket, _)| *ticket).collect()
}

fn slow() -> LimitSpec {
    LimitSpec {
        rate: Some(Rate {
            permits: 10,
            per: Duration::from_secs(1),
        }),
        burst: Some(5),
        ..LimitSpec::new("l")
    }
}

#[test]
fn live_callers_go_first_and_clients_take_turns() {
    let (mut gate, mut now) = gate(slow());
    assert!(gate.try_take(Class::Live, 5, now).is_some());
    let a = gate.wait(Class::Backfill, "a", 1);
    let b = gate.wait(Class::Backfill, "a", 1);
    let c = gate.wait(Class::Backfill, "b", 1);
    let live = gate.wait(Class::Live, "z", 1);
    let mut order = Vec::new();
    for _ in 0..4 {
        let turn = gate.turn(now);
        order.extend(tickets(&turn));
        now.nanos += turn.look_again.map_or(0, |it| it.as_nanos() as u64);
    }
    order.extend(tickets(&gate.turn(now)));
    assert_eq!(order, [live, a, c, b]);
}

#[test]
fn a_large_request_is_not_overtaken() {
    let (mut gate, mut now) = gate(slow());
    assert!(gate.try_take(Class::Live, 5, now).is_some());
    let large = gate.wait(Class::Backfill, "a", 5);
    now.nanos += 100 * MS;
    assert!(
        gate.try_take(Class::Backfill, 1, now).is_none(),
        "someone waits already"
    );
    let small = gate.wait(Class::Backfill, "b", 1);
    assert!(gate.turn(now).answers.is_empty());
    now.nanos += 400 * MS;
    assert_eq!(tickets(&gate.turn(now)), [large]);
    now.nanos += 100 * MS;
    assert_eq!(tickets(&gate.turn(now)), [small]);
}

#[test]
fn backfills_leave_the_share_of_live_callers() {
    let (mut gate, now) = gate(LimitSpec {
        live_share_percent: 40,
        ..slow()
    });
    assert!(gate.try_take(Class::Backfill, 3, now).is_some());
    assert!(gate.try_take(Class::Backfill, 1, now).is_none());
    assert!(gate.try_take(Class::Live, 2, now).is_some());
    let refused = gate.check(Class::Backfill, 4).expect_err("above the share");
    assert!(
        refused.to_string().contains("can have at most 3 at once"),
        "{refused}"
    );
}

#[test]
fn what_is_left_of_a_day_goes_to_whom_it_suffices() {
    let (mut gate, mut now) = gate(LimitSpec {
        daily: Some(WindowQuota {
            permits: 10,
            grain: Grain::Daily,
            zone: Tz::UTC,
        }),
        ..LimitSpec::new("l")
    });
    let first = gate.wait(Class::Live, "a", 8);
    let write = gate.turn(now).write.expect("a lot");
    gate.written(write.grain, write.id, true);
    assert_eq!(tickets(&gate.turn(now)), [first]);
    let large = gate.wait(Class::Live, "a", 5);
    let small = gate.wait(Class::Backfill, "b", 2);
    let write = gate.turn(now).write.expect("a lot");
    gate.written(write.grain, write.id, true);
    let turn = gate.turn(now);
    assert_eq!(tickets(&turn), [small]);
    let wait = turn.look_again.expect("until midnight");
    assert_eq!(wait, Duration::from_secs(20));
    now.nanos += 20 * SECOND;
    now.wall += 20_000_000;
    let write = gate.turn(now).write.expect("a lot of the next day");
    gate.written(write.grain, write.id, true);
    assert_eq!(tickets(&gate.turn(now)), [large]);
}

#[test]
fn an_update_is_in_force_for_those_who_wait() {
    let (mut gate, now) = gate(slow());
    assert!(gate.try_take(Class::Live, 5, now).is_some());
    let waits = gate.wait(Class::Live, "a", 3);
    let too_large = gate.wait(Class::Live, "a", 5);
    assert!(gate.turn(now).answers.is_empty());
    let faster = LimitSpec {
        burst: Some(4),
        concurrent: Some(9),
        ..slow()
    };
    let refused = gate.update(limit(faster), now);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, too_large);
    assert!(matches!(refused[0].1, Err(Error::TooMany { most: 4, .. })));
    let faster = LimitSpec {
        burst: Some(8),
        ..slow()
    };
    gate.update(limit(faster), now);
    assert_eq!(tickets(&gate.turn(now)), [waits]);
}
