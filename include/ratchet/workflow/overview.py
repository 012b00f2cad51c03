"""Every model at a glance: who serves and since when, the last verdict, what waits, what the budget has left.

A handful of queries for any number of models: the page that shows them is looked at all day.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from ratchet.domain.snooze import Snooze
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow, ChampionRow, Registration, SpecRow, Tx, Used
from ratchet.workflow.deciding import local_midnight_after, local_month

logger = logging.getLogger(__name__)
MOST_KNOWN = 2_000


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

    The record of ``last_verdict`` is without its checks and diagnostics, which take nearly all of it. ``budget`` is
    None of a spec that another code deployed. ``held`` says why the model waits its turn, if it does; ``snoozed`` who
    lets it sleep, and until when (business time), while it does.
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


@dataclass(frozen=True)
class Deployed:
    """What a spec says of a model at a glance; ``spec`` is None where it is none for this code."""

    owner: dict[str, Any]
    goal: str
    spec: ModelSpec | None

    @classmethod
    def of(cls, digest: str, document: Mapping[str, Any]) -> Deployed:
        """From the document as it was deployed."""
        try:
            spec = ModelSpec.model_validate(document)
        except ValueError as error:
            logger.warning("no budget of %s: spec %s is none for this code (%s)", document.get("model"), digest, error)
            spec = None
        goal = (document.get("business") or {}).get("goal") or ""
        return cls(document.get("owner") or {}, goal, spec)


class Overviews:
    """Reads overviews; keeps what it has read of specs, for a digest's spec never changes."""

    def __init__(self) -> None:
        self._deployed: dict[str, Deployed] = {}

    def deployed(self, tx: Tx, rows: Sequence[Registration | SpecRow]) -> dict[str, Deployed]:
        """What the specs of these models say, by model."""
        known, digests = self._deployed, {row.digest for row in rows}
        found = {digest: known[digest] for digest in digests & known.keys()}
        if missing := digests - found.keys():
            documents = tx.spec_documents(missing)
            found |= {digest: Deployed.of(digest, document) for digest, document in documents.items()}
            self._deployed = (known | found) if len(known) + len(missing) <= MOST_KNOWN else found
        return {row.model: found[row.digest] for row in rows}

    def of(self, tx: Tx, rows: Sequence[Registration | SpecRow]) -> list[ModelOverview]:
        """The overviews of these models, in their order."""
        names, deployed = [row.model for row in rows], self.deployed(tx, rows)
        _, business = tx.clock()
        serving, judged = tx.serving(names), tx.last_judged(names)
        counts, used = tx.open_event_counts(names), _used(tx, business, deployed)
        waiting = tx.awaiting(names)
        held = {due.model: due.held for due in tx.due_rows()}
        snoozes = {name: snooze for name, snooze in tx.snoozes(names).items() if snooze.holds(business)}
        told = []
        for row in rows:
            said, champion = deployed[row.model], serving.get(row.model)
            since = champion.since if champion else None
            told.append(
                ModelOverview(
                    model=row.model,
                    retired=row.retired,
                    spec_digest=row.digest,
                    owner=said.owner,
                    goal=said.goal,
                    champion=champion,
                    age_days=(business - since) / timedelta(days=1) if since else None,
                    last_verdict=judged.get(row.model),
                    open_events=counts.get(row.model, {}),
                    approvals_waiting=tuple(waiting.get(row.model, ())),
                    budget=_budget(said.spec, used.get(row.model, Used())) if said.spec else None,
                    held=held.get(row.model),
                    snoozed=snoozes.get(row.model),
                )
            )
        return told


def _used(tx: Tx, business: datetime, deployed: Mapping[str, Deployed]) -> dict[str, Used]:
    """What each model has used of its own day and month: one query for all models of a time zone."""
    specs: dict[tzinfo, ModelSpec] = {}
    names: dict[tzinfo, list[str]] = {}
    for model, said in deployed.items():
        if said.spec is not None:
            specs[said.spec.data.spine.zone] = said.spec
            names.setdefault(said.spec.data.spine.zone, []).append(model)
    used: dict[str, Used] = {}
    for zone, spec in specs.items():
        day_began = local_midnight_after(business, spec) - timedelta(days=1)
        month_began, _ = local_month(business, spec)
        used |= tx.used(names[zone], day_began=day_began, month_began=month_began)
    return used


def _budget(spec: ModelSpec, used: Used) -> BudgetUse:
    budget = spec.retrain.budget
    hours = spec.runtime.threads / 3600
    month = hours * used.seconds_month
    money = budget.money_per_month
    return BudgetUse(
        runs_today=used.runs_today,
        runs_per_day=budget.runs_per_day,
        core_hours_today=hours * used.seconds_today,
        core_hours_per_day=budget.core_hours_per_day,
        core_hours_month=month,
        core_hours_per_month=budget.core_hours_per_month,
        money_month=month * money.core_hour if money else None,
        money_per_month=money.amount if money else None,
        unit=money.unit if money else None,
    )
