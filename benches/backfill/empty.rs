//! A partition that selects nothing: what the journal, the events and the commits cost. And how soon the first one runs.

use hindcast::pb;

use crate::{
    Fault, Scale,
    bed::{Loaded, NOTHING, wall_seconds, year_of},
    flights::POINT_IN_TIME,
    report::{Goal, Report, Value},
};

const PARTITIONS: f64 = 365.0;

pub(crate) async fn overhead(
    scale: &Scale,
    loaded: &Loaded,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut server = loaded.serve().await?;
    server.run(year_of(NOTHING, 365)).await?;
    let (mut cpu_ms, mut per_second) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds.max(3) {
        let (ended, cpu_seconds) = server.run(year_of(NOTHING, 365)).await?;
        cpu_ms.push(cpu_seconds * 1e3 / PARTITIONS);
        per_second.push(PARTITIONS / wall_seconds(&ended)?);
    }
    let detail = "a source and two entity types, WHERE false";
    report.value(
        "empty partition, CPU",
        Value::of(&cpu_ms, "ms"),
        Goal::AtMost(1.0),
        detail,
    )?;
    report.value(
        "empty partitions",
        Value::of(&per_second, "/s"),
        Goal::AtLeast(1_000.0),
        "wall: other work on the machine counts",
    )
}

/// From sending the request to seeing a partition run, by asking again and again.
pub(crate) async fn until_running(
    scale: &Scale,
    loaded: &Loaded,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut server = loaded.serve().await?;
    let (mut cold, mut millis) = (Vec::new(), Vec::new());
    for round in 0..=scale.rounds.max(5) {
        let started = server.clock.monotonic_micros();
        let name = server.create(year_of(POINT_IN_TIME, 365)).await?;
        while !has_begun(&server.get(&name).await?) {}
        let spent = server.clock.monotonic_micros() - started;
        let request = pb::CancelBackfillRequest { name: name.clone() };
        server.backfills.cancel_backfill(request).await?;
        while server.get(&name).await?.end_time.is_none() {
            server
                .clock
                .sleep(std::time::Duration::from_millis(20))
                .await;
        }
        let spent = spent as f64 / 1e3;
        match round {
            0 => cold.push(spent),
            _ => millis.push(spent),
        }
    }
    report.value(
        "the same, a new server's first",
        Value::of(&cold, "ms"),
        Goal::None,
        "it opens 365 source files to see their columns",
    )?;
    report.value(
        "request to first partition running",
        Value::of(&millis, "ms"),
        Goal::AtMost(20.0),
        "365 partitions planned and frozen",
    )
}

fn has_begun(backfill: &pb::Backfill) -> bool {
    let counts = backfill.partition_counts.unwrap_or_default();
    counts.running + counts.succeeded > 0
}
