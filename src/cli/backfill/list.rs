//! `hindcast backfill list` and `hindcast backfill partitions`.

use super::{args::labels, transforms};
use crate::{
    cli::{
        client::Client,
        error::Error,
        json::{Listed, enum_name},
        output::{self, Columns, Field, Format, row},
        times, watch,
    },
    pb::{self, BackfillState, PartitionState},
};

/// Backfills per page.
const BACKFILL_PAGE_SIZE: u32 = 1_000;

/// Partitions per page.
const PARTITION_PAGE_SIZE: u32 = 10_000;

/// From how wide a terminal on creation times are shown; narrower ones keep each backfill on one line.
const CREATED_WIDTH: u16 = 120;

/// Arguments of `backfill list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only backfills of this transform
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    transform: String,
    /// Only backfills in this state, such as running; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = parse_backfill_state)]
    states: Vec<BackfillState>,
    /// Only backfills with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Only this backfill and what restates it, directly or not
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    root: String,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Arguments of `backfill partitions`.
#[derive(Debug, clap::Args)]
pub(crate) struct PartitionsArgs {
    /// The backfill's name
    name: String,
    /// Only partitions in this state, such as failed; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = parse_partition_state)]
    states: Vec<PartitionState>,
    /// Only partitions of this transform
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    transform: String,
    /// Show every attempt, with its times and outcome
    #[arg(long)]
    attempts: bool,
}

fn parse_backfill_state(text: &str) -> Result<BackfillState, String> {
    let name = format!("BACKFILL_STATE_{}", text.to_uppercase().replace('-', "_"));
    BackfillState::from_str_name(&name).filter(|state| *state != BackfillState::Unspecified).ok_or_else(|| {
        "the states are pending, running, paused, cancelling, succeeded, partially-succeeded, failed and cancelled".to_owned()
    })
}

fn parse_partition_state(text: &str) -> Result<PartitionState, String> {
    let name = format!("PARTITION_STATE_{}", text.to_uppercase().replace('-', "_"));
    PartitionState::from_str_name(&name).filter(|state| *state != PartitionState::Unspecified).ok_or_else(|| {
        "the states are pending, blocked, running, waiting-retry, succeeded, failed, upstream-failed, skipped and cancelled"
            .to_owned()
    })
}

pub(super) async fn list(args: &ListArgs, client: &Client, format: Format) -> Result<(), Error> {
    let mut request = pb::ListBackfillsRequest {
        transform: args.transform.clone(),
        states: args.states.iter().map(|state| i32::from(*state)).collect(),
        page_size: u32::try_from(args.limit)
            .unwrap_or(u32::MAX)
            .clamp(1, BACKFILL_PAGE_SIZE),
        page_token: String::new(),
        labels: labels(&args.labels)?,
        root: args.root.clone(),
    };
    let mut backfills = Vec::new();
    while backfills.len() < args.limit {
        let page = client
            .backfills()
            .list_backfills(request.clone())
            .await?
            .into_inner();
        backfills.extend(page.backfills);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    backfills.truncate(args.limit);
    if format == Format::Json {
        return output::json(&Listed {
            field: "backfills",
            items: &backfills,
        });
    }
    let wide = output::terminal_width().is_none_or(|width| width >= CREATED_WIDTH);
    let mut headings = vec!["name", "transform", "from", "to", "known", "state", "done"];
    if wide {
        headings.push("created");
    }
    let mut columns = Columns::new(&headings);
    for backfill in &backfills {
        let spec = backfill.spec.clone().unwrap_or_default();
        let zone = transforms::zone(&backfill.transforms)?;
        let counts = backfill.partition_counts.as_ref();
        let mut fields = Vec::from(row![
            &backfill.name,
            transforms::short_names(&backfill.transforms),
            times::show_boundary(spec.from.as_ref(), zone),
            times::show_boundary(spec.to.as_ref(), zone),
            known_at(spec.knowledge()),
            Field::state(&enum_name::<BackfillState>(backfill.state)),
            format!(
                "{}/{}",
                counts.map_or(0, |counts| counts.succeeded),
                watch::total(counts)
            ),
        ]);
        if wide {
            fields.push(times::show_seconds(backfill.create_time.as_ref()).into());
        }
        columns.row(fields);
    }
    columns.print("no backfills yet; `hindcast backfill create --help` shows how to start one")
}

/// Which world the partitions see, in a word.
fn known_at(knowledge: pb::Knowledge) -> &'static str {
    match knowledge {
        pb::Knowledge::AsKnownThen => "then",
        pb::Knowledge::AsKnownNow => "now",
        pb::Knowledge::AtBasis => "basis",
        pb::Knowledge::Unspecified => "?",
    }
}

pub(super) async fn partitions(
    args: &PartitionsArgs,
    client: &Client,
    format: Format,
) -> Result<(), Error> {
    let mut request = pb::ListPartitionsRequest {
        backfill: args.name.clone(),
        states: args.states.iter().map(|state| i32::from(*state)).collect(),
        page_size: PARTITION_PAGE_SIZE,
        page_token: String::new(),
        include_attempts: args.attempts,
        transform: args.transform.clone(),
    };
    let mut partitions = Vec::new();
    loop {
        let page = client
            .backfills()
            .list_partitions(request.clone())
            .await?
            .into_inner();
        partitions.extend(page.partitions);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if format == Format::Json {
        return output::json(&Listed {
            field: "partitions",
            items: &partitions,
        });
    }
    if args.attempts {
        return show_attempts(&partitions);
    }
    let several = are_of_several(&partitions);
    let mut headings = vec![
        "partition",
        "state",
        ">attempts",
        ">rows read",
        ">rows written",
        "basis",
        "~message",
    ];
    if several {
        headings.insert(0, "transform");
    }
    let mut columns = Columns::new(&headings);
    for partition in &partitions {
        let mut fields = Vec::from(row![
            &partition.label,
            Field::state(&enum_name::<PartitionState>(partition.state)),
            partition.attempt_count.to_string(),
            output::count(partition.rows_read),
            output::count(partition.rows_written),
            times::show_or_dash(partition.basis.as_ref()),
            remarks(
                &partition.message,
                partition.entity_changes.as_ref(),
                partition.calls.as_ref(),
                &partition.waits_for_limit
            ),
        ]);
        if several {
            fields.insert(0, partition.transform.as_str().into());
        }
        columns.row(fields);
    }
    columns.print("no such partitions")
}

fn are_of_several(partitions: &[pb::Partition]) -> bool {
    let mut transforms = partitions.iter().map(|partition| &partition.transform);
    let first = transforms.next();
    transforms.any(|transform| Some(transform) != first)
}

/// What there is to say of a partition or attempt: why it failed, or what it changed of its entity type; what its external
/// calls came to, and what they wait for.
fn remarks(
    message: &str,
    changes: Option<&pb::EntityChanges>,
    calls: Option<&pb::CallCounts>,
    waits_for_limit: &str,
) -> String {
    let mut parts = Vec::new();
    match changes {
        Some(changes) if message.is_empty() => parts.push(format!(
            "entities: {} written, {} ended, {} unchanged",
            output::count(changes.written),
            output::count(changes.ended),
            output::count(changes.unchanged)
        )),
        Some(_) | None if message.is_empty() => {}
        Some(_) | None => parts.push(message.to_owned()),
    }
    parts.extend(calls.map(describe_calls));
    if !waits_for_limit.is_empty() {
        parts.push(format!("waits for rate limit {waits_for_limit}"));
    }
    parts.join("; ")
}

/// `calls: 1,204 requests, 1,200 answers, 300 remembered, 12.0 s waited`.
fn describe_calls(calls: &pb::CallCounts) -> String {
    let mut text = format!(
        "calls: {}, {}, {} remembered",
        output::counted(calls.request_count, "request"),
        output::counted(calls.answer_count, "answer"),
        output::count(calls.remembered_count)
    );
    let waited = calls.limit_wait.as_ref().map(times::from_wire_duration);
    if let Some(waited) = waited.filter(|waited| !waited.is_zero()) {
        text.push_str(&format!(", {} waited", times::show_duration(waited)));
    }
    text
}

fn show_attempts(partitions: &[pb::Partition]) -> Result<(), Error> {
    let several = are_of_several(partitions);
    let mut headings = vec![
        "partition",
        ">attempt",
        "state",
        "started",
        ">waited",
        ">computed in",
        ">took",
        ">memory",
        ">rows read",
        ">rows written",
        ">size",
        "~message",
    ];
    if several {
        headings.insert(0, "transform");
    }
    let mut columns = Columns::new(&headings);
    for partition in partitions {
        for attempt in &partition.attempts {
            let since_start =
                |end: Option<&prost_types::Timestamp>| match (attempt.start_time.as_ref(), end) {
                    (Some(start), Some(end)) => {
                        watch::between(start, end).map_or_else(String::new, times::show_duration)
                    }
                    _ => String::new(),
                };
            let waited = attempt.slot_wait.as_ref().map(times::from_wire_duration);
            let mut fields = Vec::from(row![
                &partition.label,
                attempt.attempt.to_string(),
                Field::state(&enum_name::<PartitionState>(attempt.state)),
                times::show_seconds(attempt.start_time.as_ref()),
                waited.map_or_else(String::new, times::show_duration),
                since_start(attempt.staged_time.as_ref()),
                since_start(attempt.end_time.as_ref()),
                times::show_size(attempt.peak_memory_bytes),
                output::count(attempt.rows_read),
                output::count(attempt.rows_written),
                times::show_size(attempt.bytes_written),
                remarks(
                    &attempt.message,
                    attempt.entity_changes.as_ref(),
                    attempt.calls.as_ref(),
                    ""
                ),
            ]);
            if several {
                fields.insert(0, partition.transform.as_str().into());
            }
            columns.row(fields);
        }
    }
    columns.print("no attempts yet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_beside_the_message() {
        let calls = pb::CallCounts {
            request_count: 1204,
            answer_count: 1200,
            remembered_count: 1,
            limit_wait: Some(times::wire_duration(std::time::Duration::from_secs(12))),
        };
        assert_eq!(
            remarks("no", None, Some(&calls), "crm"),
            "no; calls: 1,204 requests, 1,200 answers, 1 remembered, 12.0 s waited; waits for rate limit crm"
        );
        assert_eq!(remarks("", None, None, ""), "");
    }

    #[test]
    fn states_are_written_as_people_write_them() {
        assert_eq!(
            parse_backfill_state("partially-succeeded"),
            Ok(BackfillState::PartiallySucceeded)
        );
        assert_eq!(
            parse_partition_state("WAITING_RETRY"),
            Ok(PartitionState::WaitingRetry)
        );
        assert!(parse_partition_state("unspecified").is_err());
        assert!(parse_backfill_state("done").is_err());
    }
}
