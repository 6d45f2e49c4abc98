//! The one thread that writes.
//!
//! It takes all waiting jobs, carries each out in turn, flushes once for all of them, and only then moves the watermark and
//! answers. A commit puts its log record first, then pages and marks; the checkpoint comes last, before the flush.
//!
//! After a fault while writing, what is on disk is known only after a restart: every later write is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    chain::Link,
    entity_type::{EntityType, EntityTypeSpec, EntityTypeState, EntityTypeUpdate},
    error::Error,
    journal::Journal,
    log::Record,
    marks,
    model::Committed,
    prepared::{Deed, Prepared},
    published::Published,
    resolve::Resolver,
    types,
    workspace::Workspace,
};
use crate::time::{Clock, SysTime};

/// Jobs that may wait; more writers than that wait to be let in.
pub(super) const QUEUE_JOBS: usize = 256;
/// Jobs that one flush serves at most.
const GROUP_JOBS: usize = 256;

/// Where the answer to a job goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Something to be made durable.
pub(super) enum Job {
    Write(Prepared, Reply<Committed>),
    /// Unless a batch of the same chain has failed before.
    WriteNext(Prepared, Link, Reply<Option<Committed>>),
    /// No later commit may have this system time or an earlier one.
    RaiseFloor(i64, Reply<()>),
    CreateType(EntityTypeSpec, Reply<(Arc<EntityType>, bool)>),
    UpdateType(String, EntityTypeUpdate, Reply<(Arc<EntityType>, bool)>),
    FinishImport(String, Reply<Arc<EntityType>>),
    /// Only this writer writes to the type from now on.
    Claim(String, String, Reply<()>),
    /// The last offset of a bulk load.
    IngestOffset(String, Reply<Option<u64>>),
    /// Where everything stands, between two commits.
    Snapshot(Reply<Snapshot>),
}

/// Where the store stands between two commits: what a consistent copy starts from.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Of the last commit; 0: there is none.
    pub(super) last_sequence: u64,
    /// Of the last commit.
    pub(super) system_time: Option<i64>,
    pub(super) floor: i64,
    /// The stored declarations of all types, by name.
    pub(super) types: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An answer that waits for the flush; it is told the flush's fault.
type Pending = Box<dyn FnOnce(Option<&str>)>;

pub(super) struct Committer {
    journal: Journal,
    clock: Arc<dyn Clock>,
    published: Arc<Published>,
    floor: i64,
    /// Declared types, those included that are not flushed yet.
    types: BTreeMap<String, Arc<EntityType>>,
    /// Whether there is something to flush.
    dirty: bool,
    /// Types of which something was erased since the last flush.
    erased_types: BTreeSet<String>,
    /// The first fault while writing.
    poison: Option<String>,
}

impl Committer {
    /// Takes over a recovered journal. `floor` is durable already.
    pub(super) fn new(
        journal: Journal,
        clock: Arc<dyn Clock>,
        floor: i64,
        types: BTreeMap<String, Arc<EntityType>>,
    ) -> Self {
        let published = Arc::new(Published::new(&journal, floor, types.clone()));
        Self {
            journal,
            clock,
            published,
            floor,
            types,
            dirty: false,
            erased_types: BTreeSet::new(),
            poison: None,
        }
    }

    pub(super) fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published)
    }

    /// Works until all senders are gone and the queue is empty.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_JOBS
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            self.work(group);
        }
    }

    fn work(&mut self, group: Vec<Job>) {
        if let Some(disk) = self.published.disk.get() {
            disk.measure();
        }
        let pending: Vec<Pending> = group.into_iter().map(|job| self.carry_out(job)).collect();
        if self.dirty && self.poison.is_none() {
            let start_micros = self.clock.monotonic_micros();
            match self.journal.checkpoint() {
                Ok(()) => {
                    let end_micros = self.clock.monotonic_micros();
                    self.published.metrics.synced(start_micros, end_micros);
                    self.publish();
                }
                Err(error) => self.poison(&error),
            }
        }
        for answer in pending {
            answer(self.poison.as_deref());
        }
    }

    fn carry_out(&mut self, job: Job) -> Pending {
        match job {
            Job::Write(batch, reply) => pending(reply, self.commit(batch)),
            Job::WriteNext(batch, link, reply) => pending(reply, link.next(|| self.commit(batch))),
            Job::RaiseFloor(floor, reply) => pending(reply, self.raise_floor(floor)),
            Job::CreateType(spec, reply) => pending(reply, self.create_type(spec)),
            Job::UpdateType(name, update, reply) => pending(reply, self.update_type(&name, update)),
            Job::FinishImport(name, reply) => pending(reply, self.finish_import(&name)),
            Job::Claim(name, writer, reply) => pending(reply, self.claim(&name, &writer)),
            Job::IngestOffset(stream, reply) => pending(reply, self.ingest_offset(&stream)),
            Job::Snapshot(reply) => pending(reply, self.snapshot()),
        }
    }

    fn publish(&mut self) {
        self.dirty = false;
        let erased_types = std::mem::take(&mut self.erased_types);
        self.published
            .advance(&self.journal, self.floor, &self.types, &erased_types);
    }

    fn poison(&mut self, error: &Error) {
        if self.poison.is_none() {
            tracing::error!(%error, "a write failed: the store takes no more writes until it is restarted");
            self.poison = Some(error.to_string());
            self.journal.database.broken().cancel();
        }
    }

    fn check_poison(&self) -> Result<(), Error> {
        match &self.poison {
            None => Ok(()),
            Some(cause) => Err(Error::NotDurable {
                cause: cause.clone(),
            }),
        }
    }

    /// Refuses what needs room that is not there, before anything is written. What the server writes for itself may use the
    /// rest that clients may not.
    fn check_room(&self, is_own: bool) -> Result<(), Error> {
        if !is_own && let Some(disk) = self.published.disk.get() {
            disk.check_last()?;
        }
        let reserved = self.journal.database.reserve();
        if reserved.is_err()
            && let Some(disk) = self.published.disk.get()
        {
            disk.ran_out();
        }
        Ok(reserved?)
    }

    /// Runs a step that writes; if it fails, poisons.
    fn write_step(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.dirty = true;
        step(self).inspect_err(|error| self.poison(error))
    }

    fn raise_floor(&mut self, floor: i64) -> Result<(), Error> {
        self.check_poison()?;
        // A commit of this group may have passed it: then its flush is all that the caller waits for.
        if floor <= self.stable() {
            return Ok(());
        }
        self.write_step(|this| marks::set_floor(&this.journal.meta, floor))?;
        self.floor = floor;
        Ok(())
    }

    fn create_type(&mut self, spec: EntityTypeSpec) -> Result<(Arc<EntityType>, bool), Error> {
        self.check_poison()?;
        if let Some(existing) = self.types.get(&spec.name) {
            return if existing.declares(&spec) {
                Ok((Arc::clone(existing), false))
            } else {
                Err(Error::TypeExists { name: spec.name })
            };
        }
        let create_time = SysTime::from_micros(self.clock.now_micros());
        let entity_type = self.save_type(EntityType::new(spec, create_time))?;
        Ok((entity_type, true))
    }

    fn update_type(
        &mut self,
        name: &str,
        update: EntityTypeUpdate,
    ) -> Result<(Arc<EntityType>, bool), Error> {
        self.check_poison()?;
        let existing = self.find_type(name)?;
        let now = SysTime::from_micros(self.clock.now_micros());
        match existing.updated(update, now) {
            Ok(None) => Ok((existing, false)),
            Ok(Some(updated)) => Ok((self.save_type(updated)?, true)),
            Err(violations) => Err(Error::Invalid { violations }),
        }
    }

    fn finish_import(&mut self, name: &str) -> Result<Arc<EntityType>, Error> {
        self.check_poison()?;
        let existing = self.find_type(name)?;
        match existing.state() {
            EntityTypeState::Importing => self.save_type(existing.sealed()),
            EntityTypeState::Active => Err(Error::NotImporting {
                name: name.to_owned(),
            }),
        }
    }

    fn claim(&mut self, name: &str, writer: &str) -> Result<(), Error> {
        let entity_type = self.find_type(name)?;
        let holds_something = self.journal.first_known.contains_key(name);
        let is_claimed = self
            .published
            .check_claim(&entity_type, writer, holds_something)?;
        if !is_claimed {
            let mut owners = self.published.owners.write();
            owners.insert(name.to_owned(), writer.to_owned());
        }
        Ok(())
    }

    fn save_type(&mut self, entity_type: EntityType) -> Result<Arc<EntityType>, Error> {
        self.check_room(false)?;
        self.write_step(|this| types::save(&this.journal.types, &entity_type))?;
        let entity_type = Arc::new(entity_type);
        self.types
            .insert(entity_type.name().to_owned(), Arc::clone(&entity_type));
        Ok(entity_type)
    }

    fn find_type(&self, name: &str) -> Result<Arc<EntityType>, Error> {
        let found = self.types.get(name).cloned();
        found.ok_or_else(|| Error::UnknownType {
            name: name.to_owned(),
        })
    }

    /// An offset whose batch is not flushed yet is answered after the flush, as everything is.
    fn ingest_offset(&self, stream: &str) -> Result<Option<u64>, Error> {
        self.check_poison()?;
        let progress = self.journal.ingest(stream)?;
        Ok(progress.map(|progress| progress.offset))
    }

    fn snapshot(&self) -> Result<Snapshot, Error> {
        let types = self.journal.types.large_prefix(&[]);
        Ok(Snapshot {
            last_sequence: self.journal.end.sequence,
            system_time: self.journal.end.system_time,
            floor: self.floor,
            types: types.collect::<Result<_, _>>()?,
        })
    }

    fn commit(&mut self, batch: Prepared) -> Result<Committed, Error> {
        self.check_poison()?;
        if let Some(answer) = self.answered_before(&batch)? {
            return Ok(answer);
        }
        self.check_writer(&batch)?;
        self.check_room(batch.writer.is_some())?;
        let system_time = self.next_system_time();
        let at = self.version_time(&batch, system_time)?;
        let repeats = self.repeats_import_time(&batch);
        let mutation_count = batch.mutations.len();
        let pages = self.journal.pages.clone();
        let sequence = self.journal.end.sequence + 1;
        let workspace = Workspace::new(&pages, sequence, at);
        let mut resolver = Resolver::new(workspace, &self.journal, at, self.stable());
        for (index, mutation) in batch.mutations.into_iter().enumerate() {
            resolver.resolve(index, mutation)?;
        }
        let (mut workspace, entries) = resolver.finish();
        if entries.is_empty() && batch.request.is_none() && batch.ingest.is_none() {
            return Ok(self.unchanged(false));
        }
        let sealed = workspace.seal();
        let record = Record {
            sequence,
            system_time,
            import_time: batch.import_time,
            // Versions of an earlier batch with the same import time cannot be told from those of this one.
            versions_written: if repeats {
                entries.len() as u64
            } else {
                sealed
            },
            request: batch.request,
            ingest: batch.ingest,
            previous: self.journal.end.hash,
            entries,
        };
        self.write_step(|this| {
            let record_bytes = this.journal.append(&record, workspace)?;
            let metrics = &this.published.metrics;
            metrics.committed(mutation_count, record.versions_written, record_bytes);
            this.journal.prune(system_time)
        })?;
        let erased = record.erasures().map(|erasure| erasure.entity_type.clone());
        self.erased_types.extend(erased);
        Ok(Committed {
            system_time: SysTime::from_micros(system_time),
            versions_written: record.versions_written,
            replayed: false,
        })
    }

    /// The answer to a request that was made before, or to a batch of a bulk load that is there already.
    fn answered_before(&self, batch: &Prepared) -> Result<Option<Committed>, Error> {
        if let Some(request) = &batch.request
            && let Some(first) = self.journal.remembered(&request.id)?
        {
            return if first.digest == request.digest {
                Ok(Some(Committed {
                    system_time: SysTime::from_micros(first.system_time),
                    versions_written: first.versions_written,
                    replayed: true,
                }))
            } else {
                Err(Error::RequestIdReused {
                    request_id: request.id.clone(),
                })
            };
        }
        if let Some(ingest) = &batch.ingest
            && let Some(progress) = self.journal.ingest(&ingest.stream)?
            && ingest.offset <= progress.offset
        {
            return Ok(Some(self.unchanged(true)));
        }
        Ok(None)
    }

    /// The answer to a batch that writes nothing.
    fn unchanged(&self, replayed: bool) -> Committed {
        Committed {
            system_time: SysTime::from_micros(self.journal.end.system_time.unwrap_or(self.floor)),
            versions_written: 0,
            replayed,
        }
    }

    /// The system time of the batch's versions. The states of its types are those of now, not of when it was checked.
    fn version_time(&self, batch: &Prepared, system_time: i64) -> Result<i64, Error> {
        let mut checked = "";
        for mutation in &batch.mutations {
            let name = mutation.entity_type.name();
            if name == checked {
                continue;
            }
            checked = name;
            let name = || name.to_owned();
            match (self.find_type(checked)?.state(), batch.import_time) {
                (EntityTypeState::Active, None) => {}
                (EntityTypeState::Active, Some(_)) => {
                    return Err(Error::NotImporting { name: name() });
                }
                (EntityTypeState::Importing, None) => {
                    return Err(Error::ImportTimeRequired { name: name() });
                }
                (EntityTypeState::Importing, Some(import_time)) => {
                    self.check_import_order(checked, import_time)?;
                }
            }
        }
        let at = batch.import_time.unwrap_or(system_time);
        if at > system_time {
            return Err(Error::ImportTimeInFuture {
                import_time: SysTime::from_micros(at),
                now: SysTime::from_micros(system_time),
            });
        }
        Ok(at)
    }

    /// Refuses what somebody else than the type's writer says of it. Erasures are for everyone.
    fn check_writer(&self, batch: &Prepared) -> Result<(), Error> {
        let owners = self.published.owners.read();
        if owners.is_empty() {
            return Ok(());
        }
        for mutation in &batch.mutations {
            let name = mutation.entity_type.name();
            if let Some(owner) = owners.get(name)
                && batch.writer.as_deref() != Some(owner)
                && !matches!(mutation.deed, Deed::Erase)
            {
                return Err(Error::Owned {
                    name: name.to_owned(),
                    writer: owner.clone(),
                });
            }
        }
        Ok(())
    }

    fn check_import_order(&self, name: &str, import_time: i64) -> Result<(), Error> {
        match self.journal.imports.get(name) {
            Some(mark) if import_time < mark.last_time => Err(Error::ImportTimeBackwards {
                name: name.to_owned(),
                import_time: SysTime::from_micros(import_time),
                last: SysTime::from_micros(mark.last_time),
            }),
            _ => Ok(()),
        }
    }

    /// Whether an earlier batch to one of the types had the same import time.
    fn repeats_import_time(&self, batch: &Prepared) -> bool {
        batch.import_time.is_some_and(|import_time| {
            batch.mutations.iter().any(|mutation| {
                let mark = self.journal.imports.get(mutation.entity_type.name());
                mark.is_some_and(|mark| mark.last_time == import_time)
            })
        })
    }

    /// The latest basis at which answers cannot change.
    fn stable(&self) -> i64 {
        let last = self.journal.end.system_time.unwrap_or(i64::MIN);
        last.max(self.floor)
    }

    /// `BT-3`: after every earlier commit and every basis that was served, whatever the clock says.
    fn next_system_time(&self) -> i64 {
        let least = self.stable().saturating_add(1);
        self.clock.now_micros().max(least)
    }
}

fn pending<T: 'static>(reply: Reply<T>, outcome: Result<T, Error>) -> Pending {
    Box::new(move |fault| {
        let answer = match (outcome, fault) {
            (Ok(_), Some(cause)) => Err(Error::NotDurable {
                cause: cause.to_owned(),
            }),
            (outcome, _) => outcome,
        };
        // A caller that has gone away wants no answer; what it asked for is done all the same.
        drop(reply.send(answer));
    })
}
