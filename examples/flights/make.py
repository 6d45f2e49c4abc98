"""Cuts this folder's data out of a prepared copy of nycflights13 (see README.md). Needs pyarrow.

    python make.py PREPARED_FOLDER

PREPARED_FOLDER holds flights/dt=YYYY-MM-DD/part-0.parquet, planes.csv and weather_history.ndjson.gz. The same input gives
the same files.
"""

import csv
import gzip
import json
import sys
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).parent
FIRST_DAY, END_DAY = date(2013, 1, 1), date(2013, 4, 1)
# The same days as instants: America/New_York is at -05:00 on the first, at -04:00 on the last.
FIRST_INSTANT, END_INSTANT = "2013-01-01T05:00:00Z", "2013-04-01T04:00:00Z"
COLUMNS = [
    "row_id", "carrier", "flight", "tailnum", "origin", "dest", "distance", "air_time",
    "dep_delay", "arr_delay", "sched_dep_utc",
]
NUMBERS = {"year", "engines", "seats", "speed"}


def write_flights(source):
    day = FIRST_DAY
    while day < END_DAY:
        name = f"dt={day}/part-0.parquet"
        target = HERE / "flights" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # `partitioning=None`: dt is the folder's name, not a column of the file.
        table = pq.read_table(source / "flights" / name, columns=COLUMNS, partitioning=None)
        pq.write_table(table, target, compression="zstd", compression_level=19, write_statistics=["sched_dep_utc"])
        day += timedelta(days=1)


def write_lines(name, mutations):
    target = HERE / "entities" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w") as lines:
        for mutation in mutations:
            lines.write(json.dumps(mutation, separators=(",", ":")) + "\n")


def aircraft(source):
    with (source / "planes.csv").open() as lines:
        for plane in csv.DictReader(lines):
            yield {
                "op": "put",
                "entity_type": "aircraft",
                "entity_id": plane.pop("tailnum"),
                "attributes": {
                    name: None if value == "NA" else int(value) if name in NUMBERS else value
                    for name, value in plane.items()
                },
                "valid_from": FIRST_INSTANT,
                "until": "forever",
            }


def airport_weather(source):
    with gzip.open(source / "weather_history.ndjson.gz", "rt") as lines:
        for line in lines:
            reading = json.loads(line)
            if reading["valid_to"] is None or reading["valid_to"] <= FIRST_INSTANT or reading["valid_from"] >= END_INSTANT:
                continue
            yield {
                "op": "put",
                "entity_type": "airport_weather",
                "entity_id": reading["entity_id"],
                "attributes": reading["value"],
                "valid_from": reading["valid_from"],
                "valid_to": reading["valid_to"],
            }


def main():
    source = Path(sys.argv[1])
    write_flights(source)
    write_lines("aircraft.ndjson", aircraft(source))
    write_lines("airport_weather.ndjson", airport_weather(source))


if __name__ == "__main__":
    main()
