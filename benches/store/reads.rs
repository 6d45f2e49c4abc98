//! As-of reads through the store.

use hindcast::{
    store::{Answer, Until},
    time::{SysTime, ValidTime},
};

use crate::{
    Fault, Scale,
    bed::{Bare, Bed, HOUR, Random, id, put, scattered, time_each, until},
    report::{Goal, Report, Rounds},
};

const MOST_VERSIONS: usize = 16;
const BATCH: usize = 500;

/// Entities with 1 to 16 versions against bare gets of values of the same size.
pub(crate) fn as_of(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let bed = Bed::new()?;
    let count = scale.read_entities;
    let versions = |entity: usize| entity % MOST_VERSIONS + 1;
    let entities: Vec<usize> = (0..count).collect();
    bed.load(entities.chunks(BATCH).map(|chunk| {
        let readings = |entity: usize| (0..versions(entity)).map(move |hour| reading(entity, hour));
        chunk.iter().flat_map(|&entity| readings(entity)).collect()
    }))?;
    let bare = Bare::new()?;
    let keyspace = bare.database.keyspace("bare")?;
    let mut keys = Vec::with_capacity(count);
    let mut bytes = 0;
    for (key, value) in bed.heads()? {
        keyspace.insert(&key, &value)?;
        bytes += value.len();
        keys.push(key);
    }
    bare.database.flush()?;
    let ids: Vec<String> = (0..count).map(id).collect();
    let basis = bed.store.latest_basis();
    let rounds = Rounds::measure(
        scale.rounds,
        || {
            time_each(&*bed.clock, scale.reads, || {
                let mut found = 0;
                for step in 0..scale.reads {
                    found += usize::from(keyspace.get(&keys[scattered(step, count)])?.is_some());
                }
                check(found, scale.reads)
            })
        },
        || {
            time_each(&*bed.clock, scale.reads, || {
                let mut found = 0;
                for step in 0..scale.reads {
                    let entity = scattered(step, count);
                    let hour = step % versions(entity);
                    let valid = ValidTime::from_micros(hour as i64 * HOUR + 1);
                    let answer = bed
                        .store
                        .get(&bed.entity_type, &ids[entity], valid, basis)?;
                    found += usize::from(matches!(answer, Answer::Value(_)));
                }
                check(found, scale.reads)
            })
        },
    )?;
    let detail = format!(
        "as-of get {:.2} µs, bare get {:.2} µs, {count} entities, pages of {} bytes",
        rounds.ours(),
        rounds.bare(),
        bytes / count
    );
    report.ratio(
        "as-of read, 1 to 16 versions",
        rounds.speed(),
        Goal::AtLeast(0.7),
        &detail,
    )
}

fn reading(entity: usize, hour: usize) -> hindcast::store::Mutation {
    let value = entity as f64 + hour as f64 / 100.0;
    put(&id(entity), value, hour as i64 * HOUR, Until::NextChange)
}

fn check(found: usize, due: usize) -> Result<(), Fault> {
    if found == due {
        return Ok(());
    }
    Err(format!("{found} of {due} reads found something").into())
}

/// One entity with more and more versions, as the peers have it: corrections of random ranges, reads at random points.
pub(crate) fn by_versions(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    for versions in [1, 100, 10_000, 1_000_000] {
        if versions > scale.corrections {
            println!(
                "{versions} versions: left out, HINDCAST_BENCH_CORRECTIONS is {}",
                scale.corrections
            );
            continue;
        }
        let bed = Bed::new()?;
        let mut random = Random(1);
        let mutations = (0..versions).map(|number| {
            let from = random.below(365 * 24 - 24);
            let to = if number == 0 {
                until(365 * 24 * HOUR)
            } else {
                until((from + 1 + random.below(24)) * HOUR)
            };
            let from = if number == 0 { 0 } else { from * HOUR };
            vec![put("one", number as f64, from, to)]
        });
        let (first, last) = bed.load(mutations.collect::<Vec<_>>().into_iter())?;
        let mut micros = Vec::new();
        for round in 0..scale.rounds {
            let mut random = Random(round as u64);
            micros.push(time_each(&*bed.clock, scale.reads, || {
                for _ in 0..scale.reads {
                    let valid = ValidTime::from_micros(random.below(365 * 24) * HOUR);
                    let basis = first.micros() + random.below(last.micros() - first.micros() + 1);
                    bed.store
                        .get(&bed.entity_type, "one", valid, SysTime::from_micros(basis))?;
                }
                Ok(())
            })?);
        }
        micros.sort_by(f64::total_cmp);
        let median = micros[micros.len() / 2];
        println!("as-of read at {versions} versions: {median:.2} µs");
        report.figure(&format!("as-of read at {versions} versions"), median, "µs")?;
    }
    Ok(())
}
