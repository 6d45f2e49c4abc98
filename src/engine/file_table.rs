//! A table over an explicit list of files: a source's, or the published ones that make up `prior`.

use std::{any::Any, path::PathBuf, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    datasource::{
        file_format::FileFormat,
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder},
        table_schema::TableSchema,
    },
    error::{DataFusionError, Result},
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::{ExecutionPlan, empty::EmptyExec},
    scalar::ScalarValue,
};

use super::{cut, source::object_path};

/// One file of a table.
#[derive(Debug, Clone)]
pub(super) struct TableFile {
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    /// The value of the table's hive column in every row of this file.
    pub(super) hive_value: Option<String>,
}

/// Rows of files, in the order of the files. Columns that a file lacks are null.
#[derive(Debug)]
pub(super) struct FileTable {
    format: Arc<dyn FileFormat>,
    columns: TableSchema,
    files: Vec<TableFile>,
    cut: Option<Expr>,
}

impl FileTable {
    /// `schema` ends with the hive column if there is one.
    pub(super) fn new(
        format: Arc<dyn FileFormat>,
        schema: &SchemaRef,
        has_hive_column: bool,
        files: Vec<TableFile>,
    ) -> Self {
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        let hive = has_hive_column.then(|| fields.pop()).flatten();
        Self {
            format,
            columns: TableSchema::new(Arc::new(Schema::new(fields)), hive.into_iter().collect()),
            files,
            cut: None,
        }
    }

    /// Only rows that `cut` accepts exist; literals in it are of their column's type.
    #[must_use]
    pub(super) fn with_cut(self, cut: Expr) -> Self {
        Self {
            cut: Some(cut),
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

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // The rows are filtered above.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            let schema = datafusion::physical_plan::project_schema(&self.schema(), projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        if let Some(cut) = &self.cut {
            let (read, kept) = cut::columns_to_read(&self.schema(), cut, projection)?;
            // No limit: rows that are cut out do not count.
            let rows = self.rows(state, Some(read), None).await?;
            return cut::cut_out(state, rows, cut, kept);
        }
        self.rows(state, projection.cloned(), limit).await
    }
}

impl FileTable {
    /// Every row of the files.
    async fn rows(
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
}
