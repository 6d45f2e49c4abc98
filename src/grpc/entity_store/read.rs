//! Reads at one point over the wire.

use tonic::Status;

use super::{EntityStore, refuse};
use crate::{
    error::Violation,
    grpc::{
        blocking::blocking,
        convert::{entity, time},
    },
    pb,
    store::Error,
};

/// The most ids of one BatchGetEntities.
pub const MAX_BATCH_IDS: usize = 10_000;

impl EntityStore {
    /// One entity at one point.
    pub(super) async fn get_entity(
        &self,
        request: pb::GetEntityRequest,
    ) -> Result<pb::GetEntityResponse, Status> {
        let pb::GetEntityRequest {
            entity_type,
            entity_id,
            valid_time,
            basis,
        } = request;
        let entity_type = self.find("entity_type", &entity_type)?;
        let (valid, basis) = self.point(valid_time, basis).await?;
        let store = self.store.clone();
        let (outcome, version) = blocking(move || {
            let answer = store.get(&entity_type, &entity_id, valid, basis)?;
            Ok::<_, Error>(entity::answer(&entity_type, answer))
        })
        .await?;
        Ok(pb::GetEntityResponse {
            outcome: outcome.into(),
            version,
            valid_time: Some(time::to_wire(valid)),
            basis: Some(time::to_wire(basis)),
        })
    }

    /// Many entities at one point.
    pub(super) async fn batch_get_entities(
        &self,
        request: pb::BatchGetEntitiesRequest,
    ) -> Result<pb::BatchGetEntitiesResponse, Status> {
        let pb::BatchGetEntitiesRequest {
            entity_type,
            entity_ids,
            valid_time,
            basis,
        } = request;
        let entity_type = self.find("entity_type", &entity_type)?;
        let count = entity_ids.len();
        if count == 0 || count > MAX_BATCH_IDS {
            return Err(refuse(Violation::new(
                "entity_ids",
                format!("{count} ids: 1 to {MAX_BATCH_IDS} are possible"),
            )));
        }
        let (valid, basis) = self.point(valid_time, basis).await?;
        let store = self.store.clone();
        let entities = blocking(move || {
            let answers = store.get_many(&entity_type, &entity_ids, valid, basis)?;
            let told = entity_ids
                .into_iter()
                .zip(answers)
                .map(|(entity_id, answer)| {
                    let (outcome, version) = entity::answer(&entity_type, answer);
                    pb::batch_get_entities_response::Entity {
                        entity_id,
                        outcome: outcome.into(),
                        version,
                    }
                });
            Ok::<_, Error>(told.collect())
        })
        .await?;
        Ok(pb::BatchGetEntitiesResponse {
            entities,
            valid_time: Some(time::to_wire(valid)),
            basis: Some(time::to_wire(basis)),
        })
    }
}
