//! Making rows all that there is of a type over a range of valid time.
//!
//! The rows are compared with what the store holds over the range, entity by entity, in one pass in order of id: what is so
//! already is left alone, what differs is put, and what has no row any more is ended. So doing it again with the same rows
//! writes nothing, and doing it again after it was cut in the middle writes the rest: it needs no memory of how far it came.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Result, Store,
    chain::{Chain, Queued},
    error::Error,
    keys,
    model::{EntityType, IngestMark, Until},
    pages::{Head, Pages},
    prepared::{Deed, Prepared, PreparedMutation},
    read,
    staged::{RowReader, StagedRows},
    timeline::Span,
    validate::{MAX_BATCH_BYTES, MAX_MUTATIONS},
};
use crate::{
    kv::Slice,
    time::{Interval, SysTime, ValidTime},
};

/// Batches that may be on their way to the disk.
const BATCHES_IN_FLIGHT: usize = 4;

/// What a replacement came to, in entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replaced {
    /// They had another value somewhere in the range, or none.
    pub written: u64,
    /// They had a value and have none any more.
    pub ended: u64,
    /// They had this value over all of the range.
    pub unchanged: u64,
}

/// A replacement whose last batches are on their way.
#[derive(Debug)]
pub struct Replacing {
    in_flight: VecDeque<Queued>,
    replaced: Replaced,
    /// Of the last batch that is on disk; before that, what was the latest basis at the beginning.
    basis: SysTime,
}

impl Store {
    /// Makes `rows` all that there is of their type over `window`. Blocks.
    ///
    /// What changes goes into batches of the store's limits, each a commit of its own: up to 10,000 entities or 4 MiB are one
    /// commit, and readers see all of it or nothing. Of more, a reader in the middle sees a part, those of lower ids first; at
    /// the basis that [`Replacing::finish`] gives, all is there. The last batch leaves `mark`, and `note` is called before it
    /// goes: [`Store::ingest_offset`] tells whether all was written. Where nothing changes, nothing is written, and there is
    /// neither.
    ///
    /// Nobody else may write to the type over the window meanwhile: `writer` has claimed it.
    ///
    /// **Cost**: one range scan over the type's entities; writes in proportion to what changes.
    ///
    /// # Errors
    /// [`Error::Owned`]; [`Error::Staged`]; [`Error::NotDurable`]; [`Error::Closed`]; storage faults. What was written of it by then stays; doing
    /// it again completes it.
    pub fn replace<E: From<Error>>(
        &self,
        rows: StagedRows,
        window: Interval<ValidTime>,
        writer: &Arc<str>,
        mark: IngestMark,
        note: impl FnOnce(Replaced) -> std::result::Result<(), E>,
    ) -> std::result::Result<Replacing, E> {
        let mut sender = Sender {
            chain: self.chain(),
            writer: Arc::clone(writer),
            replacing: Replacing {
                in_flight: VecDeque::new(),
                replaced: Replaced::default(),
                basis: self.latest_basis(),
            },
        };
        let mut difference = Difference::start(self, rows, window)?;
        let mut batch = Vec::new();
        let mut size_bytes = 0;
        while let Some(mutation) = difference.next()? {
            let mutation_bytes = mutation.size_bytes();
            if batch.len() == MAX_MUTATIONS || size_bytes + mutation_bytes > MAX_BATCH_BYTES {
                sender.send(std::mem::take(&mut batch), None)?;
                size_bytes = 0;
            }
            size_bytes += mutation_bytes;
            batch.push(mutation);
        }
        sender.replacing.replaced = difference.replaced;
        if !batch.is_empty() {
            note(difference.replaced)?;
            sender.send(batch, Some(mark))?;
        }
        Ok(sender.replacing)
    }
}

impl Replacing {
    /// Waits until all of it is on disk: what it came to, and a basis at which it is there. Blocks.
    ///
    /// # Errors
    /// As [`Store::replace`].
    pub fn finish(mut self) -> Result<(Replaced, SysTime)> {
        while !self.in_flight.is_empty() {
            self.wait_for_first()?;
        }
        Ok((self.replaced, self.basis))
    }

    fn wait_for_first(&mut self) -> Result<()> {
        // Without an answer, a batch before it has failed, whose error has been told.
        if let Some(queued) = self.in_flight.pop_front()
            && let Some(committed) = queued.committed_blocking()?
        {
            self.basis = committed.system_time;
        }
        Ok(())
    }
}

struct Sender {
    chain: Chain,
    writer: Arc<str>,
    replacing: Replacing,
}

impl Sender {
    fn send(&mut self, mutations: Vec<PreparedMutation>, ingest: Option<IngestMark>) -> Result<()> {
        if self.replacing.in_flight.len() == BATCHES_IN_FLIGHT {
            self.replacing.wait_for_first()?;
        }
        let queued = self.chain.push_prepared(Prepared {
            mutations,
            request: None,
            import_time: None,
            ingest,
            writer: Some(Arc::clone(&self.writer)),
        })?;
        self.replacing.in_flight.push_back(queued);
        Ok(())
    }
}

/// What has to be written so that the rows are all that there is.
struct Difference {
    pages: Pages,
    entity_type: Arc<EntityType>,
    prefix_bytes: usize,
    heads: Box<dyn Iterator<Item = Result<(Slice, Head)>> + Send>,
    rows: RowReader,
    next_known: Option<Known>,
    next_row: Option<(String, Vec<u8>)>,
    span: Span,
    until: Until,
    basis: i64,
    replaced: Replaced,
}

/// An entity of the store.
struct Known {
    id: String,
    key: Slice,
    head: Head,
}

impl Difference {
    fn start(store: &Store, rows: StagedRows, window: Interval<ValidTime>) -> Result<Self> {
        let entity_type = Arc::clone(&rows.entity_type);
        let (from, to) = keys::type_range(entity_type.name(), None);
        let pages = store.inner.pages.clone();
        let mut difference = Self {
            prefix_bytes: keys::type_prefix(entity_type.name()).len(),
            heads: Box::new(pages.heads(&from, &to)),
            rows: rows.into_reader().map_err(Error::Staged)?,
            pages,
            entity_type,
            next_known: None,
            next_row: None,
            span: Span {
                from: window.from.micros(),
                to: window.to.map_or(super::timeline::OPEN, ValidTime::micros),
            },
            until: window.to.map_or(Until::Forever, Until::At),
            basis: store.latest_basis().micros(),
            replaced: Replaced::default(),
        };
        difference.step_known()?;
        difference.step_row()?;
        Ok(difference)
    }

    fn step_known(&mut self) -> Result<Option<Known>> {
        let next = match self.heads.next() {
            None => None,
            Some(entry) => {
                let (key, head) = entry?;
                let id = read::entity_id(&key, self.prefix_bytes)?;
                Some(Known { id, key, head })
            }
        };
        Ok(std::mem::replace(&mut self.next_known, next))
    }

    fn step_row(&mut self) -> Result<Option<(String, Vec<u8>)>> {
        let next = self.rows.next().map_err(Error::Staged)?;
        Ok(std::mem::replace(&mut self.next_row, next))
    }

    /// The next change, by id.
    fn next(&mut self) -> Result<Option<PreparedMutation>> {
        loop {
            let has_row_first = match (&self.next_row, &self.next_known) {
                (None, None) => return Ok(None),
                (Some((id, _)), Some(known)) => *id <= known.id,
                (Some(_), None) => true,
                (None, Some(_)) => false,
            };
            let change = if has_row_first {
                self.compare_row()?
            } else {
                self.end_known()?
            };
            if change.is_some() {
                return Ok(change);
            }
        }
    }

    /// What the next row changes; `None`: nothing.
    fn compare_row(&mut self) -> Result<Option<PreparedMutation>> {
        let Some((id, row)) = self.step_row()? else {
            return Ok(None);
        };
        let is_known = self.next_known.as_ref().is_some_and(|known| known.id == id);
        if is_known
            && let Some(known) = self.step_known()?
            && self.holds_all_along(known, &row)?
        {
            self.replaced.unchanged += 1;
            return Ok(None);
        }
        self.replaced.written += 1;
        Ok(Some(self.mutation(id, Deed::Put(row))))
    }

    /// Ends the next known entity; `None`: it has no value in the span.
    fn end_known(&mut self) -> Result<Option<PreparedMutation>> {
        let Some(Known { id, key, head }) = self.step_known()? else {
            return Ok(None);
        };
        let mut has_value = false;
        read::each_visible(&self.pages, &key, head, self.span, self.basis, |_, row| {
            has_value |= row.is_some();
            Ok(())
        })?;
        if !has_value {
            return Ok(None);
        }
        self.replaced.ended += 1;
        Ok(Some(self.mutation(id, Deed::End)))
    }

    /// Whether the entity has this row at every point of the span.
    fn holds_all_along(&self, known: Known, wanted: &[u8]) -> Result<bool> {
        let Known { id: _, key, head } = known;
        let mut reached = self.span.from;
        let mut differs = false;
        read::each_visible(
            &self.pages,
            &key,
            head,
            self.span,
            self.basis,
            |rect, row| {
                let from = rect.from.max(self.span.from);
                differs |= from != reached || row != Some(wanted);
                reached = rect.to.min(self.span.to);
                Ok(())
            },
        )?;
        Ok(!differs && reached == self.span.to)
    }

    fn mutation(&self, entity_id: String, deed: Deed) -> PreparedMutation {
        PreparedMutation {
            entity_type: Arc::clone(&self.entity_type),
            entity_id,
            valid_from: Some(self.span.from),
            until: self.until,
            deed,
            expect: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        kv::Database,
        store::model::{Answer, Attribute, AttributeKind, EntityTypeSpec, Value},
        store::staged::RowStager,
        time::ManualClock,
    };

    const POINTS: i64 = 8;
    const IDS: [&str; 5] = ["a", "a\0", "b", "ba", "c"];

    /// What each entity is at each point.
    type World = BTreeMap<&'static str, [Option<i64>; POINTS as usize]>;
    /// A window and the rows that are to be all that there is over it.
    type Step = ((i64, i64), BTreeMap<&'static str, i64>);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let window = (0..POINTS).prop_flat_map(|from| (Just(from), from + 1..=POINTS));
        let rows =
            proptest::collection::btree_map(proptest::sample::select(&IDS[..]), 0..3i64, 0..5);
        proptest::collection::vec((window, rows), 1..7)
    }

    fn open(folder: &Path) -> Store {
        let database = Database::open(folder, 1 << 20).expect("opens");
        let store = Store::open(&database, ManualClock::starting_at(1_000)).expect("opens");
        let spec = EntityTypeSpec {
            name: "thing".to_owned(),
            attributes: vec![Attribute {
                name: "v".to_owned(),
                kind: AttributeKind::Int64,
                description: String::new(),
            }],
            ..EntityTypeSpec::default()
        };
        block_on(store.create_entity_type(spec)).expect("declared");
        block_on(store.claim("thing", "t")).expect("claimed");
        store
    }

    fn replace(store: &Store, folder: &Path, (window, rows): &Step, offset: u64) -> Replaced {
        let entity_type = store.entity_type("thing").expect("declared");
        let mut stager = RowStager::new(entity_type, folder.join("rows"));
        for (id, value) in rows {
            let values = [Some(Value::Int64(*value))];
            stager.push((*id).to_owned(), &values).expect("fits");
        }
        let window = Interval::new(
            ValidTime::from_micros(window.0),
            ValidTime::from_micros(window.1),
        );
        let mark = IngestMark {
            stream: "s".to_owned(),
            offset,
        };
        let before = store.latest_basis();
        let rows = stager.finish().expect("staged");
        let mut noted = None;
        let replacing = store.replace::<Error>(rows, window, &"t".into(), mark, |replaced| {
            noted = Some(replaced);
            Ok(())
        });
        let (replaced, basis) = replacing.expect("begins").finish().expect("written");
        let writes = replaced.written + replaced.ended > 0;
        assert_eq!(noted, writes.then_some(replaced));
        assert_eq!(store.latest_basis(), basis);
        assert_eq!(basis > before, writes);
        let marked = block_on(store.ingest_offset("s")).expect("read");
        assert_eq!(marked == Some(offset), writes);
        replaced
    }

    /// The same, the plain way.
    fn expect(world: &mut World, ((from, to), rows): &Step) -> Replaced {
        let mut replaced = Replaced::default();
        for id in IDS {
            let span = &mut world.entry(id).or_default()[*from as usize..*to as usize];
            let row = rows.get(id).copied();
            let counter = match row {
                Some(_) if span.iter().all(|value| *value == row) => &mut replaced.unchanged,
                Some(_) => &mut replaced.written,
                None if span.iter().any(Option::is_some) => &mut replaced.ended,
                None => continue,
            };
            *counter += 1;
            span.fill(row);
        }
        replaced
    }

    fn read(store: &Store, basis: SysTime) -> World {
        let entity_type = store.entity_type("thing").expect("declared");
        let value_at = |id: &str, point: i64| {
            let at = ValidTime::from_micros(point);
            match store.get(&entity_type, id, at, basis).expect("read") {
                Answer::Value(version) => match version.attributes[0] {
                    Some(Value::Int64(value)) => Some(value),
                    _ => None,
                },
                Answer::Ended(_) | Answer::NotKnown | Answer::Erased => None,
            }
        };
        IDS.iter()
            .map(|&id| (id, std::array::from_fn(|point| value_at(id, point as i64))))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn rows_are_all_that_there_is_over_their_window(steps in steps()) {
            let folder = tempfile::tempdir().expect("a folder");
            let store = open(&folder.path().join("db"));
            let mut world = World::new();
            let mut worlds = Vec::new();
            let mut offset = 0;
            for step in &steps {
                offset += 1;
                let replaced = replace(&store, folder.path(), step, offset);
                prop_assert_eq!(replaced, expect(&mut world, step));
                prop_assert_eq!(&read(&store, store.latest_basis()), &world);
                worlds.push((store.latest_basis(), world.clone()));
                offset += 1;
                let again = replace(&store, folder.path(), step, offset);
                prop_assert_eq!((again.written, again.ended), (0, 0));
            }
            for (basis, world) in worlds {
                prop_assert_eq!(read(&store, basis), world, "BT-2");
            }
            store.close();
        }
    }

    #[test]
    fn only_the_writer_writes_and_a_type_that_holds_something_is_not_claimed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder.path().join("db"));
        block_on(store.claim("thing", "t")).expect("again");
        let other = block_on(store.claim("thing", "other")).expect_err("owned");
        assert!(matches!(other, Error::Owned { .. }), "{other}");
        assert_eq!(store.writer_of("thing").as_deref(), Some("t"));
        let unknown = block_on(store.claim("nothing", "t")).expect_err("unknown");
        assert!(matches!(unknown, Error::UnknownType { .. }), "{unknown}");
        replace(&store, folder.path(), &((0, 8), [("a", 1)].into()), 1);
        store.close();
        drop(store);
        let database = Database::open(&folder.path().join("db"), 1 << 20).expect("opens");
        let store = Store::open(&database, ManualClock::starting_at(1_000)).expect("opens");
        let full = block_on(store.claim("thing", "t")).expect_err("not empty");
        assert!(matches!(full, Error::NotEmpty { .. }), "{full}");
        store.restore_claims([("thing".to_owned(), "t".to_owned())]);
        block_on(store.claim("thing", "t")).expect("claimed");
        replace(&store, folder.path(), &((0, 8), [("a", 2)].into()), 2);
        store.close();
    }
}
