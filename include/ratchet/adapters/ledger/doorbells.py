"""The ledger's side of waking: who is due, who was rung."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import FLEET_LOCK, Base
from ratchet.ports.ledger import (
    DueRow,
)


class Doorbells(Base):
    """Who is due, and who may ring."""

    def set_due(
        self,
        model: str,
        due_at: datetime | None,
        reason: str | None,
        *,
        since: datetime | None = None,
        incident: str | None = None,
    ) -> None:
        """The model is due from ``due_at`` on (None: nothing to do). A new debt starts with no rings and is not held.

        ``since`` (business) and ``incident`` are the oldest event's: they order the fleet.
        """
        values: dict[str, Any] = {"due_at": due_at, "reason": reason, "since": since, "incident": incident}
        known = self._one(sa.select(t.doorbell).where(t.doorbell.c.model == model))
        if due_at is None or known is None or known["due_at"] is None:
            values |= {"rung_at": None, "rings": 0, "held": None}
        self._db.execute(sa.update(t.doorbell).where(t.doorbell.c.model == model).values(**values))

    def due_models(
        self, backoff_seconds: float, backoff_max_seconds: float, *, overdue_seconds: float = 0.0
    ) -> list[str]:
        """Models to ring: due, not held, no attempt alive, and not rung within their back-off."""
        now = self.wall()
        c = t.doorbell.c
        query = (
            sa.select(c.model, c.rung_at, c.rings)
            .join(t.lease, t.lease.c.model == c.model)
            .where(
                c.due_at <= now - timedelta(seconds=overdue_seconds),
                c.held.is_(None),
                t.lease.c.attempt_id.is_(None),
            )
            .order_by(c.due_at)
        )
        return [
            r.model
            for r in self._db.execute(query)
            if self._may_ring(r.rung_at, r.rings, now, backoff_seconds, backoff_max_seconds)
        ]

    @staticmethod
    def _may_ring(rung_at: datetime | None, rings: int, now: datetime, backoff: float, most: float) -> bool:
        if rung_at is None:
            return True
        return rung_at + timedelta(seconds=min(backoff * 2 ** max(rings - 1, 0), most)) <= now

    def ring(self, model: str, backoff_seconds: float, backoff_max_seconds: float) -> int:
        """Win the right to ring now: one winner among all processes is told which ring it is, from 1; others 0."""
        now = self.wall()
        row = self._one(sa.select(t.doorbell).where(t.doorbell.c.model == model).with_for_update())
        if row is None or row["due_at"] is None or row["due_at"] > now or row["held"] is not None:
            return 0
        if not self._may_ring(row["rung_at"], row["rings"], now, backoff_seconds, backoff_max_seconds):
            return 0
        held = self._one(sa.select(t.lease.c.attempt_id).where(t.lease.c.model == model))
        if held and held["attempt_id"] is not None:
            return 0
        rings = int(row["rings"]) + 1
        self._db.execute(sa.update(t.doorbell).where(t.doorbell.c.model == model).values(rung_at=now, rings=rings))
        return rings

    def unring(self, model: str) -> None:
        """Forget that the doorbell was rung: the model stays due, and the next ring need not wait."""
        self._db.execute(sa.update(t.doorbell).where(t.doorbell.c.model == model).values(rung_at=None, rings=0))

    def due_rows(self) -> list[DueRow]:
        """Every registered model that is due and at which nobody works, held ones too, by name."""
        c = t.doorbell.c
        query = (
            sa.select(c.model, c.due_at, c.since, c.incident, c.rings, c.held)
            .join(t.lease, t.lease.c.model == c.model)
            .join(t.model, t.model.c.model == c.model)
            .where(c.due_at <= self.wall(), t.lease.c.attempt_id.is_(None), t.model.c.retired_at.is_(None))
            .order_by(c.model)
        )
        return [DueRow(*row) for row in self._db.execute(query)]

    def hold(self, model: str, why: str | None) -> None:
        """A due model waits its turn, or (None) may be rung. A doorbell in other hands is left alone."""
        c = t.doorbell.c
        free = sa.select(c.model).where(c.model == model, c.due_at.is_not(None)).with_for_update(skip_locked=True)
        if self._one(free) is not None:
            self._db.execute(sa.update(t.doorbell).where(c.model == model).values(held=why))

    def lock_fleet(self) -> None:
        """Until the transaction ends nobody else starts an attempt, so that the fleet can be counted.

        The last lock to take: after the model's and the lease's, before the doorbell is written.
        """
        if self._postgres:
            self._db.execute(sa.select(sa.func.pg_advisory_xact_lock(FLEET_LOCK)))
