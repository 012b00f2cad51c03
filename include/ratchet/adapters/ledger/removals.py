"""The ledger's side of retention: what was decided to be removed, and whether it was."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import RemovalRow


class Removals(Base):
    """Removals, each decided once."""

    def decide_removals(self, model: str, items: Sequence[tuple[str, str, str]]) -> None:
        """Keep that these are to be removed: kind, name and why; one that was decided before stays as it is."""
        now = self.wall()
        for kind, name, why in items:
            row = {"model": model, "kind": kind, "name": name, "why": why, "decided_at": now}
            self._db.execute(self._insert(t.removal).values(row).on_conflict_do_nothing())

    def finish_removal(self, model: str, kind: str, name: str, freed_bytes: int | None) -> None:
        """It is gone, and so many bytes with it; None where they are not known."""
        c = t.removal.c
        done = sa.update(t.removal).where(c.model == model, c.kind == kind, c.name == name, c.removed_at.is_(None))
        self._db.execute(done.values(removed_at=self.wall(), bytes=freed_bytes))

    def removal(self, model: str, kind: str, name: str) -> RemovalRow | None:
        """Whether it was decided that this goes."""
        c = t.removal.c
        row = self._one(sa.select(t.removal).where(c.model == model, c.kind == kind, c.name == name))
        return None if row is None else RemovalRow(**row)

    def removals(self, model: str) -> list[RemovalRow]:
        """All of the model, in the order of deciding."""
        c = t.removal.c
        query = sa.select(t.removal).where(c.model == model).order_by(c.decided_at, c.kind, c.name)
        return [RemovalRow(**row) for row in self._db.execute(query).mappings()]
