//! Planning a transform at registration: what is wrong with it is an error then, not in partition 1.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::{
    Error, PinnedEntity, PinnedInputs, PinnedSource, PinnedTable, Result, entity_rules,
    error::query_message, function_rules, session::PRIOR, session::Scope, session::Sessions,
};
use crate::{
    catalog::{Catalog, ColumnDef, InputRevisions, Output, Transform, TransformSpec, check_name},
    error::Violation,
    lake,
    store::Store,
    time::{Interval, ValidTime},
};

/// What planning found out about a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its output's columns, as they will be stored.
    pub columns: Vec<ColumnDef>,
    /// The revisions of what it names that it was planned with.
    pub revisions: InputRevisions,
}

/// Plans `spec` against the catalog and the store.
///
/// # Errors
/// [`Error::Store`] for an entity type whose import is not finished.
/// [`Error::Definition`] naming the field: an input that does not exist, a name that clashes, SQL that does not plan (with
/// line and column where they are known), a function that is not deterministic, an output that cannot be stored, or one that
/// is not what `output_columns` declares.
pub async fn check(
    sessions: &Sessions,
    catalog: &Catalog,
    store: &Store,
    spec: &TransformSpec,
) -> Result<Checked> {
    check_names(spec)?;
    let declared =
        match declared_schema(&spec.output_columns)? {
            None => None,
            Some(declared) => Some(lake::output_schema(&declared).map_err(|error| {
                Error::definition("transform.output_columns", error.to_string())
            })?),
        };
    if spec.prior.is_some() && declared.is_none() && spec.output.table().is_some() {
        return Err(Error::definition(
            "transform.output_columns",
            "a transform that reads prior must declare its output's columns, such as \"flights int64\"",
        ));
    }
    let columns = declared
        .as_ref()
        .map(|schema| ColumnDef::of_schema(schema))
        .unwrap_or_default();
    let inputs = resolve(catalog, store, spec, columns)?;
    let table_revisions = inputs.transform.table_revisions.clone();
    entity_rules::check_prior(spec, &inputs)?;
    let window = sample_window(spec)?;
    let scope = Scope::Check(window);
    let state = sessions.open(&inputs, &scope)?.state();
    let plan = sessions
        .plan(&state, &inputs, &scope)
        .await
        .map_err(|error| sql_error(error, spec))?;
    function_rules::check(&plan)?;
    let plan = entity_rules::check_columns(spec, &inputs, plan)?;
    // The whole way down: what the physical planner refuses is refused here too.
    state
        .create_physical_plan(&plan)
        .await
        .map_err(|error| sql_error(error.into(), spec))?;
    let output = lake::output_schema(plan.schema().as_arrow())
        .map_err(|error| Error::definition("transform.sql", error.to_string()))?;
    if let Some(declared) = declared {
        check_declared(&declared, &output)?;
    }
    let entity_revisions = inputs
        .entities
        .iter()
        .map(|entity| entity.entity_type.revision())
        .collect();
    let mut columns = ColumnDef::of_schema(&output);
    if spec.output.entities().is_some() {
        columns.retain(|column| column.name != lake::PARTITION_COLUMN);
        entity_rules::check_prior_key(spec, &inputs, &columns)?;
    }
    Ok(Checked {
        columns,
        revisions: InputRevisions {
            entities: entity_revisions,
            tables: table_revisions,
            output: inputs.output_type.as_ref().map(|it| it.revision()),
        },
    })
}

/// What the names of `transform` mean, without any files: those are listed when a backfill is planned.
///
/// # Errors
/// [`Error::Definition`] naming an input that does not exist.
fn resolve(
    catalog: &Catalog,
    store: &Store,
    spec: &TransformSpec,
    columns: Vec<ColumnDef>,
) -> Result<PinnedInputs> {
    let mut sources = Vec::new();
    for (index, input) in spec.sources.iter().enumerate() {
        let source = catalog.source(&input.source).map_err(|error| {
            Error::definition(
                format!("transform.sources[{index}].source"),
                error.to_string(),
            )
        })?;
        sources.push(PinnedSource {
            source,
            lookback_micros: input.lookback_micros,
            files: Arc::default(),
        });
    }
    let mut entities = Vec::new();
    for (index, input) in spec.entities.iter().enumerate() {
        let entity_type = store.entity_type(&input.entity_type).map_err(|error| {
            Error::definition(
                format!("transform.entities[{index}].entity_type"),
                error.to_string(),
            )
        })?;
        store.check_imported(&input.entity_type)?;
        entities.push(PinnedEntity {
            entity_type,
            at_partition_start: input.at_partition_start,
        });
    }
    let (tables, table_revisions) = resolve_tables(catalog, spec)?;
    let transform = Transform {
        spec: spec.clone(),
        revision: 0,
        columns,
        entity_revisions: Vec::new(),
        table_revisions,
        output_revision: None,
        create_time_micros: 0,
    };
    Ok(PinnedInputs {
        transform: Arc::new(transform),
        sources,
        entities,
        tables,
        output_type: spec
            .output
            .entities()
            .and_then(|output| store.entity_type(&output.entity_type).ok()),
    })
}

/// The tables as their writers' latest revisions have them, and these revisions.
fn resolve_tables(catalog: &Catalog, spec: &TransformSpec) -> Result<(Vec<PinnedTable>, Vec<u32>)> {
    let mut tables = Vec::new();
    let mut revisions = Vec::new();
    for (index, input) in spec.tables.iter().enumerate() {
        let definition = |problem: String| {
            Error::definition(format!("transform.tables[{index}].table"), problem)
        };
        if spec.output.table() == Some(&input.table) {
            return Err(definition(
                "it is the table that this transform writes: declare prior to read it".to_owned(),
            ));
        }
        let written = Output::Table(input.table.clone());
        let writer = catalog.writer_of(&written).ok_or_else(|| {
            definition(format!(
                "no transform writes table {:?}; register the one that does first",
                input.table
            ))
        })?;
        tables.push(PinnedTable {
            table: input.table.clone(),
            columns: writer.columns.clone(),
        });
        revisions.push(writer.revision);
    }
    Ok((tables, revisions))
}

fn check_names(spec: &TransformSpec) -> Result<()> {
    let definition = |violation: Violation| Error::Definition(violation);
    check_name("transform.name", &spec.name).map_err(definition)?;
    match &spec.output {
        Output::Table(name) if name.is_empty() => {
            return Err(Error::definition(
                "transform.output_table",
                "it is required, or output_entity in its place",
            ));
        }
        Output::Table(name) => check_name("transform.output_table", name).map_err(definition)?,
        Output::Entities(output) => entity_rules::check_names(spec, output)?,
    }
    let mut seen = Vec::new();
    let source_names = spec.sources.iter().enumerate().map(|(index, input)| {
        (
            format!("transform.sources[{index}].source"),
            input.source.clone(),
        )
    });
    let entity_names = spec.entities.iter().enumerate().flat_map(|(index, input)| {
        let field = format!("transform.entities[{index}].entity_type");
        let history = format!("{}_history", input.entity_type);
        [(field.clone(), input.entity_type.clone()), (field, history)]
    });
    let table_names = spec.tables.iter().enumerate().map(|(index, input)| {
        (
            format!("transform.tables[{index}].table"),
            input.table.clone(),
        )
    });
    for (field, name) in source_names.chain(entity_names).chain(table_names) {
        if name == PRIOR {
            return Err(Error::definition(
                field,
                "the name prior is kept for the transform's own output",
            ));
        }
        if seen.contains(&name) {
            return Err(Error::definition(
                field,
                format!("the SQL would find two tables named {name:?}"),
            ));
        }
        seen.push(name);
    }
    if spec.sql.trim().is_empty() {
        return Err(Error::definition("transform.sql", "it is empty"));
    }
    Ok(())
}

/// Any partition does for planning.
fn sample_window(spec: &TransformSpec) -> Result<Interval<ValidTime>> {
    let partition = spec
        .calendar()
        .partition_containing(ValidTime::from_micros(0))
        .map_err(|error| Error::Broken {
            cause: error.to_string(),
        })?;
    Ok(Interval::new(partition.start, partition.end))
}

/// The query engine's words, with the place in the SQL, and the names there are when one was not found.
fn sql_error(error: Error, spec: &TransformSpec) -> Error {
    let Error::Query(error) = error else {
        return error;
    };
    let mut text = query_message(&error);
    if let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span) {
        text = format!(
            "line {}, column {}: {text}",
            span.start.line, span.start.column
        );
    }
    if text.contains("not found") && text.contains("table '") {
        text = format!(
            "{}; the transform's inputs are: {}",
            text.replace("datafusion.public.", ""),
            input_names(spec)
        );
    }
    Error::definition("transform.sql", text)
}

fn input_names(spec: &TransformSpec) -> String {
    let sources = spec.sources.iter().map(|input| input.source.clone());
    let entities = spec.entities.iter().flat_map(|input| {
        [
            input.entity_type.clone(),
            format!("{}_history", input.entity_type),
        ]
    });
    let prior = spec.prior.map(|_| PRIOR.to_owned());
    let tables = spec.tables.iter().map(|input| input.table.clone());
    let names: Vec<_> = sources.chain(entities).chain(tables).chain(prior).collect();
    if names.is_empty() {
        "none (declare sources, entities, tables or prior)".to_owned()
    } else {
        names.join(", ")
    }
}

/// The schema that `name type` lines declare; `None` without lines.
fn declared_schema(lines: &[String]) -> Result<Option<SchemaRef>> {
    if lines.is_empty() {
        return Ok(None);
    }
    let fields = lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            let field = format!("transform.output_columns[{index}]");
            let Some((name, type_name)) = line.trim().split_once(char::is_whitespace) else {
                return Err(Error::definition(
                    field,
                    format!("{line:?} is not of the form \"name type\""),
                ));
            };
            let data_type = declared_type(type_name.trim()).ok_or_else(|| {
                Error::definition(
                    field,
                    format!(
                        "{:?} is not a type: bool, int32, int64, float32, float64, string, bytes, date, timestamp, decimal(p,s)",
                        type_name.trim()
                    ),
                )
            })?;
            Ok(Field::new(name, data_type, true))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Some(Arc::new(Schema::new(fields))))
}

fn declared_type(name: &str) -> Option<DataType> {
    Some(match name {
        "bool" => DataType::Boolean,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "string" => DataType::Utf8,
        "bytes" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => {
            let inner = other.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = inner.split_once(',')?;
            let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            if !(1..=38).contains(&precision)
                || scale < 0
                || i16::from(scale) > i16::from(precision)
            {
                return None;
            }
            DataType::Decimal128(precision, scale)
        }
    })
}

/// Compares names, order and types; a declaration says nothing about nulls.
fn check_declared(declared: &Schema, planned: &Schema) -> Result<()> {
    let describe = |schema: &Schema| {
        let columns: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        columns.join(", ")
    };
    let same = declared.fields().len() == planned.fields().len()
        && declared
            .fields()
            .iter()
            .zip(planned.fields())
            .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
    if same {
        return Ok(());
    }
    Err(Error::definition(
        "transform.output_columns",
        format!(
            "they declare ({}), and the query gives ({})",
            describe(declared),
            describe(planned)
        ),
    ))
}
