"""An owner's month: what each model did, what its promotions were worth at least, what it cost. Pure.

A promotion's worth is its verdict's lower bound, one-sided at the gate's confidence: the estimate that promoted it was
selected and is too high on average. Per decision it is the bound itself; for :data:`DAYS` days it is the bound times as
many decisions as the judged days had in so many.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ratchet.domain.costs import GIGABYTE, Prices
from ratchet.domain.findings import Finding
from ratchet.domain.spec import Budget

DAYS = 30


@dataclass(frozen=True)
class MonthAttempt:
    """An attempt that began in the month, on the local ``day``; ``verdict`` is its record, None where it had none."""

    id: str
    day: date
    core_hours: float
    verdict: Mapping[str, Any] | None
    promoted_version: int | None
    dry_run: bool = False


@dataclass(frozen=True)
class Promotion:
    """A version that became champion; ``lower`` and ``estimate`` in ``unit`` per decision, ``worth`` for 30 days.

    None where the verdict told none: of a first champion, say, that nothing was compared with.
    """

    version: int
    attempt: str
    estimate: float | None
    lower: float | None
    worth: float | None
    unit: str


@dataclass(frozen=True)
class Use:
    """One limit of the budget: the most that was ``spent`` in one of its periods, of ``allowed``."""

    rule: str
    spent: float
    allowed: float
    unit: str


@dataclass(frozen=True)
class ModelMonth:
    """One model's month. ``verdicts`` counts by decision; ``ended_without`` had none (failed, abandoned, at work).

    ``stored_bytes`` are kept of attempts up to the month's end; ``price`` is of core hours and storage, None without
    prices. ``findings`` are today's, what is in order left out.
    """

    model: str
    retired: bool
    serving: int | None
    attempts: int
    verdicts: Mapping[str, int]
    ended_without: int
    promotions: tuple[Promotion, ...]
    taken_back: int
    core_hours: float
    stored_bytes: int
    price: float | None
    budget: tuple[Use, ...]
    findings: tuple[Finding, ...]

    @property
    def idle(self) -> bool:
        """Whether the audit says that nobody uses it."""
        return any(finding.check == "use" for finding in self.findings)


@dataclass(frozen=True)
class OwnerMonth:
    """All models of an owner; ``unit`` is that of the prices."""

    owner: str
    month: str
    models: tuple[ModelMonth, ...]
    unit: str | None

    @property
    def core_hours(self) -> float:
        """Of all models."""
        return sum(model.core_hours for model in self.models)

    @property
    def price(self) -> float | None:
        """Of all models; None without prices."""
        known = [model.price for model in self.models if model.price is not None]
        return sum(known) if known else None

    @property
    def worth(self) -> dict[str, float]:
        """What the promotions are worth at least for 30 days, by unit: bounds added up, each held by itself."""
        told: dict[str, float] = defaultdict(float)
        for promotion in (each for model in self.models for each in model.promotions):
            if promotion.worth is not None:
                told[promotion.unit] += promotion.worth
        return dict(told)


def promotion_of(attempt: MonthAttempt) -> Promotion | None:
    """What the attempt's promotion was worth; None where there was none."""
    if attempt.promoted_version is None or attempt.verdict is None:
        return None
    verdict = attempt.verdict
    lower, rows, days = verdict.get("lower"), verdict.get("n_rows"), verdict.get("n_clusters")
    worth = lower * rows / days * DAYS if lower is not None and rows and days else None
    return Promotion(
        attempt.promoted_version, attempt.id, verdict.get("estimate"), lower, worth, str(verdict.get("unit", ""))
    )


def price_of(core_hours: float, stored_bytes: int, prices: Prices | None) -> float | None:
    """What both cost for the month; None without prices."""
    if prices is None:
        return None
    return core_hours * prices.per_core_hour + stored_bytes / GIGABYTE * prices.per_gigabyte_month


def budget_use(budget: Budget, attempts: Iterable[MonthAttempt]) -> tuple[Use, ...]:
    """The most of each limit that was used up; core hours of dry runs count, their runs do not."""
    runs: Counter[date] = Counter()
    hours: dict[date, float] = defaultdict(float)
    for attempt in attempts:
        hours[attempt.day] += attempt.core_hours
        runs[attempt.day] += not attempt.dry_run
    month = sum(hours.values())
    used = [Use("runs_per_day", max(runs.values(), default=0), budget.runs_per_day, "runs")]
    if budget.core_hours_per_day is not None:
        most = max(hours.values(), default=0.0)
        used.append(Use("core_hours_per_day", most, budget.core_hours_per_day, "core hours"))
    if budget.core_hours_per_month is not None:
        used.append(Use("core_hours_per_month", month, budget.core_hours_per_month, "core hours"))
    if (money := budget.money_per_month) is not None:
        used.append(Use("money_per_month", month * money.core_hour, money.amount, money.unit))
    return tuple(used)


def verdicts_of(attempts: Sequence[MonthAttempt]) -> tuple[dict[str, int], int]:
    """Attempts by the decision of their verdict, and how many had none."""
    counts = Counter(str(attempt.verdict["decision"]) for attempt in attempts if attempt.verdict is not None)
    return dict(sorted(counts.items())), sum(attempt.verdict is None for attempt in attempts)
