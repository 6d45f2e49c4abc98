//! Scans of a whole type over the wire.

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{EntityStore, RESPONSE_BYTES};
use crate::{
    grpc::{
        convert::{entity, time},
        status::to_status,
    },
    pb,
    store::{EntityType, Error, Version},
    time::{SysTime, ValidTime},
};

/// Response messages of a scan that wait for a slow client.
const SCAN_QUEUE: usize = 4;
/// Versions in one response message of a scan at most.
const SCAN_VERSIONS: usize = 1_000;

/// The messages of a scan.
pub(super) type ScanStream = ReceiverStream<Result<pb::ScanEntitiesResponse, Status>>;

impl EntityStore {
    /// A whole type at one point.
    pub(super) async fn scan_entities(
        &self,
        request: pb::ScanEntitiesRequest,
    ) -> Result<ScanStream, Status> {
        let pb::ScanEntitiesRequest {
            entity_type,
            valid_time,
            basis,
            after_entity_id,
            filter: _,
            attributes: _,
        } = request;
        let entity_type = self.find("entity_type", &entity_type)?;
        let (valid, basis) = self.point(valid_time, basis).await?;
        let (messages, receiver) = mpsc::channel(SCAN_QUEUE);
        let store = self.store.clone();
        // Ends by itself: at the scan's end, at a fault, or when the client goes away and nobody receives.
        tokio::task::spawn_blocking(move || {
            let after = (!after_entity_id.is_empty()).then_some(after_entity_id.as_str());
            let versions = store.scan(&entity_type, valid, basis, after);
            send_scan(&entity_type, (valid, basis), versions, &messages);
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// Sends a scan in messages of some size; the first one always, so that an empty scan tells its point too.
fn send_scan(
    entity_type: &EntityType,
    (valid, basis): (ValidTime, SysTime),
    versions: impl Iterator<Item = Result<Version, Error>>,
    messages: &mpsc::Sender<Result<pb::ScanEntitiesResponse, Status>>,
) {
    let message = |versions| {
        Ok(pb::ScanEntitiesResponse {
            versions,
            valid_time: Some(time::to_wire(valid)),
            basis: Some(time::to_wire(basis)),
        })
    };
    let mut held = Vec::new();
    let mut size_bytes = 0;
    let mut is_first = true;
    for version in versions {
        let version = match version {
            Ok(version) => entity::version(entity_type, version),
            Err(error) => {
                // Nobody to tell if the client has gone away.
                drop(messages.blocking_send(Err(to_status(&error))));
                return;
            }
        };
        size_bytes += version.encoded_len();
        held.push(version);
        if held.len() >= SCAN_VERSIONS || size_bytes >= RESPONSE_BYTES {
            if messages
                .blocking_send(message(std::mem::take(&mut held)))
                .is_err()
            {
                return;
            }
            (size_bytes, is_first) = (0, false);
        }
    }
    if is_first || !held.is_empty() {
        drop(messages.blocking_send(message(held)));
    }
}
