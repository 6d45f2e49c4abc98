//! Gathering what staleness is told from, and putting the reasons together.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    StalePartition, StaleReason, Standing, Standings,
    entities::{self, Look},
    files::SourceDiff,
    tables::TableFiles,
};
use crate::{
    backfill::{
        Result,
        executor::Backfills,
        inputs::{Inputs, InputsStore},
        model::{Knowledge, PartitionState, PlannedPartition, Record, TransformPlan},
    },
    catalog::{Catalog, Output, Transform},
    engine::{Reads, SourceFile, prior_range, source},
    lake::{self, Lake},
    store::Store,
    time::{Interval, Partition, SysTime, ValidTime},
};

/// What is read to tell what is stale. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::backfill) struct Finder {
    pub(in crate::backfill) catalog: Catalog,
    pub(in crate::backfill) store: Store,
    pub(in crate::backfill) lake: Lake,
    pub(in crate::backfill) inputs: InputsStore,
    pub(in crate::backfill) backfills: Backfills,
}

/// What is asked.
#[derive(Debug)]
pub(in crate::backfill) struct Scope {
    /// What would compute the partitions now.
    pub(in crate::backfill) transform: Arc<Transform>,
    /// Only partitions that overlap it.
    pub(in crate::backfill) range: Interval<ValidTime>,
    /// Only partitions that start after it.
    pub(in crate::backfill) after: Option<ValidTime>,
    /// What a partition as known now would read.
    pub(in crate::backfill) latest: SysTime,
}

/// How the published partitions stand.
#[derive(Debug, Default)]
pub(in crate::backfill) struct Findings {
    /// By start: each published partition, and why it is stale.
    pub(in crate::backfill) partitions: Vec<Finding>,
    pub(in crate::backfill) commit_count: u64,
    pub(in crate::backfill) comparison_count: u64,
}

/// A published partition.
#[derive(Debug)]
pub(in crate::backfill) struct Finding {
    pub(in crate::backfill) published: Published,
    /// Empty: it is up to date.
    pub(in crate::backfill) reasons: Vec<StaleReason>,
    /// Whether what it read depends on what it was allowed to know.
    pub(in crate::backfill) depends_on_knowledge: bool,
}

/// The latest publication of a partition.
#[derive(Debug, Clone)]
pub(in crate::backfill) struct Published {
    pub(in crate::backfill) record: Arc<Record>,
    /// Its place in the plan.
    pub(super) index: usize,
    pub(super) attempt: u32,
    pub(super) end_micros: i64,
}

impl Published {
    fn planned(&self) -> &PlannedPartition {
        &self.record.plan.partitions[self.index]
    }

    /// Its transform, as the backfill ran it.
    fn transform(&self) -> &TransformPlan {
        &self.record.plan.transforms[self.planned().transform as usize]
    }

    pub(in crate::backfill) fn partition(&self) -> &Partition {
        &self.planned().partition
    }
}

impl Finding {
    pub(in crate::backfill) fn to_stale(&self) -> StalePartition {
        let published = &self.published;
        StalePartition {
            partition: published.partition().clone(),
            backfill: published.record.name.clone(),
            revision: published.transform().revision,
            knowledge: published.record.plan.knowledge,
            basis: published.planned().basis,
            publish_micros: published.end_micros,
            reasons: self.reasons.clone(),
        }
    }
}

impl Findings {
    /// How the partitions stand if they are to be as `knowledge` says.
    pub(in crate::backfill) fn standings(self, knowledge: Knowledge) -> Standings {
        let standing = |finding: Finding| {
            let record = &finding.published.record;
            let was = record.plan.knowledge;
            let mut reasons = Vec::new();
            if was != knowledge && finding.depends_on_knowledge {
                reasons.push(format!("it was computed {was}, not {knowledge}"));
            }
            reasons.extend(finding.reasons.iter().map(ToString::to_string));
            let standing = if reasons.is_empty() {
                Standing::UpToDate {
                    backfill: record.name.clone(),
                }
            } else {
                Standing::Stale(reasons.join("; "))
            };
            (finding.published.partition().start, standing)
        };
        self.partitions.into_iter().map(standing).collect()
    }
}

impl Finder {
    /// Tells for each published partition in scope whether it is stale. Blocks.
    ///
    /// **Cost**: the partitions of all backfills of the table, in memory; a read for each published one; a listing of each
    /// source, and of the table if it is read; and the commit log since the oldest basis (see [`entities`]).
    ///
    /// # Errors
    /// A source that cannot be listed; damage; storage faults.
    pub(in crate::backfill) fn find(&self, scope: &Scope) -> Result<Findings> {
        let all = self.published(&scope.transform.spec.output);
        let is_asked = |published: &&Published| {
            let partition = published.partition();
            scope.after.is_none_or(|after| partition.start > after)
                && Interval::new(partition.start, partition.end).overlaps(&scope.range)
        };
        let asked: Vec<_> = all.values().filter(is_asked).cloned().collect();
        let mut revisions = Revisions::new(self);
        let mut inputs = Vec::with_capacity(asked.len());
        for published in &asked {
            inputs.push(self.inputs_of(published, &mut revisions)?);
        }
        let looks: Vec<_> = asked
            .iter()
            .zip(&inputs)
            .map(|(published, inputs)| Look {
                basis: published.planned().basis,
                target: (published.record.plan.knowledge == Knowledge::AsKnownNow)
                    .then_some(scope.latest),
                started_at: inputs.started_at,
                reads: &inputs.reads.entities,
            })
            .collect();
        let found = entities::find(&self.store, &looks, scope.latest)?;
        let mut files = Files::new(self);
        let mut tables = Tables::new(self);
        let mut findings = Findings {
            partitions: Vec::with_capacity(asked.len()),
            commit_count: found.commit_count,
            comparison_count: found.comparison_count,
        };
        for ((published, inputs), entity) in asked.into_iter().zip(&inputs).zip(found.reasons) {
            let ran = revisions.get(&published)?;
            let mut reasons = Vec::new();
            if !ran.computes_like(&scope.transform) {
                reasons.push(StaleReason::Revision {
                    published: ran.revision,
                    current: scope.transform.revision,
                });
            }
            reasons.extend(entity);
            reasons.extend(files.reasons(&published, &inputs.reads)?);
            reasons.extend(tables.reasons(&published, &ran, inputs)?);
            findings.partitions.push(Finding {
                depends_on_knowledge: self.depends_on_knowledge(&inputs.reads)?,
                published,
                reasons,
            });
        }
        Ok(findings)
    }

    /// The latest publication of each partition of an output.
    fn published(&self, output: &Output) -> BTreeMap<ValidTime, Published> {
        let mut all: BTreeMap<ValidTime, Published> = BTreeMap::new();
        for watched in self.backfills.read().values() {
            let record = &watched.record;
            let writes = |one: &TransformPlan| one.output.is_same_place(output);
            if !record.plan.transforms.iter().any(writes) {
                continue;
            }
            let state = watched.visible.read();
            let runs = record.plan.partitions.iter().zip(&state.partitions);
            for (index, (planned, run)) in runs.enumerate() {
                let Some(end_micros) = run.end_micros else {
                    continue;
                };
                let start = planned.partition.start;
                let is_later = all
                    .get(&start)
                    .is_none_or(|latest| latest.end_micros <= end_micros);
                let is_of_output = record.plan.transform_of(planned).is_some_and(writes);
                if run.state == PartitionState::Succeeded && is_later && is_of_output {
                    let published = Published {
                        record: Arc::clone(record),
                        index,
                        attempt: run.attempt,
                        end_micros,
                    };
                    all.insert(start, published);
                }
            }
        }
        all
    }

    fn inputs_of(
        &self,
        published: &Published,
        revisions: &mut Revisions<'_>,
    ) -> Result<Remembered> {
        let record = &published.record;
        let index = u32::try_from(published.index).unwrap_or(u32::MAX);
        let stored = self.inputs.get(&record.name, index, published.attempt)?;
        Ok(match stored {
            Some(Inputs { started_at, reads }) => Remembered {
                started_at,
                reads,
                recorded: true,
            },
            None => Remembered {
                started_at: SysTime::from_micros(record.create_time_micros),
                reads: Reads::declared(
                    &*revisions.get(published)?,
                    published.partition(),
                    SysTime::from_micros(published.end_micros),
                ),
                recorded: false,
            },
        })
    }

    fn depends_on_knowledge(&self, reads: &Reads) -> Result<bool> {
        // What has a basis of its own is the same whatever is known.
        if reads.entities.iter().any(|read| read.basis.is_none()) {
            return Ok(true);
        }
        for name in &reads.sources {
            if self.catalog.source(name)?.available_at_column.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a table holds. One that is not there holds nothing: a table is made by the first backfill that writes it.
    fn table_files(&self, table: &str) -> Result<TableFiles> {
        let everything = Interval::starting_at(ValidTime::MIN);
        let files = match self.lake.files(table, None, everything) {
            Err(lake::Error::TableNotFound { .. }) => Vec::new(),
            files => files?,
        };
        let output = Output::Table(table.to_owned());
        Ok(TableFiles::new(files, self.published(&output)))
    }
}

/// What is known of what a partition read.
struct Remembered {
    started_at: SysTime,
    reads: Reads,
    /// Otherwise: what it may have read at most.
    recorded: bool,
}

/// The revisions that were run.
struct Revisions<'a> {
    finder: &'a Finder,
    known: HashMap<(String, u32), Arc<Transform>>,
}

impl<'a> Revisions<'a> {
    fn new(finder: &'a Finder) -> Self {
        Self {
            finder,
            known: HashMap::new(),
        }
    }

    fn get(&mut self, published: &Published) -> Result<Arc<Transform>> {
        let plan = published.transform();
        let key = (plan.transform.clone(), plan.revision);
        if let Some(known) = self.known.get(&key) {
            return Ok(Arc::clone(known));
        }
        let catalog = &self.finder.catalog;
        let transform = catalog.transform(&plan.transform, Some(plan.revision))?;
        self.known.insert(key, Arc::clone(&transform));
        Ok(transform)
    }
}

/// Tables as they are now.
struct Tables<'a> {
    finder: &'a Finder,
    known: HashMap<String, TableFiles>,
}

impl<'a> Tables<'a> {
    fn new(finder: &'a Finder) -> Self {
        Self {
            finder,
            known: HashMap::new(),
        }
    }

    /// Whether what a partition read of its own earlier output and of other transforms' tables is not there any more.
    fn reasons(
        &mut self,
        published: &Published,
        ran: &Transform,
        inputs: &Remembered,
    ) -> Result<Vec<StaleReason>> {
        let mut reasons = Vec::new();
        let prior = inputs.reads.prior.as_ref();
        // Of an entity type, the store tells what became of it.
        if let Some(table) = ran.spec.output.table()
            && ran.spec.prior.is_some()
            && (prior.is_some() || !inputs.recorded)
        {
            let reach = prior_range(&ran.spec, published.partition().start);
            let changed = self.get(table)?.is_changed(published, prior, reach);
            reasons.extend(changed.map(|republished| StaleReason::Prior { republished }));
        }
        for frozen in &published.transform().tables {
            let read = inputs
                .reads
                .tables
                .iter()
                .find(|it| it.table == frozen.table);
            let Some(reach) = frozen.seen_by(published.partition()) else {
                continue;
            };
            if read.is_none() && inputs.recorded {
                continue;
            }
            let read = read.map(|read| &read.files);
            let changed = self.get(&frozen.table)?.is_changed(published, read, reach);
            reasons.extend(changed.map(|republished| StaleReason::Upstream {
                table: frozen.table.clone(),
                republished,
            }));
        }
        Ok(reasons)
    }

    fn get(&mut self, table: &str) -> Result<&mut TableFiles> {
        match self.known.entry(table.to_owned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(self.finder.table_files(table)?)),
        }
    }
}

/// Sources as they are now, and how they differ from what backfills froze.
struct Files<'a> {
    finder: &'a Finder,
    now: HashMap<String, Vec<SourceFile>>,
    /// By backfill and the place of the transform in it.
    diffs: HashMap<(String, u32), Vec<(String, SourceDiff)>>,
}

impl<'a> Files<'a> {
    fn new(finder: &'a Finder) -> Self {
        Self {
            finder,
            now: HashMap::new(),
            diffs: HashMap::new(),
        }
    }

    fn reasons(&mut self, published: &Published, reads: &Reads) -> Result<Vec<StaleReason>> {
        let place = published.planned().transform;
        let key = (published.record.name.clone(), place);
        if !self.diffs.contains_key(&key) {
            let diffs = self.diff(published.transform())?;
            self.diffs.insert(key.clone(), diffs);
        }
        let partition = published.partition();
        let window = Interval::new(partition.start, partition.end);
        let diffs = self.diffs.get(&key).map(Vec::as_slice);
        Ok(diffs
            .unwrap_or_default()
            .iter()
            .filter(|(source, _)| reads.sources.contains(source))
            .filter_map(|(_, diff)| diff.reason(window))
            .collect())
    }

    fn diff(&mut self, transform: &TransformPlan) -> Result<Vec<(String, SourceDiff)>> {
        let mut diffs = Vec::new();
        for frozen in &transform.sources {
            if !self.now.contains_key(&frozen.source) {
                let declared = self.finder.catalog.source(&frozen.source)?;
                let listed = source::list_files(&declared)?;
                self.now.insert(frozen.source.clone(), listed);
            }
            let now = self.now.get(&frozen.source).map(Vec::as_slice);
            let diff = SourceDiff::new(frozen, now.unwrap_or_default());
            diffs.push((frozen.source.clone(), diff));
        }
        Ok(diffs)
    }
}
