//! What a backfill costs: the year 2013 of New York's flights, 365 daily partitions and 336,776 rows, by the transform whose
//! answers the tests check, and by one that selects nothing: the overhead of a partition.
//!
//! `cargo bench --bench backfill`. Needs the data beside the checkout, as `tests/it/flights.rs` does.

#![expect(
    clippy::expect_used,
    reason = "the loader and the rig are the tests' own"
)]

#[path = "../tests/it/flights.rs"]
mod flights;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/support.rs"]
mod support;

use std::sync::Arc;

use hindcast::{
    pb::Knowledge,
    time::{Clock, SystemClock},
};

use crate::{
    flights::{POINT_IN_TIME, VERSIONS, load, point_in_time, transform, year},
    support::Service,
};

type Fault = Box<dyn std::error::Error>;

const ROUNDS: usize = 3;
const PARTITIONS: f64 = 365.0;
const NOTHING: &str = "nothing";

fn main() -> Result<(), Fault> {
    tokio::runtime::Runtime::new()?.block_on(Box::pin(measure()))
}

async fn measure() -> Result<(), Fault> {
    let clock = SystemClock::shared();
    let mut service = Service::start(Arc::clone(&clock)).await;
    let started = Spent::now(&*clock)?;
    load(&mut service).await;
    let spent = Spent::now(&*clock)?.since(&started);
    println!(
        "load: {VERSIONS} versions, {:.1} s wall, {:.1} s CPU, client included",
        spent.wall_seconds, spent.cpu_seconds
    );
    let nothing = "SELECT row_id FROM flights WHERE false";
    for (name, sql) in [
        (POINT_IN_TIME, point_in_time()),
        (NOTHING, nothing.to_owned()),
    ] {
        service.register(transform(name, &sql)).await;
    }
    println!(
        "{:<12} {:>5} {:>8} {:>8} {:>13} {:>18} {:>17}",
        "transform",
        "round",
        "wall s",
        "CPU s",
        "partitions/s",
        "ms wall/partition",
        "ms CPU/partition"
    );
    for round in 1..=ROUNDS {
        for name in [POINT_IN_TIME, NOTHING] {
            let started = Spent::now(&*clock)?;
            service.run_well(year(name, Knowledge::AsKnownNow)).await;
            let spent = Spent::now(&*clock)?.since(&started);
            println!(
                "{name:<12} {round:>5} {:>8.2} {:>8.2} {:>13.1} {:>18.2} {:>17.2}",
                spent.wall_seconds,
                spent.cpu_seconds,
                PARTITIONS / spent.wall_seconds,
                spent.wall_seconds * 1e3 / PARTITIONS,
                spent.cpu_seconds * 1e3 / PARTITIONS,
            );
        }
    }
    service.stop().await;
    Ok(())
}

/// Seconds of the wall's clock, and of all threads of this process.
struct Spent {
    wall_seconds: f64,
    cpu_seconds: f64,
}

impl Spent {
    fn now(clock: &dyn Clock) -> Result<Self, Fault> {
        Ok(Self {
            wall_seconds: clock.monotonic_micros() as f64 / 1e6,
            cpu_seconds: cpu_seconds()?,
        })
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            wall_seconds: self.wall_seconds - earlier.wall_seconds,
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
        }
    }
}

/// User and system time from `/proc/self/stat`, which counts in hundredths of a second.
fn cpu_seconds() -> Result<f64, Fault> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name in parentheses, which may hold spaces.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let (user, system): (f64, f64) = (fields[11].parse()?, fields[12].parse()?);
    Ok((user + system) / TICKS_PER_SECOND)
}
