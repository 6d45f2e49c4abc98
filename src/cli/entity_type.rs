//! `hindcast type`: entity types.

use super::{
    client::{Client, required},
    error::Error,
    output::{self, Columns, Format, row},
    times, values,
};
use crate::pb::{self, EntityTypeState};

/// Entity types: what kinds of things have state, and with which attributes
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Declares an entity type; the same declaration again changes nothing
    #[command(
        after_help = "Kinds: bool, int64, float64, decimal(PRECISION,SCALE), string, bytes, timestamp, date, json.\n\n\
        Example:\n  hindcast type create aircraft model:string seats:int64 'price:decimal(12,2)'"
    )]
    Create {
        /// Lower case, digits and underscores: it is a table name in SQL
        name: String,
        /// Attributes, each as NAME:KIND, in the order in which SQL shows them
        #[arg(required = true, value_name = "NAME:KIND")]
        attributes: Vec<String>,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        /// Begin with an import: batches carry system times of their own, and the type is
        /// read only once `type finish-import` has ended it
        #[arg(long)]
        importing: bool,
    },
    /// Adds attributes, deprecates them or changes the description
    #[command(
        after_help = "Attributes are never removed, renamed or given another kind. What was written before an\n\
        attribute was added reads it as null.\n\n\
        Example:\n  hindcast type update aircraft --add engines:int64 --deprecate price"
    )]
    Update(UpdateArgs),
    /// Shows how an entity type's declaration has changed
    Revisions {
        /// Its name
        name: String,
    },
    /// Ends the import of an entity type: from then on it can be read
    FinishImport {
        /// Its name
        name: String,
    },
    /// Shows one entity type
    Get {
        /// Its name
        name: String,
    },
    /// Lists all entity types
    List,
}

/// Arguments of `type update`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Its name
    name: String,
    /// Appends an attribute; may be repeated
    #[arg(long, value_name = "NAME:KIND")]
    add: Vec<String>,
    /// The attribute takes no new values; may be repeated
    #[arg(long, value_name = "ATTRIBUTE")]
    deprecate: Vec<String>,
    /// The deprecated attribute takes values again; may be repeated
    #[arg(long, value_name = "ATTRIBUTE")]
    restore: Vec<String>,
    /// For people
    #[arg(long)]
    description: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::Create {
            name,
            attributes,
            description,
            importing,
        } => {
            let state = if *importing {
                EntityTypeState::Importing
            } else {
                EntityTypeState::Active
            };
            let entity_type = pb::EntityType {
                name: name.clone(),
                attributes: parse_attributes(attributes)?,
                description: description.clone(),
                state: state.into(),
                ..Default::default()
            };
            create(client, format, entity_type).await
        }
        Command::Update(args) => update(client, format, args).await,
        Command::Revisions { name } => revisions(client, format, name).await,
        Command::FinishImport { name } => finish_import(client, format, name).await,
        Command::Get { name } => show(&get(client, name).await?, format),
        Command::List => list(client, format).await,
    }
}

/// The declaration of `name`.
pub(crate) async fn get(client: &Client, name: &str) -> Result<pb::EntityType, Error> {
    let request = pb::GetEntityTypeRequest {
        name: name.to_owned(),
    };
    required(
        client
            .store()
            .get_entity_type(request)
            .await?
            .into_inner()
            .entity_type,
        "entity_type",
    )
}

async fn create(client: &Client, format: Format, entity_type: pb::EntityType) -> Result<(), Error> {
    let name = entity_type.name.clone();
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type),
    };
    let response = client
        .store()
        .create_entity_type(request)
        .await?
        .into_inner();
    match format {
        Format::Json => output::json(&response),
        Format::Table => output::line(format!(
            "{} {name}",
            if response.created {
                "created"
            } else {
                "unchanged"
            }
        )),
    }
}

async fn update(client: &Client, format: Format, args: &UpdateArgs) -> Result<(), Error> {
    let request = pb::UpdateEntityTypeRequest {
        name: args.name.clone(),
        add_attributes: parse_attributes(&args.add)?,
        deprecate_attributes: args.deprecate.clone(),
        restore_attributes: args.restore.clone(),
        description: args.description.clone(),
    };
    let response = client
        .store()
        .update_entity_type(request)
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let updated = response.updated;
    let entity_type = required(response.entity_type, "entity_type")?;
    output::line(if updated {
        format!("updated {}, revision {}", args.name, entity_type.revision)
    } else {
        format!("unchanged {}", args.name)
    })
}

async fn revisions(client: &Client, format: Format, name: &str) -> Result<(), Error> {
    let request = pb::ListEntityTypeRevisionsRequest {
        name: name.to_owned(),
    };
    let response = client
        .store()
        .list_entity_type_revisions(request)
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let mut columns = Columns::new(&[">revision", "since", "~attributes", "~description"]);
    for revision in &response.revisions {
        let attributes: Vec<_> = revision.attributes.iter().map(show_attribute).collect();
        columns.row(row![
            revision.revision.to_string(),
            times::show_or_dash(revision.revision_time.as_ref()),
            attributes.join(", "),
            &revision.description,
        ]);
    }
    columns.print("no revisions")
}

fn show_attribute(attribute: &pb::Attribute) -> String {
    let deprecated = if attribute.deprecated {
        " (deprecated)"
    } else {
        ""
    };
    let kind = values::show_kind(attribute);
    format!("{}:{kind}{deprecated}", attribute.name)
}

async fn finish_import(client: &Client, format: Format, name: &str) -> Result<(), Error> {
    let request = pb::FinishImportRequest {
        name: name.to_owned(),
    };
    let response = client.store().finish_import(request).await?.into_inner();
    match format {
        Format::Json => output::json(&response),
        Format::Table => output::line(format!("{name} is imported, and can be read")),
    }
}

fn parse_attributes(texts: &[String]) -> Result<Vec<pb::Attribute>, Error> {
    texts.iter().map(|text| parse_attribute(text)).collect()
}

/// `seats:int64`, `price:decimal(12,2)`.
fn parse_attribute(text: &str) -> Result<pb::Attribute, Error> {
    let bad = || {
        let kinds = values::kind_names();
        Error::Usage(format!(
            "{text:?} is not of the form NAME:KIND, such as seats:int64; the kinds are {kinds}"
        ))
    };
    let (name, kind) = text.split_once(':').ok_or_else(bad)?;
    let (kind, size) = kind.split_once('(').unwrap_or((kind, ""));
    let (precision, scale) = match size.strip_suffix(')') {
        None => (0, 0),
        Some(size) => {
            let (precision, scale) = size.split_once(',').unwrap_or((size, "0"));
            (
                precision.trim().parse().map_err(|_| bad())?,
                scale.trim().parse().map_err(|_| bad())?,
            )
        }
    };
    let kind = values::parse_kind(kind).ok_or_else(bad)?;
    Ok(pb::Attribute {
        name: name.to_owned(),
        kind: kind.into(),
        precision,
        scale,
        description: String::new(),
        ..Default::default()
    })
}

fn show(entity_type: &pb::EntityType, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(entity_type);
    }
    output::facts(&[
        ("name", entity_type.name.clone()),
        ("description", entity_type.description.clone()),
        (
            "created",
            times::show_or_dash(entity_type.create_time.as_ref()),
        ),
        (
            "state",
            match entity_type.state() {
                EntityTypeState::Importing => "importing",
                EntityTypeState::Active | EntityTypeState::Unspecified => "active",
            }
            .to_owned(),
        ),
        ("revision", entity_type.revision.to_string()),
        (
            "first known",
            times::show_or_dash(entity_type.first_known_time.as_ref()),
        ),
        (
            "written by",
            match entity_type.written_by.as_str() {
                "" => "clients".to_owned(),
                transform => format!("transform {transform} alone"),
            },
        ),
    ])?;
    output::line("")?;
    let mut columns = Columns::new(&["attribute", "kind", "~description"]);
    for attribute in &entity_type.attributes {
        columns.row(row![
            &attribute.name,
            if attribute.deprecated {
                format!("{} (deprecated)", values::show_kind(attribute))
            } else {
                values::show_kind(attribute)
            },
            &attribute.description
        ]);
    }
    columns.print("no attributes")
}

async fn list(client: &Client, format: Format) -> Result<(), Error> {
    let response = client
        .store()
        .list_entity_types(pb::ListEntityTypesRequest {})
        .await?
        .into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let mut columns = Columns::new(&["name", ">attributes", "first known", "~description"]);
    for entity_type in &response.entity_types {
        columns.row(row![
            &entity_type.name,
            entity_type.attributes.len().to_string(),
            times::show_or_dash(entity_type.first_known_time.as_ref()),
            &entity_type.description,
        ]);
    }
    columns.print("no entity types yet; `hindcast type create --help` shows how to declare one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_from_arguments() {
        let attribute = parse_attribute("price:decimal(12,2)").expect("valid");
        assert_eq!(
            (
                attribute.name.as_str(),
                attribute.precision,
                attribute.scale
            ),
            ("price", 12, 2)
        );
        assert_eq!(
            parse_attribute("seats:int64").map(|a| a.kind()).ok(),
            Some(pb::AttributeKind::Int64)
        );
        for bad in ["seats", "seats:int", "price:decimal(a,2)"] {
            assert!(parse_attribute(bad).is_err(), "{bad}");
        }
    }
}
