//! Gathering what a plan is made of: the definition, the files, what the store knows. The planning itself is in [`plan`].

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use super::{
    Error, Result,
    blocking::blocking,
    executor::Backfills,
    history::{Estimate, History},
    model::{
        BackfillSpec, FrozenSource, Knowledge, PartitionState, Plan, Record, Reprocess,
        TransformPlan,
    },
    plan::{self, EntityKnowledge, PlanInput},
    stale::{Finder, Scope, Standings},
    upstream::{Publication, Published, TableKnowledge},
};
use crate::{
    catalog::{self, Catalog, Output, Transform},
    engine::{PinnedEntity, PinnedInputs, PinnedSource, PinnedTable, SourceFile, source},
    lake::{self, Lake},
    store::{self, EntityType, Store},
    time::{Interval, SysTime},
};

/// Files that are remembered as checked, at most.
const MAX_CHECKED_FILES: usize = 100_000;

/// What planning needs. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Planner {
    pub(super) catalog: Catalog,
    pub(super) store: Store,
    pub(super) lake: Lake,
    pub(super) default_max_active: u32,
    pub(super) backfills: Backfills,
    pub(super) finder: Finder,
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
        let transforms = self.transforms(spec)?;
        let pinned = match spec.knowledge {
            Knowledge::AtBasis(basis) => Some(basis),
            Knowledge::AsKnownNow | Knowledge::AsKnownThen { .. } => None,
        };
        let latest_basis = self.store.pin(pinned).await?;
        let histories: Vec<_> = transforms
            .iter()
            .map(|transform| self.history(transform, spec.reprocess))
            .collect();
        let none = Standings::new();
        let mut standings = Vec::new();
        for transform in &transforms {
            standings.push(match spec.reprocess {
                Reprocess::Stale => self.standings(transform, spec, latest_basis).await?,
                Reprocess::None | Reprocess::Failed | Reprocess::Completed => Standings::new(),
            });
        }
        let mut inputs = Vec::new();
        for (place, (transform, history)) in (0u32..).zip(transforms.iter().zip(&histories)) {
            let standings = standings.get(place as usize).unwrap_or(&none);
            inputs.push(PlanInput {
                spec,
                transform,
                place,
                entities: self.entity_knowledge(transform)?,
                sources: self.list_sources(transform).await?,
                tables: self.table_knowledge(transform, &transforms).await?,
                history,
                standings,
                // A clock that stepped back does not put what is known into the future.
                now_micros: self.store.now().micros(),
                latest_basis,
                default_max_active: self.default_max_active,
            });
        }
        let plan = plan::make(&inputs)?;
        self.check_files(&plan).await?;
        self.pin_latest_of(&plan).await?;
        Ok(Planned {
            estimate: estimate(&plan, &histories),
            in_the_way: self.in_the_way(&plan),
            plan,
        })
    }

    /// The revisions that `spec` names, each after those whose tables it reads.
    fn transforms(&self, spec: &BackfillSpec) -> Result<Vec<Arc<Transform>>> {
        let mut named = Vec::new();
        for (index, one) in spec.transforms.iter().enumerate() {
            let twice = spec.transforms.iter().take(index);
            if twice.clone().any(|other| other.name == one.name) {
                return Err(Error::invalid(
                    "spec.transforms",
                    format!("transform {:?} is named twice", one.name),
                ));
            }
            named.push(self.catalog.transform(&one.name, one.revision)?);
        }
        check_entity_inputs(&named)?;
        let specs: Vec<_> = named.iter().map(|transform| &transform.spec).collect();
        let order = catalog::upstream_first(&specs)?;
        named.sort_by_key(|transform| order.iter().position(|name| *name == transform.spec.name));
        Ok(named)
    }

    /// What is known of the tables that `transform` reads. `all`: what the backfill runs.
    async fn table_knowledge(
        &self,
        transform: &Transform,
        all: &[Arc<Transform>],
    ) -> Result<Vec<TableKnowledge>> {
        let mut tables = Vec::new();
        for input in &transform.spec.tables {
            let output = Output::Table(input.table.clone());
            let writer = self.writer_of(&output)?;
            let place = all.iter().position(|one| one.spec.name == writer.spec.name);
            let (lake, table) = (self.lake.clone(), input.table.clone());
            let snapshot_id = blocking(move || match lake.current_snapshot_id(&table) {
                // A table is made by the first backfill that writes it.
                Err(lake::Error::TableNotFound { .. }) => Ok(None),
                found => Ok(found?),
            })
            .await?;
            tables.push(TableKnowledge {
                input: input.clone(),
                grain: writer.spec.grain,
                zone: writer.spec.zone,
                writer: place.and_then(|place| u32::try_from(place).ok()),
                snapshot_id,
                published: self.published(&output),
            });
        }
        Ok(tables)
    }

    /// Which partitions of an output are published, and who did it.
    fn published(&self, output: &Output) -> Published {
        let mut published = Published::default();
        for watched in self.backfills.read().values() {
            let plan = &watched.record.plan;
            let Some(place) = place_of(&watched.record, output) else {
                continue;
            };
            let state = watched.visible.read();
            for (planned, run) in plan.partitions.iter().zip(&state.partitions) {
                if planned.transform != place || run.state != PartitionState::Succeeded {
                    continue;
                }
                let publication = Publication {
                    backfill: watched.record.name.clone(),
                    basis: planned.basis,
                    end_micros: run.end_micros.unwrap_or(0),
                };
                published.add(planned.partition.start, publication);
            }
        }
        published
    }

    /// What earlier backfills made of the transform's output.
    fn history(&self, transform: &Transform, reprocess: Reprocess) -> History {
        // Elsewhere what became of single partitions is not asked.
        let tells_outcomes = reprocess != Reprocess::Completed || transform.spec.prior.is_some();
        let mut history = History::default();
        for watched in self.backfills.read().values().rev() {
            let Some(place) = place_of(&watched.record, &transform.spec.output) else {
                continue;
            };
            let state = watched.visible.read();
            history.add_samples(&watched.record, &state, place, transform.revision);
            if tells_outcomes {
                history.add_outcomes(&watched.record, &state, place);
            }
        }
        history
    }

    /// Which published partitions in the range of `spec` are stale, if they are to be as it says.
    async fn standings(
        &self,
        transform: &Arc<Transform>,
        spec: &BackfillSpec,
        pinned_basis: SysTime,
    ) -> Result<Standings> {
        let scope = Scope {
            transform: Arc::clone(transform),
            range: Interval::new(spec.from, spec.to),
            after: None,
            latest: match spec.knowledge {
                Knowledge::AsKnownNow => pinned_basis,
                Knowledge::AsKnownThen { .. } | Knowledge::AtBasis(_) => self.store.latest_basis(),
            },
        };
        let finder = self.finder.clone();
        let knowledge = spec.knowledge;
        blocking(move || Ok(finder.find(&scope)?.standings(knowledge))).await
    }

    fn in_the_way(&self, plan: &Plan) -> Vec<String> {
        self.backfills
            .read()
            .values()
            .filter(|watched| {
                !watched.visible.read().state.is_terminal()
                    && plan.collides_with(&watched.record.plan).is_some()
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
                being_written_by: self.writing(&input.entity_type),
                entity_type: input.entity_type.clone(),
            });
        }
        Ok(entities)
    }

    /// An active backfill that writes the entity type.
    fn writing(&self, entity_type: &str) -> Option<String> {
        let backfills = self.backfills.read();
        let found = backfills.values().find(|watched| {
            let mut outputs = watched.record.plan.transforms.iter();
            outputs.any(|one| one.output.entity_type() == Some(entity_type))
                && !watched.visible.read().state.is_terminal()
        });
        found.map(|watched| watched.record.name.clone())
    }

    /// Sees that the files which would be opened still have the source's columns.
    async fn check_files(&self, plan: &Plan) -> Result<()> {
        for frozen in plan.transforms.iter().flat_map(|one| &one.sources) {
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

    /// What the frozen names of a plan mean, by transform.
    pub(super) fn inputs(&self, plan: &Plan) -> Result<Vec<Arc<PinnedInputs>>> {
        let transforms = plan.transforms.iter();
        transforms
            .map(|one| self.inputs_of(one).map(Arc::new))
            .collect()
    }

    fn inputs_of(&self, plan: &TransformPlan) -> Result<PinnedInputs> {
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
            let pinned = self.type_at(&input.entity_type, transform.entity_revision(index))?;
            entities.push(PinnedEntity {
                entity_type: pinned,
                at_partition_start: input.at_partition_start,
            });
        }
        Ok(PinnedInputs {
            tables: self.tables(&transform)?,
            output_type: self.output_type(&transform)?,
            transform,
            sources,
            entities,
        })
    }

    /// Other transforms' tables, with the columns that they had when `transform` was registered.
    fn tables(&self, transform: &Transform) -> Result<Vec<PinnedTable>> {
        let inputs = transform.spec.tables.iter();
        let mut tables = Vec::new();
        for (input, revision) in inputs.zip(&transform.table_revisions) {
            let writer = self.writer_of(&Output::Table(input.table.clone()))?;
            let seen = self.catalog.transform(&writer.spec.name, Some(*revision))?;
            tables.push(PinnedTable {
                table: input.table.clone(),
                columns: seen.columns.clone(),
            });
        }
        Ok(tables)
    }

    /// The transform that writes `output`.
    fn writer_of(&self, output: &Output) -> Result<Arc<Transform>> {
        self.catalog.writer_of(output).ok_or_else(|| {
            catalog::Error::TransformNotFound {
                name: output.name().to_owned(),
            }
            .into()
        })
    }

    fn output_type(&self, transform: &Transform) -> Result<Option<Arc<EntityType>>> {
        let output = transform.spec.output.entities();
        let revision = transform.output_revision.unwrap_or(1);
        output
            .map(|output| self.type_at(&output.entity_type, revision))
            .transpose()
    }

    fn type_at(&self, name: &str, revision: u32) -> Result<Arc<EntityType>> {
        let pinned = self.store.entity_type(name)?.at_revision(revision);
        let pinned = pinned.ok_or_else(|| store::Error::NoSuchRevision {
            name: name.to_owned(),
            revision,
        })?;
        Ok(Arc::new(pinned))
    }
}

/// Bases are pinned when a backfill is created: what one of `transforms` writes of an entity type, another one would not see.
fn check_entity_inputs(transforms: &[Arc<Transform>]) -> Result<()> {
    for reader in transforms {
        for input in &reader.spec.entities {
            let writes = |one: &&Arc<Transform>| {
                one.spec.output.entity_type() == Some(input.entity_type.as_str())
            };
            if let Some(writer) = transforms.iter().find(writes) {
                return Err(Error::ReadsOutputType {
                    reader: reader.spec.name.clone(),
                    entity_type: input.entity_type.clone(),
                    writer: writer.spec.name.clone(),
                });
            }
        }
    }
    Ok(())
}

/// The place of the transform that writes `output` in a backfill.
fn place_of(record: &Record, output: &Output) -> Option<u32> {
    let mut transforms = (0u32..).zip(&record.plan.transforms);
    let found = transforms.find(|(_, one)| one.output.is_same_place(output));
    found.map(|(place, _)| place)
}

/// How long a plan would take; `None`: nothing is known of one of its transforms.
fn estimate(plan: &Plan, histories: &[History]) -> Option<Estimate> {
    let mut estimates = Vec::new();
    for (place, history) in (0u32..).zip(histories) {
        let run_count = plan.run_count_of(place);
        let one = history.estimate(run_count, plan.max_active_partitions)?;
        estimates.push((one, run_count));
    }
    match estimates.as_slice() {
        [(only, _)] => Some(*only),
        several => Estimate::together(several),
    }
}
