"""The ledger's side of the gate's self-test."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import SelfTestRow


class SelfTests(Base):
    """What came of the gate's self-tests."""

    def save_self_test(self, model: str, detail: dict[str, Any], *, passed: bool | None) -> None:
        """Keep one; ``passed`` is None where there was too little to judge."""
        values = {"model": model, "at": self.wall(), "passed": passed, "detail": detail}
        self._db.execute(sa.insert(t.self_test).values(values))

    def self_tests(self, model: str | None = None, limit: int | None = None) -> list[SelfTestRow]:
        """The newest first."""
        query = sa.select(t.self_test).order_by(t.self_test.c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(t.self_test.c.model == model)
        return [_row(found) for found in self._db.execute(query).mappings()]

    def failed_self_test(self, model: str) -> SelfTestRow | None:
        """The model's last self-test that was judged, if it failed: promotions wait for a later one that passes."""
        c = t.self_test.c
        query = sa.select(t.self_test).where(c.model == model, c.passed.is_not(None)).order_by(c.id.desc()).limit(1)
        last = self._one(query)
        return None if last is None or last["passed"] else _row(last)


def _row(found: Any) -> SelfTestRow:
    return SelfTestRow(found["model"], found["at"], found["passed"], found["detail"])
