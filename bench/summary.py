"""All rows of ``bench/results`` in one list, as JSON and as the table of docs/performance.md.

    python -m bench.summary               # bench/results/summary.json, and the table between its marks

First come the rows that were promised (``PROMISED``), in that order, each there as soon as it is measured and shown as
*not measured* until then; the others follow by report. A row's change is against the same row as it was last committed:
where its own figure, in its own unit, has moved by more than a tenth, the table says by how much. Figures of different
machines do not compare; ratios do.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.reports import RESULTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- the table below is written by `make bench` -->", "<!-- end of the table -->"
COLUMNS = ("name", "peer", "ours", "theirs", "ratio", "unit", "goal", "met")
MOVED = 0.1
OWN = "summary.json"


@dataclass(frozen=True)
class Promised:
    """A row that was promised, shown by this name until rows are measured whose name and peer begin like these."""

    name: str
    peer: str
    goal: str

    def is_met_by(self, row: Mapping[str, Any]) -> bool:
        """Whether this is the row."""
        return row["name"].startswith(self.name) and row["peer"].startswith(self.peer)

    def unmeasured(self) -> dict[str, Any]:
        """The row as it stands until then."""
        told = {"name": self.name, "peer": self.peer, "goal": self.goal, "report": None}
        return {column: told.get(column) for column in (*COLUMNS, "report")}


ONE_SHOT = "snapshot one-shot, 1M × 1M, two views of ten"
LOOP, VERDICT = "40-trial Optuna loop", "verdict on 1,000,000 rows"
DASK, EVENT = "snapshot against Feast's default store, 1M × 1M", "event parse and validate"

PROMISED = (
    Promised(ONE_SHOT, "Feast's DuckDB store", ">= 6"),
    Promised(ONE_SHOT, "bare polars as-of join (limit)", "ours <= 1.5 of theirs"),
    Promised("snapshot warm, 1M × 5M", "Feast's DuckDB store", ">= 30, memory <= 1/4, 0 lost, 0 wrong"),
    Promised("snapshot of 10,000 new rows", "Feast's DuckDB store", ">= 30, <= 50 ms"),
    Promised(DASK, "Feast's default store (dask)", ">= 75"),
    Promised("retune to the naive loop's quality, stable months", LOOP, ">= 20"),
    Promised("retune to the naive loop's quality, drifting months", LOOP, ">= 8"),
    Promised("tune cold, ", LOOP, ">= 5"),
    Promised("tune cold, ", "FLAML", "no slower"),
    Promised(VERDICT, "scipy.stats.bootstrap on sums of days", "at most 1.5 times"),
    Promised(VERDICT, "resampling rows by day", ">= 100"),
    Promised(EVENT, "json + jsonschema, validator reused", ">= 50"),
    Promised(EVENT, "pydantic model_validate_json", ">= 1.8"),
    Promised("register a version", "MLflow's default calls", ">= 100"),
    Promised("warm worker: event to first trial", "new process per task", ">= 20"),
    Promised("whole cycle, warm", "bare script, same mathematics", "at most 15 % or 10 s above"),
    Promised("parse 200 specs", "", "< 1 s"),
    Promised("task start among 200 specs", "eager loader", "< 150 ms"),
)


def in_order(measured: Iterable[dict[str, Any]], promised: Sequence[Promised] = PROMISED) -> list[dict[str, Any]]:
    """The promised rows first, each where it is measured or as not measured; then the others as they come."""
    left, first = list(measured), []
    for one in promised:
        found = [row for row in left if one.is_met_by(row)]
        left = [row for row in left if not one.is_met_by(row)]
        first += found or [one.unmeasured()]
    return [*first, *left]


def machines(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence on where the reports were measured."""
    where: dict[str, list[str]] = {}
    for name, report in sorted(reports.items()):
        said = report.get("machine") or {}
        cores, kind = said.get("cpus") or said.get("cores"), said.get("processor") or said.get("cpu")
        if cores is not None:
            told = [f"{cores} cores", kind or said.get("machine"), f"Python {said.get('python')}"]
            where.setdefault(", ".join(filter(None, told)), []).append(f"{name} {_day(report)}")
    return "Measured on " + "; ".join(f"{machine} ({', '.join(names)})" for machine, names in where.items()) + "."


def _day(report: Mapping[str, Any]) -> str:
    at = report["machine"].get("at") or report.get("measured_at") or report.get("at") or ""
    return str(at)[:10]


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
        if row["ours"] is None and row["met"] is None:
            met = "not measured"
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
    now = in_order(rows(reports))
    old = {file.stem: report for file in files if (report := committed(file.name)) is not None}
    (RESULTS / OWN).write_text(json.dumps(now, indent=2) + "\n")
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    made = table(now, rows(old))
    PAGE.write_text(f"{head}{BEGIN}\n\n{machines(reports)}\n\n{made}\n\n{END}{tail}")
    print(made)
    missed = [row["name"] for row in now if row["met"] is False]
    absent = [f"{row['name']} beside {row['peer']}" for row in now if row["report"] is None]
    print(f"{len(now)} rows, {len(missed)} goals missed{': ' if missed else ''}{'; '.join(missed)}")
    print(f"{len(absent)} not measured{': ' if absent else ''}{'; '.join(absent)}")


if __name__ == "__main__":
    main()
