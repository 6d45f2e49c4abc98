//! The pinned session: the only names that a transform's SQL can resolve.
//!
//! | name | rows |
//! |---|---|
//! | `<source>` | event time in `[start - lookback, end)`; `available_at`, where declared, at or before the basis, except as known now |
//! | `<type>` | one per entity: its state at the partition's last instant, or at its start |
//! | `<type>_history` | versions that overlap the partition, clipped to it |
//! | `<type>_at(id, ts)` | a function: the state at each row's own instant |
//! | `<call>(…)` | a function: what an outside system answers |
//! | `<table>` | another transform's partitions that overlap `[start - lookback, end)` and are over by `end` |
//! | `prior` | this transform's own output before `start`; of an entity type its state just before it |
//!
//! Invariant `PT-1`: nothing valid at or after the partition's end, and nothing learned after the basis, has a name here.

use std::{collections::HashMap, path::Path, sync::Arc};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
        MemorySchemaProvider,
    },
    common::TableReference,
    datasource::{file_format::parquet::ParquetFormat, provider_as_source},
    execution::{
        SessionState, SessionStateBuilder, TaskContext, disk_manager::DiskManagerBuilder,
        memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, cast, col, lit},
    prelude::{DataFrame, SessionConfig, SessionContext, split_part},
};

use super::{
    Error, PeakMemory, PinnedEntity, PinnedInputs, PinnedSource, PinnedTable, Result, SharedScans,
    TableView,
    as_of::{AsOf, World},
    calls,
    entity_table::{EntityTable, View},
    file_table::{FileTable, TableFile},
    filter_clause, memory, nesting, parameters,
    reads::{FileDigest, Witness},
    sequential::SequentialMerges,
    source::format_of,
    time_cut::{available_cut, event_time_cut},
    yielding::YieldingJoins,
};
use crate::{
    calls::{CallWork, Calls},
    catalog::{ColumnDef, EntityOutput, KEY_SEPARATOR, Output, TransformSpec},
    lake::Lake,
    store::Store,
    time::{Grain, Interval, Partition, PartitionCalendar, SysTime, ValidTime},
};

/// The table name of a transform's own earlier output.
pub(super) const PRIOR: &str = "prior";
/// What its plan calls the entity type behind it: no input can have this name.
pub(super) const PRIOR_STATE: &str = "prior state";

/// Opens sessions that differ in nothing but what they are pinned to.
#[derive(Debug, Clone)]
pub struct Sessions {
    template: SessionState,
    store: Store,
    lake: Lake,
    calls: Calls,
}

/// What a session is for.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    /// Planning at registration: right names and types, no rows.
    Check(Interval<ValidTime>),
    /// Computing one partition.
    Partition {
        /// The slice of valid time.
        partition: Partition,
        /// What is known.
        basis: SysTime,
        /// What is known of sources that say when a row became available; `None`: all that is there.
        available_by: Option<SysTime>,
        /// What is told of what is looked at.
        witness: Arc<Witness>,
        /// By table input: what of it may be seen.
        tables: Vec<TableView>,
        /// What it shares with other partitions.
        scans: Arc<SharedScans>,
        /// What its external calls go by.
        calls: CallWork,
    },
}

impl Scope {
    pub(super) fn window(&self) -> Interval<ValidTime> {
        match self {
            Self::Check(window) => *window,
            Self::Partition { partition, .. } => Interval::new(partition.start, partition.end),
        }
    }
}

/// What running queries use, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineUsage {
    /// Working memory that is reserved.
    pub memory_bytes: u64,
    /// What lies on disk because it did not fit.
    pub spilled_bytes: u64,
}

impl Sessions {
    /// Sessions that share `memory_bytes` of working memory and spill into `spill_folder` beyond it.
    ///
    /// # Errors
    /// The spill folder cannot be made.
    pub fn new(
        store: Store,
        lake: Lake,
        calls: Calls,
        memory_bytes: usize,
        spill_folder: &Path,
    ) -> Result<Self> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
            .with_disk_manager_builder(DiskManagerBuilder::default())
            .with_temp_file_path(spill_folder)
            .build_arc()?;
        // One stream per partition of a backfill: partitions run beside each other instead.
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_collect_statistics(false);
        config.options_mut().sql_parser.collect_spans = true;
        let template = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(SequentialMerges))
            .with_physical_optimizer_rule(Arc::new(YieldingJoins))
            .build();
        Ok(Self {
            template,
            store,
            lake,
            calls,
        })
    }

    /// What running queries use now.
    pub fn usage(&self) -> EngineUsage {
        let runtime = self.template.runtime_env();
        EngineUsage {
            memory_bytes: runtime.memory_pool.reserved() as u64,
            spilled_bytes: runtime.disk_manager.used_disk_space(),
        }
    }

    /// The state that all sessions start from.
    pub fn template(&self) -> &SessionState {
        &self.template
    }

    /// What outside systems are called with.
    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// A session that holds `inputs` as `scope` may see them.
    pub(super) fn open(&self, inputs: &PinnedInputs, scope: &Scope) -> Result<SessionContext> {
        // A builder would register every function anew.
        let mut state = self.template.clone();
        state.register_catalog_list(empty_catalog(self.template.config())?);
        if !inputs.transform.spec.calls.is_empty() {
            // What is taken out of an answer would be taken out below the filters, and so be asked for more rows.
            let options = state.config_mut().options_mut();
            options.optimizer.enable_leaf_expression_pushdown = false;
        }
        let context = SessionContext::new_with_state(state);
        for source in &inputs.sources {
            self.add_source(&context, inputs, source, scope)?;
        }
        for (index, entity) in inputs.entities.iter().enumerate() {
            self.add_entity(&context, entity, index, scope)?;
        }
        for (index, table) in inputs.tables.iter().enumerate() {
            self.add_table(&context, index, table, scope)?;
        }
        calls::add(&context, &self.calls, &inputs.transform.spec, scope)?;
        if inputs.transform.spec.prior.is_some() {
            self.add_prior(&context, inputs, scope)?;
        }
        Ok(context)
    }

    /// What a plan of `state` runs with: its working memory is told to `peak`.
    pub(super) fn task(&self, state: &SessionState, peak: Arc<PeakMemory>) -> Arc<TaskContext> {
        // A plan holds its functions itself: only a plan that comes over a wire looks them up here.
        Arc::new(TaskContext::new(
            None,
            state.session_id().to_owned(),
            state.config().clone(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            memory::watched(self.template.runtime_env(), peak),
        ))
    }

    /// The query of `inputs`, planned in the `state` of a session with its parameters bound.
    pub(super) async fn plan(
        &self,
        state: &SessionState,
        inputs: &PinnedInputs,
        scope: &Scope,
    ) -> Result<LogicalPlan> {
        let dialect = state.config().options().sql_parser.dialect;
        let statement = state.sql_to_statement(&inputs.transform.spec.sql, &dialect)?;
        nesting::check_statement(&statement)?;
        let statement = filter_clause::never_null(parameters::bind(statement, &scope.window())?);
        let plan = state.statement_to_plan(statement).await?;
        nesting::check_plan(&plan)?;
        Ok(plan)
    }

    fn add_source(
        &self,
        context: &SessionContext,
        inputs: &PinnedInputs,
        pinned: &PinnedSource,
        scope: &Scope,
    ) -> Result<()> {
        let source = &pinned.source;
        let schema = schema_of(&source.columns)?;
        let window = pinned.window(scope.window());
        let files = match scope {
            Scope::Check(_) => Vec::new(),
            Scope::Partition { .. } => pinned.files_in(&window).map(TableFile::of_source).collect(),
        };
        let zone_days = PartitionCalendar::new(Grain::Daily, inputs.transform.spec.zone);
        let mut cut = event_time_cut(&schema, &source.event_time_column, &window, &zone_days)?;
        if let (
            Some(column),
            Scope::Partition {
                available_by: Some(basis),
                ..
            },
        ) = (&source.available_at_column, scope)
        {
            cut = cut.and(available_cut(&schema, column, *basis)?);
        }
        let table = FileTable::new(
            format_of(source),
            &schema,
            source.hive.is_some(),
            files,
            Some(cut),
        );
        let table = match scope {
            Scope::Check(_) => table,
            Scope::Partition { scans, .. } => table.sharing(source.name.clone(), Arc::clone(scans)),
        };
        context.register_table(source.name.as_str(), Arc::new(table))?;
        Ok(())
    }

    fn add_entity(
        &self,
        context: &SessionContext,
        entity: &PinnedEntity,
        index: usize,
        scope: &Scope,
    ) -> Result<()> {
        let entity_type = &entity.entity_type;
        let window = scope.window();
        let end = window.to.unwrap_or(window.from);
        let (basis, world) = match scope {
            Scope::Check(_) => (self.store.latest_basis(), World::Unread),
            Scope::Partition {
                partition,
                basis,
                witness,
                ..
            } => (
                *basis,
                World::Pinned {
                    store: self.store.clone(),
                    basis: *basis,
                    end,
                    partition: partition.label.clone(),
                    witness: Arc::clone(witness),
                    entity: index,
                },
            ),
        };
        let instant = entity.shown_at(window);
        let table = |view| {
            Arc::new(EntityTable::new(
                self.store.clone(),
                Arc::clone(entity_type),
                view,
                basis,
            ))
        };
        context.register_table(entity_type.name(), table(View::AsOf(instant)))?;
        context.register_table(
            format!("{}_history", entity_type.name()),
            table(View::History(window)),
        )?;
        context.register_udf(ScalarUDF::new_from_impl(AsOf::new(
            Arc::clone(entity_type),
            world,
        )));
        Ok(())
    }

    fn add_table(
        &self,
        context: &SessionContext,
        index: usize,
        pinned: &PinnedTable,
        scope: &Scope,
    ) -> Result<()> {
        let files = match scope {
            Scope::Check(_) => Vec::new(),
            Scope::Partition {
                tables, witness, ..
            } => {
                let files = match tables.get(index) {
                    Some(view) => view.files(&self.lake, &pinned.table)?,
                    None => Vec::new(),
                };
                let paths = files.iter().map(|file| file.path.as_path());
                witness.saw_table(&pinned.table, FileDigest::of(paths));
                files
            }
        };
        let files = files.into_iter().map(TableFile::of_lake).collect();
        // A later revision of its writer may leave any of them null.
        let columns: Vec<_> = pinned
            .columns
            .iter()
            .map(|column| ColumnDef {
                nullable: true,
                ..column.clone()
            })
            .collect();
        let format = Arc::new(ParquetFormat::default().with_force_view_types(false));
        let table = FileTable::new(format, &schema_of(&columns)?, false, files, None);
        context.register_table(pinned.table.as_str(), Arc::new(table))?;
        Ok(())
    }

    /// The transform's entity type as it is just before the partition, in the columns of the query. It is read at the latest
    /// basis: nobody but the transform writes it, and whatever it writes over later partitions is not seen.
    fn add_prior_entities(
        &self,
        context: &SessionContext,
        inputs: &PinnedInputs,
        output: &EntityOutput,
        scope: &Scope,
    ) -> Result<()> {
        let before = scope.window().from.saturating_add_micros(-1);
        let basis = self.store.latest_basis();
        if let Scope::Partition { witness, .. } = scope {
            witness.saw_prior_entities(before, basis);
        }
        let table = EntityTable::new(
            self.store.clone(),
            Arc::clone(inputs.output_type()?),
            View::AsOf(before),
            basis,
        );
        let source = provider_as_source(Arc::new(table));
        let prior = LogicalPlanBuilder::scan(TableReference::bare(PRIOR_STATE), source, None)?
            .project(prior_columns(inputs, output)?)?
            .build()?;
        let prior = DataFrame::new(context.state(), prior).into_view();
        context.register_table(PRIOR, prior)?;
        Ok(())
    }

    fn add_prior(
        &self,
        context: &SessionContext,
        inputs: &PinnedInputs,
        scope: &Scope,
    ) -> Result<()> {
        let transform = &inputs.transform;
        let name = match &transform.spec.output {
            Output::Table(name) => name,
            Output::Entities(output) => {
                return self.add_prior_entities(context, inputs, output, scope);
            }
        };
        let schema = schema_of(&transform.columns)?;
        let files = match scope {
            Scope::Check(_) => Vec::new(),
            Scope::Partition {
                partition, witness, ..
            } => {
                let reach = prior_range(&transform.spec, partition.start);
                let files = self.lake.files(name, None, reach)?;
                let paths = files.iter().map(|file| file.path.as_path());
                witness.saw_prior(FileDigest::of(paths));
                files.into_iter().map(TableFile::of_lake).collect()
            }
        };
        let format = Arc::new(ParquetFormat::default().with_force_view_types(false));
        let table = FileTable::new(format, &schema, false, files, None);
        context.register_table(PRIOR, Arc::new(table))?;
        Ok(())
    }
}

/// A catalog of its own for each session: nothing that another one registered can be found.
fn empty_catalog(config: &SessionConfig) -> Result<Arc<dyn CatalogProviderList>> {
    let names = &config.options().catalog;
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(&names.default_schema, Arc::new(MemorySchemaProvider::new()))?;
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(names.default_catalog.clone(), Arc::new(catalog));
    Ok(Arc::new(list))
}

/// The partition starts that `prior` shows to a partition that starts at `start`.
pub fn prior_range(spec: &TransformSpec, start: ValidTime) -> Interval<ValidTime> {
    let reach = spec.prior.and_then(|prior| prior.partitions);
    let from = match reach {
        None => ValidTime::MIN,
        Some(count) => spec
            .calendar()
            .nth_before(start, count)
            .map_or(ValidTime::MIN, |partition| partition.start),
    };
    Interval::new(from, start)
}

/// The columns of `prior` over an entity type's: the key's, taken from the id, and the attributes.
fn prior_columns(inputs: &PinnedInputs, output: &EntityOutput) -> Result<Vec<Expr>> {
    let entity_type = inputs.output_type()?;
    let by_name = |name: &str| col(datafusion::common::Column::from_name(name));
    let mut columns = Vec::new();
    for (name, part) in output.key.iter().zip(1i64..) {
        if entity_type.attribute_index(name).is_some() {
            continue;
        }
        let id = by_name("entity_id");
        let text = match output.key.len() {
            1 => id,
            _ => split_part(id, lit(KEY_SEPARATOR.to_string()), lit(part)),
        };
        let data_type = key_type(&inputs.transform.columns, name)?;
        columns.push(cast(text, data_type).alias(name));
    }
    let attributes = entity_type.attributes().iter();
    columns.extend(attributes.map(|attribute| by_name(&attribute.name)));
    Ok(columns)
}

/// The type that a key's column has in `prior`: as `columns` say, or else a string.
pub(super) fn key_type(columns: &[ColumnDef], name: &str) -> Result<DataType> {
    let schema = schema_of(columns)?;
    let field = schema.field_with_name(name);
    Ok(field.map_or(DataType::Utf8, |field| field.data_type().clone()))
}

fn schema_of(columns: &[ColumnDef]) -> Result<SchemaRef> {
    ColumnDef::to_schema(columns).map_err(|cause| Error::Broken { cause })
}

impl TableFile {
    fn of_source(file: &super::SourceFile) -> Self {
        Self {
            path: file.path.clone(),
            size_bytes: file.size_bytes,
            hive_value: file.hive_value.clone(),
        }
    }

    fn of_lake(file: crate::lake::LakeFile) -> Self {
        Self {
            path: file.path,
            size_bytes: file.size_bytes,
            hive_value: None,
        }
    }
}
