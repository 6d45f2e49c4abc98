//! The whole year 2013 through the API, day by day against what DuckDB, Polars and Python made of it.

use std::collections::{BTreeMap, BTreeSet};

use hindcast::{
    pb::{self, Knowledge},
    time::{Clock, SystemClock},
};

use crate::{
    beside::shared,
    flights::{POINT_IN_TIME, data, load, point_in_time, transform, year},
    support::{Row, Service, int, text},
};

/// Per day, per column.
type Answers = BTreeMap<String, BTreeMap<String, i64>>;

#[tokio::test(flavor = "multi_thread")]
async fn every_day_of_the_year_is_what_other_programs_computed() {
    if shared("data/flights").is_none() {
        return;
    }
    let clock = SystemClock::shared();
    let mut watch = Stopwatch::new(&*clock);
    let mut service = Service::start(std::sync::Arc::clone(&clock)).await;
    load(&mut service).await;
    watch.lap("load");
    let registered = service
        .register(transform(POINT_IN_TIME, &point_in_time()))
        .await;
    assert_eq!(registered.revision, 1);

    let backfill = service
        .run_well(year(POINT_IN_TIME, Knowledge::AsKnownNow))
        .await;
    watch.lap("365 days as known now");
    assert_eq!(backfill.partition_counts.expect("counts").succeeded, 365);
    assert_eq!(
        (backfill.rows_read, backfill.rows_written),
        (336_776, 365),
        "rows read and written"
    );
    compare(&answers(&service.read(POINT_IN_TIME).await));

    nothing_was_known_then(&mut service).await;
    watch.lap("as known then");
    service.stop().await;
}

/// Data that was loaded today was not known in 2013: the plan says so, and the flights meet no entity.
async fn nothing_was_known_then(service: &mut Service) {
    let mut spec = year(POINT_IN_TIME, Knowledge::AsKnownThen);
    let plan = service.plan(spec.clone()).await.expect("a plan");
    for entity_type in ["airport_weather", "aircraft"] {
        let warned = plan.warnings.iter().any(|text| {
            text.starts_with(&format!("{entity_type}:")) && text.contains("365 of 365")
        });
        assert!(warned, "{entity_type} in {:?}", plan.warnings);
    }
    // A week is enough: the year would only cost more.
    spec.to = Some(crate::support::at("2013-01-08T05:00:00Z"));
    service.run_well(spec).await;
    let request = pb::ReadTableRequest {
        name: POINT_IN_TIME.to_owned(),
        limit: 7,
        ..Default::default()
    };
    let week = answers(&service.read_some(request).await);
    let known = expected();
    assert_eq!(week.len(), 7);
    for (day, row) in week {
        let flights = known[&day]["flights"];
        for column in ["flights", "wx_missing", "prev_missing"] {
            assert_eq!(row[column], flights, "{day} {column}");
        }
        for column in ["obs_id_sum", "prev_src_row_id_sum", "wx_age_min_sum"] {
            assert_eq!(row[column], 0, "{day} {column}");
        }
    }
}

/// Fails with every column that differs: where first, and which of the usual mistakes gives what was found, if one does.
fn compare(found: &Answers) {
    let expected = expected();
    let days: Vec<_> = found.keys().collect();
    assert_eq!(days, expected.keys().collect::<Vec<_>>(), "the days");
    let mistakes = mistakes();
    let columns: BTreeSet<_> = expected.values().flat_map(BTreeMap::keys).collect();
    assert_eq!(columns.len(), 16);
    let faults: Vec<_> = columns
        .into_iter()
        .filter_map(|column| fault(column, found, &expected, &mistakes))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn fault(
    column: &str,
    found: &Answers,
    expected: &Answers,
    mistakes: &BTreeMap<String, Answers>,
) -> Option<String> {
    let wrong: Vec<_> = expected
        .keys()
        .filter(|day| found[*day][column] != expected[*day][column])
        .collect();
    let first = *wrong.first()?;
    let like: Vec<_> = mistakes
        .iter()
        .filter(|(_, answers)| {
            wrong
                .iter()
                .all(|day| answers[*day][column] == found[*day][column])
        })
        .map(|(variant, _)| variant.as_str())
        .collect();
    let like = if like.is_empty() {
        "no known mistake".to_owned()
    } else {
        like.join(" or ")
    };
    Some(format!(
        "{column}: wrong on {} days, first on {first}: {}, not {}; as by {like}",
        wrong.len(),
        found[first][column],
        expected[first][column],
    ))
}

#[test]
fn a_wrong_column_is_traced_to_the_mistake_that_gives_it() {
    if shared("data/flights").is_none() {
        return;
    }
    let (expected, mistakes) = (expected(), mistakes());
    let mut found = expected.clone();
    for (day, row) in &mut found {
        row.insert(
            "prev_late15".to_owned(),
            mistakes["current_state"][day]["prev_late15"],
        );
    }
    assert_eq!(
        fault("prev_late15", &found, &expected, &mistakes).as_deref(),
        Some(
            "prev_late15: wrong on 363 days, first on 2013-01-01: 267, not 45; as by current_state"
        )
    );
    assert_eq!(fault("obs_id_sum", &found, &expected, &mistakes), None);
}

/// A table's rows by day.
fn answers(rows: &[Row]) -> Answers {
    let day = |row: &Row| {
        let columns = row
            .keys()
            .filter(|name| *name != "dt" && *name != "partition_start");
        let values = columns.map(|name| (name.clone(), int(row, name))).collect();
        (text(row, "dt").to_owned(), values)
    };
    let answers: Answers = rows.iter().map(day).collect();
    assert_eq!(answers.len(), rows.len(), "one row per day");
    answers
}

fn expected() -> Answers {
    let mut all = read_csv("flights_pit_expected.csv");
    assert_eq!(all.len(), 1);
    all.remove("").expect("no variant")
}

/// What the usual mistakes give, by their name.
fn mistakes() -> BTreeMap<String, Answers> {
    let all = read_csv("flights_pit_wrong.csv");
    assert_eq!(all.len(), 6);
    all
}

/// Answers by variant; without that column, the variant is empty.
fn read_csv(name: &str) -> BTreeMap<String, Answers> {
    let csv = std::fs::read_to_string(data().join(name)).expect("the answers");
    let mut lines = csv.lines();
    let header: Vec<_> = lines.next().expect("a header").split(',').collect();
    let mut all: BTreeMap<String, Answers> = BTreeMap::new();
    for line in lines {
        let mut row: BTreeMap<_, _> = header.iter().copied().zip(line.split(',')).collect();
        let variant = row.remove("variant").unwrap_or_default();
        let day = row.remove("dt").expect("a day");
        let values = row
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.parse().expect("an integer")));
        let answers = all.entry(variant.to_owned()).or_default();
        answers.insert(day.to_owned(), values.collect());
    }
    all
}

/// Says how long each step took, for who runs with `--nocapture`.
struct Stopwatch<'a> {
    clock: &'a dyn Clock,
    last_micros: i64,
}

impl<'a> Stopwatch<'a> {
    fn new(clock: &'a dyn Clock) -> Self {
        Self {
            clock,
            last_micros: clock.monotonic_micros(),
        }
    }

    fn lap(&mut self, step: &str) {
        let now = self.clock.monotonic_micros();
        eprintln!("{step}: {:.1} s", (now - self.last_micros) as f64 / 1e6);
        self.last_micros = now;
    }
}
