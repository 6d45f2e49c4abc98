//! `AdminService`: care of a running server.

use std::io;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    blocking::streaming,
    convert::{invalid::Invalid, time},
    status::to_status,
};
use crate::{
    pb::{self, admin_service_server as service},
    store::{Store, copy::Chunk},
};

/// Chunks of a backup that wait for a slow client, of up to 1 MiB each.
const BACKUP_QUEUE: usize = 4;

/// The service.
#[derive(Debug, Clone)]
pub struct AdminApi {
    /// What is copied.
    pub store: Store,
}

#[tonic::async_trait]
impl service::AdminService for AdminApi {
    type BackupStream = ReceiverStream<Result<pb::BackupResponse, Status>>;

    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let pb::BackupRequest { basis } = request.into_inner();
        let basis = match time::from_wire("basis", basis) {
            Ok(None) => None,
            Ok(basis) => Some(
                self.store
                    .pin(basis)
                    .await
                    .map_err(|error| to_status(&error))?,
            ),
            Err(violation) => return Err(to_status(&Invalid::from(violation))),
        };
        let store = self.store.clone();
        let chunks = streaming(BACKUP_QUEUE, move |messages| {
            let mut send = |chunk| {
                messages
                    .blocking_send(Ok(response(chunk)))
                    .map_err(|_| io::Error::other("the client has gone away"))
            };
            match store.backup(basis, &mut send) {
                Ok(backup) => {
                    tracing::info!(
                        basis = %backup.basis,
                        commits = backup.commits,
                        size_bytes = backup.size_bytes,
                        "a backup was made"
                    );
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(%error, "a backup was not finished");
                    Err(to_status(&error))
                }
            }
        });
        Ok(Response::new(chunks))
    }
}

fn response(chunk: Chunk) -> pb::BackupResponse {
    let Chunk {
        bytes,
        basis,
        commits_done,
        commits_total,
    } = chunk;
    pb::BackupResponse {
        chunk: bytes,
        basis: basis.map(time::to_wire),
        commits_done,
        commits_total,
    }
}
