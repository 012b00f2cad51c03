"""Every model at a glance: who serves and since when, the last verdict, what waits, what the budget has left.

A handful of queries for any number of models: the page that shows them is looked at all day.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ratchet.domain.snooze import Snooze
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AWAITING_APPROVAL, AttemptRow, ChampionRow, RunTaken, SpecRow, Tx
from ratchet.workflow.deciding import local_midnight_after, local_month

logger = logging.getLogger(__name__)
MOST_KNOWN = 2_000
LONGEST_MONTH = timedelta(days=33)
"""Of any time zone: whatever a model calls this month began within it."""


@dataclass(frozen=True)
class BudgetUse:
    """What a model has spent of its budget, by its local day and month; a limit of None is none.

    Runs leave out dry ones; core hours are those of finished steps. ``money_month`` is in ``unit``, None without a
    price.
    """

    runs_today: int
    runs_per_day: int
    core_hours_today: float
    core_hours_per_day: float | None
    core_hours_month: float
    core_hours_per_month: float | None
    money_month: float | None
    money_per_month: float | None
    unit: str | None


@dataclass(frozen=True)
class ModelOverview:
    """One model. ``age_days`` is how long its champion has served in business time; None where nobody kept it.

    ``budget`` is None of a spec that another code deployed. ``held`` says why the model waits its turn, if it does;
    ``snoozed`` who lets it sleep, and until when (business time), while it does.
    """

    model: str
    retired: bool
    spec_digest: str
    owner: dict[str, Any]
    goal: str
    champion: ChampionRow | None
    age_days: float | None
    last_verdict: AttemptRow | None
    open_events: dict[str, int]
    approvals_waiting: tuple[str, ...]
    budget: BudgetUse | None
    held: str | None
    snoozed: Snooze | None


class Overviews:
    """Reads overviews; keeps the specs that it has read, for a digest's spec never changes."""

    def __init__(self) -> None:
        self._specs: dict[str, ModelSpec | None] = {}

    def of(self, tx: Tx, rows: Sequence[SpecRow]) -> list[ModelOverview]:
        """The overviews of these models, in their order."""
        names = [row.model for row in rows]
        _, business = tx.clock()
        serving, judged = tx.serving(names), tx.last_judged(names)
        counts, runs = tx.open_event_counts(names), tx.runs_taken(names, business - LONGEST_MONTH)
        waiting: dict[str, list[str]] = {}
        for attempt in tx.attempts(states=(AWAITING_APPROVAL,)):
            waiting.setdefault(attempt.model, []).append(attempt.id)
        taken: dict[str, list[RunTaken]] = {}
        for run in runs:
            taken.setdefault(run.model, []).append(run)
        held = {due.model: due.held for due in tx.due_rows()}
        snoozes = {name: snooze for name, snooze in tx.snoozes(names).items() if snooze.holds(business)}
        told = []
        for row in rows:
            spec, champion = self._spec(row), serving.get(row.model)
            since = champion.since if champion else None
            told.append(
                ModelOverview(
                    model=row.model,
                    retired=row.retired,
                    spec_digest=row.digest,
                    owner=row.document.get("owner") or {},
                    goal=(row.document.get("business") or {}).get("goal") or "",
                    champion=champion,
                    age_days=(business - since) / timedelta(days=1) if since else None,
                    last_verdict=judged.get(row.model),
                    open_events=counts.get(row.model, {}),
                    approvals_waiting=tuple(waiting.get(row.model, ())),
                    budget=_budget(spec, business, taken.get(row.model, ())) if spec else None,
                    held=held.get(row.model),
                    snoozed=snoozes.get(row.model),
                )
            )
        return told

    def _spec(self, row: SpecRow) -> ModelSpec | None:
        if row.digest not in self._specs:
            if len(self._specs) >= MOST_KNOWN:
                self._specs.clear()
            try:
                self._specs[row.digest] = ModelSpec.model_validate(row.document)
            except ValueError as error:
                logger.warning("no budget of %s: its spec is none for this code (%s)", row.model, error)
                self._specs[row.digest] = None
        return self._specs[row.digest]


def _budget(spec: ModelSpec, business: datetime, runs: Sequence[RunTaken]) -> BudgetUse:
    budget = spec.retrain.budget
    day_began = local_midnight_after(business, spec) - timedelta(days=1)
    month_began, _ = local_month(business, spec)
    hours = spec.runtime.threads / 3600
    today = [run for run in runs if run.business_at >= day_began]
    month = hours * sum(run.seconds for run in runs if run.business_at >= month_began)
    money = budget.money_per_month
    return BudgetUse(
        runs_today=sum(not run.dry_run for run in today),
        runs_per_day=budget.runs_per_day,
        core_hours_today=hours * sum(run.seconds for run in today),
        core_hours_per_day=budget.core_hours_per_day,
        core_hours_month=month,
        core_hours_per_month=budget.core_hours_per_month,
        money_month=month * money.core_hour if money else None,
        money_per_month=money.amount if money else None,
        unit=money.unit if money else None,
    )
