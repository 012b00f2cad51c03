"""The ledger's side of signed requests: which were taken, for all processes that take them."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base

MOST_FORGOTTEN = 100


class Signatures(Base):
    """Signatures, each taken once."""

    def take_signature(self, sender: str, signature: str, keep_seconds: float) -> bool:
        """Take it; false when it was taken before. Some of those older than ``keep_seconds`` are forgotten."""
        now, c = self.wall(), t.signature.c
        old = (
            sa.select(c.sender, c.signature)
            .where(c.seen_at < now - timedelta(seconds=keep_seconds))
            .limit(MOST_FORGOTTEN)
            .with_for_update(skip_locked=True)
        )
        self._db.execute(sa.delete(t.signature).where(sa.tuple_(c.sender, c.signature).in_(old)))
        row = {"sender": sender, "signature": signature, "seen_at": now}
        return bool(self._db.execute(self._insert(t.signature).values(row).on_conflict_do_nothing()).rowcount)
