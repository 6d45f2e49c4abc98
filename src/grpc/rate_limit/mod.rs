//! `RateLimitService`: limits of outside systems, and permits to call them.

mod deadline;
mod stream;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    blocking::blocking,
    convert::{
        invalid::{Invalid, named},
        rate_limit as convert,
    },
    status::to_status,
};
use crate::{
    limits::{Leases, Limits},
    pb::{self, rate_limit_service_server as service},
};

/// Answers that wait for a slow client.
const ANSWER_QUEUE: usize = 16;

/// The service.
#[derive(Debug, Clone)]
pub struct RateLimitApi {
    /// The limits.
    pub limits: Limits,
    /// Permits of callers that come back to release them.
    pub leases: Leases,
}

impl RateLimitApi {
    fn wire(&self, name: &str) -> Result<pb::RateLimit, Status> {
        let status = self.limits.status(name).map_err(|it| to_status(&it))?;
        Ok(convert::to_wire(&status))
    }
}

#[tonic::async_trait]
impl service::RateLimitService for RateLimitApi {
    type StreamPermitsStream = ReceiverStream<Result<pb::StreamPermitsResponse, Status>>;

    async fn create_rate_limit(
        &self,
        request: Request<pb::CreateRateLimitRequest>,
    ) -> Result<Response<pb::CreateRateLimitResponse>, Status> {
        let pb::CreateRateLimitRequest { rate_limit } = request.into_inner();
        let spec = convert::spec(rate_limit).map_err(|error| to_status(&error))?;
        let limits = self.limits.clone();
        let (limit, created) = blocking(move || limits.create(spec)).await?;
        Ok(Response::new(pb::CreateRateLimitResponse {
            rate_limit: Some(self.wire(&limit.spec.name)?),
            created,
        }))
    }

    async fn get_rate_limit(
        &self,
        request: Request<pb::GetRateLimitRequest>,
    ) -> Result<Response<pb::GetRateLimitResponse>, Status> {
        let pb::GetRateLimitRequest { name } = request.into_inner();
        required("name", &name)?;
        Ok(Response::new(pb::GetRateLimitResponse {
            rate_limit: Some(self.wire(&name)?),
        }))
    }

    async fn list_rate_limits(
        &self,
        request: Request<pb::ListRateLimitsRequest>,
    ) -> Result<Response<pb::ListRateLimitsResponse>, Status> {
        let pb::ListRateLimitsRequest {} = request.into_inner();
        let limits = self.limits.snapshot();
        Ok(Response::new(pb::ListRateLimitsResponse {
            rate_limits: limits.iter().map(convert::to_wire).collect(),
        }))
    }

    async fn update_rate_limit(
        &self,
        request: Request<pb::UpdateRateLimitRequest>,
    ) -> Result<Response<pb::UpdateRateLimitResponse>, Status> {
        let pb::UpdateRateLimitRequest { rate_limit } = request.into_inner();
        let spec = convert::spec(rate_limit).map_err(|error| to_status(&error))?;
        let limits = self.limits.clone();
        let limit = blocking(move || limits.update(spec)).await?;
        Ok(Response::new(pb::UpdateRateLimitResponse {
            rate_limit: Some(self.wire(&limit.spec.name)?),
        }))
    }

    async fn delete_rate_limit(
        &self,
        request: Request<pb::DeleteRateLimitRequest>,
    ) -> Result<Response<pb::DeleteRateLimitResponse>, Status> {
        let pb::DeleteRateLimitRequest { name } = request.into_inner();
        required("name", &name)?;
        let limits = self.limits.clone();
        blocking(move || limits.delete(&name)).await?;
        Ok(Response::new(pb::DeleteRateLimitResponse {}))
    }

    async fn acquire_permits(
        &self,
        request: Request<pb::AcquirePermitsRequest>,
    ) -> Result<Response<pb::AcquirePermitsResponse>, Status> {
        let deadline = deadline::patience(request.metadata());
        let (mut acquire, hold) =
            convert::acquire(request.into_inner()).map_err(|error| to_status(&error))?;
        required("limit", &acquire.limit)?;
        acquire.patience = deadline::earlier(acquire.patience, deadline);
        let permits = self
            .limits
            .acquire(acquire)
            .await
            .map_err(|error| to_status(&error))?;
        let waited = permits.waited();
        let lease_id = if permits.count_as_concurrent() {
            self.leases.hold(permits, convert::hold_or_default(hold))
        } else {
            String::new()
        };
        Ok(Response::new(pb::AcquirePermitsResponse {
            waited: Some(super::convert::duration::to_wire(waited)),
            lease_id,
        }))
    }

    async fn release_permits(
        &self,
        request: Request<pb::ReleasePermitsRequest>,
    ) -> Result<Response<pb::ReleasePermitsResponse>, Status> {
        let pb::ReleasePermitsRequest {
            lease_id,
            unused_permits,
        } = request.into_inner();
        required("lease_id", &lease_id)?;
        self.leases
            .release(&lease_id, unused_permits)
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ReleasePermitsResponse {}))
    }

    async fn stream_permits(
        &self,
        request: Request<Streaming<pb::StreamPermitsRequest>>,
    ) -> Result<Response<Self::StreamPermitsStream>, Status> {
        let (client, answers) = mpsc::channel(ANSWER_QUEUE);
        let stream = stream::Stream::new(self.limits.clone(), client);
        // Ends with the stream, with the client, or with the server.
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn report_outcome(
        &self,
        request: Request<pb::ReportOutcomeRequest>,
    ) -> Result<Response<pb::ReportOutcomeResponse>, Status> {
        let pb::ReportOutcomeRequest {
            limit,
            outcome,
            retry_after,
        } = request.into_inner();
        required("limit", &limit)?;
        let outcome = convert::outcome(outcome, retry_after)
            .map_err(|violation| to_status(&Invalid::from(violation)))?;
        self.limits
            .report(&limit, outcome)
            .map_err(|error| to_status(&error))?;
        let status = self.limits.status(&limit).map_err(|it| to_status(&it))?;
        Ok(Response::new(pb::ReportOutcomeResponse {
            status: Some(convert::status_to_wire(&status)),
        }))
    }
}

fn required(field: &str, name: &str) -> Result<(), Status> {
    named(field, name).map_err(|violation| to_status(&Invalid::from(violation)))
}
