//! `PT-1` once more, as a table: every kind of input under every knowledge mode, with a later value planted in valid time, in
//! system time (written then, or imported afterwards), in later files and in later partitions.

use hindcast::pb::{self, Knowledge};
use prost_types::Timestamp;

use crate::{
    backfill_sources::daily_files,
    backfill_support::{
        Clients, Rig, SLOW, at, at_basis, daily, days, entity_input, float, micros, over_events,
    },
};

/// Known from the start: what is valid on each day, the later ones too.
const START: &str = "2012-12-01T00:00:00Z";
/// The basis of 2 January as known then: its end.
const NIGHT: &str = "2013-01-03T00:00:00Z";
/// A correction of 2 January, the first instant after that.
const CORRECTED: &str = "2013-01-03T00:00:00.000001Z";
const CORRECTED_AGAIN: &str = "2013-01-20T00:00:00Z";
const TODAY: &str = "2013-02-01T00:00:00Z";
/// Each at the day's last instant: what `station_at` is asked for.
const LAST_INSTANTS: &str = "\
ts
2013-01-01T23:59:59.999999
2013-01-02T23:59:59.999999
2013-01-03T23:59:59.999999
";

/// (learned, valid from, temperature), in this order.
const TOLD: [(&str, &str, f64); 5] = [
    (START, "2013-01-01T00:00:00Z", 1.0),
    (START, "2013-01-02T00:00:00Z", 2.0),
    (START, "2013-01-03T00:00:00Z", 3.0),
    (CORRECTED, "2013-01-02T00:00:00Z", 20.0),
    (CORRECTED_AGAIN, "2013-01-02T00:00:00Z", 200.0),
];

/// The modes, and what each may know of the three days.
fn modes(transform: &str) -> [(&'static str, pb::BackfillSpec, [u32; 3]); 4] {
    let now = days(transform, "2013-01-01", "2013-01-04");
    let then = pb::BackfillSpec {
        knowledge: Knowledge::AsKnownThen.into(),
        ..now.clone()
    };
    [
        ("then", then, [1, 2, 3]),
        ("the night", at_basis(&now, at(NIGHT)), [1, 2, 3]),
        ("corrected", at_basis(&now, at(CORRECTED)), [1, 20, 3]),
        ("now", now, [1, 200, 3]),
    ]
}

/// The kinds of entity input, each as one row with `temp` and the number of versions or events it came from.
fn kinds() -> [(&'static str, pb::Transform); 3] {
    let over = |name: &str, sql: &str| pb::Transform {
        entities: vec![entity_input("station")],
        ..over_events(name, sql)
    };
    let last = "SELECT max(temp) AS temp, count(*) AS n FROM station";
    let history = "SELECT max(temp) AS temp, count(*) AS n FROM station_history";
    let each = "SELECT max(station_at('s1', ts)['temp']) AS temp, count(*) AS n FROM events";
    [
        ("current", over("current", last)),
        ("history", over("history", history)),
        ("each", over("each", each)),
    ]
}

async fn no_kind_of_entity_input_tells_of_later(rig: &mut Rig) {
    rig.csv("events", LAST_INSTANTS, &[]).await;
    for (name, transform) in kinds() {
        rig.clients.register(transform).await.expect("registered");
        for (mode, spec, known) in modes(name) {
            rig.clients.run_well(spec).await;
            let due: Vec<_> = (1..)
                .zip(known)
                .map(|(day, temp)| format!("2013-01-0{day} temp={temp} n=1"))
                .collect();
            assert_eq!(rig.clients.rows(name).await, due, "{name}, {mode}");
        }
    }
}

#[tokio::test]
async fn entities_tell_nothing_of_later_whatever_the_input_and_the_mode() {
    let mut rig = Rig::at(START).await;
    rig.clients.create_stations().await;
    for (learned, from, temp) in TOLD {
        rig.clock.set(micros(learned));
        rig.clients.put_station("s1", from, temp).await;
    }
    rig.clock.set(micros(TODAY));
    Box::pin(no_kind_of_entity_input_tells_of_later(&mut rig)).await;
}

/// As [`Clients::put_station`], at a system time of long ago.
async fn import(clients: &mut Clients, learned: Timestamp, from: &str, temp: f64) {
    let put = pb::Put {
        attributes: [("temp".to_owned(), float(temp))].into(),
        valid_from: Some(at(from)),
        until: None,
    };
    let mutation = pb::Mutation {
        entity_type: "station".to_owned(),
        entity_id: "s1".to_owned(),
        operation: Some(pb::mutation::Operation::Put(put)),
        ..Default::default()
    };
    let request = pb::WriteRequest {
        mutations: vec![mutation],
        import_system_time: Some(learned),
        ..Default::default()
    };
    clients.entities.write(request).await.expect("imported");
}

#[tokio::test]
async fn imported_changes_are_learned_when_they_were_not_when_they_came() {
    let mut rig = Rig::at(TODAY).await;
    let entity_type = pb::EntityType {
        name: "station".to_owned(),
        attributes: vec![pb::Attribute {
            name: "temp".to_owned(),
            kind: pb::AttributeKind::Float64.into(),
            ..pb::Attribute::default()
        }],
        state: pb::EntityTypeState::Importing.into(),
        ..pb::EntityType::default()
    };
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type),
    };
    let entities = &mut rig.clients.entities;
    entities.create_entity_type(request).await.expect("created");
    for (learned, from, temp) in TOLD {
        import(&mut rig.clients, at(learned), from, temp).await;
    }
    let request = pb::FinishImportRequest {
        name: "station".to_owned(),
    };
    let entities = &mut rig.clients.entities;
    entities.finish_import(request).await.expect("sealed");
    Box::pin(no_kind_of_entity_input_tells_of_later(&mut rig)).await;
}

#[tokio::test]
async fn source_rows_of_later_are_cut_in_every_mode() {
    let mut rig = Rig::at(TODAY).await;
    let text = "\
ts,v
2013-01-01T00:00:00,1
2013-01-02T00:00:00,10
2013-01-02T23:59:59.999999,10
2013-01-03T00:00:00,100
2013-01-04T00:00:00,1000
";
    rig.csv("events", text, &[("v", "int64")]).await;
    let transform = over_events("own", "SELECT sum(v) AS v FROM events");
    rig.clients.register(transform).await.expect("registered");
    for (mode, spec, _) in modes("own") {
        rig.clients.run_well(spec).await;
        assert_eq!(
            rig.clients.rows("own").await,
            ["2013-01-01 v=1", "2013-01-02 v=20", "2013-01-03 v=100"],
            "{mode}"
        );
    }
}

#[tokio::test]
async fn a_file_that_came_after_the_backfills_creation_is_not_read_in_any_mode() {
    let mut rig = Rig::at(TODAY).await;
    daily_files(&mut rig, 3).await;
    // The first day is slow, so that a file can come before the last one is read.
    let each = format!("SELECT v, CASE WHEN v = 1 THEN {SLOW} ELSE 0 END AS slow FROM events");
    let sql = format!("SELECT sum(v) AS v, max(slow) > 0 AS slow FROM ({each})");
    let transform = over_events("frozen", &sql);
    rig.clients.register(transform).await.expect("registered");
    let mut seen = 3;
    for (late, (mode, spec, _)) in (1..).zip(modes("frozen")) {
        let one_at_a_time = pb::BackfillSpec {
            max_active_partitions: 1,
            ..spec
        };
        let created = rig.clients.create(one_at_a_time).await.expect("created");
        let file = format!("events/dt=2013-01-03/late-{late}.csv");
        rig.write(&file, "ts,v\n2013-01-03T12:00:00,1000\n");
        let ended = rig.clients.ended(&created.name).await;
        assert_eq!(
            ended.backfill.state(),
            pb::BackfillState::Succeeded,
            "{mode}: {:?}",
            ended.partitions
        );
        assert_eq!(
            rig.clients.rows("frozen").await.last(),
            Some(&format!("2013-01-03 v={seen} slow=false")),
            "{mode}"
        );
        // The next one was created with the file there.
        seen += 1000;
    }
}

#[tokio::test]
async fn prior_tells_nothing_of_later_partitions_in_any_mode() {
    let mut rig = Rig::at(TODAY).await;
    let transform = pb::Transform {
        prior: Some(pb::PriorInput { partitions: 0 }),
        output_columns: vec!["n int64".to_owned()],
        ..daily("counted", "SELECT count(*) AS n FROM prior")
    };
    rig.clients.register(transform).await.expect("registered");
    // Later partitions are there before the first of those that count.
    rig.clients
        .run_well(days("counted", "2013-01-04", "2013-01-06"))
        .await;
    let later = ["2013-01-04 n=0", "2013-01-05 n=1"];
    for (mode, spec, _) in modes("counted") {
        rig.clients.run_well(spec).await;
        let due = ["2013-01-01 n=0", "2013-01-02 n=1", "2013-01-03 n=2"];
        let due: Vec<_> = due.into_iter().chain(later).collect();
        assert_eq!(rig.clients.rows("counted").await, due, "{mode}");
    }
}
