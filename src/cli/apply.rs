//! `hindcast apply`: makes the server's definitions those of a file.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    client::{Client, required},
    definitions::{self, Definitions},
    entity_type,
    error::Error,
    limit,
    output::{self, Format},
    style::Style,
};
use crate::pb;

const FORM: &str = r#"The file's form (TOML; keys after "optional" may be left out):

  [[entity_type]]
  name = "airport_weather"
  # kinds: bool int64 float64 decimal string bytes timestamp date json
  attributes = [
    { name = "temp", kind = "float64" },
    { name = "fee", kind = "decimal", precision = 10, scale = 2 },
  ]
  # optional, here and for each attribute:
  description = "hourly readings"
  # optional: begin with an import; `hindcast type finish-import` ends it
  importing = false

  [[source]]
  name = "flights"
  format = "parquet"            # or "csv"
  location = "flights"          # a file or folder, relative to this file
  event_time_column = "sched_dep_utc"
  # optional:
  available_at_column = "landed_utc"
  hive = { column = "dt", grain = "daily", time_zone = "America/New_York" }
  csv = { delimiter = ";", types = { code = "string" } }
  description = "departures"

  [[transform]]
  name = "daily_punctuality"
  sql_file = "daily_punctuality.sql"  # or sql = """SELECT …"""
  output_table = "daily_punctuality"  # or output_entity, see below
  grain = "daily"               # hourly daily weekly monthly yearly
  # optional:
  sources = [ { source = "flights", lookback = "0s" } ]
  entities = [ { entity_type = "aircraft", at_partition_start = false } ]
  tables = [ { table = "delays", lookback = "6d" } ]  # other transforms' tables
  prior = { partitions = 1 }    # reads its own earlier output; 0: all of it
  output_columns = [ "tailnum string", "flights int64" ]  # needed with prior
  time_zone = "America/New_York"                          # without it: UTC
  retry = { max_attempts = 3, initial_backoff = "1s", max_backoff = "60s" }
  description = "how punctual each carrier was"

  [[rate_limit]]
  name = "salesforce"
  # at least one quota:
  rate = "100/s"                # or 600/min, 5000/h, 1/10s
  burst = 20
  concurrent = 8                # calls under way at once
  per_hour = 5000
  per_day = 50000
  # optional:
  time_zone = "America/New_York"  # when an hour or a date starts
  live_share_percent = 20       # of each quota, not for backfills
  description = "the sales team's"

In place of output_table, a transform may write an entity type, which must be
declared (in the same file, say). Each row is what is known of the entity of its
key over the partition:

    output_entity = { entity_type = "aircraft_totals", key = [ "tailnum" ] }

Applying a file again changes nothing. A changed transform becomes a new
revision, and so does an entity type with more attributes or another description;
its attributes are never removed. A changed rate limit is in force at once. A
changed source is refused, because what was computed from it would no longer be
explained.

Example:
  hindcast apply -f examples/flights/hindcast.toml"#;

/// Creates the entity types, sources, transforms and rate limits that a file defines
#[derive(Debug, clap::Args)]
#[command(after_help = FORM)]
pub(crate) struct Args {
    /// The TOML file; sources and SQL files are found relative to it
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

/// What came of one definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Applied {
    /// `entity_type`, `source`, `transform` or `rate_limit`.
    pub(crate) kind: &'static str,
    /// The definition's name.
    pub(crate) name: String,
    /// False: it was there already, and equal.
    pub(crate) created: bool,
    /// Transforms only.
    pub(crate) revision: Option<u32>,
    /// It was there already, and got what the file has; of entity types, in addition.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) updated: bool,
}

impl Applied {
    fn outcome(&self) -> String {
        match (self.created, self.revision) {
            (false, _) if self.updated => "updated".to_owned(),
            (false, _) => "unchanged".to_owned(),
            (true, Some(revision)) if revision > 1 => format!("revision {revision}"),
            (true, _) => "created".to_owned(),
        }
    }

    /// `created     transform daily_punctuality`.
    pub(crate) fn describe(&self) -> String {
        let style = Style::stdout();
        let outcome = format!("{:11}", self.outcome());
        let outcome = if self.created || self.updated {
            style.green(&outcome)
        } else {
            style.dim(&outcome)
        };
        format!("{outcome} {} {}", self.kind, self.name)
    }
}

/// Runs the command.
pub(crate) async fn run(args: &Args, client: &Client, format: Format) -> Result<(), Error> {
    let definitions = definitions::read(&args.file)?;
    apply(client, definitions, |applied| match format {
        Format::Table => output::line(applied.describe()),
        Format::Json => output::json_value_line(&applied),
    })
    .await
}

/// Applies definitions in order of dependence, telling each outcome as it comes.
pub(crate) async fn apply(
    client: &Client,
    definitions: Definitions,
    mut tell: impl FnMut(Applied) -> Result<(), Error>,
) -> Result<(), Error> {
    for entity_type in definitions.entity_types {
        tell(apply_type(client, entity_type).await?)?;
    }
    for source in definitions.sources {
        let name = source.name.clone();
        let request = pb::CreateSourceRequest {
            source: Some(source),
        };
        let created = client
            .catalog()
            .create_source(request)
            .await?
            .into_inner()
            .created;
        tell(Applied {
            kind: "source",
            name,
            created,
            revision: None,
            updated: false,
        })?;
    }
    // Before the transforms that call what they limit.
    for limit in definitions.rate_limits {
        let name = limit.name.clone();
        let (created, updated) = limit::put(client, limit).await?;
        tell(Applied {
            kind: "rate_limit",
            name,
            created,
            revision: None,
            updated,
        })?;
    }
    for transform in upstream_first(definitions.transforms) {
        let request = pb::RegisterTransformRequest {
            transform: Some(transform),
            validate_only: false,
        };
        let response = client
            .catalog()
            .register_transform(request)
            .await?
            .into_inner();
        let transform = required(response.transform, "transform")?;
        let revision = Some(transform.revision);
        tell(Applied {
            kind: "transform",
            name: transform.name,
            created: response.created,
            revision,
            updated: false,
        })?;
    }
    Ok(())
}

/// Transforms after those whose tables they read, otherwise in their order.
fn upstream_first(transforms: Vec<pb::Transform>) -> Vec<pb::Transform> {
    let mut waiting = transforms;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let waits = |transform: &pb::Transform| {
            let written = |other: &pb::Transform, table: &pb::TableInput| {
                other.name != transform.name && other.output_table == table.table
            };
            let mut tables = transform.tables.iter();
            tables.any(|table| waiting.iter().any(|other| written(other, table)))
        };
        // Where they read each other's tables in a circle, the server says so.
        let next = waiting.iter().position(|transform| !waits(transform));
        ordered.push(waiting.remove(next.unwrap_or(0)));
    }
    ordered
}

/// Declares a type, or adds to the one of its name what it lacks.
async fn apply_type(client: &Client, entity_type: pb::EntityType) -> Result<Applied, Error> {
    let name = entity_type.name.clone();
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type.clone()),
    };
    let (created, updated) = match client.store().create_entity_type(request).await {
        Ok(response) => (response.into_inner().created, false),
        Err(status) if status.code() == tonic::Code::AlreadyExists => {
            (false, update_type(client, entity_type).await?)
        }
        Err(status) => return Err(status.into()),
    };
    Ok(Applied {
        kind: "entity_type",
        name,
        created,
        revision: None,
        updated,
    })
}

async fn update_type(client: &Client, wanted: pb::EntityType) -> Result<bool, Error> {
    let existing = entity_type::get(client, &wanted.name).await?;
    let is_wanted = |known: &&pb::Attribute| {
        known.deprecated || wanted.attributes.iter().any(|one| one.name == known.name)
    };
    if let Some(gone) = existing.attributes.iter().find(|known| !is_wanted(known)) {
        return Err(Error::Usage(format!(
            "entity type {}: the file has no attribute {:?}, and attributes are never removed; `hindcast type update {} \
             --deprecate {}` says that it takes no more values",
            wanted.name, gone.name, wanted.name, gone.name
        )));
    }
    let request = pb::UpdateEntityTypeRequest {
        name: wanted.name,
        add_attributes: wanted.attributes,
        description: Some(wanted.description),
        ..Default::default()
    };
    let response = client.store().update_entity_type(request).await?;
    Ok(response.into_inner().updated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_form_parses() {
        let toml: String = FORM
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("    output_entity"))
            .filter(|line| !line.contains("hindcast apply"))
            .map(|line| {
                line.replace("sql_file = \"daily_punctuality.sql\"", "sql = \"SELECT 1\"") + "\n"
            })
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hindcast.toml");
        std::fs::write(&path, toml).expect("written");
        let definitions = definitions::read(&path).expect("valid");
        assert_eq!(
            (
                definitions.entity_types.len(),
                definitions.sources.len(),
                definitions.transforms.len(),
                definitions.rate_limits.len()
            ),
            (1, 1, 1, 1)
        );
    }

    #[test]
    fn transforms_come_after_those_whose_tables_they_read() {
        let transform = |name: &str, reads: &[&str]| pb::Transform {
            name: name.to_owned(),
            output_table: name.to_owned(),
            tables: reads
                .iter()
                .map(|table| pb::TableInput {
                    table: (*table).to_owned(),
                    lookback: None,
                })
                .collect(),
            ..Default::default()
        };
        let ordered = upstream_first(vec![
            transform("weekly", &["daily", "elsewhere"]),
            transform("other", &[]),
            transform("daily", &["hourly"]),
            transform("hourly", &[]),
        ]);
        let names: Vec<_> = ordered.into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["other", "hourly", "daily", "weekly"]);
    }

    #[test]
    fn outcomes() {
        let applied = |created, revision| Applied {
            kind: "transform",
            name: "t".to_owned(),
            created,
            revision,
            updated: false,
        };
        assert_eq!(applied(true, Some(1)).outcome(), "created");
        assert_eq!(applied(true, Some(2)).outcome(), "revision 2");
        assert_eq!(applied(false, Some(2)).outcome(), "unchanged");
        let updated = Applied {
            updated: true,
            ..applied(false, None)
        };
        assert_eq!(updated.outcome(), "updated");
    }
}
