//! The point-in-time join of the flights of 2013 with the weather at their origin, from Parquet to sums.
//!
//! `benches/peers` has DuckDB and Polars do the same on the same files. `HINDCAST_BENCH_FLIGHTS` names the folder with
//! `flights/*/*.parquet` and `weather.parquet`.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, AsArray as _, RecordBatch, StructArray, TimestampMicrosecondArray},
    compute::{cast, sum},
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType},
};
use hindcast::{
    store::{AttributeKind, Until, Value},
    time::SysTime,
};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use crate::{
    Fault, Scale,
    bed::{Bed, declare, put_values, spec},
    report::{Goal, Report, Rounds},
};

const THREADS: usize = 2;
const BATCH: usize = 1_000;
const FILE_ROWS: usize = 65_536;

/// What the join comes to; the same for everyone who does it right.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sums {
    flights: usize,
    missing: usize,
    obs_id: i64,
    temp_centi: i64,
}

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("HINDCAST_BENCH_FLIGHTS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/flights");
    named
        .or(Some(beside))
        .filter(|folder| folder.join("weather.parquet").is_file())
}

pub(crate) fn flights_weather(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let Some(folder) = folder() else {
        println!("join: left out, HINDCAST_BENCH_FLIGHTS names no folder with the year's flights");
        return Ok(());
    };
    let bed = Bed::new()?;
    let attributes = [
        ("obs_id", AttributeKind::Int64),
        ("temp", AttributeKind::Float64),
    ];
    let weather = declare(&bed.runtime, &bed.store, spec("weather", &attributes))?;
    load(&bed, &folder.join("weather.parquet"))?;
    let basis = bed.store.latest_basis();
    let mut files: Vec<PathBuf> = Vec::new();
    for day in std::fs::read_dir(folder.join("flights"))? {
        files.extend(
            std::fs::read_dir(day?.path())?
                .map(|file| Ok(file?.path()))
                .collect::<std::io::Result<Vec<_>>>()?,
        );
    }
    files.sort();
    let run = |with_join: bool| -> Result<(f64, Sums), Fault> {
        let start = bed.clock.monotonic_micros();
        let sums = std::thread::scope(|scope| {
            let threads: Vec<_> = files
                .chunks(files.len().div_ceil(THREADS))
                .map(|files| {
                    let join = |batch: &RecordBatch| {
                        if with_join {
                            join(&bed, &weather, batch, basis)
                        } else {
                            Ok(counted(batch))
                        }
                    };
                    scope.spawn(move || sum_files(files, join))
                })
                .collect();
            let mut all = Sums::default();
            for thread in threads {
                let part = thread.join().map_err(|_| "a thread panicked")??;
                all.flights += part.flights;
                all.missing += part.missing;
                all.obs_id += part.obs_id;
                all.temp_centi += part.temp_centi;
            }
            Ok::<_, Fault>(all)
        })?;
        Ok(((bed.clock.monotonic_micros() - start) as f64, sums))
    };
    let (cold_micros, sums) = run(true)?;
    println!("  join: {sums:?}");
    let rounds = Rounds::measure(scale.rounds, || Ok(run(false)?.0), || Ok(run(true)?.0))?;
    let per_second = |micros: f64| sums.flights as f64 / micros * 1e6;
    let detail = format!(
        "{:.0} rows/s warm, {:.0} cold, {:.0} without the reading of Parquet; DuckDB's are in benches/peers",
        per_second(rounds.ours()),
        per_second(cold_micros),
        per_second(rounds.ours() - rounds.bare())
    );
    report.ratio(
        "join flights × weather, by reading",
        rounds.speed(),
        Goal::None,
        &detail,
    )?;
    report.figure("join rows/s warm", per_second(rounds.ours()), "rows/s")?;
    report.figure("join rows/s cold", per_second(cold_micros), "rows/s")?;
    report.figure("join obs_id sum", sums.obs_id as f64, "")
}

fn read(
    path: &Path,
    columns: &[&str],
    mut each: impl FnMut(RecordBatch) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    for batch in builder
        .with_projection(mask)
        .with_batch_size(FILE_ROWS)
        .build()?
    {
        each(batch?)?;
    }
    Ok(())
}

/// A column as this type.
fn column(
    batch: &RecordBatch,
    name: &str,
    kind: &DataType,
) -> Result<arrow::array::ArrayRef, Fault> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| format!("no column {name}"))?;
    Ok(cast(column, kind)?)
}

fn micros_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn load(bed: &Bed, path: &Path) -> Result<(), Fault> {
    let mut mutations = Vec::new();
    read(path, &["origin", "time_hour", "obs_id", "temp"], |batch| {
        let origins = column(&batch, "origin", &DataType::Utf8)?;
        let times = column(&batch, "time_hour", &micros_type())?;
        let ids = column(&batch, "obs_id", &DataType::Int64)?;
        let temps = column(&batch, "temp", &DataType::Float64)?;
        let (times, ids) = (
            times.as_primitive::<TimestampMicrosecondType>(),
            ids.as_primitive::<Int64Type>(),
        );
        let temps = temps.as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let temp = temps
                .is_valid(row)
                .then(|| Value::Float64(temps.value(row)));
            let values = [
                ("obs_id", Some(Value::Int64(ids.value(row)))),
                ("temp", temp),
            ];
            let id = origins.as_string::<i32>().value(row);
            mutations.push(put_values(
                "weather",
                id,
                values,
                times.value(row),
                Until::NextChange,
            ));
        }
        Ok(())
    })?;
    bed.load(mutations.chunks(BATCH).map(<[_]>::to_vec))?;
    Ok(())
}

fn sum_files(
    files: &[PathBuf],
    join: impl Fn(&RecordBatch) -> Result<Sums, Fault>,
) -> Result<Sums, Fault> {
    let mut all = Sums::default();
    for file in files {
        read(file, &["origin", "sched_dep_utc"], |batch| {
            let part = join(&batch)?;
            all.flights += part.flights;
            all.missing += part.missing;
            all.obs_id += part.obs_id;
            all.temp_centi += part.temp_centi;
            Ok(())
        })?;
    }
    Ok(all)
}

fn counted(batch: &RecordBatch) -> Sums {
    Sums {
        flights: batch.num_rows(),
        ..Sums::default()
    }
}

fn join(
    bed: &Bed,
    weather: &std::sync::Arc<hindcast::store::EntityType>,
    batch: &RecordBatch,
    basis: SysTime,
) -> Result<Sums, Fault> {
    let origins = column(batch, "origin", &DataType::Utf8)?;
    let times = column(batch, "sched_dep_utc", &micros_type())?;
    let times: &TimestampMicrosecondArray = times.as_primitive();
    let state: StructArray = bed
        .store
        .lookup_batch(weather, origins.as_string(), times, basis)?;
    let ids = state.column(0).as_primitive::<Int64Type>();
    let temps = state.column(1).as_primitive::<Float64Type>();
    let centi = |row| {
        if temps.is_valid(row) {
            (temps.value(row) * 100.0).round() as i64
        } else {
            0
        }
    };
    Ok(Sums {
        flights: batch.num_rows(),
        missing: state.null_count(),
        obs_id: sum(ids).unwrap_or(0),
        temp_centi: (0..state.len()).map(centi).sum(),
    })
}
