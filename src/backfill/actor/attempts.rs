//! Attempts: how they are started, bounded in time, stopped and waited for.

use super::*;
use crate::{
    backfill::{blocking::blocking, inputs::Inputs, stale::Finder},
    engine::{PartitionWork, SharedScans},
    lake::AttemptId,
    time::Clock,
};

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
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    /// Where what they read is recorded.
    finder: Finder,
}

impl Task {
    async fn run(self, cancel: &CancellationToken) -> Vec<EndedAttempt> {
        let mut ended: Vec<EndedAttempt> = Vec::with_capacity(self.works.len());
        for (index, attempt, work) in self.works {
            // The first began when its task did.
            let began_at_micros = (!ended.is_empty()).then(|| self.clock.now_micros());
            let memory = Arc::clone(&work.memory);
            let engine = self.engine.as_ref();
            let backfill = work.attempt.backfill.clone();
            let started_at = self.finder.store.latest_basis();
            let span = tracing::info_span!(
                parent: &self.span,
                "attempt",
                partition = %work.partition.label,
                attempt,
            );
            let running = run_within(self.limit, engine, &self.clock, work, cancel.child_token());
            let (mut outcome, timed_out) = running.instrument(span.clone()).await;
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
                },
                end_micros: self.clock.now_micros(),
            });
        }
        ended
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

/// Runs one attempt, for `limit` at most; the limit comes with the outcome if it was reached.
async fn run_within(
    limit: Option<Duration>,
    engine: &dyn Engine,
    clock: &Arc<dyn Clock>,
    work: PartitionWork,
    cancel: CancellationToken,
) -> (engine::Result<Computed>, Option<Duration>) {
    let mut running = engine.run(work, cancel.clone());
    let Some(limit) = limit else {
        return (running.await, None);
    };
    tokio::select! {
        outcome = &mut running => (outcome, None),
        () = clock.sleep(limit) => {
            cancel.cancel();
            // What it staged is removed before it returns.
            (running.await, Some(limit))
        }
    }
}
