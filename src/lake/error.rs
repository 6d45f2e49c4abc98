//! What can go wrong with the lake's tables.

use std::path::PathBuf;

use crate::{
    disk,
    error::{Classify, ErrorKind, Violation},
    kv,
    time::ValidTime,
};

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// A fault of the lake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such table.
    #[error(
        "table {table:?} does not exist; it is made when a transform that writes it is first run"
    )]
    TableNotFound {
        /// Its name.
        table: String,
    },
    /// No such snapshot.
    #[error("table {table:?} has no snapshot {snapshot_id}")]
    SnapshotNotFound {
        /// The table.
        table: String,
        /// The snapshot as asked.
        snapshot_id: i64,
    },
    /// A name that cannot be part of a path.
    #[error("cannot use {name:?} as the name of a {what}: {problem}")]
    BadName {
        /// What it should name: `table`, `backfill`, `warehouse`.
        what: &'static str,
        /// The name as given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A column that a table cannot hold.
    #[error("cannot store column {column:?}: {problem}")]
    BadColumn {
        /// Its path, such as `totals.item`.
        column: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A table whose columns the query's do not fit.
    #[error(
        "cannot write column {column:?} to table {table:?}: {problem}; write to another table name"
    )]
    SchemaConflict {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// How the two differ.
        problem: String,
    },
    /// Another transform writes this table.
    #[error(
        "cannot write to table {table:?} from transform {asked:?}: transform {owner:?} owns it"
    )]
    Owned {
        /// The table.
        table: String,
        /// Who owns it.
        owner: String,
        /// Who asked.
        asked: String,
    },
    /// The table moved at every try.
    #[error("cannot commit to table {table:?}: it moved during each of {tries} tries")]
    Conflict {
        /// The table.
        table: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A value does not fit the stored type.
    #[error("cannot store a value of column {column:?}: {cause}")]
    Value {
        /// The column's path.
        column: String,
        /// Arrow's words.
        cause: String,
    },
    /// One commit names a partition twice.
    #[error("cannot commit to table {table:?}: partition {partition_start} is in the commit twice")]
    DuplicatePartition {
        /// The table.
        table: String,
        /// The partition.
        partition_start: ValidTime,
    },
    /// Files staged for one table were committed to another.
    #[error(
        "cannot commit to table {table:?}: partition {partition_start} was staged for table {staged_for:?}"
    )]
    ForeignStaged {
        /// The table.
        table: String,
        /// The partition.
        partition_start: ValidTime,
        /// The table it was staged for.
        staged_for: String,
    },
    /// The rows of an attempt that is to be staged are published.
    #[error(
        "cannot stage attempt {attempt} of partition {partition_start} of table {table:?}: it is published"
    )]
    AttemptPublished {
        /// The table.
        table: String,
        /// The partition.
        partition_start: ValidTime,
        /// The attempt.
        attempt: u32,
    },
    /// The file system refused.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The table's metadata is not what was written.
    #[error("cannot read table {table:?}: {cause}")]
    Damaged {
        /// The table.
        table: String,
        /// What is wrong.
        cause: String,
    },
    /// A file could not be written; the library hides the operating system's error in its text.
    #[error("cannot {action}: {source}")]
    Write {
        /// What was tried.
        action: &'static str,
        /// The library's error.
        source: Box<iceberg::Error>,
    },
    /// A fault of the Iceberg library.
    #[error("cannot {action}: {source}")]
    Iceberg {
        /// What was tried.
        action: &'static str,
        /// The library's error.
        source: Box<iceberg::Error>,
    },
    /// The table's pointer cannot be read or moved.
    #[error(transparent)]
    Storage(#[from] kv::Error),
}

/// For `map_err`: names what was tried.
pub(super) fn iceberg_error(action: &'static str) -> impl FnOnce(iceberg::Error) -> Error {
    move |source| Error::Iceberg {
        action,
        source: Box::new(source),
    }
}

/// For `map_err`: names what was being written.
pub(super) fn write_error(action: &'static str) -> impl FnOnce(iceberg::Error) -> Error {
    move |source| Error::Write {
        action,
        source: Box::new(source),
    }
}

/// For `map_err`: names what was tried, and on which path.
pub(super) fn io_error(
    action: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

impl Error {
    /// Whether the disk is full. What was to be written is not there.
    fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Write { .. }) && disk::is_out_of_space(self)
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::Write { .. } if self.is_out_of_space() => {
                ErrorKind::Exhausted {
                    retry_after: disk::RETRY_AFTER,
                }
            }
            Self::TableNotFound { .. } | Self::SnapshotNotFound { .. } => ErrorKind::NotFound,
            Self::BadName { .. } | Self::BadColumn { .. } | Self::Value { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::SchemaConflict { .. } | Self::Owned { .. } | Self::AttemptPublished { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Io { .. } | Self::Write { .. } => ErrorKind::Unavailable,
            Self::Damaged { .. } => ErrorKind::DataLoss,
            Self::DuplicatePartition { .. } | Self::ForeignStaged { .. } | Self::Iceberg { .. } => {
                ErrorKind::Internal
            }
            Self::Storage(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::Write { .. } if self.is_out_of_space() => "DISK_FULL",
            Self::TableNotFound { .. } => "TABLE_NOT_FOUND",
            Self::SnapshotNotFound { .. } => "SNAPSHOT_NOT_FOUND",
            Self::BadName { .. } => "NAME_INVALID",
            Self::BadColumn { .. } => "COLUMN_UNSUPPORTED",
            Self::SchemaConflict { .. } => "TABLE_SCHEMA_CONFLICT",
            Self::Owned { .. } => "TABLE_OWNED",
            Self::Conflict { .. } => "TABLE_MOVED",
            Self::Value { .. } => "VALUE_DOES_NOT_FIT",
            Self::DuplicatePartition { .. } | Self::ForeignStaged { .. } => "COMMIT_INVALID",
            Self::AttemptPublished { .. } => "ATTEMPT_PUBLISHED",
            Self::Io { .. } | Self::Write { .. } => "WAREHOUSE_UNAVAILABLE",
            Self::Damaged { .. } => "TABLE_DAMAGED",
            Self::Iceberg { .. } => "TABLE_FAULT",
            Self::Storage(error) => error.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::BadName { what, problem, .. } => vec![Violation::new(*what, *problem)],
            Self::BadColumn { column, problem } => {
                vec![Violation::new(format!("sql.{column}"), problem)]
            }
            Self::TableNotFound { .. }
            | Self::SnapshotNotFound { .. }
            | Self::SchemaConflict { .. }
            | Self::Owned { .. }
            | Self::Conflict { .. }
            | Self::Value { .. }
            | Self::DuplicatePartition { .. }
            | Self::ForeignStaged { .. }
            | Self::AttemptPublished { .. }
            | Self::Io { .. }
            | Self::Write { .. }
            | Self::Damaged { .. }
            | Self::Iceberg { .. }
            | Self::Storage(_) => Vec::new(),
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::TableNotFound { table } => Some(("table", table.clone())),
            Self::SnapshotNotFound { table, snapshot_id } => {
                Some(("snapshot", format!("{table}@{snapshot_id}")))
            }
            Self::BadName { .. }
            | Self::BadColumn { .. }
            | Self::SchemaConflict { .. }
            | Self::Owned { .. }
            | Self::Conflict { .. }
            | Self::Value { .. }
            | Self::DuplicatePartition { .. }
            | Self::ForeignStaged { .. }
            | Self::AttemptPublished { .. }
            | Self::Io { .. }
            | Self::Write { .. }
            | Self::Damaged { .. }
            | Self::Iceberg { .. }
            | Self::Storage(_) => None,
        }
    }
}
