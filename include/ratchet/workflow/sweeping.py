"""Once a minute, whatever died: reap, decide, expire, relay, and ring what nobody rang."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from ratchet.ports.ledger import LIVE_STATES, AttemptRow, Ledger
from ratchet.settings import Settings
from ratchet.workflow.intake import Intake
from ratchet.workflow.promotion import release
from ratchet.workflow.telling import Relay

logger = logging.getLogger(__name__)
OVERDUE_SECONDS = 20.0
JUDGED_OVERDUE_SECONDS = 60.0
INTAKE_ABSENT_SECONDS = 300.0


class RunStates(Protocol):
    """What the orchestrator knows of a run; asked before a silent attempt is given up."""

    def state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success``, ``failed`` or ``missing``."""
        ...

    def started_step(self, dag_id: str, run_id: str) -> bool:
        """Whether one of the run's tasks is being executed right now."""
        ...


class Sweeper:
    """The sweep's verb."""

    def __init__(self, ledger: Ledger, intake: Intake, relay: Relay, settings: Settings) -> None:
        self._ledger = ledger
        self._intake = intake
        self._relay = relay
        self._settings = settings

    def sweep(self, runs: RunStates) -> dict[str, Any]:
        """Put right what was left undone; the answer names the models to ring.

        Returns:
            ``{"due": models whose retrain nobody started, "judged": models with a promotion nobody made,
            "reaped": attempts given up, "told": outbox rows relayed, "intake_absent": no pump beats}``
        """
        absent = self._watch_intake()
        reaped = [attempt_id for attempt_id in self._silent() if self._reap(attempt_id, runs)]
        self._intake.tick()
        told = self._relay.run()
        backoff = (self._settings.ring_backoff_seconds, self._settings.ring_backoff_max_seconds)
        with self._ledger.transaction() as tx:
            due = [
                model for model in tx.due_models(*backoff, overdue_seconds=OVERDUE_SECONDS) if tx.ring(model, *backoff)
            ]
            now = tx.wall()
            judged = sorted(
                {
                    a.model
                    for a in tx.attempts(states=("judged",))
                    if a.judged_at is not None and (now - a.judged_at).total_seconds() > JUDGED_OVERDUE_SECONDS
                }
            )
        return {"due": due, "judged": judged, "reaped": reaped, "told": told, "intake_absent": absent}

    def _watch_intake(self) -> bool:
        """Whether no pump has beaten for five minutes; the log says so each time, the audit log when it changes."""
        with self._ledger.transaction() as tx:
            seen, now = tx.intake_seen_at(), tx.wall()
            absent = seen is not None and (now - seen).total_seconds() > INTAKE_ABSENT_SECONDS
            known = tx.last_audited(("intake.absent", "intake.back")) == "intake.absent"
            if absent:
                logger.error("intake absent: no pump has beaten since %s. Is a triggerer up? ratchet intake", seen)
            if absent != known:
                tx.audit("sweep", "intake.absent" if absent else "intake.back", None, {"last_beat": str(seen)})
        return absent

    def _silent(self) -> list[str]:
        """Attempts whose lease has run out."""
        with self._ledger.transaction() as tx:
            now = tx.wall()
            return [
                lease.attempt_id
                for lease in tx.leases()
                if lease.attempt_id and lease.expires_at and lease.expires_at < now
            ]

    def _reap(self, attempt_id: str, runs: RunStates) -> bool:
        """Give the attempt up, unless its run merely waits for a slot: then its lease is renewed."""
        with self._ledger.transaction() as tx:
            attempt = tx.attempt(attempt_id)
        if attempt is None:
            return False
        state = runs.state(attempt.dag_id, attempt.dag_run_id)
        why = _why_given_up(attempt, state, runs)
        with self._ledger.transaction() as tx:
            lease = tx.lock_lease(attempt.model)
            if lease.attempt_id != attempt_id or lease.expires_at is None or lease.expires_at >= tx.wall():
                return False
            if why is None:
                tx.renew_lease(attempt_id, self._settings.lease_ttl_seconds)
                return False
            logger.warning("giving up %s: %s", attempt_id, why)
            ended = "failed" if state in {"failed", "success"} else "abandoned"
            release(tx, attempt, ended, why, self._settings.max_event_tries)
            return True


def _why_given_up(attempt: AttemptRow, state: str, runs: RunStates) -> str | None:
    if attempt.state not in LIVE_STATES:
        return f"its lease was left behind in state {attempt.state}"
    if state == "queued":
        return None
    if state == "running":
        if runs.started_step(attempt.dag_id, attempt.dag_run_id):
            return "its running step has not renewed the lease: the worker is presumed dead"
        return None
    return f"its run {attempt.dag_run_id} is {state} and it has no verdict"
