//! Batches of mutations over the wire.

use prost::Message;
use tonic::Status;

use super::{EntityStore, erasure::Caller, refuse};
use crate::{
    error::Violation,
    grpc::{convert::entity, status::to_status},
    pb,
    store::MAX_BATCH_BYTES,
};

impl EntityStore {
    /// Applies a batch.
    pub(super) async fn write(
        &self,
        caller: Caller,
        request: pb::WriteRequest,
    ) -> Result<pb::WriteResponse, Status> {
        let size_bytes = request.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            return Err(refuse(Violation::new(
                "mutations",
                format!("{size_bytes} bytes in all: at most {MAX_BATCH_BYTES} are possible"),
            )));
        }
        caller
            .check(&request.mutations)
            .map_err(|error| to_status(&error))?;
        let batch = entity::batch(request).map_err(refuse)?;
        let committed = self
            .store
            .write(batch)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(committed.into())
    }
}
