//! As-of reads through the store against bare reads of values of the same size in the same run, and durable writes.
//!
//! `cargo bench --bench store`; under 30 s.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hindcast::{
    kv::{Database, Keyspace},
    store::{
        Answer, Attribute, AttributeKind, Batch, EntityType, EntityTypeSpec, Mutation, Operation,
        Store, Until, Value,
    },
    time::{Clock, SysTime, SystemClock, ValidTime},
};

type Fault = Box<dyn std::error::Error>;

const ENTITIES: usize = 20_000;
/// Versions of each entity, one per hour of valid time.
const VERSIONS: i64 = 10;
const READS: usize = 200_000;
const WRITERS: usize = 64;
const WRITING: Duration = Duration::from_secs(3);

fn main() -> Result<(), Fault> {
    let folder = tempfile::tempdir()?;
    let database = Database::open(folder.path(), 256 << 20)?;
    let clock = SystemClock::shared();
    let store = Store::open(&database, Arc::clone(&clock))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?;
    let (entity_type, _) = runtime.block_on(store.create_entity_type(spec()))?;
    let basis = runtime.block_on(load(&store))?;
    let bare = bare_copy(&database)?;
    println!("{ENTITIES} entities of {VERSIONS} versions");
    for round in 1..=3 {
        let bare_micros = time_bare(&*clock, &bare)?;
        let store_micros = time_store(&*clock, &store, &entity_type, basis)?;
        println!(
            "round {round}: bare get {bare_micros:.2} µs, as-of get {store_micros:.2} µs, ratio {:.2}",
            store_micros / bare_micros
        );
    }
    for writers in [1, WRITERS] {
        let count = runtime.block_on(write_for_a_while(&store, &clock, writers))?;
        let per_second = count as f64 / WRITING.as_secs_f64();
        println!("{writers} writers: {per_second:.0} durable writes/s");
    }
    store.close();
    Ok(())
}

fn spec() -> EntityTypeSpec {
    let attribute = |name: &str, kind| Attribute {
        name: name.to_owned(),
        kind,
        description: String::new(),
    };
    EntityTypeSpec {
        name: "station".to_owned(),
        attributes: vec![
            attribute("temp", AttributeKind::Float64),
            attribute("wind", AttributeKind::Float64),
            attribute("sky", AttributeKind::String),
        ],
        description: String::new(),
        ..Default::default()
    }
}

fn put(entity: usize, hour: i64) -> Mutation {
    let reading = entity as f64 + hour as f64 / 100.0;
    Mutation {
        entity_type: "station".to_owned(),
        entity_id: format!("S{entity:08}"),
        operation: Operation::Put(BTreeMap::from([
            ("temp".to_owned(), Some(Value::Float64(reading))),
            ("wind".to_owned(), Some(Value::Float64(-reading))),
            ("sky".to_owned(), Some(Value::String("overcast".to_owned()))),
        ])),
        valid_from: Some(ValidTime::from_micros(hour * 3_600_000_000)),
        until: Until::NextChange,
        expect: Vec::new(),
    }
}

async fn load(store: &Store) -> Result<SysTime, Fault> {
    for chunk in (0..ENTITIES).step_by(500) {
        let mutations = (chunk..chunk + 500)
            .flat_map(|entity| (0..VERSIONS).map(move |hour| put(entity, hour)))
            .collect();
        let batch = Batch {
            mutations,
            request_id: None,
            ..Default::default()
        };
        store.write(batch).await?;
    }
    Ok(store.latest_basis())
}

/// The heads' own bytes under the same keys in another keyspace.
fn bare_copy(database: &Database) -> Result<(Keyspace, Vec<Vec<u8>>), Fault> {
    let bare = database.keyspace("bench_bare")?;
    let mut keys = Vec::with_capacity(ENTITIES);
    for entry in database.keyspace("heads")?.prefix(&[]) {
        let (key, value) = entry?;
        bare.insert(&key, &value)?;
        keys.push(key.to_vec());
    }
    database.flush()?;
    Ok((bare, keys))
}

/// A fixed walk that jumps about.
fn place(step: usize) -> usize {
    step * 7_919 % ENTITIES
}

fn time_bare(clock: &dyn Clock, (bare, keys): &(Keyspace, Vec<Vec<u8>>)) -> Result<f64, Fault> {
    let start = clock.monotonic_micros();
    let mut found = 0;
    for step in 0..READS {
        found += usize::from(bare.get(&keys[place(step)])?.is_some());
    }
    assert_eq!(found, READS);
    Ok((clock.monotonic_micros() - start) as f64 / READS as f64)
}

fn time_store(
    clock: &dyn Clock,
    store: &Store,
    entity_type: &EntityType,
    basis: SysTime,
) -> Result<f64, Fault> {
    let ids: Vec<_> = (0..ENTITIES)
        .map(|entity| format!("S{entity:08}"))
        .collect();
    let start = clock.monotonic_micros();
    let mut found = 0;
    for step in 0..READS {
        let hour = i64::try_from(step)? % VERSIONS;
        let valid = ValidTime::from_micros(hour * 3_600_000_000 + 1);
        let answer = store.get(entity_type, &ids[place(step)], valid, basis)?;
        found += usize::from(matches!(answer, Answer::Value(_)));
    }
    assert_eq!(found, READS);
    Ok((clock.monotonic_micros() - start) as f64 / READS as f64)
}

/// Commits of one mutation each, by all writers together.
async fn write_for_a_while(
    store: &Store,
    clock: &Arc<dyn Clock>,
    writers: usize,
) -> Result<usize, Fault> {
    let writing: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, clock) = (store.clone(), Arc::clone(clock));
            tokio::spawn(async move {
                let end = clock.monotonic_micros()
                    + i64::try_from(WRITING.as_micros()).unwrap_or(i64::MAX);
                let mut count = 0;
                while clock.monotonic_micros() < end {
                    let entity = ENTITIES + writer * 100_000 + count;
                    let batch = Batch {
                        mutations: vec![put(entity, 0)],
                        request_id: None,
                        ..Default::default()
                    };
                    store.write(batch).await?;
                    count += 1;
                }
                Ok::<_, hindcast::store::Error>(count)
            })
        })
        .collect();
    let mut count = 0;
    for writer in writing {
        count += writer.await??;
    }
    Ok(count)
}
