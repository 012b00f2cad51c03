"""Keep a lease alive while a step works, and keep what it answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ratchet.errors import RatchetError, StaleAttempt
from ratchet.ports.ledger import AttemptRow, Ledger
from ratchet.settings import Settings

logger = logging.getLogger(__name__)


@contextmanager
def held(ledger: Ledger, attempt_id: str, settings: Settings) -> Iterator[AttemptRow]:
    """Renew the attempt's lease in the background while the body runs.

    A lost lease is noticed at the next write, which carries the epoch and is refused; a ledger that is away for a
    moment is asked again at the next beat.

    Raises:
        StaleAttempt: the attempt does not hold its model's lease.
    """
    with ledger.transaction() as tx:
        attempt = tx.own_lease(attempt_id)
        tx.renew_lease(attempt_id, settings.lease_ttl_seconds)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(settings.lease_renew_seconds):
            try:
                with ledger.transaction() as tx:
                    tx.renew_lease(attempt_id, settings.lease_ttl_seconds)
            except StaleAttempt as error:
                logger.warning("%s", error)
                return
            except RatchetError as error:
                logger.warning("the lease of %s was not renewed, trying again: %s", attempt_id, error)

    thread = threading.Thread(target=beat, name=f"lease {attempt_id}", daemon=True)
    thread.start()
    try:
        yield attempt
    finally:
        done.set()
        thread.join()


def step(
    ledger: Ledger, settings: Settings, attempt_id: str, name: str, work: Callable[[AttemptRow], dict[str, Any]]
) -> dict[str, Any]:
    """Do one step once: a retried task answers what the first one stored; a stale attempt stores nothing."""
    with ledger.transaction() as tx:
        known = tx.step_result(attempt_id, name)
        if known is not None:
            return known
    with held(ledger, attempt_id, settings) as attempt:
        with ledger.transaction() as tx:
            started_at = tx.wall()
        result = work(attempt)
        with ledger.transaction() as tx:
            tx.own_lease(attempt_id)
            tx.save_step(attempt_id, name, result, started_at)
    return result
