//! What `hindcast backfill` is asked to run.

use std::{collections::HashMap, time::Duration};

use clap::ValueEnum;

use crate::{
    cli::{
        client::Client,
        error::Error,
        times::{self, TimeArg},
        transform,
    },
    pb::{self, Knowledge, ReprocessBehavior},
};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// What to run; several transforms run as one backfill, in whatever order they are named
    #[arg(required = true, value_name = "TRANSFORM[@REVISION]")]
    pub(super) transforms: Vec<String>,
    /// First partition's start, inclusive
    #[arg(long, value_name = "TIME")]
    pub(super) from: TimeArg,
    /// Last partition's end, exclusive
    #[arg(long, value_name = "TIME")]
    pub(super) to: TimeArg,
    /// Which world the partitions see: as-known-then, as-known-now or at-basis; see below
    #[arg(long, value_enum, hide_possible_values = true, value_name = "WORLD")]
    pub(super) knowledge: KnowledgeArg,
    /// With at-basis: the system time to read at (RFC 3339, or local forms taken as UTC)
    #[arg(long, value_name = "TIME", required_if_eq("knowledge", "at-basis"))]
    pub(super) basis: Option<TimeArg>,
    /// With as-known-then: how long after a partition's end its pipeline ran, such as 6h
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    pub(super) availability_delay: Option<Duration>,
    /// The transform's revision, as TRANSFORM@REVISION; without it: the latest
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(super) revision: u32,
    /// Partitions that may run at once, 1 to 64; without it: the server's default
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(super) max_active_partitions: u32,
    /// Neighbouring partitions that one task computes, one after the other, and that are committed together;
    /// without it: 1
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(super) partitions_per_task: u32,
    /// Tries per partition; without it: the transform's
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(super) max_attempts: u32,
    /// How long one attempt may take, such as 10m; without it: as the transform says
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    pub(super) attempt_timeout: Option<Duration>,
    /// Start nothing new once a partition failed for good; `retry` goes on after a fix
    #[arg(long)]
    pub(super) stop_on_first_failure: bool,
    /// The latest partition first
    #[arg(long)]
    pub(super) run_backwards: bool,
    /// Which partitions run: none (only those never run), failed (those, and what failed last time),
    /// stale (those published that would come out otherwise now) or completed (all; the default)
    #[arg(long, value_enum, hide_possible_values = true, value_name = "WHICH")]
    pub(super) reprocess: Option<ReprocessArg>,
    /// Ask outside systems again: answers from before this backfill do not count
    #[arg(long)]
    pub(super) refresh_calls: bool,
    /// Higher ones get the server's free slots first, -1000 to 1000; without it: 0
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "N",
        allow_hyphen_values = true
    )]
    pub(super) priority: i64,
    /// A free label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<String>,
}

/// [`Knowledge`] as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KnowledgeArg {
    /// Each partition's end plus the availability delay
    AsKnownThen,
    /// Pinned once, at creation
    AsKnownNow,
    /// Pinned to --basis
    AtBasis,
}

impl From<KnowledgeArg> for Knowledge {
    fn from(knowledge: KnowledgeArg) -> Self {
        match knowledge {
            KnowledgeArg::AsKnownThen => Self::AsKnownThen,
            KnowledgeArg::AsKnownNow => Self::AsKnownNow,
            KnowledgeArg::AtBasis => Self::AtBasis,
        }
    }
}

/// [`ReprocessBehavior`] as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReprocessArg {
    /// Those that no backfill published or failed at
    None,
    /// Those, and what failed last time
    Failed,
    /// All
    Completed,
    /// Published ones that are stale
    Stale,
}

impl From<ReprocessArg> for ReprocessBehavior {
    fn from(reprocess: ReprocessArg) -> Self {
        match reprocess {
            ReprocessArg::None => Self::None,
            ReprocessArg::Failed => Self::Failed,
            ReprocessArg::Completed => Self::Completed,
            ReprocessArg::Stale => Self::Stale,
        }
    }
}

/// Arguments of `backfill plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    /// Show every partition, however many
    #[arg(long)]
    pub(super) all: bool,
}

/// Arguments of `backfill create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    /// The same id again returns the backfill that it made first
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    pub(super) request_id: String,
    /// Refuse to start unless the plan still has this hash (`backfill plan` shows it)
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "HASH"
    )]
    pub(super) expected_plan_hash: String,
    /// Follow it to its end, as `backfill watch` does
    #[arg(long, short)]
    pub(super) watch: bool,
}

/// Arguments of `backfill restate`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestateArgs {
    /// The backfill to restate
    pub(super) name: String,
    /// First partition's start, inclusive; without it: the backfill's
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<TimeArg>,
    /// Last partition's end, exclusive; without it: the backfill's
    #[arg(long, value_name = "TIME")]
    pub(super) to: Option<TimeArg>,
    /// The transform's revision; without it: the backfill's
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(super) revision: u32,
    /// Show what would be done, and store nothing
    #[arg(long)]
    pub(super) plan: bool,
    /// With --plan: show every partition, however many
    #[arg(long, requires = "plan")]
    pub(super) all: bool,
    /// The same id again returns the backfill that it made first
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    pub(super) request_id: String,
    /// Refuse to start unless the plan still has this hash
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "HASH"
    )]
    pub(super) expected_plan_hash: String,
    /// Follow it to its end, as `backfill watch` does
    #[arg(long, short, conflicts_with = "plan")]
    pub(super) watch: bool,
}

/// Arguments of `backfill watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// The backfill's name
    #[arg(required_unless_present = "all")]
    pub(super) name: Option<String>,
    /// Only events after this one
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "all")]
    pub(super) after_sequence: u64,
    /// All backfills, until interrupted: a line for each that is active, and for each change
    #[arg(long, conflicts_with = "name")]
    pub(super) all: bool,
    /// With --all: only backfills of this transform
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME",
        requires = "all"
    )]
    pub(super) transform: String,
    /// With --all: only backfills with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", requires = "all")]
    pub(super) labels: Vec<String>,
}

/// The spec for the wire. Asks the server for the transform's zone only where a time needs it.
pub(super) async fn spec(args: &SpecArgs, client: &Client) -> Result<pb::BackfillSpec, Error> {
    let mut named = Vec::new();
    for text in &args.transforms {
        named.push(transform_revision(text, args.revision)?);
    }
    if args.revision > 0 && named.len() > 1 {
        return Err(Error::Usage(
            "--revision goes with one transform; of several, name each as TRANSFORM@REVISION"
                .to_owned(),
        ));
    }
    let zone = if args.from.needs_zone() || args.to.needs_zone() {
        common_zone(&named, client).await?
    } else {
        chrono_tz::Tz::UTC
    };
    let only = (named.len() == 1).then(|| named.remove(0));
    let only = only.unwrap_or_default();
    let knowledge = Knowledge::from(args.knowledge);
    if args.basis.is_some() && knowledge != Knowledge::AtBasis {
        return Err(Error::Usage(
            "--basis goes with --knowledge at-basis only".to_owned(),
        ));
    }
    if args.availability_delay.is_some() && knowledge != Knowledge::AsKnownThen {
        return Err(Error::Usage(
            "--availability-delay goes with --knowledge as-known-then only".to_owned(),
        ));
    }
    Ok(pb::BackfillSpec {
        transform: only.transform,
        revision: only.revision,
        transforms: named,
        partitions_per_task: args.partitions_per_task,
        from: Some(times::timestamp(args.from.resolve(zone)?)),
        to: Some(times::timestamp(args.to.resolve(zone)?)),
        knowledge: knowledge.into(),
        basis: args
            .basis
            .as_ref()
            .map(|basis| times::timestamp(basis.utc())),
        availability_delay: args.availability_delay.map(times::wire_duration),
        max_active_partitions: args.max_active_partitions,
        max_attempts: args.max_attempts,
        labels: labels(&args.labels)?,
        attempt_timeout: args.attempt_timeout.map(times::wire_duration),
        stop_on_first_failure: args.stop_on_first_failure,
        run_backwards: args.run_backwards,
        reprocess_behavior: args
            .reprocess
            .map_or(ReprocessBehavior::Unspecified, ReprocessBehavior::from)
            .into(),
        priority: args.priority,
        refresh_calls: args.refresh_calls,
    })
}

/// `daily` or `daily@3`.
fn transform_revision(text: &str, revision: u32) -> Result<pb::TransformRevision, Error> {
    let Some((name, given)) = text.split_once('@') else {
        return Ok(pb::TransformRevision {
            transform: text.to_owned(),
            revision,
        });
    };
    let given = given.parse().map_err(|_| {
        Error::Usage(format!(
            "{text:?} is not of the form TRANSFORM@REVISION, such as daily_punctuality@3"
        ))
    })?;
    if revision > 0 {
        return Err(Error::Usage(format!(
            "the revision is given twice: {text} and --revision {revision}"
        )));
    }
    Ok(pb::TransformRevision {
        transform: name.to_owned(),
        revision: given,
    })
}

/// The zone of all these transforms.
async fn common_zone(
    named: &[pb::TransformRevision],
    client: &Client,
) -> Result<chrono_tz::Tz, Error> {
    let mut common: Option<String> = None;
    for one in named {
        let zone = transform::get(client, &one.transform, one.revision)
            .await?
            .time_zone;
        match &common {
            Some(common) if *common != zone => {
                return Err(Error::Usage(format!(
                    "the transforms have different time zones, {common} and {zone}: give --from and --to with an offset, \
                     such as 2013-01-01T05:00:00Z"
                )));
            }
            Some(_) | None => common = Some(zone),
        }
    }
    Ok(times::zone(&common.unwrap_or_default())?)
}

/// Labels as they are given, by key.
pub(super) fn labels(arguments: &[String]) -> Result<HashMap<String, String>, Error> {
    let mut labels = HashMap::new();
    for argument in arguments {
        let (key, value) = argument.split_once('=').ok_or_else(|| {
            Error::Usage(format!("label {argument:?} is not of the form KEY=VALUE"))
        })?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::Usage(format!("label {key} is given twice")));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_may_name_their_revision() {
        let named = |text, revision| transform_revision(text, revision).ok();
        let of = |name: &str, revision| {
            Some(pb::TransformRevision {
                transform: name.to_owned(),
                revision,
            })
        };
        assert_eq!(named("daily", 0), of("daily", 0));
        assert_eq!(named("daily", 2), of("daily", 2));
        assert_eq!(named("daily@3", 0), of("daily", 3));
        assert_eq!(named("daily@3", 2), None);
        assert_eq!(named("daily@x", 0), None);
    }

    #[test]
    fn labels_have_keys() {
        let given = ["team=data".to_owned(), "why=a=b".to_owned()];
        assert_eq!(
            labels(&given)
                .map(|labels| labels["why"].clone())
                .ok()
                .as_deref(),
            Some("a=b")
        );
        assert!(labels(&["team".to_owned()]).is_err());
        assert!(labels(&["a=1".to_owned(), "a=2".to_owned()]).is_err());
    }
}
