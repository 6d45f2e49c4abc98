//! The year of flights beside one DuckDB script that does the same day by day.

use std::{path::Path, process::Command};

use crate::{
    Fault, Scale,
    bed::{Loaded, wall_seconds, year_of},
    flights::{self, POINT_IN_TIME},
    report::{Goal, Report, Rounds, Value},
};

/// Seconds of CPU and of the wall's clock.
type Spent = (f64, f64);

pub(crate) async fn beside_duckdb(
    scale: &Scale,
    loaded: &Loaded,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut server = loaded.serve().await?;
    server.run(year_of(POINT_IN_TIME, scale.days)).await?;
    let (mut ours, mut sides) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds.min(3) {
        let theirs = duckdb(scale.days)?;
        let (ended, cpu_seconds) = server.run(year_of(POINT_IN_TIME, scale.days)).await?;
        ours.push(cpu_seconds * 1e3 / f64::from(scale.days));
        if let Some((cpu, wall)) = theirs {
            println!(
                "{} days: DuckDB {cpu:.2} s CPU, {wall:.2} s wall; hindcast {cpu_seconds:.2} s CPU, {:.2} s wall",
                scale.days,
                wall_seconds(&ended)?
            );
            sides.push((cpu, cpu_seconds));
        }
    }
    report.value(
        "a day of flights, CPU",
        Value::of(&ours, "ms"),
        Goal::None,
        "both histories joined at each flight's instant",
    )?;
    if sides.is_empty() {
        println!("DuckDB is left out: HINDCAST_BENCH_PYTHON names no Python that has it");
        return Ok(());
    }
    let sides = Rounds::of(sides);
    report.ratio(
        "CPU by that of a DuckDB script",
        sides.cost(),
        Goal::AtMost(1.5),
        &format!(
            "{} days, {:.2} s by {:.2} s",
            scale.days,
            sides.ours(),
            sides.bare()
        ),
    )
}

/// What the script's loop spent; `None`: there is no DuckDB here.
fn duckdb(days: u32) -> Result<Option<Spent>, Fault> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let python = std::env::var_os("HINDCAST_BENCH_PYTHON")
        .unwrap_or_else(|| peers.join("venv/bin/python").into());
    let has_duckdb = Command::new(&python).args(["-c", "import duckdb"]).output();
    if !has_duckdb.is_ok_and(|output| output.status.success()) {
        return Ok(None);
    }
    let output = Command::new(&python)
        .arg(peers.join("year.py"))
        .arg(flights::data())
        .args(["--days", &days.to_string()])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let figure: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let seconds = |name: &str| figure[name].as_f64().ok_or("no figure");
    Ok(Some((
        seconds("loop_cpu_seconds")?,
        seconds("loop_wall_seconds")?,
    )))
}
