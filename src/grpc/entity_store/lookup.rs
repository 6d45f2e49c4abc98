//! The point-in-time join over the wire.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::EntityStore;
use crate::pb;

/// The answers.
pub(super) type LookupStream = ReceiverStream<Result<pb::LookupResponse, Status>>;

impl EntityStore {
    /// To come.
    pub(super) async fn lookup(
        &self,
        _request: Streaming<pb::LookupRequest>,
    ) -> Result<LookupStream, Status> {
        Err(Status::unimplemented("not possible yet"))
    }
}
