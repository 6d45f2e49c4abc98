//! What can go wrong in storage.

use std::path::PathBuf;

use crate::{
    disk,
    error::{Classify, ErrorKind},
};

/// A storage fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the folder open.
    #[error(
        "cannot open data folder {folder:?}: another process has it open; stop that process or name another folder"
    )]
    Locked {
        /// The data folder.
        folder: PathBuf,
    },
    /// The folder cannot be made or opened.
    #[error("cannot open data folder {folder:?}: {source}")]
    Open {
        /// The data folder.
        folder: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The files in the folder cannot be read.
    #[error(
        "cannot open data folder {folder:?}: its files are damaged ({cause}); restore them from a backup"
    )]
    Damaged {
        /// The data folder.
        folder: PathBuf,
        /// The engine's words.
        cause: String,
    },
    /// Stored bytes are not what was written.
    #[error("cannot read stored value {key}: {cause}")]
    Corrupt {
        /// The key, for people.
        key: String,
        /// What is wrong.
        cause: String,
    },
    /// A value over the limit of one key.
    #[error("cannot store a value of {size_bytes} bytes under one key")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// A flush failed earlier.
    #[error("cannot write: an earlier flush failed ({cause}); restart the server")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// The disk has no room for what is to be written. Nothing was.
    #[error("cannot write: the disk is full: {0}")]
    NoRoom(#[source] std::io::Error),
    /// Any other fault of the engine.
    #[error("storage engine: {0}")]
    Engine(#[from] sled::Error),
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::FailedPrecondition,
            Self::Open { .. } | Self::Poisoned { .. } => ErrorKind::Unavailable,
            Self::NoRoom(_) => ErrorKind::Exhausted {
                retry_after: disk::RETRY_AFTER,
            },
            Self::Damaged { .. } | Self::Corrupt { .. } => ErrorKind::DataLoss,
            Self::TooLarge { .. } | Self::Engine(_) => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "DATA_FOLDER_LOCKED",
            Self::Open { .. } => "DATA_FOLDER_UNAVAILABLE",
            Self::Poisoned { .. } => "STORAGE_POISONED",
            Self::NoRoom(_) => "DISK_FULL",
            Self::Damaged { .. } | Self::Corrupt { .. } => "STORAGE_DAMAGED",
            Self::TooLarge { .. } | Self::Engine(_) => "STORAGE_FAULT",
        }
    }
}
