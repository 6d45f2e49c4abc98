//! Who may erase. An erasure cannot be undone, and it is a mutation among others inside a batch: a writer's token lets write
//! the batch, but not erase with it.

use tonic::Request;

use crate::{
    auth::{Error, Principal, Role},
    pb::{self, mutation},
};

/// Who sent a batch; `None`: the server itself, which was not called over the network.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    principal: Option<Principal>,
}

impl Caller {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self {
            principal: request.extensions().get().cloned(),
        }
    }

    /// Lets a batch through that the caller may write.
    ///
    /// # Errors
    /// It erases, and the caller's role is too low for that.
    pub(super) fn check(&self, mutations: &[pb::Mutation]) -> Result<(), Error> {
        let is_erasure = |mutation: &pb::Mutation| {
            matches!(mutation.operation, Some(mutation::Operation::Erase(_)))
        };
        match &self.principal {
            Some(principal) if mutations.iter().any(is_erasure) => {
                principal.require(Role::Admin, "Write with an erasure")
            }
            Some(_) | None => Ok(()),
        }
    }
}
