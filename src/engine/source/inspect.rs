//! Looking into a source's files: what columns they have, and whether those it needs are still there.

use std::{fs::File, path::Path, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{
    datasource::file_format::{FileFormat, csv::CsvFormat, parquet::ParquetFormat},
    execution::SessionState,
};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::{SourceFile, list_files};
use crate::{
    catalog::{ColumnDef, Source, SourceFormat},
    engine::{Error, Result, error::query_message},
};

/// Files whose columns are read when a source is created; the first and the last of many.
const SAMPLE_FILES: usize = 8;

/// Fills in what `source`'s files hold: columns, file count and bytes.
///
/// # Errors
/// [`Error::SourceUnusable`] when there are no files or one cannot be read; [`Error::Definition`] when a declared column is
/// not there or has the wrong type.
pub async fn inspect(state: &SessionState, mut source: Source) -> Result<Source> {
    let listed = source.clone();
    let files = tokio::task::spawn_blocking(move || list_files(&listed))
        .await
        .map_err(|error| Error::Broken {
            cause: error.to_string(),
        })??;
    if files.is_empty() {
        return Err(unusable(
            &source,
            format!(
                "there is no .{} file at {}",
                source.format.extension(),
                source.location.display()
            ),
        ));
    }
    let file_schema = infer(state, &source, &files).await?;
    let schema = with_hive_column(&source, file_schema)?;
    check_declared_columns(&source, &schema)?;
    source.columns = ColumnDef::of_schema(&schema);
    source.file_count = files.len() as u64;
    source.size_bytes = files.iter().map(|file| file.size_bytes).sum();
    Ok(source)
}

async fn infer(state: &SessionState, source: &Source, files: &[SourceFile]) -> Result<SchemaRef> {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
    let mut objects = Vec::new();
    for file in sample(files) {
        let path = object_path(&file.path).map_err(|problem| unusable(source, problem))?;
        let meta = store
            .head(&path)
            .await
            .map_err(|error| unusable(source, error.to_string()))?;
        objects.push(meta);
    }
    let schema = format_of(source)
        .infer_schema(state, &store, &objects)
        .await
        .map_err(|error| unusable(source, query_message(&error)))?;
    Ok(with_declared_types(source, &schema))
}

fn sample(files: &[SourceFile]) -> impl Iterator<Item = &SourceFile> {
    let head = files.len().min(SAMPLE_FILES / 2);
    let tail = files.len().saturating_sub(SAMPLE_FILES / 2).max(head);
    files[..head].iter().chain(&files[tail..])
}

fn with_declared_types(source: &Source, schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| match source.csv.types.get(field.name()) {
            Some(declared) => Field::new(field.name(), declared.data_type(), true),
            // What a file's key-value metadata says is nothing to us, and nullability may differ from file to file.
            None => Field::new(field.name(), field.data_type().clone(), true),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn with_hive_column(source: &Source, schema: SchemaRef) -> Result<SchemaRef> {
    let Some(hive) = &source.hive else {
        return Ok(schema);
    };
    if schema.field_with_name(&hive.column).is_ok() {
        return Err(Error::definition(
            "source.hive.column",
            format!(
                "the files hold a column {:?} themselves; name the folders otherwise",
                hive.column
            ),
        ));
    }
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(&hive.column, DataType::Utf8, false)));
    Ok(Arc::new(Schema::new(fields)))
}

fn check_declared_columns(source: &Source, schema: &Schema) -> Result<()> {
    check_time_column(
        schema,
        "source.event_time_column",
        &source.event_time_column,
    )?;
    if let Some(column) = &source.available_at_column {
        check_time_column(schema, "source.available_at_column", column)?;
    }
    for name in source.csv.types.keys() {
        if schema.field_with_name(name).is_err() {
            return Err(Error::definition(
                format!("source.csv_types[{name:?}]"),
                format!(
                    "there is no column {name:?}; there are: {}",
                    column_names(schema)
                ),
            ));
        }
    }
    Ok(())
}

fn check_time_column(schema: &Schema, field: &str, column: &str) -> Result<()> {
    let Ok(found) = schema.field_with_name(column) else {
        return Err(Error::definition(
            field,
            format!(
                "there is no column {column:?}; there are: {}",
                column_names(schema)
            ),
        ));
    };
    let data_type = found.data_type();
    if matches!(data_type, DataType::Timestamp(_, _) | DataType::Date32) {
        return Ok(());
    }
    Err(Error::definition(
        field,
        format!(
            "column {column:?} is {data_type}, not a timestamp or a date; for CSV, csv_types can say so"
        ),
    ))
}

fn column_names(schema: &Schema) -> String {
    let names: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    names.join(", ")
}

/// Checks that every one of `files` still has the columns that the source was created with. **Cost**: one footer (Parquet) or
/// first line (CSV) per file. Blocks.
///
/// # Errors
/// [`Error::SourceUnusable`] naming the file and the column.
pub fn check_columns<'a>(
    source: &Source,
    files: impl Iterator<Item = &'a SourceFile>,
) -> Result<()> {
    for file in files {
        let names = match source.format {
            SourceFormat::Parquet => parquet_columns(&file.path),
            SourceFormat::Csv => csv_columns(&file.path, source.csv.delimiter),
        }
        .map_err(|problem| unusable(source, format!("{}: {problem}", file.path.display())))?;
        let hive_column = source.hive.as_ref().map(|hive| hive.column.as_str());
        let gone = source.columns.iter().find(|column| {
            Some(column.name.as_str()) != hive_column && !names.contains(&column.name)
        });
        if let Some(column) = gone {
            return Err(unusable(
                source,
                format!(
                    "{} has no column {:?}, which the source had when it was created; mend the file, or declare the source anew under another name",
                    file.path.display(),
                    column.name
                ),
            ));
        }
        // A CSV reader goes by place: it would read one column as the other.
        let expected = source
            .columns
            .iter()
            .map(|column| &column.name)
            .filter(|name| Some(name.as_str()) != hive_column);
        if source.format == SourceFormat::Csv && !names.iter().eq(expected) {
            return Err(unusable(
                source,
                format!(
                    "{} has its columns in another order than the source had when it was created, or has more of them ({}); mend the file, or declare the source anew under another name",
                    file.path.display(),
                    names.join(", ")
                ),
            ));
        }
    }
    Ok(())
}

fn parquet_columns(path: &Path) -> std::result::Result<Vec<String>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
    let metadata = reader.metadata().file_metadata();
    let schema = parquet_to_arrow_schema(metadata.schema_descr(), None)
        .map_err(|error| error.to_string())?;
    Ok(schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect())
}

fn csv_columns(path: &Path, delimiter: u8) -> std::result::Result<Vec<String>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let format = arrow::csv::reader::Format::default()
        .with_header(true)
        .with_delimiter(delimiter);
    let (schema, _) = format
        .infer_schema(file, Some(0))
        .map_err(|error| error.to_string())?;
    Ok(schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect())
}

/// The reader of the source's format.
pub(in crate::engine) fn format_of(source: &Source) -> Arc<dyn FileFormat> {
    match source.format {
        // Plain strings rather than views: they are what the SQL of a transform is checked with.
        SourceFormat::Parquet => Arc::new(ParquetFormat::default().with_force_view_types(false)),
        SourceFormat::Csv => Arc::new(
            CsvFormat::default()
                .with_has_header(true)
                .with_delimiter(source.csv.delimiter)
                .with_newlines_in_values(true),
        ),
    }
}

pub(in crate::engine) fn object_path(
    path: &Path,
) -> std::result::Result<object_store::path::Path, String> {
    object_store::path::Path::from_absolute_path(path)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn unusable(source: &Source, problem: String) -> Error {
    Error::SourceUnusable {
        source_name: source.name.clone(),
        problem,
    }
}
