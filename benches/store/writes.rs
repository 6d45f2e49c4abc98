//! Durable single writes by many writers against one thread that inserts what they send and flushes once per drain.

use std::sync::Arc;

use hindcast::{
    kv::Database,
    store::{Store, Until},
    time::Clock,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use crate::{
    Fault, Scale,
    bed::{Bare, Bed, batch, put},
    report::{Goal, Report, Rounds},
};

const WRITERS: usize = 64;

/// Keys and values of one write, and who waits for it.
type Job = (Vec<(Vec<u8>, Vec<u8>)>, oneshot::Sender<()>);

pub(crate) fn durable(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let bed = Bed::new()?;
    // What one write leaves behind: a log record and a page.
    bed.load(std::iter::once(vec![put("0-0-0", 0.0, 0, Until::Forever)]))?;
    let page = bed.heads()?.first().ok_or("no page")?.1.len();
    let record = (bed.database.keyspace("log")?.prefix(&[]).next())
        .ok_or("the store keeps its log elsewhere")??
        .1
        .len();
    for (what, values, goal) in [
        (
            "durable writes, 64 writers",
            vec![record, page],
            Goal::AtLeast(0.7),
        ),
        ("the same against one insert each", vec![page], Goal::None),
    ] {
        let bare = Bare::new()?;
        let mut round = 0;
        let mut ours = 0;
        let rounds = Rounds::measure(
            scale.rounds,
            || {
                round += 1;
                bare_writes(
                    &bed.runtime,
                    &bed.clock,
                    &bare.database,
                    (round, &values),
                    scale.writing_secs,
                )
            },
            || {
                ours += 1;
                let prefix = format!("{ours}-{}", values.len());
                store_writes(
                    &bed.runtime,
                    &bed.clock,
                    &bed.store,
                    &prefix,
                    scale.writing_secs,
                )
            },
        )?;
        let detail = format!(
            "{:.0}/s against {:.0}/s with {} bytes each",
            1e6 / rounds.ours(),
            1e6 / rounds.bare(),
            values.iter().sum::<usize>()
        );
        report.ratio(what, rounds.speed(), goal, &detail)?;
    }
    Ok(())
}

/// Microseconds per write.
fn store_writes(
    runtime: &Runtime,
    clock: &Arc<dyn Clock>,
    store: &Store,
    prefix: &str,
    secs: f64,
) -> Result<f64, Fault> {
    let start = clock.monotonic_micros();
    let deadline = start + (secs * 1e6) as i64;
    let writing = (0..WRITERS).map(|writer| {
        let (store, clock) = (store.clone(), Arc::clone(clock));
        let prefix = format!("{prefix}-{writer}");
        runtime.spawn(async move {
            let mut count = 0;
            while clock.monotonic_micros() < deadline {
                let mutation = put(&format!("{prefix}-{count}"), 1.0, 0, Until::Forever);
                store.write(batch(vec![mutation])).await?;
                count += 1;
            }
            Ok::<usize, Fault>(count)
        })
    });
    let count = total(runtime, writing.collect())?;
    Ok((clock.monotonic_micros() - start) as f64 / count as f64)
}

fn total(
    runtime: &Runtime,
    tasks: Vec<tokio::task::JoinHandle<Result<usize, Fault>>>,
) -> Result<usize, Fault> {
    runtime.block_on(async {
        let mut count = 0;
        for task in tasks {
            count += task.await??;
        }
        Ok(count)
    })
}

fn bare_writes(
    runtime: &Runtime,
    clock: &Arc<dyn Clock>,
    database: &Database,
    (round, sizes): (usize, &[usize]),
    secs: f64,
) -> Result<f64, Fault> {
    let (sender, mut jobs) = mpsc::channel::<Job>(256);
    let (keyspace, owner) = (database.keyspace("bare")?, database.clone());
    let writer = std::thread::spawn(move || -> Result<(), Fault> {
        while let Some(first) = jobs.blocking_recv() {
            let mut waiting = vec![first];
            while let Ok(job) = jobs.try_recv() {
                waiting.push(job);
            }
            for (key, value) in waiting.iter().flat_map(|(entries, _)| entries) {
                keyspace.insert(key, value)?;
            }
            owner.flush()?;
            for (_, done) in waiting {
                // Whoever has gone wants no answer.
                let _ = done.send(());
            }
        }
        Ok(())
    });
    let start = clock.monotonic_micros();
    let deadline = start + (secs * 1e6) as i64;
    let writing = (0..WRITERS).map(|writer| {
        let (sender, clock, sizes) = (sender.clone(), Arc::clone(clock), sizes.to_vec());
        runtime.spawn(async move {
            let mut count = 0;
            while clock.monotonic_micros() < deadline {
                let entry = |(index, size): (usize, &usize)| {
                    let key = format!("{index}-station-{round}-{writer}-{count}").into_bytes();
                    (key, vec![b'v'; *size])
                };
                let (done, answer) = oneshot::channel();
                sender
                    .send((sizes.iter().enumerate().map(entry).collect(), done))
                    .await?;
                answer.await?;
                count += 1;
            }
            Ok::<usize, Fault>(count)
        })
    });
    let writing = writing.collect();
    drop(sender);
    let count = total(runtime, writing)?;
    let micros = (clock.monotonic_micros() - start) as f64 / count as f64;
    writer
        .join()
        .map_err(|_| "the baseline's thread panicked")??;
    Ok(micros)
}
