//! What the store's tests share: a store on a manual clock in a temporary folder.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use hindcast::{
    kv::{self, Database},
    store::{
        Answer, Attribute, AttributeKind, Batch, Committed, EntityType, EntityTypeSpec, Error,
        Mutation, Operation, Store, Until, Value, Version,
    },
    time::{Interval, ManualClock, SysTime, ValidTime},
};
use tempfile::TempDir;

/// Well before every date that tests use.
pub(crate) const CLOCK_START: i64 = -62_000_000_000_000_000;

/// A store whose only type `thing` has one string attribute `v`.
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) runtime: tokio::runtime::Runtime,
    open: Option<(Database, Store)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::in_folder(tempfile::tempdir().expect("temporary folder"))
    }

    /// In memory where the machine has a file system there, for tests that ask for answers and not for durability.
    pub(crate) fn without_disk() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::in_folder(folder.expect("temporary folder"))
    }

    fn in_folder(folder: TempDir) -> Self {
        let mut rig = Self {
            folder,
            clock: ManualClock::starting_at(CLOCK_START),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("runtime"),
            open: None,
        };
        rig.reopen().expect("opens");
        rig.declare(spec("thing", &[("v", AttributeKind::String)]));
        rig
    }

    /// Drops the store, without closing it first, and opens the folder again.
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        self.shut();
        let database = open_database(self.folder.path())?;
        let store = Store::open(&database, Arc::clone(&self.clock) as _)?;
        self.open = Some((database, store));
        Ok(())
    }

    pub(crate) fn shut(&mut self) {
        self.open = None;
    }

    pub(crate) fn store(&self) -> &Store {
        &self.open.as_ref().expect("open").1
    }

    pub(crate) fn database(&self) -> &Database {
        &self.open.as_ref().expect("open").0
    }

    pub(crate) fn declare(&self, spec: EntityTypeSpec) -> Arc<EntityType> {
        let declared = self.runtime.block_on(self.store().create_entity_type(spec));
        declared.expect("declared").0
    }

    pub(crate) fn thing(&self) -> Arc<EntityType> {
        self.store().entity_type("thing").expect("declared")
    }

    pub(crate) fn write(&self, mutations: Vec<Mutation>) -> Result<Committed, Error> {
        self.write_batch(Batch {
            mutations,
            request_id: None,
            ..Default::default()
        })
    }

    pub(crate) fn write_batch(&self, batch: Batch) -> Result<Committed, Error> {
        self.runtime.block_on(self.store().write(batch))
    }

    /// Writes at this system time exactly, if it writes anything.
    pub(crate) fn write_at(&self, at: i64, mutations: Vec<Mutation>) -> Result<Committed, Error> {
        self.clock.set(at);
        let committed = self.write(mutations)?;
        if committed.versions_written > 0 {
            assert_eq!(
                committed.system_time,
                SysTime::from_micros(at),
                "the commit's system time"
            );
        }
        Ok(committed)
    }

    pub(crate) fn pin(&self, basis: i64) -> Result<SysTime, Error> {
        self.runtime
            .block_on(self.store().pin(Some(SysTime::from_micros(basis))))
    }

    pub(crate) fn get(&self, id: &str, valid: i64, basis: i64) -> Answer {
        self.store()
            .get(
                &self.thing(),
                id,
                ValidTime::from_micros(valid),
                SysTime::from_micros(basis),
            )
            .expect("reads")
    }

    /// All of an entity's rectangles as known at a basis.
    pub(crate) fn history(&self, id: &str, basis: i64) -> Vec<Version> {
        let (valid, system) = (
            Interval::starting_at(ValidTime::MIN),
            Interval::starting_at(SysTime::MIN),
        );
        self.store()
            .history(
                &self.thing(),
                id,
                valid,
                system,
                SysTime::from_micros(basis),
            )
            .expect("reads")
    }
}

/// Opens the database of a store that was just dropped: the engine's own threads may still hold its lock for a moment.
pub(crate) fn open_database(folder: &Path) -> Result<Database, kv::Error> {
    for _ in 0..500 {
        match Database::open(folder, 1 << 24) {
            Err(kv::Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
            outcome => return outcome,
        }
    }
    Database::open(folder, 1 << 24)
}

pub(crate) fn spec(name: &str, attributes: &[(&str, AttributeKind)]) -> EntityTypeSpec {
    EntityTypeSpec {
        name: name.to_owned(),
        attributes: attributes
            .iter()
            .map(|(name, kind)| Attribute {
                name: (*name).to_owned(),
                kind: *kind,
                description: String::new(),
            })
            .collect(),
        description: String::new(),
        ..Default::default()
    }
}

/// A put of `v`; `None` for null.
pub(crate) fn put(id: &str, value: Option<&str>, from: i64, until: Until) -> Mutation {
    let value = value.map(|text| Value::String(text.to_owned()));
    Mutation {
        entity_type: "thing".to_owned(),
        entity_id: id.to_owned(),
        operation: Operation::Put(BTreeMap::from([("v".to_owned(), value)])),
        valid_from: Some(ValidTime::from_micros(from)),
        until,
        expect: Vec::new(),
    }
}

pub(crate) fn end(id: &str, from: i64, until: Until) -> Mutation {
    Mutation {
        operation: Operation::End,
        ..put(id, None, from, until)
    }
}

pub(crate) fn until(to: i64) -> Until {
    Until::At(ValidTime::from_micros(to))
}

/// The text of `v`; "null" for null.
pub(crate) fn text(version: &Version) -> String {
    match version.attributes.first() {
        Some(Some(Value::String(text))) => text.clone(),
        _ => "null".to_owned(),
    }
}
