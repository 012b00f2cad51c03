"""Attempts that have begun or ended, told to whoever watches: read from the ledger afterwards, each once.

No decision waits for it and none can be undone by it. What is to be told stands in the outbox under the attempt's
name, so that a process that died leaves it to the next sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from ratchet.domain.events import TOPICS
from ratchet.domain.lineage import MOST_EVENTS, EventType, Lineage, run_event
from ratchet.domain.tracing import MOST_LINKS, Attribute, Told, TracedAttempt, TracedEvent, attempt_spans
from ratchet.errors import RatchetError
from ratchet.ports.ledger import AttemptRow, Ledger, OutboxRow, Tx
from ratchet.ports.lineage import LineageSink
from ratchet.ports.store import Store
from ratchet.ports.telemetry import Telemetry
from ratchet.workflow import dossiers
from ratchet.workflow.leases import ENDED_STATES
from ratchet.workflow.tracing import context_of, traced_event

logger = logging.getLogger(__name__)
TRACE, LINEAGE = "trace", "lineage"
RECENT = timedelta(days=1)
"""What ended longer ago is not told any more: nobody observed then."""
AT_ONCE = 50
MOST_TRIES = 100
"""What could not be told so often is not tried again."""
Stage = Literal["start", "end"]
ENDS: dict[str, EventType] = {"concluded": "COMPLETE", "failed": "FAIL", "abandoned": "ABORT", "superseded": "ABORT"}


class Observer:
    """Tells traces of attempts that have ended, and the lineage of what they made."""

    def __init__(
        self, ledger: Ledger, telemetry: Telemetry, lineage: LineageSink | None, store: Callable[[], Store]
    ) -> None:
        self._ledger = ledger
        self._telemetry = telemetry
        self._lineage = lineage
        self._store = store

    def run(self) -> int:
        """Tell what has begun or ended lately and was not told; returns how much was.

        Raises:
            Unavailable: the ledger did not answer.
        """
        if not self._telemetry.on and self._lineage is None:
            return 0
        with self._ledger.transaction() as tx:
            for attempt in tx.attempts_since(tx.wall() - RECENT):
                self._owe(tx, attempt)
        return self._tell_traces() + self._tell_lineage()

    def _owe(self, tx: Tx, attempt: AttemptRow) -> None:
        """Note once what is to be told of an attempt."""
        ended = attempt.state in ENDED_STATES
        if self._telemetry.on and ended:
            tx.enqueue(TRACE, f"trace:{attempt.id}", {"attempt": attempt.id}, attempt.model)
        if self._lineage is not None:
            for stage in ("start", *(("end",) if ended else ())):
                owed = {"attempt": attempt.id, "stage": stage}
                tx.enqueue(LINEAGE, f"lineage:{attempt.id}:{stage}", owed, attempt.model)

    def _tell_traces(self) -> int:
        if not self._telemetry.on:
            return 0
        with self._ledger.transaction() as tx:
            rows = list(tx.read_outbox(tx.take_outbox(TRACE, AT_ONCE, most_tries=MOST_TRIES)))
            for row in rows:
                attempt = tx.attempt(row.payload["attempt"])
                try:
                    if attempt is not None:
                        self._telemetry.emit(attempt_spans(traced_attempt(tx, attempt)))
                except (AssertionError, LookupError, TypeError, ValueError) as odd:
                    _passed_over(tx, row, odd)
                else:
                    tx.finish_outbox([row.pk])
        if rows:
            self._telemetry.flush()
        return len(rows)

    def _tell_lineage(self) -> int:
        """Tell one after the other, in the order of writing; a server that takes one not is asked again later."""
        if self._lineage is None:
            return 0
        told = 0
        with self._ledger.transaction() as tx:
            for row in tx.read_outbox(tx.take_outbox(LINEAGE, AT_ONCE, most_tries=MOST_TRIES)):
                attempt = tx.attempt(row.payload["attempt"])
                try:
                    if attempt is not None:
                        self._lineage.tell(run_event(self._lineage_of(tx, attempt, row.payload["stage"])))
                except RatchetError as error:
                    logger.warning("lineage of %s was not told; tried again: %s", row.payload["attempt"], error)
                    tx.finish_outbox([row.pk], str(error))
                    break
                except (AssertionError, LookupError, TypeError, ValueError) as odd:
                    _passed_over(tx, row, odd)
                else:
                    tx.finish_outbox([row.pk])
                    told += 1
        return told

    def _lineage_of(self, tx: Tx, attempt: AttemptRow, stage: Stage) -> Lineage:
        assert self._lineage is not None  # noqa: S101 - for the type checker
        ended = stage == "end"
        made = [(attempt.challenger_version, attempt.model_digest), (attempt.deployed_version, attempt.deployed_digest)]
        spec = tx.spec_document(attempt.spec_digest)
        claimed = tx.events(attempt_id=attempt.id, limit=MOST_EVENTS)
        return Lineage(
            attempt=attempt.id,
            model=attempt.model,
            namespace=self._lineage.namespace,
            spec=spec,
            at=(attempt.concluded_at if ended else None) or attempt.created_at,
            type=ENDS[attempt.state] if ended else "START",
            business_at=attempt.business_at,
            trigger=attempt.trigger,
            reason=attempt.reason,
            actor=attempt.actor,
            dag_id=attempt.dag_id,
            run_id=attempt.dag_run_id,
            trace_id=context_of(tx, attempt).trace_id,
            error=(attempt.failure or attempt.state) if ended and attempt.state != "concluded" else None,
            events=[(TOPICS[row.type], row.event_id, row.source, row.type) for row in claimed],
            datasets=_datasets(spec),
            champion=attempt.champion_version,
            versions=[(n, digest, n == attempt.candidate_version) for n, digest in made if ended and n is not None],
            dossier=self._dossier(attempt) if ended else None,
        )

    def _dossier(self, attempt: AttemptRow) -> dict[str, object] | None:
        """The dossier; None where there is none that can be read."""
        if attempt.dossier_sha256 is None:
            return None
        try:
            return dict(dossiers.read(self._store(), attempt))
        except RatchetError as error:
            if error.retry_helps:
                raise
            logger.warning("the lineage of %s is told without its dossier: %s", attempt.id, error)
            return None


def _passed_over(tx: Tx, row: OutboxRow, odd: Exception) -> None:
    """What cannot be told as it stands keeps nothing else from being told; it counts a try."""
    logger.error("%s cannot be told", row.dedupe, exc_info=odd)
    tx.finish_outbox([row.pk], repr(odd))


def _datasets(spec: dict[str, object]) -> list[str]:
    """The datasets that a spec names, as it was kept: this code need not read it."""
    data, retrain = spec["data"], spec["retrain"]
    assert isinstance(data, dict)  # noqa: S101 - for the type checker
    assert isinstance(retrain, dict)  # noqa: S101
    told = ((retrain.get("on") or {}).get("data") or {}).get("datasets") or ()
    return sorted({str(data["spine"]["source"]), *map(str, told)})


def traced_attempt(tx: Tx, attempt: AttemptRow) -> TracedAttempt:
    """What the ledger knows of an attempt that has ended, as its trace tells it."""
    trigger = _with_fates(tx, attempt)
    claimed = tx.events(attempt_id=attempt.id, limit=MOST_LINKS + 1)
    others = [row for row in claimed if row.pk != attempt.trigger_event_pk][:MOST_LINKS]
    parents = tx.traceparents([row.pk for row in others])
    champion = next((row for row in tx.champions(attempt.model) if row.attempt_id == attempt.id), None)
    told = []
    if champion is not None:
        names = {f"alias:{attempt.model}:{champion.seq}": "alias", f"decision:{attempt.id}:promoted": "ml.decisions"}
        told = [Told(names[key], asked, done) for key, asked, done in tx.outbox_times(list(names)) if done is not None]
    return TracedAttempt(
        id=attempt.id,
        model=attempt.model,
        start=attempt.created_at,
        judged_at=attempt.judged_at,
        end=attempt.concluded_at or attempt.created_at,
        trigger=trigger,
        others=tuple(
            TracedEvent(row.source, row.event_id, row.type, row.model, row.received_at, parents.get(row.pk))
            for row in others
        ),
        promoted_at=champion.promoted_at if champion else None,
        attributes=_attributes(attempt),
        error=None if attempt.verdict is not None else attempt.failure or attempt.state,
        told=tuple(told),
    )


def _with_fates(tx: Tx, attempt: AttemptRow) -> TracedEvent | None:
    event = traced_event(tx, attempt.trigger_event_pk)
    if event is None or attempt.trigger_event_pk is None:
        return None
    fates = [
        (entry["at"], entry["fate"], entry["reason"])
        for entry in tx.fate_history(attempt.trigger_event_pk)
        if entry["at"] <= attempt.created_at
    ]
    return TracedEvent(
        event.source, event.event_id, event.type, event.model, event.received_at, event.traceparent, tuple(fates)
    )


def _attributes(attempt: AttemptRow) -> dict[str, Attribute]:
    """The attributes of an attempt's span; what it does not have is left out."""
    verdict = attempt.verdict_record or {}
    known = {
        "ratchet.model": attempt.model,
        "ratchet.attempt": attempt.id,
        "ratchet.trigger": attempt.trigger,
        "ratchet.state": attempt.state,
        "ratchet.verdict": attempt.verdict,
        "ratchet.uplift.estimate": verdict.get("estimate"),
        "ratchet.uplift.lower": verdict.get("lower"),
        "ratchet.uplift.unit": verdict.get("unit"),
        "ratchet.champion.before": attempt.champion_version,
        "ratchet.challenger": attempt.candidate_version,
        "airflow.dag_id": attempt.dag_id,
        "airflow.run_id": attempt.dag_run_id,
    }
    return {name: value for name, value in known.items() if value is not None}
