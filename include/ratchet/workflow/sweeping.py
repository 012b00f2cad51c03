"""Once a minute, whatever died: reap, decide, expire, relay, reconcile, and ring what nobody rang."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Any, Protocol

from ratchet.domain.fleet import heard
from ratchet.errors import RatchetError, Unavailable
from ratchet.ports.ledger import AWAITING_APPROVAL, LIVE_STATES, AttemptRow, Ledger
from ratchet.settings import Settings
from ratchet.workflow.auditing import AuditLog
from ratchet.workflow.deciding import readable_specs
from ratchet.workflow.housekeeping import Housekeeping
from ratchet.workflow.intake import Intake
from ratchet.workflow.monitoring import MONITOR_AGAIN_SECONDS, due_ends
from ratchet.workflow.probation import days_due, end_probation, holding, readable_spec
from ratchet.workflow.promotion import Promotions, release
from ratchet.workflow.reconciling import Reconciler
from ratchet.workflow.scoring import plan_scoring
from ratchet.workflow.telling import Relay

logger = logging.getLogger(__name__)
OVERDUE_SECONDS = 20.0
JUDGED_OVERDUE_SECONDS = 60.0
ANNOUNCEMENT_OVERDUE_SECONDS = 60.0
PROBATION_AGAIN_SECONDS = 600.0
"""A run that scores may wait long for a slot in its pool: it is not rung for again meanwhile."""
SCORE_AGAIN_SECONDS = 1800.0
"""A newly complete day is rung for at once; days that stay unscored, for instance by a version that is gone, are not
rung for each minute."""
OPEN_RUN_STATES = ("queued", "running")
INTAKE_ABSENT_SECONDS = 300.0


class RunStates(Protocol):
    """What the orchestrator knows of its DAGs and runs."""

    def state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success``, ``failed`` or ``missing``."""
        ...

    def started_step(self, dag_id: str, run_id: str) -> bool:
        """Whether one of the run's tasks is being executed right now."""
        ...

    def startable(self, dag_id: str) -> bool:
        """Whether a bell starts this DAG now: it is there and not paused."""
        ...

    def claim_awaited(self, model: str) -> bool:
        """Whether a retrain of this model was started and its claim has not ended yet."""
        ...


class Sweeper:
    """The sweep's verb."""

    def __init__(
        self,
        ledger: Ledger,
        intake: Intake,
        relay: Relay,
        settings: Settings,
        reconciler: Reconciler,
        audit_log: AuditLog,
        promotions: Promotions,
        housekeeping: Housekeeping,
    ) -> None:
        self._ledger = ledger
        self._intake = intake
        self._relay = relay
        self._settings = settings
        self._reconciler = reconciler
        self._audit_log = audit_log
        self._promotions = promotions
        self._housekeeping = housekeeping
        self._backoff = (settings.ring_backoff_seconds, settings.ring_backoff_max_seconds)

    def sweep(self, runs: RunStates, folders: Collection[str]) -> dict[str, Any]:
        """Put right what was left undone; the answer names the models to ring.

        Args:
            runs: the orchestrator's word on runs and DAGs.
            folders: the models that have DAGs; a run of another model can never go on.

        Returns:
            ``{"due": models whose retrain nobody started, "judged": models with a promotion nobody made, or an
            approval nobody is asked for, "probation": models on probation with days to score,
            "monitor": models with a window of new rows to look at, "score": models with complete days that have no
            predictions, "champion": models with another champion that nobody announced, "reaped": attempts given up,
            "told": outbox rows relayed, "moved": models whose alias somebody moved by hand,
            "intake_absent": no pump beats, "purged": the ledger's rows that have gone by their age}``
        """
        absent = self._watch_intake()
        reaped = [attempt_id for attempt_id in self._held() if self._reap(attempt_id, runs, folders)]
        unasked = self._unasked(runs)
        self._intake.tick()
        told = self._relay.run()
        moved = self._reconciler.run()
        if moved:
            told += self._relay.run()
        self._keep_audit_head()
        purged = self._purge_rows()
        return {
            "due": self._due(runs, folders),
            "judged": [
                m for m in sorted({*self._judged(), *unasked}) if m in folders and runs.startable(f"promote__{m}")
            ],
            "probation": self._watched(runs, folders),
            "monitor": self._monitored(runs, folders),
            "champion": self._announced(),
            "score": self._unscored(runs, folders),
            "reaped": reaped,
            "told": told,
            "moved": moved,
            "intake_absent": absent,
            "purged": purged,
        }

    def _purge_rows(self) -> int:
        """Remove some of the rows that retention lets go, where the deployment has the sweep do so."""
        most = self._settings.sweep_purges
        if most is None:
            return 0
        try:
            return sum(purged.rows for purged in self._housekeeping.purge("sweep", most=most))
        except RatchetError as error:
            logger.warning("rows that are to go stay until the next sweep: %s", error)
            return 0

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

    def _keep_audit_head(self) -> None:
        """Keep the end of the audit log outside the ledger; a storage that is away must not stop the sweep."""
        try:
            self._audit_log.keep_head()
        except RatchetError as error:
            logger.warning("the end of the audit log was not kept: %s", error)

    def _held(self) -> list[str]:
        """Attempts that hold their model."""
        with self._ledger.transaction() as tx:
            return [lease.attempt_id for lease in tx.leases() if lease.attempt_id]

    def _reap(self, attempt_id: str, runs: RunStates, folders: Collection[str]) -> bool:
        """Give the attempt up, or leave it alone; while its run waits between steps its lease is renewed."""
        with self._ledger.transaction() as tx:
            attempt = tx.attempt(attempt_id)
        if attempt is None:
            return False
        state = runs.state(attempt.dag_id, attempt.dag_run_id) if attempt.model in folders else "missing"
        working = state == "running" and runs.started_step(attempt.dag_id, attempt.dag_run_id)
        with self._ledger.transaction() as tx:
            lease = tx.lock_lease(attempt.model)
            if lease.attempt_id != attempt_id:
                return False
            silent = lease.expires_at is None or lease.expires_at < tx.wall()
            why = _why_given_up(attempt, state, working=working, silent=silent)
            if why is None:
                if not working:
                    tx.renew_lease(attempt_id, self._settings.lease_wait_seconds)
                return False
            logger.warning("giving up %s: %s", attempt_id, why)
            ended = "failed" if state in {"failed", "success"} else "abandoned"
            release(tx, attempt, ended, why, self._settings.max_event_tries)
            return True

    def _due(self, runs: RunStates, folders: Collection[str]) -> list[str]:
        """Win the rings that nobody made; a model that cannot start has not been rung, and is rung at once later."""
        with self._ledger.transaction() as tx:
            owed = tx.due_models(0, 0)
        resting = {model for model in owed if model not in folders or not runs.startable(f"retrain__{model}")}
        with self._ledger.transaction() as tx:
            for model in sorted(resting):
                tx.unring(model)
            overdue = tx.due_models(*self._backoff, overdue_seconds=OVERDUE_SECONDS)
            won = {model: tx.ring(model, *self._backoff) for model in overdue if model not in resting}
        return [m for m, rings in won.items() if heard(rings, partial(runs.claim_awaited, m))]

    def _judged(self) -> list[str]:
        """Models with a verdict that was not acted upon in time; what a probation or a failed self-test holds waits."""
        with self._ledger.transaction() as tx:
            now = tx.wall()
            overdue = {
                a.model
                for a in tx.attempts(states=("judged",))
                if a.judged_at is not None and (now - a.judged_at).total_seconds() > JUDGED_OVERDUE_SECONDS
            }
            return sorted(m for m in overdue if holding(tx, m) is None and tx.failed_self_test(m) is None)

    def _watched(self, runs: RunStates, folders: Collection[str]) -> list[str]:
        """Win the rings of watches that have days to score; a watch that nobody can go on with ends here."""
        with self._ledger.transaction() as tx:
            models = sorted(probation.model for probation in tx.probations(states=("watching",)))
        return [model for model in models if self._watch_due(model, runs, folders)]

    def _watch_due(self, model: str, runs: RunStates, folders: Collection[str]) -> bool:
        startable = model in folders and runs.startable(f"probation__{model}")
        with self._ledger.transaction() as tx:
            tx.lock_lease(model)
            probation = tx.open_probation(model)
            if probation is None:
                return False
            current = next((row for row in tx.registered() if row.model == model), None)
            retired = current is None or current.retired
            spec = readable_spec(tx, current.digest) if current else None
            if retired or (spec is not None and spec.probation is None):
                why = "the model was retired" if retired else "its spec has no probation now"
                end_probation(tx, probation, "superseded", f"{why}: the champion stays, unproven")
                return False
            return bool(
                startable
                and days_due(tx, probation)
                and tx.ring_probation(model, probation.seq, PROBATION_AGAIN_SECONDS)
            )

    def _monitored(self, runs: RunStates, folders: Collection[str]) -> list[str]:
        """Win the rings of windows that the data have reached, nobody has looked at, and no watcher has rung for."""
        with self._ledger.transaction() as tx:
            known = {row.model: row for row in tx.registered() if not row.retired and row.model in folders}
            ends = due_ends(tx, known.values())
        due = []
        for model, end in sorted(ends.items()):
            if not runs.startable(f"monitor__{model}"):
                continue
            with self._ledger.transaction() as tx:
                if tx.ring_monitor(model, end, known[model].digest, MONITOR_AGAIN_SECONDS):
                    tx.mark([model])  # a run that is due waits for the look
                    due.append(model)
        return due

    def _unscored(self, runs: RunStates, folders: Collection[str]) -> list[str]:
        """Win the rings of models whose spec scores on data and that have complete days without predictions."""
        with self._ledger.transaction() as tx:
            specs = readable_specs(tx, [row for row in tx.registered() if not row.retired and row.model in folders])
        won = []
        for model, spec in sorted(specs.items()):
            if spec.scoring is None or not spec.scoring.on_data:
                continue
            with self._ledger.transaction() as tx:
                due = plan_scoring(tx, spec)[0].due
            if not due or not runs.startable(f"score__{model}"):
                continue
            with self._ledger.transaction() as tx:
                if tx.ring_scoring(model, due[-1].day, SCORE_AGAIN_SECONDS):
                    won.append(model)
        return won

    def _unasked(self, runs: RunStates) -> list[str]:
        """Models whose request for approval no open run shows; requests that are void or late are ended first."""
        with self._ledger.transaction() as tx:
            models = sorted({a.model for a in tx.attempts(states=(AWAITING_APPROVAL,))})
        unasked = []
        for model in models:
            try:
                attempt_id = self._promotions.settle(model)
            except Unavailable as error:
                logger.warning("what waits for people to approve %s is settled later: %s", model, error)
                continue
            if attempt_id is None:
                continue
            with self._ledger.transaction() as tx:
                asked, now = tx.approval_request(attempt_id), tx.wall()
            if asked is None:
                continue
            if asked.runs:
                shown = runs.state(f"promote__{model}", asked.runs[-1]) in OPEN_RUN_STATES
            else:
                shown = (now - asked.asked_at).total_seconds() <= JUDGED_OVERDUE_SECONDS
            if not shown:
                unasked.append(model)
        return unasked

    def _announced(self) -> list[str]:
        """Models whose other champion was left unannounced, for instance by a promotion that was killed."""
        with self._ledger.transaction() as tx:
            return tx.take_announcements(overdue_seconds=ANNOUNCEMENT_OVERDUE_SECONDS)


def _why_given_up(attempt: AttemptRow, state: str, *, working: bool, silent: bool) -> str | None:
    """Why the attempt can never reach a verdict; None when it still may.

    A run that has ended or vanished cannot go on, however fresh the lease; a worker is presumed dead only when it was
    silent for a whole lease.
    """
    if attempt.state not in LIVE_STATES:
        return f"its lease was left behind in state {attempt.state}"
    if state not in OPEN_RUN_STATES:
        return f"its run {attempt.dag_run_id} is {state} and it has no verdict"
    if working and silent:
        return "its running step has not renewed the lease: the worker is presumed dead"
    return None
