"""The ledger's side of rows that go by age: which ones, a batch at a time, and below which offset all are known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.domain.housekeeping import DEPLOYMENT, RowKind
from ratchet.domain.spec import REDELIVERED_FOR
from ratchet.ports.ledger import LIVE_STATES, OPEN_FATES, WAITING_STATES, RowsFound, RowsWanted

_TABLES: dict[RowKind, sa.Table] = {
    "events": t.event,
    "dead_letters": t.record,
    "records": t.record,
    "outbox": t.outbox,
    "notices": t.notification,
    "self_tests": t.self_test,
}
_WINDOW = 20_000
"""Rows of a table in its own order that are looked at in one statement; those of an index are found by it."""
_INDEXED = frozenset({"events", "dead_letters"})


class Housekeeping(Base):
    """Rows that go by age. Finding them and removing them are two: what is found is looked at again when it goes."""

    def months_decided(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        """By model and kind the last month that was decided, and the last of which not all has gone yet."""
        c = t.removal.c
        open_ = sa.func.max(sa.case((c.removed_at.is_(None), c.name)))
        query = sa.select(c.model, c.kind, sa.func.max(c.name), open_).where(c.rows.is_not(None))
        return {(row[0], row[1]): (row[2], row[3]) for row in self._db.execute(query.group_by(c.model, c.kind))}

    def decide_rows(self, model: str, kind: RowKind, month: str, why: str) -> bool:
        """Keep that rows up to this month are to go; false, and nothing is changed, where that was decided before."""
        row = {"model": model, "kind": kind, "name": month, "why": why, "decided_at": self.wall(), "rows": 0}
        return bool(self._db.execute(self._insert(t.removal).values(row).on_conflict_do_nothing()).rowcount)

    def finish_rows(self, model: str, kind: RowKind, month: str) -> int | None:
        """All up to this month that may go has gone: how many rows; None where somebody has said so before."""
        c = t.removal.c
        done = sa.update(t.removal).where(c.model == model, c.kind == kind, c.name <= month, c.removed_at.is_(None))
        ended = list(self._db.execute(done.values(removed_at=self.wall()).returning(c.rows)).scalars())
        return sum(ended) if ended else None

    def count_rows(self, which: RowsWanted) -> int:
        """How many would go."""
        query = sa.select(sa.func.count()).select_from(_TABLES[which.kind]).where(*self._may_go(which))
        return int(self._db.execute(query).scalar_one())

    def rows_to_remove(self, which: RowsWanted, after: int, limit: int) -> RowsFound:
        """Some of what may go, at most ``limit``, and as long as there may be more the last row that was looked at."""
        table = _TABLES[which.kind]
        if which.kind in _INDEXED:
            found = tuple(self._db.execute(sa.select(table.c.id).where(*self._may_go(which)).limit(limit)).scalars())
            return RowsFound(found, after if len(found) == limit else None)
        aged = _age(which.kind)
        window = (
            sa.select(table.c.id, aged.label("aged"))
            .where(table.c.id > after)
            .order_by(table.c.id)
            .limit(max(limit, _WINDOW))
            .subquery()
        )
        ends = self._db.execute(sa.select(sa.func.max(window.c.id), sa.func.min(window.c.aged))).one()
        if ends[0] is None or ends[1] >= which.before:
            return RowsFound((), None)
        query = sa.select(table.c.id).where(table.c.id > after, table.c.id <= ends[0], *self._may_go(which))
        found = tuple(self._db.execute(query.order_by(table.c.id).limit(limit)).scalars())
        return RowsFound(found, found[-1] if len(found) == limit else int(ends[0]))

    def raise_floors(self, which: RowsWanted, pks: Sequence[int]) -> None:
        """Whatever Kafka delivers again of the records that go with these rows is known from now on.

        In a transaction of its own, before they go: it waits for the inserts at work, which do not know the floor yet.
        """
        if which.kind not in {"events", "records", "dead_letters"}:
            return
        r, f = t.record.c, t.record_floor.c
        mine = self._among(r.id, self._records_of(pks) if which.kind == "events" else pks)
        tops = (
            sa.select(r.cluster, r.topic, r.partition, sa.func.max(r.offset) + 1)
            .where(mine)
            .group_by(r.cluster, r.topic, r.partition)
        )
        known = self.floors()
        higher = [row for row in self._db.execute(tops).all() if row[3] > known.get((row[0], row[1], row[2]), 0)]
        if not higher:
            return
        if self._postgres:
            self._db.execute(sa.text("LOCK TABLE record IN SHARE ROW EXCLUSIVE MODE"))
        insert = self._insert(t.record_floor).values([dict(zip(f.keys(), row, strict=True)) for row in higher])
        new = insert.excluded
        self._db.execute(
            insert.on_conflict_do_update(
                index_elements=["cluster", "topic", "partition"],
                set_={"offset": new.offset},
                where=t.record_floor.c.offset < new.offset,
            )
        )

    def remove_rows(self, which: RowsWanted, pks: Sequence[int], month: str) -> int:
        """Remove those of the rows that still may go, with what belongs to them, and count them; returns how many.

        Rows that somebody holds are left for the next time.
        """
        table, c = _TABLES[which.kind], t.removal.c
        own = sa.select(table.c.id).where(self._among(table.c.id, pks), *self._may_go(which))
        going = list(self._db.execute(own.with_for_update(of=table, skip_locked=True)).scalars())
        if not going:
            return 0
        if which.kind == "events":
            self._remove_events(going)
        else:
            if which.kind == "notices":
                posts = self._among(t.notification_post.c.notification_id, going)
                self._db.execute(sa.delete(t.notification_post).where(posts))
            self._db.execute(sa.delete(table).where(self._among(table.c.id, going)))
        mine = sa.and_(c.model == which.model, c.kind == which.kind, c.name == month)
        self._db.execute(sa.update(t.removal).where(mine).values(rows=c.rows + len(going)))
        return len(going)

    def _remove_events(self, going: Sequence[int]) -> None:
        """Their fates too, and their records where no other event names them and Kafka cannot deliver them again."""
        r, floors = t.record.c, self.floors()
        mine = sa.select(r.id, r.cluster, r.topic, r.partition, r.offset).where(
            self._among(r.id, self._records_of(going))
        )
        records = [row[0] for row in self._db.execute(mine) if row[4] < floors.get((row[1], row[2], row[3]), 0)]
        self._db.execute(sa.delete(t.fate).where(self._among(t.fate.c.event_pk, going)))
        self._db.execute(sa.delete(t.event).where(self._among(t.event.c.id, going)))
        self._db.execute(sa.delete(t.record).where(self._among(r.id, records)))

    def _records_of(self, events: Sequence[int]) -> list[int]:
        """Stored records, of longer ago than Kafka keeps them, that these events name and no other does."""
        r, e = t.record.c, t.event.c
        named = self._db.execute(sa.select(e.record_id).where(self._among(e.id, events), e.record_id.is_not(None)))
        records, own = sorted(set(named.scalars())), set(events)
        namers = self._db.execute(sa.select(e.record_id, e.id).where(self._among(e.record_id, records)))
        elsewhere = {row[0] for row in namers if row[1] not in own}
        old = self._db.execute(
            sa.select(r.id).where(
                self._among(r.id, [pk for pk in records if pk not in elsewhere]),
                r.status == "stored",
                r.received_at < self.wall() - REDELIVERED_FOR,
            )
        )
        return list(old.scalars())

    def _may_go(self, which: RowsWanted) -> list[sa.ColumnElement[bool]]:
        """What makes a row one that may go: :data:`ratchet.domain.housekeeping.NEEDED` in SQL."""
        old = _age(which.kind) < which.before
        if which.kind == "events":
            return [old, *self._unneeded_events(which)]
        if which.kind == "dead_letters":
            own = t.record.c.key.in_([name.encode() for name in which.others])
            mine = sa.or_(t.record.c.key.is_(None), ~own)
            if which.model != DEPLOYMENT:
                mine = t.record.c.key == which.model.encode()
            return [old, t.record.c.status == "rejected", mine]
        if which.kind == "records":
            named = sa.exists().where(t.event.c.record_id == t.record.c.id)
            return [old, t.record.c.status == "stored", ~named]
        if which.kind == "outbox":
            return [old, t.outbox.c.done_at.is_not(None)]
        if which.kind == "notices":
            n, p = t.notification.c, t.notification_post.c
            waits = sa.exists().where(p.notification_id == n.id, p.sent_at.is_(None), p.dropped.is_(None))
            over = sa.or_(n.over_at < which.before, n.notice["lasts"].as_boolean().is_(sa.false()))
            return [old, over, ~waits]
        c = t.self_test.c
        newest = sa.select(sa.func.max(c.id)).group_by(c.model)
        judged = newest.where(c.passed.is_not(None))
        return [old, c.id.not_in(newest.scalar_subquery()), c.id.not_in(judged.scalar_subquery())]

    def _unneeded_events(self, which: RowsWanted) -> list[sa.ColumnElement[bool]]:
        e, a, waiting = t.event.c, t.attempt.c, t.event.alias()
        started = sa.exists().where(a.model == which.model, a.trigger_event_pk == e.id)
        at_work = sa.select(a.id).where(a.model == which.model, a.state.in_((*LIVE_STATES, *WAITING_STATES)))
        followed = sa.select(waiting.c.data["attempt"].as_string()).where(
            waiting.c.model == which.model, waiting.c.fate.in_(OPEN_FATES), waiting.c.origin == "attempt"
        )
        needed = sa.union_all(at_work, followed).subquery()
        return [
            e.model == which.model,
            e.fate.not_in(OPEN_FATES),
            e.told_at.is_not(None),
            e.id.not_in(which.spared),
            ~started,
            sa.or_(e.attempt_id.is_(None), ~sa.exists().where(needed.c[0] == e.attempt_id)),
        ]

    def newest_events(self, model: str, types: Collection[str]) -> list[int]:
        """The newest event of each type by business time, of those types that were heard."""
        c = t.event.c
        found = (
            self._db.execute(
                sa.select(c.id).where(c.model == model, c.type == type_).order_by(c.time.desc(), c.id.desc()).limit(1)
            ).scalar_one_or_none()
            for type_ in types
        )
        return [pk for pk in found if pk is not None]


def _age(kind: RowKind) -> sa.Column[datetime]:
    """The column by which rows of the kind age."""
    column: sa.Column[datetime] = {
        "events": t.event.c.time,
        "dead_letters": t.record.c.received_at,
        "records": t.record.c.received_at,
        "outbox": t.outbox.c.created_at,
        "notices": t.notification.c.at,
        "self_tests": t.self_test.c.at,
    }[kind]
    return column
