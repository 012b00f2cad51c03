"""The ledger's side of probation: what is watched, and the days that were scored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import ProbationDay, ProbationRow


class Probations(Base):
    """Watches and their days."""

    def insert_probation(self, probation: ProbationRow) -> None:
        """Open the watch over a champion that was inserted in this transaction or before."""
        self._db.execute(sa.insert(t.probation).values(asdict(probation)))

    def open_probation(self, model: str) -> ProbationRow | None:
        """The watch that goes on; None when there is none."""
        return next(iter(self.probations(model=model, states=("watching",))), None)

    def probations(self, *, model: str | None = None, states: Collection[str] | None = None) -> list[ProbationRow]:
        """Watches, newest first."""
        c = t.probation.c
        query = sa.select(t.probation).order_by(c.opened_at.desc(), c.seq.desc())
        if model is not None:
            query = query.where(c.model == model)
        if states is not None:
            query = query.where(c.state.in_(list(states)))
        return [ProbationRow(**row) for row in self._db.execute(query).mappings()]

    def update_probation(self, model: str, seq: int, **values: Any) -> None:
        """Change columns of one watch."""
        c = t.probation.c
        self._db.execute(sa.update(t.probation).where(c.model == model, c.seq == seq).values(**values))

    def ring_probation(self, model: str, seq: int, overdue_seconds: float) -> bool:
        """Win the right to have the watch looked at, unless somebody won it within ``overdue_seconds``."""
        now, c = self.wall(), t.probation.c
        rested = sa.or_(c.rung_at.is_(None), c.rung_at <= now - timedelta(seconds=overdue_seconds))
        ring = sa.update(t.probation).where(c.model == model, c.seq == seq, c.state == "watching", rested)
        return bool(self._db.execute(ring.values(rung_at=now)).rowcount)

    def save_probation_days(self, model: str, seq: int, days: Sequence[ProbationDay]) -> None:
        """Keep scored days; a day that is there already stands."""
        now = self.wall()
        rows = [asdict(day) | {"model": model, "seq": seq, "scored_at": now} for day in days]
        if rows:
            self._db.execute(self._insert(t.probation_day).values(rows).on_conflict_do_nothing())

    def probation_days(self, model: str, seq: int) -> list[ProbationDay]:
        """The scored days, in order."""
        c = t.probation_day.c
        query = sa.select(c.day, c.rows, c.total).where(c.model == model, c.seq == seq).order_by(c.day)
        return [ProbationDay(*row) for row in self._db.execute(query)]
