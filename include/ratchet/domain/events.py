"""Events: what monitoring systems may tell Ratchet, and what Ratchet tells the world (DESIGN §5).

CloudEvents 1.0 in JSON, in both Kafka modes: *structured* (the whole event is the record's value) and *binary* (the
attributes are ``ce_*`` headers, the value is the data). Heard events are in the past tense, a request in the
imperative's noun, announcements in the past tense.

:func:`parse` never lets a bad record through and never raises anything but :class:`EventRejected`, which names the
rule, what was got, and the remedy. Data is checked against one typed struct per type; fields it does not know are kept
in ``payload``, attributes it does not know in ``extensions``. Times are timezone-aware and normalised to UTC; numbers
are finite, because JSON knows no NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ratchet.errors import Refused

SPEC_VERSION = "1.0"
STRUCTURED_CONTENT_TYPE = "application/cloudevents+json"
DATA_CONTENT_TYPE = "application/json"
MAX_BYTES = 1_000_000

DRIFT_TOPIC = "ml.drift"
DATA_TOPIC = "ml.data-arrival"
REQUESTS_TOPIC = "ml.retrain-requests"
DEAD_LETTER_TOPIC = "ml.dead-letter"
DECISIONS_TOPIC = "ml.decisions"

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_MAX_INTEGER = 2**53

Rule = Literal[
    "tombstone",
    "oversized",
    "not_json",
    "not_utf8",
    "too_deep",
    "not_an_event",
    "batch",
    "specversion",
    "missing_attribute",
    "attribute",
    "unknown_type",
    "time",
    "content_type",
    "data",
    "nul",
]

Text = Annotated[str, Meta(min_length=1, max_length=500)]
Instant = Annotated[datetime, Meta(tz=True)]
Severity = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
RowCount = Annotated[int, Meta(ge=0, le=_MAX_INTEGER)]


class EventRejected(Refused):
    """A record that is no event: ``rule`` it breaks, what was ``got``, and the ``remedy``."""

    def __init__(self, rule: Rule, got: str, remedy: str) -> None:
        super().__init__(f"{rule}: got {got}; {remedy}")
        self.rule = rule
        self.got = got
        self.remedy = remedy


class DriftDetected(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A monitor's check found drift over a window. ``severity`` in [0, 1]; ``check`` names the observation series."""

    check: Text
    severity: Severity
    window_start: Instant
    window_end: Instant
    feature: Text | None = None
    evidence_uri: Text | None = None


class DriftCleared(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The same check found nothing over the window that ends at ``window_end``: the negative observation."""

    check: Text
    window_end: Instant


class PerformanceDegraded(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric of the serving model fell behind its threshold over the window that ends at ``window_end``."""

    metric: Text
    value: float
    threshold: float
    window_end: Instant


class DataArrived(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rows of a dataset were published; everything before ``complete_until`` is there.

    ``label_completeness`` in [0, 1] is the share of mature labels that are known, where the dataset holds labels.
    """

    dataset: Text
    complete_until: Instant
    new_rows: RowCount
    label_completeness: Share | None = None


class RetrainRequested(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person or a system asks for a retrain."""

    reason: Text
    actor: Text


InboundData = DriftDetected | DriftCleared | PerformanceDegraded | DataArrived | RetrainRequested

INBOUND: Mapping[str, type[InboundData]] = {
    "ratchet.drift.detected.v1": DriftDetected,
    "ratchet.drift.cleared.v1": DriftCleared,
    "ratchet.performance.degraded.v1": PerformanceDegraded,
    "ratchet.data.arrived.v1": DataArrived,
    "ratchet.retrain.requested.v1": RetrainRequested,
}
TOPICS: Mapping[str, str] = {
    "ratchet.drift.detected.v1": DRIFT_TOPIC,
    "ratchet.drift.cleared.v1": DRIFT_TOPIC,
    "ratchet.performance.degraded.v1": DRIFT_TOPIC,
    "ratchet.data.arrived.v1": DATA_TOPIC,
    "ratchet.retrain.requested.v1": REQUESTS_TOPIC,
}


class Decided(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every verdict says. Uplift, ``lower`` and ``upper`` in ``unit`` per decision; None where not estimable."""

    model: str
    attempt: str
    decision: str
    champion_before: int | None
    champion_after: int | None
    challenger: int | None = None
    uplift: float | None = None
    lower: float | None = None
    upper: float | None = None
    unit: str | None = None
    as_of: datetime | None = None
    run_id: str | None = None
    reasons: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


class ModelPromoted(Decided, frozen=True, kw_only=True):
    """The challenger is the champion now."""


class ModelKept(Decided, frozen=True, kw_only=True):
    """The champion stays: the challenger is not better, or broke a guardrail."""


class ModelUndecided(Decided, frozen=True, kw_only=True):
    """Not enough evidence: the champion stays for now."""

    needed_clusters: int | None = None


class ModelRolledBack(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An earlier champion was taken back, by whom and why."""

    model: str
    champion_before: int | None
    champion_after: int
    actor: str
    reason: str


class EventResolved(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one event for one model."""

    model: str
    event_id: str
    event_source: str
    event_type: str
    fate: str
    reason: str
    attempt: str | None = None
    until: datetime | None = None


OutboundData = ModelPromoted | ModelKept | ModelUndecided | ModelRolledBack | EventResolved
DecisionKind = Literal["promoted", "kept", "undecided", "rolledback", "resolved"]

OUTBOUND: Mapping[str, type[OutboundData]] = {
    "ratchet.model.promoted.v1": ModelPromoted,
    "ratchet.model.kept.v1": ModelKept,
    "ratchet.model.undecided.v1": ModelUndecided,
    "ratchet.model.rolledback.v1": ModelRolledBack,
    "ratchet.event.resolved.v1": EventResolved,
}
_KINDS: Mapping[DecisionKind, str] = {
    "promoted": "ratchet.model.promoted.v1",
    "kept": "ratchet.model.kept.v1",
    "undecided": "ratchet.model.undecided.v1",
    "rolledback": "ratchet.model.rolledback.v1",
    "resolved": "ratchet.event.resolved.v1",
}
_TYPE_OF: Mapping[type[Struct], str] = {struct: name for name, struct in (*INBOUND.items(), *OUTBOUND.items())}


class InboundEvent(Struct, frozen=True, kw_only=True):
    """One heard event. ``payload`` is its data as received, JSON-able, unknown fields included; ``digest`` is the
    SHA-256 of its content, equal for both transport modes and any order of keys.
    """

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: InboundData
    digest: str
    payload: dict[str, Any]
    extensions: dict[str, Any]


class Announcement(Struct, frozen=True, kw_only=True):
    """One event to be published: any of our types, ready for :func:`to_record`."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: InboundData | OutboundData

    @property
    def topic(self) -> str:
        """The topic it belongs on."""
        return TOPICS.get(self.type, DECISIONS_TOPIC)


def parse(
    value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = (), *, max_bytes: int = MAX_BYTES
) -> InboundEvent:
    """Read one Kafka record as an event, structured or binary. Raises :class:`EventRejected`, nothing else."""
    raise NotImplementedError


def read_data(event_type: str, payload: Mapping[str, Any]) -> InboundData:
    """The typed data of an event stored as (type, payload). Raises :class:`EventRejected`."""
    raise NotImplementedError


def new_event(
    data: InboundData | OutboundData, *, id: str, source: str, subject: str, time: datetime  # noqa: A002
) -> Announcement:
    """An event of the type that belongs to ``data``, to be published with :func:`to_record`."""
    raise NotImplementedError


def decision_event(kind: DecisionKind, *, key: str, model: str, time: datetime, **data: Any) -> Announcement:
    """An announcement on ``ml.decisions`` whose id derives from (``key``, ``kind``), so that a repeat is recognised."""
    raise NotImplementedError


def to_record(event: InboundEvent | Announcement) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Key (the subject), value and headers of a structured CloudEvent for Kafka."""
    raise NotImplementedError
