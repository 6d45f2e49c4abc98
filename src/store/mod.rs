//! The bitemporal entity store: what was true when (valid time), and since when hindcast knows it (system time).
//!
//! Writes go through one committer thread and are durable when they are acknowledged. Reads take no lock: they are pinned
//! to a basis, and what was learned after it is simply not there. The parts, from pure to impure:
//!
//! - [`model`](Version), `entity_type`, `validate`, `prepared`, `row`: what callers speak of, its limits, and the canonical
//!   bytes of a row
//! - `timeline`, `page`, `page_codec`, `page_view`, `keys`, `log`, `codec`: the algebra and the formats
//! - `tree`, `inner`, `cut`, `edit`: an entity's pages as a multiversion B-tree, and what a commit does to them
//! - `pages`, `log_store`, `marks`, `types`: what lies under which key, and in which order it is written
//! - `resolve`, `workspace`, `journal`, `recovery`, `committer`: a commit, in words, in memory, on disk, after a crash, in its
//!   thread
//! - `path`, `history`, `read`, [`columns`]: answers, one by one and as Arrow batches
//! - `changes`, `written`, `compare`: what commits changed, where they wrote, what two bases see of an entity
//! - `staged`, `replace`: rows that become all that there is of a type over a range, of types that one writer has claimed
//! - [`copy`]: backups, restoring them, checking what is stored
//!
//! **Invariants**: `BT-1` at one basis the versions of an entity never overlap; `BT-2` an answer at a served basis never
//! changes; `BT-3` system times strictly increase, an acknowledged write survives, a batch is all or nothing.

mod chain;
mod changes;
mod codec;
mod column_builder;
pub mod columns;
mod committer;
mod compare;
pub mod copy;
mod cut;
mod edit;
mod entity_type;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod inner;
mod journal;
mod keys;
mod log;
mod log_store;
mod lookup;
mod marks;
mod model;
mod page;
mod page_cache;
mod page_codec;
mod page_list;
mod page_rows;
mod page_search;
mod page_view;
mod pages;
mod path;
mod prepared;
mod published;
mod read;
mod recovery;
mod replace;
mod resolve;
mod row;
mod snapshot;
mod snapshots;
mod staged;
mod timeline;
mod tree;
#[cfg(test)]
mod tree_tests;
mod types;
mod validate;
mod verify;
mod workspace;
mod written;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use chain::{Chain, Queued};
pub use changes::{Change, ChangePosition, ChangedState, Changes, Step, WithinCommit};
pub use compare::{ComparedColumns, Comparison, Difference};
pub use error::Error;
pub use lookup::{Outcome, States};
pub use model::{
    Answer, Attribute, AttributeKind, Batch, Committed, Condition, Decimal, EntityType,
    EntityTypeSpec, EntityTypeState, EntityTypeUpdate, Expectation, IngestMark, MAX_ATTRIBUTES,
    MAX_DECIMAL_DIGITS, MAX_DESCRIPTION_BYTES, MAX_NAME_BYTES, Mutation, Operation, Until, Value,
    Version,
};
pub use pages::PageStats;
pub use replace::{Replaced, Replacing};
pub use resolve::MAX_RESOLVED_BYTES;
pub use row::MAX_ROW_BYTES;
pub use staged::{RowStager, StageFault, StagedRows};
pub use validate::{
    MAX_BATCH_BYTES, MAX_ENTITY_ID_BYTES, MAX_EXPECTATIONS, MAX_MUTATIONS, MAX_REQUEST_ID_BYTES,
    MAX_STREAM_BYTES,
};
pub use written::{Written, WrittenEntry, WrittenWalk, WrittenWhat};

use self::{
    changes::Records,
    committer::{Committer, Job, QUEUE_JOBS, Reply},
    journal::Journal,
    log_store::LogStore,
    pages::Pages,
    published::Published,
};
use crate::{
    disk::Disk,
    kv::Database,
    telemetry::CommitMetrics,
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
    database: Database,
    pages: Pages,
    records: Records,
    clock: Arc<dyn Clock>,
    published: Arc<Published>,
    /// `None` once closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// Cancelled when answers that go on without end must end.
    streams: CancellationToken,
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
        let records = Records::new(LogStore::open(database)?);
        let committer = Committer::new(journal, Arc::clone(&clock), floor, types);
        let published = committer.published();
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS);
        let thread = thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run(receiver))
            .map_err(Error::Thread)?;
        Ok(Self {
            inner: Arc::new(Inner {
                database: database.clone(),
                pages,
                records,
                clock,
                published,
                jobs: Mutex::new(Some(sender)),
                committer: Mutex::new(Some(thread)),
                streams: CancellationToken::new(),
            }),
        })
    }

    /// Carries out what is queued and stops the committer; later writes are refused, reads go on. Blocks.
    pub fn close(&self) {
        self.inner.stop();
    }

    /// The clock that the store goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// From now on what clients write is refused while `disk` is full. Once only.
    pub fn guard(&self, disk: Disk) {
        // A second one is dropped.
        let _ = self.inner.published.disk.set(disk);
    }

    /// What its commits and syncs are measured by.
    pub fn commit_metrics(&self) -> &CommitMetrics {
        &self.inner.published.metrics
    }

    /// Memory that the decoded columns take that are kept of all types.
    pub fn snapshot_cache_bytes(&self) -> usize {
        self.inner.published.snapshots.size_bytes()
    }

    /// Forgets the decoded columns that are kept of a type. Answers stay as they are; the next ones take longer.
    pub fn forget_snapshots(&self, entity_type: &str) {
        self.inner.published.snapshots.forget(entity_type);
    }

    /// Ends answers that go on for as long as their client wants: [`Store::streams_ended`] returns. Reads and writes go on.
    pub fn end_streams(&self) {
        self.inner.streams.cancel();
    }

    /// Returns when streams are to end.
    pub async fn streams_ended(&self) {
        self.inner.streams.cancelled().await;
    }

    /// Declares an entity type. `false`: an equal declaration was there already, as this or an earlier revision; whether it is
    /// being imported is not compared.
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

    /// Adds a revision to an entity type. `false`: it was like this already.
    ///
    /// Versions that are there are not rewritten: they read as null what was added.
    ///
    /// **Durability**: on disk when it returns.
    ///
    /// # Errors
    /// [`Error::UnknownType`]; [`Error::Invalid`] with paths from the update, such as `add_attributes[0].kind`;
    /// [`Error::Closed`]; storage faults.
    pub async fn update_entity_type(
        &self,
        name: &str,
        update: EntityTypeUpdate,
    ) -> Result<(Arc<EntityType>, bool)> {
        let name = name.to_owned();
        self.ask(|reply| Job::UpdateType(name, update, reply)).await
    }

    /// Every revision of an entity type, the first one first.
    ///
    /// # Errors
    /// [`Error::UnknownType`].
    pub fn entity_type_revisions(&self, name: &str) -> Result<Vec<EntityType>> {
        Ok(self.entity_type(name)?.revisions().collect())
    }

    /// Ends the import of an entity type: from now on it is read, and its commits have system times of the store's own.
    ///
    /// **Durability**: on disk when it returns.
    ///
    /// # Errors
    /// [`Error::UnknownType`]; [`Error::NotImporting`]; [`Error::Closed`]; storage faults.
    pub async fn finish_import(&self, name: &str) -> Result<Arc<EntityType>> {
        let name = name.to_owned();
        self.ask(|reply| Job::FinishImport(name, reply)).await
    }

    /// The last offset of a bulk load that is on disk; `None` if there is none, or if it was forgotten: 24 hours after the
    /// load's last batch at the earliest.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path `stream`; [`Error::NotDurable`]; [`Error::Closed`]; storage faults.
    pub async fn ingest_offset(&self, stream: &str) -> Result<Option<u64>> {
        validate::check_stream("stream", stream)?;
        let stream = stream.to_owned();
        self.ask(|reply| Job::IngestOffset(stream, reply)).await
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

    /// How many entity types are declared.
    pub fn entity_type_count(&self) -> usize {
        self.inner.published.types.read().len()
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

    /// The system time of the first commit that wrote to the type, or its first import time: before it, the type knew nothing.
    pub fn first_known(&self, entity_type: &EntityType) -> Option<SysTime> {
        let first_known = self.inner.published.first_known.read();
        first_known
            .get(entity_type.name())
            .copied()
            .map(SysTime::from_micros)
    }

    /// Applies a batch: one commit, one system time, in order (a later mutation sees the earlier ones), all or nothing.
    ///
    /// A batch that changes nothing writes nothing, and is answered with the last commit's system time. A request id, and the
    /// place of a bulk load, are remembered for at least 24 hours after their commit.
    ///
    /// **Import**: a batch to types that are being imported has an import time, which its versions get as their system time;
    /// times do not decrease, and lie not in the future. The commit itself has a system time of the store's own.
    ///
    /// **Erasure** removes an entity's versions from the pages and its mutations from the log, where their digests stay. What
    /// stays is the erasure itself, with the entity's type and id. The engine's files keep stale bytes until it reuses their
    /// place: a backup that is restored has none.
    ///
    /// **Durability**: on disk, and safe from power loss, when it returns. **Cost**: one log record and the pages of the
    /// entities it names; writers that wait together share a flush. An erasure: all pages and all log records of the entity.
    ///
    /// # Errors
    /// [`Error::Invalid`] with paths from `mutations`; [`Error::UnknownType`]; [`Error::RequestIdReused`];
    /// [`Error::ExpectationFailed`]; [`Error::BasisNotPinned`] for an expectation; [`Error::NotImporting`] and its
    /// neighbours: nothing is written. [`Error::NotDurable`]: whether it is there is known only after a restart. [`Error::Closed`]; storage faults.
    pub async fn write(&self, batch: Batch) -> Result<Committed> {
        let prepared = validate::prepare(batch, |name| self.entity_type(name))?;
        self.ask(|reply| Job::Write(prepared, reply)).await
    }

    /// As [`Store::write`], for the writer who has claimed the types that it names.
    ///
    /// # Errors
    /// As [`Store::write`]; [`Error::Owned`] where somebody else has claimed one.
    pub async fn write_as(&self, writer: &Arc<str>, batch: Batch) -> Result<Committed> {
        let mut prepared = validate::prepare(batch, |name| self.entity_type(name))?;
        prepared.writer = Some(Arc::clone(writer));
        self.ask(|reply| Job::Write(prepared, reply)).await
    }

    /// From now on only batches of `writer` write to the entity type; others may erase entities. Claiming it again changes
    /// nothing. **Durability**: none: [`Store::restore_claims`] after a restart.
    ///
    /// # Errors
    /// [`Error::UnknownType`]; [`Error::Importing`]; [`Error::Owned`] by another writer; [`Error::NotEmpty`] when something was
    /// written to it before.
    pub async fn claim(&self, entity_type: &str, writer: &str) -> Result<()> {
        let (entity_type, writer) = (entity_type.to_owned(), writer.to_owned());
        self.ask(|reply| Job::Claim(entity_type, writer, reply))
            .await
    }

    /// Whether [`Store::claim`] would succeed now; changes nothing.
    ///
    /// # Errors
    /// As [`Store::claim`].
    pub fn check_claim(&self, entity_type: &str, writer: &str) -> Result<()> {
        let found = self.entity_type(entity_type)?;
        self.inner
            .published
            .check_claim(&found, writer, self.first_known(&found).is_some())
            .map(drop)
    }

    /// Puts back the claims, each an entity type and its writer, that were there before a restart. Before anything is written.
    pub fn restore_claims(&self, claims: impl IntoIterator<Item = (String, String)>) {
        self.inner.published.owners.write().extend(claims);
    }

    /// Who has claimed the entity type.
    pub fn writer_of(&self, entity_type: &str) -> Option<String> {
        self.inner.published.owners.read().get(entity_type).cloned()
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

    /// Refuses a type whose import is not finished, and a basis whose answers could still change.
    fn check_readable(&self, entity_type: &EntityType, basis: SysTime) -> Result<i64> {
        // What is active stays so: only a type that was looked up during its import is looked up again.
        if entity_type.state() == EntityTypeState::Importing {
            self.check_imported(entity_type.name())?;
        }
        self.check_basis(basis)
    }

    /// As [`Store::ask`], for callers that block.
    fn ask_blocking<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.inner.jobs.lock().clone().ok_or(Error::Closed)?;
        jobs.blocking_send(job(reply)).map_err(|_| Error::Closed)?;
        drop(jobs);
        answer.blocking_recv().map_err(|_| Error::Closed)?
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

    /// Refuses a type whose import is not finished.
    ///
    /// # Errors
    /// [`Error::Importing`]; [`Error::UnknownType`].
    pub fn check_imported(&self, name: &str) -> Result<()> {
        match self.entity_type(name)?.state() {
            EntityTypeState::Active => Ok(()),
            EntityTypeState::Importing => Err(Error::Importing {
                name: name.to_owned(),
            }),
        }
    }
}
