//! A table over an explicit list of files: a source's, or the published ones that make up `prior`.
//!
//! A source's rows are cut to what the partition may see *inside* of the table. As a filter around it the cut would be
//! merged with the query's own predicates, which would then run over the rows of other partitions in the same file too: a
//! division by zero there, or an instant that this partition may not look at, would fail this one.

use std::{any::Any, path::PathBuf, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::DFSchema,
    datasource::{
        file_format::FileFormat,
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder},
        table_schema::TableSchema,
    },
    error::{DataFusionError, Result},
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableType},
    physical_plan::{ExecutionPlan, empty::EmptyExec, filter::FilterExecBuilder, project_schema},
    scalar::ScalarValue,
};

use super::{
    SharedScans, filter_barrier::FilterBarrierExec, shared_scan::SharedScanExec,
    source::object_path,
};

/// One file of a table.
#[derive(Debug, Clone)]
pub(super) struct TableFile {
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    /// The value of the table's hive column in every row of this file.
    pub(super) hive_value: Option<String>,
}

/// Rows of files that pass the cut, in the order of the files. Columns that a file lacks are null.
#[derive(Debug)]
pub(super) struct FileTable {
    format: Arc<dyn FileFormat>,
    columns: TableSchema,
    files: Vec<TableFile>,
    cut: Option<Expr>,
    /// The source's name, and what partitions share of it.
    shared: Option<(String, Arc<SharedScans>)>,
}

impl FileTable {
    /// `schema` ends with the hive column if there is one. Without a `cut` all rows are there; its literals have the types of
    /// the columns that they are compared with.
    pub(super) fn new(
        format: Arc<dyn FileFormat>,
        schema: &SchemaRef,
        has_hive_column: bool,
        files: Vec<TableFile>,
        cut: Option<Expr>,
    ) -> Self {
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        let hive = has_hive_column.then(|| fields.pop()).flatten();
        Self {
            format,
            columns: TableSchema::new(Arc::new(Schema::new(fields)), hive.into_iter().collect()),
            files,
            cut,
            shared: None,
        }
    }

    /// The rows of `source`, which other partitions may read too.
    pub(super) fn sharing(self, source: String, scans: Arc<SharedScans>) -> Self {
        Self {
            shared: Some((source, scans)),
            ..self
        }
    }

    fn partitioned_files(&self) -> Result<Vec<PartitionedFile>> {
        self.files
            .iter()
            .map(|file| {
                let path = object_path(&file.path).map_err(DataFusionError::Execution)?;
                let mut partitioned = PartitionedFile::new(String::new(), file.size_bytes);
                partitioned.object_meta.location = path;
                partitioned.partition_values = file
                    .hive_value
                    .iter()
                    .map(|value| ScalarValue::Utf8(Some(value.clone())))
                    .collect();
                Ok(partitioned)
            })
            .collect()
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(self.columns.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            let schema = project_schema(&self.schema(), projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        match &self.cut {
            None => self.scan_files(state, projection.cloned(), limit).await,
            Some(cut) => self.scan_cut(state, projection, cut).await,
        }
    }
}

impl FileTable {
    async fn scan_files(
        &self,
        state: &dyn Session,
        projection: Option<Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // One group: files are read one after the other, in their order, so that float sums do not depend on timing.
        let group = FileGroup::new(self.partitioned_files()?);
        let config = FileScanConfigBuilder::new(
            ObjectStoreUrl::local_filesystem(),
            self.format.file_source(self.columns.clone()),
        )
        .with_file_group(group)
        .with_projection_indices(projection)?
        .with_limit(limit)
        .build();
        self.format.create_physical_plan(state, config).await
    }

    /// The limit of a scan counts rows that pass the cut, so the files cannot be told of it.
    async fn scan_cut(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        cut: &Expr,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        let asked: Vec<usize> = match projection {
            Some(asked) => asked.clone(),
            None => (0..schema.fields().len()).collect(),
        };
        // The asked columns first, in their order, then those that only the cut reads.
        let mut read = asked.clone();
        for column in cut.column_refs() {
            let index = schema.index_of(&column.name)?;
            if !read.contains(&index) {
                read.push(index);
            }
        }
        let read_schema = DFSchema::try_from(schema.project(&read)?)?;
        let predicate = state.create_physical_expr(cut.clone(), &read_schema)?;
        let shared = self.shared.as_ref();
        let slot = shared.and_then(|(source, scans)| scans.slot(source, &read));
        let mut rows = self.scan_files(state, Some(read), None).await?;
        if let Some(slot) = slot {
            rows = Arc::new(SharedScanExec::new(rows, slot));
        }
        let seen = FilterExecBuilder::new(predicate, rows)
            .apply_projection(Some((0..asked.len()).collect()))?
            .build()?;
        Ok(Arc::new(FilterBarrierExec::new(Arc::new(seen))))
    }
}
