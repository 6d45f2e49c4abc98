//! Bulk loads over the wire.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::EntityStore;
use crate::pb;

/// The answers.
pub(super) type IngestStream = ReceiverStream<Result<pb::IngestResponse, Status>>;

impl EntityStore {
    /// To come.
    pub(super) async fn ingest(
        &self,
        _request: Streaming<pb::IngestRequest>,
    ) -> Result<IngestStream, Status> {
        Err(Status::unimplemented("not possible yet"))
    }
}
