//! Who may erase. An erasure cannot be undone, and it is a mutation among others inside a batch: a writer's token lets write
//! the batch, but not erase with it.

use std::sync::Arc;

use tonic::Request;

use crate::{
    auth::{Error, Principal, Role},
    pb::{self, mutation},
    server::Refusals,
};

/// Who sent a batch.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// `None`: the server itself, which was not called over the network.
    principal: Option<Principal>,
    refusals: Option<Arc<Refusals>>,
    /// Of the call: a stream's batches are looked at outside of it.
    span: tracing::Span,
}

impl Caller {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self {
            principal: request.extensions().get().cloned(),
            refusals: request.extensions().get().cloned(),
            span: tracing::Span::current(),
        }
    }

    /// Lets a batch through that the caller may write; a refusal is counted and logged.
    ///
    /// # Errors
    /// It erases, and the caller's role is too low for that.
    pub(super) fn check(&self, mutations: &[pb::Mutation]) -> Result<(), Error> {
        let is_erasure = |mutation: &pb::Mutation| {
            matches!(mutation.operation, Some(mutation::Operation::Erase(_)))
        };
        let Some(principal) = &self.principal else {
            return Ok(());
        };
        if !mutations.iter().any(is_erasure) {
            return Ok(());
        }
        let checked = principal.require(Role::Admin, "Write with an erasure");
        if let (Err(error), Some(refusals)) = (&checked, &self.refusals) {
            self.span.in_scope(|| refusals.note(error));
        }
        checked
    }
}
