//! Entity types over the wire.

use tonic::Status;

use super::{EntityStore, refuse};
use crate::{
    grpc::{convert::entity, status::to_status},
    pb,
};

impl EntityStore {
    /// Declares a type.
    pub(super) async fn create_entity_type(
        &self,
        request: pb::CreateEntityTypeRequest,
    ) -> Result<pb::CreateEntityTypeResponse, Status> {
        let pb::CreateEntityTypeRequest { entity_type } = request;
        let spec = entity::entity_type_spec(entity_type).map_err(refuse)?;
        let declared = self.store.create_entity_type(spec).await;
        let (entity_type, created) = declared.map_err(|error| to_status(&error))?;
        Ok(pb::CreateEntityTypeResponse {
            entity_type: Some(self.wire_type(&entity_type)),
            created,
        })
    }

    /// One type.
    pub(super) fn get_entity_type(
        &self,
        request: pb::GetEntityTypeRequest,
    ) -> Result<pb::GetEntityTypeResponse, Status> {
        let pb::GetEntityTypeRequest { name } = request;
        let entity_type = self.find("name", &name)?;
        Ok(pb::GetEntityTypeResponse {
            entity_type: Some(self.wire_type(&entity_type)),
        })
    }

    /// All types, by name.
    pub(super) fn list_entity_types(
        &self,
        request: pb::ListEntityTypesRequest,
    ) -> Result<pb::ListEntityTypesResponse, Status> {
        let pb::ListEntityTypesRequest {} = request;
        let types = self.store.entity_types();
        Ok(pb::ListEntityTypesResponse {
            entity_types: types
                .iter()
                .map(|entity_type| self.wire_type(entity_type))
                .collect(),
        })
    }

    /// To come.
    pub(super) async fn update_entity_type(
        &self,
        _request: pb::UpdateEntityTypeRequest,
    ) -> Result<pb::UpdateEntityTypeResponse, Status> {
        Err(Status::unimplemented("not possible yet"))
    }

    /// To come.
    pub(super) fn list_entity_type_revisions(
        &self,
        _request: pb::ListEntityTypeRevisionsRequest,
    ) -> Result<pb::ListEntityTypeRevisionsResponse, Status> {
        Err(Status::unimplemented("not possible yet"))
    }

    /// To come.
    pub(super) async fn finish_import(
        &self,
        _request: pb::FinishImportRequest,
    ) -> Result<pb::FinishImportResponse, Status> {
        Err(Status::unimplemented("not possible yet"))
    }
}
