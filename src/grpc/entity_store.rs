//! `EntityStoreService` over the [`Store`].

use std::sync::Arc;

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    error::Violation,
    grpc::{
        blocking::blocking,
        convert::{entity, invalid, page_token::HistoryPosition, range, time},
        status::to_status,
    },
    pb::{self, entity_store_service_server as service},
    store::{EntityType, Error, MAX_BATCH_BYTES, Store, Version},
    time::{SysTime, ValidTime},
};

/// The most ids of one BatchGetEntities.
pub const MAX_BATCH_IDS: usize = 10_000;
/// The largest page of ListHistory, and the one of a request that names none.
pub const MAX_PAGE_SIZE: u32 = 10_000;
/// The page of a ListHistory that names no size.
pub const DEFAULT_PAGE_SIZE: u32 = 1_000;

/// A larger message is refused while it is read; in between, with the field that is too large.
const MAX_MESSAGE_BYTES: usize = 4 * MAX_BATCH_BYTES;
/// A response message is closed at this size, whatever it may still hold: clients refuse more than 4 MiB by default.
const RESPONSE_BYTES: usize = 1 << 20;
/// Response messages of a scan that wait for a slow client.
const SCAN_QUEUE: usize = 4;
/// Versions in one response message of a scan at most.
const SCAN_VERSIONS: usize = 1_000;

/// The service.
#[derive(Debug, Clone)]
pub struct EntityStore {
    store: Store,
}

impl EntityStore {
    /// The service over an open store.
    pub fn new(store: Store) -> Self {
        Self { store }
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
        entity::entity_type(entity_type, self.store.first_known(entity_type))
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
        let pb::CreateEntityTypeRequest { entity_type } = request.into_inner();
        let spec = entity::entity_type_spec(entity_type).map_err(refuse)?;
        let declared = self.store.create_entity_type(spec).await;
        let (entity_type, created) = declared.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::CreateEntityTypeResponse {
            entity_type: Some(self.wire_type(&entity_type)),
            created,
        }))
    }

    async fn get_entity_type(
        &self,
        request: Request<pb::GetEntityTypeRequest>,
    ) -> Result<Response<pb::GetEntityTypeResponse>, Status> {
        let pb::GetEntityTypeRequest { name } = request.into_inner();
        let entity_type = self.find("name", &name)?;
        Ok(Response::new(pb::GetEntityTypeResponse {
            entity_type: Some(self.wire_type(&entity_type)),
        }))
    }

    async fn list_entity_types(
        &self,
        request: Request<pb::ListEntityTypesRequest>,
    ) -> Result<Response<pb::ListEntityTypesResponse>, Status> {
        let pb::ListEntityTypesRequest {} = request.into_inner();
        let types = self.store.entity_types();
        Ok(Response::new(pb::ListEntityTypesResponse {
            entity_types: types
                .iter()
                .map(|entity_type| self.wire_type(entity_type))
                .collect(),
        }))
    }

    async fn write(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let request = request.into_inner();
        let size_bytes = request.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            return Err(refuse(Violation::new(
                "mutations",
                format!("{size_bytes} bytes in all: at most {MAX_BATCH_BYTES} are possible"),
            )));
        }
        let batch = entity::batch(request).map_err(refuse)?;
        let committed = self
            .store
            .write(batch)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(committed.into()))
    }

    async fn get_entity(
        &self,
        request: Request<pb::GetEntityRequest>,
    ) -> Result<Response<pb::GetEntityResponse>, Status> {
        let pb::GetEntityRequest {
            entity_type,
            entity_id,
            valid_time,
            basis,
        } = request.into_inner();
        let entity_type = self.find("entity_type", &entity_type)?;
        let (valid, basis) = self.point(valid_time, basis).await?;
        let store = self.store.clone();
        let (outcome, version) = blocking(move || {
            let answer = store.get(&entity_type, &entity_id, valid, basis)?;
            Ok::<_, Error>(entity::answer(&entity_type, answer))
        })
        .await?;
        Ok(Response::new(pb::GetEntityResponse {
            outcome: outcome.into(),
            version,
            valid_time: Some(time::to_wire(valid)),
            basis: Some(time::to_wire(basis)),
        }))
    }

    async fn batch_get_entities(
        &self,
        request: Request<pb::BatchGetEntitiesRequest>,
    ) -> Result<Response<pb::BatchGetEntitiesResponse>, Status> {
        let pb::BatchGetEntitiesRequest {
            entity_type,
            entity_ids,
            valid_time,
            basis,
        } = request.into_inner();
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
        Ok(Response::new(pb::BatchGetEntitiesResponse {
            entities,
            valid_time: Some(time::to_wire(valid)),
            basis: Some(time::to_wire(basis)),
        }))
    }

    type ScanEntitiesStream = ReceiverStream<Result<pb::ScanEntitiesResponse, Status>>;

    async fn scan_entities(
        &self,
        request: Request<pb::ScanEntitiesRequest>,
    ) -> Result<Response<Self::ScanEntitiesStream>, Status> {
        let pb::ScanEntitiesRequest {
            entity_type,
            valid_time,
            basis,
            after_entity_id,
        } = request.into_inner();
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
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_history(
        &self,
        request: Request<pb::ListHistoryRequest>,
    ) -> Result<Response<pb::ListHistoryResponse>, Status> {
        let request = request.into_inner();
        let after = HistoryPosition::of_request(&request).map_err(refuse)?;
        let valid = range::valid("valid_range", request.valid_range).map_err(refuse)?;
        let system = range::system("system_range", request.system_range).map_err(refuse)?;
        let page_size = page_size(request.page_size).map_err(refuse)?;
        let entity_type = self.find("entity_type", &request.entity_type)?;
        let basis = match after {
            // A token's basis was pinned for the first page; pinning again refuses one that was made up.
            Some(position) => self
                .store
                .pin(Some(position.basis))
                .await
                .map_err(|error| to_status(&error))?,
            None => self.basis(request.basis).await?,
        };
        let store = self.store.clone();
        let response = blocking(move || {
            let versions = store.history(&entity_type, &request.entity_id, valid, system, basis)?;
            Ok::<_, Error>(history_page(
                &entity_type,
                versions,
                after,
                basis,
                page_size,
                &request,
            ))
        })
        .await?;
        Ok(Response::new(response))
    }
}

fn page_size(asked: u32) -> Result<usize, Violation> {
    match asked {
        0 => Ok(DEFAULT_PAGE_SIZE as usize),
        1..=MAX_PAGE_SIZE => Ok(asked as usize),
        _ => Err(Violation::new(
            "page_size",
            format!("{asked}: at most {MAX_PAGE_SIZE} is possible"),
        )),
    }
}

/// The versions after a position, as many as fit.
fn history_page(
    entity_type: &EntityType,
    versions: Vec<Version>,
    after: Option<HistoryPosition>,
    basis: SysTime,
    page_size: usize,
    request: &pb::ListHistoryRequest,
) -> pb::ListHistoryResponse {
    let mut rest = versions
        .into_iter()
        .filter(|version| {
            after.is_none_or(|after| {
                (version.valid.from, version.system.from) > (after.valid_from, after.system_from)
            })
        })
        .peekable();
    let mut told = Vec::new();
    let mut size_bytes = 0;
    let mut last = None;
    while told.len() < page_size
        && size_bytes < RESPONSE_BYTES
        && let Some(version) = rest.next()
    {
        last = Some(HistoryPosition {
            basis,
            valid_from: version.valid.from,
            system_from: version.system.from,
        });
        let wire = entity::version(entity_type, version);
        size_bytes += wire.encoded_len();
        told.push(wire);
    }
    let next = last.filter(|_| rest.peek().is_some());
    pb::ListHistoryResponse {
        versions: told,
        next_page_token: next.map(|next| next.to_token(request)).unwrap_or_default(),
        basis: Some(time::to_wire(basis)),
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
