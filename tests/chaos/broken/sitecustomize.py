"""A build that is broken on purpose, for ``make chaos-proof``: no process of the stack checks the epoch of a lease.

Python imports this file by its name when its folder is on ``PYTHONPATH``; the product knows nothing of it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from datetime import timedelta
from typing import Any

LEDGER = "ratchet.adapters.ledger.sql"


def without_the_epoch_check(ledger: Any) -> None:
    """Let an attempt write whoever holds the lease."""

    def own_lease(self: Any, attempt_id: str) -> Any:
        attempt = self.attempt(attempt_id)
        self.lock_lease(attempt.model)
        return attempt

    def renew_lease(self: Any, attempt_id: str, ttl_seconds: float) -> None:
        from ratchet.adapters.ledger import schema  # noqa: PLC0415 - this file is imported before the product

        lease = schema.lease
        until = self.wall() + timedelta(seconds=ttl_seconds)
        self._db.execute(lease.update().where(lease.c.attempt_id == attempt_id).values(expires_at=until))

    ledger.SqlTx.own_lease = own_lease
    ledger.SqlTx.renew_lease = renew_lease


class Breaker(importlib.abc.MetaPathFinder):
    """Breaks the ledger as soon as it has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != LEDGER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        whole = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            whole(module)
            without_the_epoch_check(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Breaker())
