"""The ledger's side of promotion: champions and what is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import FEW, Base, chunks
from ratchet.errors import ChampionMoved
from ratchet.ports.ledger import (
    OPEN_FATES,
    ChampionRow,
    OutboxRow,
    Resolution,
)


class Promotions(Base):
    """Champions and the outbox."""

    def current_champion(self, model: str) -> ChampionRow | None:
        """Who serves."""
        c = t.champion.c
        row = self._one(sa.select(t.champion).where(c.model == model).order_by(c.seq.desc()).limit(1))
        return ChampionRow(**row) if row else None

    def champions(self, model: str) -> list[ChampionRow]:
        """The whole history, oldest first."""
        query = sa.select(t.champion).where(t.champion.c.model == model).order_by(t.champion.c.seq)
        return [ChampionRow(**r) for r in self._db.execute(query).mappings()]

    def version_digest(self, model: str, version: int) -> str | None:
        """The digest of the version's artifact as it was made; None where the ledger recorded none."""
        c, a = t.champion.c, t.attempt.c
        served = sa.select(c.model_digest).where(c.model == model, c.version == version)
        judged = sa.select(a.model_digest).where(a.model == model, a.challenger_version == version)
        refitted = sa.select(a.deployed_digest).where(a.model == model, a.deployed_version == version)
        for query in (judged, refitted, served):
            found = set(self._db.execute(query).scalars()) - {None}
            if found:
                return str(found.pop())
        return None

    def settled_champions(self, model: str | None = None) -> list[ChampionRow]:
        """Who serves, of every model or of one, where no open outbox row asks for the alias ``champion``."""
        c, o = t.champion.c, t.outbox.c
        newest = sa.select(c.model, sa.func.max(c.seq).label("seq")).group_by(c.model).subquery()
        on_its_way = sa.exists().where(
            o.kind == "alias", o.done_at.is_(None), o.model == c.model, o.dedupe.startswith("alias:")
        )
        query = (
            sa.select(t.champion)
            .join(newest, sa.and_(newest.c.model == c.model, newest.c.seq == c.seq))
            .where(~on_its_way)
            .order_by(c.model)
        )
        if model is not None:
            query = query.where(c.model == model)
        return [ChampionRow(**r) for r in self._db.execute(query).mappings()]

    def insert_champion(self, champion: ChampionRow) -> None:
        """The compare-and-set: fails when ``seq`` is not the next one. It serves from now on, by the business clock.

        Raises:
            ChampionMoved: somebody else promoted first, or the expected champion is not the current one.
        """
        current = self.current_champion(champion.model)
        expected = champion.seq - 1
        if (current.seq if current else 0) != expected:
            raise ChampionMoved(
                f"{champion.model}: judged against champion #{expected}, but #{current.seq if current else 0} serves"
            )
        entry = asdict(champion) | {"since": self.clock()[1]}
        try:
            self._db.execute(sa.insert(t.champion).values(entry))
        except IntegrityError as error:
            raise ChampionMoved(f"{champion.model}: another promotion over champion #{expected} came first") from error

    def enqueue(self, kind: str, dedupe: str, payload: dict[str, Any], model: str | None = None) -> None:
        """Tell the world later, at least once; the same ``dedupe`` is told once."""
        self._db.execute(
            self._insert(t.outbox)
            .values(kind=kind, dedupe=dedupe, payload=payload, model=model, created_at=self.wall(), tries=0)
            .on_conflict_do_nothing()
        )

    def take_outbox(self, kind: str, limit: int, *, most_tries: int | None = None) -> list[int]:
        """Open rows of this kind, locked until the transaction ends: those tried least, all equally often, by age.

        So rows that fail meet only their like. Rows that another relay holds are passed over, and so are those tried
        ``most_tries`` times or more.
        """
        c = t.outbox.c
        query = sa.select(c.id, c.tries).where(c.done_at.is_(None), c.kind == kind)
        if most_tries is not None:
            query = query.where(c.tries < most_tries)
        query = query.order_by(c.tries, c.id).limit(limit).with_for_update(skip_locked=True)
        rows = self._db.execute(query).all()
        return [row.id for row in rows if row.tries == rows[0].tries]

    def read_outbox(self, pks: Sequence[int]) -> Iterator[OutboxRow]:
        """These rows in order; few at a time are in memory, because a row may hold a megabyte."""
        c = t.outbox.c
        for chunk in chunks(pks, FEW):
            query = sa.select(t.outbox).where(c.id.in_(chunk)).order_by(c.id)
            for row in self._db.execute(query).mappings().all():
                yield OutboxRow(*(row[k] for k in ("id", "dedupe", "model", "kind", "payload", "tries")))

    def finish_outbox(self, pks: Sequence[int], error: str | None = None) -> None:
        """Done, or tried once more in vain."""
        c = t.outbox.c
        values = {"tries": c.tries + 1, "last_error": error} | ({} if error else {"done_at": self.wall()})
        self._db.execute(sa.update(t.outbox).where(c.id.in_(pks)).values(values))

    def take_resolutions(self, limit: int) -> list[Resolution]:
        """Terminal fates that were not told, oldest event first, locked until the transaction ends.

        Those that another relay holds are passed over.
        """
        e, f = t.event.c, t.fate.c
        at = sa.select(sa.func.max(f.at)).where(f.event_pk == e.id).scalar_subquery()
        query = (
            sa.select(
                *(e.id, e.source, e.event_id, e.model, e.type, e.fate, e.reason, e.until, e.attempt_id, e.reopened_at),
                sa.type_coerce(at, t.UtcDateTime).label("at"),
            )
            .where(e.told_at.is_(None), e.fate.not_in(OPEN_FATES))
            .order_by(e.id)
            .limit(limit)
        )
        return [Resolution(*row) for row in self._db.execute(query.with_for_update(of=t.event, skip_locked=True))]

    def finish_resolutions(self, pks: Sequence[int]) -> None:
        """The world was told how these events ended."""
        self._db.execute(sa.update(t.event).where(t.event.c.id.in_(pks)).values(told_at=self.wall()))

    def take_announcements(self, *, model: str | None = None, overdue_seconds: float = 0.0) -> list[str]:
        """The models with news of their champion that no asset event has carried yet; whoever takes them, tells."""
        now, c = self.wall(), t.outbox.c
        query = sa.update(t.outbox).where(
            c.kind == "champion", c.done_at.is_(None), c.created_at <= now - timedelta(seconds=overdue_seconds)
        )
        if model is not None:
            query = query.where(c.model == model)
        taken = self._db.execute(query.values(done_at=now, tries=c.tries + 1).returning(c.model))
        return sorted(set(taken.scalars()))
