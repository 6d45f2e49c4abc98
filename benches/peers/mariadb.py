"""As-of reads of one entity with more and more corrections, in a bitemporal table of MariaDB.

Starts a server of its own (mariadb-server from apt: mariadb-install-db and mariadbd) in a temporary folder, without network.
The table has an application-time period and system versioning. History is inserted with its own system times
(system_versioning_insert_history), as the rectangles that the corrections make; that is only a faster way to the same table
than UPDATE ... FOR PORTION OF, one commit each. Reads run in a stored procedure, so that no client is measured; some are
first compared with what this script computes. Prints one JSON object per line: who, versions, microseconds per read.
"""

import argparse
import bisect
import json
import os
import pathlib
import pwd
import random
import shutil
import subprocess
import sys
import tempfile
import time

import pymysql

HOURS = 365 * 24
CHECKS = 100
EPOCH = 1_356_998_400  # 2013-01-01, the first hour of valid time
START = 1_577_836_800  # 2020-01-01, the first commit; one correction a second from then on
OPEN = "2038-01-19 03:14:07.999999"

TABLE = """
CREATE TABLE station (
    id VARCHAR(16) NOT NULL,
    temp DOUBLE,
    valid_from DATETIME NOT NULL,
    valid_to DATETIME NOT NULL,
    row_start TIMESTAMP(6) GENERATED ALWAYS AS ROW START,
    row_end TIMESTAMP(6) GENERATED ALWAYS AS ROW END,
    PERIOD FOR valid_time (valid_from, valid_to),
    PERIOD FOR SYSTEM_TIME (row_start, row_end),
    KEY as_of (id, valid_from, valid_to)
) WITH SYSTEM VERSIONING ENGINE = InnoDB
"""

READS = """
CREATE PROCEDURE read_many(times INT, versions INT, OUT found BIGINT)
BEGIN
    DECLARE hits BIGINT DEFAULT 0;
    DECLARE value DOUBLE;
    DECLARE at DATETIME;
    DECLARE basis TIMESTAMP(6);
    WHILE times > 0 DO
        SET at = TIMESTAMP'2013-01-01 00:00:00' + INTERVAL FLOOR(RAND() * {hours}) HOUR;
        SET basis = FROM_UNIXTIME({start} + FLOOR(RAND() * versions) + 0.5);
        SET value = NULL;
        SELECT temp INTO value FROM station FOR SYSTEM_TIME AS OF TIMESTAMP basis
            WHERE id = 'one' AND valid_from <= at AND valid_to > at LIMIT 1;
        IF value IS NOT NULL THEN SET hits = hits + 1; END IF;
        SET times = times - 1;
    END WHILE;
    SET found = hits;
END
"""


class Timeline:
    """Corrections of random ranges, as rectangles. Valid time in hours, system time in corrections."""

    def __init__(self, versions: int) -> None:
        self.closed = []  # (from, to, value, since, until)
        self.starts, self.live = [0], [(0, HOURS, 0, 0)]
        self.corrections = [(0, HOURS)]
        chance = random.Random(versions)
        for number in range(1, versions):
            start = chance.randrange(HOURS - 24)
            end = start + 1 + chance.randrange(24)
            self.corrections.append((start, end))
            self.correct(number, start, end)

    def correct(self, number: int, start: int, end: int) -> None:
        first = bisect.bisect_right(self.starts, start) - 1
        last = bisect.bisect_left(self.starts, end)
        fresh = []
        for low, high, value, since in self.live[first:last]:
            self.closed.append((low, high, value, since, number))
            if low < start:
                fresh.append((low, start, value, number))
            if high > end:
                fresh.append((end, high, value, number))
        fresh.append((start, end, number, number))
        fresh.sort()
        self.live[first:last] = fresh
        self.starts[first:last] = [row[0] for row in fresh]

    def rows(self):
        yield from self.closed
        for row in self.live:
            yield (*row, None)

    def value(self, at: int, basis: int) -> int:
        """By going back through the corrections."""
        for number in range(basis, -1, -1):
            start, end = self.corrections[number]
            if start <= at < end:
                return number
        raise AssertionError("the first correction covers all")


class Server:
    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="peers-mariadb-"))
        data, self.socket = self.folder / "data", self.folder / "socket"
        user = pwd.getpwuid(os.getuid()).pw_name
        install = ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = ["mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", "--skip-networking"]
        command += [f"--socket={self.socket}", "--innodb-buffer-pool-size=2G", "--innodb-flush-log-at-trx-commit=0"]
        command += ["--skip-log-bin", f"--pid-file={self.folder / 'pid'}"]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def connect(self):
        for _ in range(300):
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text())
            try:
                return pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=False)
            except pymysql.OperationalError:
                time.sleep(0.1)
        raise RuntimeError("mariadbd does not answer")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


def moment(cursor, correction) -> str:
    if correction is None:
        return OPEN
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(START + correction)) + ".000000"


def hour(number: int) -> str:
    return time.strftime("'%Y-%m-%d %H:%M:%S'", time.gmtime(EPOCH + number * 3_600))


def load(connection, versions: int, longest: float):
    """The timeline, and whether it was loaded in time."""
    timeline = Timeline(versions)
    cursor = connection.cursor()
    for statement in ("DROP TABLE IF EXISTS station", TABLE, "DROP PROCEDURE IF EXISTS read_many"):
        cursor.execute(statement)
    cursor.execute(READS.format(hours=HOURS, start=START))
    cursor.execute("SET SESSION system_versioning_insert_history = 1")
    started, rows = time.monotonic(), []
    insert = "INSERT INTO station (id, temp, valid_from, valid_to, row_start, row_end) VALUES "

    def send() -> None:
        cursor.execute(insert + ",".join(rows))
        rows.clear()

    for low, high, value, since, until in timeline.rows():
        rows.append(f"('one',{value},{hour(low)},{hour(high)},'{moment(cursor, since)}','{moment(cursor, until)}')")
        if len(rows) == 2_000:
            send()
            if time.monotonic() - started > longest:
                connection.commit()
                return timeline, False
    if rows:
        send()
    connection.commit()
    cursor.execute("ANALYZE TABLE station")
    cursor.fetchall()
    return timeline, True


def check(connection, timeline: Timeline, versions: int) -> None:
    chance, cursor = random.Random(1), connection.cursor()
    for _ in range(min(CHECKS, versions * 10)):
        at, basis = chance.randrange(HOURS), chance.randrange(versions)
        as_of = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(START + basis)) + ".5"
        cursor.execute(
            f"SELECT temp FROM station FOR SYSTEM_TIME AS OF TIMESTAMP'{as_of}'"
            f" WHERE id = 'one' AND valid_from <= {hour(at)} AND valid_to > {hour(at)}"
        )
        found, due = cursor.fetchall(), timeline.value(at, basis)
        assert [int(row[0]) for row in found] == [due], (found, due)


def measure(connection, versions: int, seconds: float) -> float:
    cursor, reads = connection.cursor(), 1
    while True:
        started = time.perf_counter()
        cursor.execute("CALL read_many(%s, %s, @found)", (reads, versions))
        spent = time.perf_counter() - started
        cursor.execute("SELECT @found")
        assert cursor.fetchone()[0] == reads, "every read finds a value"
        if spent > seconds / 4 or reads >= 200_000:
            return spent / reads * 1e6
        reads *= 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", default="1,100,10000,1000000")
    parser.add_argument("--seconds", type=float, default=300.0, help="longest load")
    arguments = parser.parse_args()
    server = Server()
    try:
        connection = server.connect()
        cursor = connection.cursor()
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute("CREATE DATABASE peers")
        connection.select_db("peers")
        cursor.execute("SELECT VERSION()")
        who = f"MariaDB {cursor.fetchone()[0].split('-')[0]}"
        for versions in map(int, arguments.versions.split(",")):
            timeline, loaded = load(connection, versions, arguments.seconds)
            micros = None
            if loaded:
                check(connection, timeline, versions)
                micros = measure(connection, versions, 8.0)
            print(json.dumps({"who": who, "versions": versions, "micros": micros}), flush=True)
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
