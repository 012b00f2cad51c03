"""A year of a fleet in the ledger, week by week: how it grows, and what its hot questions cost then.

What a week of a model is, is `Week`. Records and events go through the intake's own verb, fates through the ledger's;
attempts with their steps and days, champions, windows, self-tests, news and the audit log are written in bulk, for by
the verbs a year of them would take hours. Each verdict is that of `bench/data/dossier.json` with other numbers.
"""

from __future__ import annotations

import copy
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from bench.web_history import Past
from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.sql import SqlLedger, SqlTx
from ratchet.bootstrap import Ratchet
from ratchet.domain import events as cloudevents
from ratchet.domain.audit import GENESIS, Head
from ratchet.ports.ledger import AttemptRow, FateChange, Ledger, Tx
from ratchet.records import RawRecord, RunContext
from ratchet.stack import postgres
from ratchet.workflow.claiming import Claims
from ratchet.workflow.deciding import decide_model, plan, spec_of
from ratchet.workflow.intake import Intake
from ratchet.workflow.measuring import Measurements
from ratchet.workflow.overview import Overviews

START = datetime(2025, 1, 6, tzinfo=UTC)
DAY, WEEK = timedelta(days=1), timedelta(weeks=1)
DATASETS = ("flights", "weather")
LONGEST = 200
FEW = 50
"""Of one model; in the fourth week it has had 76."""
TESTED_FROM = 16
"""Weeks of judged days from which on the nightly self-test of a model says something."""
DATABASE_SIZE = "SELECT pg_database_size(current_database())"
TABLES = """
    SELECT c.relname, greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid), pg_indexes_size(c.oid)
    FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY 3 DESC"""


@dataclass(frozen=True)
class Week:
    """What a week of a model is; the datasets are shared, and each arrival is one event of each model."""

    arrivals: int = 7 * len(DATASETS)
    drift_events: int = 5
    windows: int = 1
    attempts: int = 1
    self_tests: int = 7

    @property
    def events(self) -> int:
        """Rows in the inbox."""
        return self.arrivals + self.drift_events


class Year(Past):
    """Writes a deployed fleet's weeks into a ledger without a past; in its clock they follow each other at once."""

    def __init__(self, ratchet: Ratchet, seed: int = 0) -> None:
        super().__init__(ratchet, seed)
        self._intake = Intake(ratchet.ledger, ratchet.settings)
        self._weeks = self._last_event = self._offset = 0
        with ratchet.ledger.transaction() as tx:
            self._digests = {row.model: row.digest for row in tx.registered()}
            tx.set_clock("replay", START)
            for dataset in DATASETS:
                tx.advance_watermark(dataset, START, 1.0)
            spec = spec_of(tx, next(iter(self._digests.values())))
            self._days = _used(plan(tx, spec, START))
        self._served = dict.fromkeys(self._digests, 0)

    def week(self) -> None:
        """The next week: its days' records, what became of them, and an attempt of each model."""
        monday, self._rows, self._audits = START + self._weeks * WEEK, {}, []
        for day in range(7):
            self.day(monday + day * DAY, day)
        self._weeks += 1
        self._fates()
        with self._ratchet.ledger.transaction() as tx:
            before = tx.audit_head() or Head(0, GENESIS)
        for model, digest in self._digests.items():
            self._of_model(model, digest, monday + 6 * DAY)
        self._audit_rows(before)
        last = self._rows["audit"][-1]
        end = {"seq": last["seq"], "hash": last["hash"]}
        with self._ratchet.ledger.engine.begin() as db:
            for name, rows in self._rows.items():
                db.execute(sa.insert(t.metadata.tables[name]), rows)
            db.execute(
                sa.update(t.audit_head).values(end) if before.seq else sa.insert(t.audit_head).values(id=1, **end)
            )
            self._use_days(db, monday)
            db.execute(sa.delete(t.touched))
            db.execute(sa.update(t.lease).values(epoch=self._weeks))

    def day(self, at: datetime, number: int = 0) -> None:
        """What the broker had on one day, by the intake's verb."""
        told = [
            cloudevents.new_event(
                cloudevents.DataArrived(
                    dataset=dataset, complete_until=at + DAY, new_rows=1_000, label_completeness=1.0
                ),
                id=f"{dataset}-{at:%Y%m%d}",
                source="https://warehouse.example.com",
                subject=dataset,
                time=at + DAY,
            )
            for dataset in DATASETS
        ]
        for place, model in enumerate(self._digests):
            if (place + number) % 7 >= Week.drift_events:
                continue
            drift = cloudevents.DriftDetected(
                check=f"psi_{place % 3}",
                severity=round(self._chance.random(), 2),
                window_start=at,
                window_end=at + DAY,
                feature="dep_delay",
            )
            named = f"{model}-{at:%Y%m%d}"
            told.append(
                cloudevents.new_event(
                    drift, id=named, source="https://monitoring.example.com/drift", subject=model, time=at + DAY
                )
            )
        records = []
        for event in told:
            key, value, headers = cloudevents.to_record(event)
            records.append(RawRecord("bench", "ml.drift", 0, self._offset, key, value, tuple(headers)))
            self._offset += 1
        self._intake.store(records)

    def _fates(self) -> None:
        """Of the week's events two fates each: they waited, and then an attempt took them or nobody needed them."""
        c = t.event.c
        with self._ratchet.ledger.engine.begin() as db:
            rows = db.execute(sa.select(c.id, c.model, c.type).where(c.id > self._last_event).order_by(c.id)).all()
        first, last = [], []
        for pk, model, kind in rows:
            attempt = f"{model}.{self._weeks}"
            first.append(FateChange(pk, "deferred", "debounce of 5s is not over", START + self._weeks * WEEK))
            if kind.startswith("ratchet.drift") and self._chance.random() < 0.6:
                last.append(FateChange(pk, "suppressed", "severity 0.21 is below min_severity 0.3"))
            else:
                last.append(FateChange(pk, "merged", f"merged into {attempt}", None, attempt))
        with self._ratchet.ledger.transaction() as tx:
            tx.change_fates(first)
        with self._ratchet.ledger.transaction() as tx:
            tx.change_fates(last)
        with self._ratchet.ledger.engine.begin() as db:
            db.execute(sa.update(t.event).where(c.id > self._last_event).values(told_at=sa.func.now()))
        self._last_event = rows[-1].id

    def _of_model(self, model: str, digest: str, at: datetime) -> None:
        epoch, served = self._weeks, self._served[model]
        attempt = self._attempt(model, digest, epoch, at, served, "concluded")
        if attempt.verdict == "promote":
            served = self._served[model] = served + 1
            self._champion(attempt, served)
        self._tell(attempt)
        window = {"model": model, "window_end": at, "state": "done", "version": served or None, "spec_digest": digest}
        report = {"report_uri": f"file:///storage/monitor/{model}/{epoch}.json", "report_sha256": "f" * 64}
        self._add("monitored", window | report | {"found": FOUND, "rung_at": at, "done_at": at})
        for night in range(Week.self_tests):
            when, passed = at + night * DAY, None if epoch < TESTED_FROM else True
            self._add("self_test", {"model": model, "at": when, "passed": passed, "detail": TESTED})
            if passed:
                self._audits.append((when, "ratchet", "selftest.passed", model, TESTED))

    def _steps(self, attempt: AttemptRow, names: Sequence[str]) -> None:  # noqa: ARG002 - those of a real attempt
        """The steps and the days of an attempt, with what they answer."""
        evaluated = {"verdict": attempt.verdict_record, "used_days": self._days, "evidence_digest": "e" * 64}
        answers = {
            "snapshot": copy.deepcopy(self._dossier["snapshot"]),
            "tune.0": {"worker": 0, "trials": 6, "best": 0.81},
            "tune.1": {"worker": 1, "trials": 6, "best": 0.81},
            "evaluate": evaluated,
        }
        for place, (name, answer) in enumerate(answers.items()):
            began = attempt.created_at + timedelta(minutes=3 * place)
            times = {"started_at": began, "finished_at": began + timedelta(seconds=self._chance.randrange(5, 170))}
            self._add("step", {"attempt_id": attempt.id, "step": name, "result": answer} | times)

    def _use_days(self, db: sa.Connection, monday: datetime) -> None:
        """The days of the week's attempts: those of the first one, and then as many of each other in one statement."""
        first, *_ = self._rows["attempt"]
        versions = {name: first[name] for name in ("champion_version", "challenger_version")}
        of_first = {"attempt_id": first["id"], "model": first["model"]} | versions
        shift = monday - START
        used = [
            of_first | {"role": role, "day": (datetime.fromisoformat(day) + shift).date(), "rows": count}
            for role, days in self._days.items()
            for day, count in days.items()
        ]
        db.execute(sa.insert(t.used_day), used)
        a, u = t.attempt.c, t.used_day.c
        others = sa.and_(u.attempt_id == first["id"], a.epoch == first["epoch"], a.id != first["id"])
        columns = [a.id, u.role, u.day, a.model, a.champion_version, a.challenger_version, u.rows]
        names = ["attempt_id", "role", "day", "model", "champion_version", "challenger_version", "rows"]
        joined = sa.join(t.attempt, t.used_day, others)
        db.execute(sa.insert(t.used_day).from_select(names, sa.select(*columns).select_from(joined)))

    def _keep_dossier(self, attempt_id: str, model: str, verdict: dict[str, Any], at: datetime) -> tuple[str, str]:  # noqa: ARG002
        """Where it would be: files are not the ledger's."""
        return f"file:///storage/dossiers/{attempt_id}.json", "d" * 64

    def _tell(self, attempt: AttemptRow) -> None:
        """What the world was told of an attempt."""
        for kind, name in (("alias", "challenger"), ("record", "decision"), ("alias", "champion")):
            if name == "champion" and attempt.verdict != "promote":
                continue
            payload = {"model": attempt.model, "version": attempt.challenger_version, "said": "its lower bound …" * 20}
            row = {
                "dedupe": f"{name}:{attempt.id}",
                "model": attempt.model,
                "kind": kind,
                "payload": payload,
                "tries": 1,
            }
            self._add("outbox", row | {"created_at": attempt.created_at, "done_at": attempt.created_at})
        self._audits.append((attempt.created_at, "ratchet", "attempt.opened", attempt.model, {"attempt": attempt.id}))
        detail = {"attempt": attempt.id, "verdict": attempt.verdict, "evidence": "e" * 64, "dossier": "d" * 64}
        self._audits.append((attempt.created_at, "ratchet", "attempt.judged", attempt.model, detail))


FOUND = {
    check: {"outcome": "cleared", "said": "nothing has moved further than chance moves it"}
    for check in ("quality", "features", "predictions", "payoff")
} | {"cause": "none", "window": {"start": "2025-01-01", "end": "2025-01-29"}}
TESTED = {
    "outcome": "passed",
    "attempts": [f"attempt.{n}" for n in range(8)],
    "shares": [0.01] * 8,
    "weeks": 26,
    "seed": 1,
}


def _used(planned: Any) -> dict[str, dict[str, int]]:
    """The days of a plan by role, each with as many rows as a day of the flights has."""

    def days(start: Any, end: Any) -> dict[str, int]:
        return {(start + n * DAY).isoformat(): 900 for n in range((end - start).days)}

    return {
        "fit": days(planned.fit_start, planned.fit_end),
        "calibrate": days(planned.calibrate_start, planned.calibrate_end),
        "holdout": {day.isoformat(): 900 for day in planned.holdout_days},
    }


# What it costs to ask ------------------------------------------------------------------------------------------------


class Undone:
    """The ledger, three weeks later by its clock, so that there are fresh days; what is written is rolled back."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """A transaction that leaves nothing behind."""
        with self._ledger.engine.connect() as connection, connection.begin() as whole:
            tx = SqlTx(connection)
            later = tx.clock()[1] + 3 * WEEK
            tx.set_clock("replay", later)
            for dataset in DATASETS:
                tx.advance_watermark(dataset, later, 1.0)
            yield tx
            whole.rollback()


def questions(ledger: SqlLedger, ratchet: Ratchet) -> dict[str, Callable[[], object]]:
    """What is asked all day, by name; nothing is changed by it."""
    undone: Ledger = Undone(ledger)  # type: ignore[assignment]
    with ledger.transaction() as tx:
        registered = tx.registered()
    names, chosen = [row.model for row in registered], registered[len(registered) // 2]
    overviews, measurements = Overviews(), Measurements(ledger, "bench", "0" * 64)
    intake, claims = Intake(ledger, ratchet.settings), Claims(undone, ratchet.settings, "c" * 64)
    run = RunContext(f"retrain__{chosen.model}", "bench", "manual", "bench", {"reason": "bench"})

    def read(ask: Callable[[Tx], object]) -> Callable[[], object]:
        def asked() -> object:
            with ledger.transaction() as tx:
                return ask(tx)

        return asked

    def decide() -> int:
        with undone.transaction() as tx:
            return decide_model(tx, spec_of(tx, chosen.digest))

    def claim() -> object:
        answer = claims.claim(chosen.model, run)
        if answer["attempt"] is None:
            raise RuntimeError(f"nothing was claimed: {answer['reason']}")
        return answer

    return {
        "claim": claim,
        "admission of a model": decide,
        "a tick with nothing new": intake.tick,
        "overview of all models": read(lambda tx: overviews.of(tx, registered)),
        "metrics": measurements.measure,
        "events, newest 200": read(lambda tx: tx.events_before(None, models=names, limit=LONGEST)),
        "events of a model, newest 50": read(lambda tx: tx.events_before(None, models=[chosen.model], limit=FEW)),
        "events with a rare fate": read(
            lambda tx: tx.events_before(None, models=names, fates=["failed"], limit=LONGEST)
        ),
        "attempts, newest 200": read(lambda tx: tx.attempts_before(None, models=names, limit=LONGEST)),
        "audit log, newest 200": read(lambda tx: tx.audited_before(None, models=names, limit=LONGEST)),
    }


def ask_both(sides: Mapping[str, Mapping[str, Callable[[], object]]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each question, by question and side, in turns; the first two rounds are for warming up."""
    took: dict[str, dict[str, list[float]]] = {}
    for turn in range(-2, rounds):
        for name in next(iter(sides.values())):
            for side, asked in sides.items():
                began = time.perf_counter()
                asked[name]()
                if turn >= 0:
                    took.setdefault(name, {}).setdefault(side, []).append((time.perf_counter() - began) * 1e3)
    return took


def told(took: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Median and range of each."""
    return {
        name: {
            side: {"median": round(statistics.median(ms), 2), "min": round(min(ms), 2), "max": round(max(ms), 2)}
            for side, ms in by_side.items()
        }
        for name, by_side in took.items()
    }


# What it weighs ------------------------------------------------------------------------------------------------------


def sizes(engine: sa.Engine) -> dict[str, Any]:
    """Rows and bytes of each table that has some, with its indexes and what is kept beside it, after a vacuum."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(sa.text("SET statement_timeout = 0"))
        db.execute(sa.text("VACUUM ANALYZE"))
        whole = db.execute(sa.text(DATABASE_SIZE)).scalar_one()
        tables = db.execute(sa.text(TABLES)).all()
    return {
        "database_mb": round(whole / 1e6, 1),
        "tables": {
            name: {"rows": rows, "mb": round(size / 1e6, 2), "of_it_indexes_mb": round(indexes / 1e6, 2)}
            for name, rows, size, indexes in tables
            if rows
        },
    }


def dump(address: str, target: Path) -> dict[str, float]:
    """A dump as `ratchet backup` takes it: seconds and megabytes."""
    given = urlsplit(address)
    bare = given._replace(netloc=f"{given.username}@{given.hostname}:{given.port}").geturl()
    began = time.monotonic()
    subprocess.run(
        [str(postgres.binaries() / "pg_dump"), f"--dbname={bare}", "--format=custom", f"--file={target}"],
        env=os.environ | {"PGPASSWORD": unquote(given.password or "")},
        check=True,
    )
    took, size = time.monotonic() - began, target.stat().st_size
    target.unlink()
    return {"seconds": round(took, 1), "mb": round(size / 1e6, 1)}
