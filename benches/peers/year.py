"""The year of flights, day by day, in DuckDB: each day's flights with the weather and the aircraft of their own instants.

One ASOF JOIN per history and one Parquet file per day, as the backfill of `benches/backfill` writes one partition per day;
the histories are loaded into tables before. ASOF JOIN sorts what it is given, so each day gives it only what that day can
need: that makes the loop several times as fast as joining the whole histories (`--whole`). The answers are compared with
those that other programs computed. Prints one JSON object: who, days, CPU seconds of the loop and of the whole script.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import tempfile
import time

import duckdb

HISTORIES = """
CREATE TABLE weather AS
    SELECT entity_id AS origin, valid_from::TIMESTAMP AT TIME ZONE 'UTC' AS valid_from, value.*
    FROM read_json('{folder}/weather_history.ndjson.gz');
CREATE TABLE aircraft AS
    SELECT tailnum, valid_from, last_carrier, last_arr_delay, src_row_id
    FROM read_parquet('{folder}/aircraft_history.parquet');
"""

WHOLE = {"weather": "weather", "aircraft": "aircraft"}
NEEDED = {
    "weather": "(SELECT * FROM weather WHERE valid_from <= (SELECT max(sched_dep_utc) FROM f))",
    "aircraft": """(
        SELECT * FROM aircraft
        WHERE valid_from <= (SELECT max(sched_dep_utc) FROM f) AND tailnum IN (SELECT tailnum FROM f)
    )""",
}
DAY = """
COPY (
    WITH f AS MATERIALIZED (
        SELECT dt, carrier, tailnum, origin, sched_dep_utc
        FROM read_parquet('{folder}/flights/dt={day}/*.parquet', hive_partitioning = true)
    )
    SELECT
        min(dt) AS dt,
        count(*) AS flights,
        count(*) FILTER (obs_id IS NULL) AS wx_missing,
        count(*) FILTER (temp IS NULL) AS temp_nulls,
        coalesce(sum(CAST(round(temp * 100) AS BIGINT)), 0) AS temp_sum_centi_f,
        count(*) FILTER (wind_dir IS NULL) AS wind_dir_nulls,
        coalesce(sum(wind_dir), 0) AS wind_dir_sum,
        coalesce(sum(CAST(round(visib * 100) AS BIGINT)), 0) AS visib_sum_centi,
        coalesce(sum(wx_age), 0) AS wx_age_min_sum,
        coalesce(sum(obs_id), 0) AS obs_id_sum,
        count(*) FILTER (tailnum IS NULL) AS tailnum_nulls,
        count(*) FILTER (src_row_id IS NULL) AS prev_missing,
        coalesce(sum(last_arr_delay), 0) AS prev_arr_delay_sum,
        count(*) FILTER (last_arr_delay >= 15) AS prev_late15,
        count(*) FILTER (last_carrier <> carrier) AS prev_carrier_differs,
        coalesce(sum(prev_age), 0) AS prev_age_min_sum,
        coalesce(sum(src_row_id), 0) AS prev_src_row_id_sum
    FROM (
        SELECT f.dt, f.carrier, f.tailnum, w.obs_id, w.temp, w.wind_dir, w.visib, a.src_row_id, a.last_arr_delay,
            a.last_carrier,
            (epoch_us(f.sched_dep_utc) - epoch_us(w.valid_from)) // 60000000 AS wx_age,
            (epoch_us(f.sched_dep_utc) - epoch_us(a.valid_from)) // 60000000 AS prev_age
        FROM f
        ASOF LEFT JOIN {weather} w ON f.origin = w.origin AND f.sched_dep_utc >= w.valid_from
        ASOF LEFT JOIN {aircraft} a ON f.tailnum = a.tailnum AND f.sched_dep_utc >= a.valid_from
    )
) TO '{out}' (FORMAT parquet, COMPRESSION zstd)
"""


def expected(folder: str):
    with open(f"{folder}/flights_pit_expected.csv", encoding="utf-8") as file:
        return {row.pop("dt"): {name: int(value) for name, value in row.items()} for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="holds flights/*/*.parquet and both histories")
    parser.add_argument("--days", type=int, default=365, help="of the year, from its first on")
    parser.add_argument("--whole", action="store_true", help="join the whole histories each day")
    arguments = parser.parse_args()
    folder, histories = arguments.folder, WHOLE if arguments.whole else NEEDED
    database = duckdb.connect(config={"threads": os.cpu_count() or 2})
    database.execute("SET TimeZone = 'UTC'")
    database.execute(HISTORIES.format(folder=folder))
    first = datetime.date(2013, 1, 1)
    days = [first + datetime.timedelta(days=number) for number in range(arguments.days)]
    with tempfile.TemporaryDirectory() as out:
        started, wall = time.process_time(), time.perf_counter()
        for day in days:
            path = pathlib.Path(out) / f"{day}.parquet"
            database.execute(DAY.format(folder=folder, day=day, out=path, **histories))
        spent, wall = time.process_time() - started, time.perf_counter() - wall
        found = database.execute(f"SELECT * FROM read_parquet('{out}/*.parquet')")
        names = [column[0] for column in found.description]
        found = [dict(zip(names, row)) for row in found.fetchall()]
    found = {str(row.pop("dt")): {name: int(value) for name, value in row.items()} for row in found}
    due = expected(folder)
    wrong = [str(day) for day in days if found.get(str(day)) != due[str(day)]]
    assert not wrong, f"other answers for {wrong}: {found.get(wrong[0])} instead of {due[wrong[0]]}"
    figure = {
        "who": f"DuckDB {duckdb.__version__}",
        "days": len(days),
        "loop_cpu_seconds": spent,
        "loop_wall_seconds": wall,
        "whole_cpu_seconds": time.process_time(),
    }
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
