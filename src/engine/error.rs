//! What can go wrong while planning and computing.

use std::path::PathBuf;

use datafusion::error::DataFusionError;

use crate::{
    disk::is_out_of_space,
    error::{Classify, ErrorKind, Violation},
    lake, store,
};

/// An engine error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A definition cannot be accepted as it is.
    #[error("{0}")]
    Definition(Violation),
    /// A source's files cannot be used.
    #[error("cannot read source {source_name:?}: {problem}")]
    SourceUnusable {
        /// The source.
        source_name: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A file is not what it was when the backfill was created.
    #[error(
        "source file {path:?} changed since the backfill was created; create a new backfill to compute with the new file"
    )]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be reached.
    #[error("cannot open source file {path:?}: {cause}")]
    FileUnreachable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        cause: std::io::Error,
    },
    /// The query failed over the partition's rows.
    #[error("the query failed: {0}")]
    Query(Box<DataFusionError>),
    /// The rows cannot be staged.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// The entity store cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A row cannot be an entity.
    #[error("cannot write to entity type {entity_type:?}: {problem}")]
    OutputRow {
        /// The transform's output.
        entity_type: String,
        /// Which row, and what is wrong with it.
        problem: String,
    },
    /// Rows cannot be kept until they are published.
    #[error("cannot stage the rows: {0}")]
    Staging(#[source] std::io::Error),
    /// The server stops, or the backfill was cancelled.
    #[error("the attempt was stopped")]
    Stopped,
    /// The attempt's task broke.
    #[error("the attempt broke off: {cause}")]
    Broken {
        /// What is known of it.
        cause: String,
    },
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Query(Box::new(error))
    }
}

impl Error {
    /// A problem with the field of a definition.
    pub fn definition(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Definition(Violation::new(field, problem))
    }

    /// Whether another try at the same work can end otherwise. The work is deterministic, so only faults of the world around
    /// it can pass: disks, memory, storage.
    pub fn retryable(&self) -> bool {
        match self {
            Self::FileUnreachable { .. } | Self::Staging(_) | Self::Stopped => true,
            Self::Definition(_)
            | Self::OutputRow { .. }
            | Self::SourceUnusable { .. }
            | Self::FileChanged { .. }
            | Self::Broken { .. } => false,
            Self::Query(error) => passing_fault(error),
            Self::Lake(error) => matches!(
                error.kind(),
                ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::Exhausted { .. }
            ),
            Self::Store(error) => matches!(error.kind(), ErrorKind::Unavailable),
        }
    }

    /// Whether the disk is full: another try makes sense once there is room, and not before.
    pub fn no_room(&self) -> bool {
        is_out_of_space(self)
    }

    /// What a person should read: one line, without the query engine's internals.
    pub fn message(&self) -> String {
        match self {
            Self::Query(error) => query_message(error),
            Self::Definition(_)
            | Self::SourceUnusable { .. }
            | Self::FileChanged { .. }
            | Self::FileUnreachable { .. }
            | Self::Lake(_)
            | Self::Store(_)
            | Self::OutputRow { .. }
            | Self::Staging(_)
            | Self::Stopped
            | Self::Broken { .. } => self.to_string(),
        }
    }
}

/// Whether the root of a query's failure lies outside of the query.
fn passing_fault(error: &DataFusionError) -> bool {
    let root = error.find_root();
    if matches!(
        root,
        DataFusionError::IoError(_)
            | DataFusionError::ObjectStore(_)
            | DataFusionError::ResourcesExhausted(_)
    ) {
        return true;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if current.is::<std::io::Error>() || current.is::<object_store::Error>() {
            return true;
        }
        cause = current.source();
    }
    false
}

/// The root's text without the wrappers that name the engine's layers.
pub(crate) fn query_message(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    let mut rest = text.as_str();
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "External error: ",
        "Arrow error: ",
        "Schema error: ",
        "SQL error: ",
        "Optimizer rule ",
    ] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    rest.lines().next().unwrap_or(rest).to_owned()
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Definition(_) => ErrorKind::InvalidArgument,
            Self::SourceUnusable { .. }
            | Self::FileChanged { .. }
            | Self::FileUnreachable { .. } => ErrorKind::FailedPrecondition,
            Self::Query(_) | Self::OutputRow { .. } => ErrorKind::InvalidArgument,
            Self::Staging(_) => ErrorKind::Unavailable,
            Self::Lake(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Stopped => ErrorKind::Cancelled,
            Self::Broken { .. } => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Definition(_) => "INVALID_DEFINITION",
            Self::SourceUnusable { .. } | Self::FileUnreachable { .. } => "SOURCE_UNUSABLE",
            Self::FileChanged { .. } => "SOURCE_FILE_CHANGED",
            Self::Query(_) => "QUERY_FAILED",
            Self::OutputRow { .. } => "OUTPUT_ROW_INVALID",
            Self::Staging(_) => "FILE_UNUSABLE",
            Self::Lake(error) => error.reason(),
            Self::Store(error) => error.reason(),
            Self::Stopped => "STOPPED",
            Self::Broken { .. } => "ATTEMPT_BROKEN",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Definition(violation) => vec![violation.clone()],
            Self::Store(error) => error.violations(),
            Self::Lake(error) => error.violations(),
            Self::SourceUnusable { .. }
            | Self::FileChanged { .. }
            | Self::FileUnreachable { .. }
            | Self::Query(_)
            | Self::OutputRow { .. }
            | Self::Staging(_)
            | Self::Stopped
            | Self::Broken { .. } => Vec::new(),
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Lake(error) => error.resource(),
            Self::Store(error) => error.resource(),
            Self::Definition(_)
            | Self::SourceUnusable { .. }
            | Self::FileChanged { .. }
            | Self::FileUnreachable { .. }
            | Self::Query(_)
            | Self::OutputRow { .. }
            | Self::Staging(_)
            | Self::Stopped
            | Self::Broken { .. } => None,
        }
    }
}
