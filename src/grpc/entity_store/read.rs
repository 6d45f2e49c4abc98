//! Reads at one point over the wire.

use prost::Message;
use tonic::Status;

use super::{CLIENT_BYTES, EntityStore, refuse};
use crate::{
    error::Violation,
    grpc::{
        blocking::blocking,
        convert::{entity, time},
        status::to_status,
    },
    pb,
    store::Error,
};

/// The most ids of one BatchGetEntities.
pub const MAX_BATCH_IDS: usize = 10_000;

/// What a message adds to each entity in it.
const ENTITY_FRAME_BYTES: usize = 8;
/// The largest answer: what clients take, less the message's other fields.
const MAX_ENTITIES_BYTES: usize = CLIENT_BYTES - 1024;

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
        // Not handed to a thread that may block: that costs many times what reading a handful of pages does, which are in
        // memory as a rule.
        let answer = self.store.get(&entity_type, &entity_id, valid, basis);
        let (outcome, version) =
            entity::answer(&entity_type, answer.map_err(|error| to_status(&error))?);
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
            let mut entities = Vec::with_capacity(answers.len());
            let mut size_bytes = 0;
            for (entity_id, answer) in entity_ids.into_iter().zip(answers) {
                let (outcome, version) = entity::answer(&entity_type, answer);
                let told = pb::batch_get_entities_response::Entity {
                    entity_id,
                    outcome: outcome.into(),
                    version,
                };
                size_bytes += told.encoded_len() + ENTITY_FRAME_BYTES;
                entities.push(told);
            }
            if size_bytes > MAX_ENTITIES_BYTES {
                return Err(too_large(count, size_bytes));
            }
            Ok::<_, Error>(entities)
        })
        .await?;
        Ok(pb::BatchGetEntitiesResponse {
            entities,
            valid_time: Some(time::to_wire(valid)),
            basis: Some(time::to_wire(basis)),
        })
    }
}

fn too_large(count: usize, size_bytes: usize) -> Error {
    let problem = format!(
        "the answers to {count} ids take {size_bytes} bytes: at most {MAX_ENTITIES_BYTES} are possible; ask for fewer at a time, or use Lookup, which answers in as many messages as it takes"
    );
    Error::Invalid {
        violations: vec![Violation::new("entity_ids", problem)],
    }
}
