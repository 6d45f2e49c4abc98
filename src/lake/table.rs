//! One table: its head in memory, and the loop that moves it.

use std::{collections::HashMap, sync::Arc};

use iceberg::spec::{FormatVersion, PartitionSpec, SortOrder, TableMetadataBuilder, Transform};
use parking_lot::Mutex;

use super::{
    catalog::{Catalog, Head, HeadRef, NextState, WrittenFiles, stamp},
    disk::TableFolders,
    error::{Error, Result, iceberg_error},
    identity::fresh_uuid,
    manifests::ManifestCache,
    schema::{self, PARTITION_COLUMN},
};

/// Table property: the transform that writes the table.
pub(super) const OWNER: &str = "hindcast.transform";
/// How often a commit is rebuilt when the table moves under it.
const MAX_TRIES: u32 = 5;
/// Older metadata files that are kept for each table.
const METADATA_FILES: &str = "100";

/// A table's name, its folders, and what is in memory of it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) folders: TableFolders,
    pub(super) cache: ManifestCache,
    /// Held while the table is moved. Other processes are kept out by the database's lock; another [`super::Lake`] on the
    /// same database is not, which is what the compare-and-swap is for.
    writing: Mutex<()>,
    head: Mutex<Option<HeadRef>>,
}

impl Table {
    pub(super) fn new(name: &str, folders: TableFolders) -> Self {
        Self {
            name: name.to_owned(),
            folders,
            cache: ManifestCache::default(),
            writing: Mutex::default(),
            head: Mutex::default(),
        }
    }

    /// The current head; `None`: there is no such table. **Cost**: one key while it is in memory.
    pub(super) fn head(&self, catalog: &Catalog) -> Result<Option<HeadRef>> {
        let Some(pointer) = catalog.pointer(&self.name)? else {
            return Ok(None);
        };
        let known = self.head.lock().clone();
        if let Some(head) = known.filter(|head| head.is_at(&pointer)) {
            return Ok(Some(head));
        }
        let head = Arc::new(Catalog::load(&self.name, &pointer)?);
        self.remember(&head);
        Ok(Some(head))
    }

    /// As [`Table::head`].
    ///
    /// # Errors
    /// [`Error::TableNotFound`] when there is none.
    pub(super) fn existing_head(&self, catalog: &Catalog) -> Result<HeadRef> {
        self.head(catalog)?.ok_or_else(|| Error::TableNotFound {
            table: self.name.clone(),
        })
    }

    /// Runs `work` while nothing of this lake moves the table.
    pub(super) fn while_still<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let _writing = self.writing.lock();
        work()
    }

    /// Moves the table to what `build` makes of its head. Where the table moved meanwhile, `build` is asked again, a few
    /// times. `build` may answer that there is nothing to do.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it moved every time; whatever `build` says.
    pub(super) fn update<T>(
        &self,
        catalog: &Catalog,
        mut build: impl FnMut(Option<&Head>) -> Result<(T, Option<NextState>)>,
    ) -> Result<T> {
        let _writing = self.writing.lock();
        for _ in 0..MAX_TRIES {
            let head = self.head(catalog)?;
            let (answer, next) = build(head.as_deref())?;
            let Some(next) = next else {
                return Ok(answer);
            };
            let old = head.as_deref();
            let remember = |moved| self.remember(&moved);
            if catalog.swap(&self.name, &self.folders, old, next, remember)? {
                return Ok(answer);
            }
        }
        Err(Error::Conflict {
            table: self.name.clone(),
            tries: MAX_TRIES,
        })
    }

    fn remember(&self, head: &HeadRef) {
        self.cache.retain(&head.manifests);
        *self.head.lock() = Some(Arc::clone(head));
    }

    /// The state of a new table.
    pub(super) fn create(
        &self,
        columns: &arrow::datatypes::Schema,
        owner: &str,
        now_micros: i64,
    ) -> Result<NextState> {
        self.folders.create()?;
        let table_schema = schema::to_table_schema(columns, 1)?;
        let properties = HashMap::from([
            (OWNER.to_owned(), owner.to_owned()),
            (
                "write.metadata.previous-versions-max".to_owned(),
                METADATA_FILES.to_owned(),
            ),
            (
                "write.parquet.compression-codec".to_owned(),
                "zstd".to_owned(),
            ),
        ]);
        let build = || {
            let partition_spec = PartitionSpec::builder(table_schema.clone())
                .add_partition_field(PARTITION_COLUMN, PARTITION_COLUMN, Transform::Identity)?
                .build()?;
            TableMetadataBuilder::new(
                table_schema.clone(),
                partition_spec,
                SortOrder::unsorted_order(),
                self.folders.location().to_owned(),
                FormatVersion::V2,
                properties,
            )?
            .assign_uuid(fresh_uuid(self.folders.location(), now_micros))
            .build()
        };
        let built = build().map_err(iceberg_error("describe a new table"))?;
        Ok(NextState {
            built: stamp(built, now_micros.div_euclid(1_000))?,
            manifests: Vec::new(),
            written: WrittenFiles::default(),
        })
    }

    /// The state of the table with `columns`; `None` if it has them.
    ///
    /// # Errors
    /// [`Error::Owned`] when it is another transform's; [`Error::SchemaConflict`].
    pub(super) fn evolve(
        &self,
        head: &Head,
        columns: &arrow::datatypes::Schema,
        asked: &str,
        now_micros: i64,
    ) -> Result<Option<NextState>> {
        let metadata = &head.metadata;
        let owner = metadata
            .properties()
            .get(OWNER)
            .map(String::as_str)
            .unwrap_or_default();
        if owner != asked {
            return Err(Error::Owned {
                table: self.name.clone(),
                owner: owner.to_owned(),
                asked: asked.to_owned(),
            });
        }
        let current = metadata.current_schema();
        let Some(evolved) =
            schema::evolve(&self.name, current, columns, metadata.last_column_id())?
        else {
            return Ok(None);
        };
        let built = TableMetadataBuilder::new_from_metadata(
            metadata.clone(),
            Some(head.metadata_location.clone()),
        )
        .add_current_schema(evolved)
        .and_then(TableMetadataBuilder::build)
        .map_err(iceberg_error("evolve a table"))?;
        Ok(Some(NextState {
            built: stamp(built, head.next_timestamp_ms(now_micros))?,
            manifests: head.manifests.clone(),
            written: WrittenFiles::default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::{
        kv::Database,
        lake::{Lake, output_schema},
        time::ManualClock,
    };

    /// Moves table `t` of `lake` while another lake on the same database does so `rival_moves` times in between.
    fn move_against_a_rival(rival_moves: u32) -> (Result<()>, u64) {
        let folder = tempfile::tempdir().expect("folder");
        let database = Database::open(&folder.path().join("db"), 1 << 20).expect("database");
        let open = || {
            Lake::open(
                &folder.path().join("w"),
                &database,
                ManualClock::starting_at(0),
            )
            .expect("lake")
        };
        let (lake, rival) = (open(), open());
        let columns = |count: u32| {
            let fields: Vec<_> = (0..=count)
                .map(|index| Field::new(format!("c{index}"), DataType::Int32, true))
                .collect();
            output_schema(&Schema::new(fields)).expect("supported")
        };
        lake.ensure_table("t", &columns(0), "owner").expect("table");

        let moved = Cell::new(0);
        let table = lake.slot("t").expect("table");
        let outcome = table.update(&lake.shared.catalog, |head| {
            let head = head.expect("it is there");
            if moved.get() < rival_moves {
                moved.set(moved.get() + 1);
                rival.ensure_table("t", &columns(moved.get()), "owner")?;
            }
            let next = table.evolve(head, &columns(100), "owner", 0)?;
            Ok(((), next))
        });
        let version = table
            .existing_head(&lake.shared.catalog)
            .expect("head")
            .version;
        (outcome, version)
    }

    #[test]
    fn a_move_is_rebuilt_when_the_table_moved_meanwhile() {
        let (outcome, version) = move_against_a_rival(MAX_TRIES - 1);
        outcome.expect("the last try");
        assert_eq!(version, u64::from(MAX_TRIES));
    }

    #[test]
    fn a_table_that_always_moves_is_a_conflict() {
        let (outcome, version) = move_against_a_rival(MAX_TRIES);
        assert!(matches!(
            outcome,
            Err(Error::Conflict {
                tries: MAX_TRIES,
                ..
            })
        ));
        assert_eq!(version, u64::from(MAX_TRIES));
    }
}
