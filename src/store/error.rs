//! What the store can refuse or fail at.

use crate::{
    disk,
    error::{Classify, ErrorKind, Violation},
    kv,
    time::SysTime,
};

/// A refusal or fault of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No entity type of this name was declared.
    #[error("entity type {name:?} does not exist")]
    UnknownType {
        /// The name as asked.
        name: String,
    },
    /// An entity type of this name has another declaration.
    #[error(
        "entity type {name:?} exists with a different declaration: attributes are added with an update"
    )]
    TypeExists {
        /// The name as asked.
        name: String,
    },
    /// A revision that the entity type never had.
    #[error("entity type {name:?} has no revision {revision}")]
    NoSuchRevision {
        /// The type.
        name: String,
        /// The revision as asked.
        revision: u32,
    },
    /// What a mutation expects is not so. Nothing of its batch is written.
    #[error("expectation {expectation} of mutation {mutation} does not hold: {found}")]
    ExpectationFailed {
        /// The mutation's place in the batch.
        mutation: usize,
        /// The expectation's place in the mutation.
        expectation: usize,
        /// What is there instead, without its values.
        found: String,
    },
    /// An import time for a type that is not being imported, or its import finished twice.
    #[error("entity type {name:?} is not being imported: only the store gives its system times")]
    NotImporting {
        /// The type.
        name: String,
    },
    /// Only its writer may write to the type.
    #[error(
        "entity type {name:?} is written by transform {writer:?} alone: all that others may do is to erase entities"
    )]
    Owned {
        /// The type.
        name: String,
        /// Who has claimed it.
        writer: String,
    },
    /// A type that is to be claimed holds something.
    #[error(
        "entity type {name:?} holds what clients wrote, and a transform's output begins empty: declare another type for it"
    )]
    NotEmpty {
        /// The type.
        name: String,
    },
    /// Staged rows cannot be read back.
    #[error("cannot read staged rows: {0}")]
    Staged(#[source] std::io::Error),
    /// No import time for a type that is being imported.
    #[error("entity type {name:?} is being imported: a batch to it needs an import time")]
    ImportTimeRequired {
        /// The type.
        name: String,
    },
    /// A read of a type that is being imported.
    #[error("entity type {name:?} is being imported: it can be read once the import is finished")]
    Importing {
        /// The type.
        name: String,
    },
    /// An import time before that of an earlier batch.
    #[error(
        "cannot import into {name:?} at {import_time}: an earlier batch was imported at {last}"
    )]
    ImportTimeBackwards {
        /// The type.
        name: String,
        /// The import time as given.
        import_time: SysTime,
        /// The last one before.
        last: SysTime,
    },
    /// An import time in the future.
    #[error("cannot import at {import_time}: it lies in the future, it is {now} now")]
    ImportTimeInFuture {
        /// The import time as given.
        import_time: SysTime,
        /// The store's now.
        now: SysTime,
    },
    /// Fields of the request are at fault.
    #[error("invalid request: {}", list(.violations))]
    Invalid {
        /// Each fault with its field; never empty.
        violations: Vec<Violation>,
    },
    /// A basis that lies in the future.
    #[error("basis {basis} lies in the future: it is {now} now")]
    BasisInFuture {
        /// The basis as asked.
        basis: SysTime,
        /// The store's now.
        now: SysTime,
    },
    /// A basis that was neither pinned nor committed, so that its answer could still change.
    #[error("basis {basis} was not pinned: {latest} is the latest that is stable")]
    BasisNotPinned {
        /// The basis as asked.
        basis: SysTime,
        /// The latest basis that can be read without pinning.
        latest: SysTime,
    },
    /// A request id came again with another content.
    #[error("request id {request_id:?} was used before for a different batch")]
    RequestIdReused {
        /// The id.
        request_id: String,
    },
    /// A projection names a column that is not there.
    #[error("column {index} does not exist: the schema has {count}")]
    NoSuchColumn {
        /// The index as asked.
        index: usize,
        /// Columns of the schema.
        count: usize,
    },
    /// Stored bytes are not what was written.
    #[error("cannot read {what}: {cause}; restore the data folder from a backup")]
    Damaged {
        /// What was read.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The batch may or may not be there after the next start.
    #[error("cannot make the batch durable: {cause}; restart the server")]
    NotDurable {
        /// The first fault.
        cause: String,
    },
    /// The store was closed, or is closing.
    #[error("the store is closed")]
    Closed,
    /// The committer cannot be started.
    #[error("cannot start the committer thread: {0}")]
    Thread(#[source] std::io::Error),
    /// Columns cannot be built.
    #[error("cannot build columns: {0}")]
    Columns(#[from] arrow::error::ArrowError),
    /// The disk is nearly full. Nothing is written.
    #[error(transparent)]
    Full(#[from] disk::Full),
    /// A storage fault.
    #[error(transparent)]
    Storage(#[from] kv::Error),
}

fn list(violations: &[Violation]) -> String {
    let texts: Vec<_> = violations.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl Error {
    pub(super) fn damaged(what: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            cause: cause.into(),
        }
    }

    pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            violations: vec![Violation::new(field, problem)],
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownType { .. } | Self::NoSuchRevision { .. } => ErrorKind::NotFound,
            Self::TypeExists { .. } | Self::RequestIdReused { .. } => ErrorKind::AlreadyExists,
            Self::ExpectationFailed { .. } => ErrorKind::Conflict,
            Self::NotImporting { .. }
            | Self::Owned { .. }
            | Self::NotEmpty { .. }
            | Self::ImportTimeRequired { .. }
            | Self::Importing { .. }
            | Self::ImportTimeBackwards { .. }
            | Self::ImportTimeInFuture { .. } => ErrorKind::FailedPrecondition,
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::BasisInFuture { .. } | Self::BasisNotPinned { .. } => ErrorKind::OutOfRange,
            Self::Damaged { .. } => ErrorKind::DataLoss,
            Self::NotDurable { .. } | Self::Closed | Self::Staged(_) => ErrorKind::Unavailable,
            Self::NoSuchColumn { .. } | Self::Thread(_) | Self::Columns(_) => ErrorKind::Internal,
            Self::Full(error) => error.kind(),
            Self::Storage(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownType { .. } => "ENTITY_TYPE_NOT_FOUND",
            Self::NoSuchRevision { .. } => "REVISION_NOT_FOUND",
            Self::TypeExists { .. } => "ENTITY_TYPE_EXISTS",
            Self::ExpectationFailed { .. } => "EXPECTATION_FAILED",
            Self::NotImporting { .. } => "NOT_IMPORTING",
            Self::Owned { .. } => "ENTITY_TYPE_OWNED",
            Self::NotEmpty { .. } => "ENTITY_TYPE_NOT_EMPTY",
            Self::Staged(_) => "FILE_UNUSABLE",
            Self::ImportTimeRequired { .. } => "IMPORT_TIME_REQUIRED",
            Self::Importing { .. } => "IMPORT_UNFINISHED",
            Self::ImportTimeBackwards { .. } => "IMPORT_TIME_BACKWARDS",
            Self::ImportTimeInFuture { .. } => "IMPORT_TIME_IN_FUTURE",
            Self::Invalid { .. } => "INVALID_REQUEST",
            Self::BasisInFuture { .. } => "BASIS_IN_FUTURE",
            Self::BasisNotPinned { .. } => "BASIS_NOT_PINNED",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::NoSuchColumn { .. } | Self::Columns(_) => "COLUMNS_FAULT",
            Self::Damaged { .. } => "STORAGE_DAMAGED",
            Self::NotDurable { .. } => "STORAGE_POISONED",
            Self::Closed => "STORE_CLOSED",
            Self::Thread(_) => "STORE_NOT_STARTED",
            Self::Full(error) => error.reason(),
            Self::Storage(error) => error.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        if let Self::Invalid { violations } = self {
            violations.clone()
        } else {
            Vec::new()
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::UnknownType { name }
            | Self::NoSuchRevision { name, .. }
            | Self::TypeExists { name }
            | Self::NotImporting { name }
            | Self::Owned { name, .. }
            | Self::NotEmpty { name }
            | Self::ImportTimeRequired { name }
            | Self::Importing { name }
            | Self::ImportTimeBackwards { name, .. } => Some(("entity_type", name.clone())),
            Self::RequestIdReused { request_id } => Some(("request_id", request_id.clone())),
            Self::Invalid { .. }
            | Self::ExpectationFailed { .. }
            | Self::ImportTimeInFuture { .. }
            | Self::BasisInFuture { .. }
            | Self::BasisNotPinned { .. }
            | Self::NoSuchColumn { .. }
            | Self::Damaged { .. }
            | Self::NotDurable { .. }
            | Self::Closed
            | Self::Staged(_)
            | Self::Thread(_)
            | Self::Columns(_)
            | Self::Full(_)
            | Self::Storage(_) => None,
        }
    }
}
