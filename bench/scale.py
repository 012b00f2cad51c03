"""500 models: what grows with their number and with the years, and where the wall is.

Two fleets, one after the other on a stack of their own (PostgreSQL, one broker, scheduler, triggerer, DAG processor,
api-server): ten models, which is the peer, and 500. Each is asked the same: how long Airflow takes to know all DAGs and
a changed spec, what idling costs, how soon one model and fifty at once claim, how fast a storm of events is durable and
has a fate, what the first page and the API take. Then a year of the 500 is written into a ledger (`bench.scale_year`),
and its hot questions are asked of it and of a copy from the end of the fourth week, in turns.

    python -m bench.scale                      # all; ports from 27000; always stopped at the end
    python -m bench.scale --only year          # one part: small, large or year; the others' figures are kept
    python -m bench.scale --quick              # 30 models beside 5, eight weeks: to see that it works; writes nothing

A phase is kept as soon as it is done. What each row means is told in bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.intake_stack import ROOT
from bench.reports import RESULTS, machine, write
from bench.scale_fleet import METRICS, Fleet, write_specs
from bench.scale_year import WEEK, Week, Year, ask_both, dump, questions, sizes, told
from bench.web import AIRFLOW_LIST, FIRST_PAGE, LIST, Servers, row, say
from ratchet.adapters.ledger.sql import SqlLedger
from ratchet.bootstrap import wire

PARTS = ("small", "large", "year")
LIBRARIES = ("apache-airflow", "sqlalchemy", "kafka-python", "pydantic")
PARSE_LIMIT_SECONDS = 50.0
"""Airflow's `dag_file_processor_timeout`: a file that takes longer is given up, and its DAGs with it."""
SWEEP_EVERY_SECONDS = 60.0
CLAIM_GOAL_SECONDS = 5.0
API_GOAL_MS = 100.0
BULK_SECONDS = 600.0
"""A statement that writes a week of the fleet may take so long."""
GROWTH = 2.0
"""A question may take so many times as long at the year's end."""


@dataclass(frozen=True)
class Size:
    """What was asked for."""

    models: int = 500
    small: int = 10
    events: int = 50_000
    changes: int = 3
    idle_seconds: float = 150.0
    seldom_seconds: int = 600
    calm: int = 8
    burst: int = 50
    arrival_seconds: float = 60.0
    rounds: int = 40
    weeks: int = 52
    first_weeks: int = 4


QUICK = Size(30, 5, 3_000, 1, 70.0, 600, 2, 10, 20.0, 5, 8, 2)


@dataclass
class Report:
    """The figures so far by part and phase; the rows that follow are written whenever there is another phase."""

    size: Size
    keep: bool
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, part: str, phase: str, found: dict[str, Any]) -> None:
        """Keep what a phase has found, beside what earlier runs of the same size have."""
        if self.keep:
            self.figures = _kept(self.size)
        self.figures.setdefault(part, {})[phase] = found
        if self.keep:
            where = machine(self.size.rounds, *LIBRARIES)
            write("scale", self.rows(), where, asked=vars(self.size), figures=self.figures)
        else:
            print(json.dumps({part: {phase: found}}, default=str))

    def rows(self) -> list[dict[str, Any]]:
        """Those of the phases that both fleets have been through, and of the year."""
        small, large = (self.figures.get(part, {}) for part in ("small", "large"))
        made: list[dict[str, Any]] = []
        for phase, rows in FLEET_ROWS.items():
            if phase in small and phase in large:
                made += rows(large[phase], small[phase], f"{self.size.small} models", self.size)
        if "year" in self.figures:
            made += year_rows(self.figures["year"]["ledger"], self.size)
        return made


def _kept(size: Size) -> dict[str, dict[str, Any]]:
    """What the report has of this size: figures of another are not mixed with these."""
    file = RESULTS / "scale.json"
    told = json.loads(file.read_text()) if file.exists() else {"asked": None}
    return dict(told["figures"]) if told["asked"] == vars(size) else {}


# Rows ----------------------------------------------------------------------------------------------------------------

Found = Mapping[str, Any]


def parse_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """How long Airflow takes to know the DAGs."""
    what = f"{size.models} models, {large['dags']:,} DAGs"
    changed = [statistics.median(each["changed_spec_seconds"]) for each in (large, small)]
    return [
        row(
            f"{what}: from the DAG processor's start until Airflow knows them all",
            peer,
            large["first_known_seconds"],
            small["first_known_seconds"],
            "s",
            None,
        ),
        row(
            f"{what}: one parse of the file",
            peer,
            large["file_seconds"],
            small["file_seconds"],
            "s",
            PARSE_LIMIT_SECONDS,
        ),
        row(f"{what}: from a changed spec to Airflow's page", peer, *changed, "s", None),
    ]


def idle_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """What doing nothing costs."""
    rows = []
    for name in large["cpu_per_minute"]:
        cpu = (large["cpu_per_minute"][name], small["cpu_per_minute"][name])
        rows.append(row(f"{size.models} models, idle: {name}", peer, *cpu, "CPU s a minute", None))
    for name in large["peak_mb"]:
        peaks = (large["peak_mb"][name], small["peak_mb"][name])
        rows.append(row(f"{size.models} models, idle: peak memory of the {name}", peer, *peaks, "MB", None))
    sweeps = [statistics.median(each["sweep_seconds"]) for each in (large, small)]
    rows.append(row(f"{size.models} models, idle: a sweep", peer, *sweeps, "s", SWEEP_EVERY_SECONDS))
    return rows


def claim_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """How soon one model claims."""
    rows = []
    for name, what, goal in (
        ("to_claim_seconds", "from a request to its attempt, median", CLAIM_GOAL_SECONDS),
        ("claim_task_seconds", "the task that claims, median", None),
    ):
        both = [statistics.median(each[name]) for each in (large, small)]
        rows.append(row(f"one of {size.models} models: {what}", peer, *both, "s", goal, all=large[name]))
    return rows


def seldom_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """The same where the DAG processor does not store the DAGs all the time."""
    name = f"one of {size.models} models, the DAG file read every {large['min_file_process_interval']} s"
    both = [statistics.median(each["to_claim_seconds"]) for each in (large, small)]
    what = f"{name}: from a request to its attempt, median"
    return [row(what, peer, *both, "s", CLAIM_GOAL_SECONDS, all=large["to_claim_seconds"])]


def burst_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """Many due at once."""
    due, name = f"{peer}, {small['models']} due", f"{large['models']} of {size.models} models due at once"
    sweeps = [statistics.median(each["sweep_seconds"]) if each["sweep_seconds"] else None for each in (large, small)]
    rows = [
        row(
            f"{name}: until all have claimed",
            due,
            large["all_claimed_seconds"],
            small["all_claimed_seconds"],
            "s",
            None,
        ),
        row(f"{name}: for each", due, large["seconds_per_claim"], small["seconds_per_claim"], "s", None),
    ]
    if sweeps[0] is not None:
        rows.append(row(f"{name}: a sweep while they are held", due, sweeps[0], sweeps[1], "s", SWEEP_EVERY_SECONDS))
    return rows


def arrival_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """One event of data that every model hears."""
    name = f"an arrival of data for {size.models} models"
    cpu = [each["cpu_seconds"]["triggerer"] for each in (large, small)]
    within = f"CPU of the triggerer within {size.arrival_seconds:g} s"
    return [
        row(f"{name}: until each has decided", peer, large["fated_seconds"], small["fated_seconds"], "s", None),
        row(f"{name}: {within}", peer, *cpu, "CPU s", None),
    ]


def storm_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """Many events."""
    name = f"{size.events:,} events to {size.models} models"
    cpu = [sum(each["cpu_seconds"].values()) for each in (large, small)]
    peaks = [each["peak_mb"]["triggerer"] for each in (large, small)]
    return [
        row(
            f"{name}: durable, events/s", peer, large["stored_per_second"], small["stored_per_second"], "events/s", None
        ),
        row(f"{name}: until all have a fate", peer, large["fated_seconds"], small["fated_seconds"], "s", None),
        row(
            f"{name}: CPU of the triggerer",
            peer,
            large["cpu_seconds"]["triggerer"],
            small["cpu_seconds"]["triggerer"],
            "CPU s",
            None,
        ),
        row(f"{name}: CPU of Airflow and PostgreSQL", peer, *cpu, "CPU s", None),
        row(f"{name}: peak memory of the triggerer", peer, *peaks, "MB", None),
    ]


def page_rows(large: Found, small: Found, peer: str, size: Size) -> list[dict[str, Any]]:
    """What people wait for, and scrapers."""
    rows = []
    airflow = large["paths"][AIRFLOW_LIST]["p95"]
    for path, what in (
        (LIST, "GET /v1/models, 200 of them"),
        (FIRST_PAGE, "the first page"),
        (METRICS, "GET /v1/metrics"),
    ):
        both = [each["paths"][path]["p95"] for each in (large, small)]
        cpu = {"cpu_ms": large["paths"][path]["cpu_ms"], "airflow_list_p95": airflow}
        rows.append(row(f"{size.models} models: {what}, p95", peer, *both, "ms", API_GOAL_MS, **cpu))
    whole = [sum(each["paths"][path]["p50"] for path in each["whole_list"]) for each in (large, small)]
    rows.append(row(f"{size.models} models: all of /v1/models by its cursors", peer, *whole, "ms", None))
    return rows


FLEET_ROWS: Mapping[str, Callable[[Found, Found, str, Size], list[dict[str, Any]]]] = {
    "parse": parse_rows,
    "idle": idle_rows,
    "calm": claim_rows,
    "burst": burst_rows,
    "seldom": seldom_rows,
    "arrival": arrival_rows,
    "storm": storm_rows,
    "page": page_rows,
}


def year_rows(year: Found, size: Size) -> list[dict[str, Any]]:
    """How the ledger grows, and what asking it costs then."""
    peer, name = f"week {size.first_weeks}", f"{size.models} models, week {size.weeks}"
    last, first = year["sizes"]["last"], year["sizes"]["first"]
    dumps = year["dumps"]
    rows = [
        row(f"{name}: the ledger on disk", peer, last["database_mb"], first["database_mb"], "MB", None),
        row(f"{name}: its dump", peer, dumps["last"]["mb"], dumps["first"]["mb"], "MB", None),
        row(f"{name}: taking it", peer, dumps["last"]["seconds"], dumps["first"]["seconds"], "s", None),
    ]
    for table, has in list(last["tables"].items())[:6]:
        before = first["tables"].get(table, {"mb": 0, "rows": 0})
        counts = {"rows": [has["rows"], before["rows"]]}
        rows.append(row(f"{name}: table {table}", peer, has["mb"], before["mb"], "MB", None, **counts))
    for question, took in year["questions"].items():
        ours, theirs = took["last"]["median"], took["first"]["median"]
        made = row(f"{name}: {question}", peer, ours, theirs, "ms", None, spread=took)
        rows.append(made | {"goal": f"<= {GROWTH:g} times week {size.first_weeks}", "met": ours <= GROWTH * theirs})
    return rows


# Parts ---------------------------------------------------------------------------------------------------------------


def fleet(part: str, count: int, home: Path, port_base: int, report: Report) -> None:
    """A fleet from its start to its pages; each phase is kept when it is done."""
    size, made = report.size, Fleet(home, port_base, count, say)
    try:
        say(f"{count} models: servers, and the models deployed")
        made.prepare()
        say(f"{count} models: Airflow")
        report.add(part, "parse", made.parse(size.changes))
        say("nothing to do")
        report.add(part, "idle", made.idle(size.idle_seconds))
        alone = min(size.calm, count // 3)
        say("one at a time")
        report.add(part, "calm", made.calm(made.models[:alone]))
        say("many at once")
        report.add(part, "burst", made.burst(made.models[alone : alone + size.burst]))
        made.free()
        say("one at a time, the DAG file read seldom")
        report.add(part, "seldom", made.seldom(made.models[-alone:], size.seldom_seconds))
        made.free()
        say("an arrival of data")
        report.add(part, "arrival", made.arrival(size.arrival_seconds))
        say("a storm")
        report.add(part, "storm", made.storm(size.events, seed=count))
        say("pages")
        report.add(part, "page", made.page(size.rounds))
    finally:
        made.down()


class Database(Servers):
    """PostgreSQL alone, with the models deployed."""

    def prepare(self) -> None:
        """A new home."""
        self._prepare_ledger()

    def write_specs(self) -> None:
        """The fleet's, below the home."""
        write_specs(self.home / "models", self.models)


def year(home: Path, port_base: int, report: Report) -> None:
    """A year in the ledger; asked of its end and of its beginning in turns."""
    size = report.size
    servers = Database(home, port_base, [f"model_{number:03}" for number in range(size.models)], say)
    try:
        say(f"{size.models} models: a ledger")
        servers.prepare()
        ratchet = wire()
        address = servers.config.database("ratchet", "postgresql+psycopg2")
        ratchet.ledger = SqlLedger(address, statement_timeout_seconds=BULK_SECONDS)
        writes, found = Year(ratchet), {}
        for number in range(1, size.weeks + 1):
            writes.week()
            if number % 4 == 0:
                say(f"week {number}")
            if number == size.first_weeks:
                found["first"] = sizes(ratchet.ledger.engine)
                ratchet.ledger.dispose()
                servers.query("postgres", "CREATE DATABASE first TEMPLATE ratchet")
        found["last"] = sizes(ratchet.ledger.engine)
        names = {"last": "ratchet", "first": "first"}
        say("dumps")
        dumps = {side: dump(servers.config.database(name), home / "ledger.dump") for side, name in names.items()}
        say("questions")
        ledgers = {
            side: SqlLedger(servers.config.database(name, "postgresql+psycopg2")) for side, name in names.items()
        }
        took = ask_both({side: questions(ledger, ratchet) for side, ledger in ledgers.items()}, size.rounds)
        for ledger in (*ledgers.values(), ratchet.ledger):
            ledger.dispose()
        week = vars(Week()) | {"events": Week().events}
        told_of = {"week_of_a_model": week, "weeks": size.weeks, "days": size.weeks * WEEK.days}
        report.add("year", "ledger", told_of | {"sizes": found, "dumps": dumps, "questions": told(took)})
    finally:
        servers.down()


def main() -> None:
    """Measure the parts that are asked for, print the rows; everything is stopped whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, help="of the large fleet (default 500)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    parser.add_argument("--home", type=Path, default=ROOT / ".ratchet" / "bench-scale")
    parser.add_argument("--port-base", type=int, default=27_000, help="five ports from there on (default 27000)")
    parser.add_argument("--quick", action="store_true", help="a small one; nothing is written")
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    size = QUICK if asked.quick else Size()
    if asked.models:
        size = Size(**vars(size) | {"models": asked.models})
    home = asked.home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    report = Report(size, keep=not asked.quick)
    for part in asked.only or PARTS:
        if part == "year":
            year(home, asked.port_base, report)
        else:
            fleet(part, size.small if part == "small" else size.models, home, asked.port_base, report)
    for each in report.rows():
        print(f"{each['name']}: {each['ours']} {each['unit']}; {each['peer']}: {each['theirs']}; goal: {each['goal']}")


if __name__ == "__main__":
    main()
