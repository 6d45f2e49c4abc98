//! Sources and transforms: wire to domain and back.

use std::{
    collections::BTreeMap,
    path::{Component, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono_tz::Tz;

use super::{call, duration, invalid::Invalid, time};
use crate::{
    catalog::{
        ColumnDef, CsvOptions, EntityInput, EntityOutput, Hive, Output, PriorInput, RetryPolicy,
        Source, SourceFormat, SourceInput, TableInput, Transform, TransformSpec, check_name,
    },
    engine::source::usual_format,
    error::Violation,
    pb,
    time::{Grain, SysTime},
};

/// Longest SQL text.
const MAX_SQL_BYTES: usize = 64 * 1024;
/// Longest description.
const MAX_DESCRIPTION_BYTES: usize = 4_096;
/// Most inputs of one kind.
const MAX_INPUTS: usize = 64;

/// The source that a request declares; what is found in its files is left open.
pub(in crate::grpc) fn source(
    request: pb::CreateSourceRequest,
    now_micros: i64,
) -> Result<Source, Invalid> {
    let Some(wire) = request.source else {
        return Err(Violation::new("source", "it is required").into());
    };
    let pb::Source {
        name,
        format,
        location,
        event_time_column,
        available_at_column,
        hive,
        csv_delimiter,
        csv_types,
        description,
        columns: _,
        create_time: _,
        file_count: _,
        size_bytes: _,
    } = wire;
    check_name("source.name", &name)?;
    check_description("source.description", &description)?;
    let format = source_format(format)?;
    let location = PathBuf::from(location);
    if !location.is_absolute() {
        return Err(Violation::new(
            "source.location",
            format!("{location:?} is not an absolute path on the server's disk"),
        )
        .into());
    }
    if location
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(Violation::new(
            "source.location",
            format!("{location:?} has a part \"..\": name the folder itself"),
        )
        .into());
    }
    if event_time_column.is_empty() {
        return Err(Violation::new("source.event_time_column", "it is required").into());
    }
    Ok(Source {
        name,
        format,
        location,
        event_time_column,
        available_at_column: non_empty(available_at_column),
        hive: hive.map(hive_partition).transpose()?,
        csv: csv_options(format, &csv_delimiter, csv_types)?,
        description,
        columns: Vec::new(),
        create_time_micros: now_micros,
        file_count: 0,
        size_bytes: 0,
    })
}

fn check_description(field: &str, text: &str) -> Result<(), Violation> {
    if text.len() <= MAX_DESCRIPTION_BYTES {
        return Ok(());
    }
    Err(Violation::new(
        field,
        format!(
            "it is {} bytes long, of {MAX_DESCRIPTION_BYTES} at most",
            text.len()
        ),
    ))
}

fn source_format(wire: i32) -> Result<SourceFormat, Violation> {
    match pb::SourceFormat::try_from(wire) {
        Ok(pb::SourceFormat::Parquet) => Ok(SourceFormat::Parquet),
        Ok(pb::SourceFormat::Csv) => Ok(SourceFormat::Csv),
        Ok(pb::SourceFormat::Unspecified) | Err(_) => Err(Violation::new(
            "source.format",
            "it is required: SOURCE_FORMAT_PARQUET or SOURCE_FORMAT_CSV",
        )),
    }
}

fn hive_partition(wire: pb::HivePartition) -> Result<Hive, Violation> {
    let pb::HivePartition {
        column,
        format,
        grain,
        time_zone,
    } = wire;
    if column.is_empty() || column.contains(['=', '/']) {
        return Err(Violation::new(
            "source.hive.column",
            format!("{column:?} is not the key of a folder key=value"),
        ));
    }
    let grain = grain_from_wire("source.hive.grain", grain)?;
    Ok(Hive {
        column,
        format: non_empty(format).unwrap_or_else(|| usual_format(grain).to_owned()),
        grain,
        zone: zone("source.hive.time_zone", &time_zone)?,
    })
}

fn csv_options(
    format: SourceFormat,
    delimiter: &str,
    types: std::collections::HashMap<String, String>,
) -> Result<CsvOptions, Violation> {
    if format != SourceFormat::Csv && !(delimiter.is_empty() && types.is_empty()) {
        return Err(Violation::new(
            if delimiter.is_empty() {
                "source.csv_types"
            } else {
                "source.csv_delimiter"
            },
            "it is for CSV sources only",
        ));
    }
    let mut options = CsvOptions::default();
    match delimiter.as_bytes() {
        [] => {}
        [byte] if !matches!(byte, b'"' | b'\n' | b'\r' | 0) => options.delimiter = *byte,
        _ => {
            return Err(Violation::new(
                "source.csv_delimiter",
                format!("{delimiter:?} is not one byte that can separate fields"),
            ));
        }
    }
    let mut parsed = BTreeMap::new();
    for (column, name) in types {
        let csv_type = name.parse().map_err(|problem: String| {
            Violation::new(format!("source.csv_types[{column:?}]"), problem)
        })?;
        parsed.insert(column, csv_type);
    }
    options.types = parsed;
    Ok(options)
}

/// The transform that a request defines.
pub(in crate::grpc) fn transform(
    request: pb::RegisterTransformRequest,
) -> Result<TransformSpec, Invalid> {
    let Some(wire) = request.transform else {
        return Err(Violation::new("transform", "it is required").into());
    };
    let pb::Transform {
        name,
        sql,
        sources,
        entities,
        prior,
        output_table,
        grain,
        time_zone,
        retry,
        description,
        output_columns,
        tables,
        output_entity,
        calls,
        revision: _,
        create_time: _,
        columns: _,
    } = wire;
    check_description("transform.description", &description)?;
    if sql.len() > MAX_SQL_BYTES {
        return Err(Violation::new(
            "transform.sql",
            format!("it is {} bytes long, of {MAX_SQL_BYTES} at most", sql.len()),
        )
        .into());
    }
    for (field, count) in [
        ("transform.sources", sources.len()),
        ("transform.entities", entities.len()),
        ("transform.tables", tables.len()),
    ] {
        if count > MAX_INPUTS {
            return Err(Violation::new(
                field,
                format!("there are {count}, of {MAX_INPUTS} at most"),
            )
            .into());
        }
    }
    Ok(TransformSpec {
        name,
        sql,
        sources: sources
            .into_iter()
            .enumerate()
            .map(|(index, input)| source_input(index, input))
            .collect::<Result<_, _>>()?,
        entities: entities
            .into_iter()
            .map(
                |pb::EntityInput {
                     entity_type,
                     at_partition_start,
                 }| EntityInput {
                    entity_type,
                    at_partition_start,
                },
            )
            .collect(),
        tables: tables
            .into_iter()
            .enumerate()
            .map(|(index, input)| table_input(index, input))
            .collect::<Result<_, _>>()?,
        prior: prior.map(|pb::PriorInput { partitions }| PriorInput {
            partitions: (partitions > 0).then_some(partitions),
        }),
        calls: calls
            .into_iter()
            .enumerate()
            .map(|(index, wire)| call::from_wire(index, wire))
            .collect::<Result<_, _>>()?,
        output: output(output_table, output_entity)?,
        grain: grain_from_wire("transform.grain", grain)?,
        zone: zone("transform.time_zone", &time_zone)?,
        retry: retry_policy(retry.unwrap_or_default())?,
        description,
        output_columns,
    })
}

fn output(table: String, entities: Option<pb::EntityOutput>) -> Result<Output, Violation> {
    match entities {
        None => Ok(Output::Table(table)),
        Some(pb::EntityOutput { entity_type, key }) if table.is_empty() => {
            Ok(Output::Entities(EntityOutput { entity_type, key }))
        }
        Some(_) => Err(Violation::new(
            "transform.output_entity",
            "there is an output_table too: a transform writes one of both",
        )),
    }
}

fn source_input(index: usize, wire: pb::SourceInput) -> Result<SourceInput, Violation> {
    let pb::SourceInput { source, lookback } = wire;
    let field = format!("transform.sources[{index}].lookback");
    let lookback = duration::from_wire(&field, lookback)?.unwrap_or_default();
    Ok(SourceInput {
        source,
        lookback_micros: duration::to_micros(&field, lookback)?,
    })
}

fn table_input(index: usize, wire: pb::TableInput) -> Result<TableInput, Violation> {
    let pb::TableInput { table, lookback } = wire;
    let field = format!("transform.tables[{index}].lookback");
    let lookback = duration::from_wire(&field, lookback)?.unwrap_or_default();
    Ok(TableInput {
        table,
        lookback_micros: duration::to_micros(&field, lookback)?,
    })
}

fn retry_policy(wire: pb::RetryPolicy) -> Result<RetryPolicy, Violation> {
    let pb::RetryPolicy {
        max_attempts,
        initial_backoff,
        max_backoff,
        attempt_timeout,
    } = wire;
    let usual = RetryPolicy::default();
    let policy = RetryPolicy {
        max_attempts: if max_attempts == 0 {
            usual.max_attempts
        } else {
            max_attempts
        },
        initial_backoff: duration::from_wire("transform.retry.initial_backoff", initial_backoff)?
            .unwrap_or(usual.initial_backoff),
        max_backoff: duration::from_wire("transform.retry.max_backoff", max_backoff)?
            .unwrap_or(usual.max_backoff),
        attempt_timeout: duration::attempt_timeout(
            "transform.retry.attempt_timeout",
            attempt_timeout,
        )?,
    };
    if policy.max_attempts > 100 {
        return Err(Violation::new(
            "transform.retry.max_attempts",
            format!("{} is not in 1 to 100", policy.max_attempts),
        ));
    }
    if policy.max_backoff < policy.initial_backoff
        || policy.max_backoff > Duration::from_secs(24 * 3600)
    {
        return Err(Violation::new(
            "transform.retry.max_backoff",
            "it must lie between initial_backoff and 24 hours",
        ));
    }
    Ok(policy)
}

/// What a transform would be if it were stored.
pub(in crate::grpc) fn unregistered(
    spec: TransformSpec,
    columns: Vec<ColumnDef>,
    now_micros: i64,
) -> (Arc<Transform>, bool) {
    let transform = Transform {
        spec,
        revision: 0,
        columns,
        entity_revisions: Vec::new(),
        table_revisions: Vec::new(),
        output_revision: None,
        create_time_micros: now_micros,
    };
    (Arc::new(transform), false)
}

/// A source as the wire shows it.
pub(in crate::grpc) fn source_to_wire(source: &Source) -> pb::Source {
    let Source {
        name,
        format,
        location,
        event_time_column,
        available_at_column,
        hive,
        csv,
        description,
        columns,
        create_time_micros,
        file_count,
        size_bytes,
    } = source;
    let is_csv = *format == SourceFormat::Csv;
    pb::Source {
        name: name.clone(),
        format: match format {
            SourceFormat::Parquet => pb::SourceFormat::Parquet,
            SourceFormat::Csv => pb::SourceFormat::Csv,
        }
        .into(),
        location: location.display().to_string(),
        event_time_column: event_time_column.clone(),
        available_at_column: available_at_column.clone().unwrap_or_default(),
        hive: hive.as_ref().map(|hive| pb::HivePartition {
            column: hive.column.clone(),
            format: hive.format.clone(),
            grain: grain_to_wire(hive.grain).into(),
            time_zone: hive.zone.name().to_owned(),
        }),
        csv_delimiter: if is_csv {
            char::from(csv.delimiter).to_string()
        } else {
            String::new()
        },
        csv_types: csv
            .types
            .iter()
            .map(|(column, csv_type)| (column.clone(), format!("{csv_type:?}").to_lowercase()))
            .collect(),
        description: description.clone(),
        columns: columns_to_wire(columns),
        create_time: Some(time::to_wire(SysTime::from_micros(*create_time_micros))),
        file_count: *file_count,
        size_bytes: *size_bytes,
    }
}

/// A transform as the wire shows it.
pub(in crate::grpc) fn transform_to_wire(transform: &Transform) -> pb::Transform {
    let Transform {
        spec,
        revision,
        columns,
        entity_revisions: _,
        table_revisions: _,
        output_revision: _,
        create_time_micros,
    } = transform;
    let TransformSpec {
        name,
        sql,
        sources,
        entities,
        tables,
        calls,
        prior,
        output,
        grain,
        zone,
        retry,
        description,
        output_columns,
    } = spec;
    pb::Transform {
        name: name.clone(),
        sql: sql.clone(),
        sources: sources
            .iter()
            .map(|input| pb::SourceInput {
                source: input.source.clone(),
                lookback: Some(duration::micros_to_wire(input.lookback_micros)),
            })
            .collect(),
        entities: entities
            .iter()
            .map(|input| pb::EntityInput {
                entity_type: input.entity_type.clone(),
                at_partition_start: input.at_partition_start,
            })
            .collect(),
        tables: tables
            .iter()
            .map(|input| pb::TableInput {
                table: input.table.clone(),
                lookback: Some(duration::micros_to_wire(input.lookback_micros)),
            })
            .collect(),
        calls: calls.iter().map(call::to_wire).collect(),
        prior: prior.map(|prior| pb::PriorInput {
            partitions: prior.partitions.unwrap_or(0),
        }),
        output_table: output.table().unwrap_or_default().to_owned(),
        output_entity: output.entities().map(|output| pb::EntityOutput {
            entity_type: output.entity_type.clone(),
            key: output.key.clone(),
        }),
        grain: grain_to_wire(*grain).into(),
        time_zone: zone.name().to_owned(),
        retry: Some(pb::RetryPolicy {
            max_attempts: retry.max_attempts,
            initial_backoff: Some(duration::to_wire(retry.initial_backoff)),
            max_backoff: Some(duration::to_wire(retry.max_backoff)),
            attempt_timeout: retry.attempt_timeout.map(duration::to_wire),
        }),
        description: description.clone(),
        output_columns: output_columns.clone(),
        revision: *revision,
        create_time: Some(time::to_wire(SysTime::from_micros(*create_time_micros))),
        columns: columns_to_wire(columns),
    }
}

/// Columns as the wire shows them.
pub(in crate::grpc) fn columns_to_wire(columns: &[ColumnDef]) -> Vec<pb::Column> {
    columns
        .iter()
        .map(|column| pb::Column {
            name: column.name.clone(),
            r#type: column.data_type.clone(),
            nullable: column.nullable,
        })
        .collect()
}

/// The grain at `field`.
pub(in crate::grpc) fn grain_from_wire(field: &str, wire: i32) -> Result<Grain, Violation> {
    match pb::Grain::try_from(wire) {
        Ok(pb::Grain::Hourly) => Ok(Grain::Hourly),
        Ok(pb::Grain::Daily) => Ok(Grain::Daily),
        Ok(pb::Grain::Weekly) => Ok(Grain::Weekly),
        Ok(pb::Grain::Monthly) => Ok(Grain::Monthly),
        Ok(pb::Grain::Yearly) => Ok(Grain::Yearly),
        Ok(pb::Grain::Unspecified) | Err(_) => Err(Violation::new(
            field,
            "it is required: GRAIN_HOURLY, GRAIN_DAILY, GRAIN_WEEKLY, GRAIN_MONTHLY or GRAIN_YEARLY",
        )),
    }
}

/// A grain as the wire shows it.
pub(in crate::grpc) fn grain_to_wire(grain: Grain) -> pb::Grain {
    match grain {
        Grain::Hourly => pb::Grain::Hourly,
        Grain::Daily => pb::Grain::Daily,
        Grain::Weekly => pb::Grain::Weekly,
        Grain::Monthly => pb::Grain::Monthly,
        Grain::Yearly => pb::Grain::Yearly,
    }
}

fn zone(field: &str, name: &str) -> Result<Tz, Violation> {
    if name.is_empty() {
        return Ok(chrono_tz::UTC);
    }
    name.parse().map_err(|_| {
        Violation::new(
            field,
            format!("{name:?} is not an IANA time zone, such as America/New_York"),
        )
    })
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
