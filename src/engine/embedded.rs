//! The embedded engine: DataFusion in this process, on threads of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    execution::{SendableRecordBatchStream, SessionState},
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, execute_stream},
};
use futures::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Computed, Engine, Error, PartitionWork, Result, StagedOutput, calls, check,
    entity_output::EntityColumns,
    metronome::Metronome,
    nesting::STACK_BYTES,
    priority,
    reads::{self, PlanReads, Witness},
    session::{EngineUsage, Scope, Sessions},
    shared_scan::SHARED_SCAN,
};
use crate::{
    calls::Calls,
    catalog::{Catalog, Output, TransformSpec},
    lake::Lake,
    store::{RowStager, Store},
};

/// How the embedded engine is sized.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Threads that compute.
    pub threads: usize,
    /// Working memory of all running queries together; beyond it they spill.
    pub memory_bytes: usize,
    /// Where they spill.
    pub spill_folder: PathBuf,
}

/// DataFusion in process. Cheap to clone.
///
/// Queries run on a runtime of their own: they compute for long without a pause, and they read the store with blocking
/// calls, and neither may happen where requests are served.
#[derive(Debug, Clone)]
pub struct Embedded {
    sessions: Sessions,
    lake: Lake,
    spill_folder: Arc<Path>,
    threads: Arc<EngineThreads>,
}

impl Embedded {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// Threads or the spill folder cannot be made.
    pub fn start(store: Store, lake: Lake, calls: Calls, config: &EmbeddedConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.spill_folder).map_err(|error| Error::Broken {
            cause: format!(
                "cannot make spill folder {}: {error}",
                config.spill_folder.display()
            ),
        })?;
        let sessions = Sessions::new(
            store,
            lake.clone(),
            calls,
            config.memory_bytes,
            &config.spill_folder,
        )?;
        Ok(Self {
            sessions,
            lake,
            spill_folder: config.spill_folder.as_path().into(),
            threads: Arc::new(EngineThreads::start(config.threads)?),
        })
    }

    /// The sessions that the engine computes in.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What running queries use now.
    pub fn usage(&self) -> EngineUsage {
        self.sessions.usage()
    }

    /// Plans a definition as it will be planned when it runs, on a thread that bears it; see [`check::check`].
    ///
    /// # Errors
    /// As [`check::check`].
    pub async fn check(
        &self,
        catalog: Catalog,
        store: Store,
        spec: TransformSpec,
    ) -> Result<check::Checked> {
        let Some(handle) = self.threads.handle() else {
            return Err(Error::Stopped);
        };
        let (sessions, planning) = (self.sessions.clone(), handle.clone());
        let task = handle.spawn_blocking(move || {
            planning.block_on(check::check(&sessions, &catalog, &store, &spec))
        });
        task.await.unwrap_or_else(|error| {
            Err(Error::Broken {
                cause: error.to_string(),
            })
        })
    }

    async fn compute(self, work: PartitionWork) -> Result<Computed> {
        for source in &work.inputs.sources {
            let window = source.window(crate::time::Interval::new(
                work.partition.start,
                work.partition.end,
            ));
            for file in source.files_in(&window) {
                file.check_unchanged()?;
            }
        }
        let witness = Arc::new(Witness::new(&work.inputs.entities));
        let scope = Scope::Partition {
            partition: work.partition.clone(),
            basis: work.basis,
            available_by: work.available_by,
            witness: Arc::clone(&witness),
            tables: work.tables.clone(),
            scans: Arc::clone(&work.scans),
            calls: work.calls.clone(),
        };
        // Once: a copy holds every function there is.
        let state = self.sessions.open(&work.inputs, &scope)?.state();
        let logical = self.sessions.plan(&state, &work.inputs, &scope).await?;
        let task = self.sessions.task(&state, Arc::clone(&work.memory));
        let (physical, reads, staged) = match &work.inputs.transform.spec.output {
            Output::Table(name) => {
                let (physical, reads) = physical(&state, &logical, &work, &witness).await?;
                let batches = execute_stream(Arc::clone(&physical), Arc::clone(&task))?;
                (
                    physical,
                    reads,
                    self.stage_files(name, &work, batches).await?,
                )
            }
            Output::Entities(output) => {
                let entity_type = work.inputs.output_type()?;
                let columns =
                    EntityColumns::resolve(output, entity_type, logical.schema().as_arrow())?;
                let logical = columns.by_id(logical)?;
                let (physical, reads) = physical(&state, &logical, &work, &witness).await?;
                let batches = execute_stream(Arc::clone(&physical), Arc::clone(&task))?;
                let stager = RowStager::new(Arc::clone(entity_type), self.spill_path(&work));
                (
                    physical,
                    reads,
                    stage_rows(&columns, stager, batches).await?,
                )
            }
        };
        Ok(Computed {
            staged,
            rows_read: rows_from_files(&physical),
            reads: reads.finish(&work.inputs, &work.partition, &witness),
        })
    }

    async fn stage_files(
        &self,
        table: &str,
        work: &PartitionWork,
        mut batches: SendableRecordBatchStream,
    ) -> Result<StagedOutput> {
        let mut writer = self
            .lake
            .stage(table, work.partition.start, &work.attempt)?;
        while let Some(batch) = batches.next().await {
            writer.write(&batch?)?;
        }
        Ok(StagedOutput::Files(writer.finish()?))
    }

    /// A file of this attempt alone, for the moment in which it has a name.
    fn spill_path(&self, work: &PartitionWork) -> PathBuf {
        let start_micros = work.partition.start.micros();
        self.spill_folder.join(format!(
            "rows-{}-{start_micros}-{}",
            work.attempt.backfill, work.attempt.attempt
        ))
    }
}

#[async_trait]
impl Engine for Embedded {
    async fn run(&self, work: PartitionWork, cancel: CancellationToken) -> Result<Computed> {
        let Some(handle) = self.threads.handle() else {
            return Err(Error::Stopped);
        };
        // The attempt's span goes with it to the engine's threads.
        let computing = Box::pin(self.clone().compute(work).in_current_span());
        // Cancelled at its next batch; what it staged is removed before the task ends.
        let playing = self.threads.metronome.play();
        let task = handle.spawn(async move {
            let _playing = playing;
            cancel.run_until_cancelled_owned(computing).await
        });
        let outcome = task
            .await
            .map(|outcome| outcome.unwrap_or(Err(Error::Stopped)));
        match outcome {
            Ok(outcome) => outcome,
            Err(error) if error.is_cancelled() => Err(Error::Stopped),
            Err(error) => Err(Error::Broken {
                cause: error.to_string(),
            }),
        }
    }
}

async fn stage_rows(
    columns: &EntityColumns,
    mut stager: RowStager,
    mut batches: SendableRecordBatchStream,
) -> Result<StagedOutput> {
    while let Some(batch) = batches.next().await {
        columns.push(&batch?, &mut stager)?;
    }
    match stager.finish() {
        Ok(rows) => Ok(StagedOutput::Rows(rows)),
        Err(cause) => Err(Error::Staging(cause)),
    }
}

/// The physical plan of a query, and what the query names. The two steps of `create_physical_plan`, for what lies between them.
async fn physical(
    state: &SessionState,
    logical: &LogicalPlan,
    work: &PartitionWork,
    witness: &Witness,
) -> Result<(Arc<dyn ExecutionPlan>, PlanReads)> {
    let mut optimized = state.optimize(logical)?;
    if !work.inputs.transform.spec.calls.is_empty() {
        optimized = calls::conditions_apart(optimized)?;
    }
    let reads = reads::of_plan(logical, &optimized, &work.inputs, witness)?;
    let planner = state.query_planner();
    let physical = planner.create_physical_plan(&optimized, state).await?;
    Ok((physical, reads))
}

/// Rows that came out of the plan's files, after pruning by statistics and before the exact cut.
fn rows_from_files(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    // A shared scan says itself what came out of it, read or found.
    if plan.name() != "DataSourceExec" && plan.name() != SHARED_SCAN {
        return plan.children().into_iter().map(rows_from_files).sum();
    }
    let rows = plan
        .metrics()
        .and_then(|metrics| metrics.output_rows())
        .unwrap_or(0);
    rows as u64
}

/// A runtime that may be dropped anywhere, also where blocking is forbidden.
#[derive(Debug)]
struct EngineThreads {
    runtime: Option<Runtime>,
    metronome: Metronome,
}

impl EngineThreads {
    fn start(threads: usize) -> Result<Self> {
        let broken = |error: std::io::Error| Error::Broken {
            cause: format!("cannot start the engine's threads: {error}"),
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("engine")
            .thread_stack_size(STACK_BYTES)
            // Also of those that block: they decode Parquet.
            .on_thread_start(priority::lower)
            .enable_all()
            .build()
            .map_err(broken)?;
        Ok(Self {
            runtime: Some(runtime),
            metronome: Metronome::start().map_err(broken)?,
        })
    }

    fn handle(&self) -> Option<&Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }
}

impl Drop for EngineThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
