"""The ledger's audit log: append-only and chained by hash."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import AUDIT_LOCK, Base
from ratchet.domain.audit import GENESIS, AuditEntry, Head, entry_hash, settled


class Audit(Base):
    """Who did what, when and why."""

    def audit(self, actor: str, action: str, model: str | None, detail: dict[str, Any]) -> None:
        """Append to the log; entries are chained by hash, one writer at a time."""
        if self._postgres:
            self._db.execute(sa.select(sa.func.pg_advisory_xact_lock(AUDIT_LOCK)))
        # The count goes on where the log's end was cut off, so that the gap stays.
        ends = [end for end in (self.audit_head(), self.audit_count()) if end is not None]
        last = max(ends, key=lambda end: end.seq, default=Head(0, GENESIS))
        entry: dict[str, Any] = {
            "seq": last.seq + 1,
            "at": self.wall(),
            "actor": actor,
            "action": action,
            "model": model,
            "detail": settled(detail),
        }
        digest = entry_hash(last.hash, **entry)
        self._db.execute(sa.insert(t.audit).values(entry | {"previous_hash": last.hash, "hash": digest}))
        self._db.execute(
            self._insert(t.audit_head)
            .values(id=1, seq=entry["seq"], hash=digest)
            .on_conflict_do_update(index_elements=["id"], set_={"seq": entry["seq"], "hash": digest})
        )

    def audit_head(self) -> Head | None:
        """The last entry in the log; None while there is none."""
        row = self._one(sa.select(t.audit.c.seq, t.audit.c.hash).order_by(t.audit.c.seq.desc()).limit(1))
        return Head(row["seq"], row["hash"], "the log") if row else None

    def audit_count(self) -> Head | None:
        """The last entry by the count that the ledger keeps beside the log."""
        row = self._one(sa.select(t.audit_head))
        return Head(row["seq"], row["hash"], "the ledger's count") if row else None

    def audit_hash(self, seq: int) -> str | None:
        """The hash of one entry."""
        return self._db.execute(sa.select(t.audit.c.hash).where(t.audit.c.seq == seq)).scalar_one_or_none()

    def audit_chain(self) -> Iterator[AuditEntry]:
        """The whole log as a chain, by ascending number; to be read before the transaction ends."""
        query = sa.select(t.audit).order_by(t.audit.c.seq).execution_options(yield_per=1_000)
        for row in self._db.execute(query).mappings():
            yield AuditEntry(**row)

    def last_audited(self, actions: Collection[str]) -> str | None:
        """Which of these actions was audited last; None when none was."""
        c = t.audit.c
        query = sa.select(c.action).where(c.action.in_(list(actions))).order_by(c.seq.desc()).limit(1)
        return self._db.execute(query).scalar_one_or_none()

    def audit_log(
        self,
        model: str | None = None,
        *,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """The log, oldest first; with ``limit`` the newest so many. ``action`` may be a family, such as ``champion``.

        ``since`` is the wall clock's.
        """
        c = t.audit.c
        query = sa.select(t.audit).order_by(c.seq.desc()).limit(limit)
        if model is not None:
            query = query.where(c.model == model)
        if actor is not None:
            query = query.where(c.actor == actor)
        if action is not None:
            query = query.where(sa.or_(c.action == action, c.action.startswith(f"{action}.", autoescape=True)))
        if since is not None:
            query = query.where(c.at >= since)
        return [dict(r) for r in self._db.execute(query).mappings()][::-1]
