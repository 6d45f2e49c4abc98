//! A true bitemporal history, imported with its own system times: 129,638 writes about four states, each day told anew up
//! to 84 times. Every answer must be what was known then, not what is known now.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
};

use flate2::read::GzDecoder;
use hindcast::{
    pb::{self, EntityOutcome, Knowledge, lookup_request, value::Kind},
    time::SystemClock,
};
use serde_json::Value;

use crate::{
    beside::shared,
    support::{Row, Service, at, float, int, put, text},
};

const TYPE: &str = "state_covid";
const ATTRIBUTES: [&str; 2] = ["percent_cli", "case_rate_7d_av"];
const TRANSFORM: &str = "cli_7d";
/// A day's number is taken seven days after the day began; its partition ends one day after it.
const AVAILABILITY_DELAY_SECONDS: i64 = 6 * 86_400;

const SQL: &str = "
WITH states AS (
  SELECT geo.geo_value, state_covid_at(geo.geo_value, $partition_start - days.back) AS state
  FROM (VALUES ('ca'), ('fl'), ('ny'), ('tx')) AS geo(geo_value)
  CROSS JOIN (VALUES (INTERVAL '0 days'), (INTERVAL '1 day'), (INTERVAL '2 days'), (INTERVAL '3 days'),
                     (INTERVAL '4 days'), (INTERVAL '5 days'), (INTERVAL '6 days')) AS days(back)
)
SELECT geo_value,
       count(state['valid_from']) AS days_known,
       count(state['percent_cli']) AS nonnull,
       sum(state['percent_cli']) AS sum_cli
FROM states
GROUP BY geo_value";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_what_was_known_then() {
    let Some(folder) = shared("data/epidemic") else {
        return;
    };
    let read = |name: &str| {
        let file = std::fs::File::open(folder.join(name)).expect("the data");
        let mut text = String::new();
        GzDecoder::new(file)
            .read_to_string(&mut text)
            .expect("the data");
        text
    };
    let mut service = Service::start(SystemClock::shared()).await;
    declare(&mut service).await;
    import(&mut service, &read("dv_assertions.ndjson.gz")).await;
    look_up(&mut service, &read("dv_queries.ndjson.gz")).await;
    backfill(&mut service).await;
    let expected =
        std::fs::read_to_string(folder.join("dv_pit7_expected.csv")).expect("the answers");
    compare(&service.read(TRANSFORM).await, &expected);
    service.stop().await;
}

async fn declare(service: &mut Service) {
    let attribute = |name: &str| pb::Attribute {
        name: name.to_owned(),
        kind: pb::AttributeKind::Float64.into(),
        ..Default::default()
    };
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(pb::EntityType {
            name: TYPE.to_owned(),
            attributes: ATTRIBUTES.map(attribute).into(),
            state: pb::EntityTypeState::Importing.into(),
            ..Default::default()
        }),
    };
    let declared = service.entities.create_entity_type(request).await;
    declared.expect("declared");
}

/// One batch per system time, in one stream, each acknowledged.
async fn import(service: &mut Service, assertions: &str) {
    let mut batches: Vec<pb::IngestBatch> = Vec::new();
    let mut before = None;
    // A day that is told again as it was told before writes nothing.
    let (mut told, mut news) = (HashMap::new(), 0);
    for line in assertions.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let system_time = line["system_time"].as_str().expect("a time").to_owned();
        if before.as_ref() != Some(&system_time) {
            batches.push(pb::IngestBatch {
                offset: batches.len() as u64 + 1,
                mutations: Vec::new(),
                import_system_time: Some(at(&system_time)),
            });
            before = Some(system_time);
        }
        let day = (
            line["entity_id"].to_string(),
            line["valid_from"].to_string(),
        );
        let value = known(&line["value"]);
        news += u64::from(told.insert(day, value.clone()) != Some(value));
        let batch = batches.last_mut().expect("one");
        batch.mutations.push(assertion(&line));
    }
    assert_eq!(batches.len(), 547, "system times");
    let last_offset = batches.len() as u64;
    let start = pb::ingest_request::Message::Start(pb::IngestStart {
        stream: "epidemic".to_owned(),
    });
    let batches = batches.into_iter().map(pb::ingest_request::Message::Batch);
    let requests: Vec<_> = std::iter::once(start)
        .chain(batches)
        .map(|message| pb::IngestRequest {
            message: Some(message),
        })
        .collect();
    let opened = service.entities.ingest(tokio_stream::iter(requests)).await;
    let mut stream = opened.expect("opened").into_inner();
    let mut last = pb::IngestResponse::default();
    while let Some(response) = stream.message().await.expect("acknowledged") {
        last = response;
    }
    assert_eq!(last.acknowledged_offset, last_offset);
    // Twice, two days that follow each other are told one value by one commit: that is one version.
    assert_eq!(last.versions_written, news - 2);
    let request = pb::FinishImportRequest {
        name: TYPE.to_owned(),
    };
    let sealed = service.entities.finish_import(request).await;
    sealed.expect("sealed");
}

fn assertion(line: &Value) -> pb::Mutation {
    let text = |field: &str| line[field].as_str().expect("a text");
    let values = ATTRIBUTES.iter().filter_map(|name| {
        let value = line["value"][name].as_f64()?;
        Some((*name, Kind::Float64Value(value)))
    });
    put(
        TYPE,
        text("entity_id"),
        values,
        at(text("valid_from")),
        Some(at(text("valid_to"))),
    )
}

/// All queries in one lookup stream, each row at its own basis.
async fn look_up(service: &mut Service, queries: &str) {
    let queries: Vec<Value> = queries
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(queries.len(), 20_000);
    let settings = lookup_request::Message::Settings(pb::LookupSettings {
        entity_type: TYPE.to_owned(),
        attributes: ATTRIBUTES.map(str::to_owned).into(),
        ..Default::default()
    });
    let instant = |query: &Value, field: &str| Some(at(query[field].as_str().expect("a time")));
    let rows = queries.chunks(1_000).map(|chunk| {
        let row = |query: &Value| pb::lookup_rows::Row {
            entity_id: query["entity_id"].as_str().expect("an id").to_owned(),
            valid_time: instant(query, "valid_at"),
            basis: instant(query, "known_at"),
        };
        lookup_request::Message::Rows(pb::LookupRows {
            rows: chunk.iter().map(row).collect(),
        })
    });
    let messages: Vec<_> = std::iter::once(settings)
        .chain(rows)
        .map(|message| pb::LookupRequest {
            message: Some(message),
        })
        .collect();
    let opened = service.entities.lookup(tokio_stream::iter(messages)).await;
    let mut stream = opened.expect("opened").into_inner();
    let mut results = Vec::new();
    while let Some(response) = stream.message().await.expect("answered") {
        results.extend(response.results);
    }
    assert_eq!(results.len(), queries.len());
    let (mut wrong, mut like_current) = (0, 0);
    for (query, result) in queries.iter().zip(&results) {
        let found = answer(result);
        wrong += usize::from(found != known(&query["expected"]));
        like_current += usize::from(found == known(&query["current"]));
    }
    assert_eq!(wrong, 0, "of 20,000; {like_current} are as known now");
}

fn answer(result: &pb::lookup_response::Result) -> Option<Vec<Option<f64>>> {
    match result.outcome() {
        EntityOutcome::Value => Some(
            result
                .values
                .iter()
                .map(|value| match value.kind {
                    Some(Kind::Float64Value(value)) => Some(value),
                    _ => None,
                })
                .collect(),
        ),
        EntityOutcome::NotKnown => None,
        outcome @ (EntityOutcome::Ended
        | EntityOutcome::Erased
        | EntityOutcome::TooOld
        | EntityOutcome::Unspecified) => panic!("{outcome:?}"),
    }
}

fn known(expected: &Value) -> Option<Vec<Option<f64>>> {
    let value = |name: &&str| expected[*name].as_f64();
    expected
        .is_object()
        .then(|| ATTRIBUTES.iter().map(value).collect())
}

async fn backfill(service: &mut Service) {
    let transform = pb::Transform {
        name: TRANSFORM.to_owned(),
        sql: SQL.to_owned(),
        entities: vec![pb::EntityInput {
            entity_type: TYPE.to_owned(),
            ..Default::default()
        }],
        output_table: TRANSFORM.to_owned(),
        grain: pb::Grain::Daily.into(),
        time_zone: "UTC".to_owned(),
        ..Default::default()
    };
    service.register(transform).await;
    let spec = pb::BackfillSpec {
        transform: TRANSFORM.to_owned(),
        from: Some(at("2020-06-01T00:00:00Z")),
        to: Some(at("2021-12-01T00:00:00Z")),
        knowledge: Knowledge::AsKnownThen.into(),
        availability_delay: Some(prost_types::Duration {
            seconds: AVAILABILITY_DELAY_SECONDS,
            nanos: 0,
        }),
        ..Default::default()
    };
    let done = service.run_well(spec).await;
    assert_eq!(done.partition_counts.expect("counts").succeeded, 548);
}

fn compare(rows: &[Row], expected: &str) {
    let mut found: HashMap<(String, String), &Row> = HashMap::new();
    for row in rows {
        let day = partition_day(row);
        found.insert((day, text(row, "geo_value").to_owned()), row);
    }
    let mut lines = expected.lines();
    let header: Vec<_> = lines.next().expect("a header").split(',').collect();
    let (mut count, mut unlike_current) = (0, 0);
    for line in lines {
        let expected: BTreeMap<_, _> = header.iter().copied().zip(line.split(',')).collect();
        let number = |column: &str| expected[column].parse::<f64>().unwrap_or_default();
        let key = (expected["dt"].to_owned(), expected["geo_value"].to_owned());
        let row = found[&key];
        assert_eq!(
            int(row, "days_known") as f64,
            number("days_known"),
            "{key:?}"
        );
        assert_eq!(
            int(row, "nonnull") as f64,
            number("nonnull_asof"),
            "{key:?}"
        );
        let sum = match row["sum_cli"] {
            None => 0.0,
            Some(_) => float(row, "sum_cli"),
        };
        let then = number("sum_cli_asof");
        assert!((sum - then).abs() <= 1e-5, "{key:?}: {sum}, not {then}");
        unlike_current += usize::from((sum - number("sum_cli_current_WRONG")).abs() > 1e-5);
        count += 1;
    }
    assert_eq!((count, rows.len()), (2_192, 2_192));
    assert!(
        unlike_current > 2_000,
        "what is known now differs: {unlike_current}"
    );
}

/// The day of a row's partition, `2020-06-01`.
fn partition_day(row: &Row) -> String {
    match &row["partition_start"] {
        Some(Kind::TimestampValue(start)) => {
            let micros = start.seconds * 1_000_000;
            let text = hindcast::time::ValidTime::from_micros(micros).to_string();
            text[..10].to_owned()
        }
        other => panic!("no partition start: {other:?}"),
    }
}
