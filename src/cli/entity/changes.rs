//! `hindcast entity changes`.

use super::{
    read::{describe, open_end},
    utc,
};
use crate::{
    cli::{
        client::Client,
        error::Error,
        output::{self, Format},
        times::{self, TimeArg},
        values,
    },
    pb::{self, EntityOutcome, list_changes_response::State},
};

/// Arguments of `entity changes`.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangesArgs {
    /// Only commits after this basis; without it: from the first
    #[arg(long, value_name = "TIME", conflicts_with = "resume")]
    from_basis: Option<TimeArg>,
    /// Only commits up to this basis; without it: up to the latest
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    to_basis: Option<TimeArg>,
    /// Go on with the commits to come, until interrupted
    #[arg(long)]
    follow: bool,
    /// Only this entity type; may be given again
    #[arg(long = "type", value_name = "TYPE")]
    entity_types: Vec<String>,
    /// Go on after the line that had this token (JSON lines have them)
    #[arg(
        long,
        default_value = "",
        value_name = "TOKEN",
        hide_default_value = true
    )]
    resume: String,
}

pub(super) async fn changes(
    args: &ChangesArgs,
    client: &Client,
    format: Format,
) -> Result<(), Error> {
    let request = pb::ListChangesRequest {
        from_basis: utc(args.from_basis.as_ref()),
        to_basis: utc(args.to_basis.as_ref()),
        follow: args.follow,
        entity_types: args.entity_types.clone(),
        resume_token: args.resume.clone(),
    };
    let mut stream = client.store().list_changes(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match format {
            Format::Json => output::json_line(&message)?,
            Format::Table => show(&message)?,
        }
    }
    Ok(())
}

fn show(message: &pb::ListChangesResponse) -> Result<(), Error> {
    if message.changes.is_empty() {
        return Ok(());
    }
    output::line(times::show_or_dash(message.system_time.as_ref()))?;
    for change in &message.changes {
        output::line(format!(
            "  {} {}  {} to {}: {} -> {}",
            change.entity_type,
            change.entity_id,
            times::show_or_dash(change.valid_from.as_ref()),
            open_end(change.valid_to),
            show_state(change.before.as_ref()),
            show_state(change.after.as_ref()),
        ))?;
    }
    Ok(())
}

fn show_state(state: Option<&State>) -> String {
    let Some(state) = state else {
        return "-".to_owned();
    };
    match state.outcome() {
        EntityOutcome::Value if state.attributes.is_empty() => "(all null)".to_owned(),
        EntityOutcome::Value => values::show_attributes(&state.attributes),
        EntityOutcome::Ended => "(ended)".to_owned(),
        EntityOutcome::NotKnown => "(not known)".to_owned(),
        EntityOutcome::Erased => "(erased)".to_owned(),
        other @ (EntityOutcome::TooOld | EntityOutcome::Unspecified) => describe(other).to_owned(),
    }
}
