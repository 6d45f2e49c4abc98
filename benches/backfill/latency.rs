//! As-of reads while a backfill keeps every core busy, against the same reads on a server that does nothing else.
//!
//! Reads come one after the other with a pause in between, as those of a service do: a crowd of them would measure itself.

use std::{sync::Arc, time::Duration};

use hindcast::{
    pb::{self, entity_store_service_client::EntityStoreServiceClient, mutation, put, value::Kind},
    time::Clock,
};
use prost_types::Timestamp;
use tonic::transport::Channel;

use crate::{
    Fault, Scale,
    bed::{Server, connect},
    report::{Goal, Report, Value},
};

/// 2013-01-01T00:00:00Z.
const FROM_SECONDS: i64 = 1_356_998_400;
const ENTITIES: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(2);
/// Computes for about a second, and reads nothing.
const BUSY: &str = "SELECT sum(a.value * b.value) AS v \
     FROM generate_series(1, 20000) a, generate_series(1, 20000) b";

/// What a crowd of reads took, in microseconds, sorted.
struct Taken(Vec<f64>);

impl Taken {
    fn at(&self, share: f64) -> f64 {
        let place = (self.0.len() as f64 * share) as usize;
        self.0.get(place).copied().unwrap_or(f64::NAN)
    }
}

pub(crate) async fn beside_a_backfill(
    scale: &Scale,
    clock: &Arc<dyn Clock>,
    report: &mut Report,
) -> Result<(), Fault> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(folder.path().join("data"), clock).await?;
    let mut entities = EntityStoreServiceClient::new(connect(&server.address).await?);
    fill(&mut entities).await?;
    let reads = scale.reads;
    read(&mut entities, reads / 4, clock).await?;
    let alone = read(&mut entities, reads, clock).await?;
    let name = saturate(&mut server).await?;
    let before = (server.cpu_seconds()?, clock.monotonic_micros());
    let beside = read(&mut entities, reads, clock).await?;
    let wall_seconds = (clock.monotonic_micros() - before.1) as f64 / 1e6;
    let cores = (server.cpu_seconds()? - before.0) / wall_seconds;
    if server.get(&name).await?.end_time.is_some() {
        return Err("the backfill ended before the reads did".into());
    }
    let detail = format!(
        "{:.0} µs alone, {:.0} µs beside {cores:.1} busy cores; median {:.0} and {:.0} µs",
        alone.at(0.99),
        beside.at(0.99),
        alone.at(0.5),
        beside.at(0.5)
    );
    report.ratio(
        "GetEntity p99 beside a backfill",
        [beside.at(0.99) / alone.at(0.99); 3],
        Goal::AtMost(3.0),
        &detail,
    )?;
    report.value(
        "GetEntity p99.9 beside a backfill",
        Value::of(&[beside.at(0.999)], "µs"),
        Goal::None,
        &format!("{:.0} µs alone, {reads} reads each", alone.at(0.999)),
    )
}

/// A backfill of partitions that each compute for long, of which as many run as may.
async fn saturate(server: &mut Server) -> Result<String, Fault> {
    let transform = pb::Transform {
        name: "busy".to_owned(),
        sql: BUSY.to_owned(),
        output_table: "busy".to_owned(),
        grain: pb::Grain::Hourly.into(),
        ..Default::default()
    };
    server.register(transform).await?;
    let instant = |hours: i64| Timestamp {
        seconds: FROM_SECONDS + hours * 3_600,
        nanos: 0,
    };
    let spec = pb::BackfillSpec {
        transform: "busy".to_owned(),
        from: Some(instant(0)),
        to: Some(instant(5_000)),
        knowledge: pb::Knowledge::AsKnownNow.into(),
        ..Default::default()
    };
    let name = server.create(spec).await?;
    loop {
        let counts = server.get(&name).await?.partition_counts;
        if counts.is_some_and(|counts| counts.running > 1) {
            return Ok(name);
        }
        server.clock.sleep(PAUSE).await;
    }
}

async fn fill(entities: &mut EntityStoreServiceClient<Channel>) -> Result<(), Fault> {
    let entity_type = pb::EntityType {
        name: "pump".to_owned(),
        attributes: vec![pb::Attribute {
            name: "pressure".to_owned(),
            kind: pb::AttributeKind::Int64.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type),
    };
    entities.create_entity_type(request).await?;
    let put = |index: usize| {
        let kind = i64::try_from(index).ok().map(Kind::Int64Value);
        let operation = mutation::Operation::Put(pb::Put {
            attributes: [("pressure".to_owned(), pb::Value { kind })].into(),
            valid_from: Some(Timestamp {
                seconds: FROM_SECONDS,
                nanos: 0,
            }),
            until: Some(put::Until::Forever(pb::Forever {})),
        });
        pb::Mutation {
            entity_type: "pump".to_owned(),
            entity_id: id(index),
            operation: Some(operation),
            ..Default::default()
        }
    };
    let request = pb::WriteRequest {
        mutations: (0..ENTITIES).map(put).collect(),
        ..Default::default()
    };
    entities.write(request).await?;
    Ok(())
}

async fn read(
    entities: &mut EntityStoreServiceClient<Channel>,
    reads: usize,
    clock: &Arc<dyn Clock>,
) -> Result<Taken, Fault> {
    let mut taken = Vec::with_capacity(reads);
    for index in 0..reads {
        let request = pb::GetEntityRequest {
            entity_type: "pump".to_owned(),
            // Scattered, and the same for every run.
            entity_id: id(index * 7_919 % ENTITIES),
            ..Default::default()
        };
        let start_micros = clock.monotonic_micros();
        entities.get_entity(request).await?;
        taken.push((clock.monotonic_micros() - start_micros) as f64);
        clock.sleep(PAUSE).await;
    }
    taken.sort_by(f64::total_cmp);
    Ok(Taken(taken))
}

fn id(index: usize) -> String {
    format!("pump-{index:04}")
}
