//! Permits in process: how many a second, how long one waits where nobody else does, how much of a rate waiters get.

use std::{sync::Arc, time::Duration};

use hindcast::{
    kv::Database,
    limits::{Acquire, Class, LimitSpec, Limits, MAX_PERMITS_PER_SECOND, Rate, WindowQuota},
    time::{Clock, Grain, SystemClock},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    Fault, Scale,
    report::{Goal, Report, Value},
};

const CACHE_BYTES: u64 = 64 << 20;
/// Callers that saturate a limit.
const CALLERS: usize = 64;
const SATURATED_RATE: u32 = 2_000;

struct Bed {
    limits: Limits,
    clock: Arc<dyn Clock>,
    runtime: Runtime,
    _folder: TempDir,
}

impl Bed {
    fn new(spec: LimitSpec) -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let database = Database::open(folder.path(), CACHE_BYTES)?;
        let clock = SystemClock::shared();
        let limits = Limits::open(&database, Arc::clone(&clock))?;
        limits.create(spec)?;
        Ok(Self {
            limits,
            clock,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?,
            _folder: folder,
        })
    }
}

fn request(class: Class, client: usize) -> Acquire {
    Acquire::new("l", 1, class, format!("c{client}"))
}

/// A limit with every quota, none of which is reached.
fn roomy() -> LimitSpec {
    LimitSpec {
        rate: Some(Rate {
            permits: MAX_PERMITS_PER_SECOND,
            per: Duration::from_secs(1),
        }),
        burst: Some(MAX_PERMITS_PER_SECOND),
        concurrent: Some(1_000),
        daily: Some(WindowQuota {
            permits: 1_000_000_000,
            grain: Grain::Daily,
            zone: chrono_tz::Tz::UTC,
        }),
        live_share_percent: 20,
        ..LimitSpec::new("l")
    }
}

/// One caller alone: permits a second, and the 99th percentile of its waits.
pub(crate) fn permits(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let bed = Bed::new(roomy())?;
    let mut rates = Vec::new();
    let mut waits = Vec::new();
    for _ in 0..=scale.rounds {
        let (rate, wait) = bed.runtime.block_on(round(&bed, scale.permits))?;
        rates.push(rate);
        waits.push(wait);
    }
    // The first round is for warmth.
    report.value(
        "permits in process, one caller",
        Value::of(&rates[1..], "permits/s"),
        Goal::AtLeast(200_000.0),
        "rate, concurrent calls, day and share",
    )?;
    report.value(
        "p99 wait without contention",
        Value::of(&waits[1..], "µs"),
        Goal::None,
        "to the clock's microsecond, of 10 permits each",
    )
}

/// Permits that are timed together: one takes less than the clock can tell.
const TIMED_TOGETHER: usize = 10;

async fn round(bed: &Bed, permits: usize) -> Result<(f64, f64), Fault> {
    let mut waits = Vec::with_capacity(permits / TIMED_TOGETHER);
    let start = bed.clock.monotonic_micros();
    let mut last = start;
    for _ in 0..permits / TIMED_TOGETHER {
        for _ in 0..TIMED_TOGETHER {
            bed.limits.acquire(request(Class::Backfill, 0)).await?;
        }
        let now = bed.clock.monotonic_micros();
        waits.push(now - last);
        last = now;
    }
    let seconds = (last - start) as f64 / 1e6;
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100] as f64 / TIMED_TOGETHER as f64;
    Ok((permits as f64 / seconds, p99))
}

/// Many callers who always want more: what they get of what is allowed.
pub(crate) fn saturated(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let bed = Bed::new(LimitSpec {
        rate: Some(Rate {
            permits: SATURATED_RATE,
            per: Duration::from_secs(1),
        }),
        ..LimitSpec::new("l")
    })?;
    let uses = (0..scale.rounds.min(3))
        .map(|_| bed.runtime.block_on(saturate(&bed, scale.seconds)))
        .collect::<Result<Vec<_>, _>>()?;
    report.value(
        "use of a saturated rate",
        Value::of(&uses, "of what is allowed"),
        Goal::AtLeast(0.98),
        &format!("{CALLERS} callers, {SATURATED_RATE}/s, the burst counted as allowed"),
    )
}

async fn saturate(bed: &Bed, seconds: u64) -> Result<f64, Fault> {
    let burst = bed.limits.get("l")?.spec.effective_burst().unwrap_or(0);
    // The bucket is full after this.
    bed.clock.sleep(Duration::from_millis(500)).await;
    let start = bed.clock.monotonic_micros();
    let end = start + i64::try_from(seconds * 1_000_000)?;
    let tasks: Vec<_> = (0..CALLERS)
        .map(|client| {
            let (limits, clock) = (bed.limits.clone(), Arc::clone(&bed.clock));
            tokio::spawn(async move {
                let mut granted = 0_u64;
                while clock.monotonic_micros() < end {
                    limits.acquire(request(Class::Backfill, client)).await?;
                    granted += u64::from(clock.monotonic_micros() < end);
                }
                Ok::<u64, Fault>(granted)
            })
        })
        .collect();
    let mut granted = 0;
    for task in tasks {
        granted += task.await??;
    }
    let allowed = f64::from(burst) + seconds as f64 * f64::from(SATURATED_RATE);
    let used = granted as f64 / allowed;
    if used > 1.0 {
        return Err(format!("{granted} permits of {allowed} allowed").into());
    }
    Ok(used)
}
