//! What can go wrong with copies.

use std::{io, path::PathBuf};

use crate::{
    error::{Classify, ErrorKind, Violation},
    kv,
    store::{self, codec::Malformed},
    time::SysTime,
};

/// A refusal or fault of a backup, or of restoring one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The database's.
    #[error(transparent)]
    Storage(#[from] kv::Error),
    /// Whoever takes the backup's bytes takes no more.
    #[error("cannot go on with the backup: {0}")]
    Cut(#[source] io::Error),
    /// A keyspace that no backup knows of.
    #[error(
        "cannot copy the data folder: keyspace {name:?} is of a kind that this version does not know"
    )]
    UnknownKeyspace {
        /// Its name.
        name: String,
    },
    /// The file is no backup, or one of a format that this version cannot read.
    #[error("cannot read the backup: {cause}")]
    NotABackup {
        /// Why.
        cause: String,
    },
    /// The file is a backup, and not whole.
    #[error("cannot read the backup at byte {offset}: {cause}; use another copy of it")]
    DamagedBackup {
        /// Where the fault was found.
        offset: u64,
        /// What it is.
        cause: String,
    },
    /// What was restored does not stand where the backup says.
    #[error("cannot restore the backup: it ends at {found}, not at {expected}")]
    Diverged {
        /// As restored.
        found: SysTime,
        /// As the backup says.
        expected: SysTime,
    },
    /// The folder to restore into has something in it.
    #[error("cannot restore into {folder:?}: it is not empty; name a folder that is not there yet")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// A file or folder fault of the operating system.
    #[error("cannot use {path:?}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    pub(super) fn damaged(offset: u64, cause: impl Into<String>) -> Self {
        Self::DamagedBackup {
            offset,
            cause: cause.into(),
        }
    }

    pub(super) fn malformed(offset: u64) -> impl FnOnce(Malformed) -> Self {
        move |malformed| Self::damaged(offset, malformed.0)
    }

    /// Whether a value of several parts may just be under someone's pen.
    pub(super) fn may_be_torn(&self) -> bool {
        matches!(
            self,
            Self::Storage(kv::Error::Corrupt { .. })
                | Self::Store(store::Error::Storage(kv::Error::Corrupt { .. }))
        )
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Storage(error) => error.kind(),
            Self::Cut(_) => ErrorKind::Cancelled,
            Self::UnknownKeyspace { .. } => ErrorKind::Internal,
            Self::NotABackup { .. } => ErrorKind::InvalidArgument,
            Self::DamagedBackup { .. } | Self::Diverged { .. } => ErrorKind::DataLoss,
            Self::NotEmpty { .. } => ErrorKind::FailedPrecondition,
            Self::File { .. } => ErrorKind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) => error.reason(),
            Self::Storage(error) => error.reason(),
            Self::Cut(_) => "BACKUP_CUT",
            Self::UnknownKeyspace { .. } => "KEYSPACE_UNKNOWN",
            Self::NotABackup { .. } => "NOT_A_BACKUP",
            Self::DamagedBackup { .. } | Self::Diverged { .. } => "BACKUP_DAMAGED",
            Self::NotEmpty { .. } => "DATA_FOLDER_NOT_EMPTY",
            Self::File { .. } => "FILE_UNUSABLE",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        if let Self::Store(error) = self {
            error.violations()
        } else {
            Vec::new()
        }
    }
}
