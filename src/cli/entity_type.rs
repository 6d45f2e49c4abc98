//! `hindcast type`: entity types.

use super::{
    client::{Client, required},
    error::Error,
    output::{self, Columns, Format, row},
    times, values,
};
use crate::pb;

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
    },
    /// Shows one entity type
    Get {
        /// Its name
        name: String,
    },
    /// Lists all entity types
    List,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::Create {
            name,
            attributes,
            description,
        } => create(client, format, name, attributes, description).await,
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

async fn create(
    client: &Client,
    format: Format,
    name: &str,
    attributes: &[String],
    description: &str,
) -> Result<(), Error> {
    let entity_type = pb::EntityType {
        name: name.to_owned(),
        attributes: attributes
            .iter()
            .map(|text| parse_attribute(text))
            .collect::<Result<_, _>>()?,
        description: description.to_owned(),
        ..Default::default()
    };
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
            "first known",
            times::show_or_dash(entity_type.first_known_time.as_ref()),
        ),
    ])?;
    output::line("")?;
    let mut columns = Columns::new(&["attribute", "kind", "~description"]);
    for attribute in &entity_type.attributes {
        columns.row(row![
            &attribute.name,
            values::show_kind(attribute),
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
