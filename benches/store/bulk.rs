//! A type of many entities: loading it, scanning it into Arrow, its bytes on disk.

use futures::{StreamExt as _, TryStreamExt as _};
use hindcast::{
    kv::{Database, Entry},
    store::Until,
    time::ValidTime,
};

use crate::{
    Fault, Scale,
    bed::{Bare, Bed, HOUR, OWN_BYTES, batch, id, put, scattered, time_each, until},
    report::{Goal, Report, Rounds},
};

const BATCH: usize = 1_000;
/// Batches that a bulk load has under way.
const IN_FLIGHT: usize = 4;
/// Loading is measured in so many equal parts.
const PARTS: usize = 5;
const SCAN_ROWS: usize = 8_192;

pub(crate) fn ingest_scan_disk(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let count = (scale.bulk_entities / (BATCH * PARTS)).max(1) * BATCH * PARTS;
    let bed = Bed::new()?;
    let empty_bytes = bed.database.size_on_disk_bytes()?;
    let bare = Bare::new()?;
    let heads = bare.database.keyspace("heads")?;
    let mut logged = 0;
    let mut part = 0;
    // Both sides part by part, so that both grow alike: what the store has written is what the baseline then writes.
    let mut sides: Vec<(f64, f64)> = Vec::new();
    while part < PARTS {
        let entities: Vec<usize> = (part * count / PARTS..(part + 1) * count / PARTS)
            .map(|step| scattered(step, count))
            .collect();
        let ours = time_each(&*bed.clock, entities.len(), || {
            let batches = entities.chunks(BATCH).map(|chunk| {
                chunk
                    .iter()
                    .map(|&entity| put(&id(entity), entity as f64, 0, Until::Forever))
                    .collect()
            });
            let writing = futures::stream::iter(batches)
                .map(|mutations| bed.store.write(batch(mutations)))
                .buffered(IN_FLIGHT)
                .try_for_each(|_| async { Ok(()) });
            Ok(bed.runtime.block_on(writing)?)
        })?;
        let log = log_after(&bed.database, &mut logged)?;
        let pages = pages_of(&bed.database, &entities)?;
        let records = log.len().div_ceil(entities.len() / BATCH);
        let log_keyspace = bare.database.keyspace("log")?;
        let theirs = time_each(&*bed.clock, entities.len(), || {
            for (record, pages) in log.chunks(records).zip(pages.chunks(BATCH)) {
                for (key, value) in record {
                    log_keyspace.insert(key, value)?;
                }
                for (key, value) in pages {
                    heads.insert(key, value)?;
                }
                bare.database.flush()?;
            }
            Ok(())
        })?;
        sides.push((theirs, ours));
        part += 1;
    }
    let rounds = Rounds::of(sides);
    let detail = format!(
        "{:.0}/s against {:.0}/s, {count} versions",
        1e6 / rounds.ours(),
        1e6 / rounds.bare()
    );
    report.ratio(
        "bulk ingest, batches of 1,000",
        rounds.speed(),
        Goal::AtLeast(0.4),
        &detail,
    )?;
    disk(&bed, &bare.database, empty_bytes, count, report)?;
    scan(&bed, &heads, count, scale, report)?;
    disk_by_shape(count, report)
}

/// The log's entries that have come since.
fn log_after(database: &Database, logged: &mut usize) -> Result<Vec<Entry>, Fault> {
    let log = database.keyspace("log")?;
    let entries: Vec<Entry> = log.prefix(&[]).skip(*logged).collect::<Result<_, _>>()?;
    *logged += entries.len();
    Ok(entries)
}

/// The pages of these entities, in this order.
fn pages_of(database: &Database, entities: &[usize]) -> Result<Vec<Entry>, Fault> {
    let all = database.keyspace("heads")?;
    let mut by_id = std::collections::HashMap::with_capacity(entities.len());
    for entry in all.prefix(&[]) {
        let (key, value) = entry?;
        // The id is the key's own text; ids have one length.
        let text = String::from_utf8_lossy(&key);
        if let Some(at) = text.rfind('S') {
            by_id.insert(text[at..at + 9].to_owned(), (key.clone(), value));
        }
    }
    let page = |entity: &usize| {
        by_id
            .remove(&id(*entity))
            .ok_or_else(|| Fault::from("a page is not in heads"))
    };
    entities.iter().map(page).collect()
}

/// What the same versions take on disk in other shapes and orders than the load above: the engine writes whole nodes of its
/// own, so what lies together should be written together.
fn disk_by_shape(count: usize, report: &mut Report) -> Result<(), Fault> {
    type Order = fn(step: usize, count: usize) -> (usize, usize);
    let orders: [(&str, Order); 4] = [
        ("one version each, ids in order", |step, _| (step, 0)),
        ("10 versions each, entity by entity", |step, _| {
            (step / 10, step % 10)
        }),
        ("100 versions each, entity by entity", |step, _| {
            (step / 100, step % 100)
        }),
        ("100 versions each, hour by hour", |step, count| {
            (step % (count / 100), step / (count / 100))
        }),
    ];
    for (name, order) in orders {
        let bed = Bed::new()?;
        let empty_bytes = bed.database.size_on_disk_bytes()?;
        let steps: Vec<usize> = (0..count).collect();
        bed.load(steps.chunks(BATCH).map(|chunk| {
            let version = |&step: &usize| {
                let (entity, hour) = order(step, count);
                put(
                    &id(entity),
                    step as f64,
                    hour as i64 * HOUR,
                    until((hour as i64 + 1) * HOUR),
                )
            };
            chunk.iter().map(version).collect()
        }))?;
        let (ratio, detail) = on_disk(&bed, empty_bytes, count)?;
        report.ratio(
            &format!("bytes on disk: {name}"),
            [ratio; 3],
            Goal::AtMost(4.0),
            &detail,
        )?;
    }
    Ok(())
}

fn disk(
    bed: &Bed,
    bare: &Database,
    empty_bytes: u64,
    count: usize,
    report: &mut Report,
) -> Result<(), Fault> {
    let (ratio, detail) = on_disk(bed, empty_bytes, count)?;
    let theirs = bare.size_on_disk_bytes()?.saturating_sub(empty_bytes) as f64 / count as f64;
    report.ratio(
        "bytes on disk: one version each, ids at random",
        [ratio; 3],
        Goal::AtMost(4.0),
        &format!("{detail}; bare sled takes {theirs:.0} for the same"),
    )
}

/// How many times the values' own bytes the store takes, and what they are made of.
fn on_disk(bed: &Bed, empty_bytes: u64, count: usize) -> Result<(f64, String), Fault> {
    let used = bed.database.size_on_disk_bytes()?;
    let ours = used.saturating_sub(empty_bytes) as f64 / count as f64;
    let mut stored = [0usize; 2];
    for (sum, keyspaces) in stored
        .iter_mut()
        .zip([&["log"][..], &["heads", "roots", "pages"]])
    {
        for keyspace in keyspaces {
            for entry in bed.database.keyspace(keyspace)?.prefix(&[]) {
                let (key, value) = entry?;
                *sum += key.len() + value.len();
            }
        }
    }
    let [log, pages] = stored.map(|bytes| bytes as f64 / count as f64);
    let detail = format!(
        "{ours:.0} bytes each for values of {OWN_BYTES}; the log has {log:.0} and pages have {pages:.0} of them"
    );
    Ok((ours / OWN_BYTES as f64, detail))
}

fn scan(
    bed: &Bed,
    heads: &hindcast::kv::Keyspace,
    count: usize,
    scale: &Scale,
    report: &mut Report,
) -> Result<(), Fault> {
    let basis = bed.store.latest_basis();
    let rounds = Rounds::measure(
        scale.rounds,
        || {
            time_each(&*bed.clock, count, || {
                let mut bytes = 0;
                for entry in heads.prefix(&[]) {
                    bytes += entry?.1.len();
                }
                if bytes == 0 {
                    Err("nothing was read".into())
                } else {
                    Ok(())
                }
            })
        },
        || {
            time_each(&*bed.clock, count, || {
                let at = ValidTime::from_micros(1);
                let mut rows = 0;
                for batch in bed
                    .store
                    .scan_batches(&bed.entity_type, at, basis, None, SCAN_ROWS)
                {
                    rows += batch?.num_rows();
                }
                if rows == count {
                    Ok(())
                } else {
                    Err(format!("{rows} of {count} rows").into())
                }
            })
        },
    )?;
    let detail = format!(
        "{:.2} µs against {:.2} µs per entity, {count} entities",
        rounds.ours(),
        rounds.bare()
    );
    report.ratio(
        "scan into Arrow",
        rounds.speed(),
        Goal::AtLeast(0.4),
        &detail,
    )
}
