//! A long backfill: does a partition cost at the end what it cost at the start?

use std::sync::Arc;

use hindcast::{pb, time::Clock};
use prost_types::Timestamp;

use crate::{
    Fault, Scale,
    bed::{Server, micros},
    report::{Goal, Report, Value},
};

/// 2013-01-01T00:00:00Z.
const FROM_SECONDS: i64 = 1_356_998_400;

/// How far it was when it was looked at.
struct Look {
    finished: u32,
    micros: i64,
    cpu_seconds: f64,
    resident_mb: f64,
}

pub(crate) async fn many_partitions(
    scale: &Scale,
    clock: &Arc<dyn Clock>,
    report: &mut Report,
) -> Result<(), Fault> {
    for (what, sql) in [
        ("empty", "SELECT 1 AS v WHERE false"),
        ("one row", "SELECT 1 AS v"),
    ] {
        let looks = run(scale.many, sql, clock).await?;
        describe(what, scale.many, &looks, report)?;
    }
    Ok(())
}

async fn run(count: u32, sql: &str, clock: &Arc<dyn Clock>) -> Result<Vec<Look>, Fault> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(folder.path().join("data"), clock).await?;
    let transform = pb::Transform {
        name: "hours".to_owned(),
        sql: sql.to_owned(),
        output_table: "hours".to_owned(),
        grain: pb::Grain::Hourly.into(),
        ..Default::default()
    };
    server.register(transform).await?;
    let spec = |first: u32, count: u32| {
        let instant = |hours: u32| Timestamp {
            seconds: FROM_SECONDS + i64::from(hours) * 3_600,
            nanos: 0,
        };
        pb::BackfillSpec {
            transform: "hours".to_owned(),
            from: Some(instant(first)),
            to: Some(instant(first + count)),
            knowledge: pb::Knowledge::AsKnownNow.into(),
            ..Default::default()
        }
    };
    // Before the others: warm, and a table that has snapshots already.
    server.run(spec(count, 200)).await?;
    let name = server.create(spec(0, count)).await?;
    let mut looks = Vec::new();
    server
        .succeeded(&name, |server, backfill| {
            let counts = backfill.partition_counts.unwrap_or_default();
            looks.push(Look {
                finished: counts.succeeded,
                micros: server.clock.monotonic_micros(),
                cpu_seconds: server.cpu_seconds()?,
                resident_mb: server.resident_mb()?,
            });
            Ok(())
        })
        .await?;
    let ended = server.get(&name).await?;
    let wall = ended.create_time.as_ref().zip(ended.end_time.as_ref());
    let wall = wall.map_or(0, |(from, to)| micros(to) - micros(from));
    println!(
        "{count} partitions of {sql:?}: {:.1} s wall, {:.0}/s",
        wall as f64 / 1e6,
        f64::from(count) * 1e6 / wall as f64
    );
    Ok(looks)
}

/// CPU milliseconds and wall milliseconds of a partition between two counts of finished ones.
fn cost(looks: &[Look], from: u32, to: u32) -> Option<(f64, f64)> {
    let first = looks.iter().rfind(|look| look.finished <= from)?;
    let last = looks.iter().find(|look| look.finished >= to)?;
    let count = f64::from(last.finished - first.finished);
    Some((
        (last.cpu_seconds - first.cpu_seconds) * 1e3 / count,
        (last.micros - first.micros) as f64 / 1e3 / count,
    ))
}

fn describe(what: &str, count: u32, looks: &[Look], report: &mut Report) -> Result<(), Fault> {
    let tenth = count / 10;
    // The first tenth is the warming's.
    let (first_cpu, first_wall) = cost(looks, 0, tenth).ok_or("too few looks")?;
    let (last_cpu, last_wall) = cost(looks, count - tenth, count).ok_or("too few looks")?;
    let detail = format!(
        "{first_cpu:.2} to {last_cpu:.2} ms CPU, {first_wall:.2} to {last_wall:.2} ms wall a partition"
    );
    let ratio = last_cpu / first_cpu;
    report.ratio(
        &format!("{count} partitions, {what}: last by first tenth"),
        [ratio; 3],
        Goal::AtMost(1.2),
        &detail,
    )?;
    let resident = |finished: u32| {
        let look = looks.iter().find(|look| look.finished >= finished);
        look.map_or(f64::NAN, |look| look.resident_mb)
    };
    let (early, late) = (resident(tenth), resident(count));
    report.value(
        &format!("{count} partitions, {what}: memory grown"),
        Value::of(&[late - early], "MB"),
        Goal::AtMost(40.0),
        &format!("{early:.0} MB after the first tenth, {late:.0} MB at the end"),
    )
}
