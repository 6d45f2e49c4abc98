//! `BF-2`: the same backfill at the same basis gives the same rows to the last bit, however many partitions run at once.

use std::{collections::BTreeSet, path::PathBuf};

use arrow::{
    array::RecordBatch,
    row::{RowConverter, SortField},
};
use hindcast::pb;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::backfill_support::{
    Rig, at, at_basis, csv_source, days, entity_input, micros, over_events,
};

const DAYS: u32 = 8;
/// So that each partition reads several streams of several batches.
const FILES: u32 = 3;
const ROWS_PER_FILE: u32 = 1_500;
const STATIONS: u32 = 7;

/// Numbers of all magnitudes: their sum depends on the order in which they are added.
fn odd_number(row: u32) -> f64 {
    let mixed = u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    let magnitude = 10f64.powi((row % 25) as i32 - 12);
    (mixed as f64 / (1u64 << 53) as f64 - 0.5) * magnitude
}

/// Days that are split over files, with stations that change at odd times and were corrected once.
async fn world() -> Rig {
    let mut rig = Rig::at("2013-01-01T00:00:00Z").await;
    for file in 0..FILES {
        let mut text = "ts,id,v\n".to_owned();
        for day in 1..=DAYS {
            for row in 0..ROWS_PER_FILE / DAYS {
                let second = (row * 461 + file * 7) % 86_400;
                let (hour, minute) = (second / 3_600, second / 60 % 60);
                let value = odd_number(file * 100_000 + day * 1_000 + row);
                text.push_str(&format!(
                    "2013-01-{day:02}T{hour:02}:{minute:02}:{:02},s{},{value:e}\n",
                    second % 60,
                    row % STATIONS,
                ));
            }
        }
        rig.write(&format!("events/{file}.csv"), &text);
    }
    let folder = rig.folder.path().join("sources/events");
    let source = csv_source("events", &folder, &[("id", "string"), ("v", "float64")]);
    rig.clients.create_source(source).await.expect("created");
    rig.clients.create_stations().await;
    for station in 0..STATIONS {
        for day in 1..=DAYS {
            let from = format!("2013-01-{day:02}T0{station}:30:00Z");
            let temp = odd_number(station * 1_000 + day);
            rig.clients
                .put_station(&format!("s{station}"), &from, temp)
                .await;
        }
    }
    rig.clock.set(micros("2013-02-01T00:00:00Z"));
    rig
}

fn transforms() -> [pb::Transform; 3] {
    let joined = "SELECT ts, id, v, station_at(id, ts)['temp'] AS temp FROM events";
    let sums = "SELECT e.id, sum(v) AS v, avg(v) AS mean, stddev(v) AS spread, sum(v * temp) AS weighted, count(*) AS n \
        FROM events e JOIN station s ON e.id = s.entity_id GROUP BY e.id";
    let running =
        "SELECT sum(v) + coalesce((SELECT sum(total) FROM prior), 0.0) AS total FROM events";
    [
        pb::Transform {
            entities: vec![entity_input("station")],
            ..over_events("joined", joined)
        },
        pb::Transform {
            entities: vec![entity_input("station")],
            ..over_events("sums", sums)
        },
        pb::Transform {
            prior: Some(pb::PriorInput { partitions: 0 }),
            output_columns: vec!["total float64".to_owned()],
            ..over_events("running", running)
        },
    ]
}

/// What a table holds after a run: as readers get it, and as bytes of the rows that this backfill wrote, sorted.
#[derive(PartialEq)]
struct Outcome {
    read: Vec<String>,
    bytes: Vec<Vec<u8>>,
}

async fn run(rig: &mut Rig, spec: pb::BackfillSpec) -> Outcome {
    let table = spec.transform.clone();
    let ended = rig.clients.run_well(spec).await;
    let written: Vec<_> = rig
        .data_files()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(&ended.backfill.name))
        .collect();
    assert_eq!(written.len(), DAYS as usize, "{written:?}");
    let mut bytes: Vec<_> = written.iter().flat_map(row_bytes).collect();
    bytes.sort();
    Outcome {
        read: rig.clients.rows(&table).await,
        bytes,
    }
}

fn row_bytes(path: &PathBuf) -> Vec<Vec<u8>> {
    let file = std::fs::File::open(path).expect("a file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .expect("Parquet")
        .build()
        .expect("Parquet");
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("Parquet")).collect();
    let mut bytes = Vec::new();
    for batch in batches {
        let fields = batch.schema();
        let fields = fields.fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).expect("rows");
        let rows = converter.convert_columns(batch.columns()).expect("rows");
        bytes.extend(rows.iter().map(|row| row.as_ref().to_vec()));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_basis_gives_the_same_bits_one_by_one_and_eight_at_once() {
    let mut rig = world().await;
    for transform in transforms() {
        let name = transform.name.clone();
        rig.clients.register(transform).await.expect("registered");
        let to = format!("2013-01-{:02}", DAYS + 1);
        let now = days(&name, "2013-01-01", &to);
        let pinned = at_basis(&now, at("2013-02-01T00:00:00Z"));
        let mut outcomes = Vec::new();
        for max_active_partitions in [1, 8, 8, 1] {
            let spec = pb::BackfillSpec {
                max_active_partitions,
                ..pinned.clone()
            };
            outcomes.push(Box::pin(run(&mut rig, spec)).await);
            // Meanwhile the world learns of something else.
            let day = outcomes.len() + 1;
            rig.clock
                .set(micros(&format!("2013-02-{day:02}T00:00:00Z")));
            rig.clients
                .put_station("s1", "2013-01-02T00:00:00Z", day as f64)
                .await;
        }
        let first = &outcomes[0];
        assert!(!first.bytes.is_empty() && first.read.len() == first.bytes.len());
        let distinct: BTreeSet<_> = first.bytes.iter().collect();
        assert!(distinct.len() > 1, "{name}: rows that tell");
        for (number, again) in outcomes.iter().enumerate() {
            assert!(first.read == again.read, "{name}: run {number} as read");
            assert!(first.bytes == again.bytes, "{name}: run {number} by bits");
        }
    }
}
