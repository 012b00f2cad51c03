"""The ledger's side of the monitor: which windows of new rows were looked at, and what was found."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime, timedelta

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import MonitoredRow, MonitorMark


class Monitored(Base):
    """Windows, each once."""

    def ring_monitor(self, model: str, window_end: datetime, spec_digest: str, overdue_seconds: float) -> bool:
        """Win the right to have a window looked at, unless it was, or somebody won it within ``overdue_seconds``."""
        now, c = self.wall(), t.monitored.c
        due = {"model": model, "window_end": window_end, "spec_digest": spec_digest, "state": "due", "found": {}}
        if self._db.execute(self._insert(t.monitored).values(due | {"rung_at": now}).on_conflict_do_nothing()).rowcount:
            return True
        rested = sa.or_(c.rung_at.is_(None), c.rung_at <= now - timedelta(seconds=overdue_seconds))
        ring = sa.update(t.monitored).where(c.model == model, c.window_end == window_end, c.state == "due", rested)
        return bool(self._db.execute(ring.values(rung_at=now)).rowcount)

    def monitor_mark(self) -> MonitorMark:
        """What windows follow from, as it is now: every dataset's watermark, and how many champions there have been."""
        c = t.watermark.c
        marks = self._db.execute(sa.select(c.dataset, c.complete_until).order_by(c.dataset))
        champions = self._db.execute(sa.select(sa.func.count()).select_from(t.champion)).scalar_one()
        return tuple((dataset, until) for dataset, until in marks), champions

    def save_monitored(self, row: MonitoredRow) -> bool:
        """Keep what was found in a window; false, and nothing is changed, when another has kept it before.

        Older windows of the model that still wait are passed over for good.
        """
        c, values = t.monitored.c, asdict(row) | {"done_at": self.wall()}
        older = sa.delete(t.monitored).where(c.model == row.model, c.window_end < row.window_end, c.state == "due")
        self._db.execute(older)
        if self._db.execute(self._insert(t.monitored).values(values).on_conflict_do_nothing()).rowcount:
            return True
        keep = sa.update(t.monitored).where(
            c.model == row.model, c.window_end == row.window_end, c.state.in_(("due", "broken"))
        )
        del values["rung_at"]
        return bool(self._db.execute(keep.values(values)).rowcount)

    def looked_until(self, models: Collection[str]) -> dict[str, datetime]:
        """Where the newest window ends that was looked at, and believed, of each of these models that has one."""
        c = t.monitored.c
        done = sa.select(c.model, sa.func.max(c.window_end)).where(self._among(c.model, models), c.state == "done")
        return {row[0]: row[1] for row in self._db.execute(done.group_by(c.model))}

    def monitored(
        self, model: str | None = None, *, window_end: datetime | None = None, limit: int | None = None
    ) -> list[MonitoredRow]:
        """Windows, the newest first."""
        c = t.monitored.c
        query = sa.select(t.monitored).order_by(c.window_end.desc(), c.model).limit(limit)
        if model is not None:
            query = query.where(c.model == model)
        if window_end is not None:
            query = query.where(c.window_end == window_end)
        return [MonitoredRow(**row) for row in self._db.execute(query).mappings()]
