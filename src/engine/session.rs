//! The pinned session: the only names that a transform's SQL can resolve.
//!
//! | name | rows |
//! |---|---|
//! | `<source>` | event time in `[start - lookback, end)`; `available_at`, where declared, at or before the basis, except as known now |
//! | `<type>` | one per entity: its state at the partition's last instant, or at its start |
//! | `<type>_history` | versions that overlap the partition, clipped to it |
//! | `<type>_at(id, ts)` | a function: the state at each row's own instant |
//! | `prior` | this transform's own output before `start` |
//!
//! Invariant `PT-1`: nothing valid at or after the partition's end, and nothing learned after the basis, has a name here.

use std::{path::Path, sync::Arc};

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
        MemorySchemaProvider,
    },
    datasource::file_format::parquet::ParquetFormat,
    execution::{
        SessionState, SessionStateBuilder, disk_manager::DiskManagerBuilder,
        memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::{Expr, LogicalPlan, ScalarUDF, col, lit},
    prelude::{SessionConfig, SessionContext},
    scalar::ScalarValue,
};

use super::{
    Error, PinnedEntity, PinnedInputs, PinnedSource, Result,
    as_of::{AsOf, World},
    entity_table::{EntityTable, View},
    file_table::{FileTable, TableFile},
    filter_clause, nesting, parameters,
    sequential::SequentialMerges,
    source::format_of,
    yielding::YieldingJoins,
};
use crate::{
    catalog::ColumnDef,
    lake::Lake,
    store::Store,
    time::{Grain, Interval, Partition, PartitionCalendar, SysTime, ValidTime},
};

/// The table name of a transform's own earlier output.
pub(super) const PRIOR: &str = "prior";

/// Opens sessions that differ in nothing but what they are pinned to.
#[derive(Debug, Clone)]
pub struct Sessions {
    template: SessionState,
    store: Store,
    lake: Lake,
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
    },
}

impl Scope {
    fn window(&self) -> Interval<ValidTime> {
        match self {
            Self::Check(window) => *window,
            Self::Partition { partition, .. } => Interval::new(partition.start, partition.end),
        }
    }
}

impl Sessions {
    /// Sessions that share `memory_bytes` of working memory and spill into `spill_folder` beyond it.
    ///
    /// # Errors
    /// The spill folder cannot be made.
    pub fn new(store: Store, lake: Lake, memory_bytes: usize, spill_folder: &Path) -> Result<Self> {
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
        })
    }

    /// The state that all sessions start from.
    pub fn template(&self) -> &SessionState {
        &self.template
    }

    /// A session that holds `inputs` as `scope` may see them.
    pub(super) fn open(&self, inputs: &PinnedInputs, scope: &Scope) -> Result<SessionContext> {
        // A builder would register every function anew.
        let mut state = self.template.clone();
        state.register_catalog_list(empty_catalog(self.template.config())?);
        let context = SessionContext::new_with_state(state);
        for source in &inputs.sources {
            self.add_source(&context, inputs, source, scope)?;
        }
        for entity in &inputs.entities {
            self.add_entity(&context, entity, scope)?;
        }
        if inputs.transform.spec.prior.is_some() {
            self.add_prior(&context, inputs, scope)?;
        }
        Ok(context)
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
        context.register_table(source.name.as_str(), Arc::new(table))?;
        Ok(())
    }

    fn add_entity(
        &self,
        context: &SessionContext,
        entity: &PinnedEntity,
        scope: &Scope,
    ) -> Result<()> {
        let entity_type = &entity.entity_type;
        let window = scope.window();
        let end = window.to.unwrap_or(window.from);
        let (basis, world) = match scope {
            Scope::Check(_) => (self.store.latest_basis(), World::Unread),
            Scope::Partition {
                partition, basis, ..
            } => (
                *basis,
                World::Pinned {
                    store: self.store.clone(),
                    basis: *basis,
                    end,
                    partition: partition.label.clone(),
                },
            ),
        };
        let instant = if entity.at_partition_start {
            window.from
        } else {
            end.saturating_add_micros(-1)
        };
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

    fn add_prior(
        &self,
        context: &SessionContext,
        inputs: &PinnedInputs,
        scope: &Scope,
    ) -> Result<()> {
        let transform = &inputs.transform;
        let schema = schema_of(&transform.columns)?;
        let files = match scope {
            Scope::Check(_) => Vec::new(),
            Scope::Partition { partition, .. } => {
                let reach = prior_range(inputs, partition.start);
                let files = self.lake.files(&transform.spec.output_table, None, reach)?;
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
fn prior_range(inputs: &PinnedInputs, start: ValidTime) -> Interval<ValidTime> {
    let spec = &inputs.transform.spec;
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

/// `from <= column < to`, in the column's own unit.
fn event_time_cut(
    schema: &SchemaRef,
    column: &str,
    window: &Interval<ValidTime>,
    days: &PartitionCalendar,
) -> Result<Expr> {
    let data_type = time_type(schema, column)?;
    let name = || col(datafusion::common::Column::from_name(column));
    let at_or_after = |instant| first_at_or_after(&data_type, instant, days);
    let lower = name().gt_eq(lit(at_or_after(window.from)?));
    match window.to {
        None => Ok(lower),
        Some(to) => Ok(lower.and(name().lt(lit(at_or_after(to)?)))),
    }
}

/// `column <= basis`, in the column's own unit.
fn available_cut(schema: &SchemaRef, column: &str, basis: SysTime) -> Result<Expr> {
    let data_type = time_type(schema, column)?;
    let name = col(datafusion::common::Column::from_name(column));
    let after = basis.saturating_add_micros(1);
    let utc_days = PartitionCalendar::new(Grain::Daily, chrono_tz::UTC);
    let bound = first_at_or_after(
        &data_type,
        ValidTime::from_micros(after.micros()),
        &utc_days,
    )?;
    Ok(name.lt(lit(bound)))
}

fn time_type(schema: &SchemaRef, column: &str) -> Result<DataType> {
    match schema.field_with_name(column) {
        Ok(field) => Ok(field.data_type().clone()),
        Err(error) => Err(Error::Broken {
            cause: error.to_string(),
        }),
    }
}

/// The first value of a time column's type that lies at or after `instant`. Dates stand for their first instant on the
/// calendar of `days`.
fn first_at_or_after(
    data_type: &DataType,
    instant: ValidTime,
    days: &PartitionCalendar,
) -> Result<ScalarValue> {
    let micros = instant.micros();
    if *data_type == DataType::Date32 {
        return Ok(ScalarValue::Date32(Some(date_at_or_after(instant, days)?)));
    }
    let DataType::Timestamp(unit, zone) = data_type else {
        return Err(Error::Broken {
            cause: format!("{data_type} is no time type"),
        });
    };
    let zone = zone.clone();
    Ok(match unit {
        TimeUnit::Second => ScalarValue::TimestampSecond(Some(ceil_div(micros, 1_000_000)), zone),
        TimeUnit::Millisecond => {
            ScalarValue::TimestampMillisecond(Some(ceil_div(micros, 1_000)), zone)
        }
        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(micros), zone),
        TimeUnit::Nanosecond => {
            ScalarValue::TimestampNanosecond(Some(micros.saturating_mul(1_000)), zone)
        }
    })
}

fn ceil_div(value: i64, divisor: i64) -> i64 {
    value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
}

fn date_at_or_after(instant: ValidTime, days: &PartitionCalendar) -> Result<i32> {
    let broken = |cause: String| Error::Broken { cause };
    let day = days
        .partition_containing(instant)
        .map_err(|error| broken(error.to_string()))?;
    let date = chrono::NaiveDate::parse_from_str(&day.label, "%Y-%m-%d")
        .map_err(|error| broken(error.to_string()))?;
    let epoch_days = date
        .signed_duration_since(chrono::NaiveDate::default())
        .num_days();
    let first = if day.start == instant {
        epoch_days
    } else {
        epoch_days + 1
    };
    i32::try_from(first).map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_first_value_at_or_after_an_instant() {
        let days = PartitionCalendar::new(Grain::Daily, chrono_tz::America::New_York);
        let second = |micros| {
            first_at_or_after(
                &DataType::Timestamp(TimeUnit::Second, None),
                ValidTime::from_micros(micros),
                &days,
            )
            .expect("a time type")
        };
        assert_eq!(
            second(10_000_000),
            ScalarValue::TimestampSecond(Some(10), None)
        );
        assert_eq!(
            second(10_000_001),
            ScalarValue::TimestampSecond(Some(11), None)
        );
        assert_eq!(second(-1), ScalarValue::TimestampSecond(Some(0), None));
        let date = |text| {
            first_at_or_after(
                &DataType::Date32,
                ValidTime::parse(text).expect("instant"),
                &days,
            )
            .expect("a time type")
        };
        assert_eq!(
            date("1970-01-02T05:00:00Z"),
            ScalarValue::Date32(Some(1)),
            "local midnight"
        );
        assert_eq!(
            date("1970-01-02T05:00:01Z"),
            ScalarValue::Date32(Some(2)),
            "just after it"
        );
    }
}
