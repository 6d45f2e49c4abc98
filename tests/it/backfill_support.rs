//! A real server on a free port with a clock that a test sets, and the calls that the backfill tests make.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hindcast::{
    pb::{
        self, backfill_service_client::BackfillServiceClient,
        catalog_service_client::CatalogServiceClient,
        entity_store_service_client::EntityStoreServiceClient, value::Kind,
    },
    server::{RunningServer, ServerConfig, start},
    time::{ManualClock, ValidTime},
};
use prost_types::Timestamp;
use tonic::{Status, transport::Channel};

pub(crate) fn at(text: &str) -> Timestamp {
    let micros = ValidTime::parse(text).expect("an instant").micros();
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
    }
}

pub(crate) fn micros(text: &str) -> i64 {
    ValidTime::parse(text).expect("an instant").micros()
}

pub(crate) fn float(value: f64) -> pb::Value {
    pb::Value {
        kind: Some(Kind::Float64Value(value)),
    }
}

/// A value as one word.
fn word(value: &pb::Value) -> String {
    match &value.kind {
        None => "null".to_owned(),
        Some(Kind::BoolValue(value)) => value.to_string(),
        Some(Kind::Int64Value(value)) => value.to_string(),
        Some(Kind::Float64Value(value)) => value.to_string(),
        Some(Kind::DecimalValue(text) | Kind::StringValue(text) | Kind::JsonValue(text)) => {
            text.clone()
        }
        Some(Kind::DateValue(text)) => text.clone(),
        Some(Kind::BytesValue(bytes)) => format!("{bytes:?}"),
        Some(Kind::TimestampValue(time)) => {
            ValidTime::from_micros(time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000)
                .to_string()
        }
    }
}

/// Clients of one server.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) entities: EntityStoreServiceClient<Channel>,
    pub(crate) catalog: CatalogServiceClient<Channel>,
    pub(crate) backfills: BackfillServiceClient<Channel>,
}

/// How a backfill ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) backfill: pb::Backfill,
    pub(crate) events: Vec<pb::Event>,
    pub(crate) partitions: Vec<pb::Partition>,
}

impl Ended {
    pub(crate) fn states(&self) -> Vec<pb::PartitionState> {
        self.partitions.iter().map(pb::Partition::state).collect()
    }

    /// The changes of one partition, in order.
    pub(crate) fn changes(&self, label: &str) -> Vec<&pb::PartitionChanged> {
        partition_changes(&self.events)
            .filter(|change| change.label == label)
            .collect()
    }
}

pub(crate) fn partition_changes(
    events: &[pb::Event],
) -> impl Iterator<Item = &pb::PartitionChanged> {
    events.iter().filter_map(|event| match &event.change {
        Some(pb::event::Change::PartitionChanged(change)) => Some(change),
        _ => None,
    })
}

/// Panics unless `events` are numbered 1, 2, 3, ….
pub(crate) fn assert_dense(events: &[pb::Event]) {
    let sequences: Vec<_> = events.iter().map(|event| event.sequence).collect();
    let dense: Vec<_> = (1..=events.len() as u64).collect();
    assert_eq!(sequences, dense, "PR-1");
}

pub(crate) fn spec(
    transform: &str,
    from: &str,
    to: &str,
    knowledge: pb::Knowledge,
) -> pb::BackfillSpec {
    pb::BackfillSpec {
        transform: transform.to_owned(),
        from: Some(at(from)),
        to: Some(at(to)),
        knowledge: knowledge.into(),
        ..pb::BackfillSpec::default()
    }
}

/// Whole UTC days as known now.
pub(crate) fn days(transform: &str, from: &str, to: &str) -> pb::BackfillSpec {
    let midnight = |day: &str| format!("{day}T00:00:00Z");
    spec(
        transform,
        &midnight(from),
        &midnight(to),
        pb::Knowledge::AsKnownNow,
    )
}

/// Whole UTC days as known then.
pub(crate) fn then(transform: &str, from: &str, to: &str) -> pb::BackfillSpec {
    let mut spec = days(transform, from, to);
    spec.knowledge = pb::Knowledge::AsKnownThen.into();
    spec
}

pub(crate) fn at_basis(spec: &pb::BackfillSpec, basis: Timestamp) -> pb::BackfillSpec {
    pb::BackfillSpec {
        knowledge: pb::Knowledge::AtBasis.into(),
        basis: Some(basis),
        ..spec.clone()
    }
}

/// A daily transform that writes the table of its own name.
pub(crate) fn daily(name: &str, sql: &str) -> pb::Transform {
    pb::Transform {
        name: name.to_owned(),
        sql: sql.to_owned(),
        output_table: name.to_owned(),
        grain: pb::Grain::Daily.into(),
        retry: Some(pb::RetryPolicy {
            max_attempts: 1,
            ..pb::RetryPolicy::default()
        }),
        ..pb::Transform::default()
    }
}

pub(crate) fn source_input(name: &str) -> pb::SourceInput {
    pb::SourceInput {
        source: name.to_owned(),
        lookback: None,
    }
}

pub(crate) fn entity_input(name: &str) -> pb::EntityInput {
    pb::EntityInput {
        entity_type: name.to_owned(),
        at_partition_start: false,
    }
}

pub(crate) fn seconds(count: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: count,
        nanos: 0,
    }
}

impl Clients {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let channel = Channel::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect()
            .await
            .expect("connects");
        Self {
            entities: EntityStoreServiceClient::new(channel.clone()),
            catalog: CatalogServiceClient::new(channel.clone()),
            backfills: BackfillServiceClient::new(channel),
        }
    }

    /// Declares `station` with `temp`.
    pub(crate) async fn create_stations(&mut self) {
        let entity_type = pb::EntityType {
            name: "station".to_owned(),
            attributes: vec![pb::Attribute {
                name: "temp".to_owned(),
                kind: pb::AttributeKind::Float64.into(),
                ..pb::Attribute::default()
            }],
            ..pb::EntityType::default()
        };
        self.entities
            .create_entity_type(pb::CreateEntityTypeRequest {
                entity_type: Some(entity_type),
            })
            .await
            .expect("created");
    }

    /// Says that a station had a temperature from an instant on, until the next change; the commit's system time.
    pub(crate) async fn put_station(&mut self, id: &str, from: &str, temp: f64) -> Timestamp {
        let put = pb::Put {
            attributes: HashMap::from([("temp".to_owned(), float(temp))]),
            valid_from: Some(at(from)),
            until: None,
        };
        let mutation = pb::Mutation {
            entity_type: "station".to_owned(),
            entity_id: id.to_owned(),
            operation: Some(pb::mutation::Operation::Put(put)),
            ..Default::default()
        };
        let request = pb::WriteRequest {
            mutations: vec![mutation],
            request_id: String::new(),
            ..Default::default()
        };
        let response = self.entities.write(request).await.expect("written");
        response.into_inner().system_time.expect("a system time")
    }

    pub(crate) async fn create_source(&mut self, source: pb::Source) -> Result<pb::Source, Status> {
        let request = pb::CreateSourceRequest {
            source: Some(source),
        };
        let response = self.catalog.create_source(request).await?;
        Ok(response.into_inner().source.expect("a source"))
    }

    pub(crate) async fn register(
        &mut self,
        transform: pb::Transform,
    ) -> Result<pb::Transform, Status> {
        let request = pb::RegisterTransformRequest {
            transform: Some(transform),
            validate_only: false,
        };
        let response = self.catalog.register_transform(request).await?;
        Ok(response.into_inner().transform.expect("a transform"))
    }

    pub(crate) async fn plan(&mut self, spec: pb::BackfillSpec) -> Result<pb::Plan, Status> {
        let request = pb::PlanBackfillRequest { spec: Some(spec) };
        let response = self.backfills.plan_backfill(request).await?;
        Ok(response.into_inner().plan.expect("a plan"))
    }

    pub(crate) async fn create(&mut self, spec: pb::BackfillSpec) -> Result<pb::Backfill, Status> {
        let request = pb::CreateBackfillRequest {
            spec: Some(spec),
            ..pb::CreateBackfillRequest::default()
        };
        let response = self.backfills.create_backfill(request).await?;
        Ok(response.into_inner().backfill.expect("a backfill"))
    }

    pub(crate) async fn watch(
        &mut self,
        name: &str,
        after_sequence: u64,
    ) -> tonic::Streaming<pb::WatchBackfillResponse> {
        let request = pb::WatchBackfillRequest {
            name: name.to_owned(),
            after_sequence,
        };
        let response = self.backfills.watch_backfill(request).await;
        response.expect("watched").into_inner()
    }

    /// Its events after `after_sequence`, once it ended.
    pub(crate) async fn events(&mut self, name: &str, after_sequence: u64) -> Vec<pb::Event> {
        let mut stream = self.watch(name, after_sequence).await;
        let mut events = Vec::new();
        while let Some(item) = stream.message().await.expect("goes on") {
            if let Some(pb::watch_backfill_response::Message::Event(event)) = item.message {
                events.push(event);
            }
        }
        events
    }

    pub(crate) async fn get(&mut self, name: &str) -> pb::Backfill {
        let request = pb::GetBackfillRequest {
            name: name.to_owned(),
        };
        let response = self.backfills.get_backfill(request).await.expect("found");
        response.into_inner().backfill.expect("a backfill")
    }

    pub(crate) async fn cancel(&mut self, name: &str) -> Result<pb::Backfill, Status> {
        let request = pb::CancelBackfillRequest {
            name: name.to_owned(),
        };
        let response = self.backfills.cancel_backfill(request).await?;
        Ok(response.into_inner().backfill.expect("a backfill"))
    }

    pub(crate) async fn pause(&mut self, name: &str) -> Result<pb::Backfill, Status> {
        let request = pb::PauseBackfillRequest {
            name: name.to_owned(),
        };
        let response = self.backfills.pause_backfill(request).await?;
        Ok(response.into_inner().backfill.expect("a backfill"))
    }

    pub(crate) async fn resume(&mut self, name: &str) -> Result<pb::Backfill, Status> {
        let request = pb::ResumeBackfillRequest {
            name: name.to_owned(),
        };
        let response = self.backfills.resume_backfill(request).await?;
        Ok(response.into_inner().backfill.expect("a backfill"))
    }

    pub(crate) async fn set_concurrency(
        &mut self,
        name: &str,
        count: u32,
    ) -> Result<pb::Backfill, Status> {
        let request = pb::SetBackfillConcurrencyRequest {
            name: name.to_owned(),
            max_active_partitions: count,
        };
        let response = self.backfills.set_backfill_concurrency(request).await?;
        Ok(response.into_inner().backfill.expect("a backfill"))
    }

    pub(crate) async fn retry(&mut self, name: &str) -> Result<pb::Backfill, Status> {
        let request = pb::RetryBackfillRequest {
            name: name.to_owned(),
        };
        let response = self.backfills.retry_backfill(request).await?;
        Ok(response.into_inner().backfill.expect("a backfill"))
    }

    pub(crate) async fn restate(
        &mut self,
        request: pb::RestateBackfillRequest,
    ) -> Result<pb::RestateBackfillResponse, Status> {
        let response = self.backfills.restate_backfill(request).await?;
        Ok(response.into_inner())
    }

    pub(crate) async fn partitions(&mut self, name: &str) -> Vec<pb::Partition> {
        let request = pb::ListPartitionsRequest {
            backfill: name.to_owned(),
            page_size: 10_000,
            ..pb::ListPartitionsRequest::default()
        };
        let response = self.backfills.list_partitions(request).await;
        response.expect("listed").into_inner().partitions
    }

    /// Waits until it ended.
    pub(crate) async fn ended(&mut self, name: &str) -> Ended {
        let events = self.events(name, 0).await;
        assert_dense(&events);
        Ended {
            backfill: self.get(name).await,
            partitions: self.partitions(name).await,
            events,
        }
    }

    /// Creates a backfill and waits until it ended.
    pub(crate) async fn run(&mut self, spec: pb::BackfillSpec) -> Ended {
        let created = self.create(spec).await.expect("created");
        self.ended(&created.name).await
    }

    /// As [`Clients::run`], for one that must succeed.
    pub(crate) async fn run_well(&mut self, spec: pb::BackfillSpec) -> Ended {
        let ended = self.run(spec).await;
        let messages: Vec<_> = ended.partitions.iter().map(|it| &it.message).collect();
        let state = ended.backfill.state();
        assert_eq!(state, pb::BackfillState::Succeeded, "{messages:?}");
        ended
    }

    pub(crate) async fn table(&mut self, name: &str) -> pb::Table {
        let request = pb::GetTableRequest {
            name: name.to_owned(),
        };
        let response = self.catalog.get_table(request).await.expect("found");
        response.into_inner().table.expect("a table")
    }

    /// The rows of a table, each as "column=value …" without `partition_start`'s time of day when it is midnight.
    pub(crate) async fn rows(&mut self, table: &str) -> Vec<String> {
        let request = pb::ReadTableRequest {
            name: table.to_owned(),
            ..pb::ReadTableRequest::default()
        };
        let mut stream = self
            .catalog
            .read_table(request)
            .await
            .expect("read")
            .into_inner();
        let mut columns = Vec::new();
        let mut rows = Vec::new();
        while let Some(response) = stream.message().await.expect("goes on") {
            if !response.columns.is_empty() {
                columns = response.columns.into_iter().map(|it| it.name).collect();
            }
            for row in response.rows {
                let mut words: Vec<_> = columns
                    .iter()
                    .zip(&row.values)
                    .map(|(name, value)| (name.clone(), word(value).replace("T00:00:00Z", "")))
                    .collect();
                words.sort_by_key(|(name, _)| name != "partition_start");
                let words: Vec<_> = words
                    .into_iter()
                    .map(|(name, word)| match name.as_str() {
                        "partition_start" => word,
                        _ => format!("{name}={word}"),
                    })
                    .collect();
                rows.push(words.join(" "));
            }
        }
        rows.sort();
        rows
    }
}

/// A server, its folder and its clock.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) clients: Clients,
    pub(crate) server: Option<RunningServer>,
    settings: Settings,
}

/// What a test may want otherwise of its server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) heartbeat_interval: Duration,
    pub(crate) server_active_partitions: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(15),
            server_active_partitions: 16,
        }
    }
}

impl Rig {
    /// A new server whose clock stands at `now`.
    pub(crate) async fn at(now: &str) -> Self {
        Self::with(now, Settings::default()).await
    }

    pub(crate) async fn with_heartbeat(now: &str, heartbeat_interval: Duration) -> Self {
        let settings = Settings {
            heartbeat_interval,
            ..Settings::default()
        };
        Self::with(now, settings).await
    }

    pub(crate) async fn with(now: &str, settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::starting_at(micros(now));
        let server = serve(folder.path(), &clock, settings).await;
        Self {
            clients: Clients::connect(server.local_addr()).await,
            folder,
            clock,
            server: Some(server),
            settings,
        }
    }

    pub(crate) async fn stop(&mut self) {
        let server = self.server.take().expect("it runs");
        server.shutdown().await.expect("stops");
    }

    pub(crate) async fn start(&mut self) {
        let server = serve(self.folder.path(), &self.clock, self.settings).await;
        self.clients = Clients::connect(server.local_addr()).await;
        self.server = Some(server);
    }

    /// Writes a file below the folder of sources.
    pub(crate) fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join("sources").join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, text).expect("written");
        path
    }

    /// A CSV source over one file, with the event time in `ts`.
    pub(crate) async fn csv(&mut self, name: &str, text: &str, types: &[(&str, &str)]) -> PathBuf {
        let path = self.write(&format!("{name}.csv"), text);
        let source = csv_source(name, &path, types);
        self.clients.create_source(source).await.expect("created");
        path
    }

    /// Every file in the tables' data folders.
    pub(crate) fn data_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.folder.path().join("data/warehouse"), &mut found);
        found.retain(|path| path.extension().is_some_and(|it| it == "parquet"));
        found
    }
}

pub(crate) fn csv_source(name: &str, path: &Path, types: &[(&str, &str)]) -> pb::Source {
    let mut csv_types: HashMap<_, _> = types
        .iter()
        .map(|(column, kind)| ((*column).to_owned(), (*kind).to_owned()))
        .collect();
    csv_types.insert("ts".to_owned(), "timestamp".to_owned());
    pb::Source {
        name: name.to_owned(),
        format: pb::SourceFormat::Csv.into(),
        location: path.to_str().expect("UTF-8").to_owned(),
        event_time_column: "ts".to_owned(),
        csv_types,
        ..pb::Source::default()
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

async fn serve(folder: &Path, clock: &Arc<ManualClock>, settings: Settings) -> RunningServer {
    let mut config = ServerConfig::new(folder.join("data"));
    config.listen = "127.0.0.1:0".parse().expect("an address");
    config.metrics_listen = Some(config.listen);
    config.secrets_dir = Some(folder.join("secrets"));
    config.store_cache_bytes = 16 << 20;
    config.watch.heartbeat_interval = settings.heartbeat_interval;
    config.server_active_partitions = settings.server_active_partitions;
    Box::pin(start(config, Arc::clone(clock) as _))
        .await
        .expect("starts")
}

/// Long enough to be caught in the act, also on a fast machine.
pub(crate) const SLOW: &str =
    "(SELECT sum(a.value * b.value) FROM generate_series(1, 2000) a, generate_series(1, 2000) b)";

/// One row per day at noon, `v` = the day of January.
pub(crate) fn numbered_days(count: u32) -> String {
    let rows: Vec<_> = (1..=count)
        .map(|day| format!("2013-01-{day:02}T12:00:00,{day}\n"))
        .collect();
    format!("ts,v\n{}", rows.concat())
}

pub(crate) async fn january(count: u32) -> Rig {
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    rig.csv("events", &numbered_days(count), &[("v", "int64")])
        .await;
    rig
}

pub(crate) fn over_events(name: &str, sql: &str) -> pb::Transform {
    pb::Transform {
        sources: vec![source_input("events")],
        ..daily(name, sql)
    }
}
