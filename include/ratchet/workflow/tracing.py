"""Spans of what a task does: one of its step, and below it one of each part that takes time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ratchet.domain.tracing import Attribute, Span, TraceContext, TracedEvent, attempt_context
from ratchet.ports.ledger import AttemptRow, Tx
from ratchet.ports.telemetry import Telemetry

MOST_PARTS = 200
"""Spans of one step: a study of a thousand trials is not a thousand spans."""


@dataclass
class _Step:
    context: TraceContext
    attributes: dict[str, Attribute]
    parts: list[Span] = field(default_factory=list)


_working: ContextVar[_Step | None] = ContextVar("ratchet_step", default=None)


def traced_event(tx: Tx, pk: int | None) -> TracedEvent | None:
    """The event as far as its trace goes; None where there is none."""
    row = tx.event(pk) if pk is not None else None
    if row is None:
        return None
    traceparent = tx.traceparents([row.pk]).get(row.pk)
    return TracedEvent(row.source, row.event_id, row.type, row.model, row.received_at, traceparent)


def context_of(tx: Tx, attempt: AttemptRow) -> TraceContext:
    """The span of this attempt: the trace is that of the event which started it."""
    return attempt_context(attempt.id, traced_event(tx, attempt.trigger_event_pk))


@contextmanager
def traced_step(telemetry: Telemetry, context: TraceContext, name: str, attempt: AttemptRow) -> Iterator[None]:
    """A span of a step below its attempt's, and of the parts that are told within; one that raises is an error."""
    named: dict[str, Attribute] = {"ratchet.model": attempt.model, "ratchet.attempt": attempt.id}
    start = datetime.now(UTC)
    step = _Step(context.child(attempt.id, name, start.isoformat()), named)
    before = _working.set(step)
    error = None
    try:
        yield
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        _working.reset(before)
        whole = Span(name, step.context, context.span_id, start, datetime.now(UTC), attributes=named, error=error)
        telemetry.emit([whole, *step.parts])
        telemetry.flush()


@contextmanager
def part(name: str) -> Iterator[None]:
    """A span of a part of the step that is being traced; nothing where none is."""
    step = _working.get()
    if step is None or len(step.parts) >= MOST_PARTS:
        yield
        return
    start = datetime.now(UTC)
    try:
        yield
    finally:
        context = step.context.child(name, len(step.parts))
        step.parts.append(
            Span(name, context, step.context.span_id, start, datetime.now(UTC), attributes=step.attributes)
        )
