//! What a source and a transform are.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::{call::CallSpec, output::Output};
use crate::time::{Grain, PartitionCalendar};

/// How a source's files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values; the first line names the columns.
    Csv,
}

impl SourceFormat {
    /// How file names of the format end, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        }
    }
}

/// Folders named `column=value`, each holding one slice of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hive {
    /// The folder's key.
    pub column: String,
    /// How its value is written, in strftime terms.
    pub format: String,
    /// The slice that a folder holds.
    pub grain: Grain,
    /// The zone of the slices.
    pub zone: Tz,
}

/// A type to read a CSV column as, in place of the inferred one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum CsvType {
    Bool,
    Int64,
    Float64,
    String,
    Timestamp,
    Date,
}

impl CsvType {
    /// Its Arrow type. Timestamps without an offset are UTC.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
        }
    }
}

impl FromStr for CsvType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bool" => Ok(Self::Bool),
            "int64" => Ok(Self::Int64),
            "float64" => Ok(Self::Float64),
            "string" => Ok(Self::String),
            "timestamp" => Ok(Self::Timestamp),
            "date" => Ok(Self::Date),
            other => Err(format!(
                "{other:?} is not a CSV type: bool, int64, float64, string, timestamp or date"
            )),
        }
    }
}

/// How to read a CSV file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvOptions {
    /// The field separator.
    pub delimiter: u8,
    /// Columns that are not read as inferred.
    pub types: BTreeMap<String, CsvType>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            delimiter: b',',
            types: BTreeMap::new(),
        }
    }
}

/// A column, as it is stored and as the wire shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Arrow's text of its type, which Arrow also reads.
    pub data_type: String,
    /// Whether it may be null.
    pub nullable: bool,
}

impl ColumnDef {
    /// The columns of `schema`.
    pub fn of_schema(schema: &Schema) -> Vec<Self> {
        schema
            .fields()
            .iter()
            .map(|field| Self {
                name: field.name().clone(),
                data_type: field.data_type().to_string(),
                nullable: field.is_nullable(),
            })
            .collect()
    }

    /// The schema of `columns`.
    ///
    /// # Errors
    /// A type that Arrow cannot read back, with its text.
    pub fn to_schema(columns: &[Self]) -> Result<SchemaRef, String> {
        let fields = columns
            .iter()
            .map(|column| {
                let data_type: DataType = column.data_type.parse().map_err(|error| {
                    format!("column {}: type {}: {error}", column.name, column.data_type)
                })?;
                Ok(Field::new(&column.name, data_type, column.nullable))
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }
}

/// A data set of time-stamped rows in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name, in SQL too.
    pub name: String,
    /// How its files are written.
    pub format: SourceFormat,
    /// A file or a folder; absolute.
    pub location: PathBuf,
    /// When a row happened.
    pub event_time_column: String,
    /// When a row could first be read.
    pub available_at_column: Option<String>,
    /// How folders slice time, if they do.
    pub hive: Option<Hive>,
    /// For CSV.
    pub csv: CsvOptions,
    /// For people.
    pub description: String,
    /// What the files held when the source was created: frozen.
    pub columns: Vec<ColumnDef>,
    /// Microseconds since the Unix epoch.
    pub create_time_micros: i64,
    /// Files when it was created.
    pub file_count: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

impl Source {
    /// Whether `other` declares the same source; what was found in the files aside.
    pub fn declares_the_same(&self, other: &Self) -> bool {
        let Self {
            name,
            format,
            location,
            event_time_column,
            available_at_column,
            hive,
            csv,
            description,
            columns: _,
            create_time_micros: _,
            file_count: _,
            size_bytes: _,
        } = self;
        *name == other.name
            && *format == other.format
            && *location == other.location
            && *event_time_column == other.event_time_column
            && *available_at_column == other.available_at_column
            && *hive == other.hive
            && *csv == other.csv
            && *description == other.description
    }
}

/// A source as a transform reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInput {
    /// Its name.
    pub source: String,
    /// How far before the partition's start it reaches, in microseconds.
    pub lookback_micros: i64,
}

/// An entity type as a transform reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityInput {
    /// Its name.
    pub entity_type: String,
    /// The table shows entities at the partition's start, not at its last instant.
    pub at_partition_start: bool,
}

/// Another transform's table as a transform reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInput {
    /// Its name.
    pub table: String,
    /// How far before the partition's start it reaches, in microseconds.
    pub lookback_micros: i64,
}

/// The transform's own earlier output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorInput {
    /// How many partitions back it reaches; `None`: all.
    pub partitions: Option<u32>,
}

/// How often and how fast a failed partition is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The first try included; at least 1.
    pub max_attempts: u32,
    /// Upper bound of the first wait; it doubles per failure.
    pub initial_backoff: Duration,
    /// Upper bound of every wait.
    pub max_backoff: Duration,
    /// How long one attempt may take; an attempt that takes longer failed, and may be tried again. `None`: as long as it takes.
    #[serde(default)]
    pub attempt_timeout: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            attempt_timeout: None,
        }
    }
}

/// What a transform's author writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformSpec {
    /// Its name.
    pub name: String,
    /// One query.
    pub sql: String,
    /// Sources it may name.
    pub sources: Vec<SourceInput>,
    /// Entity types it may name.
    pub entities: Vec<EntityInput>,
    /// Other transforms' tables it may name.
    #[serde(default)]
    pub tables: Vec<TableInput>,
    /// Outside systems it may ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallSpec>,
    /// Its own earlier output, if it may name that.
    pub prior: Option<PriorInput>,
    /// What it writes.
    #[serde(flatten)]
    pub output: Output,
    /// The length of its partitions.
    pub grain: Grain,
    /// The zone of its partitions.
    pub zone: Tz,
    /// How it is retried.
    pub retry: RetryPolicy,
    /// For people.
    pub description: String,
    /// Declared output, `name type` each; may be empty without `prior`.
    pub output_columns: Vec<String>,
}

impl TransformSpec {
    /// The calendar that its partitions follow.
    pub fn calendar(&self) -> PartitionCalendar {
        PartitionCalendar::new(self.grain, self.zone)
    }

    /// Whether it writes the same table or entity type on the same calendar as `other`.
    pub fn writes_like(&self, other: &Self) -> bool {
        self.output.is_same_place(&other.output)
            && self.grain == other.grain
            && self.zone == other.zone
    }
}

/// The revisions of what a transform names, as it was planned at registration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputRevisions {
    /// As [`Transform::entity_revisions`].
    pub entities: Vec<u32>,
    /// As [`Transform::table_revisions`].
    pub tables: Vec<u32>,
    /// As [`Transform::output_revision`].
    pub output: Option<u32>,
}

/// One immutable revision of a transform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transform {
    /// As written.
    pub spec: TransformSpec,
    /// 1, 2, 3, …
    pub revision: u32,
    /// The query's columns as planned, as they are stored; of a table also `partition_start`.
    pub columns: Vec<ColumnDef>,
    /// By entity input: the revision of the type's schema that the SQL sees. Where there is none, the first.
    #[serde(default)]
    pub entity_revisions: Vec<u32>,
    /// By table input: the revision of the transform that writes it whose columns the SQL sees.
    #[serde(default)]
    pub table_revisions: Vec<u32>,
    /// The revision of the schema of the entity type that it writes, if it writes one.
    #[serde(default)]
    pub output_revision: Option<u32>,
    /// Microseconds since the Unix epoch.
    pub create_time_micros: i64,
}

impl Transform {
    /// Whether it makes the same rows of the same inputs as `other`: retries, limits and descriptions aside.
    pub fn computes_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.spec, &other.spec);
        a.sql == b.sql
            && a.sources == b.sources
            && a.entities == b.entities
            && a.tables == b.tables
            && a.prior == b.prior
            && a.calls.len() == b.calls.len()
            && a.calls.iter().zip(&b.calls).all(|(a, b)| a.asks_like(b))
            && a.output == b.output
            && a.grain == b.grain
            && a.zone == b.zone
            && self.columns == other.columns
            && self.entity_revisions == other.entity_revisions
            && self.table_revisions == other.table_revisions
            && self.output_revision == other.output_revision
    }

    /// The revision of the schema of the entity input at this place that the SQL sees.
    pub fn entity_revision(&self, index: usize) -> u32 {
        self.entity_revisions.get(index).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_types_survive_their_text() {
        let utc = || Some("UTC".into());
        let types = [
            DataType::Boolean,
            DataType::Int64,
            DataType::Float64,
            DataType::Utf8,
            DataType::Binary,
            DataType::Date32,
            DataType::Decimal128(10, 2),
            DataType::Timestamp(TimeUnit::Microsecond, utc()),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::List(Arc::new(Field::new("item", DataType::Int32, true))),
            DataType::Struct(vec![Field::new("a", DataType::Utf8, true)].into()),
        ];
        let fields: Vec<_> = types
            .into_iter()
            .enumerate()
            .map(|(index, data_type)| Field::new(format!("c{index}"), data_type, index % 2 == 0))
            .collect();
        let schema = Schema::new(fields);
        let read = ColumnDef::to_schema(&ColumnDef::of_schema(&schema)).expect("readable");
        assert_eq!(*read, schema);
    }
}
