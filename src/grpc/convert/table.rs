//! Output tables: what they are, and their rows, as the wire shows them.

use std::{fs::File, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
        SchemaRef, TimestampMicrosecondType,
    },
    util::display::{ArrayFormatter, FormatOptions},
};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use prost::Message;

use super::{
    catalog::columns_to_wire,
    invalid::{Invalid, named},
    range, time,
};
use crate::{
    catalog::{ColumnDef, check_name},
    error::{Classify, ErrorKind, Violation},
    lake::{self, Lake, LakeFile, TableInfo},
    pb,
    time::{Interval, ValidTime},
};

/// Rows in one message at most.
const ROWS_PER_MESSAGE: usize = 512;
/// A message is closed at this size, whatever it may still hold: clients refuse more than 4 MiB by default.
const MESSAGE_BYTES: usize = 1 << 20;

/// A table as the wire shows it.
pub(in crate::grpc) fn to_wire(info: &TableInfo) -> pb::Table {
    pb::Table {
        name: info.name.clone(),
        location: info.location.clone(),
        metadata_location: info.metadata_location.clone(),
        current_snapshot_id: info.current_snapshot_id.unwrap_or(0),
        row_count: info.row_count,
        file_count: info.file_count,
        size_bytes: info.size_bytes,
        columns: columns_to_wire(&ColumnDef::of_schema(&info.schema)),
        transform: info.transform.clone(),
        snapshots: info
            .snapshots
            .iter()
            .map(|snapshot| pb::TableSnapshot {
                snapshot_id: snapshot.snapshot_id,
                commit_time: Some(time::to_wire(snapshot.commit_time)),
                operation: snapshot.operation.clone(),
                row_count: snapshot.row_count,
                backfill: snapshot.backfill.clone().unwrap_or_default(),
                partition_count: u32::try_from(snapshot.partition_count).unwrap_or(u32::MAX),
            })
            .collect(),
        partitions: info
            .partitions
            .iter()
            .map(|partition| pb::TablePartition {
                start: Some(time::to_wire(partition.start)),
                row_count: partition.row_count,
                file_count: partition.file_count,
                size_bytes: partition.size_bytes,
            })
            .collect(),
    }
}

/// What rows to read.
#[derive(Debug)]
pub(in crate::grpc) struct ReadSpec {
    name: String,
    range: Interval<ValidTime>,
    snapshot_id: Option<i64>,
    limit: Option<u64>,
}

/// The rows that a request asks for.
pub(in crate::grpc) fn read_request(request: pb::ReadTableRequest) -> Result<ReadSpec, ReadError> {
    let pb::ReadTableRequest {
        name,
        partition_range,
        snapshot_id,
        limit,
    } = request;
    check_named(&name)?;
    Ok(ReadSpec {
        name,
        range: range::valid("partition_range", partition_range)?,
        snapshot_id: (snapshot_id != 0).then_some(snapshot_id),
        limit: (limit > 0).then_some(limit),
    })
}

/// Checks that a request names a table. One that no table can have does not exist.
pub(in crate::grpc) fn check_named(name: &str) -> Result<(), ReadError> {
    named("name", name)?;
    check_name("name", name).map_err(|_| {
        ReadError::Lake(lake::Error::TableNotFound {
            table: name.to_owned(),
        })
    })
}

/// Reading a table's rows failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::grpc) enum ReadError {
    /// The request is malformed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The table cannot be asked.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// A data file cannot be read.
    #[error("cannot read data file {path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        cause: String,
    },
}

impl From<Violation> for ReadError {
    fn from(violation: Violation) -> Self {
        Self::Invalid(violation.into())
    }
}

impl Classify for ReadError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(error) => error.kind(),
            Self::Lake(error) => error.kind(),
            Self::File { .. } => ErrorKind::DataLoss,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(error) => error.reason(),
            Self::Lake(error) => error.reason(),
            Self::File { .. } => "DATA_FILE_UNREADABLE",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Invalid(error) => error.violations(),
            Self::Lake(error) => error.violations(),
            Self::File { .. } => Vec::new(),
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Lake(error) => error.resource(),
            Self::Invalid(_) | Self::File { .. } => None,
        }
    }
}

/// The rows of a snapshot, message by message. Every call of `next` blocks.
pub(in crate::grpc) struct TableRows {
    schema: SchemaRef,
    snapshot_id: i64,
    files: std::vec::IntoIter<LakeFile>,
    open: Option<(String, ParquetRecordBatchReader)>,
    /// Decoded and not told yet.
    decoded: std::vec::IntoIter<pb::read_table_response::Row>,
    remaining: u64,
    first: bool,
}

impl TableRows {
    /// Finds the files to read.
    pub(in crate::grpc) fn open(lake: &Lake, spec: ReadSpec) -> Result<Self, ReadError> {
        let info = lake.table(&spec.name)?;
        let snapshot_id = spec.snapshot_id.or(info.current_snapshot_id);
        let files = lake.files(&spec.name, snapshot_id, spec.range)?;
        Ok(Self {
            schema: info.schema,
            snapshot_id: snapshot_id.unwrap_or(0),
            files: files.into_iter(),
            open: None,
            decoded: Vec::new().into_iter(),
            remaining: spec.limit.unwrap_or(u64::MAX),
            first: true,
        })
    }

    /// The next rows, as many as one message may hold.
    fn next_rows(&mut self) -> Result<Option<Vec<pb::read_table_response::Row>>, ReadError> {
        if self.decoded.as_slice().is_empty() {
            match self.decode()? {
                None => return Ok(None),
                Some(rows) => self.decoded = rows.into_iter(),
            }
        }
        let mut told = Vec::new();
        let mut size_bytes = 0;
        while size_bytes < MESSAGE_BYTES
            && let Some(row) = self.decoded.next()
        {
            size_bytes += row.encoded_len();
            told.push(row);
        }
        Ok(Some(told))
    }

    fn decode(&mut self) -> Result<Option<Vec<pb::read_table_response::Row>>, ReadError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        loop {
            if let Some((path, reader)) = &mut self.open {
                match reader.next() {
                    Some(Ok(batch)) => {
                        let take = usize::try_from(self.remaining)
                            .map_or(batch.num_rows(), |left| left.min(batch.num_rows()));
                        self.remaining -= take as u64;
                        return Ok(Some(rows(&self.schema, &batch.slice(0, take))));
                    }
                    Some(Err(error)) => {
                        return Err(ReadError::File {
                            path: path.clone(),
                            cause: error.to_string(),
                        });
                    }
                    None => self.open = None,
                }
            }
            let Some(file) = self.files.next() else {
                return Ok(None);
            };
            self.open = Some((file.path.display().to_string(), open_file(&file)?));
        }
    }
}

impl Iterator for TableRows {
    type Item = Result<pb::ReadTableResponse, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = match self.next_rows() {
            Ok(rows) => rows,
            Err(error) => {
                self.files = Vec::new().into_iter();
                self.open = None;
                return Some(Err(error));
            }
        };
        let first = std::mem::take(&mut self.first);
        if rows.is_none() && !first {
            return None;
        }
        let mut message = pb::ReadTableResponse {
            rows: rows.unwrap_or_default(),
            ..Default::default()
        };
        if first {
            message.columns = columns_to_wire(&ColumnDef::of_schema(&self.schema));
            message.snapshot_id = self.snapshot_id;
        }
        Some(Ok(message))
    }
}

fn open_file(file: &LakeFile) -> Result<ParquetRecordBatchReader, ReadError> {
    let unreadable = |cause: String| ReadError::File {
        path: file.path.display().to_string(),
        cause,
    };
    let opened = File::open(&file.path).map_err(|error| unreadable(error.to_string()))?;
    ParquetRecordBatchReaderBuilder::try_new(opened)
        .and_then(|builder| builder.with_batch_size(ROWS_PER_MESSAGE).build())
        .map_err(|error| unreadable(error.to_string()))
}

/// The rows of `batch`, a column at a time; columns that the file lacks are null.
fn rows(schema: &SchemaRef, batch: &RecordBatch) -> Vec<pb::read_table_response::Row> {
    let mut rows: Vec<_> = (0..batch.num_rows())
        .map(|_| pb::read_table_response::Row {
            values: Vec::with_capacity(schema.fields().len()),
        })
        .collect();
    for field in schema.fields() {
        let column = batch.column_by_name(field.name());
        for (index, row) in rows.iter_mut().enumerate() {
            let kind = column.and_then(|column| value(column, index));
            row.values.push(pb::Value { kind });
        }
    }
    rows
}

/// One cell; `None` is null. What the wire has no kind for is shown as text.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "Arrow's list of types is open, and text is right for any that it gains"
)]
fn value(column: &Arc<dyn Array>, row: usize) -> Option<pb::value::Kind> {
    use pb::value::Kind;
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Boolean => Kind::BoolValue(column.as_boolean().value(row)),
        DataType::Int32 => {
            Kind::Int64Value(i64::from(column.as_primitive::<Int32Type>().value(row)))
        }
        DataType::Int64 => Kind::Int64Value(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => {
            Kind::Float64Value(f64::from(column.as_primitive::<Float32Type>().value(row)))
        }
        DataType::Float64 => Kind::Float64Value(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, _) => {
            Kind::DecimalValue(column.as_primitive::<Decimal128Type>().value_as_string(row))
        }
        DataType::Utf8 => Kind::StringValue(column.as_string::<i32>().value(row).to_owned()),
        DataType::Binary => Kind::BytesValue(column.as_binary::<i32>().value(row).to_vec()),
        DataType::LargeBinary => Kind::BytesValue(column.as_binary::<i64>().value(row).to_vec()),
        DataType::Date32 => {
            let date = column.as_primitive::<Date32Type>().value_as_date(row);
            Kind::DateValue(date.map(|date| date.to_string()).unwrap_or_default())
        }
        DataType::Timestamp(_, Some(_)) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            Kind::TimestampValue(time::to_wire(ValidTime::from_micros(micros)))
        }
        _ => {
            let options = FormatOptions::default();
            let text = ArrayFormatter::try_new(column.as_ref(), &options)
                .map(|formatter| formatter.value(row).to_string());
            Kind::StringValue(text.unwrap_or_default())
        }
    })
}
