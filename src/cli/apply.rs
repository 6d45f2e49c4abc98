//! `hindcast apply`: makes the server's definitions those of a file.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    client::{Client, required},
    definitions::{self, Definitions},
    entity_type,
    error::Error,
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
  prior = { partitions = 1 }    # reads its own earlier output; 0: all of it
  output_columns = [ "tailnum string", "flights int64" ]  # needed with prior
  time_zone = "America/New_York"                          # without it: UTC
  retry = { max_attempts = 3, initial_backoff = "1s", max_backoff = "60s" }
  description = "how punctual each carrier was"

In place of output_table, a transform may write an entity type, which must be
declared (in the same file, say). Each row is what is known of the entity of its
key over the partition:

    output_entity = { entity_type = "aircraft_totals", key = [ "tailnum" ] }

Applying a file again changes nothing. A changed transform becomes a new
revision, and so does an entity type with more attributes or another description;
its attributes are never removed. A changed source is refused, because what was
computed from it would no longer be explained.

Example:
  hindcast apply -f examples/flights/hindcast.toml"#;

/// Creates the entity types, sources and transforms that a file defines
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
    /// `entity_type`, `source` or `transform`.
    pub(crate) kind: &'static str,
    /// The definition's name.
    pub(crate) name: String,
    /// False: it was there already, and equal.
    pub(crate) created: bool,
    /// Transforms only.
    pub(crate) revision: Option<u32>,
    /// Entity types only: it was there already, and got what the file has in addition.
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
    for transform in definitions.transforms {
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
                definitions.transforms.len()
            ),
            (1, 1, 1)
        );
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
