//! The embedded engine: DataFusion in this process, on threads of its own.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use super::{
    Computed, Engine, Error, PartitionWork, Result, check,
    nesting::STACK_BYTES,
    session::{Scope, Sessions},
};
use crate::{
    catalog::{Catalog, TransformSpec},
    lake::Lake,
    store::Store,
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
    threads: Arc<EngineThreads>,
}

impl Embedded {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// Threads or the spill folder cannot be made.
    pub fn start(store: Store, lake: Lake, config: &EmbeddedConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.spill_folder).map_err(|error| Error::Broken {
            cause: format!(
                "cannot make spill folder {}: {error}",
                config.spill_folder.display()
            ),
        })?;
        let sessions = Sessions::new(
            store,
            lake.clone(),
            config.memory_bytes,
            &config.spill_folder,
        )?;
        Ok(Self {
            sessions,
            lake,
            threads: Arc::new(EngineThreads::start(config.threads)?),
        })
    }

    /// The sessions that the engine computes in.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
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
        let scope = Scope::Partition {
            partition: work.partition.clone(),
            basis: work.basis,
            available_by: work.available_by,
        };
        // Once: a copy holds every function there is.
        let state = self.sessions.open(&work.inputs, &scope)?.state();
        let logical = self.sessions.plan(&state, &work.inputs, &scope).await?;
        let physical = state.create_physical_plan(&logical).await?;
        let mut batches = execute_stream(Arc::clone(&physical), state.task_ctx())?;
        let table = &work.inputs.transform.spec.output_table;
        let mut writer = self
            .lake
            .stage(table, work.partition.start, &work.attempt)?;
        while let Some(batch) = batches.next().await {
            writer.write(&batch?)?;
        }
        Ok(Computed {
            staged: writer.finish()?,
            rows_read: rows_from_files(&physical),
        })
    }
}

#[async_trait]
impl Engine for Embedded {
    async fn run(&self, work: PartitionWork, cancel: CancellationToken) -> Result<Computed> {
        let Some(handle) = self.threads.handle() else {
            return Err(Error::Stopped);
        };
        let computing = Box::pin(self.clone().compute(work));
        // Cancelled at its next batch; what it staged is removed before the task ends.
        let task = handle.spawn(async move { cancel.run_until_cancelled_owned(computing).await });
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

/// Rows that came out of the plan's files, after pruning by statistics and before the exact cut.
fn rows_from_files(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let below: u64 = plan.children().into_iter().map(rows_from_files).sum();
    if plan.name() != "DataSourceExec" {
        return below;
    }
    let rows = plan
        .metrics()
        .and_then(|metrics| metrics.output_rows())
        .unwrap_or(0);
    below + rows as u64
}

/// A runtime that may be dropped anywhere, also where blocking is forbidden.
#[derive(Debug)]
struct EngineThreads {
    runtime: Option<Runtime>,
}

impl EngineThreads {
    fn start(threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("engine")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::Broken {
                cause: format!("cannot start the engine's threads: {error}"),
            })?;
        Ok(Self {
            runtime: Some(runtime),
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
