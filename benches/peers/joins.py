"""The point-in-time join flights x weather from Parquet to sums, in DuckDB and Polars.

Prints one JSON object per line: who, rows per second (median of the rounds), the sums. The join is inclusive: a reading of
the very minute of the departure counts.
"""

import argparse
import json
import os
import statistics
import time

import duckdb
import polars

ROUNDS = 7


def in_duckdb(folder: str):
    database = duckdb.connect(config={"threads": os.cpu_count() or 2})
    flights = f"read_parquet('{folder}/flights/*/*.parquet')"
    query = """
        SELECT count(*), count(*) FILTER (obs_id IS NULL), sum(obs_id), sum(CAST(round(temp * 100) AS BIGINT))
        FROM (SELECT origin, sched_dep_utc FROM {flights}) f
        ASOF LEFT JOIN (SELECT origin, time_hour, obs_id, temp FROM {weather}) w
        ON f.origin = w.origin AND f.sched_dep_utc >= w.time_hour
    """
    from_files = query.format(flights=flights, weather=f"read_parquet('{folder}/weather.parquet')")
    yield f"DuckDB {duckdb.__version__}", lambda: database.execute(from_files).fetchone()
    database.execute(f"CREATE TABLE flights AS SELECT origin, sched_dep_utc FROM {flights}")
    database.execute(f"CREATE TABLE weather AS SELECT * FROM read_parquet('{folder}/weather.parquet')")
    from_memory = query.format(flights="flights", weather="weather")
    yield f"DuckDB {duckdb.__version__}, tables in memory", lambda: database.execute(from_memory).fetchone()


def in_polars(folder: str):
    def run():
        flights = polars.scan_parquet(f"{folder}/flights/*/*.parquet", hive_partitioning=False)
        flights = flights.select("origin", "sched_dep_utc").sort("sched_dep_utc")
        weather = polars.scan_parquet(f"{folder}/weather.parquet")
        weather = weather.select("origin", "time_hour", "obs_id", "temp").sort("time_hour")
        # One unit of time on both sides.
        micros = polars.Datetime("us", "UTC")
        joined = flights.with_columns(polars.col("sched_dep_utc").cast(micros)).join_asof(
            weather.with_columns(polars.col("time_hour").cast(micros)),
            left_on="sched_dep_utc",
            right_on="time_hour",
            by="origin",
            strategy="backward",
            check_sortedness=False,
        )
        sums = joined.select(
            polars.len(),
            polars.col("obs_id").is_null().sum().alias("missing"),
            polars.col("obs_id").cast(polars.Int64).sum(),
            (polars.col("temp") * 100).round().cast(polars.Int64).sum(),
        )
        return sums.collect().row(0)

    yield f"Polars {polars.__version__}", run


def measure(who: str, run) -> None:
    started = time.perf_counter()
    sums = [int(value) for value in run()]
    cold = time.perf_counter() - started
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    rows = sums[0]
    figure = {
        "who": who,
        "rows_per_second": rows / statistics.median(seconds),
        "cold_rows_per_second": rows / cold,
        "sums": sums,
    }
    print(json.dumps(figure), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="holds flights/*/*.parquet and weather.parquet")
    folder = parser.parse_args().folder
    for peer in (in_duckdb(folder), in_polars(folder)):
        for who, run in peer:
            measure(who, run)


if __name__ == "__main__":
    main()
