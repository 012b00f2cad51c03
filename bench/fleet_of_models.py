"""Thirty models at once: do admission groups, budgets and the cost report hold, and what do they take?

Thirty specs of five owners, twenty-seven of them in three groups of nine (an upstream fault of a group is one
incident), live some days on a ledger of their own, by Ratchet's own verbs. Twice a day an incident degrades every
model. Whoever is rung claims, in a random order, and some that were not rung; of the attempts at work a random one
ends, with the core hours that its model takes. Some models have limits of core hours by day or of money by month.

After every claim the attempts at work are counted by the ledger's rows, not by what Ratchet says of them. At the end
runs, core hours and money are added up by model and day or month, and the cost report is compared with the steps.

- *admission of 30 models*: one tick that has an event of each to decide on, and whose turn it is; beside it 30 ticks
  that have one model's each.
- *claim among 30 models*: one claim while others are due; beside it a claim while nobody else is.
- *parse 30 specs*: as ``bench.dag_parsing``; also with every section on (monitor, scoring, probation).

    python -m bench.fleet_of_models           # the rows go to bench/results/fleet_of_models.json
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ruamel.yaml import YAML

from bench.dag_parsing import BY_HAND, OURS, once
from bench.reports import machine, write
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.adapters.storage import ObjectStore
from ratchet.domain import events as cloudevents
from ratchet.domain.costs import report
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import LIVE_STATES, ChampionRow
from ratchet.records import RawRecord, RunContext
from ratchet.settings import load_settings
from ratchet.workflow.claiming import Claims
from ratchet.workflow.costing import costs_of
from ratchet.workflow.intake import Intake
from ratchet.workflow.promotion import conclude

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "include" / "models" / "flight_delay"
MODELS, GROUPS, OWNERS = 30, ("feeds", "radar", "prices"), ("ops", "fares", "crew", "gates", "fuel")
IN_ALL, PER_INCIDENT = 8, 3
UNRUNG = 4
"""Models that claim in each round though nobody rang them."""
START = datetime(2013, 5, 1, 4, tzinfo=UTC)
TRIALS, THREADS = 12, 2
RUNS_PER_DAY, HOURS_PER_DAY = 2, 1.5
MONEY = {"amount": 30.0, "core_hour": 10.0, "unit": "USD"}
EVERY_SECTION = {"monitor": {}, "scoring": {}, "probation": {"for": "28d"}}
DAYS, PARSE_ROUNDS = 5, 3
TICK_GOAL_MS, CLAIM_GOAL_MS, PARSE_GOAL_MS = 1_000.0, 100.0, 1_000.0


def spec_of_model(number: int) -> ModelSpec:
    """The shipped spec, less its monitor, as this model; some have a limit of hours by day, some one of money."""
    document = load_spec(SHIPPED).model_dump(mode="json") | {"monitor": None}
    budget: dict[str, Any] = {"runs_per_day": RUNS_PER_DAY}
    if number % 4 == 0:
        budget["core_hours_per_day"] = HOURS_PER_DAY
    if number % 5 == 0:
        budget["money_per_month"] = MONEY
    document |= {"model": f"model_{number:02}", "owner": document["owner"] | {"team": OWNERS[number % len(OWNERS)]}}
    document["retrain"] |= {
        "debounce": "0s",
        "cooldown": "0s",
        "budget": budget,
        "priority": number % 10,
        "group": GROUPS[number % len(GROUPS)] if number < MODELS - len(GROUPS) else None,
    }
    document["train"] |= {"trials": TRIALS}
    document["runtime"] |= {"threads": THREADS}
    return ModelSpec.model_validate(document)


def takes(number: int) -> float:
    """Core hours of every run of the model, less than any limit."""
    return 0.3 + number / 30


@dataclass
class Lived:
    """What was seen: the most attempts at work, breaches of any limit, in words, and CPU milliseconds."""

    attempts: int = 0
    most_in_all: int = 0
    most_per_incident: dict[str, int] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    deferred: Counter[str] = field(default_factory=Counter)
    runs_of_a_day: int = 0
    core_hours_of_a_day: float = 0.0
    money_of_a_month: float = 0.0
    core_hours: float = 0.0
    reported: dict[str, float] = field(default_factory=dict)
    stored_bytes: int = 0
    reported_bytes: dict[str, int] = field(default_factory=dict)
    tick_ms: list[float] = field(default_factory=list)
    claim_ms: list[float] = field(default_factory=list)
    lone_tick_ms: list[float] = field(default_factory=list)
    lone_claim_ms: list[float] = field(default_factory=list)


class Fleet:
    """Thirty deployed models with champions, on a ledger in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        settings = {"RATCHET_HOME": str(folder), "RATCHET_FLEET_MAX_ATTEMPTS": str(IN_ALL)}
        self.settings = load_settings(settings | {"RATCHET_INCIDENT_MAX_ATTEMPTS": str(PER_INCIDENT)})
        self.ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
        sa.event.listen(self.ledger.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF"))
        self.ledger.migrate()
        self.store = ObjectStore(str(folder / "storage"))
        self.intake = Intake(self.ledger, self.settings)
        self.claims = Claims(self.ledger, self.settings, "c" * 64)
        self.specs = {spec.model: spec for spec in map(spec_of_model, range(MODELS))}
        self.numbers = {model: number for number, model in enumerate(self.specs)}
        self.chance = random.Random(seed)
        self.lived = Lived()
        self._offset = self._run = 0
        with self.ledger.transaction() as tx:
            tx.set_clock("replay", START - timedelta(days=1))
            for model, spec in self.specs.items():
                tx.publish_spec(model, spec.digest, spec.model_dump(mode="json"))
                tx.insert_champion(ChampionRow(model, 1, 1, None, "init", START, None, "r", None, START))
            for dataset in next(iter(self.specs.values())).datasets:
                tx.advance_watermark(dataset, START, 1.0)

    def live(self, days: int) -> Lived:
        """So many days, two incidents each; then everything is added up."""
        for day in range(days):
            for hour in (1, 9):
                at = START + timedelta(days=day, hours=hour)
                self._degrade(at, f"{day}.{hour}", list(self.specs), self.lived.tick_ms)
                self._work_off()
        self._one_by_one(START + timedelta(days=days))
        self._add_up()
        return self.lived

    def _one_by_one(self, at: datetime) -> None:
        """A day on which each model without a limit of hours or money is degraded while nobody else is due."""
        for number, (model, spec) in enumerate(self.specs.items()):
            if spec.retrain.budget.counts_hours:
                continue
            self._degrade(at + timedelta(minutes=number), "alone", [model], self.lived.lone_tick_ms)
            if self._claim(model, self.lived.lone_claim_ms):
                self._end(*self._at_work())

    def _degrade(self, at: datetime, name: str, models: list[str], spent: list[float]) -> None:
        data = cloudevents.PerformanceDegraded(metric="payoff", value=3.1, threshold=4, window_end=at)
        records = []
        for model in models:
            event = cloudevents.new_event(data, id=f"{model} {name}", source="monitor", subject=model, time=at)
            _, value, headers = cloudevents.to_record(event)
            records.append(RawRecord("c", "ml.drift", 0, self._offset, b"k", value, tuple(headers)))
            self._offset += 1
        with self.ledger.transaction() as tx:
            tx.set_clock("replay", at)
        self.intake.store(records)
        with _timed(spent):
            self.intake.tick()

    def _work_off(self) -> None:
        """Whoever is rung claims, and some who are not; one after the other ends, until nobody may begin."""
        while True:
            asked = {*self.intake.tick(), *self.chance.sample(sorted(self.specs), UNRUNG)}
            begun = sum(
                self._claim(model, self.lived.claim_ms) for model in self.chance.sample(sorted(asked), len(asked))
            )
            live = self._at_work()
            if not live and not begun:
                return
            if live:
                self._end(self.chance.choice(live))

    def _claim(self, model: str, spent: list[float]) -> bool:
        self._run += 1
        with _timed(spent):
            answer = self.claims.claim(
                model, RunContext(f"retrain__{model}", f"r{self._run}", "asset_triggered", None, {})
            )
        if answer["attempt"] is None:
            self.lived.deferred[answer["reason"].partition(":")[0].partition(" model_")[0]] += 1
            return False
        self.store.put_bytes(f"snapshots/{answer['attempt']}/train.parquet", b"x" * (1000 + self.numbers[model]))
        live = self._at_work()
        self.lived.most_in_all = max(self.lived.most_in_all, len(live))
        for (group, incident), count in self._incidents(live).items():
            self.lived.most_per_incident[group] = max(self.lived.most_per_incident.get(group, 0), count)
            if count > PER_INCIDENT:
                self.lived.breaches.append(f"{count} of {PER_INCIDENT} at work for {incident}")
            if not incident.startswith(f"group {group} since "):
                self.lived.breaches.append(f"a model of {group} at work for {incident}")
        if len(live) > IN_ALL:
            self.lived.breaches.append(f"{len(live)} of {IN_ALL} at work")
        return True

    def _incidents(self, live: list[str]) -> Counter[tuple[str, str]]:
        """Attempts at work by group and incident; an event that a budget deferred is of the incident it came with."""
        with self.ledger.transaction() as tx:
            attempts = [tx.attempt(each) for each in live]
        return Counter(
            (group, str(attempt.options["incident"]))
            for attempt in attempts
            if attempt is not None and (group := self.specs[attempt.model].retrain.group)
        )

    def _at_work(self) -> list[str]:
        with self.ledger.transaction() as tx:
            return sorted(attempt.id for attempt in tx.attempts(states=LIVE_STATES))

    def _end(self, attempt_id: str) -> None:
        """The attempt took its hours and kept the champion."""
        with self.ledger.transaction() as tx:
            attempt = tx.attempt(attempt_id)
            if attempt is None:
                raise RuntimeError(f"{attempt_id} vanished")
            trials = int(attempt.options["trials"] or TRIALS)
            hours = takes(self.numbers[attempt.model]) / THREADS * (0.25 + 0.75 * trials / TRIALS)
            for step, share in (("snapshot", 0.1), ("tune.0", 0.75), ("evaluate", 0.15)):
                tx.save_step(attempt_id, step, {}, tx.wall() - timedelta(hours=hours * share))
            verdict = {"estimate": 0.0, "lower": -1.0, "upper": 1.0, "unit": "USD", "reasons": []}
            tx.update_attempt(attempt_id, state="judged", verdict="keep_champion", verdict_record=verdict)
            tx.update_attempt(attempt_id, evidence_digest="e" * 64, challenger_version=2, judged_at=tx.wall())
            judged = tx.attempt(attempt_id)
            if judged is not None:
                conclude(tx, judged, champion_after=1)

    def _add_up(self) -> None:
        """From the ledger's rows alone, and beside it what the report says."""
        lived = self.lived
        with self.ledger.transaction() as tx:
            attempts = tx.attempts()
            hours = {
                attempt.id: THREADS
                * sum(
                    (step["finished_at"] - step["started_at"]).total_seconds() for step in tx.steps(attempt.id).values()
                )
                / 3600
                for attempt in attempts
            }
        runs: Counter[tuple[str, Any]] = Counter()
        by_day: dict[tuple[str, Any], float] = defaultdict(float)
        by_month: dict[str, float] = defaultdict(float)
        for attempt in attempts:
            day = attempt.business_at.astimezone(self.specs[attempt.model].data.spine.zone).date()
            runs[attempt.model, day] += 1
            by_day[attempt.model, day] += hours[attempt.id]
            by_month[attempt.model] += hours[attempt.id]
        lived.attempts, lived.core_hours = len(attempts), sum(hours.values())
        lived.runs_of_a_day = max(runs.values())
        hourly = {model for model, spec in self.specs.items() if spec.retrain.budget.core_hours_per_day}
        paid = {model for model, spec in self.specs.items() if spec.retrain.budget.money_per_month}
        lived.core_hours_of_a_day = max(spent for (model, _), spent in by_day.items() if model in hourly)
        lived.money_of_a_month = max(by_month[model] * MONEY["core_hour"] for model in paid)
        found = costs_of(self.ledger, lambda: self.store)
        months = sorted({cost.month for cost in found.attempts})
        for by in ("owner", "model", "attempt"):
            rows = [row for month in months for row in report(found.attempts, month, by)]  # type: ignore[arg-type]
            lived.reported[by] = sum(row.core_seconds for row in rows) / 3600
            lived.reported_bytes[by] = sum(row.stored_bytes for row in rows if row.month == months[-1])
        lived.stored_bytes = sum(self.store.sizes("snapshots").values())


class _timed:  # noqa: N801 - a context manager
    """Adds the CPU milliseconds of its block."""

    def __init__(self, kept: list[float]) -> None:
        self._kept = kept

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self._kept.append((time.process_time() - self._began) * 1e3)


def lived(days: int, seed: int = 1) -> Lived:
    """Thirty models' days in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        fleet = Fleet(Path(scratch), seed)
        try:
            return fleet.live(days)
        finally:
            fleet.ledger.dispose()


def write_specs(folder: Path, *, every_section: bool) -> None:
    """The thirty specs as files."""
    for number in range(MODELS):
        document = spec_of_model(number).model_dump(mode="json", exclude_none=True)
        document |= EVERY_SECTION if every_section else {}
        (folder / document["model"]).mkdir(parents=True)
        YAML(typ="safe").dump(document, folder / document["model"] / "model.yaml")


def parse_rows() -> Iterator[dict[str, Any]]:
    """What parsing the thirty takes, as shipped and with every section on, beside the same DAGs by hand."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {every: Path(scratch) / str(every) for every in (False, True)}
        for every, folder in folders.items():
            write_specs(folder, every_section=every)
        seen: dict[str, list[tuple[float, int, float]]] = {"shipped": [], "every": [], "by hand": []}
        for turn in range(PARSE_ROUNDS):
            seen["shipped"].append(once(folders[False], OURS, None))
            seen["every"].append(once(folders[True], OURS, None))
            seen["by hand"].append(once(folders[False], BY_HAND, None))
            print(f"parse, round {turn + 1} of {PARSE_ROUNDS}", file=sys.stderr, flush=True)
    for name, ours, peer, theirs in (
        ("parse 30 specs", "shipped", "the same DAGs by hand, no spec", "by hand"),
        ("parse 30 specs, every section on", "every", "the same specs as shipped", "shipped"),
    ):
        spent = {side: [ms for ms, _, _ in seen[side]] for side in (ours, theirs)}
        yield _row(name, peer, spent[ours], statistics.median(spent[theirs]), PARSE_GOAL_MS) | {
            "dags": seen[ours][0][1],
            "peak_mb": round(max(peak for _, _, peak in seen[ours])),
        }


def _row(name: str, peer: str, spent: list[float], theirs: float, goal: float) -> dict[str, Any]:
    ours = statistics.median(spent)
    return {
        "name": name,
        "peer": peer,
        "ours": round(ours, 1),
        "theirs": round(theirs, 1),
        "ratio": round(theirs / ours, 1),
        "unit": "CPU ms",
        "goal": f"< {goal:g}",
        "met": ours < goal,
        "spread": [round(min(spent), 1), round(max(spent), 1)],
    }


def held(seen: Lived) -> dict[str, Any]:
    """What was promised of thirty at once, and what was seen of it."""
    return {
        "models": MODELS,
        "attempts": seen.attempts,
        "claims": len(seen.claim_ms) + len(seen.lone_claim_ms),
        "at_work_in_all": {"most": seen.most_in_all, "allowed": IN_ALL},
        "at_work_per_incident_of_group": {"most": seen.most_per_incident, "allowed": PER_INCIDENT},
        "runs_of_a_day": {"most": seen.runs_of_a_day, "allowed": RUNS_PER_DAY},
        "core_hours_of_a_day": {"most": round(seen.core_hours_of_a_day, 4), "allowed": HOURS_PER_DAY},
        "money_of_a_month": {"most": round(seen.money_of_a_month, 4), "allowed": MONEY["amount"]},
        "breaches": seen.breaches,
        "why_claims_opened_nothing": dict(seen.deferred.most_common()),
        "core_hours": {"steps": round(seen.core_hours, 6)} | {by: round(h, 6) for by, h in seen.reported.items()},
        "bytes": {"stored": seen.stored_bytes} | seen.reported_bytes,
    }


def main() -> None:
    """Live, measure, print, write."""
    seen = lived(DAYS)
    rows = [
        _row(
            "admission of 30 models at once",
            "30 ticks of one model each",
            seen.tick_ms,
            MODELS * statistics.median(seen.lone_tick_ms),
            TICK_GOAL_MS,
        ),
        _row(
            "claim among 30 models",
            "a claim while nobody else is due",
            seen.claim_ms,
            statistics.median(seen.lone_claim_ms),
            CLAIM_GOAL_MS,
        ),
        *parse_rows(),
    ]
    for row in rows:
        print(f"{row['name']:<36} {row['ours']:>8.1f} CPU ms, goal {row['goal']}, spread {row['spread']}")
    for name, value in held(seen).items():
        print(f"{name}: {value}")
    write("fleet_of_models", rows, machine(DAYS, "apache-airflow", "sqlalchemy"), held=held(seen))


if __name__ == "__main__":
    main()
