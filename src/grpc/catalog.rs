//! `CatalogService`: sources, transforms, tables.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use tonic::{Request, Response, Status};

use super::{
    blocking::{blocking, streaming},
    convert::{
        catalog as convert,
        invalid::{Invalid, named},
        table,
    },
    status::to_status,
};
use crate::{
    calls,
    catalog::{Catalog, Source, TransformSpec},
    engine::{self, Embedded, check::Checked},
    error::{Classify, Violation},
    lake::Lake,
    pb::{self, catalog_service_server::CatalogService},
    store::Store,
    time::Clock,
};

/// Messages of rows that may wait for a slow client.
const ROW_QUEUE: usize = 4;

/// The service.
#[derive(Debug, Clone)]
pub struct CatalogApi {
    /// Definitions.
    pub catalog: Catalog,
    /// For checking a transform against the entity types.
    pub store: Store,
    /// For looking into a source's files, and for planning a transform as it will be planned when it runs.
    pub engine: Embedded,
    /// Output tables.
    pub lake: Lake,
    /// Now.
    pub clock: Arc<dyn Clock>,
}

impl CatalogApi {
    /// Declares and claims the entity types that keep the answers of calls, and claims the one that a checked definition writes, so that no client writes to it any more. With `check_only` it
    /// only finds out whether that is possible. A definition that is refused after that keeps its claim until a restart.
    async fn claim(&self, spec: &TransformSpec, check_only: bool) -> Result<(), RegisterError> {
        self.catalog.check_output(spec)?;
        calls::declare(&self.store, spec, check_only).await?;
        let Some(output) = spec.output.entities() else {
            return Ok(());
        };
        let name = &output.entity_type;
        if check_only {
            self.store.check_claim(name, &spec.name)?;
        } else {
            self.store.claim(name, &spec.name).await?;
        }
        Ok(())
    }

    /// The stored source that `source` declares: nothing is looked at again.
    fn already_declared(&self, source: &Source) -> Option<Arc<Source>> {
        let existing = self.catalog.source(&source.name).ok()?;
        existing.declares_the_same(source).then_some(existing)
    }
}

#[tonic::async_trait]
impl CatalogService for CatalogApi {
    async fn create_source(
        &self,
        request: Request<pb::CreateSourceRequest>,
    ) -> Result<Response<pb::CreateSourceResponse>, Status> {
        let request = request.into_inner();
        let mut declared =
            convert::source(request, self.clock.now_micros()).map_err(|error| to_status(&error))?;
        if let Some(existing) = self.already_declared(&declared) {
            return Ok(Response::new(pb::CreateSourceResponse {
                source: Some(convert::source_to_wire(&existing)),
                created: false,
            }));
        }
        declared = engine::source::inspect(self.engine.sessions().template(), declared)
            .await
            .map_err(|error| to_status(&error))?;
        let catalog = self.catalog.clone();
        let (source, created) = blocking(move || catalog.create_source(declared)).await?;
        Ok(Response::new(pb::CreateSourceResponse {
            source: Some(convert::source_to_wire(&source)),
            created,
        }))
    }

    async fn get_source(
        &self,
        request: Request<pb::GetSourceRequest>,
    ) -> Result<Response<pb::GetSourceResponse>, Status> {
        let pb::GetSourceRequest { name } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let source = self
            .catalog
            .source(&name)
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::GetSourceResponse {
            source: Some(convert::source_to_wire(&source)),
        }))
    }

    async fn list_sources(
        &self,
        _request: Request<pb::ListSourcesRequest>,
    ) -> Result<Response<pb::ListSourcesResponse>, Status> {
        let sources = self.catalog.sources();
        Ok(Response::new(pb::ListSourcesResponse {
            sources: sources
                .iter()
                .map(|source| convert::source_to_wire(source))
                .collect(),
        }))
    }

    async fn register_transform(
        &self,
        request: Request<pb::RegisterTransformRequest>,
    ) -> Result<Response<pb::RegisterTransformResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let spec = convert::transform(request).map_err(|error| to_status(&error))?;
        let catalog = self.catalog.clone();
        let Checked { columns, revisions } = self
            .engine
            .check(catalog.clone(), self.store.clone(), spec.clone())
            .await
            .map_err(|error| to_status(&error))?;
        self.claim(&spec, validate_only)
            .await
            .map_err(|error| to_status(&error))?;
        let now_micros = self.clock.now_micros();
        let lake = self.lake.clone();
        let (transform, created) = blocking(move || {
            catalog.check_output(&spec)?;
            check_table(&lake, &spec, &columns)?;
            if validate_only {
                return Ok(convert::unregistered(spec, columns, now_micros));
            }
            Ok::<_, RegisterError>(
                catalog.register_transform(spec, columns, revisions, now_micros)?,
            )
        })
        .await?;
        Ok(Response::new(pb::RegisterTransformResponse {
            transform: Some(convert::transform_to_wire(&transform)),
            created: created && !validate_only,
        }))
    }

    async fn get_transform(
        &self,
        request: Request<pb::GetTransformRequest>,
    ) -> Result<Response<pb::GetTransformResponse>, Status> {
        let pb::GetTransformRequest { name, revision } = request.into_inner();
        named("name", &name).map_err(refused)?;
        let transform = self
            .catalog
            .transform(&name, (revision > 0).then_some(revision))
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::GetTransformResponse {
            transform: Some(convert::transform_to_wire(&transform)),
        }))
    }

    async fn list_transforms(
        &self,
        _request: Request<pb::ListTransformsRequest>,
    ) -> Result<Response<pb::ListTransformsResponse>, Status> {
        let transforms = self.catalog.transforms();
        Ok(Response::new(pb::ListTransformsResponse {
            transforms: transforms
                .iter()
                .map(|transform| convert::transform_to_wire(transform))
                .collect(),
        }))
    }

    async fn get_table(
        &self,
        request: Request<pb::GetTableRequest>,
    ) -> Result<Response<pb::GetTableResponse>, Status> {
        let lake = self.lake.clone();
        let pb::GetTableRequest { name } = request.into_inner();
        table::check_named(&name).map_err(|error| to_status(&error))?;
        let info = blocking(move || lake.table(&name)).await?;
        Ok(Response::new(pb::GetTableResponse {
            table: Some(table::to_wire(&info)),
        }))
    }

    async fn list_tables(
        &self,
        _request: Request<pb::ListTablesRequest>,
    ) -> Result<Response<pb::ListTablesResponse>, Status> {
        let lake = self.lake.clone();
        let tables = blocking(move || {
            let names = lake.tables()?;
            names
                .iter()
                .map(|name| lake.table(name))
                .collect::<Result<Vec<_>, _>>()
        })
        .await?;
        Ok(Response::new(pb::ListTablesResponse {
            tables: tables
                .iter()
                .map(|info| pb::Table {
                    snapshots: Vec::new(),
                    partitions: Vec::new(),
                    ..table::to_wire(info)
                })
                .collect(),
        }))
    }

    type ReadTableStream =
        Pin<Box<dyn Stream<Item = Result<pb::ReadTableResponse, Status>> + Send>>;

    async fn read_table(
        &self,
        request: Request<pb::ReadTableRequest>,
    ) -> Result<Response<Self::ReadTableStream>, Status> {
        let read = table::read_request(request.into_inner()).map_err(|error| to_status(&error))?;
        let lake = self.lake.clone();
        let opened = blocking(move || table::TableRows::open(&lake, read)).await?;
        // Decoding Parquet computes and blocks.
        let rows = streaming(ROW_QUEUE, move |messages| {
            for message in opened {
                let message = message.map_err(|error| to_status(&error))?;
                if messages.blocking_send(Ok(message)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        Ok(Response::new(Box::pin(rows)))
    }
}

fn refused(violation: Violation) -> Status {
    to_status(&Invalid::from(violation))
}

/// A table that is there must take what the query gives.
fn check_table(
    lake: &Lake,
    spec: &crate::catalog::TransformSpec,
    columns: &[crate::catalog::ColumnDef],
) -> Result<(), RegisterError> {
    let schema = crate::catalog::ColumnDef::to_schema(columns)
        .map_err(|cause| RegisterError::Engine(engine::Error::Broken { cause }))?;
    match spec.output.table() {
        Some(name) => Ok(lake.check_table(name, &schema, &spec.name)?),
        None => Ok(()),
    }
}

/// What can refuse a checked definition.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error(transparent)]
    Catalog(#[from] crate::catalog::Error),
    #[error(transparent)]
    Calls(#[from] calls::DeclareError),
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    Lake(#[from] crate::lake::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl RegisterError {
    fn inner(&self) -> &dyn Classify {
        match self {
            Self::Catalog(error) => error,
            Self::Calls(calls::DeclareError::Refused(error)) => error,
            Self::Calls(calls::DeclareError::Store(error)) => error,
            Self::Engine(error) => error,
            Self::Lake(error) => error,
            Self::Store(error) => error,
        }
    }
}

impl Classify for RegisterError {
    fn kind(&self) -> crate::error::ErrorKind {
        self.inner().kind()
    }

    fn reason(&self) -> &'static str {
        self.inner().reason()
    }

    fn violations(&self) -> Vec<Violation> {
        self.inner().violations()
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        self.inner().resource()
    }
}
