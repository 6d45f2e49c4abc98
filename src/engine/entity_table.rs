//! An entity type as tables: its state at one point, and its history over the partition.

use std::{any::Any, fmt, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableType},
    physical_plan::{
        ExecutionPlan, project_schema,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};

use crate::{
    store::{EntityType, Store, columns},
    time::{Interval, SysTime, ValidTime},
};

/// What of an entity type a table shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum View {
    /// One row per entity that has a value at this instant.
    AsOf(ValidTime),
    /// One row per version that overlaps the window, clipped to it.
    History(Interval<ValidTime>),
}

/// A table over the entity store, at one basis.
///
/// **Shape**: `columns::as_of_schema` or `columns::history_schema`, by entity id.
/// **Cost**: one range pass over the type's pages, decoding the projected attributes only.
#[derive(Debug)]
pub(super) struct EntityTable {
    store: Store,
    entity_type: Arc<EntityType>,
    view: View,
    basis: SysTime,
    schema: SchemaRef,
}

impl EntityTable {
    pub(super) fn new(
        store: Store,
        entity_type: Arc<EntityType>,
        view: View,
        basis: SysTime,
    ) -> Self {
        let schema = match view {
            View::AsOf(_) => columns::as_of_schema(&entity_type),
            View::History(_) => columns::history_schema(&entity_type),
        };
        Self {
            store,
            entity_type,
            view,
            basis,
            schema,
        }
    }
}

#[async_trait]
impl TableProvider for EntityTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.schema, projection)?;
        let pass = EntityPass {
            store: self.store.clone(),
            entity_type: Arc::clone(&self.entity_type),
            view: self.view,
            basis: self.basis,
            projection: projection.cloned(),
            schema: Arc::clone(&schema),
        };
        Ok(Arc::new(StreamingTableExec::try_new(
            schema,
            vec![Arc::new(pass)],
            None,
            None,
            false,
            limit,
        )?))
    }
}

/// One pass over a type's pages.
struct EntityPass {
    store: Store,
    entity_type: Arc<EntityType>,
    view: View,
    basis: SysTime,
    projection: Option<Vec<usize>>,
    schema: SchemaRef,
}

impl fmt::Debug for EntityPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "EntityPass({}, {:?})",
            self.entity_type.name(),
            self.view
        )
    }
}

impl PartitionStream for EntityPass {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads the store from the stream itself: it runs on the engine's own threads, where blocking is in place.
    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch_rows = context.session_config().batch_size();
        let projection = self.projection.clone();
        let batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send> = match self.view {
            View::AsOf(instant) => Box::new(
                self.store
                    .scan_batches(
                        &self.entity_type,
                        instant,
                        self.basis,
                        projection,
                        batch_rows,
                    )
                    .map(|batch| batch.map_err(external)),
            ),
            View::History(window) => Box::new(
                self.store
                    .history_batches(
                        &self.entity_type,
                        window,
                        self.basis,
                        projection,
                        batch_rows,
                    )
                    .map(|batch| batch.map_err(external)),
            ),
        };
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            futures::stream::iter(batches),
        ))
    }
}

fn external(error: crate::store::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
