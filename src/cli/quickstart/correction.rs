//! The quickstart's last act: the past is corrected, and both the old answer and the new one can be had.

use std::{collections::HashMap, sync::Arc};

use super::{
    PUNCTUALITY,
    rows::{self, Rows},
    runs, spec,
    story::Story,
};
use crate::{
    cli::{
        client::{Client, required},
        error::Error,
        output, times, values,
    },
    pb::{self, Knowledge, mutation::Operation, put, value::Kind},
    time::{Clock, ValidTime},
};

/// The day whose weather is corrected, [from, to).
pub(super) const DAY: (&str, &str) = ("2013-02-12", "2013-02-13");
/// Shows what this act leaves behind.
pub(super) const HISTORY_COMMAND: &str =
    "entity history airport_weather JFK --from 2013-02-12T13:00 --to 2013-02-12T14:00";
/// The reading that is corrected: 08:00 at New York, when the morning's departures leave.
const READING_TIME: &str = "2013-02-12T13:00:00Z";
const ENTITY_TYPE: &str = "airport_weather";
const ENTITY_ID: &str = "JFK";
/// How much too warm the thermometer was, °F.
const TEMP_ERROR: f64 = 20.0;
/// What the fog let one see, miles: less than the transform's limit for low visibility.
const FOG_VISIBILITY: f64 = 0.5;
/// How many differences are shown.
const SHOWN_DIFFERENCES: usize = 6;

/// Corrects one reading and shows what that changes, and what it does not.
pub(super) async fn tell(
    story: &mut Story,
    client: &Client,
    clock: &Arc<dyn Clock>,
) -> Result<(), Error> {
    story.step("The past changes")?;
    story.say(
        "Say that JFK's reading of 12 February, 08:00 was wrong: the thermometer 20 °F too warm, the fog unnoticed.",
    )?;
    let before = read(client, None).await?;
    let old_basis = required(before.basis, "basis")?;
    let day = day_range()?;
    let first = Rows::read(client, PUNCTUALITY, day).await?;
    let others = read_other_days(client, day).await?;
    let new_basis = correct(client, &before).await?;
    story.say(
        "One write corrects that hour. Nothing is overwritten: the same question, at two bases:",
    )?;
    show_both(story, client, old_basis, new_basis).await?;

    story.step("The old answer, exactly")?;
    story.say(&format!(
        "Re-run that day AT_BASIS {}: what was known before the correction.",
        times::show(&old_basis)
    ))?;
    runs::run(
        story,
        client,
        clock,
        spec(PUNCTUALITY, DAY, Knowledge::AtBasis, Some(old_basis))?,
    )
    .await?;
    let again = Rows::read(client, PUNCTUALITY, day).await?;
    if !first.same(&again) {
        return Err(Error::Failed(format!(
            "re-running {} at its old basis must give the same rows, but these differ: {}",
            DAY.0,
            first
                .differences(&again)
                .iter()
                .map(|d| format!("{} {} -> {}", d.what, d.before, d.after))
                .collect::<Vec<_>>()
                .join(", ")
        )));
    }
    story.proven(&format!(
        "{}, every value the same as before the correction, to the last bit",
        rows::describe(&again)
    ))?;

    story.step("The right answer")?;
    story.say("Re-run it AS_KNOWN_NOW: with the correction.")?;
    runs::run(
        story,
        client,
        clock,
        spec(PUNCTUALITY, DAY, Knowledge::AsKnownNow, None)?,
    )
    .await?;
    let corrected = Rows::read(client, PUNCTUALITY, day).await?;
    show_differences(story, &again, &corrected)?;
    if read_other_days(client, day).await? != others {
        return Err(Error::Failed(format!(
            "re-running {} must leave every other day as it was, but some changed",
            DAY.0
        )));
    }
    let other_rows = others.iter().map(Rows::count).sum();
    story.proven(&format!(
        "only that day changed: the {} of all other days are what they were",
        output::counted(other_rows, "row")
    ))
}

/// The rows before and after `day`.
async fn read_other_days(client: &Client, day: pb::TimeRange) -> Result<[Rows; 2], Error> {
    let before = pb::TimeRange {
        from: None,
        to: day.from,
    };
    let after = pb::TimeRange {
        from: day.to,
        to: None,
    };
    Ok([
        Rows::read(client, PUNCTUALITY, before).await?,
        Rows::read(client, PUNCTUALITY, after).await?,
    ])
}

/// Whether an earlier run's correction is what is known now.
pub(super) async fn is_in_place(client: &Client) -> Result<bool, Error> {
    let visibility = read(client, None)
        .await?
        .version
        .and_then(|mut version| version.attributes.remove("visib"))
        .and_then(|value| value.kind);
    Ok(visibility == Some(Kind::Float64Value(FOG_VISIBILITY)))
}

fn day_range() -> Result<pb::TimeRange, Error> {
    let spec = spec(PUNCTUALITY, DAY, Knowledge::AsKnownNow, None)?;
    Ok(pb::TimeRange {
        from: spec.from,
        to: spec.to,
    })
}

/// The reading, as known at `basis`; unset is the latest.
async fn read(
    client: &Client,
    basis: Option<prost_types::Timestamp>,
) -> Result<pb::GetEntityResponse, Error> {
    let reading_time =
        ValidTime::parse(READING_TIME).map_err(|error| Error::Failed(error.to_string()))?;
    let request = pb::GetEntityRequest {
        entity_type: ENTITY_TYPE.to_owned(),
        entity_id: ENTITY_ID.to_owned(),
        valid_time: Some(times::timestamp(reading_time)),
        basis,
    };
    Ok(client.store().get_entity(request).await?.into_inner())
}

/// Writes the corrected reading over exactly the hour that the old one was valid. Returns the commit's basis.
async fn correct(
    client: &Client,
    before: &pb::GetEntityResponse,
) -> Result<prost_types::Timestamp, Error> {
    let version = before.version.clone().ok_or_else(|| {
        Error::Failed(format!("{ENTITY_TYPE} {ENTITY_ID} has no reading at {READING_TIME}; is the example's data whole?"))
    })?;
    let until = match version.valid_to {
        Some(valid_to) => put::Until::ValidTo(valid_to),
        None => put::Until::Forever(pb::Forever {}),
    };
    let put = pb::Put {
        attributes: corrected(version.attributes),
        valid_from: version.valid_from,
        until: Some(until),
    };
    let mutation = pb::Mutation {
        entity_type: ENTITY_TYPE.to_owned(),
        entity_id: ENTITY_ID.to_owned(),
        operation: Some(Operation::Put(put)),
        ..Default::default()
    };
    let request = pb::WriteRequest {
        mutations: vec![mutation],
        request_id: String::new(),
        ..Default::default()
    };
    required(
        client
            .store()
            .write(request)
            .await?
            .into_inner()
            .system_time,
        "system_time",
    )
}

fn corrected(mut attributes: HashMap<String, pb::Value>) -> HashMap<String, pb::Value> {
    if let Some(Kind::Float64Value(temp)) = attributes
        .get_mut("temp")
        .and_then(|value| value.kind.as_mut())
    {
        *temp -= TEMP_ERROR;
    }
    let visibility = pb::Value {
        kind: Some(Kind::Float64Value(FOG_VISIBILITY)),
    };
    attributes.insert("visib".to_owned(), visibility);
    attributes
}

async fn show_both(
    story: &Story,
    client: &Client,
    old_basis: prost_types::Timestamp,
    new_basis: prost_types::Timestamp,
) -> Result<(), Error> {
    for (word, basis) in [("before", old_basis), ("after", new_basis)] {
        let answer = read(client, Some(basis)).await?;
        let attributes = answer
            .version
            .map(|version| version.attributes)
            .unwrap_or_default();
        let value = |name: &str| {
            attributes
                .get(name)
                .map_or_else(|| "-".to_owned(), values::show)
        };
        story.show(&format!(
            "{word:6}  basis {}  temp {:>5} °F  visib {:>4} miles",
            times::show(&basis),
            value("temp"),
            value("visib")
        ))?;
    }
    Ok(())
}

fn show_differences(story: &Story, before: &Rows, after: &Rows) -> Result<(), Error> {
    let differences = before.differences(after);
    if differences.is_empty() {
        return Err(Error::Failed(format!(
            "the correction must change the rows of {}, but changed none",
            DAY.0
        )));
    }
    let width = differences
        .iter()
        .map(|difference| difference.what.len())
        .max()
        .unwrap_or(0);
    for difference in differences.iter().take(SHOWN_DIFFERENCES) {
        story.show(&format!(
            "{:width$}  {:>10} → {}",
            difference.what, difference.before, difference.after
        ))?;
    }
    if let Some(more) = differences
        .len()
        .checked_sub(SHOWN_DIFFERENCES)
        .filter(|more| *more > 0)
    {
        story.show(&format!("… and {more} more"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correction_moves_temperature_and_sight_alone() {
        let number = |value: f64| pb::Value {
            kind: Some(Kind::Float64Value(value)),
        };
        let before = HashMap::from(
            [("temp", 42.0), ("visib", 10.0), ("dewp", 30.0)]
                .map(|(name, v)| (name.to_owned(), number(v))),
        );
        let after = corrected(before);
        assert_eq!(values::show_attributes(&after), "dewp=30 temp=22 visib=0.5");
    }
}
