//! What callers ask of the executor: creating, and controlling what is there.

use super::*;
use crate::backfill::blocking::blocking;

impl Actor {
    pub(super) async fn create(
        &mut self,
        spec: BackfillSpec,
        plan: Plan,
        parent: Option<Parent>,
        request_id: Option<String>,
        turn: &mut Turn,
    ) -> Result<Arc<Watched>> {
        if self.closing.is_some() {
            return Err(Error::Stopping);
        }
        if let Some(existing) = self.made_by(request_id.as_deref()).await? {
            let request_id = request_id.as_deref().unwrap_or_default();
            same_request(&existing, &spec, parent.as_ref(), request_id)?;
            return Ok(existing);
        }
        self.check_runs(&plan)?;
        self.check_overlap(&plan)?;
        let inputs = self.shared.planner.inputs(&plan)?;
        let record = Record {
            name: format!("bf-{}", self.ids.unique()),
            spec,
            plan,
            parent,
            create_time_micros: self.shared.clock.now_micros(),
            create_basis: Some(self.shared.planner.store.latest_basis()),
        };
        self.ensure_outputs(&inputs).await?;
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
        tracing::info!(backfill = %name, transforms = %watched.record.plan.names(), "created");
        self.command(&name, Command::Start, turn);
        Ok(watched)
    }

    async fn made_by(&self, request_id: Option<&str>) -> Result<Option<Arc<Watched>>> {
        let Some(request_id) = request_id.map(str::to_owned) else {
            return Ok(None);
        };
        let journal = self.shared.journal.clone();
        let name = blocking(move || journal.made_by(&request_id)).await?;
        Ok(name.and_then(|name| self.shared.backfills.read().get(&name).cloned()))
    }

    fn check_runs(&self, plan: &Plan) -> Result<()> {
        match plan.why_nothing_runs() {
            None => Ok(()),
            Some(reason) => Err(Error::NothingToRun { reason }),
        }
    }

    fn check_overlap(&self, plan: &Plan) -> Result<()> {
        let active = self.live.values().map(|live| &live.watched.record);
        for record in active {
            if let Some(output) = plan.collides_with(&record.plan) {
                return Err(Error::Overlap {
                    other: record.name.clone(),
                    output: output.clone(),
                });
            }
        }
        Ok(())
    }

    async fn ensure_outputs(&self, inputs: &[Arc<PinnedInputs>]) -> Result<()> {
        for one in inputs {
            self.publisher.ensure_output(&one.transform).await?;
        }
        Ok(())
    }

    pub(super) async fn control(
        &mut self,
        name: &str,
        ask: Ask,
        turn: &mut Turn,
    ) -> Result<Arc<Watched>> {
        let Some(watched) = self.shared.backfills.read().get(name).cloned() else {
            return Err(Error::NotFound {
                name: name.to_owned(),
            });
        };
        // Ahead of what is shown by the events of the turn under way.
        let state = match self.live.get(name) {
            Some(live) => live.state.state,
            None => watched.visible.read().state,
        };
        let command = match ask {
            Ask::Retry => {
                self.prepare_retry(&watched, state).await?;
                Command::Retry
            }
            Ask::Cancel if state == BackfillState::Cancelled => return Ok(watched),
            Ask::Cancel => {
                check_active(name, "cancel", state)?;
                Command::Cancel
            }
            Ask::Pause => {
                check_goes_on(name, "pause", state)?;
                Command::Pause
            }
            Ask::Resume => {
                check_goes_on(name, "resume", state)?;
                Command::Resume
            }
            Ask::SetConcurrency(count) => {
                check_goes_on(name, "set the concurrency of", state)?;
                if watched.record.plan.is_sequential() && count > 1 {
                    return Err(Error::OneAtATime {
                        name: name.to_owned(),
                    });
                }
                Command::SetConcurrency(count)
            }
        };
        self.command(name, command, turn);
        Ok(watched)
    }

    /// Makes an ended backfill live again, with the world that was pinned for it.
    async fn prepare_retry(&mut self, watched: &Arc<Watched>, state: BackfillState) -> Result<()> {
        let record = &watched.record;
        let name = record.name.clone();
        if self.closing.is_some() {
            return Err(Error::Stopping);
        }
        match state {
            BackfillState::PartiallySucceeded | BackfillState::Failed => {}
            BackfillState::Succeeded | BackfillState::Cancelled => {
                return Err(Error::NothingToRetry {
                    name,
                    state: state.word(),
                });
            }
            BackfillState::Pending
            | BackfillState::Running
            | BackfillState::Paused
            | BackfillState::Cancelling => {
                return Err(Error::StillActive {
                    name,
                    state: state.word(),
                });
            }
        }
        if self.live.contains_key(&name) {
            // Its end is not journalled yet.
            return Err(Error::StillActive {
                name,
                state: "ending",
            });
        }
        self.check_overlap(&record.plan)?;
        let inputs = self.shared.planner.inputs(&record.plan)?;
        self.ensure_outputs(&inputs).await?;
        if let Some(tidying) = self.tidying.remove(&name) {
            // Files that a new attempt stages must not be taken for leftovers. A panic in it is no reason to refuse.
            let _ = tidying.await;
        }
        let state = watched.visible.read().clone();
        tracing::info!(backfill = %name, "retrying");
        self.adopt(Arc::clone(watched), inputs, state);
        Ok(())
    }
}

fn check_active(name: &str, verb: &'static str, state: BackfillState) -> Result<()> {
    if state.is_terminal() {
        return Err(Error::Ended {
            verb,
            name: name.to_owned(),
            state: state.word(),
        });
    }
    Ok(())
}

/// A backfill that is being cancelled is as good as ended.
fn check_goes_on(name: &str, verb: &'static str, state: BackfillState) -> Result<()> {
    if state == BackfillState::Cancelling {
        return Err(Error::Ended {
            verb,
            name: name.to_owned(),
            state: state.word(),
        });
    }
    check_active(name, verb, state)
}
