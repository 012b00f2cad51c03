"""The ledger's audit log: append-only and chained by hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import AUDIT_LOCK, Base

GENESIS = "0" * 64


def audit_hash(previous: str, entry: dict[str, Any]) -> str:
    """SHA-256 over the previous hash and the entry in canonical JSON: any edit or removal breaks the chain."""
    return hashlib.sha256((previous + json.dumps(entry, sort_keys=True, separators=(",", ":"))).encode()).hexdigest()


class Audit(Base):
    """Who did what, when and why."""

    def audit(self, actor: str, action: str, model: str | None, detail: dict[str, Any]) -> None:
        """Append to the log; entries are chained by hash, one writer at a time."""
        if self._postgres:
            self._db.execute(sa.select(sa.func.pg_advisory_xact_lock(AUDIT_LOCK)))
        last = self._one(sa.select(t.audit).order_by(t.audit.c.seq.desc()).limit(1))
        at = self.wall()
        entry = {
            "seq": (last["seq"] if last else 0) + 1,
            "at": at.isoformat(),
            "actor": actor,
            "action": action,
            "model": model,
            "detail": detail,
        }
        previous = last["hash"] if last else GENESIS
        self._db.execute(
            sa.insert(t.audit).values(
                entry
                | {
                    "at": at,
                    "previous_hash": previous,
                    "hash": audit_hash(previous, entry),
                }
            )
        )

    def last_audited(self, actions: Collection[str]) -> str | None:
        """Which of these actions was audited last; None when none was."""
        c = t.audit.c
        query = sa.select(c.action).where(c.action.in_(list(actions))).order_by(c.seq.desc()).limit(1)
        return self._db.execute(query).scalar_one_or_none()

    def audit_log(self, model: str | None = None) -> list[dict[str, Any]]:
        """The log, oldest first."""
        query = sa.select(t.audit).order_by(t.audit.c.seq)
        if model is not None:
            query = query.where(t.audit.c.model == model)
        return [dict(r) for r in self._db.execute(query).mappings()]
