//! What backfills cost, on the real binary: CPU and memory are those of the server's process.
//!
//! `cargo bench --bench backfill [-- [--quick] [ROW…]]`; without rows all of them: empty, year, first, many, idle, latency,
//! watchers.
//! `--quick` takes under a minute. Needs the flights beside the checkout, as `tests/it/flights.rs` does; `year` also a Python
//! with `benches/peers/requirements.txt`, named by `HINDCAST_BENCH_PYTHON` (else `benches/peers/venv`).
//! `HINDCAST_BENCH_FIGURES` names a file that each figure is appended to, one JSON object per line.

#![expect(
    clippy::expect_used,
    reason = "the loader and the rig are the tests' own"
)]

mod bed;
mod empty;
#[path = "../../tests/it/flights.rs"]
mod flights;
mod idle;
mod latency;
mod many;
#[expect(dead_code, reason = "the store's benches use more of it")]
#[path = "../store/report.rs"]
mod report;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/support.rs"]
mod support;
mod watchers;
mod year;

use std::sync::Arc;

use hindcast::time::{Clock, SystemClock};

use crate::{bed::Loaded, report::Report};

/// Whatever ends a run.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// How much is done.
pub(crate) struct Scale {
    /// Times that each thing is measured.
    pub(crate) rounds: usize,
    /// Days of the year of flights.
    pub(crate) days: u32,
    /// Partitions of the long backfill.
    pub(crate) many: u32,
    /// Watchers of one backfill.
    pub(crate) watchers: usize,
    /// Seconds of doing nothing.
    pub(crate) idle_secs: u64,
    /// Reads of which the slowest are looked for.
    pub(crate) reads: usize,
}

impl Scale {
    fn new(quick: bool) -> Self {
        if quick {
            Self {
                rounds: 1,
                days: 40,
                many: 3_000,
                watchers: 200,
                idle_secs: 2,
                reads: 1_000,
            }
        } else {
            Self {
                rounds: 5,
                days: 365,
                many: 10_000,
                watchers: 1_000,
                idle_secs: 10,
                reads: 10_000,
            }
        }
    }
}

const ROWS: [&str; 7] = [
    "idle", "latency", "empty", "first", "year", "many", "watchers",
];

fn main() -> Result<(), Fault> {
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|text| text != "--bench")
        .collect();
    let runtime = tokio::runtime::Runtime::new()?;
    let clock = SystemClock::shared();
    if let Some((first, rest)) = arguments.split_first()
        && first == watchers::CROWD
    {
        return runtime.block_on(Box::pin(watchers::crowd(rest)));
    }
    runtime.block_on(Box::pin(measure(&arguments, clock)))
}

async fn measure(arguments: &[String], clock: Arc<dyn Clock>) -> Result<(), Fault> {
    let scale = Scale::new(arguments.iter().any(|text| text == "--quick"));
    let named: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|text| !text.starts_with("--"))
        .collect();
    if let Some(unknown) = named.iter().find(|row| !ROWS.contains(row)) {
        return Err(format!("there is no row {unknown:?}").into());
    }
    let wants = |row: &str| named.is_empty() || named.contains(&row);
    let mut report = Report::new()?;
    if wants("idle") {
        idle::idle_server(&scale, &clock, &mut report).await?;
    }
    if wants("latency") {
        latency::beside_a_backfill(&scale, &clock, &mut report).await?;
    }
    if wants("many") {
        many::many_partitions(&scale, &clock, &mut report).await?;
    }
    let of_flights = ["empty", "first", "year", "watchers"];
    if of_flights.into_iter().any(wants) {
        let loaded = Loaded::flights(&clock).await?;
        if wants("empty") {
            empty::overhead(&scale, &loaded, &mut report).await?;
        }
        if wants("first") {
            empty::until_running(&scale, &loaded, &mut report).await?;
        }
        if wants("year") {
            year::beside_duckdb(&scale, &loaded, &mut report).await?;
        }
        if wants("watchers") {
            watchers::many_watchers(&scale, &loaded, &mut report).await?;
        }
    }
    report.print();
    Ok(())
}
