//! `BackfillService`: planning, creating, watching, controlling.

use std::{collections::HashMap, pin::Pin, sync::Arc};

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
    backfill::{self, Handle, Planned, Record, State},
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

impl BackfillApi {
    /// Says of partitions that could start why they do not.
    fn tell_of_full_disk(&self, partitions: &mut [pb::Partition]) {
        let Some(full) = self.backfills.no_room() else {
            return;
        };
        for partition in partitions {
            if partition.state() == pb::PartitionState::Pending && partition.message.is_empty() {
                partition.message = format!("waits for room on the disk: {full}");
            }
        }
    }
}

#[tonic::async_trait]
impl BackfillService for BackfillApi {
    async fn plan_backfill(
        &self,
        request: Request<pb::PlanBackfillRequest>,
    ) -> Result<Response<pb::PlanBackfillResponse>, Status> {
        let pb::PlanBackfillRequest { spec } = request.into_inner();
        let spec = convert::spec(spec).map_err(|error| to_status(&error))?;
        let planned = Box::pin(self.backfills.plan(&spec))
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::PlanBackfillResponse {
            plan: Some(wire_plan(&planned)?),
            in_the_way: planned.in_the_way,
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
            labels,
            root,
        } = request.into_inner();
        let limit = page_limit(page_size, DEFAULT_BACKFILLS, MAX_BACKFILLS)?;
        let states =
            convert::states_from_wire("states", &states).map_err(|error| to_status(&error))?;
        let after = (!page_token.is_empty()).then_some(page_token.as_str());
        // A token is the name of the last backfill told; none is ever removed.
        if after.is_some_and(|name| self.backfills.get(name).is_err()) {
            return Err(foreign_token());
        }
        // One more than asked tells whether another page follows.
        let mut backfills = self.backfills.list(after, limit + 1, |record, state| {
            let wanted = is_meant(record, &transform, &labels)
                && (root.is_empty() || is_of_line(record, &root))
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
            include_attempts,
            transform,
        } = request.into_inner();
        let limit = page_limit(page_size, DEFAULT_PARTITIONS, MAX_PARTITIONS)?;
        let states = convert::partition_states_from_wire("states", &states)
            .map_err(|error| to_status(&error))?;
        named("backfill", &backfill).map_err(refused)?;
        let mut page = self
            .backfills
            .read(&backfill, |record, state| {
                let count = record.plan.partitions.len();
                let skip = partition_of_token(&backfill, &page_token).filter(|skip| *skip < count);
                let wanted = convert::Wanted {
                    states: &states,
                    transform: &transform,
                    with_tables: include_attempts,
                };
                let page = skip
                    .map(|skip| convert::partitions_to_wire(record, state, wanted, skip, limit));
                page.ok_or_else(foreign_token)
            })
            .map_err(|error| to_status(&error))??;
        self.tell_of_full_disk(&mut page.partitions);
        if include_attempts {
            let indices = page.indices.clone();
            let mut attempts = self
                .backfills
                .attempts(&backfill, indices)
                .await
                .map_err(|error| to_status(&error))?;
            for (partition, index) in page.partitions.iter_mut().zip(&page.indices) {
                let found = attempts.remove(index).unwrap_or_default();
                partition.attempts = convert::attempts_to_wire(found);
            }
        }
        Ok(Response::new(pb::ListPartitionsResponse {
            partitions: page.partitions,
            next_page_token: page
                .next
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
        let backfill = wire_backfill(self.backfills.cancel(&name).await)?;
        Ok(Response::new(pb::CancelBackfillResponse {
            backfill: Some(backfill),
        }))
    }

    async fn pause_backfill(
        &self,
        request: Request<pb::PauseBackfillRequest>,
    ) -> Result<Response<pb::PauseBackfillResponse>, Status> {
        let pb::PauseBackfillRequest { name } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let backfill = wire_backfill(self.backfills.pause(&name).await)?;
        Ok(Response::new(pb::PauseBackfillResponse {
            backfill: Some(backfill),
        }))
    }

    async fn resume_backfill(
        &self,
        request: Request<pb::ResumeBackfillRequest>,
    ) -> Result<Response<pb::ResumeBackfillResponse>, Status> {
        let pb::ResumeBackfillRequest { name } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let backfill = wire_backfill(self.backfills.resume(&name).await)?;
        Ok(Response::new(pb::ResumeBackfillResponse {
            backfill: Some(backfill),
        }))
    }

    async fn set_backfill_concurrency(
        &self,
        request: Request<pb::SetBackfillConcurrencyRequest>,
    ) -> Result<Response<pb::SetBackfillConcurrencyResponse>, Status> {
        let pb::SetBackfillConcurrencyRequest {
            name,
            max_active_partitions,
        } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let set = self
            .backfills
            .set_concurrency(&name, max_active_partitions)
            .await;
        Ok(Response::new(pb::SetBackfillConcurrencyResponse {
            backfill: Some(wire_backfill(set)?),
        }))
    }

    async fn retry_backfill(
        &self,
        request: Request<pb::RetryBackfillRequest>,
    ) -> Result<Response<pb::RetryBackfillResponse>, Status> {
        let pb::RetryBackfillRequest { name } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let backfill = wire_backfill(self.backfills.retry(&name).await)?;
        Ok(Response::new(pb::RetryBackfillResponse {
            backfill: Some(backfill),
        }))
    }

    async fn restate_backfill(
        &self,
        request: Request<pb::RestateBackfillRequest>,
    ) -> Result<Response<pb::RestateBackfillResponse>, Status> {
        let pb::RestateBackfillRequest {
            name,
            range,
            revision,
            validate_only,
            request_id,
            expected_plan_hash,
        } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let what = convert::restatement(range, revision).map_err(|error| to_status(&error))?;
        let request_id = convert::request_id(request_id).map_err(|error| to_status(&error))?;
        if validate_only {
            let planned = Box::pin(self.backfills.plan_restatement(&name, what))
                .await
                .map_err(|error| to_status(&error))?;
            return Ok(Response::new(pb::RestateBackfillResponse {
                backfill: None,
                plan: Some(wire_plan(&planned)?),
                warnings: planned.plan.warnings,
            }));
        }
        let expected = (!expected_plan_hash.is_empty()).then_some(expected_plan_hash.as_str());
        let (record, state) = Box::pin(self.backfills.restate(&name, what, request_id, expected))
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RestateBackfillResponse {
            backfill: Some(convert::backfill_to_wire(&record, &state)),
            plan: None,
            warnings: record.plan.warnings.clone(),
        }))
    }

    async fn list_stale_partitions(
        &self,
        request: Request<pb::ListStalePartitionsRequest>,
    ) -> Result<Response<pb::ListStalePartitionsResponse>, Status> {
        let request = request.into_inner();
        let limit = page_limit(request.page_size, DEFAULT_PARTITIONS, MAX_PARTITIONS)?;
        let query = convert::stale_query(&request, limit).map_err(|error| to_status(&error))?;
        let page = self
            .backfills
            .list_stale(query)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(convert::stale_page_to_wire(&request, page)))
    }

    type WatchBackfillsStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchBackfillsResponse, Status>> + Send>>;

    async fn watch_backfills(
        &self,
        request: Request<pb::WatchBackfillsRequest>,
    ) -> Result<Response<Self::WatchBackfillsStream>, Status> {
        let pb::WatchBackfillsRequest {
            transform,
            labels,
            include_ended,
        } = request.into_inner();
        let items = self
            .backfills
            .watch_all(include_ended, move |record, state| {
                is_meant(record, &transform, &labels)
                    .then(|| convert::backfill_to_wire(record, state))
            });
        let messages = ReceiverStream::new(items).map(|item| match item {
            Ok(item) => Ok(convert::watch_all_item_to_wire(item)),
            Err(error) => Err(to_status(&error)),
        });
        Ok(Response::new(Box::pin(messages)))
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

fn wire_plan(planned: &Planned) -> Result<pb::Plan, Status> {
    let plan_hash = planned.plan.hash().map_err(|error| to_status(&error))?;
    Ok(convert::plan_to_wire(planned, plan_hash))
}

fn wire_backfill(outcome: backfill::Result<(Arc<Record>, State)>) -> Result<pb::Backfill, Status> {
    let (record, state) = outcome.map_err(|error| to_status(&error))?;
    Ok(convert::backfill_to_wire(&record, &state))
}

/// Whether a filter by transform and labels lets a backfill through; what is empty lets all through.
fn is_meant(record: &Record, transform: &str, labels: &HashMap<String, String>) -> bool {
    let has = |(key, value): (&String, &String)| record.spec.labels.get(key) == Some(value);
    let mut transforms = record.plan.transforms.iter();
    (transform.is_empty() || transforms.any(|one| one.transform == transform))
        && labels.iter().all(has)
}

/// Whether a backfill is `root` or restates it, directly or not.
fn is_of_line(record: &Record, root: &str) -> bool {
    record.name == root || record.parent.as_ref().is_some_and(|it| it.root == root)
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
