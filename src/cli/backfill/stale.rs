//! `hindcast backfill stale`.

use crate::{
    cli::{
        client::Client,
        error::Error,
        json::Listed,
        output::{self, Columns, Format, row},
        times::{self, TimeArg},
        transform,
    },
    pb,
};

/// Partitions per page.
const PAGE_SIZE: u32 = 10_000;

pub(super) const HELP: &str = "\
A published partition is stale when computing it again would read something
else: another revision of the transform; another answer of an entity, in the
attributes and at the valid times that its query looked at; other files of a
source; an earlier partition (prior), or one of another transform's table, that
was published again. Partitions as
known then, or at a basis, would read the same basis again: of what is learned
later, only an erasure makes them stale.

Examples:
  hindcast backfill stale daily_punctuality
  hindcast backfill create daily_punctuality --from 2013-01-01 --to 2013-04-01 \\
    --knowledge as-known-now --reprocess stale";

/// Arguments of `backfill stale`.
#[derive(Debug, clap::Args)]
pub(crate) struct StaleArgs {
    /// The transform's name
    transform: String,
    /// Only partitions that end after this
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArg>,
    /// Only partitions that start before this
    #[arg(long, value_name = "TIME")]
    to: Option<TimeArg>,
    /// The transform's revision to compare with; without it: the latest
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    revision: u32,
    /// At most this many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

pub(super) async fn stale(args: &StaleArgs, client: &Client, format: Format) -> Result<(), Error> {
    let ends = [&args.from, &args.to];
    let zone = if ends.into_iter().flatten().any(TimeArg::needs_zone) {
        let transform = transform::get(client, &args.transform, args.revision).await?;
        times::zone(&transform.time_zone)?
    } else {
        chrono_tz::Tz::UTC
    };
    let resolve = |end: &Option<TimeArg>| -> Result<_, Error> {
        let instant = end.as_ref().map(|end| end.resolve(zone)).transpose()?;
        Ok(instant.map(times::timestamp))
    };
    let mut request = pb::ListStalePartitionsRequest {
        transform: args.transform.clone(),
        range: Some(pb::TimeRange {
            from: resolve(&args.from)?,
            to: resolve(&args.to)?,
        }),
        revision: args.revision,
        page_size: u32::try_from(args.limit)
            .unwrap_or(u32::MAX)
            .clamp(1, PAGE_SIZE),
        page_token: String::new(),
    };
    let mut partitions = Vec::new();
    let mut published_count = None;
    let mut more = true;
    while more && partitions.len() < args.limit {
        let page = client
            .backfills()
            .list_stale_partitions(request.clone())
            .await?
            .into_inner();
        published_count.get_or_insert(page.published_count);
        partitions.extend(page.partitions);
        more = !page.next_page_token.is_empty();
        request.page_token = page.next_page_token;
    }
    more |= partitions.len() > args.limit;
    partitions.truncate(args.limit);
    if format == Format::Json {
        return output::json(&Listed {
            field: "partitions",
            items: &partitions,
        });
    }
    show(&partitions, more, published_count.unwrap_or(0))
}

fn show(partitions: &[pb::StalePartition], more: bool, published_count: u64) -> Result<(), Error> {
    let mut columns = Columns::new(&["partition", "published by", "~why"]);
    for partition in partitions {
        let mut label = partition.label.as_str();
        let mut backfill = partition.backfill.as_str();
        for reason in &partition.reasons {
            columns.row(row![label, backfill, &reason.message]);
            (label, backfill) = ("", "");
        }
    }
    let nothing = match published_count {
        0 => "nothing is published there yet".to_owned(),
        count => format!(
            "none of {} published partitions is stale",
            output::count(count)
        ),
    };
    columns.print(&nothing)?;
    if !partitions.is_empty() {
        let at_least = if more { "at least " } else { "" };
        output::line(format!(
            "{at_least}{} of {} published partitions are stale",
            output::count(partitions.len() as u64),
            output::count(published_count)
        ))?;
    }
    Ok(())
}
