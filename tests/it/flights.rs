//! The year 2013 of New York's flights: its entities, its source, and the transform that other programs computed too.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Int32Type, TimestampMicrosecondType},
};
use flate2::read::GzDecoder;
use hindcast::pb::{self, AttributeKind, value::Kind};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost_types::Timestamp;

use crate::support::{Service, at, from_micros, put};

/// Days of the year, New York's: from the first partition's start to the last one's end.
pub(crate) const YEAR: (&str, &str) = ("2013-01-01T05:00:00Z", "2014-01-01T05:00:00Z");
/// Versions in the two histories.
pub(crate) const VERSIONS: u64 = 26_115 + 327_345;
/// The transform and its table.
pub(crate) const POINT_IN_TIME: &str = "flights_pit";
const ZONE: &str = "America/New_York";
const MICROS_PER_MINUTE: i64 = 60_000_000;

const WEATHER: [(&str, AttributeKind); 10] = [
    ("obs_id", AttributeKind::Int64),
    ("temp", AttributeKind::Float64),
    ("dewp", AttributeKind::Float64),
    ("humid", AttributeKind::Float64),
    ("wind_dir", AttributeKind::Int64),
    ("wind_speed", AttributeKind::Float64),
    ("wind_gust", AttributeKind::Float64),
    ("precip", AttributeKind::Float64),
    ("pressure", AttributeKind::Float64),
    ("visib", AttributeKind::Float64),
];
const AIRCRAFT: [(&str, AttributeKind); 5] = [
    ("last_airport", AttributeKind::String),
    ("last_carrier", AttributeKind::String),
    ("last_flight", AttributeKind::Int64),
    ("last_arr_delay", AttributeKind::Int64),
    ("src_row_id", AttributeKind::Int64),
];

/// The folder with the data and the answers.
pub(crate) fn data() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/flights");
    folder
        .canonicalize()
        .expect("../shared/data/flights, beside the checkout")
}

/// Declares the entity types and the source, and writes both histories; gives the last system time.
pub(crate) async fn load(service: &mut Service) -> Timestamp {
    service.create_type("airport_weather", &WEATHER).await;
    service.create_type("aircraft", &AIRCRAFT).await;
    let (_, readings) = service.write(weather()).await;
    let (known, landings) = service.write(landings()).await;
    assert_eq!(readings + landings, VERSIONS, "versions written");
    let source = service.create_source(source()).await;
    assert_eq!(source.file_count, 365);
    known
}

fn source() -> pb::Source {
    pb::Source {
        name: "flights".to_owned(),
        format: pb::SourceFormat::Parquet.into(),
        location: data().join("flights").to_string_lossy().into_owned(),
        event_time_column: "sched_dep_utc".to_owned(),
        hive: Some(pb::HivePartition {
            column: "dt".to_owned(),
            format: "%Y-%m-%d".to_owned(),
            grain: pb::Grain::Daily.into(),
            time_zone: ZONE.to_owned(),
        }),
        ..Default::default()
    }
}

/// A daily transform over the flights and both histories, whose table has its name.
pub(crate) fn transform(name: &str, sql: &str) -> pb::Transform {
    let entity = |name: &str| pb::EntityInput {
        entity_type: name.to_owned(),
        at_partition_start: false,
    };
    pb::Transform {
        name: name.to_owned(),
        sql: sql.to_owned(),
        sources: vec![pb::SourceInput {
            source: "flights".to_owned(),
            lookback: None,
        }],
        entities: vec![entity("airport_weather"), entity("aircraft")],
        output_table: name.to_owned(),
        grain: pb::Grain::Daily.into(),
        time_zone: ZONE.to_owned(),
        ..Default::default()
    }
}

/// The whole year.
pub(crate) fn year(transform: &str, knowledge: pb::Knowledge) -> pb::BackfillSpec {
    pb::BackfillSpec {
        transform: transform.to_owned(),
        from: Some(at(YEAR.0)),
        to: Some(at(YEAR.1)),
        knowledge: knowledge.into(),
        ..Default::default()
    }
}

/// Every column of `flights_pit_expected.csv`, one row per day.
pub(crate) fn point_in_time() -> String {
    format!(
        "WITH joined AS (
            SELECT dt, carrier, tailnum, sched_dep_utc,
                airport_weather_at(origin, sched_dep_utc) AS wx,
                aircraft_at(tailnum, sched_dep_utc) AS prev
            FROM flights
        ),
        seen AS (
            SELECT *,
                (CAST(sched_dep_utc AS BIGINT) - CAST(wx['valid_from'] AS BIGINT)) / {MICROS_PER_MINUTE} AS wx_age,
                (CAST(sched_dep_utc AS BIGINT) - CAST(prev['valid_from'] AS BIGINT)) / {MICROS_PER_MINUTE} AS prev_age
            FROM joined
        )
        SELECT
            min(dt) AS dt,
            count(*) AS flights,
            count(*) FILTER (WHERE wx['obs_id'] IS NULL) AS wx_missing,
            count(*) FILTER (WHERE wx['temp'] IS NULL) AS temp_nulls,
            coalesce(sum(CAST(round(wx['temp'] * 100) AS BIGINT)), 0) AS temp_sum_centi_f,
            count(*) FILTER (WHERE wx['wind_dir'] IS NULL) AS wind_dir_nulls,
            coalesce(sum(wx['wind_dir']), 0) AS wind_dir_sum,
            coalesce(sum(CAST(round(wx['visib'] * 100) AS BIGINT)), 0) AS visib_sum_centi,
            coalesce(sum(wx_age), 0) AS wx_age_min_sum,
            coalesce(sum(wx['obs_id']), 0) AS obs_id_sum,
            count(*) FILTER (WHERE tailnum IS NULL) AS tailnum_nulls,
            count(*) FILTER (WHERE prev['src_row_id'] IS NULL) AS prev_missing,
            coalesce(sum(prev['last_arr_delay']), 0) AS prev_arr_delay_sum,
            count(*) FILTER (WHERE prev['last_arr_delay'] >= 15) AS prev_late15,
            count(*) FILTER (WHERE prev['last_carrier'] <> carrier) AS prev_carrier_differs,
            coalesce(sum(prev_age), 0) AS prev_age_min_sum,
            coalesce(sum(prev['src_row_id']), 0) AS prev_src_row_id_sum
        FROM seen"
    )
}

/// `weather_history.ndjson.gz` as puts.
fn weather() -> impl Iterator<Item = pb::Mutation> {
    let file = File::open(data().join("weather_history.ndjson.gz")).expect("the readings");
    BufReader::new(GzDecoder::new(file))
        .lines()
        .map(|line| reading(&line.expect("gzip")))
}

fn reading(line: &str) -> pb::Mutation {
    let reading: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let attributes = WEATHER.iter().filter_map(|(name, kind)| {
        let value = &reading["value"][name];
        let value = if *kind == AttributeKind::Int64 {
            value.as_i64().map(Kind::Int64Value)
        } else {
            value.as_f64().map(Kind::Float64Value)
        };
        Some((*name, value?))
    });
    put(
        "airport_weather",
        reading["entity_id"].as_str().expect("text"),
        attributes,
        at(reading["valid_from"].as_str().expect("text")),
        reading["valid_to"].as_str().map(at),
    )
}

/// `aircraft_history.parquet` as puts, aircraft by aircraft.
fn landings() -> impl Iterator<Item = pb::Mutation> {
    let file = File::open(data().join("aircraft_history.parquet")).expect("the landings");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .expect("Parquet")
        .with_batch_size(1 << 20)
        .build()
        .expect("Parquet");
    let mut batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("Parquet")).collect();
    assert_eq!(batches.len(), 1, "fits one batch");
    let batch = batches.remove(0);
    let mut rows: Vec<usize> = (0..batch.num_rows()).collect();
    let tails = text_column(&batch, "tailnum").clone();
    // One commit then holds all of most aircraft: a page is written once or twice, not once per batch.
    rows.sort_by_key(|&row| tails.value(row).to_owned());
    rows.into_iter().map(move |row| landing(&batch, row))
}

fn landing(batch: &RecordBatch, row: usize) -> pb::Mutation {
    let attributes = AIRCRAFT.iter().map(|(name, kind)| {
        let value = if *kind == AttributeKind::String {
            Kind::StringValue(text_column(batch, name).value(row).to_owned())
        } else {
            let column = batch.column_by_name(name).expect("a column");
            Kind::Int64Value(column.as_primitive::<Int32Type>().value(row).into())
        };
        (*name, value)
    });
    put(
        "aircraft",
        text_column(batch, "tailnum").value(row),
        attributes,
        instant(batch, "valid_from", row).expect("never null"),
        instant(batch, "valid_to", row),
    )
}

fn text_column<'a>(batch: &'a RecordBatch, name: &str) -> &'a arrow::array::StringArray {
    batch.column_by_name(name).expect("a column").as_string()
}

fn instant(batch: &RecordBatch, name: &str, row: usize) -> Option<Timestamp> {
    let column = batch.column_by_name(name).expect("a column");
    let column = column.as_primitive::<TimestampMicrosecondType>();
    column.is_valid(row).then(|| from_micros(column.value(row)))
}
