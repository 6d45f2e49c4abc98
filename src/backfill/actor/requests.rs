//! What callers ask of the executor: creating and cancelling.

use super::*;
use crate::backfill::blocking::blocking;

impl Actor {
    pub(super) async fn create(
        &mut self,
        spec: BackfillSpec,
        plan: Plan,
        request_id: Option<String>,
        turn: &mut Turn,
    ) -> Result<Arc<Watched>> {
        if self.closing.is_some() {
            return Err(Error::Stopping);
        }
        if let Some(existing) = self.made_by(request_id.as_deref()).await? {
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

    async fn made_by(&self, request_id: Option<&str>) -> Result<Option<Arc<Watched>>> {
        let Some(request_id) = request_id.map(str::to_owned) else {
            return Ok(None);
        };
        let journal = self.shared.journal.clone();
        let name = blocking(move || journal.made_by(&request_id)).await?;
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

    pub(super) fn cancel(&mut self, name: &str, turn: &mut Turn) -> Result<Arc<Watched>> {
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
}
