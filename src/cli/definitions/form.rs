//! The form of a file of definitions: these structs mirror it, and refuse keys that they do not know.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) entity_type: Vec<RawEntityType>,
    #[serde(default)]
    pub(super) source: Vec<RawSource>,
    #[serde(default)]
    pub(super) transform: Vec<RawTransform>,
    #[serde(default)]
    pub(super) rate_limit: Vec<RawRateLimit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEntityType {
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) attributes: Vec<RawAttribute>,
    #[serde(default)]
    pub(super) importing: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAttribute {
    pub(super) name: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) precision: u32,
    #[serde(default)]
    pub(super) scale: u32,
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub(super) name: String,
    pub(super) format: String,
    pub(super) location: PathBuf,
    pub(super) event_time_column: String,
    #[serde(default)]
    pub(super) available_at_column: String,
    pub(super) hive: Option<RawHive>,
    pub(super) csv: Option<RawCsv>,
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHive {
    pub(super) column: String,
    pub(super) grain: String,
    #[serde(default)]
    pub(super) time_zone: String,
    #[serde(default)]
    pub(super) format: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCsv {
    #[serde(default)]
    pub(super) delimiter: String,
    #[serde(default)]
    pub(super) types: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTransform {
    pub(super) name: String,
    pub(super) sql: Option<String>,
    pub(super) sql_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) sources: Vec<RawSourceInput>,
    #[serde(default)]
    pub(super) entities: Vec<RawEntityInput>,
    #[serde(default)]
    pub(super) tables: Vec<RawTableInput>,
    #[serde(default)]
    pub(super) calls: Vec<RawCall>,
    pub(super) prior: Option<RawPrior>,
    #[serde(default)]
    pub(super) output_columns: Vec<String>,
    #[serde(default)]
    pub(super) output_table: String,
    pub(super) output_entity: Option<RawEntityOutput>,
    pub(super) grain: String,
    #[serde(default)]
    pub(super) time_zone: String,
    pub(super) retry: Option<RawRetry>,
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSourceInput {
    pub(super) source: String,
    pub(super) lookback: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEntityInput {
    pub(super) entity_type: String,
    #[serde(default)]
    pub(super) at_partition_start: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTableInput {
    pub(super) table: String,
    pub(super) lookback: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCall {
    pub(super) name: String,
    pub(super) url: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) rate_limit: String,
    pub(super) timeout: Option<String>,
    pub(super) retries: Option<u32>,
    pub(super) columns: Vec<RawCallColumn>,
    #[serde(default)]
    pub(super) allow_current_state: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCallColumn {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEntityOutput {
    pub(super) entity_type: String,
    pub(super) key: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrior {
    #[serde(default)]
    pub(super) partitions: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetry {
    #[serde(default)]
    pub(super) max_attempts: u32,
    pub(super) initial_backoff: Option<String>,
    pub(super) max_backoff: Option<String>,
    pub(super) attempt_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRateLimit {
    pub(super) name: String,
    pub(super) rate: Option<String>,
    pub(super) burst: Option<u32>,
    pub(super) concurrent: Option<u32>,
    pub(super) per_hour: Option<u64>,
    pub(super) per_day: Option<u64>,
    #[serde(default)]
    pub(super) time_zone: String,
    #[serde(default)]
    pub(super) live_share_percent: u32,
    #[serde(default)]
    pub(super) description: String,
}
