"""Which of the ledger's rows may go by their age, month by month. Pure.

Rows go by whole months (UTC): once the last moment of a month is older than the limit, all up to then that nobody needs
may go, and what had to stay goes with a later month. So a limit of 90 days leaves between three and four months of
rows, and a year of it is decided, and audited, twelve times. What is needed whatever its age is in :data:`NEEDED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from ratchet.domain.spec import ModelSpec, format_duration

RowKind = Literal["events", "dead_letters", "records", "outbox", "notices", "self_tests"]
DEPLOYMENT = "*"
"""Stands where a model does for what is of no model; no model can be called so."""
OF_MODEL: tuple[RowKind, ...] = ("events", "dead_letters")
OF_DEPLOYMENT: tuple[RowKind, ...] = ("dead_letters", "records", "outbox", "notices", "self_tests")
NEEDED: Mapping[RowKind, str] = {
    "events": (
        "those that are open or not yet told, the one that started an attempt, those of an attempt that has not ended "
        "or that an open follow-up names, and the newest of each type"
    ),
    "dead_letters": "none",
    "records": "those that an event names",
    "outbox": "those not yet told",
    "notices": "those that are not over, or with a message still to be sent",
    "self_tests": "the newest of each model, and the newest that judged",
}


@dataclass(frozen=True)
class RowRule:
    """Rows of a kind stay for ``limit``; ``said`` is the rule in the words of whoever set it.

    Events age by their own (business) time, everything else by when it was written (wall clock).
    """

    kind: RowKind
    limit: timedelta
    said: str

    @property
    def by_business_time(self) -> bool:
        """Whose clock says how old a row is."""
        return self.kind == "events"


@dataclass(frozen=True)
class RowRules:
    """The rules of a deployment's settings; None keeps all."""

    rows: timedelta | None = None
    dead_letters: timedelta | None = None

    def rules(self) -> tuple[RowRule, ...]:
        """One per kind, in the order in which they are followed."""
        limits = dict.fromkeys(OF_DEPLOYMENT, (self.rows, "RATCHET_RETENTION_ROWS"))
        limits["dead_letters"] = (self.dead_letters, "RATCHET_RETENTION_DEAD_LETTERS")
        return tuple(
            RowRule(kind, limit, f"{name}={format_duration(limit)}")
            for kind, (limit, name) in limits.items()
            if limit is not None
        )


def rules_of(spec: ModelSpec) -> tuple[RowRule, ...]:
    """The rules of a model's spec, in the order in which they are followed."""
    asked = spec.retention
    if asked is None:
        return ()
    limits = {kind: getattr(asked, kind) for kind in OF_MODEL}
    return tuple(
        RowRule(kind, limit, f"retention.{kind}: {format_duration(limit)}")
        for kind, limit in limits.items()
        if limit is not None
    )


@dataclass(frozen=True, order=True)
class Month:
    """A calendar month (UTC); ``name`` is like 2013-03."""

    year: int
    month: int

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The month of a moment."""
        local = moment.astimezone(UTC)
        return cls(local.year, local.month)

    @classmethod
    def named(cls, name: str) -> Self:
        """The month of this name."""
        year, _, month = name.partition("-")
        return cls(int(year), int(month))

    @property
    def name(self) -> str:
        """As it is kept and told."""
        return f"{self.year:04d}-{self.month:02d}"

    @property
    def start(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        return datetime(self.year + self.month // 12, self.month % 12 + 1, 1, tzinfo=UTC)


def month_to_remove(rule: RowRule, now: datetime, decided: str | None) -> Month | None:
    """The newest month whose rows, and all before, are older than the rule's limit; None where it was decided already.

    Args:
        rule: of one kind.
        now: of the clock by which rows of the kind age.
        decided: the name of the last month that was decided before.
    """
    running = Month.of(now - rule.limit)
    month = Month.of(running.start - timedelta(microseconds=1))
    return None if decided is not None and month <= Month.named(decided) else month
