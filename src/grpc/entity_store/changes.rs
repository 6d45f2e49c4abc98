//! What commits changed, over the wire.

use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::EntityStore;
use crate::pb;

/// The answers.
pub(super) type ChangesStream = ReceiverStream<Result<pb::ListChangesResponse, Status>>;

impl EntityStore {
    /// To come.
    pub(super) async fn changes(
        &self,
        _request: pb::ListChangesRequest,
    ) -> Result<ChangesStream, Status> {
        Err(Status::unimplemented("not possible yet"))
    }
}
