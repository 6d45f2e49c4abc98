//! `BackfillService`: planning, creating, watching, cancelling.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    convert::{
        backfill as convert,
        invalid::{Invalid, named},
    },
    status::to_status,
};
use crate::{
    backfill::Handle,
    error::Violation,
    pb::{self, backfill_service_server::BackfillService},
};

const DEFAULT_BACKFILLS: u32 = 100;
const MAX_BACKFILLS: u32 = 1_000;
const DEFAULT_PARTITIONS: u32 = 1_000;
const MAX_PARTITIONS: u32 = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub struct BackfillApi {
    /// What runs backfills.
    pub backfills: Handle,
}

#[tonic::async_trait]
impl BackfillService for BackfillApi {
    async fn plan_backfill(
        &self,
        request: Request<pb::PlanBackfillRequest>,
    ) -> Result<Response<pb::PlanBackfillResponse>, Status> {
        let pb::PlanBackfillRequest { spec } = request.into_inner();
        let spec = convert::spec(spec).map_err(|error| to_status(&error))?;
        let plan = Box::pin(self.backfills.plan(&spec))
            .await
            .map_err(|error| to_status(&error))?;
        let plan_hash = plan.hash().map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::PlanBackfillResponse {
            plan: Some(convert::plan_to_wire(&plan, plan_hash)),
        }))
    }

    async fn create_backfill(
        &self,
        request: Request<pb::CreateBackfillRequest>,
    ) -> Result<Response<pb::CreateBackfillResponse>, Status> {
        let pb::CreateBackfillRequest {
            spec,
            request_id,
            expected_plan_hash,
        } = request.into_inner();
        let spec = convert::spec(spec).map_err(|error| to_status(&error))?;
        let request_id = convert::request_id(request_id).map_err(|error| to_status(&error))?;
        let expected = (!expected_plan_hash.is_empty()).then_some(expected_plan_hash.as_str());
        let (record, state) = Box::pin(self.backfills.create(spec, request_id, expected))
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::CreateBackfillResponse {
            backfill: Some(convert::backfill_to_wire(&record, &state)),
            warnings: record.plan.warnings.clone(),
        }))
    }

    async fn get_backfill(
        &self,
        request: Request<pb::GetBackfillRequest>,
    ) -> Result<Response<pb::GetBackfillResponse>, Status> {
        let pb::GetBackfillRequest { name } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let backfill = self
            .backfills
            .read(&name, convert::backfill_to_wire)
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::GetBackfillResponse {
            backfill: Some(backfill),
        }))
    }

    async fn list_backfills(
        &self,
        request: Request<pb::ListBackfillsRequest>,
    ) -> Result<Response<pb::ListBackfillsResponse>, Status> {
        let pb::ListBackfillsRequest {
            transform,
            states,
            page_size,
            page_token,
        } = request.into_inner();
        let limit = page_limit(page_size, DEFAULT_BACKFILLS, MAX_BACKFILLS)?;
        let states = convert::states_from_wire("states", &states).map_err(refused)?;
        let after = (!page_token.is_empty()).then_some(page_token.as_str());
        // A token is the name of the last backfill told; none is ever removed.
        if after.is_some_and(|name| self.backfills.get(name).is_err()) {
            return Err(foreign_token());
        }
        // One more than asked tells whether another page follows.
        let mut backfills = self.backfills.list(after, limit + 1, |record, state| {
            let wanted = (transform.is_empty() || record.plan.transform == transform)
                && (states.is_empty() || states.contains(&state.state));
            wanted.then(|| convert::backfill_to_wire(record, state))
        });
        let more = backfills.len() > limit;
        backfills.truncate(limit);
        let next_page_token = match backfills.last() {
            Some(last) if more => last.name.clone(),
            Some(_) | None => String::new(),
        };
        Ok(Response::new(pb::ListBackfillsResponse {
            backfills,
            next_page_token,
        }))
    }

    async fn list_partitions(
        &self,
        request: Request<pb::ListPartitionsRequest>,
    ) -> Result<Response<pb::ListPartitionsResponse>, Status> {
        let pb::ListPartitionsRequest {
            backfill,
            states,
            page_size,
            page_token,
        } = request.into_inner();
        let limit = page_limit(page_size, DEFAULT_PARTITIONS, MAX_PARTITIONS)?;
        let states = convert::partition_states_from_wire("states", &states).map_err(refused)?;
        named("backfill", &backfill).map_err(refused)?;
        let (partitions, next) = self
            .backfills
            .read(&backfill, |record, state| {
                let count = record.plan.partitions.len();
                let skip = partition_of_token(&backfill, &page_token).filter(|skip| *skip < count);
                let page = skip
                    .map(|skip| convert::partitions_to_wire(record, state, &states, skip, limit));
                page.ok_or_else(foreign_token)
            })
            .map_err(|error| to_status(&error))??;
        Ok(Response::new(pb::ListPartitionsResponse {
            partitions,
            next_page_token: next
                .map(|index| format!("{backfill}.{index}"))
                .unwrap_or_default(),
        }))
    }

    async fn cancel_backfill(
        &self,
        request: Request<pb::CancelBackfillRequest>,
    ) -> Result<Response<pb::CancelBackfillResponse>, Status> {
        let pb::CancelBackfillRequest { name } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let (record, state) = self
            .backfills
            .cancel(&name)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::CancelBackfillResponse {
            backfill: Some(convert::backfill_to_wire(&record, &state)),
        }))
    }

    type WatchBackfillStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchBackfillResponse, Status>> + Send>>;

    async fn watch_backfill(
        &self,
        request: Request<pb::WatchBackfillRequest>,
    ) -> Result<Response<Self::WatchBackfillStream>, Status> {
        let pb::WatchBackfillRequest {
            name,
            after_sequence,
        } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let (record, _) = self
            .backfills
            .get(&name)
            .map_err(|error| to_status(&error))?;
        let items = self
            .backfills
            .watch(&name, after_sequence)
            .map_err(|error| to_status(&error))?;
        let messages = ReceiverStream::new(items).map(move |item| match item {
            Ok(item) => Ok(convert::watch_item_to_wire(&record, item)),
            Err(error) => Err(to_status(&error)),
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

fn page_limit(asked: u32, usual: u32, most: u32) -> Result<usize, Status> {
    if asked > most {
        return Err(refused(Violation::new(
            "page_size",
            format!("{asked} is over the limit of {most}"),
        )));
    }
    Ok(if asked == 0 { usual } else { asked } as usize)
}

/// The partition that a page of `backfill` starts with.
fn partition_of_token(backfill: &str, token: &str) -> Option<usize> {
    if token.is_empty() {
        return Some(0);
    }
    let index = token.strip_prefix(backfill)?.strip_prefix('.')?;
    index.parse().ok()
}

fn foreign_token() -> Status {
    refused(Violation::new(
        "page_token",
        "it does not belong to this listing",
    ))
}

fn refused(violation: Violation) -> Status {
    to_status(&Invalid::from(violation))
}
