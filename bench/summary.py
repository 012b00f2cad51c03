"""All rows of ``bench/results`` in one list, as JSON and as the table of docs/performance.md.

    python -m bench.summary               # bench/results/summary.json, and the table between its marks

A row's change is against the same row as it was last committed: where its own figure, in its own unit, has moved by
more than a tenth, the table says by how much. Figures of different machines do not compare; ratios do.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.reports import RESULTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- the table below is written by `make bench` -->", "<!-- end of the table -->"
COLUMNS = ("name", "peer", "ours", "theirs", "ratio", "unit", "goal", "met")
MOVED = 0.1
OWN = "summary.json"


def rows(reports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all reports by file name, each with the columns every row has, and which report it is of."""
    return [
        {column: row.get(column) for column in COLUMNS} | {"report": name}
        for name, report in sorted(reports.items())
        for row in report["rows"]
    ]


def change(now: Mapping[str, Any], before: Iterable[Mapping[str, Any]]) -> str:
    """How far the row's own figure has moved since it was last committed; empty where it stayed or is new."""
    same = next((row for row in before if (row["name"], row["peer"]) == (now["name"], now["peer"])), None)
    if same is None or not same["ours"] or now["ours"] is None:
        return ""
    moved = now["ours"] / same["ours"] - 1
    return f"{moved:+.0%}" if abs(moved) > MOVED else ""


def table(now: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = ["| what | beside | ours | theirs | ratio | goal | met | change |", "|---|---|--:|--:|--:|---|---|---|"]
    known = list(before)
    for row in now:
        figures = [_number(row["ours"], row["unit"]), _number(row["theirs"], row["unit"]), _number(row["ratio"], "")]
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        cells = [row["name"], row["peer"], *figures, row["goal"] or "", met, change(row, known)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.0f} {unit}".rstrip() if abs(value) >= 1_000 else f"{value:.4g} {unit}".rstrip()


def committed(name: str) -> dict[str, Any] | None:
    """The report as it was last committed; None where it is new, or there is no repository."""
    try:
        done = subprocess.run(
            ["git", "show", f"HEAD:bench/results/{name}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return dict(json.loads(done.stdout)) if done.returncode == 0 else None


def main() -> None:
    """Gather, write, print."""
    files = sorted(file for file in RESULTS.glob("*.json") if file.name != OWN)
    reports = {file.stem: json.loads(file.read_text()) for file in files}
    now = rows(reports)
    old = {file.stem: report for file in files if (report := committed(file.name)) is not None}
    (RESULTS / OWN).write_text(json.dumps(now, indent=2) + "\n")
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    made = table(now, rows(old))
    PAGE.write_text(f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}")
    print(made)
    missed = [row["name"] for row in now if row["met"] is False]
    print(f"{len(now)} rows, {len(missed)} goals missed{': ' if missed else ''}{'; '.join(missed)}")


if __name__ == "__main__":
    main()
