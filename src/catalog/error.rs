//! What can go wrong in the catalog.

use chrono_tz::Tz;

use super::output::Output;
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
    /// A table or entity type has one writer.
    #[error(
        "{output} is written by transform {owner:?}; choose another {}",
        field_of(output)
    )]
    OutputOwned {
        /// What is to be written.
        output: Output,
        /// Its writer.
        owner: String,
    },
    /// Revisions of one transform write one table or entity type on one calendar.
    #[error(
        "transform {name:?} writes {output} by {grain} partitions in {zone}; a revision cannot change that: register it under another name"
    )]
    OutputMoved {
        /// The transform.
        name: String,
        /// What its latest revision writes.
        output: Output,
        /// Its grain.
        grain: Grain,
        /// Its zone.
        zone: Tz,
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

/// Where a definition says what is written.
fn field_of(output: &Output) -> &'static str {
    match output {
        Output::Table(_) => "output_table",
        Output::Entities(_) => "output_entity",
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::SourceNotFound { .. }
            | Self::TransformNotFound { .. }
            | Self::RevisionNotFound { .. } => ErrorKind::NotFound,
            Self::SourceExists { .. } => ErrorKind::AlreadyExists,
            Self::OutputOwned { .. } | Self::OutputMoved { .. } => ErrorKind::FailedPrecondition,
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
            Self::OutputOwned { output, .. } => match output {
                Output::Table(_) => "TABLE_OWNED",
                Output::Entities(_) => "ENTITY_TYPE_OWNED",
            },
            Self::OutputMoved { .. } => "OUTPUT_MOVED",
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
            Self::OutputOwned { .. }
            | Self::OutputMoved { .. }
            | Self::Encoding { .. }
            | Self::Storage(_) => None,
        }
    }
}
