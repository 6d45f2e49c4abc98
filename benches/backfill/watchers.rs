//! A crowd that watches one backfill: in a process of its own and at the lowest priority, as if it were elsewhere.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::future::try_join_all;
use hindcast::pb::{
    self, backfill_service_client::BackfillServiceClient, watch_backfill_response::Message,
};

use crate::{
    Fault, Scale,
    bed::{Loaded, Server, connect, micros, year_of},
    flights::POINT_IN_TIME,
    report::{Goal, Report, Rounds, Value},
};

/// The first argument of the crowd's process.
pub(crate) const CROWD: &str = "crowd";
const CONNECTIONS: usize = 20;
/// Days at once: the server's cores are busy.
const AT_ONCE: u32 = 4;

pub(crate) async fn many_watchers(
    scale: &Scale,
    loaded: &Loaded,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut server = loaded.serve().await?;
    watched(&mut server, scale.days, 0).await?;
    let (mut wall, mut cpu, mut lost) = (Vec::new(), Vec::new(), 0);
    for _ in 0..scale.rounds.min(3) {
        let alone = watched(&mut server, scale.days, 0).await?;
        let crowded = watched(&mut server, scale.days, scale.watchers).await?;
        wall.push((alone.wall_ms, crowded.wall_ms));
        cpu.push((crowded.cpu_seconds - alone.cpu_seconds) * 1e3 / f64::from(scale.days));
        lost += crowded.lost;
    }
    let wall = Rounds::of(wall);
    let detail = format!(
        "{:.2} ms a partition by {:.2} ms, of the wall's clock",
        wall.ours(),
        wall.bare()
    );
    let what = format!("time with {} watchers by none", scale.watchers);
    report.ratio(&what, wall.cost(), Goal::AtMost(1.1), &detail)?;
    report.value(
        "events that a watcher lost",
        Value::of(&[lost as f64], ""),
        Goal::AtMost(0.0),
        "missing, doubled or out of order",
    )?;
    report.value(
        "watchers, CPU a partition",
        Value::of(&cpu, "ms"),
        Goal::None,
        "of the server, until the last watcher has the last event",
    )
}

struct Run {
    wall_ms: f64,
    cpu_seconds: f64,
    lost: u64,
}

/// Runs the year with `watchers`, who are all there before most of it starts.
async fn watched(server: &mut Server, days: u32, watchers: usize) -> Result<Run, Fault> {
    let mut spec = year_of(POINT_IN_TIME, days);
    spec.max_active_partitions = AT_ONCE;
    let name = server.create(spec).await?;
    let request = pb::PauseBackfillRequest { name: name.clone() };
    server.backfills.pause_backfill(request).await?;
    let begun = loop {
        let counts = server
            .get(&name)
            .await?
            .partition_counts
            .unwrap_or_default();
        if counts.running == 0 {
            break counts.succeeded;
        }
        server.clock.sleep(Duration::from_millis(10)).await;
    };
    let crowd = match watchers {
        0 => None,
        _ => Some(Crowd::gather(&server.address, &name, watchers).await?),
    };
    let before = server.cpu_seconds()?;
    let started = server.clock.now_micros();
    let request = pb::ResumeBackfillRequest { name: name.clone() };
    server.backfills.resume_backfill(request).await?;
    let ended = server.succeeded(&name, |_, _| Ok(())).await?;
    let lost = match crowd {
        None => 0,
        Some(crowd) => crowd.lost(ended.last_sequence).await?,
    };
    let end = ended.end_time.as_ref().ok_or("no end")?;
    Ok(Run {
        wall_ms: (micros(end) - started) as f64 / 1e3 / f64::from(days - begun),
        cpu_seconds: server.cpu_seconds()? - before,
        lost,
    })
}

/// The process that the watchers live in.
struct Crowd {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
    count: usize,
}

impl Crowd {
    /// Returns once all of them watch.
    async fn gather(address: &str, name: &str, count: usize) -> Result<Self, Fault> {
        let mut process = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .args([CROWD, address, name, &count.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no standard output")?;
        let (lines, ready) = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            lines.read_line(&mut line).map(|_| (lines, line))
        })
        .await??;
        if ready.trim() != "watching" {
            return Err(format!("the watchers said {ready:?}").into());
        }
        Ok(Self {
            process,
            lines,
            count,
        })
    }

    /// Of all watchers together, once all of them saw the end.
    async fn lost(self, last_sequence: u64) -> Result<u64, Fault> {
        let Self {
            mut process,
            mut lines,
            count,
        } = self;
        let seen = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            process.wait().map(|_| line)
        })
        .await??;
        let seen: u64 = seen.trim().parse()?;
        Ok((last_sequence * count as u64).abs_diff(seen))
    }
}

/// The crowd itself: `ADDRESS BACKFILL COUNT`. Says "watching", then how many events came in order, each once.
pub(crate) async fn crowd(arguments: &[String]) -> Result<(), Fault> {
    let [address, name, count] = arguments else {
        return Err("the crowd needs an address, a backfill and a count".into());
    };
    let count: usize = count.parse()?;
    let mut streams = Vec::with_capacity(count);
    for connection in 0..CONNECTIONS {
        let mut client = BackfillServiceClient::new(connect(address).await?);
        for _ in (connection..count).step_by(CONNECTIONS) {
            let request = pb::WatchBackfillRequest {
                name: name.clone(),
                after_sequence: 0,
            };
            streams.push(client.watch_backfill(request).await?.into_inner());
        }
    }
    println!("watching");
    std::io::stdout().flush()?;
    let watching = streams
        .into_iter()
        .map(|stream| async { tokio::spawn(events_in_order(stream)).await? });
    let seen: u64 = try_join_all(watching).await?.into_iter().sum();
    println!("{seen}");
    Ok(())
}

async fn events_in_order(
    mut stream: tonic::Streaming<pb::WatchBackfillResponse>,
) -> Result<u64, Fault> {
    let (mut last, mut in_order) = (0, 0);
    while let Some(item) = stream.message().await? {
        if let Some(Message::Event(event)) = item.message {
            in_order += u64::from(event.sequence == last + 1);
            last = event.sequence;
        }
    }
    Ok(in_order)
}
