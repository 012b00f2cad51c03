"""The ledger's side of those who look at events and give them another chance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import CHUNK, EVENT_ROW, Base, chunks, record_row
from ratchet.ports.ledger import (
    EventRow,
    FateEntry,
    RecordRow,
)
from ratchet.records import RawRecord


class Operators(Base):
    """What operators look at, and what they give another chance."""

    def last_fate(self) -> int:
        """The newest entry of the fate history; 0 when there is none."""
        return int(self._db.execute(sa.select(sa.func.coalesce(sa.func.max(t.fate.c.id), 0))).scalar_one())

    def fates_after(self, pk: int, missing: Collection[int], limit: int) -> list[FateEntry]:
        """Entries of the fate history after this one, oldest first, and those of ``missing`` that are there now.

        Entries become visible when their transaction commits, which is not the order of their numbers.
        """
        f, e = t.fate.c, t.event.c
        later = f.id > pk if not missing else sa.or_(f.id > pk, f.id.in_(list(missing)))
        query = (
            sa.select(
                f.id.label("pk"), f.at, e.model, e.source, e.event_id, e.type, f.fate, f.reason, f.until, f.attempt_id
            )
            .join(t.event, e.id == f.event_pk)
            .where(later)
            .order_by(f.id)
            .limit(limit)
        )
        return [FateEntry(**row) for row in self._db.execute(query).mappings()]

    def record_of(self, event_pk: int) -> RecordRow | None:
        """The Kafka record that brought the event; None when a form or a schedule did."""
        row = self._one(
            sa.select(t.record).join(t.event, t.event.c.record_id == t.record.c.id).where(t.event.c.id == event_pk)
        )
        return record_row(row) if row else None

    def rejected_records(
        self,
        *,
        spot: tuple[str, int, int] | None = None,
        reason_contains: str | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[RecordRow]:
        """Dead letters, oldest first: the first so many after record ``after``, or the newest so many.

        ``spot`` is topic, partition and offset. With ``after`` rows are locked, and those locked elsewhere left out.
        """
        c = t.record.c
        query = sa.select(t.record).where(c.status == "rejected").limit(limit)
        if spot is not None:
            query = query.where(c.topic == spot[0], c.partition == spot[1], c.offset == spot[2])
        if reason_contains is not None:
            query = query.where(c.reason.icontains(reason_contains, autoescape=True))
        if after is not None:
            query = query.where(c.id > after).order_by(c.id).with_for_update(skip_locked=True)
            return [record_row(r) for r in self._db.execute(query).mappings()]
        return [record_row(r) for r in self._db.execute(query.order_by(c.id.desc())).mappings()][::-1]

    def unknown_records(self, records: Sequence[RawRecord]) -> list[RawRecord]:
        """Those of the records whose offset has no row, and had none that retention removed."""
        c, floors = t.record.c, self.floors()
        records = [r for r in records if r.offset >= floors.get((r.cluster, r.topic, r.partition), 0)]
        known: set[tuple[str, str, int, int]] = set()
        for cluster, topic, partition in {(r.cluster, r.topic, r.partition) for r in records}:
            offsets = [r.offset for r in records if (r.cluster, r.topic, r.partition) == (cluster, topic, partition)]
            query = sa.select(c.offset).where(
                c.cluster == cluster, c.topic == topic, c.partition == partition, c.offset.in_(offsets)
            )
            known |= {(cluster, topic, partition, offset) for offset in self._db.execute(query).scalars()}
        return [r for r in records if (r.cluster, r.topic, r.partition, r.offset) not in known]

    def reopenable(self, models: Collection[str], fates: Collection[str], since: datetime) -> list[EventRow]:
        """Events of these models that ended in one of these fates at ``since`` or later, and were not reopened since.

        ``since`` is the wall clock's. The caller holds the models.
        """
        e, f = t.event.c, t.fate.c
        ended = sa.exists().where(f.event_pk == e.id, f.fate == e.fate, f.at >= since)
        query = (
            sa.select(*EVENT_ROW)
            .where(
                e.model.in_(list(models)),
                e.fate.in_(list(fates)),
                sa.or_(e.reopened_at.is_(None), e.reopened_at < since),
                ended,
            )
            .order_by(e.id)
        )
        return [EventRow(*row) for row in self._db.execute(query)]

    def reopen(self, pks: Sequence[int], reason: str) -> None:
        """These events are pending again, with no try counted; how they end will be told anew."""
        now = self.wall()
        for chunk in chunks(pks, CHUNK):
            fresh = {"fate": "pending", "reason": reason, "until": None, "attempt_id": None}
            self._db.execute(
                sa.update(t.event)
                .where(t.event.c.id.in_(chunk))
                .values(fresh | {"tries": 0, "told_at": None, "reopened_at": now})
            )
            self._db.execute(sa.insert(t.fate), [fresh | {"event_pk": pk, "at": now} for pk in chunk])
