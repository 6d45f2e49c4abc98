//! What the rows stand on: a store in a temporary folder, its type, its mutations.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _};
use hindcast::{
    kv::{Database, Entry},
    store::{
        Attribute, AttributeKind, Batch, EntityType, EntityTypeSpec, Mutation, Operation, Store,
        Until, Value,
    },
    time::{Clock, SysTime, SystemClock, ValidTime},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::Fault;

const CACHE_BYTES: u64 = 1 << 30;
/// Batches that are under way at once while loading.
const IN_FLIGHT: usize = 128;
/// Bytes of one version's own values: two floats and a word.
pub(crate) const OWN_BYTES: usize = 8 + 8 + SKY.len();
const SKY: &str = "overcast";
pub(crate) const HOUR: i64 = 3_600_000_000;

/// A store with an empty type `station`.
pub(crate) struct Bed {
    // The folder last: what is in it goes first.
    pub(crate) store: Store,
    pub(crate) entity_type: Arc<EntityType>,
    pub(crate) database: Database,
    pub(crate) runtime: Runtime,
    pub(crate) clock: Arc<dyn Clock>,
    _folder: TempDir,
}

/// A database for a baseline. The folder goes with it.
pub(crate) struct Bare {
    pub(crate) database: Database,
    _folder: TempDir,
}

impl Bare {
    pub(crate) fn new() -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        Ok(Self {
            database: Database::open(folder.path(), CACHE_BYTES)?,
            _folder: folder,
        })
    }
}

impl Bed {
    pub(crate) fn new() -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let database = Database::open(folder.path(), CACHE_BYTES)?;
        let clock = SystemClock::shared();
        let store = Store::open(&database, Arc::clone(&clock))?;
        let runtime = runtime()?;
        let entity_type = declare(&runtime, &store, station())?;
        Ok(Self {
            store,
            entity_type,
            database,
            runtime,
            clock,
            _folder: folder,
        })
    }

    /// Writes batches, many at once but in this order; gives back the first and the last system time.
    pub(crate) fn load(
        &self,
        batches: impl Iterator<Item = Vec<Mutation>> + Send,
    ) -> Result<(SysTime, SysTime), Fault> {
        let writing = futures::stream::iter(batches)
            .map(|mutations| self.store.write(batch(mutations)))
            .buffered(IN_FLIGHT)
            .map_ok(|committed| committed.system_time)
            .try_fold(None, |span: Option<(SysTime, SysTime)>, time| async move {
                Ok(Some(span.map_or((time, time), |(first, _)| (first, time))))
            });
        self.runtime
            .block_on(writing)?
            .ok_or_else(|| "nothing was written".into())
    }

    /// The head pages with their keys, in order.
    pub(crate) fn heads(&self) -> Result<Vec<Entry>, Fault> {
        let heads: Vec<Entry> = self
            .database
            .keyspace("heads")?
            .prefix(&[])
            .collect::<Result<_, _>>()?;
        if heads.is_empty() {
            return Err("the store keeps its heads elsewhere".into());
        }
        Ok(heads)
    }
}

pub(crate) fn runtime() -> Result<Runtime, Fault> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

pub(crate) fn declare(
    runtime: &Runtime,
    store: &Store,
    spec: EntityTypeSpec,
) -> Result<Arc<EntityType>, Fault> {
    Ok(runtime.block_on(store.create_entity_type(spec))?.0)
}

pub(crate) fn spec(name: &str, attributes: &[(&str, AttributeKind)]) -> EntityTypeSpec {
    let attribute = |(name, kind): &(&str, AttributeKind)| Attribute {
        name: (*name).to_owned(),
        kind: *kind,
        description: String::new(),
    };
    EntityTypeSpec {
        name: name.to_owned(),
        attributes: attributes.iter().map(attribute).collect(),
        ..EntityTypeSpec::default()
    }
}

pub(crate) fn station() -> EntityTypeSpec {
    spec(
        "station",
        &[
            ("temp", AttributeKind::Float64),
            ("wind", AttributeKind::Float64),
            ("sky", AttributeKind::String),
        ],
    )
}

pub(crate) fn batch(mutations: Vec<Mutation>) -> Batch {
    Batch {
        mutations,
        ..Batch::default()
    }
}

pub(crate) fn put_values(
    entity_type: &str,
    entity_id: &str,
    values: impl IntoIterator<Item = (&'static str, Option<Value>)>,
    from: i64,
    until: Until,
) -> Mutation {
    let values: BTreeMap<_, _> = values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Mutation {
        entity_type: entity_type.to_owned(),
        entity_id: entity_id.to_owned(),
        operation: Operation::Put(values),
        valid_from: Some(ValidTime::from_micros(from)),
        until,
        expect: Vec::new(),
    }
}

/// A reading of a station that no other reading equals.
pub(crate) fn put(entity_id: &str, reading: f64, from: i64, until: Until) -> Mutation {
    let values = [
        ("temp", Some(Value::Float64(reading))),
        ("wind", Some(Value::Float64(-reading))),
        ("sky", Some(Value::String(SKY.to_owned()))),
    ];
    put_values("station", entity_id, values, from, until)
}

/// The entity's range ends here.
pub(crate) fn end(entity_id: &str, from: i64, until: Until) -> Mutation {
    Mutation {
        operation: Operation::End,
        ..put(entity_id, 0.0, from, until)
    }
}

pub(crate) fn until(to: i64) -> Until {
    Until::At(ValidTime::from_micros(to))
}

pub(crate) fn id(entity: usize) -> String {
    format!("S{entity:08}")
}

/// A fixed walk that jumps about in `0..count`; for counts without other prime factors than 2 and 5 each place comes once in
/// `count` steps.
pub(crate) fn scattered(step: usize, count: usize) -> usize {
    step.wrapping_mul(2_654_435_761) % count
}

/// Microseconds that `work` took, per item.
pub(crate) fn time_each(
    clock: &dyn Clock,
    items: usize,
    work: impl FnOnce() -> Result<(), Fault>,
) -> Result<f64, Fault> {
    let start = clock.monotonic_micros();
    work()?;
    Ok((clock.monotonic_micros() - start) as f64 / items as f64)
}

/// SplitMix64 from a fixed seed: every run asks the same.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.unsigned_abs()).cast_signed()
    }
}
