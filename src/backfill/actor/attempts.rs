//! Attempts: how they are started, bounded in time, stopped and waited for.

use super::*;
use crate::{
    backfill::{blocking::blocking, inputs::Inputs, stale::Finder},
    calls::{CallMeter, CallWork},
    engine::{PartitionWork, SharedScans},
    lake::AttemptId,
    time::Clock,
};

/// How long calls wait before that is told.
const TELL_WAITS_AFTER: Duration = Duration::from_secs(1);
/// How long after that it is told again, if they still wait.
const TELL_WAITS_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How long an attempt that waits for a rate limit is left alone, close to its own limit.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

impl Actor {
    pub(super) fn attempt_ended(&mut self, name: &str, ended: EndedAttempt, turn: &mut Turn) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        let EndedAttempt {
            index,
            attempt,
            outcome,
            timed_out,
            cost,
            end_micros,
        } = ended;
        live.attempts.remove(&index);
        let failed = |message: String, retryable: bool, jitter: f64| Command::Failed {
            index,
            attempt,
            message,
            retryable,
            jitter,
            cost,
        };
        let command = match outcome {
            Err(engine::Error::Stopped) if let Some(limit) = timed_out => failed(
                format!(
                    "it took longer than {} s, which is its limit",
                    limit.as_secs_f64()
                ),
                true,
                self.ids.fraction(),
            ),
            Ok(computed) => {
                let staged = StagedAttempt {
                    computed,
                    staged_at_micros: end_micros,
                    cost,
                };
                live.computed.insert((index, attempt), staged);
                Command::Staged { index, attempt }
            }
            Err(engine::Error::Stopped) => Command::Stopped { index, attempt },
            Err(error) if error.no_room() => {
                self.shared.disk.ran_out();
                Command::NoRoom {
                    index,
                    attempt,
                    message: bounded_message(error.message()),
                }
            }
            Err(error) => failed(
                bounded_message(error.message()),
                error.retryable(),
                self.ids.fraction(),
            ),
        };
        self.command(name, command, turn);
    }

    pub(super) fn start_task(&mut self, name: &str, attempts: &[(u32, u32)]) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        let cancel = CancellationToken::new();
        let mut works = Vec::with_capacity(attempts.len());
        for &(index, attempt) in attempts {
            if let Some(work) = live.work(index, attempt) {
                live.attempts.insert(index, cancel.clone());
                works.push((index, attempt, work));
            }
        }
        let scans = SharedScans::of(works.iter().map(|(_, _, work)| work));
        for (_, _, work) in &mut works {
            work.scans = Arc::clone(&scans);
        }
        let task = Task {
            span: live.span.clone(),
            works,
            limit: live.limit_of(attempts),
            messages: self.messages.clone(),
            name: name.to_owned(),
            engine: Arc::clone(&self.engine),
            clock: Arc::clone(&self.shared.clock),
            finder: self.shared.planner.finder.clone(),
        };
        let messages = self.messages.clone();
        let name = name.to_owned();
        self.tasks.spawn(async move {
            let attempts = task.run(&cancel).await;
            // An executor that is gone fences the attempts off by itself.
            let _ = messages.send(Message::TaskEnded { name, attempts }).await;
        });
    }

    pub(super) fn wait_retry(&mut self, name: &str, index: u32, attempt: u32, at_micros: i64) {
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

    pub(super) fn stop_attempts(&mut self, name: &str, turn: &mut Turn) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        live.attempts.values().for_each(CancellationToken::cancel);
        let record = Arc::clone(&live.watched.record);
        for one in &record.plan.transforms {
            for item in self.publisher.withdraw(&one.output, name) {
                let (index, attempt) = (item.index, item.attempt);
                self.tasks.spawn(Publisher::discard(item.staged));
                self.command(name, Command::Stopped { index, attempt }, turn);
            }
        }
    }
}

/// The outcome of an attempt whose inputs cannot be recorded: nobody could tell later whether what it computed still holds.
async fn discarded(outcome: engine::Result<Computed>, error: &Error) -> engine::Result<Computed> {
    Publisher::discard(outcome?.staged).await;
    Err(engine::Error::Broken {
        cause: format!("cannot record what it read: {error}"),
    })
}

impl Live {
    /// What an attempt is to compute.
    fn work(&self, index: u32, attempt: u32) -> Option<PartitionWork> {
        let record = &self.watched.record;
        let planned = record.plan.partitions.get(index as usize)?;
        Some(PartitionWork {
            inputs: Arc::clone(self.inputs.get(planned.transform as usize)?),
            partition: planned.partition.clone(),
            basis: planned.basis,
            available_by: record.plan.available_by(planned),
            tables: record.plan.views(&self.state, index),
            attempt: AttemptId {
                backfill: record.name.clone(),
                attempt,
            },
            memory: Arc::default(),
            scans: Arc::default(),
            calls: CallWork {
                meter: Arc::default(),
                backfill: record.name.clone(),
                created_micros: record.create_time_micros,
                known_by: record.create_basis,
                refresh: record.spec.refresh_calls,
            },
        })
    }

    /// How long each of these attempts, which are of one transform, may take.
    fn limit_of(&self, attempts: &[(u32, u32)]) -> Option<Duration> {
        let plan = &self.watched.record.plan;
        let planned = plan.partitions.get(attempts.first()?.0 as usize)?;
        plan.transform_of(planned)?.retry.attempt_timeout
    }
}

/// Attempts that compute one after the other, each with its own outcome.
struct Task {
    /// Of the backfill.
    span: Span,
    works: Vec<(u32, u32, PartitionWork)>,
    /// Of each.
    limit: Option<Duration>,
    /// Where waits are told.
    messages: mpsc::Sender<Message>,
    /// The backfill.
    name: String,
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    /// Where what they read is recorded.
    finder: Finder,
}

impl Task {
    async fn run(mut self, cancel: &CancellationToken) -> Vec<EndedAttempt> {
        let mut ended: Vec<EndedAttempt> = Vec::with_capacity(self.works.len());
        for (index, attempt, work) in std::mem::take(&mut self.works) {
            // The first began when its task did.
            let began_at_micros = (!ended.is_empty()).then(|| self.clock.now_micros());
            let memory = Arc::clone(&work.memory);
            let meter = Arc::clone(&work.calls.meter);
            let makes_calls = !work.inputs.transform.spec.calls.is_empty();
            let engine = self.engine.as_ref();
            let backfill = work.attempt.backfill.clone();
            let started_at = self.finder.store.latest_basis();
            let span = tracing::info_span!(
                parent: &self.span,
                "attempt",
                partition = %work.partition.label,
                attempt,
            );
            let running = run_within(self.limit, engine, &self.clock, work, cancel.child_token())
                .instrument(span.clone());
            let (mut outcome, timed_out) = if makes_calls {
                self.tell_waits(index, attempt, &meter, running).await
            } else {
                running.await
            };
            if let Ok(computed) = &outcome {
                let read = Inputs {
                    started_at,
                    reads: computed.reads.clone(),
                };
                let inputs = self.finder.inputs.clone();
                let put = blocking(move || inputs.put(&backfill, index, attempt, &read));
                if let Err(error) = put.await {
                    outcome = discarded(outcome, &error).await;
                }
            }
            span.in_scope(|| log_end(&outcome, timed_out));
            ended.push(EndedAttempt {
                index,
                attempt,
                outcome,
                timed_out,
                cost: Cost {
                    peak_memory_bytes: memory.peak_bytes(),
                    began_at_micros,
                    calls: meter.counts(&*self.clock),
                },
                end_micros: self.clock.now_micros(),
            });
        }
        ended
    }

    /// Runs an attempt, and tells of it when its calls wait for long.
    async fn tell_waits<T>(
        &self,
        index: u32,
        attempt: u32,
        meter: &CallMeter,
        running: impl Future<Output = T>,
    ) -> T {
        let mut running = std::pin::pin!(running);
        let mut told_after = Duration::ZERO;
        loop {
            tokio::select! {
                outcome = &mut running => return outcome,
                () = self.clock.sleep(TELL_WAITS_AFTER.max(told_after)) => {}
            }
            let Some(wait) = meter.current_wait(&*self.clock) else {
                continue;
            };
            if Duration::from_micros(wait.micros) < TELL_WAITS_AFTER {
                continue;
            }
            told_after = TELL_WAITS_AGAIN_AFTER;
            let waits = PartitionWaits {
                index,
                attempt,
                limit: wait.limit.to_string(),
                calls: meter.counts(&*self.clock),
            };
            let name = self.name.clone();
            // An executor that is gone tells nobody.
            let _ = self.messages.send(Message::Waits { name, waits }).await;
        }
    }
}

/// Within the attempt's span.
fn log_end(outcome: &engine::Result<Computed>, timed_out: Option<Duration>) {
    match outcome {
        Ok(computed) => tracing::debug!(rows_read = computed.rows_read, "computed"),
        Err(engine::Error::Stopped) if timed_out.is_none() => tracing::debug!("stopped"),
        Err(error) => {
            let error = bounded_message(error.message());
            tracing::warn!(%error, timed_out = timed_out.is_some(), "an attempt failed");
        }
    }
}

/// Runs one attempt, for `limit` at most; the limit comes with the outcome if it was reached. Time in which its calls wait
/// for a rate limit does not count.
async fn run_within(
    limit: Option<Duration>,
    engine: &dyn Engine,
    clock: &Arc<dyn Clock>,
    work: PartitionWork,
    cancel: CancellationToken,
) -> (engine::Result<Computed>, Option<Duration>) {
    let meter = Arc::clone(&work.calls.meter);
    let mut running = engine.run(work, cancel.clone());
    let Some(limit) = limit else {
        return (running.await, None);
    };
    let start_micros = clock.monotonic_micros();
    let mut left = limit;
    loop {
        tokio::select! {
            outcome = &mut running => return (outcome, None),
            () = clock.sleep(left.max(SHORTEST_LOOK)) => {}
        }
        let elapsed_micros = u64::try_from(clock.monotonic_micros() - start_micros).unwrap_or(0);
        let used_micros = elapsed_micros.saturating_sub(meter.waited_micros(&**clock));
        left = limit.saturating_sub(Duration::from_micros(used_micros));
        if left.is_zero() {
            cancel.cancel();
            // What it staged is removed before it returns.
            return (running.await, Some(limit));
        }
    }
}
