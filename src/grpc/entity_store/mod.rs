//! `EntityStoreService` over the [`Store`].

mod changes;
mod erasure;
mod history;
mod ingest;
mod lookup;
mod read;
mod scan;
mod types;
mod write;

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

pub use history::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE};
pub use lookup::MAX_LOOKUP_ROWS;
pub use read::MAX_BATCH_IDS;

use crate::{
    engine::FilterPlanner,
    error::Violation,
    grpc::{
        convert::{entity, invalid, time},
        status::to_status,
    },
    pb::{self, entity_store_service_server as service},
    store::{EntityType, Error, MAX_BATCH_BYTES, Store},
    time::{SysTime, ValidTime},
};

/// A larger message is refused while it is read; in between, with the field that is too large.
const MAX_MESSAGE_BYTES: usize = 4 * MAX_BATCH_BYTES;
/// A response message is closed at this size, whatever it may still hold: clients refuse more than 4 MiB by default.
const RESPONSE_BYTES: usize = 1 << 20;
/// The largest message that clients take by default.
const CLIENT_BYTES: usize = 4 << 20;
/// The longest name of a bulk load.
const MAX_STREAM_NAME_BYTES: usize = 128;

/// The service.
#[derive(Debug, Clone)]
pub struct EntityStore {
    store: Store,
    filters: Arc<FilterPlanner>,
    open_streams: ingest::OpenStreams,
}

impl EntityStore {
    /// The service over an open store.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            filters: Arc::default(),
            open_streams: ingest::OpenStreams::default(),
        }
    }

    /// The service with its message limits, ready to be added to a server.
    pub fn into_server(self) -> service::EntityStoreServiceServer<Self> {
        service::EntityStoreServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The point that a read names, pinned.
    async fn point(
        &self,
        valid_time: Option<prost_types::Timestamp>,
        basis: Option<prost_types::Timestamp>,
    ) -> Result<(ValidTime, SysTime), Status> {
        let valid = time::from_wire("valid_time", valid_time).map_err(refuse)?;
        let basis = self.basis(basis).await?;
        Ok((valid.unwrap_or_else(|| self.store.now()), basis))
    }

    async fn basis(&self, basis: Option<prost_types::Timestamp>) -> Result<SysTime, Status> {
        let basis = time::from_wire("basis", basis).map_err(refuse)?;
        self.store
            .pin(basis)
            .await
            .map_err(|error| to_status(&error))
    }

    fn find(&self, field: &str, name: &str) -> Result<Arc<EntityType>, Status> {
        invalid::named(field, name).map_err(refuse)?;
        self.store
            .entity_type(name)
            .map_err(|error| to_status(&error))
    }

    fn wire_type(&self, entity_type: &EntityType) -> pb::EntityType {
        let first_known = self.store.first_known(entity_type);
        let written_by = self.store.writer_of(entity_type.name());
        entity::entity_type(entity_type, first_known, written_by)
    }
}

fn refuse(violation: Violation) -> Status {
    to_status(&Error::Invalid {
        violations: vec![violation],
    })
}

#[tonic::async_trait]
impl service::EntityStoreService for EntityStore {
    async fn create_entity_type(
        &self,
        request: Request<pb::CreateEntityTypeRequest>,
    ) -> Result<Response<pb::CreateEntityTypeResponse>, Status> {
        self.create_entity_type(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn update_entity_type(
        &self,
        request: Request<pb::UpdateEntityTypeRequest>,
    ) -> Result<Response<pb::UpdateEntityTypeResponse>, Status> {
        self.update_entity_type(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_entity_type(
        &self,
        request: Request<pb::GetEntityTypeRequest>,
    ) -> Result<Response<pb::GetEntityTypeResponse>, Status> {
        self.get_entity_type(request.into_inner())
            .map(Response::new)
    }

    async fn list_entity_type_revisions(
        &self,
        request: Request<pb::ListEntityTypeRevisionsRequest>,
    ) -> Result<Response<pb::ListEntityTypeRevisionsResponse>, Status> {
        self.list_entity_type_revisions(request.into_inner())
            .map(Response::new)
    }

    async fn list_entity_types(
        &self,
        request: Request<pb::ListEntityTypesRequest>,
    ) -> Result<Response<pb::ListEntityTypesResponse>, Status> {
        self.list_entity_types(request.into_inner())
            .map(Response::new)
    }

    async fn write(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let caller = erasure::Caller::of(&request);
        self.write(caller, request.into_inner())
            .await
            .map(Response::new)
    }

    type IngestStream = ingest::IngestStream;

    async fn ingest(
        &self,
        request: Request<Streaming<pb::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let caller = erasure::Caller::of(&request);
        self.ingest(caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn finish_import(
        &self,
        request: Request<pb::FinishImportRequest>,
    ) -> Result<Response<pb::FinishImportResponse>, Status> {
        self.finish_import(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_entity(
        &self,
        request: Request<pb::GetEntityRequest>,
    ) -> Result<Response<pb::GetEntityResponse>, Status> {
        self.get_entity(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn batch_get_entities(
        &self,
        request: Request<pb::BatchGetEntitiesRequest>,
    ) -> Result<Response<pb::BatchGetEntitiesResponse>, Status> {
        self.batch_get_entities(request.into_inner())
            .await
            .map(Response::new)
    }

    type LookupStream = lookup::LookupStream;

    async fn lookup(
        &self,
        request: Request<Streaming<pb::LookupRequest>>,
    ) -> Result<Response<Self::LookupStream>, Status> {
        Ok(Response::new(self.lookup(request.into_inner())))
    }

    type ScanEntitiesStream = scan::ScanStream;

    async fn scan_entities(
        &self,
        request: Request<pb::ScanEntitiesRequest>,
    ) -> Result<Response<Self::ScanEntitiesStream>, Status> {
        self.scan_entities(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_history(
        &self,
        request: Request<pb::ListHistoryRequest>,
    ) -> Result<Response<pb::ListHistoryResponse>, Status> {
        self.list_history(request.into_inner())
            .await
            .map(Response::new)
    }

    type ListChangesStream = changes::ChangesStream;

    async fn list_changes(
        &self,
        request: Request<pb::ListChangesRequest>,
    ) -> Result<Response<Self::ListChangesStream>, Status> {
        self.list_changes(request.into_inner())
            .await
            .map(Response::new)
    }
}
