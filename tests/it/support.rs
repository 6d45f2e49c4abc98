//! What tests of the whole service share: a real server on a free port, in a temporary folder, on a given clock.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use hindcast::{
    pb::{
        self, backfill_service_client::BackfillServiceClient,
        catalog_service_client::CatalogServiceClient,
        entity_store_service_client::EntityStoreServiceClient, mutation, put, value::Kind,
        watch_backfill_response::Message,
    },
    server::{self, RunningServer, ServerConfig},
    time::{Clock, ValidTime},
};
use prost_types::Timestamp;
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

/// Largest message that the clients take.
const MESSAGE_BYTES: usize = 64 << 20;
/// Mutations of one batch, below the limits of a write.
const BATCH: usize = 5_000;

/// One row of a table by column name; `None` is null.
pub(crate) type Row = BTreeMap<String, Option<Kind>>;

/// A server and its clients. Stop it with [`Service::stop`]; dropped without, its folder may still be in use.
pub(crate) struct Service {
    folder: Option<TempDir>,
    server: RunningServer,
    pub(crate) entities: EntityStoreServiceClient<Channel>,
    pub(crate) catalog: CatalogServiceClient<Channel>,
    pub(crate) backfills: BackfillServiceClient<Channel>,
}

impl Service {
    /// Starts in a new temporary folder.
    pub(crate) async fn start(clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data_dir = folder.path().join("data");
        Self::start_in(Some(folder), data_dir, clock).await
    }

    /// Starts on a folder that is there already, which stays.
    pub(crate) async fn open(data_dir: &Path, clock: Arc<dyn Clock>) -> Self {
        Self::start_in(None, data_dir.to_owned(), clock).await
    }

    async fn start_in(folder: Option<TempDir>, data_dir: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let config = ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..ServerConfig::new(data_dir)
        };
        let starting = Box::pin(server::start(config, clock));
        let server = starting.await.expect("the server starts");
        let channel = Channel::from_shared(format!("http://{}", server.local_addr()))
            .expect("an address")
            .connect()
            .await
            .expect("connects");
        Self {
            folder,
            server,
            entities: EntityStoreServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
            catalog: CatalogServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES),
            backfills: BackfillServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES),
        }
    }

    /// Stops the server; the temporary folder goes with it.
    pub(crate) async fn stop(self) {
        let Self {
            folder,
            server,
            entities,
            catalog,
            backfills,
        } = self;
        drop((entities, catalog, backfills));
        server.shutdown().await.expect("the server stops");
        drop(folder);
    }

    /// Declares an entity type.
    pub(crate) async fn create_type(
        &mut self,
        name: &str,
        attributes: &[(&str, pb::AttributeKind)],
    ) {
        let attribute = |(name, kind): &(&str, pb::AttributeKind)| pb::Attribute {
            name: (*name).to_owned(),
            kind: (*kind).into(),
            ..Default::default()
        };
        let entity_type = pb::EntityType {
            name: name.to_owned(),
            attributes: attributes.iter().map(attribute).collect(),
            ..Default::default()
        };
        let request = pb::CreateEntityTypeRequest {
            entity_type: Some(entity_type),
        };
        let declared = self.entities.create_entity_type(request).await;
        declared.expect("declared");
    }

    /// Writes any number of mutations, batch after batch; gives the last commit's system time and all versions.
    pub(crate) async fn write(
        &mut self,
        mutations: impl IntoIterator<Item = pb::Mutation>,
    ) -> (Timestamp, u64) {
        let (mut last, mut versions) = (None, 0);
        let mut rest = mutations.into_iter();
        loop {
            let batch: Vec<_> = rest.by_ref().take(BATCH).collect();
            if batch.is_empty() && last.is_some() {
                break;
            }
            let request = pb::WriteRequest {
                mutations: batch,
                request_id: String::new(),
                ..Default::default()
            };
            let written = self.entities.write(request).await.expect("written");
            let written = written.into_inner();
            versions += written.versions_written;
            last = written.system_time;
        }
        (last.expect("a system time"), versions)
    }

    /// Declares a source; gives it back with what was found.
    pub(crate) async fn create_source(&mut self, source: pb::Source) -> pb::Source {
        let request = pb::CreateSourceRequest {
            source: Some(source),
        };
        let created = self.catalog.create_source(request).await;
        created.expect("declared").into_inner().source.expect("it")
    }

    /// Registers a transform; gives it back with its revision and columns.
    pub(crate) async fn register(&mut self, transform: pb::Transform) -> pb::Transform {
        let registered = self.try_register(transform).await;
        registered.expect("registered")
    }

    /// Registers a transform that may be refused.
    pub(crate) async fn try_register(
        &mut self,
        transform: pb::Transform,
    ) -> Result<pb::Transform, Status> {
        let request = pb::RegisterTransformRequest {
            transform: Some(transform),
            validate_only: false,
        };
        let registered = self.catalog.register_transform(request).await?;
        Ok(registered.into_inner().transform.expect("it"))
    }

    /// Plans a backfill.
    pub(crate) async fn plan(&mut self, spec: pb::BackfillSpec) -> Result<pb::Plan, Status> {
        let request = pb::PlanBackfillRequest { spec: Some(spec) };
        let planned = self.backfills.plan_backfill(request).await?;
        Ok(planned.into_inner().plan.expect("a plan"))
    }

    /// Creates a backfill.
    pub(crate) async fn create(&mut self, spec: pb::BackfillSpec) -> Result<pb::Backfill, Status> {
        let request = pb::CreateBackfillRequest {
            spec: Some(spec),
            ..Default::default()
        };
        let created = self.backfills.create_backfill(request).await?;
        Ok(created.into_inner().backfill.expect("it"))
    }

    /// Creates a backfill and watches it to its end; gives it as it ended, and its events.
    pub(crate) async fn run(&mut self, spec: pb::BackfillSpec) -> (pb::Backfill, Vec<pb::Event>) {
        let created = self.create(spec).await.expect("created");
        self.watch_to_end(&created.name).await
    }

    /// Runs a backfill that must succeed.
    pub(crate) async fn run_well(&mut self, spec: pb::BackfillSpec) -> pb::Backfill {
        let (backfill, events) = self.run(spec).await;
        let failures: Vec<_> = events.iter().filter_map(failure).collect();
        assert_eq!(
            backfill.state(),
            pb::BackfillState::Succeeded,
            "{failures:?}"
        );
        backfill
    }

    /// Watches a backfill from its first event to the end of the stream, checking that sequences are dense.
    pub(crate) async fn watch_to_end(&mut self, name: &str) -> (pb::Backfill, Vec<pb::Event>) {
        let request = pb::WatchBackfillRequest {
            name: name.to_owned(),
            after_sequence: 0,
        };
        let watching = self.backfills.watch_backfill(request).await;
        let mut stream = watching.expect("watches").into_inner();
        let mut events: Vec<pb::Event> = Vec::new();
        while let Some(item) = stream.message().await.expect("the stream goes on") {
            if let Some(Message::Event(event)) = item.message {
                let due = events.last().map_or(1, |last| last.sequence + 1);
                assert_eq!(event.sequence, due, "dense sequence numbers");
                events.push(event);
            }
        }
        (self.get(name).await, events)
    }

    /// A backfill as it stands.
    pub(crate) async fn get(&mut self, name: &str) -> pb::Backfill {
        let request = pb::GetBackfillRequest {
            name: name.to_owned(),
        };
        let got = self.backfills.get_backfill(request).await;
        got.expect("there").into_inner().backfill.expect("it")
    }

    /// All partitions of a backfill, by start.
    pub(crate) async fn partitions(&mut self, backfill: &str) -> Vec<pb::Partition> {
        let mut partitions = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListPartitionsRequest {
                backfill: backfill.to_owned(),
                page_token,
                ..Default::default()
            };
            let listed = self.backfills.list_partitions(request).await;
            let listed = listed.expect("listed").into_inner();
            partitions.extend(listed.partitions);
            page_token = listed.next_page_token;
            if page_token.is_empty() {
                return partitions;
            }
        }
    }

    /// A table with its snapshots and partitions.
    pub(crate) async fn table(&mut self, name: &str) -> pb::Table {
        let request = pb::GetTableRequest {
            name: name.to_owned(),
        };
        let got = self.catalog.get_table(request).await;
        got.expect("there").into_inner().table.expect("it")
    }

    /// Every published row of a table.
    pub(crate) async fn read(&mut self, table: &str) -> Vec<Row> {
        let request = pb::ReadTableRequest {
            name: table.to_owned(),
            ..Default::default()
        };
        self.read_some(request).await
    }

    /// The rows that a request asks for.
    pub(crate) async fn read_some(&mut self, request: pb::ReadTableRequest) -> Vec<Row> {
        let reading = self.catalog.read_table(request).await;
        let mut stream = reading.expect("reads").into_inner();
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        while let Some(part) = stream.message().await.expect("reads on") {
            if columns.is_empty() {
                columns = part.columns;
            }
            for row in part.rows {
                assert_eq!(row.values.len(), columns.len(), "one value per column");
                let names = columns.iter().map(|column| column.name.clone());
                rows.push(
                    names
                        .zip(row.values.into_iter().map(|value| value.kind))
                        .collect(),
                );
            }
        }
        rows
    }
}

/// Why a partition failed, if the event says that one did.
pub(crate) fn failure(event: &pb::Event) -> Option<String> {
    match event.change.as_ref()? {
        pb::event::Change::PartitionChanged(change) if !change.message.is_empty() => {
            Some(format!("{}: {}", change.label, change.message))
        }
        pb::event::Change::PartitionChanged(_)
        | pb::event::Change::BackfillCreated(_)
        | pb::event::Change::BackfillStateChanged(_)
        | pb::event::Change::BackfillConcurrencyChanged(_)
        | pb::event::Change::BackfillResumed(_) => None,
    }
}

/// An instant from RFC 3339 text.
pub(crate) fn at(text: &str) -> Timestamp {
    from_micros(micros(text))
}

/// RFC 3339 text as microseconds since the Unix epoch.
pub(crate) fn micros(text: &str) -> i64 {
    ValidTime::parse(text).expect("RFC 3339").micros()
}

/// An instant from microseconds since the Unix epoch.
pub(crate) fn from_micros(micros: i64) -> Timestamp {
    let (seconds, nanos) = ValidTime::from_micros(micros).to_timestamp();
    Timestamp { seconds, nanos }
}

/// A put of these attributes; no end: until the next change.
pub(crate) fn put(
    entity_type: &str,
    entity_id: &str,
    attributes: impl IntoIterator<Item = (&'static str, Kind)>,
    valid_from: Timestamp,
    valid_to: Option<Timestamp>,
) -> pb::Mutation {
    let value = |(name, kind): (&str, Kind)| (name.to_owned(), pb::Value { kind: Some(kind) });
    let attributes: HashMap<_, _> = attributes.into_iter().map(value).collect();
    pb::Mutation {
        entity_type: entity_type.to_owned(),
        entity_id: entity_id.to_owned(),
        operation: Some(mutation::Operation::Put(pb::Put {
            attributes,
            valid_from: Some(valid_from),
            until: valid_to.map(put::Until::ValidTo),
        })),
        ..Default::default()
    }
}

/// An integer column's value; null or another kind is a failure.
pub(crate) fn int(row: &Row, column: &str) -> i64 {
    match row.get(column) {
        Some(Some(Kind::Int64Value(value))) => *value,
        other => panic!("{column} is no integer: {other:?}"),
    }
}

/// A float column's value; null or another kind is a failure.
pub(crate) fn float(row: &Row, column: &str) -> f64 {
    match row.get(column) {
        Some(Some(Kind::Float64Value(value))) => *value,
        other => panic!("{column} is no float: {other:?}"),
    }
}

/// A text column's value; null or another kind is a failure.
pub(crate) fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    match row.get(column) {
        Some(Some(Kind::StringValue(value))) => value,
        other => panic!("{column} is no text: {other:?}"),
    }
}
