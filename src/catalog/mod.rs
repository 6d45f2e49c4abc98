//! The catalog: declared sources and registered transforms, frozen once stored.
//!
//! **Durability**: a definition is on disk when the call that stored it returns. All calls block.
//!
//! **Layout** (keyspace `catalog`, large values): `source|<name>` and `transform|<name>|<revision, 8 hex digits>`, each a
//! format byte and JSON.

mod call;
mod error;
mod graph;
mod model;
mod name;
mod output;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use serde::{Serialize, de::DeserializeOwned};

pub use call::{
    CallColumn, CallHeader, CallSpec, DEFAULT_CALL_RETRIES, DEFAULT_CALL_TIMEOUT, answers_of,
    call_type_name, parse_call_type,
};
pub use error::Error;
pub use graph::upstream_first;
pub use model::{
    ColumnDef, CsvOptions, CsvType, EntityInput, Hive, InputRevisions, PriorInput, RetryPolicy,
    Source, SourceFormat, SourceInput, TableInput, Transform, TransformSpec,
};
pub use name::{MAX_NAME_BYTES, check_name};
pub use output::{EntityOutput, KEY_SEPARATOR, Output};

use crate::kv::{self, Database, Keyspace};

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

const FORMAT: u8 = 1;

/// All sources and transforms. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    keyspace: Keyspace,
    // Held over the write of a definition, so that two equal names cannot both be new. Never over an await.
    definitions: RwLock<Definitions>,
}

#[derive(Debug, Default)]
struct Definitions {
    sources: BTreeMap<String, Arc<Source>>,
    /// Revisions in order: index 0 is revision 1.
    transforms: BTreeMap<String, Vec<Arc<Transform>>>,
}

impl Definitions {
    /// Whether `spec`, as the latest revision of its transform, would read its own output over other transforms.
    fn check_cycle(&self, spec: &TransformSpec) -> Result<()> {
        let latest = self.transforms.values().filter_map(|it| it.last());
        let others = latest
            .map(|transform| &transform.spec)
            .filter(|other| other.name != spec.name);
        graph::check_cycle(spec, others)
    }
}

impl Catalog {
    /// Reads all definitions.
    ///
    /// # Errors
    /// Storage faults; a definition that cannot be read is data loss.
    pub fn open(database: &Database) -> Result<Self> {
        let keyspace = database.keyspace("catalog")?;
        let mut definitions = Definitions::default();
        for entry in keyspace.large_prefix(b"source|") {
            let source: Source = decode(&entry?)?;
            definitions
                .sources
                .insert(source.name.clone(), Arc::new(source));
        }
        for entry in keyspace.large_prefix(b"transform|") {
            let transform: Transform = decode(&entry?)?;
            let revisions = definitions
                .transforms
                .entry(transform.spec.name.clone())
                .or_default();
            revisions.push(Arc::new(transform));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                database: database.clone(),
                keyspace,
                definitions: RwLock::new(definitions),
            }),
        })
    }

    /// The source of this name.
    ///
    /// # Errors
    /// [`Error::SourceNotFound`].
    pub fn source(&self, name: &str) -> Result<Arc<Source>> {
        let definitions = self.inner.definitions.read();
        definitions
            .sources
            .get(name)
            .cloned()
            .ok_or_else(|| Error::SourceNotFound {
                name: name.to_owned(),
            })
    }

    /// All sources, by name.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        self.inner
            .definitions
            .read()
            .sources
            .values()
            .cloned()
            .collect()
    }

    /// Stores a source. `false`: an equal declaration was there, and is what is returned.
    ///
    /// # Errors
    /// [`Error::SourceExists`] when another declaration has the name; storage faults.
    pub fn create_source(&self, source: Source) -> Result<(Arc<Source>, bool)> {
        let mut definitions = self.inner.definitions.write();
        if let Some(existing) = definitions.sources.get(&source.name) {
            if existing.declares_the_same(&source) {
                return Ok((Arc::clone(existing), false));
            }
            return Err(Error::SourceExists { name: source.name });
        }
        self.store(&format!("source|{}", source.name), &source)?;
        let source = Arc::new(source);
        definitions
            .sources
            .insert(source.name.clone(), Arc::clone(&source));
        Ok((source, true))
    }

    /// A revision of a transform; `None`: the latest.
    ///
    /// # Errors
    /// [`Error::TransformNotFound`], [`Error::RevisionNotFound`].
    pub fn transform(&self, name: &str, revision: Option<u32>) -> Result<Arc<Transform>> {
        let definitions = self.inner.definitions.read();
        let Some(revisions) = definitions.transforms.get(name) else {
            return Err(Error::TransformNotFound {
                name: name.to_owned(),
            });
        };
        let found = match revision {
            None => revisions.last(),
            Some(revision) => revisions
                .iter()
                .find(|transform| transform.revision == revision),
        };
        found.cloned().ok_or_else(|| Error::RevisionNotFound {
            name: name.to_owned(),
            revision: revision.unwrap_or_default(),
            latest: revisions.last().map_or(0, |transform| transform.revision),
        })
    }

    /// The latest revision of every transform, by name.
    pub fn transforms(&self) -> Vec<Arc<Transform>> {
        let definitions = self.inner.definitions.read();
        definitions
            .transforms
            .values()
            .filter_map(|revisions| revisions.last().cloned())
            .collect()
    }

    /// Entity types that transforms write, each with its transform: outputs, and what keeps the answers of calls, those of
    /// earlier revisions too.
    pub fn entity_writers(&self) -> Vec<(String, String)> {
        let definitions = self.inner.definitions.read();
        let mut writers = Vec::new();
        for transform in definitions.transforms.values().flatten() {
            let spec = &transform.spec;
            let output = spec.output.entity_type().map(str::to_owned);
            let calls = spec.calls.iter();
            let answers = calls.map(|call| call::answers_of(&spec.name, &call.name));
            writers.extend(
                output
                    .into_iter()
                    .chain(answers)
                    .map(|it| (it, spec.name.clone())),
            );
        }
        writers
    }

    /// The transform that writes what `output` names, if there is one.
    pub fn writer_of(&self, output: &Output) -> Option<Arc<Transform>> {
        self.transforms()
            .into_iter()
            .find(|transform| transform.spec.output.is_same_place(output))
    }

    /// Stores a checked definition as the next revision. `false`: it equals the latest revision, which is returned; that one
    /// goes on seeing its entity types as they were when it was stored.
    ///
    /// # Errors
    /// [`Error::OutputOwned`] when another transform writes the output, [`Error::OutputMoved`] when the latest revision
    /// writes another output or another calendar, [`Error::Cycle`] when it would read its own output over other transforms;
    /// storage faults.
    pub fn register_transform(
        &self,
        spec: TransformSpec,
        columns: Vec<ColumnDef>,
        revisions: InputRevisions,
        create_time_micros: i64,
    ) -> Result<(Arc<Transform>, bool)> {
        self.check_output(&spec)?;
        let mut definitions = self.inner.definitions.write();
        definitions.check_cycle(&spec)?;
        let stored = definitions.transforms.entry(spec.name.clone()).or_default();
        if let Some(latest) = stored.last()
            && latest.spec == spec
            && latest.columns == columns
        {
            return Ok((Arc::clone(latest), false));
        }
        let revision = stored.last().map_or(0, |transform| transform.revision) + 1;
        let transform = Transform {
            spec,
            revision,
            columns,
            entity_revisions: revisions.entities,
            table_revisions: revisions.tables,
            output_revision: revisions.output,
            create_time_micros,
        };
        self.store(
            &format!("transform|{}|{revision:08x}", transform.spec.name),
            &transform,
        )?;
        let transform = Arc::new(transform);
        stored.push(Arc::clone(&transform));
        Ok((transform, true))
    }

    /// Whether `spec` may write its output: it alone writes it, always on one calendar, and without reading it.
    ///
    /// # Errors
    /// As [`Catalog::register_transform`].
    pub fn check_output(&self, spec: &TransformSpec) -> Result<()> {
        if let Some(owner) = self.writer_of(&spec.output)
            && owner.spec.name != spec.name
        {
            return Err(Error::OutputOwned {
                output: spec.output.clone(),
                owner: owner.spec.name.clone(),
            });
        }
        match self.transform(&spec.name, None) {
            Ok(latest) if !latest.spec.writes_like(spec) => Err(Error::OutputMoved {
                name: spec.name.clone(),
                output: latest.spec.output.clone(),
                grain: latest.spec.grain,
                zone: latest.spec.zone,
            }),
            Ok(_) | Err(_) => self.inner.definitions.read().check_cycle(spec),
        }
    }

    fn store(&self, key: &str, definition: &impl Serialize) -> Result<()> {
        let mut bytes = vec![FORMAT];
        serde_json::to_writer(&mut bytes, definition).map_err(|error| Error::Encoding {
            key: key.to_owned(),
            cause: error.to_string(),
        })?;
        self.inner.keyspace.insert_large(key.as_bytes(), &bytes)?;
        self.inner.database.flush()?;
        Ok(())
    }
}

fn decode<T: DeserializeOwned>((key, bytes): &(Vec<u8>, Vec<u8>)) -> Result<T> {
    let corrupt = |cause: String| {
        Error::Storage(kv::Error::Corrupt {
            key: key.escape_ascii().to_string(),
            cause,
        })
    };
    match bytes.split_first() {
        Some((&FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|error| corrupt(error.to_string()))
        }
        Some((format, _)) => Err(corrupt(format!(
            "format {format} is not known to this version"
        ))),
        None => Err(corrupt("it is empty".to_owned())),
    }
}
