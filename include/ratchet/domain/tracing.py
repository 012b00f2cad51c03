"""One trace from an event to what serves: its ids, its spans, and what of it the ledger can tell. Pure.

The trace is the event's: the one that its publisher named (W3C Trace Context, as CloudEvents' ``traceparent``), else
one whose id derives from the event's own. The ids of an attempt's spans derive from the attempt and the step, so that
tasks on any worker, started by nobody who knows them, have the same parent without telling each other.

https://www.w3.org/TR/trace-context/
https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Kind = Literal["internal", "producer", "consumer"]
Attribute = str | int | float | bool
MOST_LINKS = 100
"""Events of a storm that an attempt's span names; the dossier has all."""
MOST_FATES = 50
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class TraceContext:
    """A span as others name it: ``trace_id`` of 32 and ``span_id`` of 16 hexadecimal digits, neither all noughts."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """As it travels."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def child(self, *parts: object) -> TraceContext:
        """The span of this trace whose id derives from these parts."""
        return TraceContext(self.trace_id, _hashed(16, self.trace_id, *parts), self.sampled)


@dataclass(frozen=True)
class Moment:
    """Something that happened within a span."""

    name: str
    at: datetime
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """Something that took from ``start`` to ``end`` (aware); ``error`` says how it failed, None when it did not."""

    name: str
    context: TraceContext
    parent: str | None
    start: datetime
    end: datetime
    kind: Kind = "internal"
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    links: tuple[TraceContext, ...] = ()
    moments: tuple[Moment, ...] = ()
    error: str | None = None


def read_traceparent(text: object) -> TraceContext | None:
    """The context that a ``traceparent`` names; None of what is none: a bad one is passed over, never an error."""
    match = _TRACEPARENT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, sampled=bool(int(flags, 16) & 1))


def event_trace(source: str, event_id: str) -> TraceContext:
    """The span that tells an event, in the trace that is the event's where its publisher names none."""
    trace_id = _hashed(32, source, event_id)
    return TraceContext(trace_id, _hashed(16, trace_id, "publish"))


@dataclass(frozen=True)
class TracedEvent:
    """An event of the inbox as far as its trace goes; ``fates`` are those it had until it was claimed."""

    source: str
    event_id: str
    type: str
    model: str
    received_at: datetime
    traceparent: str | None
    fates: tuple[tuple[datetime, str, str], ...] = ()

    @property
    def publisher(self) -> TraceContext | None:
        """The publisher's span, where it named one."""
        return read_traceparent(self.traceparent)

    @property
    def waiting(self) -> TraceContext:
        """The span of its time in the inbox."""
        known = self.publisher or event_trace(self.source, self.event_id)
        return known.child("inbox", self.source, self.event_id, self.model)


@dataclass(frozen=True)
class Told:
    """Something that was told to the world after a verdict: what, asked when, told when."""

    what: str
    asked_at: datetime
    told_at: datetime


@dataclass(frozen=True)
class TracedAttempt:
    """An attempt that has ended, as far as the ledger knows; ``error`` says why there is no verdict, if so."""

    id: str
    model: str
    start: datetime
    judged_at: datetime | None
    end: datetime
    trigger: TracedEvent | None
    others: tuple[TracedEvent, ...]
    promoted_at: datetime | None
    attributes: Mapping[str, Attribute]
    error: str | None
    told: tuple[Told, ...] = ()


def attempt_context(attempt_id: str, trigger: TracedEvent | None) -> TraceContext:
    """The span of a whole attempt: in the trace of the event that started it, else in one of its own."""
    trace = trigger.waiting if trigger else TraceContext(_hashed(32, attempt_id), "1" * 16)
    return trace.child("attempt", attempt_id)


def attempt_spans(attempt: TracedAttempt) -> list[Span]:
    """What the ledger tells of an ended attempt: the wait, the attempt, the way to serve, and what was told.

    The steps are spans of the tasks that did them, below the attempt's.
    """
    root = attempt_context(attempt.id, attempt.trigger)
    spans = []
    if (event := attempt.trigger) is not None:
        publisher = event.publisher
        spans.append(
            Span(
                name=f"inbox {event.model}",
                context=event.waiting,
                parent=publisher.span_id if publisher else None,
                start=event.received_at,
                end=attempt.start,
                kind="consumer",
                attributes={
                    "messaging.system": "kafka",
                    "cloudevents.event_id": event.event_id,
                    "cloudevents.event_source": event.source,
                    "cloudevents.event_type": event.type,
                    "ratchet.model": event.model,
                },
                moments=tuple(Moment(fate, at, {"reason": reason}) for at, fate, reason in event.fates[:MOST_FATES]),
            )
        )
    spans.append(
        Span(
            name=f"attempt {attempt.model}",
            context=root,
            parent=attempt.trigger.waiting.span_id if attempt.trigger else None,
            start=attempt.start,
            end=attempt.end,
            attributes=attempt.attributes,
            links=tuple(other.publisher or other.waiting for other in attempt.others[:MOST_LINKS]),
            moments=(Moment("verdict", attempt.judged_at),) if attempt.judged_at else (),
            error=attempt.error,
        )
    )
    if attempt.promoted_at is not None and attempt.judged_at is not None:
        promotion = root.child("promotion")
        spans.append(
            Span(
                "promotion", promotion, root.span_id, attempt.judged_at, attempt.promoted_at, attributes=_named(attempt)
            )
        )
        spans += [
            Span(told.what, promotion.child(told.what), promotion.span_id, told.asked_at, told.told_at, "producer")
            for told in attempt.told
        ]
    return spans


def _named(attempt: TracedAttempt) -> dict[str, Attribute]:
    return {key: value for key, value in attempt.attributes.items() if key in {"ratchet.model", "ratchet.attempt"}}


def _hashed(digits: int, *parts: object) -> str:
    """So many hexadecimal digits of the parts' digest; never all noughts."""
    text = "\n".join(map(str, parts))
    found = hashlib.sha256(text.encode()).hexdigest()[:digits]
    return found if int(found, 16) else "1" * digits
