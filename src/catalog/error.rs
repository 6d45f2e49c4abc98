//! What can go wrong in the catalog.

use chrono_tz::Tz;

use crate::{
    error::{Classify, ErrorKind},
    kv,
    time::Grain,
};

/// A catalog error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such source.
    #[error("source {name:?} does not exist")]
    SourceNotFound {
        /// As asked.
        name: String,
    },
    /// Another declaration has the name.
    #[error(
        "source {name:?} exists with another declaration; sources do not change: choose another name"
    )]
    SourceExists {
        /// As asked.
        name: String,
    },
    /// No such transform.
    #[error("transform {name:?} does not exist")]
    TransformNotFound {
        /// As asked.
        name: String,
    },
    /// No such revision.
    #[error("transform {name:?} has no revision {revision}: the latest is {latest}")]
    RevisionNotFound {
        /// The transform.
        name: String,
        /// As asked.
        revision: u32,
        /// The latest there is.
        latest: u32,
    },
    /// A table has one writer.
    #[error("table {table:?} is written by transform {owner:?}; choose another output_table")]
    TableOwned {
        /// The table.
        table: String,
        /// Its writer.
        owner: String,
    },
    /// Revisions of one transform write one table on one calendar.
    #[error(
        "transform {name:?} writes table {table:?} by {grain} partitions in {zone}; a revision cannot change that: register it under another name"
    )]
    OutputMoved {
        /// The transform.
        name: String,
        /// The table of its latest revision.
        table: String,
        /// Its grain.
        grain: Grain,
        /// Its zone.
        zone: Tz,
    },
    /// Transforms would read each other's tables in a circle.
    #[error("transforms would read each other's tables in a circle: {}", path.join(" reads "))]
    Cycle {
        /// Each reads the table of the next; the last is the first again.
        path: Vec<String>,
    },
    /// A definition cannot be encoded.
    #[error("cannot encode {key}: {cause}")]
    Encoding {
        /// What was to be stored.
        key: String,
        /// The encoder's words.
        cause: String,
    },
    /// A storage fault.
    #[error(transparent)]
    Storage(#[from] kv::Error),
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::SourceNotFound { .. }
            | Self::TransformNotFound { .. }
            | Self::RevisionNotFound { .. } => ErrorKind::NotFound,
            Self::SourceExists { .. } => ErrorKind::AlreadyExists,
            Self::TableOwned { .. } | Self::OutputMoved { .. } | Self::Cycle { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Encoding { .. } => ErrorKind::Internal,
            Self::Storage(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::SourceNotFound { .. } => "SOURCE_NOT_FOUND",
            Self::SourceExists { .. } => "SOURCE_EXISTS",
            Self::TransformNotFound { .. } => "TRANSFORM_NOT_FOUND",
            Self::RevisionNotFound { .. } => "REVISION_NOT_FOUND",
            Self::TableOwned { .. } => "TABLE_OWNED",
            Self::OutputMoved { .. } => "OUTPUT_MOVED",
            Self::Cycle { .. } => "TRANSFORM_CYCLE",
            Self::Encoding { .. } => "STORAGE_FAULT",
            Self::Storage(error) => error.reason(),
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::SourceNotFound { name } | Self::SourceExists { name } => {
                Some(("source", name.clone()))
            }
            Self::TransformNotFound { name } => Some(("transform", name.clone())),
            Self::RevisionNotFound { name, revision, .. } => {
                Some(("transform revision", format!("{name}@{revision}")))
            }
            Self::TableOwned { .. }
            | Self::OutputMoved { .. }
            | Self::Cycle { .. }
            | Self::Encoding { .. }
            | Self::Storage(_) => None,
        }
    }
}
