//! Definitions of entity types, sources, transforms and rate limits in one TOML file: the file's form, and its translation to the wire.
//!
//! Everything that needs the server's knowledge is left to the server.

mod form;

use std::{
    io,
    path::{Path, PathBuf},
};

use self::form::{
    RawAttribute, RawCall, RawEntityInput, RawEntityType, RawFile, RawHive, RawRateLimit, RawRetry,
    RawSource, RawSourceInput, RawTableInput, RawTransform,
};
use super::{limit::quota, times, values};
use crate::pb::{self, Grain, SourceFormat};

/// What the file says, ready for the wire.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Definitions {
    /// In the file's order, as are the others.
    pub(crate) entity_types: Vec<pb::EntityType>,
    /// Their locations are absolute.
    pub(crate) sources: Vec<pb::Source>,
    /// Their SQL is read in.
    pub(crate) transforms: Vec<pb::Transform>,
    pub(crate) rate_limits: Vec<pb::RateLimit>,
}

/// Why a file of definitions was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It, or a file that it names, cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It is not TOML, or not of the documented form.
    #[error("cannot use {}: {problem}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// With line and column.
        problem: String,
    },
    /// One definition makes no sense.
    #[error("cannot use {}: {definition}: {problem}", path.display())]
    Definition {
        /// The file.
        path: PathBuf,
        /// Such as `transform daily_punctuality`.
        definition: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads the file at `path`, and the SQL files that it names.
///
/// # Errors
/// See [`Error`].
pub(crate) fn read(path: &Path) -> Result<Definitions, Error> {
    let text = read_text(path)?;
    // Symlinks are resolved, so that the same file gives the same locations whichever way it was named.
    let folder = path.canonicalize().map_err(|cause| Error::Read {
        path: path.to_owned(),
        cause,
    })?;
    parse(path, folder.parent().unwrap_or(Path::new("/")), &text)
}

fn read_text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|cause| Error::Read {
        path: path.to_owned(),
        cause,
    })
}

fn parse(path: &Path, folder: &Path, text: &str) -> Result<Definitions, Error> {
    let raw: RawFile = toml::from_str(text).map_err(|error| Error::Form {
        path: path.to_owned(),
        problem: error.to_string().trim_end().to_owned(),
    })?;
    let within = |definition: String| {
        move |problem: String| Error::Definition {
            path: path.to_owned(),
            definition,
            problem,
        }
    };
    let mut definitions = Definitions::default();
    for raw in raw.entity_type {
        let refused = within(format!("entity_type {}", raw.name));
        definitions
            .entity_types
            .push(entity_type(raw).map_err(refused)?);
    }
    for raw in raw.source {
        let refused = within(format!("source {}", raw.name));
        definitions
            .sources
            .push(source(raw, folder).map_err(refused)?);
    }
    for raw in raw.transform {
        let name = format!("transform {}", raw.name);
        let sql = match (&raw.sql, &raw.sql_file) {
            (Some(sql), None) => sql.clone(),
            (None, Some(file)) => read_text(&folder.join(file))?,
            _ => return Err(within(name)("give either sql or sql_file".to_owned())),
        };
        definitions
            .transforms
            .push(transform(raw, sql).map_err(within(name))?);
    }
    for raw in raw.rate_limit {
        let refused = within(format!("rate_limit {}", raw.name));
        definitions
            .rate_limits
            .push(rate_limit(raw).map_err(refused)?);
    }
    Ok(definitions)
}

fn entity_type(raw: RawEntityType) -> Result<pb::EntityType, String> {
    let attributes = raw
        .attributes
        .into_iter()
        .map(attribute)
        .collect::<Result<_, _>>()?;
    let state = if raw.importing {
        pb::EntityTypeState::Importing
    } else {
        pb::EntityTypeState::Active
    };
    Ok(pb::EntityType {
        name: raw.name,
        attributes,
        description: raw.description,
        state: state.into(),
        ..Default::default()
    })
}

fn attribute(raw: RawAttribute) -> Result<pb::Attribute, String> {
    let RawAttribute {
        name,
        kind,
        precision,
        scale,
        description,
    } = raw;
    let kind = values::parse_kind(&kind).ok_or_else(|| {
        format!(
            "attribute {name}: {kind:?} is no kind; the kinds are {}",
            values::kind_names()
        )
    })?;
    Ok(pb::Attribute {
        name,
        kind: kind.into(),
        precision,
        scale,
        description,
        ..Default::default()
    })
}

fn source(raw: RawSource, folder: &Path) -> Result<pb::Source, String> {
    let csv = raw.csv.unwrap_or_default();
    Ok(pb::Source {
        name: raw.name,
        format: parse_format(&raw.format)?.into(),
        location: folder.join(raw.location).to_string_lossy().into_owned(),
        event_time_column: raw.event_time_column,
        available_at_column: raw.available_at_column,
        hive: raw.hive.map(hive).transpose()?,
        csv_delimiter: csv.delimiter,
        csv_types: csv.types,
        description: raw.description,
        ..Default::default()
    })
}

fn hive(raw: RawHive) -> Result<pb::HivePartition, String> {
    Ok(pb::HivePartition {
        column: raw.column,
        format: raw.format,
        grain: parse_grain(&raw.grain)?.into(),
        time_zone: raw.time_zone,
    })
}

fn transform(raw: RawTransform, sql: String) -> Result<pb::Transform, String> {
    let entity = |raw: RawEntityInput| pb::EntityInput {
        entity_type: raw.entity_type,
        at_partition_start: raw.at_partition_start,
    };
    Ok(pb::Transform {
        name: raw.name,
        sql,
        sources: raw
            .sources
            .into_iter()
            .map(source_input)
            .collect::<Result<_, _>>()?,
        entities: raw.entities.into_iter().map(entity).collect(),
        tables: raw
            .tables
            .into_iter()
            .map(table_input)
            .collect::<Result<_, _>>()?,
        calls: raw.calls.into_iter().map(call).collect::<Result<_, _>>()?,
        prior: raw.prior.map(|prior| pb::PriorInput {
            partitions: prior.partitions,
        }),
        output_table: raw.output_table,
        output_entity: raw.output_entity.map(|output| pb::EntityOutput {
            entity_type: output.entity_type,
            key: output.key,
        }),
        grain: parse_grain(&raw.grain)?.into(),
        time_zone: raw.time_zone,
        retry: raw.retry.map(retry).transpose()?,
        description: raw.description,
        output_columns: raw.output_columns,
        ..Default::default()
    })
}

fn rate_limit(raw: RawRateLimit) -> Result<pb::RateLimit, String> {
    let RawRateLimit {
        name,
        rate,
        burst,
        concurrent,
        per_hour,
        per_day,
        time_zone,
        live_share_percent,
        description,
    } = raw;
    if !time_zone.is_empty() && per_hour.is_none() && per_day.is_none() {
        return Err("a time_zone needs per_hour or per_day".to_owned());
    }
    Ok(pb::RateLimit {
        name,
        description,
        rate: rate.as_deref().map(quota::parse_rate).transpose()?,
        burst,
        concurrent,
        hourly: quota::window(per_hour, &time_zone),
        daily: quota::window(per_day, &time_zone),
        live_share_percent,
        ..Default::default()
    })
}

fn source_input(raw: RawSourceInput) -> Result<pb::SourceInput, String> {
    Ok(pb::SourceInput {
        source: raw.source,
        lookback: duration("lookback", raw.lookback)?,
    })
}

fn table_input(raw: RawTableInput) -> Result<pb::TableInput, String> {
    Ok(pb::TableInput {
        table: raw.table,
        lookback: duration("lookback", raw.lookback)?,
    })
}

fn call(raw: RawCall) -> Result<pb::Call, String> {
    let headers = raw.headers.into_iter();
    let columns = raw.columns.into_iter();
    Ok(pb::Call {
        name: raw.name,
        url: raw.url,
        headers: headers
            .map(|(name, value)| pb::CallHeader { name, value })
            .collect(),
        rate_limit: raw.rate_limit,
        timeout: duration("calls.timeout", raw.timeout)?,
        retries: raw.retries,
        columns: columns
            .map(|column| pb::CallColumn {
                name: column.name,
                r#type: column.type_name,
                path: column.path,
            })
            .collect(),
        allow_current_state: raw.allow_current_state,
    })
}

fn retry(raw: RawRetry) -> Result<pb::RetryPolicy, String> {
    Ok(pb::RetryPolicy {
        max_attempts: raw.max_attempts,
        initial_backoff: duration("retry.initial_backoff", raw.initial_backoff)?,
        max_backoff: duration("retry.max_backoff", raw.max_backoff)?,
        attempt_timeout: duration("retry.attempt_timeout", raw.attempt_timeout)?,
    })
}

fn duration(key: &str, text: Option<String>) -> Result<Option<prost_types::Duration>, String> {
    let parse =
        |text: String| times::parse_duration(&text).map_err(|error| format!("{key}: {error}"));
    Ok(text.map(parse).transpose()?.map(times::wire_duration))
}

/// `hourly`, `daily`, `weekly`, `monthly`, `yearly`.
pub(crate) fn parse_grain(text: &str) -> Result<Grain, String> {
    Ok(match text {
        "hourly" => Grain::Hourly,
        "daily" => Grain::Daily,
        "weekly" => Grain::Weekly,
        "monthly" => Grain::Monthly,
        "yearly" => Grain::Yearly,
        _ => {
            return Err(format!(
                "{text:?} is no grain; the grains are hourly, daily, weekly, monthly and yearly"
            ));
        }
    })
}

/// `parquet` or `csv`.
pub(crate) fn parse_format(text: &str) -> Result<SourceFormat, String> {
    match text {
        "parquet" => Ok(SourceFormat::Parquet),
        "csv" => Ok(SourceFormat::Csv),
        _ => Err(format!(
            "{text:?} is no format; the formats are parquet and csv"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
[[entity_type]]
name = "airport_weather"
description = "hourly readings"
attributes = [ { name = "temp", kind = "float64" }, { name = "amount", kind = "decimal", precision = 10, scale = 2 } ]
[[source]]
name = "flights"
format = "csv"
location = "flights"
event_time_column = "sched_dep_utc"
available_at_column = "landed"
hive = { column = "dt", grain = "daily", time_zone = "America/New_York", format = "%Y-%m-%d" }
csv = { delimiter = ";", types = { code = "string" } }
[[transform]]
name = "daily_punctuality"
sql = "SELECT 1"
sources = [ { source = "flights", lookback = "36h" } ]
entities = [ { entity_type = "airport_weather", at_partition_start = true } ]
tables = [ { table = "delays", lookback = "6d" } ]
calls = [ { name = "rate", url = "https://rates.example/{currency}?at={valid_time}", rate_limit = "rates", timeout = "5s", retries = 2, headers = { Authorization = "Bearer ${env:HINDCAST_SECRET_RATES}" }, columns = [ { name = "mid", type = "float64", path = "$.mid" } ] } ]
prior = { partitions = 1 }
output_columns = [ "tailnum string" ]
output_table = "daily_punctuality"
grain = "daily"
time_zone = "America/New_York"
retry = { max_attempts = 5, initial_backoff = "1s", max_backoff = "60s" }
[[rate_limit]]
name = "salesforce"
rate = "100/s"
burst = 20
concurrent = 8
per_day = 50000
time_zone = "America/New_York"
live_share_percent = 20
"#;

    fn parse_text(text: &str) -> Result<Definitions, String> {
        parse(Path::new("hindcast.toml"), Path::new("/examples"), text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_whole_form_reaches_the_wire() {
        let definitions = parse_text(WHOLE).expect("valid");
        let entity_type = &definitions.entity_types[0];
        assert_eq!(entity_type.attributes[1].kind(), pb::AttributeKind::Decimal);
        assert_eq!(
            (
                entity_type.attributes[1].precision,
                entity_type.attributes[1].scale
            ),
            (10, 2)
        );
        let source = &definitions.sources[0];
        assert_eq!(source.location, "/examples/flights");
        assert_eq!(source.csv_delimiter, ";");
        assert_eq!(
            source.csv_types.get("code").map(String::as_str),
            Some("string")
        );
        assert_eq!(
            source.hive.as_ref().map(pb::HivePartition::grain),
            Some(Grain::Daily)
        );
        let transform = &definitions.transforms[0];
        assert_eq!(
            transform.sources[0].lookback,
            Some(prost_types::Duration {
                seconds: 129_600,
                nanos: 0
            })
        );
        assert!(transform.entities[0].at_partition_start);
        assert_eq!(transform.prior, Some(pb::PriorInput { partitions: 1 }));
        assert_eq!(
            transform.retry.as_ref().map(|retry| retry.max_attempts),
            Some(5)
        );
        assert_eq!(transform.output_columns, ["tailnum string"]);
        let call = &transform.calls[0];
        assert_eq!(
            (call.name.as_str(), call.rate_limit.as_str()),
            ("rate", "rates")
        );
        assert_eq!(call.headers[0].value, "Bearer ${env:HINDCAST_SECRET_RATES}");
        assert_eq!(
            (call.retries, call.columns[0].r#type.as_str()),
            (Some(2), "float64")
        );
        let limit = &definitions.rate_limits[0];
        assert_eq!(limit.rate.map(|rate| rate.permits), Some(100));
        assert_eq!((limit.burst, limit.concurrent), (Some(20), Some(8)));
        assert_eq!(limit.daily.as_ref().map(|it| it.permits), Some(50_000));
        assert_eq!(
            (limit.hourly.as_ref(), limit.live_share_percent),
            (None, 20)
        );
    }

    #[test]
    fn an_entity_type_is_an_output_too() {
        let text = WHOLE.replace(
            "output_table = \"daily_punctuality\"",
            "output_entity = { entity_type = \"punctuality\", key = [\"carrier\", \"origin\"] }",
        );
        let definitions = parse_text(&text).expect("valid");
        let transform = &definitions.transforms[0];
        assert_eq!(transform.output_table, "");
        let output = transform.output_entity.as_ref().expect("an output");
        assert_eq!(output.entity_type, "punctuality");
        assert_eq!(output.key, ["carrier", "origin"]);
    }

    #[test]
    fn unknown_keys_are_named() {
        for (good, bad, key) in [
            ("[[source]]", "[[sources]]", "sources"),
            (
                "available_at_column",
                "available_column",
                "available_column",
            ),
            ("lookback", "look_back", "look_back"),
            ("max_attempts", "attempts", "attempts"),
            ("precision", "digits", "digits"),
            ("live_share_percent", "share", "share"),
        ] {
            let message = parse_text(&WHOLE.replace(good, bad)).expect_err(bad);
            assert!(
                message.contains(&format!("unknown field `{key}`")),
                "{message}"
            );
        }
    }

    #[test]
    fn bad_values_name_their_definition() {
        for (good, bad, part) in [
            (
                "kind = \"float64\"",
                "kind = \"float\"",
                "entity_type airport_weather: attribute temp: \"float\" is no kind",
            ),
            (
                "format = \"csv\"",
                "format = \"xml\"",
                "source flights: \"xml\" is no format",
            ),
            (
                "sql = \"SELECT 1\"",
                "",
                "transform daily_punctuality: give either sql or sql_file",
            ),
            (
                "\"36h\"",
                "\"36\"",
                "transform daily_punctuality: lookback: cannot read \"36\"",
            ),
            (
                "grain = \"daily\"\ntime",
                "grain = \"day\"\ntime",
                "transform daily_punctuality: \"day\" is no grain",
            ),
            (
                "\"100/s\"",
                "\"100\"",
                "rate_limit salesforce: \"100\" is no rate",
            ),
            (
                "per_day = 50000\n",
                "",
                "rate_limit salesforce: a time_zone needs per_hour or per_day",
            ),
            (
                "sql = \"SELECT 1\"",
                "sql_file = \"no.sql\"",
                "cannot read /examples/no.sql",
            ),
        ] {
            let message = parse_text(&WHOLE.replace(good, bad)).expect_err(bad);
            assert!(message.contains(part), "{message}");
        }
    }
}
