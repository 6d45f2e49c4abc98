//! `kill -9` of the real binary while it publishes partitions of many batches to an entity type.

use hindcast::pb::{self, AttributeKind, BackfillState, value::Kind};

use crate::{
    backfill_crash::serve,
    backfill_support::{Clients, at, daily, days},
};

const NOON: [&str; 2] = ["2013-01-01T12:00:00Z", "2013-01-02T12:00:00Z"];
/// Three batches of a partition, and a bit.
const ROWS: u32 = 32_000;
const KILLS: usize = 3;

/// Rows `first`, … of a partition.
fn many(name: &str, first: u32, value: &str) -> pb::Transform {
    let last = first + ROWS - 1;
    let sql = format!(
        "SELECT 'e' || lpad(CAST(value AS VARCHAR), 6, '0') AS id, {value} AS v FROM generate_series({first}, {last})"
    );
    pb::Transform {
        output_table: String::new(),
        output_entity: Some(pb::EntityOutput {
            entity_type: name.to_owned(),
            key: vec!["id".to_owned()],
        }),
        ..daily(name, &sql)
    }
}

fn both_days(name: &str) -> pb::BackfillSpec {
    days(name, "2013-01-01", "2013-01-03")
}

/// The value of an entity, if it has one.
async fn value(clients: &mut Clients, entity_type: &str, id: &str, valid: &str) -> Option<i64> {
    let request = pb::GetEntityRequest {
        entity_type: entity_type.to_owned(),
        entity_id: id.to_owned(),
        valid_time: Some(at(valid)),
        basis: None,
    };
    let answer = clients.entities.get_entity(request).await.expect("read");
    let version = answer.into_inner().version.filter(|it| !it.ended)?;
    match version.attributes.get("v")?.kind {
        Some(Kind::Int64Value(value)) => Some(value),
        _ => None,
    }
}

/// Waits until some batches of the second revision are there and not all: `false` if it was missed.
async fn caught_in_the_middle(clients: &mut Clients, name: &str, backfill: &str) -> bool {
    // In the order in which they are written.
    let written = ["e000001", "e014000", "e022000", "e031000"];
    for _ in 0..10_000 {
        for valid in NOON {
            let mut done = 0;
            for id in written {
                // The first is ended, the others have a value of their own.
                let now = value(clients, name, id, valid).await;
                done += usize::from(now.is_none_or(|value| value < 1_000));
            }
            if (1..written.len()).contains(&done) {
                return true;
            }
        }
        if clients.get(backfill).await.end_time.is_some() {
            return false;
        }
    }
    false
}

/// Ranges and values of an entity's history, whenever they were learned, those superseded included.
async fn lives(clients: &mut Clients, entity_type: &str, id: &str) -> Vec<String> {
    let history = clients.history(entity_type, id).await;
    let mut lives: Vec<_> = history
        .iter()
        .map(|version| {
            let (from, to) = (version.valid_from, version.valid_to);
            let superseded = version.system_to.is_some();
            format!("{from:?} {to:?} {:?} {superseded}", version.attributes)
        })
        .collect();
    lives.sort();
    lives
}

async fn prepare(clients: &mut Clients, name: &str) {
    let attributes = [("v", AttributeKind::Int64)];
    clients.create_type(name, &attributes).await;
    let first = many(name, 1, "1000 + value % 7");
    clients.register(first).await.expect("registered");
    clients.run_well(both_days(name)).await;
    let second = many(name, 2_001, "value % 5");
    clients.register(second).await.expect("registered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_of_many_batches_survives_kills() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut process, mut clients) = serve(folder.path()).await;
    for name in ["shaken", "calm"] {
        prepare(&mut clients, name).await;
    }
    let calm = clients.run_well(both_days("calm")).await;
    let created = clients.create(both_days("shaken")).await.expect("created");
    let mut kills = 0;
    while kills < KILLS && caught_in_the_middle(&mut clients, "shaken", &created.name).await {
        drop(process);
        kills += 1;
        (process, clients) = serve(folder.path()).await;
    }
    println!("{kills} kills in the middle");
    assert!(kills > 0, "it was never caught in the middle");
    let shaken = clients.ended(&created.name).await;
    assert_eq!(shaken.backfill.state(), BackfillState::Succeeded);
    assert!(shaken.partitions.iter().any(|it| it.attempt_count > 1));

    for valid in NOON {
        let expected = clients.state("calm", valid).await;
        assert_eq!(expected.len(), ROWS as usize);
        assert_eq!(clients.state("shaken", valid).await, expected, "{valid}");
    }
    for id in [
        "e000001", "e002000", "e002001", "e020000", "e032000", "e032001", "e034000",
    ] {
        let expected = lives(&mut clients, "calm", id).await;
        assert_eq!(lives(&mut clients, "shaken", id).await, expected, "{id}");
    }
    for (shaken, calm) in shaken.partitions.iter().zip(&calm.partitions) {
        let (shaken, calm) = (
            shaken.entity_changes.expect("told"),
            calm.entity_changes.expect("told"),
        );
        assert_eq!((calm.written, calm.ended), (u64::from(ROWS), 2_000));
        let rows = |changes: &pb::EntityChanges| changes.written + changes.unchanged;
        assert_eq!(rows(&shaken), rows(&calm));
    }
    let again = clients.run_well(both_days("shaken")).await;
    for partition in &again.partitions {
        let changes = partition.entity_changes.expect("told");
        assert_eq!((changes.written, changes.ended), (0, 0), "BF-2");
    }
    drop(process);
}
