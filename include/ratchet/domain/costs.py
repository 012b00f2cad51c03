"""What attempts cost: core seconds once, and bytes for as long as they are kept; by attempt, model or owner.

A core second is a second of a finished step times the threads its spec gives it, as budgets count it; each tuning
worker is a step of its own. A step that ended without an answer is not known to the ledger and costs nothing here.
Bytes are those of the attempt's objects in storage: snapshot, evidence, dossier, card. What a model keeps of its days,
whatever attempt made it, is its own: predictions and the monitor's reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

By = Literal["owner", "model", "attempt"]
GIGABYTE = 1_000_000_000
ORPHANS = "(no attempt)"
"""Whose objects are that name no attempt the ledger knows."""


@dataclass(frozen=True)
class AttemptCost:
    """One attempt: ``month`` ('YYYY-MM') is the business-local one in which it began; ``promoted``, what it was for."""

    attempt: str
    model: str
    owner: str
    month: str
    core_seconds: float
    stored_bytes: int
    promoted: bool


@dataclass(frozen=True)
class KeptDays:
    """Bytes of a model's predictions and reports of the days of one month ('YYYY-MM'); its ``owner`` is today's."""

    model: str
    owner: str
    month: str
    stored_bytes: int

    @property
    def attempt(self) -> str:
        """What stands where attempts have a row each."""
        return f"{self.model} (predictions, reports)"


@dataclass(frozen=True)
class Prices:
    """What a core hour and a gigabyte (10⁹ bytes) kept for a month cost, in ``unit``."""

    per_core_hour: float
    per_gigabyte_month: float
    unit: str


@dataclass(frozen=True)
class Cost:
    """One row of a report: what began in its month took core seconds, and what began up to its end is kept, in bytes.

    ``price`` is that of both for the month; None without prices.
    """

    month: str
    name: str
    attempts: int
    promoted: int
    core_seconds: float
    stored_bytes: int
    price: float | None


def months(costs: Iterable[AttemptCost | KeptDays]) -> tuple[str, ...]:
    """Every month from the first to the last of these, in order, those without any too."""
    known = sorted({cost.month for cost in costs})
    if not known:
        return ()
    first, last = (int(month[:4]) * 12 + int(month[5:]) - 1 for month in (known[0], known[-1]))
    return tuple(f"{number // 12:04d}-{number % 12 + 1:02d}" for number in range(first, last + 1))


def report(
    costs: Sequence[AttemptCost],
    month: str,
    by: By,
    *,
    kept_days: Sequence[KeptDays] = (),
    orphaned_bytes: int = 0,
    prices: Prices | None = None,
) -> list[Cost]:
    """The month's rows, the dearest in core seconds first; whatever neither ran nor is kept has none.

    Args:
        costs: every attempt that began in the month or before it; later ones are left out.
        month: 'YYYY-MM'.
        by: what a row is of.
        kept_days: every model's; what is of later months is left out.
        orphaned_bytes: kept by nobody: a row of its own, whenever they came.
        prices: leave out for no prices.

    """
    groups: dict[str, list[AttemptCost | KeptDays]] = {}
    everything: list[AttemptCost | KeptDays] = [*costs, *kept_days]
    for cost in everything:
        if cost.month <= month:
            groups.setdefault(getattr(cost, by), []).append(cost)
    rows = [_row(month, name, group, prices) for name, group in groups.items()]
    if orphaned_bytes:
        rows.append(Cost(month, ORPHANS, 0, 0, 0.0, orphaned_bytes, _price(0.0, orphaned_bytes, prices)))
    kept = [row for row in rows if row.core_seconds or row.stored_bytes]
    return sorted(kept, key=lambda row: (row.name == ORPHANS, -row.core_seconds, row.name))


def owners_of(objects: Mapping[str, int], attempts: Iterable[str]) -> tuple[dict[str, int], int]:
    """Bytes by attempt, and bytes that name none of the attempts; objects are keys ``kind/attempt…`` with their bytes.

    An attempt's name is followed by ``/`` or ``.`` in the key of its object: ``m.1`` has none of ``m.11``.
    """
    known = set(attempts)
    held: dict[str, int] = {}
    orphaned = 0
    for key, size in objects.items():
        named = key.partition("/")[2].partition("/")[0].split(".")
        attempt = ".".join(named[:2])
        if attempt in known:
            held[attempt] = held.get(attempt, 0) + size
        else:
            orphaned += size
    return held, orphaned


def days_of(objects: Mapping[str, int], owners: Mapping[str, str]) -> tuple[tuple[KeptDays, ...], int]:
    """Bytes by model and month, and bytes of no known model.

    Args:
        objects: keys ``kind/model/day…`` with their bytes; a day is written ``2013-05-01`` or ``20130501``.
        owners: of every model there is.

    """
    held: dict[tuple[str, str], int] = {}
    orphaned = 0
    for key, size in objects.items():
        _, model, day = key.split("/")[:3]
        if model in owners:
            digits = day.replace("-", "")
            month = f"{digits[:4]}-{digits[4:6]}"
            held[model, month] = held.get((model, month), 0) + size
        else:
            orphaned += size
    return tuple(KeptDays(model, owners[model], month, size) for (model, month), size in sorted(held.items())), orphaned


def _row(month: str, name: str, group: Sequence[AttemptCost | KeptDays], prices: Prices | None) -> Cost:
    began = [cost for cost in group if cost.month == month and isinstance(cost, AttemptCost)]
    seconds, size = sum(cost.core_seconds for cost in began), sum(cost.stored_bytes for cost in group)
    promoted = sum(cost.promoted for cost in began)
    return Cost(month, name, len(began), promoted, seconds, size, _price(seconds, size, prices))


def _price(core_seconds: float, stored_bytes: int, prices: Prices | None) -> float | None:
    if prices is None:
        return None
    return core_seconds / 3600 * prices.per_core_hour + stored_bytes / GIGABYTE * prices.per_gigabyte_month
