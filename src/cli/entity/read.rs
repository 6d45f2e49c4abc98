//! `hindcast entity get`, `history` and `scan`.

use super::utc;
use crate::{
    cli::{
        client::Client,
        entity_type,
        error::Error,
        json::Listed,
        output::{self, Columns, Format, row},
        times::{self, TimeArg},
        values,
    },
    pb::{self, AttributeKind, EntityOutcome},
};

/// How many entities a table shows unless told otherwise.
const TABLE_LIMIT: usize = 50;

/// Versions per page of a history.
const HISTORY_PAGE_SIZE: u32 = 10_000;

/// Arguments of `entity get`.
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// The type's name
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// One id, or several
    #[arg(value_name = "ID", required = true)]
    entity_ids: Vec<String>,
    #[command(flatten)]
    point: Point,
}

/// A point on both time axes.
#[derive(Debug, clap::Args)]
pub(crate) struct Point {
    /// Valid time; without it: now
    #[arg(long, value_name = "TIME")]
    at: Option<TimeArg>,
    /// What was known then; without it: what is known now
    #[arg(long, value_name = "TIME")]
    basis: Option<TimeArg>,
}

/// Arguments of `entity history`.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// The type's name
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// Its id
    #[arg(value_name = "ID")]
    entity_id: String,
    /// Only versions valid after this
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArg>,
    /// Only versions valid before this
    #[arg(long, value_name = "TIME")]
    to: Option<TimeArg>,
    /// What was known then; without it: what is known now
    #[arg(long, value_name = "TIME")]
    basis: Option<TimeArg>,
}

/// Arguments of `entity scan`.
#[derive(Debug, clap::Args)]
pub(crate) struct ScanArgs {
    /// The type's name
    #[arg(value_name = "TYPE")]
    entity_type: String,
    #[command(flatten)]
    point: Point,
    /// At most this many; without it: 50 in a table, all as JSON (one object per line)
    #[arg(long)]
    limit: Option<usize>,
    /// Only ids after this one
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    after: String,
}

pub(super) async fn get(args: &GetArgs, client: &Client, format: Format) -> Result<(), Error> {
    let (valid_time, basis) = (utc(args.point.at.as_ref()), utc(args.point.basis.as_ref()));
    let entity_type = args.entity_type.clone();
    let [entity_id] = args.entity_ids.as_slice() else {
        let entity_ids = args.entity_ids.clone();
        let request = pb::BatchGetEntitiesRequest {
            entity_type,
            entity_ids,
            valid_time,
            basis,
        };
        let response = client
            .store()
            .batch_get_entities(request)
            .await?
            .into_inner();
        return show_batch(&response, format);
    };
    let request = pb::GetEntityRequest {
        entity_type,
        entity_id: entity_id.clone(),
        valid_time,
        basis,
    };
    let response = client.store().get_entity(request).await?.into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    show_entity(&args.entity_type, entity_id, &response)
}

fn show_entity(
    entity_type: &str,
    entity_id: &str,
    response: &pb::GetEntityResponse,
) -> Result<(), Error> {
    output::line(format!(
        "{entity_type} {entity_id} at {}, as known at {}",
        times::show_or_dash(response.valid_time.as_ref()),
        times::show_or_dash(response.basis.as_ref())
    ))?;
    let Some(version) = &response.version else {
        return output::line(describe(response.outcome()));
    };
    let mut facts = vec![
        (
            "valid",
            format!(
                "{} to {}",
                times::show_or_dash(version.valid_from.as_ref()),
                open_end(version.valid_to)
            ),
        ),
        (
            "known since",
            times::show_or_dash(version.system_from.as_ref()),
        ),
    ];
    if version.ended {
        facts.push(("state", describe(EntityOutcome::Ended).to_owned()));
    }
    let mut attributes: Vec<_> = version.attributes.iter().collect();
    attributes.sort_unstable_by_key(|(name, _)| *name);
    facts.extend(
        attributes
            .into_iter()
            .map(|(name, value)| (name.as_str(), values::show(value))),
    );
    output::facts(&facts)
}

fn show_batch(response: &pb::BatchGetEntitiesResponse, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(response);
    }
    let mut columns = Columns::new(&["entity", "valid from", "valid to", "~state"]);
    for entity in &response.entities {
        match (&entity.version, entity.outcome()) {
            (Some(version), EntityOutcome::Value) => columns.row(row![
                &entity.entity_id,
                times::show_or_dash(version.valid_from.as_ref()),
                open_end(version.valid_to),
                values::show_attributes(&version.attributes),
            ]),
            (_, outcome) => columns.row(row![&entity.entity_id, "-", "-", describe(outcome)]),
        }
    }
    columns.print("no entities")
}

fn describe(outcome: EntityOutcome) -> &'static str {
    match outcome {
        EntityOutcome::Value => "has a value",
        EntityOutcome::NotKnown => "not known: nothing was said about this point",
        EntityOutcome::Ended => "ended: it was said that there is no such entity at this point",
        EntityOutcome::Erased => "erased",
        EntityOutcome::TooOld => "too old: it has held for longer than asked",
        EntityOutcome::Unspecified => "unknown outcome; this client may be older than the server",
    }
}

fn open_end(instant: Option<prost_types::Timestamp>) -> String {
    instant
        .as_ref()
        .map_or_else(|| "open".to_owned(), times::show)
}

pub(super) async fn history(
    args: &HistoryArgs,
    client: &Client,
    format: Format,
) -> Result<(), Error> {
    let mut request = pb::ListHistoryRequest {
        entity_type: args.entity_type.clone(),
        entity_id: args.entity_id.clone(),
        valid_range: Some(pb::TimeRange {
            from: utc(args.from.as_ref()),
            to: utc(args.to.as_ref()),
        }),
        system_range: None,
        basis: utc(args.basis.as_ref()),
        page_size: HISTORY_PAGE_SIZE,
        page_token: String::new(),
        ..Default::default()
    };
    let mut versions = Vec::new();
    loop {
        let page = client
            .store()
            .list_history(request.clone())
            .await?
            .into_inner();
        versions.extend(page.versions);
        if page.next_page_token.is_empty() {
            break;
        }
        // All pages are of one world.
        (request.page_token, request.basis) = (page.next_page_token, page.basis);
    }
    if format == Format::Json {
        return output::json(&Listed {
            field: "versions",
            items: &versions,
        });
    }
    let mut columns = Columns::new(&["valid from", "valid to", "known from", "known to", "~state"]);
    for version in &versions {
        columns.row(row![
            times::show_or_dash(version.valid_from.as_ref()),
            open_end(version.valid_to),
            times::show_or_dash(version.system_from.as_ref()),
            open_end(version.system_to),
            if version.ended {
                "(ended)".to_owned()
            } else {
                values::show_attributes(&version.attributes)
            },
        ]);
    }
    columns.print("nothing is known about it in this range")
}

pub(super) async fn scan(args: &ScanArgs, client: &Client, format: Format) -> Result<(), Error> {
    let entity_type = entity_type::get(client, &args.entity_type).await?;
    let request = pb::ScanEntitiesRequest {
        entity_type: args.entity_type.clone(),
        valid_time: utc(args.point.at.as_ref()),
        basis: utc(args.point.basis.as_ref()),
        after_entity_id: args.after.clone(),
        ..Default::default()
    };
    let limit = args.limit.unwrap_or(if format == Format::Json {
        usize::MAX
    } else {
        TABLE_LIMIT
    });
    let names: Vec<&str> = entity_type
        .attributes
        .iter()
        .map(|attribute| attribute.name.as_str())
        .collect();
    let headings = scan_headings(&entity_type);
    let mut columns = Columns::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    let mut stream = client.store().scan_entities(request).await?.into_inner();
    let (mut shown, mut last_id) = (0, String::new());
    while let Some(message) = stream.message().await? {
        for version in message.versions {
            if shown == limit {
                return cut_scan(columns, format, &last_id);
            }
            match format {
                Format::Json => output::json_line(&version)?,
                Format::Table => columns.row(scan_row(&version, &names)),
            }
            shown += 1;
            last_id = version.entity_id;
        }
    }
    if format == Format::Json {
        Ok(())
    } else {
        columns.print("no entity has a value at this point")
    }
}

/// Attributes by name, numbers to the right.
fn scan_headings(entity_type: &pb::EntityType) -> Vec<String> {
    let attributes = entity_type.attributes.iter().map(|attribute| {
        let is_number = matches!(
            attribute.kind(),
            AttributeKind::Int64 | AttributeKind::Float64 | AttributeKind::Decimal
        );
        format!("{}{}", if is_number { ">" } else { "" }, attribute.name)
    });
    ["entity".to_owned(), "valid from".to_owned()]
        .into_iter()
        .chain(attributes)
        .collect()
}

fn scan_row(version: &pb::Version, names: &[&str]) -> Vec<output::Field> {
    let attributes = names.iter().map(|name| {
        version
            .attributes
            .get(*name)
            .map_or("-".to_owned(), values::show)
    });
    [
        version.entity_id.clone(),
        times::show_or_dash(version.valid_from.as_ref()),
    ]
    .into_iter()
    .chain(attributes)
    .map(output::Field::from)
    .collect()
}

fn cut_scan(columns: Columns, format: Format, last_id: &str) -> Result<(), Error> {
    if format == Format::Json {
        return Ok(());
    }
    columns.print("none shown")?;
    output::line(format!(
        "… there are more: --limit N shows more, --after {last_id} goes on from here"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_ends_are_named() {
        assert_eq!(open_end(None), "open");
        assert_eq!(
            open_end(Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 0
            })),
            "1970-01-01T00:00:00Z"
        );
    }
}
