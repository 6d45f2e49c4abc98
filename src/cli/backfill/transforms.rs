//! The transforms of a backfill or a plan, for people.

use chrono_tz::Tz;

use super::show::output_words;
use crate::{
    cli::{error::Error, json::enum_name, output, times},
    pb::{self, DependencyShape},
};

/// `daily`, or `daily +2` of three.
pub(crate) fn short_names(transforms: &[pb::PlannedTransform]) -> String {
    match transforms {
        [] => String::new(),
        [only] => only.transform.clone(),
        [first, others @ ..] => format!("{} +{}", first.transform, others.len()),
    }
}

/// `daily revision 1`, or `daily revision 1 and weekly revision 4`.
pub(super) fn revisions(transforms: &[pb::PlannedTransform]) -> String {
    let texts: Vec<_> = transforms
        .iter()
        .map(|one| format!("{} revision {}", one.transform, one.revision))
        .collect();
    match texts.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [firsts @ .., last] => format!("{} and {last}", firsts.join(", ")),
    }
}

/// The zone that all of them have, or else UTC.
pub(super) fn zone(transforms: &[pb::PlannedTransform]) -> Result<Tz, Error> {
    let mut zones = transforms.iter().map(|one| one.time_zone.as_str());
    match zones.next() {
        Some(first) if zones.all(|zone| zone == first) => Ok(times::zone(first)?),
        Some(_) | None => Ok(Tz::UTC),
    }
}

/// Each on a line of its own, as facts: `revision 4 to table weekly; weekly 2 partitions (UTC); reads daily (waits for daily)`.
pub(super) fn facts(transforms: &[pb::PlannedTransform]) -> Vec<(String, String)> {
    transforms
        .iter()
        .map(|one| (format!("  {}", one.transform), describe(one)))
        .collect()
}

/// What the only transform reads of others: `daily and 6 h 00 m back (snapshot 7)`.
pub(super) fn reads(transforms: &[pb::PlannedTransform]) -> String {
    match transforms {
        [only] => describe_tables(only),
        _ => String::new(),
    }
}

fn describe_tables(one: &pb::PlannedTransform) -> String {
    let reads: Vec<_> = one.tables.iter().map(describe_table).collect();
    reads.join(", ")
}

fn describe(one: &pb::PlannedTransform) -> String {
    let mut text = format!(
        "revision {} to {}; {} {} ({})",
        one.revision,
        output_words(&one.output_table, &one.output_entity_type),
        enum_name::<pb::Grain>(one.grain).to_lowercase(),
        output::counted(u64::from(one.partition_count), "partition"),
        one.time_zone
    );
    if one.dependency_shape() == DependencyShape::Sequential {
        text += ", in order";
    }
    let reads = describe_tables(one);
    if !reads.is_empty() {
        text += &format!("; reads {reads}");
    }
    text
}

fn describe_table(table: &pb::PlannedTable) -> String {
    let lookback = table
        .lookback
        .as_ref()
        .map(times::from_wire_duration)
        .filter(|lookback| !lookback.is_zero());
    let back = lookback.map_or_else(String::new, |lookback| {
        format!(" and {} back", times::show_duration(lookback))
    });
    let how = match (table.transform.as_str(), table.snapshot_id) {
        ("", 0) => "empty yet".to_owned(),
        ("", snapshot_id) => format!("snapshot {snapshot_id}"),
        (transform, _) => format!("waits for {transform}"),
    };
    format!("{}{back} ({how})", table.table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_read_as_sentences() {
        let daily = pb::PlannedTransform {
            transform: "daily".to_owned(),
            revision: 1,
            output_table: "daily".to_owned(),
            grain: pb::Grain::Daily.into(),
            time_zone: "UTC".to_owned(),
            partition_count: 14,
            ..Default::default()
        };
        let weekly = pb::PlannedTransform {
            transform: "weekly".to_owned(),
            output_table: "weekly_delays".to_owned(),
            grain: pb::Grain::Weekly.into(),
            revision: 4,
            tables: vec![pb::PlannedTable {
                table: "daily".to_owned(),
                transform: "daily".to_owned(),
                ..Default::default()
            }],
            partition_count: 2,
            ..daily.clone()
        };
        assert_eq!(
            describe(&weekly),
            "revision 4 to table weekly_delays; weekly 2 partitions (UTC); reads daily (waits for daily)"
        );
        let both = [daily, weekly];
        assert_eq!(short_names(&both), "daily +1");
        assert_eq!(revisions(&both), "daily revision 1 and weekly revision 4");
    }
}
