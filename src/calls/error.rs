//! What can go wrong while asking. No text of it holds a secret: URLs are shown as templates, headers by name.

use std::sync::Arc;

use crate::{
    error::{Classify, ErrorKind},
    store,
};

/// An error of an external call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value cannot stand in the URL.
    #[error("cannot call {call}{asked}: {placeholder:?} cannot stand in {url}: {problem}")]
    Argument {
        /// The call.
        call: String,
        /// What was asked.
        asked: String,
        /// The first placeholder that may be at fault.
        placeholder: String,
        /// The template.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A secret is missing, or cannot be sent.
    #[error("cannot call {call}: header {header:?}: {problem}")]
    Secret {
        /// The call.
        call: String,
        /// The header.
        header: String,
        /// What is wrong, without the secret.
        problem: String,
    },
    /// The host is where no call may reach.
    #[error("cannot call {call}: {url}: {problem}")]
    Address {
        /// The call.
        call: String,
        /// The template.
        url: String,
        /// The host and its address.
        problem: String,
    },
    /// The outside system refused.
    #[error("{call}{asked}: {url} answered {status}{hint}")]
    Rejected {
        /// The call.
        call: String,
        /// What was asked.
        asked: String,
        /// The template.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it means.
        hint: &'static str,
    },
    /// The outside system did not answer, however often it was asked.
    #[error("{call}{asked}: {url} did not answer in {}: {cause}", tries(*.count))]
    Unanswered {
        /// The call.
        call: String,
        /// What was asked.
        asked: String,
        /// The template.
        url: String,
        /// How often it was asked.
        count: u32,
        /// What came of the last time.
        cause: String,
    },
    /// The response is not what the call says.
    #[error("{call}{asked}: {url}: {problem}")]
    Response {
        /// The call.
        call: String,
        /// What was asked.
        asked: String,
        /// The template.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A permit cannot be had.
    #[error("cannot call {call}: {problem}")]
    Limit {
        /// The call.
        call: String,
        /// Why.
        problem: String,
        /// Whether another try can help.
        retryable: bool,
    },
    /// Answers cannot be kept or read back.
    #[error("cannot keep the answers of {call}: {cause}")]
    Store {
        /// The call.
        call: String,
        /// The store's error.
        cause: Arc<store::Error>,
    },
    /// An answer was removed while it was used.
    #[error("an answer of {call} was erased while it was used")]
    Erased {
        /// The call.
        call: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up calls: {cause}")]
    Setup {
        /// Why.
        cause: String,
    },
    /// Another call failed first.
    #[error("the calls were stopped")]
    Stopped,
}

fn tries(count: u32) -> String {
    match count {
        1 => "1 try".to_owned(),
        count => format!("{count} tries"),
    }
}

impl Error {
    /// Whether another attempt can end otherwise.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unanswered { .. } | Self::Erased { .. } | Self::Stopped => true,
            Self::Limit { retryable, .. } => *retryable,
            Self::Store { cause, .. } => matches!(cause.kind(), ErrorKind::Unavailable),
            Self::Argument { .. }
            | Self::Secret { .. }
            | Self::Address { .. }
            | Self::Rejected { .. }
            | Self::Response { .. }
            | Self::Setup { .. } => false,
        }
    }
}
