//! The quickstart's running total, kept as an entity type: the same SQL gives the same totals, and each day can be read.

use std::{collections::BTreeMap, path::Path};

use hindcast::pb::{self, AttributeKind, value::Kind};

use crate::backfill_support::{Rig, daily, source_input, spec};

const SQL: &str = include_str!("../../examples/flights/aircraft_totals.sql");
const COLUMNS: [&str; 6] = [
    "tailnum string",
    "flights int64",
    "arrivals int64",
    "arr_delay_sum int64",
    "mean_arr_delay float64",
    "first_seen timestamp",
];
const DAYS: u32 = 4;

fn flights() -> pb::Source {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights");
    pb::Source {
        name: "flights".to_owned(),
        format: pb::SourceFormat::Parquet.into(),
        location: folder.to_str().expect("UTF-8").to_owned(),
        event_time_column: "sched_dep_utc".to_owned(),
        hive: Some(pb::HivePartition {
            column: "dt".to_owned(),
            grain: pb::Grain::Daily.into(),
            time_zone: "America/New_York".to_owned(),
            ..pb::HivePartition::default()
        }),
        ..pb::Source::default()
    }
}

fn totals(name: &str) -> pb::Transform {
    pb::Transform {
        sources: vec![source_input("flights")],
        prior: Some(pb::PriorInput { partitions: 1 }),
        time_zone: "America/New_York".to_owned(),
        output_columns: COLUMNS.map(str::to_owned).to_vec(),
        ..daily(name, SQL)
    }
}

fn number(value: Option<&pb::Value>) -> i64 {
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::Int64Value(value)) => *value,
        None => 0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_running_total_is_the_same_as_in_a_table_and_read_as_of_any_day() {
    let mut rig = Rig::at("2014-01-01T00:00:00Z").await;
    rig.clients.create_source(flights()).await.expect("created");
    let attributes = [
        ("flights", AttributeKind::Int64),
        ("arrivals", AttributeKind::Int64),
        ("arr_delay_sum", AttributeKind::Int64),
        ("mean_arr_delay", AttributeKind::Float64),
        ("first_seen", AttributeKind::Timestamp),
    ];
    rig.clients
        .create_type("aircraft_totals", &attributes)
        .await;
    let as_type = pb::Transform {
        output_table: String::new(),
        output_entity: Some(pb::EntityOutput {
            entity_type: "aircraft_totals".to_owned(),
            key: vec!["tailnum".to_owned()],
        }),
        ..totals("as_type")
    };
    rig.clients.register(as_type).await.expect("registered");
    rig.clients
        .register(totals("as_table"))
        .await
        .expect("registered");
    let range = |name: &str| {
        spec(
            name,
            "2013-01-01T05:00:00Z",
            &format!("2013-01-{:02}T05:00:00Z", 1 + DAYS),
            pb::Knowledge::AsKnownNow,
        )
    };
    let typed = rig.clients.run_well(range("as_type")).await;
    let tabled = rig.clients.run_well(range("as_table")).await;
    assert_eq!(typed.backfill.rows_written, tabled.backfill.rows_written);

    let rows = rig.clients.rows("as_table").await;
    for day in 1..=DAYS {
        let start = format!("2013-01-{day:02}T05:00:00Z ");
        let expected: BTreeMap<_, _> = rows
            .iter()
            .filter_map(|row| row.strip_prefix(&start))
            .map(|row| {
                let word = |name: &str| {
                    let found = row.split(' ').find_map(|word| word.strip_prefix(name));
                    found.expect("a column").replace("null", "0")
                };
                let flights: i64 = word("flights=").parse().expect("a number");
                let delay: i64 = word("arr_delay_sum=").parse().expect("a number");
                (word("tailnum="), (flights, delay))
            })
            .collect();
        assert!(expected.len() > 500, "{}", expected.len());
        let request = pb::ScanEntitiesRequest {
            entity_type: "aircraft_totals".to_owned(),
            valid_time: Some(crate::backfill_support::at(&format!(
                "2013-01-{day:02}T17:00:00Z"
            ))),
            ..pb::ScanEntitiesRequest::default()
        };
        let scanned = rig.clients.entities.scan_entities(request).await;
        let mut stream = scanned.expect("scanned").into_inner();
        let mut found = BTreeMap::new();
        while let Some(response) = stream.message().await.expect("goes on") {
            for version in response.versions {
                let attributes = &version.attributes;
                let flights = number(attributes.get("flights"));
                let delay = number(attributes.get("arr_delay_sum"));
                found.insert(version.entity_id, (flights, delay));
            }
        }
        assert_eq!(found, expected, "day {day}");
    }
}
