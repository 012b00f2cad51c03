"""The ledger's side of scoring: which days have predictions, and who was rung to make them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import ScoredDay


class Scored(Base):
    """Scored days."""

    def ring_scoring(self, model: str, newest: date, overdue_seconds: float) -> bool:
        """Win the right to have the model's days up to ``newest`` scored.

        Nobody wins it for the same day, or an earlier one, within ``overdue_seconds``.
        """
        now, c = self.wall(), t.doorbell.c
        rested = sa.or_(
            c.score_rung_at.is_(None),
            c.score_rung_for < newest,
            c.score_rung_at <= now - timedelta(seconds=overdue_seconds),
        )
        ring = sa.update(t.doorbell).where(c.model == model, rested)
        return bool(self._db.execute(ring.values(score_rung_at=now, score_rung_for=newest)).rowcount)

    def save_scored_day(self, scored: ScoredDay) -> bool:
        """Keep it; false, and nothing changes, where the day has predictions in this role."""
        row = asdict(scored) | {"scored_at": self.wall()}
        return bool(self._db.execute(self._insert(t.scored_day).values(row).on_conflict_do_nothing()).rowcount)

    def scored_days(
        self, model: str, *, since: date | None = None, until: date | None = None, role: str | None = None
    ) -> list[ScoredDay]:
        """The model's scored days from ``since`` to ``until``, inclusive: by day, of each day the champion first."""
        c = t.scored_day.c
        query = sa.select(t.scored_day).where(c.model == model).order_by(c.day, c.role)
        if since is not None:
            query = query.where(c.day >= since)
        if until is not None:
            query = query.where(c.day <= until)
        if role is not None:
            query = query.where(c.role == role)
        return [ScoredDay(**row) for row in self._db.execute(query).mappings()]
