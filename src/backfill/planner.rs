//! Gathering what a plan is made of: the definition, the files, what the store knows. The planning itself is in [`plan`].

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use super::{
    Result,
    blocking::blocking,
    executor::Backfills,
    history::{Estimate, History},
    model::{BackfillSpec, FrozenSource, Knowledge, Plan, Reprocess},
    plan::{self, EntityKnowledge, PlanInput},
};
use crate::{
    catalog::{Catalog, Transform},
    engine::{PinnedEntity, PinnedInputs, PinnedSource, SourceFile, source},
    store::Store,
    time::SysTime,
};

/// Files that are remembered as checked, at most.
const MAX_CHECKED_FILES: usize = 100_000;

/// What planning needs. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Planner {
    pub(super) catalog: Catalog,
    pub(super) store: Store,
    pub(super) default_max_active: u32,
    pub(super) backfills: Backfills,
    pub(super) checked: CheckedFiles,
}

/// Files that were seen to have their source's columns: a file that is as it was then need not be opened again, by source and
/// path. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct CheckedFiles(Arc<Mutex<HashMap<(String, PathBuf), SourceFile>>>);

impl CheckedFiles {
    /// Those of `files` that are to be checked.
    fn unknown(&self, source: &str, files: &[SourceFile]) -> Vec<SourceFile> {
        let known = self.0.lock();
        let key = |file: &SourceFile| (source.to_owned(), file.path.clone());
        let is_new = |file: &&SourceFile| known.get(&key(file)) != Some(file);
        files.iter().filter(is_new).cloned().collect()
    }

    fn add(&self, source: &str, files: Vec<SourceFile>) {
        let mut known = self.0.lock();
        if known.len() + files.len() > MAX_CHECKED_FILES {
            known.clear();
        }
        known.extend(
            files
                .into_iter()
                .take(MAX_CHECKED_FILES)
                .map(|file| ((source.to_owned(), file.path.clone()), file)),
        );
    }
}

/// A plan, and what is known beside it that does not name the world: the plan's hash does not hold it.
#[derive(Debug, Clone)]
pub struct Planned {
    /// What would be done.
    pub plan: Plan,
    /// How long it would take; `None`: no backfill of the transform published anything yet.
    pub estimate: Option<Estimate>,
    /// Active backfills that keep it from being created now.
    pub in_the_way: Vec<String>,
}

impl Planner {
    /// Plans `spec`. The bases of the plan are stable from then on.
    pub(super) async fn plan(&self, spec: &BackfillSpec) -> Result<Planned> {
        let transform = self.catalog.transform(&spec.transform, spec.revision)?;
        let pinned = match spec.knowledge {
            Knowledge::AtBasis(basis) => Some(basis),
            Knowledge::AsKnownNow | Knowledge::AsKnownThen { .. } => None,
        };
        let latest_basis = self.store.pin(pinned).await?;
        let sources = self.list_sources(&transform).await?;
        let history = self.history(&transform, spec.reprocess);
        let input = PlanInput {
            spec,
            transform: &transform,
            entities: self.entity_knowledge(&transform)?,
            sources,
            history: &history,
            // A clock that stepped back does not put what is known into the future.
            now_micros: self.store.now().micros(),
            latest_basis,
            default_max_active: self.default_max_active,
        };
        let plan = plan::make(&input)?;
        self.check_files(&plan).await?;
        self.pin_latest_of(&plan).await?;
        Ok(Planned {
            estimate: history.estimate(plan.run_count(), plan.max_active_partitions),
            in_the_way: self.in_the_way(&plan),
            plan,
        })
    }

    /// What earlier backfills made of the transform's table.
    fn history(&self, transform: &Transform, reprocess: Reprocess) -> History {
        // Elsewhere what became of single partitions is not asked.
        let tells_outcomes = reprocess != Reprocess::Completed || transform.spec.prior.is_some();
        let mut history = History::default();
        for watched in self.backfills.read().values().rev() {
            if watched.record.plan.output_table != transform.spec.output_table {
                continue;
            }
            let state = watched.visible.read();
            history.add_samples(&watched.record, &state, transform.revision);
            if tells_outcomes {
                history.add_outcomes(&watched.record, &state);
            }
        }
        history
    }

    fn in_the_way(&self, plan: &Plan) -> Vec<String> {
        self.backfills
            .read()
            .values()
            .filter(|watched| {
                !watched.visible.read().state.is_terminal()
                    && plan.collides_with(&watched.record.plan)
            })
            .map(|watched| watched.record.name.clone())
            .collect()
    }

    async fn list_sources(&self, transform: &Transform) -> Result<Vec<PinnedSource>> {
        let mut sources = Vec::new();
        for input in &transform.spec.sources {
            let declared = self.catalog.source(&input.source)?;
            let listed = Arc::clone(&declared);
            let files = blocking(move || Ok(source::list_files(&listed)?)).await?;
            sources.push(PinnedSource {
                source: declared,
                lookback_micros: input.lookback_micros,
                files: Arc::new(files),
            });
        }
        Ok(sources)
    }

    fn entity_knowledge(&self, transform: &Transform) -> Result<Vec<EntityKnowledge>> {
        let mut entities = Vec::new();
        for input in &transform.spec.entities {
            let entity_type = self.store.entity_type(&input.entity_type)?;
            self.store.check_imported(&input.entity_type)?;
            entities.push(EntityKnowledge {
                first_known: self.store.first_known(&entity_type),
                entity_type: input.entity_type.clone(),
            });
        }
        Ok(entities)
    }

    /// Sees that the files which would be opened still have the source's columns.
    async fn check_files(&self, plan: &Plan) -> Result<()> {
        for frozen in &plan.sources {
            let files = self.checked.unknown(&frozen.source, &frozen.files);
            if files.is_empty() {
                continue;
            }
            let declared = self.catalog.source(&frozen.source)?;
            let checked = blocking(move || {
                source::check_columns(&declared, files.iter())?;
                Ok(files)
            });
            self.checked.add(&frozen.source, checked.await?);
        }
        Ok(())
    }

    /// No later commit may get a system time at or below a basis that a partition will read.
    async fn pin_latest_of(&self, plan: &Plan) -> Result<()> {
        let latest = plan
            .partitions
            .iter()
            .filter(|planned| planned.skip_reason.is_none())
            .map(|planned| planned.basis)
            .max();
        if let Some(basis) = latest {
            let _: SysTime = self.store.pin(Some(basis)).await?;
        }
        Ok(())
    }

    /// What the frozen names of a plan mean.
    pub(super) fn inputs(&self, plan: &Plan) -> Result<PinnedInputs> {
        let transform = self
            .catalog
            .transform(&plan.transform, Some(plan.revision))?;
        let mut sources = Vec::new();
        for frozen in &plan.sources {
            let FrozenSource {
                source,
                lookback_micros,
                files,
            } = frozen;
            sources.push(PinnedSource {
                source: self.catalog.source(source)?,
                lookback_micros: *lookback_micros,
                files: Arc::new(files.clone()),
            });
        }
        let mut entities = Vec::new();
        for (index, input) in transform.spec.entities.iter().enumerate() {
            let entity_type = self.store.entity_type(&input.entity_type)?;
            let revision = transform.entity_revision(index);
            let pinned = entity_type.at_revision(revision).ok_or_else(|| {
                crate::store::Error::NoSuchRevision {
                    name: input.entity_type.clone(),
                    revision,
                }
            })?;
            entities.push(PinnedEntity {
                entity_type: Arc::new(pinned),
                at_partition_start: input.at_partition_start,
            });
        }
        Ok(PinnedInputs {
            transform,
            sources,
            entities,
        })
    }
}
