"""Keep a lease alive while a step works, and keep what it answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ratchet.domain.tracing import attempt_context
from ratchet.errors import RatchetError, StaleAttempt
from ratchet.logs import about
from ratchet.ports.ledger import AttemptRow, Ledger, Tx
from ratchet.ports.telemetry import NOBODY, Telemetry
from ratchet.settings import Settings
from ratchet.workflow.tracing import traced_event, traced_step

logger = logging.getLogger(__name__)
ENDED_STATES = ("concluded", "failed", "abandoned", "superseded")
RETRY_SECONDS = 1.0


def resumable(tx: Tx, attempt_id: str) -> AttemptRow:
    """The attempt, unless it has ended.

    Raises:
        StaleAttempt: there is no such attempt, or it has ended; the message names the remedy.
    """
    attempt = tx.attempt(attempt_id)
    if attempt is None:
        raise StaleAttempt(f"there is no attempt {attempt_id!r}")
    if attempt.state in ENDED_STATES:
        how = attempt.failure or f"verdict {attempt.verdict}, which stands"
        raise StaleAttempt(
            f"attempt {attempt_id} is {attempt.state} ({how}) and cannot be resumed. Start a new run instead."
        )
    return attempt


@contextmanager
def held(ledger: Ledger, attempt_id: str, settings: Settings) -> Iterator[AttemptRow]:
    """Renew the attempt's lease in the background while the body runs; afterwards leave it time for the next step.

    A lost lease is noticed at the next write, which carries the epoch and is refused; a ledger that is away for a
    moment is asked again every second.

    Raises:
        StaleAttempt: the attempt does not hold its model's lease.
    """
    with ledger.transaction() as tx:
        attempt = tx.own_lease(attempt_id)
        tx.renew_lease(attempt_id, settings.lease_ttl_seconds)
    done = threading.Event()

    def beat() -> None:
        pause = settings.lease_renew_seconds
        while not done.wait(pause):
            try:
                _renew(ledger, attempt_id, settings.lease_ttl_seconds)
                pause = settings.lease_renew_seconds
            except StaleAttempt as error:
                logger.warning("%s", error)
                return
            except RatchetError as error:
                logger.warning("the lease of %s was not renewed, trying again: %s", attempt_id, error)
                pause = min(RETRY_SECONDS, settings.lease_renew_seconds)

    thread = threading.Thread(target=beat, name=f"lease {attempt_id}", daemon=True)
    thread.start()
    try:
        yield attempt
    finally:
        done.set()
        thread.join()
        try:
            _renew(ledger, attempt_id, settings.lease_wait_seconds)
        except RatchetError as error:
            logger.warning("the lease of %s was not left to its next step: %s", attempt_id, error)


def _renew(ledger: Ledger, attempt_id: str, seconds: float) -> None:
    with ledger.transaction() as tx:
        tx.renew_lease(attempt_id, seconds)


def step(
    ledger: Ledger,
    settings: Settings,
    attempt_id: str,
    name: str,
    work: Callable[[AttemptRow], dict[str, Any]],
    telemetry: Telemetry = NOBODY,
) -> dict[str, Any]:
    """Do one step once: a retried task answers what the first one stored; a stale attempt stores nothing.

    What it took is told as a span, whether it ends well or not.

    Raises:
        StaleAttempt: the attempt has ended, or lost its lease to another.
    """
    with ledger.transaction() as tx:
        resumable(tx, attempt_id)
        known = tx.step_result(attempt_id, name)
        if known is not None:
            return known
    with held(ledger, attempt_id, settings) as attempt:
        with ledger.transaction() as tx:
            started_at = tx.wall()
            event = traced_event(tx, attempt.trigger_event_pk)
        context = attempt_context(attempt.id, event)
        named = about(
            model=attempt.model,
            attempt=attempt.id,
            event_id=event.event_id if event else None,
            run_id=attempt.dag_run_id,
            trace_id=context.trace_id,
        )
        with named, traced_step(telemetry, context, name, attempt) if telemetry.on else nullcontext():
            logger.info("step %s of %s begins", name, attempt.id)
            result = work(attempt)
        with ledger.transaction() as tx:
            tx.own_lease(attempt_id)
            tx.save_step(attempt_id, name, result, started_at)
    return result
