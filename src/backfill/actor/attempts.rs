//! Attempts: how they are started, bounded in time, stopped and waited for.

use super::*;
use crate::{
    backfill::{blocking::blocking, inputs::Inputs},
    engine::PartitionWork,
    lake::AttemptId,
    time::Clock,
};

impl Actor {
    pub(super) fn attempt_ended(
        &mut self,
        name: &str,
        index: u32,
        attempt: u32,
        outcome: engine::Result<Computed>,
        timed_out: Option<Duration>,
        turn: &mut Turn,
    ) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        live.attempts.remove(&index);
        let command = match outcome {
            Err(engine::Error::Stopped) if let Some(limit) = timed_out => Command::Failed {
                index,
                attempt,
                message: format!(
                    "it took longer than {} s, which is its limit",
                    limit.as_secs_f64()
                ),
                retryable: true,
                jitter: self.ids.fraction(),
            },
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

    pub(super) fn start_attempt(&mut self, name: &str, index: u32, attempt: u32) {
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
        let limit = live.watched.record.plan.retry.attempt_timeout;
        let engine = Arc::clone(&self.engine);
        let clock = Arc::clone(&self.shared.clock);
        let messages = self.messages.clone();
        let name = name.to_owned();
        let inputs = self.shared.planner.finder.inputs.clone();
        let started_at = self.shared.planner.store.latest_basis();
        self.tasks.spawn(async move {
            let (mut outcome, timed_out) =
                run_within(limit, engine.as_ref(), &clock, work, cancel).await;
            if let Ok(computed) = &outcome {
                let inputs_of = Inputs {
                    started_at,
                    reads: computed.reads.clone(),
                };
                let backfill = name.clone();
                let put = blocking(move || inputs.put(&backfill, index, attempt, &inputs_of));
                if let Err(error) = put.await {
                    outcome = discarded(outcome, &error).await;
                }
            }
            let report = Message::AttemptEnded {
                name,
                index,
                attempt,
                outcome: Box::new(outcome),
                timed_out,
            };
            // An executor that is gone fences the attempt off by itself.
            let _ = messages.send(report).await;
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
        let output = &live.watched.record.plan.output;
        for item in self.publisher.withdraw(output, name) {
            let (index, attempt) = (item.index, item.attempt);
            self.tasks.spawn(Publisher::discard(item.staged));
            self.command(name, Command::Stopped { index, attempt }, turn);
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
