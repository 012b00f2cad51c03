"""Tell Ratchet something from a monitoring job: free of Airflow, of the ledger, and of JSON.

::

    from ratchet import events

    events.publish(
        events.DriftDetected(check="weather_drift", severity=0.6, window_start=yesterday, window_end=midnight),
        subject="flight_delay",
        source="/monitors/weather",
        id=f"weather-{midnight:%F}",
    )

Every event is checked before it is sent, by the rules that Ratchet reads by, and stored by the broker when a call
returns. ``(source, id)`` names an event: a job that may be repeated gives an ``id`` and a ``time`` that it would give
again, and its repetition changes nothing. The broker is that of connection ``ratchet_kafka`` (the environment's
``AIRFLOW_CONN_RATCHET_KAFKA``, or the local stack's), or any that is named.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

import msgspec

from ratchet.adapters.connections import KAFKA, ConnectionInfo, EnvResolver, brokers_uri, parse_uri
from ratchet.adapters.telemetry import surrounding, telemetry_of
from ratchet.domain.events import (
    Announcement,
    DataArrived,
    DriftCleared,
    DriftDetected,
    EventRejected,
    InboundData,
    PerformanceDegraded,
    RetrainRequested,
    new_event,
    parse,
    to_record,
)
from ratchet.domain.tracing import Span, TraceContext, event_trace
from ratchet.errors import Refused, Unavailable
from ratchet.ports.bus import Bus
from ratchet.ports.telemetry import Telemetry
from ratchet.settings import load_settings

__all__ = [
    "DataArrived",
    "DriftCleared",
    "DriftDetected",
    "EventRejected",
    "InboundData",
    "Observation",
    "PerformanceDegraded",
    "Publisher",
    "Refused",
    "RetrainRequested",
    "Unavailable",
    "publish",
    "publish_all",
]

Mode = Literal["structured", "binary"]
DEFAULT_SOURCE = "/ratchet/events"


@dataclass(frozen=True)
class Observation:
    """One event to be published: what is told, and the attributes that name and place it.

    ``subject`` is the model; for ``DataArrived`` it may be left out, for it is the dataset. ``id`` is a new one when
    left out. ``time`` is business time, timezone-aware; the moment this was made when left out.
    """

    data: InboundData
    subject: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    source: str = DEFAULT_SOURCE
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def checked(self) -> Announcement:
        """As it will be sent. Raises :class:`EventRejected` when Ratchet would reject it."""
        subject = self.subject
        if isinstance(self.data, DataArrived):
            if subject not in {None, self.data.dataset}:
                raise EventRejected(
                    "bad_attribute", f"subject = {subject!r}", f"data of {self.data.dataset!r} is about that dataset"
                )
            subject = self.data.dataset
        if subject is None:
            raise EventRejected("missing_attribute", "no subject", "name the model it is about: subject='…'")
        return new_event(self.data, id=self.id, source=self.source, subject=subject, time=self.time)


class Publisher:
    """A connection to the broker that is kept open: for jobs that publish more than once. Close it, or use ``with``.

    Args:
        broker: ``host:port``, several with commas, or a URI as in ``AIRFLOW_CONN_RATCHET_KAFKA``
            (``kafka://user:password@host:9093?security.protocol=SASL_SSL``); the connection's when left out.
        mode: ``structured`` (the event is the value) or ``binary`` (attributes are ``ce_`` headers).
        bus: publish there instead (tests).
        telemetry: tell spans there instead of where OpenTelemetry's variables say.

    Raises:
        Refused: no connection is defined, or it cannot be read.

    """

    def __init__(
        self,
        broker: str | None = None,
        *,
        mode: Mode = "structured",
        bus: Bus | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._mode = mode
        self._telemetry = telemetry or telemetry_of(load_settings().telemetry)
        if bus is None:
            from ratchet.adapters.kafka_bus import KafkaBus  # noqa: PLC0415 - tests need no driver

            bus = KafkaBus(_connection(broker))
        self._bus = bus

    def publish(self, observations: Iterable[Observation]) -> list[str]:
        """Publish all, in order; all are stored by the broker when this returns. Returns their ids.

        Where spans are told, or the caller's own code is traced by OpenTelemetry, events carry their ``traceparent``.

        Raises:
            EventRejected: one breaks a rule; none is sent then.
            Unavailable: the broker did not confirm all of them; some may be stored. Publish the same ids again.

        """
        start, around = datetime.now(UTC), surrounding()
        announcements = [self._traced(observation.checked(), around) for observation in observations]
        for topic, key, value, headers in [(event.topic, *record(event, self._mode)) for event in announcements]:
            self._bus.publish(topic, key, value, headers)
        self._bus.flush()
        if self._telemetry.on:
            self._telemetry.emit(_published(event, around, start) for event in announcements)
            self._telemetry.flush()
        return [event.id for event in announcements]

    def _traced(self, event: Announcement, around: TraceContext | None) -> Announcement:
        """With the span that tells it: one of ours where spans are told, else the one that surrounds this."""
        told = told_by(event, around) if self._telemetry.on else around
        return event if told is None else msgspec.structs.replace(event, traceparent=told.traceparent)

    def close(self) -> None:
        """Release the connection; may be called twice."""
        self._bus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def publish(
    data: InboundData,
    *,
    subject: str | None = None,
    id: str | None = None,  # noqa: A002 - the attribute's name
    source: str = DEFAULT_SOURCE,
    time: datetime | None = None,
    mode: Mode = "structured",
    broker: str | None = None,
) -> str:
    """Publish one event and return its id; the broker has stored it then. Arguments and errors as above.

    Args:
        data: one of the five kinds: what is told.
        subject: the model it is about; may be left out for ``DataArrived``.
        id: names the event together with ``source``; a new one when left out.
        source: who speaks, like ``/monitors/weather``.
        time: business time of the event, timezone-aware; now when left out.
        mode: ``structured`` or ``binary``.
        broker: see :class:`Publisher`.

    """
    given: dict[str, Any] = {name: value for name, value in (("id", id), ("time", time)) if value is not None}
    observation = Observation(data, subject, source=source, **given)
    return publish_all([observation], mode=mode, broker=broker)[0]


def publish_all(
    observations: Iterable[Observation], *, mode: Mode = "structured", broker: str | None = None
) -> list[str]:
    """Publish many events over one connection with one wait; see :meth:`Publisher.publish`."""
    with Publisher(broker, mode=mode) as publisher:
        return publisher.publish(observations)


def record(event: Announcement, mode: Mode) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Key, value and headers as they will be sent. Raises :class:`EventRejected` when Ratchet would reject them."""
    key, value, headers = to_record(event, mode=mode)
    parse(value, headers)
    return key, value, headers


def told_by(event: Announcement, around: TraceContext | None) -> TraceContext:
    """The span that tells an event: within the one that surrounds it, else in a trace of the event's own."""
    return around.child("publish", event.source, event.id) if around else event_trace(event.source, event.id)


def _published(event: Announcement, around: TraceContext | None, start: datetime) -> Span:
    attributes = {
        "messaging.system": "kafka",
        "messaging.destination.name": event.topic,
        "cloudevents.event_id": event.id,
        "cloudevents.event_source": event.source,
        "cloudevents.event_type": event.type,
        "cloudevents.event_subject": event.subject,
    }
    parent = around.span_id if around else None
    context = told_by(event, around)
    return Span(f"publish {event.topic}", context, parent, start, datetime.now(UTC), "producer", attributes)


def _connection(broker: str | None) -> ConnectionInfo:
    if broker is None:
        return EnvResolver(load_settings().connections).resolve(KAFKA)
    return parse_uri(broker if "://" in broker else brokers_uri(broker))
