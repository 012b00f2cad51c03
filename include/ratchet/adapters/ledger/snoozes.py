"""The ledger's side of snoozes."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.domain.snooze import Snooze


class Snoozes(Base):
    """Which models sleep, at most one snooze each."""

    def snooze(self, model: str, snooze: Snooze) -> None:
        """Let the model sleep; an earlier snooze of it is replaced."""
        row = self._insert(t.snooze).values(model=model, **vars(snooze))
        self._db.execute(row.on_conflict_do_update(index_elements=["model"], set_=vars(snooze)))

    def wake(self, model: str) -> None:
        """Forget the model's snooze, if it has one."""
        self._db.execute(sa.delete(t.snooze).where(t.snooze.c.model == model))

    def snoozes(self, models: Collection[str] | None = None) -> dict[str, Snooze]:
        """The last snooze of each model, or of these, that was not lifted; whether one is over, the clock says."""
        query = sa.select(t.snooze).order_by(t.snooze.c.model)
        if models is not None:
            query = query.where(t.snooze.c.model.in_(list(models)))
        rows = self._db.execute(query).mappings()
        return {r["model"]: Snooze(r["since"], r["until"], r["actor"], r["reason"]) for r in rows}
