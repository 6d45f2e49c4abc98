//! The one thread that writes.
//!
//! It takes all waiting jobs, carries each out in turn, flushes once for all of them, and only then moves the watermark and
//! answers. A commit puts its log record first, then pages and marks; the checkpoint comes last, before the flush.
//!
//! After a fault while writing, what is on disk is known only after a restart: every later write is refused.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    error::Error,
    journal::Journal,
    log::{Change, Record},
    marks,
    model::{Committed, EntityType, EntityTypeSpec, Until},
    snapshots::{MAX_SNAPSHOT_BYTES, Snapshots},
    timeline::{OPEN, Span},
    types,
    validate::{Prepared, PreparedMutation},
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
    /// No later commit may have this system time or an earlier one.
    RaiseFloor(i64, Reply<()>),
    CreateType(EntityTypeSpec, Reply<(Arc<EntityType>, bool)>),
}

/// What the committer publishes to readers.
#[derive(Debug)]
pub(super) struct Published {
    /// The system time of the last flushed commit.
    watermark: AtomicI64,
    /// The latest basis at which answers are stable: the watermark or the floor.
    stable: AtomicI64,
    pub(super) types: RwLock<BTreeMap<String, Arc<EntityType>>>,
    pub(super) first_known: RwLock<BTreeMap<String, i64>>,
    /// By type: its last commit since the store was opened.
    last_changed: RwLock<BTreeMap<String, i64>>,
    /// The last commit when the store was opened.
    opened_at: i64,
    /// What readers share. Whatever changes answers at bases that have passed must be forgotten there.
    pub(super) snapshots: Snapshots,
    /// The last flushed commit: its sequence, 0 before the first, and its system time.
    pub(super) last: watch::Sender<(u64, i64)>,
}

impl Published {
    pub(super) fn watermark(&self) -> i64 {
        self.watermark.load(Ordering::Acquire)
    }

    pub(super) fn stable(&self) -> i64 {
        self.stable.load(Ordering::Acquire)
    }

    /// A system time after which no commit up to the stable basis wrote to the type. Ask for the stable basis first.
    pub(super) fn last_changed(&self, entity_type: &str) -> i64 {
        let last_changed = self.last_changed.read();
        last_changed
            .get(entity_type)
            .copied()
            .unwrap_or(self.opened_at)
    }
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
        let watermark = journal.end.system_time.unwrap_or(floor);
        let published = Arc::new(Published {
            watermark: AtomicI64::new(watermark),
            stable: AtomicI64::new(watermark.max(floor)),
            types: RwLock::new(types.clone()),
            first_known: RwLock::new(journal.first_known.clone()),
            last_changed: RwLock::default(),
            snapshots: Snapshots::new(MAX_SNAPSHOT_BYTES),
            opened_at: watermark,
            last: watch::Sender::new((journal.end.sequence, watermark)),
        });
        Self {
            journal,
            clock,
            published,
            floor,
            types,
            dirty: false,
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
        let pending: Vec<Pending> = group.into_iter().map(|job| self.carry_out(job)).collect();
        if self.dirty && self.poison.is_none() {
            match self.journal.checkpoint() {
                Ok(()) => self.publish(),
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
            Job::RaiseFloor(floor, reply) => pending(reply, self.raise_floor(floor)),
            Job::CreateType(spec, reply) => pending(reply, self.create_type(spec)),
        }
    }

    fn publish(&mut self) {
        self.dirty = false;
        self.published.types.write().clone_from(&self.types);
        self.published
            .first_known
            .write()
            .clone_from(&self.journal.first_known);
        self.published
            .last_changed
            .write()
            .clone_from(&self.journal.last_changed);
        let watermark = self
            .journal
            .end
            .system_time
            .unwrap_or(self.published.watermark());
        // The watermark late, the commit last: whoever has seen them may read at them.
        self.published
            .stable
            .store(self.floor.max(watermark), Ordering::Release);
        self.published.watermark.store(watermark, Ordering::Release);
        self.published
            .last
            .send_replace((self.journal.end.sequence, watermark));
    }

    fn poison(&mut self, error: &Error) {
        if self.poison.is_none() {
            tracing::error!(%error, "a write failed: the store takes no more writes until it is restarted");
            self.poison = Some(error.to_string());
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
        if floor
            <= self
                .floor
                .max(self.journal.end.system_time.unwrap_or(i64::MIN))
        {
            return Ok(());
        }
        self.write_step(|this| marks::set_floor(&this.journal.meta, floor))?;
        self.floor = floor;
        Ok(())
    }

    fn create_type(&mut self, spec: EntityTypeSpec) -> Result<(Arc<EntityType>, bool), Error> {
        self.check_poison()?;
        if let Some(existing) = self.types.get(&spec.name) {
            return if *existing.spec() == spec {
                Ok((Arc::clone(existing), false))
            } else {
                Err(Error::TypeExists { name: spec.name })
            };
        }
        let create_time = SysTime::from_micros(self.clock.now_micros());
        let entity_type = Arc::new(EntityType::new(spec, create_time));
        self.write_step(|this| types::save(&this.journal.types, &entity_type))?;
        self.types
            .insert(entity_type.name().to_owned(), Arc::clone(&entity_type));
        Ok((entity_type, true))
    }

    fn commit(&mut self, batch: Prepared) -> Result<Committed, Error> {
        self.check_poison()?;
        if let Some(request) = &batch.request
            && let Some(first) = self.journal.remembered(&request.id)?
        {
            return if first.digest == request.digest {
                Ok(Committed {
                    system_time: SysTime::from_micros(first.system_time),
                    versions_written: first.versions_written,
                    replayed: true,
                })
            } else {
                Err(Error::RequestIdReused {
                    request_id: request.id.clone(),
                })
            };
        }
        let system_time = self.next_system_time();
        let pages = self.journal.pages.clone();
        let sequence = self.journal.end.sequence + 1;
        let mut workspace = Workspace::new(&pages, sequence, system_time);
        let mut changes = Vec::with_capacity(batch.mutations.len());
        for (index, mutation) in batch.mutations.into_iter().enumerate() {
            let change = resolve(&mut workspace, index, mutation, system_time)?;
            workspace.apply(&change)?;
            changes.push(change);
        }
        let record = Record {
            sequence,
            system_time,
            versions_written: workspace.seal(),
            request: batch.request,
            previous: self.journal.end.hash,
            changes,
        };
        self.write_step(|this| {
            this.journal.append(&record, workspace)?;
            this.journal.prune_requests(system_time)
        })?;
        Ok(Committed {
            system_time: SysTime::from_micros(system_time),
            versions_written: record.versions_written,
            replayed: false,
        })
    }

    /// `BT-3`: after every earlier commit and every basis that was served, whatever the clock says.
    fn next_system_time(&self) -> i64 {
        let last = self.journal.end.system_time.unwrap_or(i64::MIN);
        let least = last.max(self.floor).saturating_add(1);
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

/// Gives a mutation its absolute range.
fn resolve(
    workspace: &mut Workspace<'_>,
    index: usize,
    mutation: PreparedMutation,
    system_time: i64,
) -> Result<Change, Error> {
    let from = mutation.valid_from.unwrap_or(system_time);
    mutation
        .check_end(index, from)
        .map_err(|violation| Error::Invalid {
            violations: vec![violation],
        })?;
    let entity_type = mutation.entity_type.name();
    let to = match mutation.until {
        Until::NextChange => workspace.next_change(entity_type, &mutation.entity_id, from)?,
        Until::At(valid_to) => valid_to.micros(),
        Until::Forever => OPEN,
    };
    Ok(Change {
        entity_type: entity_type.to_owned(),
        entity_id: mutation.entity_id,
        span: Span { from, to },
        row: mutation.row,
    })
}
