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
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct

from ratchet.errors import Refused

SPEC_VERSION = "1.0"
STRUCTURED_CONTENT_TYPE = "application/cloudevents+json"
DATA_CONTENT_TYPE = "application/json"
MAX_BYTES = 1_000_000
MAX_TEXT = 255
MAX_DEPTH = 16

DRIFT_TOPIC = "ml.drift"
DATA_TOPIC = "ml.data-arrival"
REQUESTS_TOPIC = "ml.retrain-requests"
DEAD_LETTER_TOPIC = "ml.dead-letter"
DECISIONS_TOPIC = "ml.decisions"

# Attributes that say how an event travelled, not what it says: a relay may change them.
_TRANSPORT = frozenset({"datacontenttype", "partitionkey", "traceparent", "tracestate"})
_REQUIRED = ("id", "source", "type", "subject", "time")
_ENVELOPE = ("specversion", *_REQUIRED)
_PLAIN_ENCODINGS = (None, DATA_CONTENT_TYPE)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_MAX_INTEGER = 2**53

Rule = Literal[
    "tombstone",  # no value
    "oversized",
    "content_type",  # a batch, an encoding other than JSON, or data_base64
    "not_json",  # malformed, truncated, not UTF-8, NaN
    "too_deep",
    "not_an_event",  # JSON without CloudEvents attributes
    "specversion",
    "missing_attribute",
    "bad_attribute",  # empty, too long, given twice, or not text
    "bad_text",  # characters no database can store
    "bad_time",
    "unknown_type",
    "bad_data",
]

Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Prose = Annotated[str, Meta(min_length=1, max_length=2000)]
Instant = Annotated[datetime, Meta(tz=True)]
Severity = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
RowCount = Annotated[int, Meta(ge=0, le=_MAX_INTEGER)]


Whole = Annotated[int, Meta(ge=-_MAX_INTEGER, le=_MAX_INTEGER)]


def _nested(levels: int) -> Any:
    """The type of any JSON value whose integers are ``Whole`` and that nests at most ``levels`` deep."""
    plain = str | Whole | float | bool | None
    return plain | list[_nested(levels - 1)] | dict[str, _nested(levels - 1)] if levels else plain  # type: ignore[misc]


# Each level doubles the type; what nests deeper than this is as welcome, only read twice.
_STORABLE: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_nested(5))
_CANONICAL = msgspec.json.Encoder(order="deterministic")


class EventRejected(Refused):
    """A record that is no event: ``rule`` it breaks, what was ``got``, and the ``remedy``."""

    def __init__(self, rule: Rule, got: str, remedy: str) -> None:
        super().__init__(f"{rule}: got {got}; {remedy}")
        self.rule = rule
        self.got = got
        self.remedy = remedy


EvidenceUri = Annotated[Prose | None, Meta(description="Where a person finds the check's report.")]
WindowEnd = Annotated[Instant, Meta(description="End of the window looked at; a check is counted once per end.")]


class DriftDetected(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A monitor's check found drift over a window of a model's inputs. The window ends after it starts."""

    check: Annotated[Text, Meta(description="The check that looked: names the series of observations.")]
    severity: Annotated[Severity, Meta(description="How bad it is, 0 to 1; below the model's bound it is a good one.")]
    window_start: Annotated[Instant, Meta(description="Start of the window looked at.")]
    window_end: WindowEnd
    feature: Annotated[Text | None, Meta(description="The feature that drifted, where it is one.")] = None
    evidence_uri: EvidenceUri = None


class DriftCleared(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The same check found nothing over the window that ends at ``window_end``: the negative observation."""

    check: Annotated[Text, Meta(description="The check that looked, as named when it found drift.")]
    window_end: WindowEnd
    evidence_uri: EvidenceUri = None


class PerformanceDegraded(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric of the serving model fell behind its threshold over the window that ends at ``window_end``."""

    metric: Annotated[Text, Meta(description="The metric that fell behind: names the series of observations.")]
    value: Annotated[Finite, Meta(description="What it is, in the metric's own unit.")]
    threshold: Annotated[Finite, Meta(description="What it should have been, in the same unit.")]
    window_end: WindowEnd
    evidence_uri: EvidenceUri = None


class DataArrived(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rows of a dataset were published; everything before ``complete_until`` is there."""

    dataset: Annotated[Text, Meta(description="The dataset, as the specs of models name it.")]
    complete_until: Annotated[Instant, Meta(description="Every row before this moment is there: the watermark.")]
    new_rows: Annotated[RowCount, Meta(description="How many rows came with this publication.")]
    label_completeness: Annotated[
        Share | None, Meta(description="Share of the mature labels that are known, where the dataset holds labels.")
    ] = None


class RetrainRequested(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person or a system asks for a retrain."""

    reason: Annotated[Prose, Meta(description="Why, for whoever reads the attempt later.")]
    actor: Annotated[Text, Meta(description="Who asks.")]


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


# The fields of each type that hold a moment.
_TIMES: Mapping[type[InboundData], tuple[str, ...]] = {
    struct: tuple(name for name, kind in get_type_hints(struct).items() if kind is datetime)
    for struct in INBOUND.values()
}

ModelName = Annotated[str, Meta(description="The model it is about; the subject as well.")]


MOST_NAMED = 100
"""Ids in one announcement: a storm of events in one record would be more than Kafka takes."""


class Decided(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every verdict says. NaN is written as null."""

    model: ModelName
    attempt: Annotated[str, Meta(description="The attempt that was judged; its dossier has everything.")]
    decision: Annotated[str, Meta(description="The gate's verdict in one word.")]
    champion_before: Annotated[int | None, Meta(description="Version that served before; null when none did.")]
    champion_after: Annotated[int | None, Meta(description="Version that serves now; null when none does.")]
    challenger: Annotated[int | None, Meta(description="Version of the candidate, where one was registered.")] = None
    uplift: Annotated[
        float | None, Meta(description="Estimated gain of the challenger over the champion, in unit per decision.")
    ] = None
    lower: Annotated[float | None, Meta(description="One-sided lower bound of the uplift, same unit.")] = None
    upper: Annotated[float | None, Meta(description="One-sided upper bound of the uplift, same unit.")] = None
    unit: Annotated[str | None, Meta(description="Unit of the payoff, such as USD.")] = None
    as_of: Annotated[Instant | None, Meta(description="The business time up to which data was used.")] = None
    run_id: Annotated[str | None, Meta(description="The Airflow run of the attempt.")] = None
    reasons: Annotated[tuple[str, ...], Meta(description="Why, one sentence per check that decided.")] = ()
    events: Annotated[
        tuple[str, ...], Meta(description="Ids of the events this answers, a hundred at most; each is told by itself.")
    ] = ()
    event_count: Annotated[int, Meta(ge=0, description="How many events this answers.")] = 0


class ModelPromoted(Decided, frozen=True, kw_only=True):
    """The challenger is the champion now."""


class ModelKept(Decided, frozen=True, kw_only=True):
    """The champion stays: the challenger is not better, broke a guardrail, or people did not agree to it in time."""


class ModelUndecided(Decided, frozen=True, kw_only=True):
    """Not enough evidence: the champion stays for now."""

    needed_clusters: Annotated[
        int | None, Meta(description="Fresh days that would decide it with 80 % power; null when that is not known.")
    ] = None
    follow_up: Annotated[
        Instant | None, Meta(description="When the next attempt is due: the days it waits for are fresh by then.")
    ] = None


class ModelRolledBack(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An earlier champion was taken back, by whom and why."""

    model: ModelName
    champion_before: Annotated[int | None, Meta(description="Version that served before.")]
    champion_after: Annotated[int, Meta(description="Version that serves now.")]
    actor: Annotated[str, Meta(description="Who took it back.")]
    reason: Annotated[str, Meta(description="Why.")]


class EventResolved(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one event for one model."""

    model: ModelName
    event_id: Annotated[str, Meta(description="The id of the event it tells of.")]
    event_source: Annotated[str, Meta(description="The source of the event it tells of.")]
    event_type: Annotated[str, Meta(description="The type of the event it tells of.")]
    fate: Annotated[str, Meta(description="What became of it.")]
    reason: Annotated[str, Meta(description="Why: names the rule.")]
    attempt: Annotated[str | None, Meta(description="The attempt that answered it, where one did.")] = None
    until: Annotated[Instant | None, Meta(description="When it is decided again, where it waits.")] = None


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


class _Envelope(Struct):
    """The required attributes as they must be."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    subject: Text
    time: Instant


class _Identity(Struct):
    """Who says it of what, and when, as the digest covers it: fields in alphabetical order, like all its keys."""

    id: str
    source: str
    subject: str
    time: datetime
    type: str


class InboundEvent(Struct, frozen=True, kw_only=True):
    """One heard event.

    ``payload`` is its data as received, JSON-able, unknown fields included; ``extensions`` are its attributes that
    CloudEvents leaves to the sender. ``digest`` is the SHA-256 (hexadecimal) of the content: equal in both transport
    modes, for any order of keys, and however the time's offset is written.
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
    """One event to be published: any of our types, ready for :func:`to_record`.

    ``traceparent`` names the span that tells it (W3C Trace Context), in a trace that somebody follows.
    """

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: InboundData | OutboundData
    traceparent: str | None = None

    @property
    def topic(self) -> str:
        """The topic it belongs on."""
        return TOPICS.get(self.type, DECISIONS_TOPIC)


def parse(
    value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = (), *, max_bytes: int = MAX_BYTES
) -> InboundEvent:
    """Read one Kafka record as an event, structured or binary.

    A record is structured when its content type says so, binary when it has ``ce_`` headers, else structured when its
    JSON says ``specversion``. Ratchet requires ``subject`` and ``time`` although CloudEvents does not: the first routes
    the event, the second orders it. Raises :class:`EventRejected`, nothing else.
    """
    if value is None:
        raise EventRejected("tombstone", "a record without a value", "publish the event itself; nothing is compacted")
    size = len(value)
    for name, content in headers:
        size += len(name) + len(content or b"")
    if size > max_bytes:
        raise EventRejected("oversized", f"{size:,} bytes", f"keep value and headers within {max_bytes:,} bytes")
    attributes, content_type = _read_headers(headers)
    if content_type.startswith("application/cloudevents-batch"):
        raise EventRejected("content_type", _shown(content_type), "publish one event per record")
    structured = content_type.startswith("application/cloudevents")
    if attributes and not structured:
        if content_type and not _is_json(content_type):
            raise EventRejected("content_type", _shown(content_type), f"send data as {DATA_CONTENT_TYPE}")
        payload, storable = _decode(value)
        written = "".join((*attributes, *attributes.values()))
        return _event(attributes, payload, storable=storable and "\0" not in written)
    if structured and content_type != STRUCTURED_CONTENT_TYPE:
        raise EventRejected("content_type", _shown(content_type), f"send {STRUCTURED_CONTENT_TYPE}")
    body, storable = _decode(value)
    if not isinstance(body, dict) or (not structured and "specversion" not in body):
        raise EventRejected(
            "not_an_event",
            _shown(body),
            "send a CloudEvent: a JSON object with specversion, id, source, type, subject, time and data, "
            "or these as ce_ headers",
        )
    if "data_base64" in body:
        raise EventRejected("content_type", "data_base64", "send data as JSON in 'data'")
    return _event(body, body.pop("data", None), storable=storable)


def read_data(event_type: str, payload: Any) -> InboundData:
    """The typed data of an event kept as (type, payload), times in UTC. Raises :class:`EventRejected`."""
    struct = INBOUND.get(event_type)
    if struct is None:
        near = get_close_matches(event_type, INBOUND, n=1, cutoff=0.8)
        raise EventRejected(
            "unknown_type",
            repr(event_type),
            f"did you mean {near[0]!r}?" if near else f"known types are {', '.join(sorted(INBOUND))}",
        )
    try:
        data = msgspec.convert(payload, struct)
    except msgspec.ValidationError as error:
        raise EventRejected("bad_data", f"{event_type}: {error}", "see docs/events.md for the fields") from None
    moved = {}
    for name in _TIMES[struct]:
        moment = getattr(data, name)
        if (utc := _in_utc(moment, f"data.{name}")) is not moment:
            moved[name] = utc
    if moved:
        data = msgspec.structs.replace(data, **moved)
    if isinstance(data, DriftDetected) and data.window_start >= data.window_end:
        raise EventRejected(
            "bad_data",
            f"window_start {data.window_start.isoformat()}, window_end {data.window_end.isoformat()}",
            "a window must end after it starts",
        )
    return data


def incident_of(event: InboundEvent) -> str | None:
    """The upstream fault that the sender names in the extension ``incident``, at most 200 characters of it."""
    named = event.extensions.get("incident")
    return None if named is None or named == "" else _as_header(named)[:200]


def _event(attributes: dict[str, Any], payload: Any, *, storable: bool) -> InboundEvent:
    """Check attributes, which are used up, and data. ``storable``: :func:`_check_storable` would pass both."""
    try:
        envelope = msgspec.convert(attributes, _Envelope)
    except msgspec.ValidationError:
        envelope = None
        _check_attributes(attributes)
    encoding = attributes.get("datacontenttype")
    if encoding not in _PLAIN_ENCODINGS and not (isinstance(encoding, str) and _is_json(encoding)):
        raise EventRejected("content_type", _shown(encoding), f"send data as {DATA_CONTENT_TYPE}")
    if not storable:
        _check_storable(attributes)
        _check_storable(payload)
    data = read_data(attributes["type"], payload)
    if envelope is None:
        raise EventRejected(
            "bad_time", f"time = {attributes['time']!r}", "write RFC 3339 with an offset, like 2013-05-01T04:00:00Z"
        )
    time = _in_utc(envelope.time, "time")
    identity = _Identity(envelope.id, envelope.source, envelope.subject, time, envelope.type)
    for name in _ENVELOPE:
        del attributes[name]
    said = {name: _as_header(value) for name, value in attributes.items() if name not in _TRANSPORT}
    return InboundEvent(
        id=envelope.id,
        source=envelope.source,
        type=envelope.type,
        subject=envelope.subject,
        time=time,
        data=data,
        digest=hashlib.sha256(_CANONICAL.encode((identity, said, payload))).hexdigest(),
        payload=payload,
        extensions=attributes,
    )


def _check_attributes(attributes: dict[str, Any]) -> None:
    """Name the rule that the required attributes break, the time's writing aside."""
    version = attributes.get("specversion")
    if version != SPEC_VERSION:
        got = "none" if version is None else _shown(version)
        raise EventRejected("specversion", got, f"send CloudEvents specversion {SPEC_VERSION!r}")
    for name in _REQUIRED:
        text = attributes.get(name)
        if text is None:
            raise EventRejected("missing_attribute", f"no {name}", f"every event carries {', '.join(_REQUIRED)}")
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT:
            raise EventRejected(
                "bad_attribute", f"{name} = {_shown(text)}", f"{name} must be text of 1 to {MAX_TEXT} characters"
            )


def _read_headers(headers: Sequence[tuple[str, bytes | None]]) -> tuple[dict[str, Any], str]:
    """The attributes among the headers, by lower-case name, and the content type without its parameters.

    All other headers are the transport's own.
    """
    attributes: dict[str, Any] = {}
    content_type: str | None = None
    for raw_name, content in headers:
        name = raw_name.lower()
        if name == "content-type":
            known = content_type is not None
        elif name.startswith("ce_"):
            known = name[3:] in attributes
        else:
            continue
        if known:
            raise EventRejected("bad_attribute", f"header {_shown(name)} twice", "send each header once")
        try:
            if not name.isascii():
                name.encode()
            text = (content or b"").decode()
        except UnicodeError:
            raise EventRejected("not_json", f"header {_shown(name)} is not UTF-8", "encode headers as UTF-8") from None
        if name == "content-type":
            content_type = text if text == STRUCTURED_CONTENT_TYPE else text.partition(";")[0].strip().lower()
        else:
            attributes[name[3:]] = text
    return attributes, content_type or ""


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == DATA_CONTENT_TYPE or (kind.startswith("application/") and kind.endswith("+json"))


def _decode(value: bytes) -> tuple[Any, bool]:
    """The JSON value, and whether it is known to be storable: see :func:`_check_storable`.

    Almost every value is read by ``_STORABLE``, which bounds integers and nesting while it decodes. What it refuses is
    read again without bounds, so that the careful walk can name the rule, or find that the value is fine after all.
    """
    try:
        return _STORABLE.decode(value), b"\\" not in value or b"\\u0000" not in value
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.json.decode(value), False
    except RecursionError:
        raise EventRejected("too_deep", f"{len(value):,} bytes of nested JSON", f"nest at most {MAX_DEPTH}") from None
    except UnicodeDecodeError as error:
        raise EventRejected("not_json", f"not UTF-8 at byte {error.start}", "encode the value as UTF-8") from None
    except msgspec.DecodeError as error:
        remedy = "send a JSON object; JSON has no NaN or Infinity" if _names_nan(value) else "send a JSON object"
        raise EventRejected("not_json", f"{len(value):,} bytes: {error}", remedy) from None


def _names_nan(value: bytes) -> bool:
    return b"NaN" in value or b"Infinity" in value


def _check_storable(value: Any, depth: int = 0) -> None:
    """Refuse what JSON may say and a database cannot keep: NUL characters, integers beyond 64 bits, deep nesting."""
    if isinstance(value, str):
        if "\0" in value:
            raise EventRejected("bad_text", _shown(value), "leave out the character U+0000")
    elif isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise EventRejected("bad_data", _shown(value), f"integers lie within ±{_MAX_INTEGER}")
    elif isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            raise EventRejected("too_deep", f"more than {MAX_DEPTH} levels", f"nest at most {MAX_DEPTH}")
        if isinstance(value, dict):
            for name, inner in value.items():
                _check_storable(name, depth)
                _check_storable(inner, depth + 1)
        else:
            for inner in value:
                _check_storable(inner, depth + 1)


def _in_utc(moment: datetime, name: str) -> datetime:
    if moment.tzinfo is UTC and _EARLIEST <= moment < _LATEST:
        return moment
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        utc = _LATEST
    if not _EARLIEST <= utc < _LATEST:
        raise EventRejected("bad_time", f"{name} = {moment.isoformat()}", "times lie between 1970 and 2200")
    return utc


def _as_header(value: Any) -> str:
    """An extension as binary mode writes it, so that both modes have one digest."""
    return value if isinstance(value, str) else _CANONICAL.encode(value).decode()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def new_event(
    data: InboundData | OutboundData,
    *,
    id: str,  # noqa: A002 - the attribute's name
    source: str,
    subject: str,
    time: datetime,
) -> Announcement:
    """An event of the type that belongs to ``data``, to be published with :func:`to_record` on its ``topic``.

    ``time`` must be timezone-aware; it is kept in UTC. Raises :class:`EventRejected` for inbound data that
    :func:`parse` would reject, so that nobody publishes what nobody may read.
    """
    if time.tzinfo is None:
        raise EventRejected("bad_time", f"time = {time.isoformat()}", "give a timezone-aware time")
    kind = _TYPE_OF[type(data)]
    event = Announcement(id=id, source=source, type=kind, subject=subject, time=time.astimezone(UTC), data=data)
    if kind in INBOUND:
        _, value, headers = to_record(event)
        parse(value, headers)
    return event


def decision_event(kind: DecisionKind, *, key: str, model: str, time: datetime, **data: Any) -> Announcement:
    """An announcement on ``ml.decisions``: ``data`` are the fields of the kind's struct except ``model``.

    Its id derives from ``key`` (the attempt, or the event and fate it tells of) and ``kind``, so that a repeat is
    recognised as one. Raises ``TypeError`` for a field the struct does not have.
    """
    struct = OUTBOUND[_KINDS[kind]]
    return new_event(
        struct(model=model, **data), id=f"{key}:{kind}", source=f"/ratchet/{model}", subject=model, time=time
    )


def to_record(
    event: InboundEvent | Announcement, *, mode: Literal["structured", "binary"] = "structured"
) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Key (the subject), value and headers of a CloudEvent for Kafka. A heard event keeps its unknown fields."""
    data: Any = event.data
    extensions: dict[str, Any] = {}
    travels: list[tuple[str, bytes]] = []
    if isinstance(event, InboundEvent):
        data, extensions = event.payload, event.extensions
    elif event.traceparent is not None:
        extensions = {"traceparent": event.traceparent}
        travels = [("traceparent", event.traceparent.encode())]
    attributes = {
        "specversion": SPEC_VERSION,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time.isoformat().replace("+00:00", "Z"),
        **extensions,
    }
    key = event.subject.encode()
    if mode == "binary":
        headers = [(f"ce_{name}", _as_header(value).encode()) for name, value in attributes.items()]
        return key, msgspec.json.encode(data), [*headers, ("content-type", DATA_CONTENT_TYPE.encode()), *travels]
    body = {**attributes, "datacontenttype": DATA_CONTENT_TYPE, "data": data}
    return key, msgspec.json.encode(body), [("content-type", STRUCTURED_CONTENT_TYPE.encode()), *travels]
