"""Prints what the peers and hindcast measured as one table."""

import json
import re
import sys


def lines(path: str):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.startswith("{")]


def as_of(peers, ours) -> None:
    counts, rows = set(), {"hindcast (two axes of time)": {}}
    axes = {"MariaDB": "two axes", "surrealkv": "one axis", "cozo": "one axis"}
    for figure in ours:
        match = re.fullmatch(r"as-of read at (\d+) versions", figure["what"])
        if match:
            rows["hindcast (two axes of time)"][int(match[1])] = figure["value"]
    for figure in peers:
        if "versions" in figure:
            name = f"{figure['who']} ({axes[figure['who'].split()[0]]})"
            rows.setdefault(name, {})[figure["versions"]] = figure["micros"]
    for row in rows.values():
        counts.update(row)
    print(f"{'as-of read, µs, at versions:':<34}" + "".join(f"{count:>14,}" for count in sorted(counts)))
    for name, row in rows.items():
        cells = [row.get(count) for count in sorted(counts)]
        print(f"{name:<34}" + "".join(f"{'-':>14}" if cell is None else f"{cell:>14,.1f}" for cell in cells))


def joins(peers, ours) -> None:
    ours = {figure["what"]: figure["value"] for figure in ours}
    print(f"\n{'join, rows/s:':<34}{'warm':>14}{'cold':>14}")
    if "join rows/s warm" in ours:
        print(f"{'hindcast':<34}{ours['join rows/s warm']:>14,.0f}{ours['join rows/s cold']:>14,.0f}")
    for figure in peers:
        if "rows_per_second" in figure:
            warm, cold = figure["rows_per_second"], figure["cold_rows_per_second"]
            print(f"{figure['who']:<34}{warm:>14,.0f}{cold:>14,.0f}")
            # The same join: the same observations.
            due = ours.get("join obs_id sum")
            if due is not None and figure["sums"][2] != due:
                sys.exit(f"{figure['who']} found other rows: {figure['sums'][2]} instead of {due:.0f}")


def main() -> None:
    peers, ours = map(lines, sys.argv[1:3])
    as_of(peers, ours)
    joins(peers, ours)
    print("\n-: not measured (loading took too long, or left out)")


if __name__ == "__main__":
    main()
