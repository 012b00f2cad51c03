"""What every attempt took and what it keeps, from the ledger's steps and the sizes of its objects in storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from ratchet.domain.costs import AttemptCost, KeptDays, days_of, owners_of
from ratchet.domain.forecasting import Forecast, forecast
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow, Ledger, Tx
from ratchet.ports.store import Store
from ratchet.workflow.deciding import MOST_LOOKED_AT, core_hours, past_runs
from ratchet.workflow.probation import readable_spec

OPENED = "attempt.opened"
KINDS = ("snapshots", "evidence", "dossiers", "cards")
"""Where storage keeps what an attempt leaves behind."""
KINDS_OF_DAYS = ("predictions", "monitor")
"""Where it keeps what a model leaves behind of its days."""


@dataclass(frozen=True)
class Costs:
    """Every attempt's cost, the newest first, what models keep of their days, and the bytes of what names neither."""

    attempts: tuple[AttemptCost, ...]
    kept_days: tuple[KeptDays, ...]
    orphaned_bytes: int


def costs_of(ledger: Ledger, store: Callable[[], Store], model: str | None = None) -> Costs:
    """What the attempts of one model, or of all, have cost; orphans are looked for only among all.

    Raises:
        Unavailable: ledger or storage did not answer.

    """
    sizes = {kind: store().sizes(kind) for kind in (*KINDS, *KINDS_OF_DAYS)}
    objects, of_days = (
        {k: size for kind in kinds for k, size in sizes[kind].items()} for kinds in (KINDS, KINDS_OF_DAYS)
    )
    with ledger.transaction() as tx:
        attempts = tx.attempts(model=model)
        held, orphaned = owners_of(objects, (attempt.id for attempt in attempts))
        documents = {digest: tx.spec_document(digest) for digest in {attempt.spec_digest for attempt in attempts}}
        seconds = tx.step_seconds([attempt.id for attempt in attempts])
        told = tuple(
            _cost(a, documents[a.spec_digest], sum(seconds.get(a.id, {}).values()), held.get(a.id, 0)) for a in attempts
        )
        owners = {r.model: str(tx.spec_document(r.digest)["owner"]["team"]) for r in tx.registered()}
    kept, stray = days_of(of_days, owners)
    kept = tuple(days for days in kept if model in {None, days.model})
    return Costs(told, kept, orphaned + stray if model is None else 0)


def _cost(attempt: AttemptRow, spec: Mapping[str, Any], seconds: float, stored_bytes: int) -> AttemptCost:
    """Of an attempt whose steps took so many seconds, by its own spec as it was kept: this code need not read it."""
    zone = ZoneInfo(spec["data"]["spine"]["timezone"])
    return AttemptCost(
        attempt=attempt.id,
        model=attempt.model,
        owner=spec["owner"]["team"],
        month=f"{attempt.business_at.astimezone(zone):%Y-%m}",
        core_seconds=seconds * spec["runtime"]["threads"],
        stored_bytes=stored_bytes,
        promoted=attempt.promoted,
    )


@dataclass(frozen=True)
class ModelForecast:
    """What a model's next run is expected to take, and how its earlier forecasts fared; core hours.

    ``told`` is None while no comparable run has finished. Of the finished runs that had a forecast, ``held`` of
    ``checked`` took no more than its upper value. ``limits`` are the budget's, each ``(rule, spent, allowed, unit)``.
    """

    model: str
    owner: str
    trials: int
    told: Forecast | None
    held: int
    checked: int
    limits: tuple[tuple[str, float, float, str], ...]


def forecasts_of(ledger: Ledger, model: str | None = None) -> list[ModelForecast]:
    """The forecast of one model, or of each that is in service and whose spec this code reads."""
    with ledger.transaction() as tx:
        rows = [row for row in tx.registered() if not row.retired and model in {None, row.model}]
        specs = [spec for row in rows if (spec := readable_spec(tx, row.digest)) is not None]
        return [_forecast(tx, spec) for spec in specs]


def _forecast(tx: Tx, spec: ModelSpec) -> ModelForecast:
    attempts = tx.attempts(model=spec.model, limit=MOST_LOOKED_AT)
    runs = [attempt for attempt in attempts if not attempt.dry_run]
    _, business = tx.clock()
    opened = {entry["detail"]["attempt"]: entry["detail"] for entry in tx.audit_log(spec.model, action=OPENED)}
    upper = {a.id: opened[a.id]["forecast"]["upper"] for a in runs if "forecast" in opened.get(a.id, {}) and a.verdict}
    taken = tx.step_seconds(upper)
    hours = {name: sum(steps.values()) * spec.runtime.threads / 3600 for name, steps in taken.items()}
    budget, (today, month) = spec.retrain.budget, core_hours(tx, spec, business, runs)
    limits = []
    if budget.core_hours_per_day is not None and today is not None:
        limits.append(("core_hours_per_day", today.spent, budget.core_hours_per_day, "core hours"))
    if budget.core_hours_per_month is not None and month is not None:
        limits.append(("core_hours_per_month", month.spent, budget.core_hours_per_month, "core hours"))
    if (money := budget.money_per_month) is not None and month is not None:
        limits.append(("money_per_month", month.spent * money.core_hour, money.amount, money.unit))
    return ModelForecast(
        model=spec.model,
        owner=spec.owner.team,
        trials=spec.train.trials,
        told=forecast(past_runs(tx, spec, runs), spec.train.trials),
        held=sum(hours[name] <= upper[name] for name in hours),
        checked=len(hours),
        limits=tuple(limits),
    )
