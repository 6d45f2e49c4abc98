"""Prints the rows of an Iceberg table, read by PyIceberg, as sorted JSON lines.

    python read_table.py METADATA_LOCATION [SNAPSHOT_ID]
"""

import datetime
import decimal
import json
import sys

from pyiceberg.table import StaticTable


def plain(value):
    """What JSON can carry: instants and decimals as text, bytes as hexadecimal digits."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"cannot print a {type(value).__name__}")


def main(metadata_location, snapshot_id=None):
    table = StaticTable.from_metadata(metadata_location)
    scan = table.scan(snapshot_id=int(snapshot_id) if snapshot_id else None)
    rows = scan.to_arrow().to_pylist()
    print("\n".join(sorted(json.dumps(row, default=plain, sort_keys=True) for row in rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])
