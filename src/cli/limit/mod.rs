//! `hindcast limit`: how fast, how many at once and how many a day outside systems may be called.

pub(crate) mod quota;
mod show;

use clap::ValueEnum;

use super::{
    client::{Client, required},
    error::Error,
    output::{self, Format},
    times,
};
use crate::pb;

/// Rate limits: quotas of outside systems that live callers and backfills share
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Creates a rate limit; the same definition again changes nothing
    #[command(
        after_help = "Examples:\n  hindcast limit create salesforce --rate 100/s --burst 20 --per-day 50000 \\\n    \
        --time-zone America/New_York --live-share 20\n  hindcast limit create geocoder --concurrent 8"
    )]
    Create(Box<CreateArgs>),
    /// Shows one rate limit and how it stands
    Get {
        /// Its name
        name: String,
    },
    /// Lists all rate limits
    List,
    /// Changes what is given; in force at once, for those who wait too
    #[command(
        after_help = "Example:\n  hindcast limit update salesforce --rate 50/s --remove per-day"
    )]
    Update(Box<UpdateArgs>),
    /// Deletes a rate limit; those who wait for it fail
    Delete {
        /// Its name
        name: String,
    },
    /// Waits for permits
    #[command(
        after_help = "Example:\n  hindcast limit acquire salesforce --class live --max-wait 10s"
    )]
    Acquire(AcquireArgs),
    /// Frees the places of permits whose limit counts calls under way
    Release {
        /// What `hindcast limit acquire` gave
        lease: String,
        /// Permits that no call was made with
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        unused: u32,
    },
}

/// The quotas of a limit.
#[derive(Debug, clap::Args)]
pub(crate) struct Quotas {
    /// How fast permits come, such as 100/s, 600/min or 1/10s
    #[arg(long, value_name = "RATE", value_parser = quota::parse_rate)]
    rate: Option<pb::PermitRate>,
    /// Permits that can be taken at once after a quiet time; without it: what the rate gives in 100 ms
    #[arg(long, value_name = "COUNT")]
    burst: Option<u32>,
    /// Calls that may be under way at once
    #[arg(long, value_name = "COUNT")]
    concurrent: Option<u32>,
    /// Permits of each hour
    #[arg(long, value_name = "COUNT")]
    per_hour: Option<u64>,
    /// Permits of each date
    #[arg(long, value_name = "COUNT")]
    per_day: Option<u64>,
    /// IANA zone of hours and dates; without it: UTC
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Percent of each quota that backfills cannot have
    #[arg(long, value_name = "PERCENT")]
    live_share: Option<u32>,
    /// For people
    #[arg(long)]
    description: Option<String>,
}

/// Arguments of `limit create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Lower case, digits and underscores
    name: String,
    #[command(flatten)]
    quotas: Quotas,
}

/// Arguments of `limit update`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    quotas: Quotas,
    /// A quota that is lifted; may be repeated
    #[arg(long, value_enum, value_name = "QUOTA")]
    remove: Vec<Removed>,
}

/// A quota that can be lifted.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Removed {
    /// The rate, and its burst
    Rate,
    /// The burst: what the rate gives in 100 ms is left
    Burst,
    /// Calls under way
    Concurrent,
    /// Permits of an hour
    PerHour,
    /// Permits of a date
    PerDay,
}

/// Arguments of `limit acquire`.
#[derive(Debug, clap::Args)]
pub(crate) struct AcquireArgs {
    /// The rate limit
    name: String,
    /// How many, all or nothing
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    permits: u32,
    /// live callers come first; backfill leaves them their share
    #[arg(long, value_enum, default_value_t = Class::Live)]
    class: Class,
    /// Who asks; clients take turns
    #[arg(long, value_name = "NAME", default_value = "cli")]
    client: String,
    /// How long to wait at most, such as 10s; without it: as long as it takes
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    max_wait: Option<std::time::Duration>,
    /// Holds the places among the concurrent calls for so long, unless they are released; without it: 60s
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    hold: Option<std::time::Duration>,
}

/// What a caller is.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Class {
    /// Someone waits for it now.
    Live,
    /// It can wait.
    Backfill,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, client: &Client, format: Format) -> Result<(), Error> {
    match command {
        Command::Create(args) => create(args, client, format).await,
        Command::Get { name } => show::one(&get(client, name).await?, format),
        Command::List => list(client, format).await,
        Command::Update(args) => update(args, client, format).await,
        Command::Delete { name } => delete(name, client, format).await,
        Command::Acquire(args) => acquire(args, client, format).await,
        Command::Release { lease, unused } => release(lease, *unused, client, format).await,
    }
}

/// Puts a limit in force as it is defined: creates it, or changes the one of its name. Whether it was created or changed.
pub(crate) async fn put(client: &Client, limit: pb::RateLimit) -> Result<(bool, bool), Error> {
    let request = pb::CreateRateLimitRequest {
        rate_limit: Some(limit.clone()),
    };
    match client.limits().create_rate_limit(request).await {
        Ok(response) => Ok((response.into_inner().created, false)),
        Err(status) if status.code() == tonic::Code::AlreadyExists => {
            let request = pb::UpdateRateLimitRequest {
                rate_limit: Some(limit),
            };
            client.limits().update_rate_limit(request).await?;
            Ok((false, true))
        }
        Err(status) => Err(status.into()),
    }
}

async fn create(args: &CreateArgs, client: &Client, format: Format) -> Result<(), Error> {
    let limit = change(
        pb::RateLimit {
            name: args.name.clone(),
            ..Default::default()
        },
        &args.quotas,
    )?;
    let request = pb::CreateRateLimitRequest {
        rate_limit: Some(limit),
    };
    let response = client.limits().create_rate_limit(request).await?;
    let response = response.into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let outcome = match response.created {
        true => "created",
        false => "unchanged",
    };
    let limit = required(response.rate_limit, "rate_limit")?;
    output::line(format!(
        "{outcome} {}: {}",
        limit.name,
        show::quotas(&limit)
    ))
}

async fn update(args: &UpdateArgs, client: &Client, format: Format) -> Result<(), Error> {
    let mut limit = get(client, &args.name).await?;
    for removed in &args.remove {
        match removed {
            Removed::Rate => (limit.rate, limit.burst) = (None, None),
            Removed::Burst => limit.burst = None,
            Removed::Concurrent => limit.concurrent = None,
            Removed::PerHour => limit.hourly = None,
            Removed::PerDay => limit.daily = None,
        }
    }
    let request = pb::UpdateRateLimitRequest {
        rate_limit: Some(change(limit, &args.quotas)?),
    };
    let response = client.limits().update_rate_limit(request).await?;
    let limit = required(response.into_inner().rate_limit, "rate_limit")?;
    if format == Format::Json {
        return output::json(&limit);
    }
    output::line(format!("updated {}: {}", limit.name, show::quotas(&limit)))
}

/// `limit` with what is given put in its place.
fn change(mut limit: pb::RateLimit, quotas: &Quotas) -> Result<pb::RateLimit, Error> {
    let Quotas {
        rate,
        burst,
        concurrent,
        per_hour,
        per_day,
        time_zone,
        live_share,
        description,
    } = quotas;
    limit.rate = rate.or(limit.rate);
    limit.burst = burst.or(limit.burst);
    limit.concurrent = concurrent.or(limit.concurrent);
    for (window, permits) in [(&mut limit.hourly, per_hour), (&mut limit.daily, per_day)] {
        let zone = window.as_ref().map(|it| it.time_zone.clone());
        let zone = time_zone.clone().or(zone).unwrap_or_default();
        let permits = permits.or(window.as_ref().map(|it| it.permits));
        *window = quota::window(permits, &zone);
    }
    if time_zone.is_some() && limit.hourly.is_none() && limit.daily.is_none() {
        return Err(Error::Usage(
            "--time-zone says when an hour or a date starts; give --per-hour or --per-day too"
                .to_owned(),
        ));
    }
    limit.live_share_percent = live_share.unwrap_or(limit.live_share_percent);
    limit.description = description.clone().unwrap_or(limit.description);
    Ok(limit)
}

async fn get(client: &Client, name: &str) -> Result<pb::RateLimit, Error> {
    let request = pb::GetRateLimitRequest {
        name: name.to_owned(),
    };
    let response = client.limits().get_rate_limit(request).await?;
    required(response.into_inner().rate_limit, "rate_limit")
}

async fn list(client: &Client, format: Format) -> Result<(), Error> {
    let response = client
        .limits()
        .list_rate_limits(pb::ListRateLimitsRequest {})
        .await?
        .into_inner();
    show::many(&response, format)
}

async fn delete(name: &str, client: &Client, format: Format) -> Result<(), Error> {
    let request = pb::DeleteRateLimitRequest {
        name: name.to_owned(),
    };
    let pb::DeleteRateLimitResponse {} = client
        .limits()
        .delete_rate_limit(request)
        .await?
        .into_inner();
    match format {
        Format::Json => output::line("{}"),
        Format::Table => output::line(format!("deleted {name}")),
    }
}

async fn acquire(args: &AcquireArgs, client: &Client, format: Format) -> Result<(), Error> {
    let class = match args.class {
        Class::Live => pb::CallerClass::Live,
        Class::Backfill => pb::CallerClass::Backfill,
    };
    let request = pb::AcquirePermitsRequest {
        limit: args.name.clone(),
        permits: args.permits,
        caller_class: class.into(),
        client: args.client.clone(),
        max_wait: args.max_wait.map(times::wire_duration),
        hold: args.hold.map(times::wire_duration),
    };
    let response = client.limits().acquire_permits(request).await?;
    let response = response.into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let waited = response.waited.as_ref().map(times::from_wire_duration);
    let permits = output::counted(args.permits.into(), "permit");
    let waited = times::show_duration(waited.unwrap_or_default());
    output::line(format!("{permits} of {} after {waited}", args.name))?;
    match response.lease_id.as_str() {
        "" => Ok(()),
        lease => output::line(format!("lease {lease}")),
    }
}

async fn release(lease: &str, unused: u32, client: &Client, format: Format) -> Result<(), Error> {
    let request = pb::ReleasePermitsRequest {
        lease_id: lease.to_owned(),
        unused_permits: unused,
    };
    let pb::ReleasePermitsResponse {} =
        client.limits().release_permits(request).await?.into_inner();
    match format {
        Format::Json => output::line("{}"),
        Format::Table => output::line(format!("released {lease}")),
    }
}
