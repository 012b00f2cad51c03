"""The month of each owner, from the ledger, what storage holds, and today's audit."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from ratchet.domain.costs import AttemptCost, Prices
from ratchet.domain.findings import Finding
from ratchet.domain.monthly import (
    ModelMonth,
    MonthAttempt,
    OwnerMonth,
    budget_use,
    price_of,
    promotion_of,
    verdicts_of,
)
from ratchet.ports.ledger import AttemptRow, Ledger, SpecRow, Tx
from ratchet.workflow.costing import Costs
from ratchet.workflow.probation import readable_spec

TAKEN_BACK = ("rollback", "revert")


def months_of(
    ledger: Ledger,
    costs: Costs,
    findings: Sequence[Finding],
    month: str,
    owner: str | None = None,
    prices: Prices | None = None,
) -> list[OwnerMonth]:
    """The month ('YYYY-MM', business-local) of one owner, or of each, by name.

    An attempt is its owner's by the spec that it was bound to, as ``ratchet costs`` has it; a model without one in the
    month is its present owner's.
    """
    kept: dict[tuple[str, str], list[AttemptCost]] = {}
    for cost in costs.attempts:
        if cost.month <= month:
            kept.setdefault((cost.owner, cost.model), []).append(cost)
    of_days: dict[tuple[str, str], int] = {}
    for days in costs.kept_days:
        if days.month <= month:
            of_days[days.owner, days.model] = of_days.get((days.owner, days.model), 0) + days.stored_bytes
    with ledger.transaction() as tx:
        rows = {row.model: row for row in tx.specs()}
        began = {key for key, group in kept.items() if any(cost.month == month for cost in group)}
        owned = began | {(row.document["owner"]["team"], model) for model, row in rows.items()}
        found: dict[str, list[ModelMonth]] = {}
        for team, model in sorted(owned):
            if owner in {None, team}:
                key = (team, model)
                told = _month(tx, rows[model], kept.get(key, []), of_days.get(key, 0), month, prices, findings)
                found.setdefault(team, []).append(told)
    unit = prices.unit if prices else None
    return [OwnerMonth(team, month, tuple(models), unit) for team, models in found.items()]


def _month(
    tx: Tx,
    row: SpecRow,
    kept: Sequence[AttemptCost],
    bytes_of_days: int,
    month: str,
    prices: Prices | None,
    findings: Sequence[Finding],
) -> ModelMonth:
    zone = ZoneInfo(row.document["data"]["spine"]["timezone"])
    hours = {cost.attempt: cost.core_seconds / 3600 for cost in kept if cost.month == month}
    attempts = [_attempt(a, zone, hours[a.id]) for a in tx.attempts(model=row.model)[::-1] if a.id in hours]
    champions = tx.champions(row.model)
    verdicts, without = verdicts_of(attempts)
    stored = bytes_of_days + sum(cost.stored_bytes for cost in kept)
    spec = readable_spec(tx, row.digest)
    return ModelMonth(
        model=row.model,
        retired=row.retired,
        serving=champions[-1].version if champions else None,
        attempts=len(attempts),
        verdicts=verdicts,
        ended_without=without,
        promotions=tuple(told for attempt in attempts if (told := promotion_of(attempt)) is not None),
        taken_back=sum(
            champion.kind in TAKEN_BACK
            and champion.since is not None
            and f"{champion.since.astimezone(zone):%Y-%m}" == month
            for champion in champions
        ),
        core_hours=sum(hours.values()),
        stored_bytes=stored,
        price=price_of(sum(hours.values()), stored, prices),
        budget=budget_use(spec.retrain.budget, attempts) if spec is not None else (),
        findings=tuple(each for each in findings if each.model == row.model and each.severity != "ok"),
    )


def _attempt(attempt: AttemptRow, zone: ZoneInfo, core_hours: float) -> MonthAttempt:
    return MonthAttempt(
        id=attempt.id,
        day=attempt.business_at.astimezone(zone).date(),
        core_hours=core_hours,
        verdict={"decision": attempt.verdict} | (attempt.verdict_record or {}) if attempt.verdict else None,
        promoted_version=attempt.candidate_version if attempt.promoted else None,
        dry_run=attempt.dry_run,
    )
