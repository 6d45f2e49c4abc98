//! Gathering what a plan is made of: the definition, the files, what the store knows. The planning itself is in [`plan`].

use std::sync::Arc;

use super::{
    Result,
    blocking::blocking,
    executor::Backfills,
    history::{Estimate, History},
    model::{BackfillSpec, FrozenSource, Knowledge, Plan, Reprocess},
    plan::{self, EntityKnowledge, PlanInput},
    stale::{Finder, Scope, Standings},
};
use crate::{
    catalog::{Catalog, Transform},
    engine::{PinnedEntity, PinnedInputs, PinnedSource, source},
    store::{self, EntityType, Store},
    time::{Interval, SysTime},
};

/// What planning needs. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Planner {
    pub(super) catalog: Catalog,
    pub(super) store: Store,
    pub(super) default_max_active: u32,
    pub(super) backfills: Backfills,
    pub(super) finder: Finder,
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
        let standings = match spec.reprocess {
            Reprocess::Stale => self.standings(&transform, spec, latest_basis).await?,
            Reprocess::None | Reprocess::Failed | Reprocess::Completed => Standings::new(),
        };
        let input = PlanInput {
            spec,
            transform: &transform,
            entities: self.entity_knowledge(&transform)?,
            sources,
            history: &history,
            standings: &standings,
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

    /// What earlier backfills made of the transform's output.
    fn history(&self, transform: &Transform, reprocess: Reprocess) -> History {
        // Elsewhere what became of single partitions is not asked.
        let tells_outcomes = reprocess != Reprocess::Completed || transform.spec.prior.is_some();
        let mut history = History::default();
        for watched in self.backfills.read().values().rev() {
            if !watched
                .record
                .plan
                .output
                .is_same_place(&transform.spec.output)
            {
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
            let output = watched.record.plan.output.entities();
            output.is_some_and(|output| output.entity_type == entity_type)
                && !watched.visible.read().state.is_terminal()
        });
        found.map(|watched| watched.record.name.clone())
    }

    /// Sees that the files which would be opened still have the source's columns.
    async fn check_files(&self, plan: &Plan) -> Result<()> {
        for frozen in &plan.sources {
            let declared = self.catalog.source(&frozen.source)?;
            let files = frozen.files.clone();
            blocking(move || Ok(source::check_columns(&declared, files.iter())?)).await?;
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
            let pinned = self.type_at(&input.entity_type, transform.entity_revision(index))?;
            entities.push(PinnedEntity {
                entity_type: pinned,
                at_partition_start: input.at_partition_start,
            });
        }
        Ok(PinnedInputs {
            output_type: self.output_type(&transform)?,
            transform,
            sources,
            entities,
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
