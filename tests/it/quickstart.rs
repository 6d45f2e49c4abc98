//! The quickstart as a newcomer runs it: the real program, twice in one folder, and what it leaves behind.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use hindcast::{
    pb::{self, value::Kind},
    time::{SystemClock, ValidTime},
};
use serde_json::Value as Json;

use crate::support::{Row, Service, float, int, text};

const PUNCTUALITY: &str = "daily_punctuality";
const TOTALS: &str = "aircraft_totals";
/// The day that the quickstart corrects.
const CORRECTED: &str = "2013-02-12";
/// Relative; sums and means are rounded differently by other programs.
const TOLERANCE: f64 = 1e-9;

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_twice_leaves_the_rows_that_other_programs_computed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data_dir = folder.path().join("data");
    for _ in 0..2 {
        run(&data_dir);
    }
    let mut service = Service::open(&data_dir, SystemClock::shared()).await;
    let expected = expected();
    let before = read_before_the_correction(&mut service).await;
    check_punctuality(&before, &expected[PUNCTUALITY]);
    let after = service.read(PUNCTUALITY).await;
    check_correction(&before, &after);
    let last = service.read_some(last_day(&expected[TOTALS])).await;
    check_totals(&last, &expected[TOTALS]);
    let metadata = service.table(PUNCTUALITY).await.metadata_location;
    service.stop().await;
    if let Some(lines) = read_by_pyiceberg(&metadata) {
        let mut ours: Vec<_> = after.iter().map(json_line).collect();
        ours.sort();
        assert_eq!(lines, ours, "PyIceberg and ReadTable");
    }
}

fn run(data_dir: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_hindcast"))
        .args(["quickstart", "--data-dir"])
        .arg(data_dir)
        .output()
        .expect("the program");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{printed}\n{errors}");
}

fn expected() -> Json {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/flights_expected.json");
    let json = std::fs::read_to_string(file).expect("the fixture");
    serde_json::from_str(&json).expect("JSON")
}

/// The table as the re-run at the old basis published it: all days as they were before the correction.
async fn read_before_the_correction(service: &mut Service) -> Vec<Row> {
    let request = pb::ListBackfillsRequest {
        transform: PUNCTUALITY.to_owned(),
        ..Default::default()
    };
    let listed = service.backfills.list_backfills(request).await;
    let backfills = listed.expect("listed").into_inner().backfills;
    assert_eq!(backfills.len(), 6, "three runs, twice");
    // Newest first: the corrected day, the same day at its old basis, the 90 days.
    let modes: Vec<_> = backfills
        .iter()
        .map(|backfill| backfill.spec.as_ref().expect("a spec").knowledge())
        .collect();
    assert_eq!(modes[1], pb::Knowledge::AtBasis);
    let partitions = service.partitions(&backfills[1].name).await;
    assert_eq!(partitions.len(), 1);
    let request = pb::ReadTableRequest {
        name: PUNCTUALITY.to_owned(),
        snapshot_id: partitions[0].snapshot_id,
        ..Default::default()
    };
    service.read_some(request).await
}

fn last_day(expected: &Json) -> pb::ReadTableRequest {
    let day = expected["last_day"].as_str().expect("text");
    let start = crate::support::micros(&format!("{day}T04:00:00Z"));
    pb::ReadTableRequest {
        name: TOTALS.to_owned(),
        partition_range: Some(pb::TimeRange {
            from: Some(crate::support::from_micros(start)),
            to: Some(crate::support::from_micros(start + 1)),
        }),
        ..Default::default()
    }
}

/// The New York day of a row's partition.
fn day(row: &Row) -> String {
    let start = instant(row, "partition_start");
    let start = start.to_datetime().expect("in range");
    let local = start.with_timezone(&chrono_tz::America::New_York);
    local.format("%Y-%m-%d").to_string()
}

fn instant(row: &Row, column: &str) -> ValidTime {
    match row.get(column) {
        Some(Some(Kind::TimestampValue(at))) => {
            ValidTime::from_timestamp(at.seconds, at.nanos).expect("in range")
        }
        other => panic!("{column} is no instant: {other:?}"),
    }
}

fn sum(rows: &[Row], column: &str) -> i64 {
    rows.iter().map(|row| int(row, column)).sum()
}

/// A mean times its count, summed; a null mean has no count.
fn weighted(rows: &[Row], mean: &str, count: impl Fn(&Row) -> i64) -> f64 {
    let known = rows.iter().filter(|row| row[mean].is_some());
    known.map(|row| float(row, mean) * count(row) as f64).sum()
}

fn close(found: f64, expected: &Json, what: &str) {
    let expected = expected.as_f64().expect("a number");
    assert!(
        (found - expected).abs() <= TOLERANCE * expected.abs(),
        "{what}: {found}, not {expected}"
    );
}

fn check_punctuality(rows: &[Row], expected: &Json) {
    let departed = |row: &Row| int(row, "flights") - int(row, "cancelled");
    let days: std::collections::BTreeSet<_> = rows.iter().map(day).collect();
    assert_eq!(days.len(), expected["partitions"], "days");
    assert_eq!(rows.len(), expected["rows"], "rows");
    for column in [
        "flights",
        "cancelled",
        "temp_readings",
        "low_visibility_flights",
    ] {
        assert_eq!(sum(rows, column), expected[column], "{column}");
    }
    close(
        weighted(rows, "mean_dep_delay", departed),
        &expected["dep_delay_sum"],
        "dep_delay_sum",
    );
    close(
        weighted(rows, "late_share", departed),
        &expected["late_flights"],
        "late_flights",
    );
    close(
        weighted(rows, "mean_temp", |row| int(row, "temp_readings")),
        &expected["temp_sum"],
        "temp_sum",
    );
    for sample in expected["samples"].as_array().expect("samples") {
        let found: Vec<_> = rows
            .iter()
            .filter(|row| day(row) == sample["day"] && text(row, "carrier") == sample["carrier"])
            .collect();
        assert_eq!(found.len(), 1, "{sample}");
        check_sample(found[0], sample, &["day"]);
    }
}

fn check_totals(rows: &[Row], expected: &Json) {
    assert_eq!(rows.len(), expected["rows"], "rows");
    for column in ["flights", "arrivals", "arr_delay_sum"] {
        assert_eq!(sum(rows, column), expected[column], "{column}");
    }
    let without = rows.iter().filter(|row| row["mean_arr_delay"].is_none());
    assert_eq!(without.count(), expected["rows_without_arrival"]);
    for sample in expected["samples"].as_array().expect("samples") {
        let found = rows
            .iter()
            .find(|row| text(row, "tailnum") == sample["tailnum"]);
        check_sample(found.expect("the aircraft"), sample, &[]);
    }
}

/// Every field of a sample but those `left_out`.
fn check_sample(row: &Row, sample: &Json, left_out: &[&str]) {
    for (name, expected) in sample.as_object().expect("an object") {
        if left_out.contains(&name.as_str()) {
            continue;
        }
        match row.get(name).expect("a column") {
            Some(Kind::Int64Value(value)) => assert_eq!(value, expected, "{name} of {sample}"),
            Some(Kind::StringValue(value)) => assert_eq!(value, expected, "{name} of {sample}"),
            Some(Kind::TimestampValue(_)) => {
                assert_eq!(
                    instant(row, name).to_string(),
                    *expected,
                    "{name} of {sample}"
                );
            }
            Some(Kind::Float64Value(value)) => close(*value, expected, name),
            other => panic!("{name} of {sample}: {other:?}"),
        }
    }
}

/// The correction changed its own day, and no other.
fn check_correction(before: &[Row], after: &[Row]) {
    let key = |row: &Row| (day(row), text(row, "carrier").to_owned());
    let by_key = |rows: &[Row]| -> BTreeMap<_, Row> {
        rows.iter().map(|row| (key(row), row.clone())).collect()
    };
    let (before, after) = (by_key(before), by_key(after));
    assert_eq!(before.len(), after.len());
    let changed: Vec<_> = before
        .iter()
        .filter(|(key, row)| after[*key] != **row)
        .map(|(key, _)| key.0.as_str())
        .collect();
    assert!(!changed.is_empty(), "the correction shows");
    assert!(changed.iter().all(|day| *day == CORRECTED), "{changed:?}");
}

/// The rows that PyIceberg reads, as sorted JSON lines. `None`: no interpreter was named, which CI does not accept.
fn read_by_pyiceberg(metadata_location: &str) -> Option<Vec<String>> {
    let Some(python) = std::env::var_os("HINDCAST_TEST_PYTHON") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "set HINDCAST_TEST_PYTHON to a Python that has tests/python/requirements.txt"
        );
        eprintln!(
            "SKIPPED: HINDCAST_TEST_PYTHON names no Python that has tests/python/requirements.txt"
        );
        return None;
    };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_table.py");
    let output = Command::new(python)
        .arg(script)
        .arg(metadata_location)
        .output()
        .expect("a Python interpreter");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    Some(printed.lines().map(str::to_owned).collect())
}

/// A row as Python's `json.dumps(row, sort_keys=True)` prints it. Text, so that floats are compared to the last bit: both
/// print the shortest digits that read back as the same float.
fn json_line(row: &Row) -> String {
    let fields = row.iter().map(|(name, value)| {
        let value = match value {
            None => "null".to_owned(),
            Some(Kind::Int64Value(value)) => value.to_string(),
            Some(Kind::Float64Value(value)) => format!("{value:?}"),
            Some(Kind::StringValue(value)) => serde_json::to_string(value).expect("JSON"),
            Some(Kind::TimestampValue(_)) => {
                format!(
                    "{:?}",
                    instant(row, name).to_string().replace('Z', "+00:00")
                )
            }
            other => panic!("{name}: {other:?}"),
        };
        format!("{name:?}: {value}")
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}
