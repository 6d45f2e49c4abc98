//! One backfill of the story, from its creation to its end, with a bar; backfills that an interrupted run left come first.

use std::sync::Arc;

use super::story::Story;
use crate::{
    cli::{
        backfill,
        client::{Client, required},
        error::Error,
        times,
        watch::{self, BarView, View, Watched},
    },
    pb::{self, BackfillState},
    time::Clock,
};

/// Runs a backfill to its end; anything but success ends the story.
pub(super) async fn run(
    story: &Story,
    client: &Client,
    clock: &Arc<dyn Clock>,
    spec: pb::BackfillSpec,
) -> Result<(), Error> {
    finish_earlier(story, client, clock, &spec.transform).await?;
    let request = pb::CreateBackfillRequest {
        spec: Some(spec),
        ..Default::default()
    };
    let created = client
        .backfills()
        .create_backfill(request)
        .await?
        .into_inner();
    for warning in &created.warnings {
        story.say(&format!("warning: {warning}"))?;
    }
    let name = required(created.backfill, "backfill")?.name;
    let ended = follow(client, clock, &name).await?;
    if ended.state() != BackfillState::Succeeded {
        return Err(Error::Failed(format!(
            "{}\nevery backfill of the quickstart must succeed; is the example's data whole?",
            watch::describe_end(&ended)
        )));
    }
    let took = watch::wall_time(&ended).map(times::show_duration);
    story.proven(&format!(
        "{}, in {}",
        watch::describe_work(&ended),
        took.unwrap_or_default()
    ))
}

/// Waits for backfills of `transform` that are under way: two over the same partitions cannot be.
async fn finish_earlier(
    story: &Story,
    client: &Client,
    clock: &Arc<dyn Clock>,
    transform: &str,
) -> Result<(), Error> {
    let states = [
        BackfillState::Pending,
        BackfillState::Running,
        BackfillState::Cancelling,
    ];
    let request = pb::ListBackfillsRequest {
        transform: transform.to_owned(),
        states: states.map(i32::from).to_vec(),
        ..Default::default()
    };
    let active = client
        .backfills()
        .list_backfills(request)
        .await?
        .into_inner()
        .backfills;
    for backfill in active {
        story.say(
            "An earlier run was interrupted here. Its backfill went on by itself when the server came back; its end first:",
        )?;
        let ended = follow(client, clock, &backfill.name).await?;
        story.show(&watch::describe_work(&ended))?;
    }
    Ok(())
}

/// Shows the backfill `name` to its end.
async fn follow(
    client: &Client,
    clock: &Arc<dyn Clock>,
    name: &str,
) -> Result<pb::Backfill, Error> {
    let mut view = BarView::new();
    let watched = watch::follow(client, name, 0, &mut view, clock).await;
    view.close();
    match watched? {
        Watched::Ended(backfill) => Ok(*backfill),
        Watched::Interrupted(_) => backfill::fetch(client, name).await,
    }
}
