//! Entity types over the wire.

use tonic::Status;

use super::{EntityStore, refuse};
use crate::{
    grpc::{
        convert::{entity, invalid::named},
        status::to_status,
    },
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

    /// Adds a revision to a type.
    pub(super) async fn update_entity_type(
        &self,
        request: pb::UpdateEntityTypeRequest,
    ) -> Result<pb::UpdateEntityTypeResponse, Status> {
        let (name, update) = entity::entity_type_update(request).map_err(refuse)?;
        let updated = self.store.update_entity_type(&name, update).await;
        let (entity_type, updated) = updated.map_err(|error| to_status(&error))?;
        Ok(pb::UpdateEntityTypeResponse {
            entity_type: Some(self.wire_type(&entity_type)),
            updated,
        })
    }

    /// Every revision of a type.
    pub(super) fn list_entity_type_revisions(
        &self,
        request: pb::ListEntityTypeRevisionsRequest,
    ) -> Result<pb::ListEntityTypeRevisionsResponse, Status> {
        let pb::ListEntityTypeRevisionsRequest { name } = request;
        let entity_type = self.find("name", &name)?;
        Ok(pb::ListEntityTypeRevisionsResponse {
            revisions: entity_type
                .revisions()
                .map(|revision| self.wire_type(&revision))
                .collect(),
        })
    }

    /// Ends a type's import.
    pub(super) async fn finish_import(
        &self,
        request: pb::FinishImportRequest,
    ) -> Result<pb::FinishImportResponse, Status> {
        let pb::FinishImportRequest { name } = request;
        named("name", &name).map_err(refuse)?;
        let finished = self.store.finish_import(&name).await;
        let entity_type = finished.map_err(|error| to_status(&error))?;
        Ok(pb::FinishImportResponse {
            entity_type: Some(self.wire_type(&entity_type)),
        })
    }
}
