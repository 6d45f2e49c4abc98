//! The bitemporal entity store: what was true when (valid time), and since when hindcast knows it (system time).
//!
//! Writes go through one committer thread and are durable when they are acknowledged. Reads take no lock: they are pinned
//! to a basis, and what was learned after it is simply not there. The parts, from pure to impure:
//!
//! - [`model`](Version), `validate`, `row`: what callers speak of, its limits, and the canonical bytes of a row
//! - `timeline`, `page`, `page_codec`, `keys`, `log`, `codec`: the algebra and the formats
//! - `tree`, `cut`, `edit`: an entity's pages as a multiversion B-tree, and what a commit does to them
//! - `pages`, `marks`, `types`: what lies under which key, and in which order it is written
//! - `workspace`, `journal`, `recovery`, `committer`: a commit, in memory, on disk, after a crash, in its thread
//! - `path`, `history`, `read`, [`columns`]: answers, one by one and as Arrow batches
//!
//! **Invariants**: `BT-1` at one basis the versions of an entity never overlap; `BT-2` an answer at a served basis never
//! changes; `BT-3` system times strictly increase, an acknowledged write survives, a batch is all or nothing.

mod codec;
pub mod columns;
mod committer;
mod cut;
mod edit;
mod error;
mod history;
mod journal;
mod keys;
mod log;
mod marks;
mod model;
mod page;
mod page_codec;
mod pages;
mod path;
mod read;
mod recovery;
mod row;
mod timeline;
mod tree;
#[cfg(test)]
mod tree_tests;
mod types;
mod validate;
mod workspace;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

pub use error::Error;
pub use model::{
    Answer, Attribute, AttributeKind, Batch, Committed, Condition, Decimal, EntityType,
    EntityTypeSpec, Expectation, IngestMark, MAX_ATTRIBUTES, MAX_DECIMAL_DIGITS,
    MAX_DESCRIPTION_BYTES, MAX_NAME_BYTES, Mutation, Operation, Until, Value, Version,
};
pub use pages::PageStats;
pub use row::MAX_ROW_BYTES;
pub use validate::{MAX_BATCH_BYTES, MAX_ENTITY_ID_BYTES, MAX_MUTATIONS, MAX_REQUEST_ID_BYTES};

use self::{
    committer::{Committer, Job, Published, QUEUE_JOBS, Reply},
    journal::Journal,
    pages::Pages,
};
use crate::{
    kv::Database,
    time::{Clock, SysTime, ValidTime},
};

/// A result of the store.
pub type Result<T> = std::result::Result<T, Error>;

/// The open store. Cheap to clone; reads block, writes wait for the committer.
///
/// Dropping the last clone closes it as [`Store::close`] does.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pages: Pages,
    clock: Arc<dyn Clock>,
    published: Arc<Published>,
    /// `None` once closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn stop(&self) {
        drop(self.jobs.lock().take());
        if let Some(committer) = self.committer.lock().take()
            && committer.join().is_err()
        {
            tracing::error!("the committer thread panicked");
        }
    }
}

impl Store {
    /// Opens the store in `database`; keyspaces that it needs are made. Blocks.
    ///
    /// **Durability**: what the log holds beyond the pages (after a crash) is applied to them first. A store that never held
    /// anything notes the clock's now as its floor: that is its latest basis until the first commit.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the log's tail or a mark does not read; storage faults.
    pub fn open(database: &Database, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut journal = Journal::open(database)?;
        let types = types::load_all(&journal.types)?;
        let replayed = recovery::recover(&mut journal)?;
        if replayed > 0 {
            tracing::warn!(
                replayed,
                "the store was not stopped cleanly: commits were applied again"
            );
        }
        let floor = match marks::floor(&journal.meta)? {
            Some(floor) => floor,
            None => {
                let floor = clock.now_micros();
                marks::set_floor(&journal.meta, floor)?;
                floor
            }
        };
        database.flush()?;
        let pages = journal.pages.clone();
        let committer = Committer::new(journal, Arc::clone(&clock), floor, types);
        let published = committer.published();
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS);
        let thread = thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run(receiver))
            .map_err(Error::Thread)?;
        Ok(Self {
            inner: Arc::new(Inner {
                pages,
                clock,
                published,
                jobs: Mutex::new(Some(sender)),
                committer: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Carries out what is queued and stops the committer; later writes are refused, reads go on. Blocks.
    pub fn close(&self) {
        self.inner.stop();
    }

    /// Declares an entity type. `false`: an equal declaration was there already.
    ///
    /// **Durability**: on disk when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] with paths from `entity_type`; [`Error::TypeExists`]; [`Error::Closed`]; storage faults.
    pub async fn create_entity_type(
        &self,
        spec: EntityTypeSpec,
    ) -> Result<(Arc<EntityType>, bool)> {
        let violations = spec.violations();
        if !violations.is_empty() {
            return Err(Error::Invalid { violations });
        }
        self.ask(|reply| Job::CreateType(spec, reply)).await
    }

    /// The entity type of this name.
    ///
    /// # Errors
    /// [`Error::UnknownType`].
    pub fn entity_type(&self, name: &str) -> Result<Arc<EntityType>> {
        let types = self.inner.published.types.read();
        types.get(name).cloned().ok_or_else(|| Error::UnknownType {
            name: name.to_owned(),
        })
    }

    /// All entity types, by name.
    pub fn entity_types(&self) -> Vec<Arc<EntityType>> {
        self.inner
            .published
            .types
            .read()
            .values()
            .cloned()
            .collect()
    }

    /// The system time of the first commit that wrote to the type: before it, the type knew nothing.
    pub fn first_known(&self, entity_type: &EntityType) -> Option<SysTime> {
        let first_known = self.inner.published.first_known.read();
        first_known
            .get(entity_type.name())
            .copied()
            .map(SysTime::from_micros)
    }

    /// Applies a batch: one commit, one system time, in order (a later mutation sees the earlier ones), all or nothing.
    ///
    /// A request id is remembered for at least 24 hours after its commit.
    ///
    /// **Durability**: on disk, and safe from power loss, when it returns. **Cost**: one log record and the pages of the
    /// entities it names; writers that wait together share a flush.
    ///
    /// # Errors
    /// [`Error::Invalid`] with paths from `mutations`; [`Error::UnknownType`]; [`Error::RequestIdReused`]: nothing is
    /// written. [`Error::NotDurable`]: whether it is there is known only after a restart. [`Error::Closed`]; storage faults.
    pub async fn write(&self, batch: Batch) -> Result<Committed> {
        let prepared = validate::prepare(batch, |name| self.entity_type(name))?;
        self.ask(|reply| Job::Write(prepared, reply)).await
    }

    /// The system time of the last durable commit: the basis of a read that names none. A store that holds nothing yet
    /// answers the system time at which it was first opened.
    pub fn latest_basis(&self) -> SysTime {
        SysTime::from_micros(self.inner.published.watermark())
    }

    /// Makes a basis readable for ever: no later commit gets a system time at or before it, across restarts and clocks that
    /// step back. `None` asks for the latest one.
    ///
    /// **Cost**: nothing up to the latest basis; a flush for one between that and now.
    ///
    /// # Errors
    /// [`Error::BasisInFuture`]; [`Error::NotDurable`]; [`Error::Closed`]; storage faults.
    pub async fn pin(&self, basis: Option<SysTime>) -> Result<SysTime> {
        let Some(basis) = basis else {
            return Ok(self.latest_basis());
        };
        if basis.micros() <= self.inner.published.stable() {
            return Ok(basis);
        }
        let now = SysTime::from_micros(self.now().micros());
        if basis > now {
            return Err(Error::BasisInFuture { basis, now });
        }
        self.ask(|reply| Job::RaiseFloor(basis.micros(), reply))
            .await?;
        Ok(basis)
    }

    /// The valid time of a read that names none: the clock's now, but never before the latest commit.
    pub fn now(&self) -> ValidTime {
        ValidTime::from_micros(
            self.inner
                .clock
                .now_micros()
                .max(self.inner.published.watermark()),
        )
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.inner.jobs.lock().clone().ok_or(Error::Closed)?;
        jobs.send(job(reply)).await.map_err(|_| Error::Closed)?;
        drop(jobs);
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Refuses a basis whose answers could still change.
    fn check_basis(&self, basis: SysTime) -> Result<i64> {
        let stable = self.inner.published.stable();
        if basis.micros() <= stable {
            return Ok(basis.micros());
        }
        Err(Error::BasisNotPinned {
            basis,
            latest: SysTime::from_micros(stable),
        })
    }
}
