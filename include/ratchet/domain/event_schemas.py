"""The events as machines read them: a JSON Schema (draft 2020-12) per type, and one AsyncAPI 3.0 document.

Both are pure functions of the structs in :mod:`ratchet.domain.events`; ``make schemas`` writes them to ``docs/events``.
A record that satisfies its schema is one that :func:`ratchet.domain.events.parse` takes, but for what no schema can
say: that a window ends after it starts, that unknown fields hold no character U+0000 and no integer beyond ±2^53, how
deep they nest, and how large a record may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_type_hints

import msgspec

from ratchet.domain import events as e

DRAFT = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI_VERSION = "3.0.0"
ASYNCAPI_FILE = "asyncapi.json"
KAFKA_BINDING_VERSION = "0.5.0"

# RFC 3339 with an offset, in the years that are accepted wherever on earth it was written.
_INSTANT = (
    r"^(19(7[1-9]|[89][0-9])|20[0-9]{2}|21([0-8][0-9]|9[0-8]))-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_STORABLE_TEXT = "^[^\\u0000]*$"
_JSON_CONTENT = r"^application/([^;\s]+\+)?json\s*(;.*)?$"
_BEYOND = (
    "Beyond this schema: a window ends after it starts; unknown fields are kept, and hold no character U+0000, no "
    f"integer beyond ±2^53 and at most {e.MAX_DEPTH} levels; a record has at most {e.MAX_BYTES:,} bytes."
)
_WRITTEN = "Its fields may grow: ignore those you do not know."

_MOMENT = datetime(2013, 6, 14, 10, tzinfo=UTC)
_START, _END = datetime(2013, 6, 13, 4, tzinfo=UTC), datetime(2013, 6, 14, 4, tzinfo=UTC)
_VERDICT: dict[str, Any] = {
    "model": "flight_delay",
    "attempt": "flight_delay.7",
    "challenger": 8,
    "lower": 0.31,
    "upper": 1.12,
    "uplift": 0.72,
    "unit": "USD",
    "as_of": _END,
    "events": ("weather-1", "weather-2"),
}
_EXAMPLES: Mapping[str, tuple[str, e.InboundData | e.OutboundData]] = {
    "ratchet.drift.detected.v1": (
        "flight_delay",
        e.DriftDetected(
            check="weather_drift", severity=0.6, window_start=_START, window_end=_END, feature="wind_speed"
        ),
    ),
    "ratchet.drift.cleared.v1": ("flight_delay", e.DriftCleared(check="weather_drift", window_end=_END)),
    "ratchet.performance.degraded.v1": (
        "flight_delay",
        e.PerformanceDegraded(metric="payoff", value=3.1, threshold=4.0, window_end=_END),
    ),
    "ratchet.data.arrived.v1": (
        "flights",
        e.DataArrived(dataset="flights", complete_until=_END, new_rows=14012, label_completeness=1.0),
    ),
    "ratchet.retrain.requested.v1": (
        "flight_delay",
        e.RetrainRequested(reason="new routes since Monday", actor="ada"),
    ),
    "ratchet.model.promoted.v1": (
        "flight_delay",
        e.ModelPromoted(decision="promote", champion_before=5, champion_after=8, **_VERDICT),
    ),
    "ratchet.model.kept.v1": (
        "flight_delay",
        e.ModelKept(decision="keep_champion", champion_before=5, champion_after=5, **_VERDICT),
    ),
    "ratchet.model.undecided.v1": (
        "flight_delay",
        e.ModelUndecided(
            decision="not_enough_evidence", champion_before=5, champion_after=5, needed_clusters=21, **_VERDICT
        ),
    ),
    "ratchet.model.rolledback.v1": (
        "flight_delay",
        e.ModelRolledBack(
            model="flight_delay", champion_before=8, champion_after=5, actor="ada", reason="complaints since Monday"
        ),
    ),
    "ratchet.event.resolved.v1": (
        "flight_delay",
        e.EventResolved(
            model="flight_delay",
            event_id="weather-2",
            event_source="/monitors/weather",
            event_type="ratchet.drift.detected.v1",
            fate="started",
            reason="triggered flight_delay.7",
            attempt="flight_delay.7",
        ),
    ),
}


def documents() -> dict[str, dict[str, Any]]:
    """Every document by its file name: ``<type>.json`` and ``asyncapi.json``."""
    return {f"{kind}.json": event_schema(kind) for kind in (*e.INBOUND, *e.OUTBOUND)} | {ASYNCAPI_FILE: asyncapi()}


def render(document: Mapping[str, Any]) -> str:
    """A document as it stands in its file."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def event_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one type's CloudEvent in structured mode, self-contained. Raises ``KeyError``."""
    inbound = kind in e.INBOUND
    struct = e.INBOUND[kind] if inbound else e.OUTBOUND[kind]
    summary = _summary(struct)
    return {
        "$schema": DRAFT,
        "$id": f"urn:ratchet:event:{kind}",
        "title": kind,
        "description": f"{summary} {_BEYOND if inbound else _WRITTEN}",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
        "properties": {
            "specversion": {"const": e.SPEC_VERSION},
            "id": _attribute("Names the event together with its source: publishing it again changes nothing."),
            "source": _attribute("Who speaks: a URI reference, like /monitors/weather."),
            "type": {"const": kind},
            "subject": _attribute(_subject_of(kind)),
            "time": _instant("Business time of the event: RFC 3339 with an offset."),
            "datacontenttype": {"type": "string", "pattern": _JSON_CONTENT, "description": "JSON, if given."},
            "data_base64": False,
            "data": _data_schema(struct),
        },
        "examples": [_example(kind)],
    }


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: topics, messages in both content modes, keys, and who sends what."""
    kinds = (*e.INBOUND, *e.OUTBOUND)
    topics = {kind: e.TOPICS.get(kind, e.DECISIONS_TOPIC) for kind in kinds}
    channels: dict[str, Any] = {}
    for topic, about in _TOPICS.items():
        carried = [message for kind in kinds if topics[kind] == topic for message in _message_names(kind)]
        channels[topic] = {
            "address": topic,
            "description": about,
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in carried or [_DEAD_LETTER_MESSAGE]},
            "bindings": {"kafka": {"topic": topic, "bindingVersion": KAFKA_BINDING_VERSION}},
        }
    messages: dict[str, Any] = {}
    for kind in kinds:
        structured, binary = _message_names(kind)
        messages[structured], messages[binary] = _structured_message(kind), _binary_message(kind)
    messages[_DEAD_LETTER_MESSAGE] = _dead_letter_message()
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Ratchet",
            "version": "1",
            "description": (
                "What monitoring systems tell Ratchet, and what Ratchet tells the world: CloudEvents 1.0 in JSON on "
                "Kafka. Every event may travel in structured mode (the event is the value) or in binary mode (the "
                "attributes are ce_ headers, the value is the data). A record is keyed by its subject, so that the "
                "events of one model stay in order. Delivery is at least once: (source, id) names an event."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": e.STRUCTURED_CONTENT_TYPE,
        "servers": {
            "local": {
                "host": "127.0.0.1:28082",
                "protocol": "kafka",
                "description": "The broker of the local stack: ratchet up",
            }
        },
        "channels": channels,
        "operations": {
            _operation(topic): {
                "action": "send" if topic in _SENT else "receive",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": about,
            }
            for topic, about in _TOPICS.items()
        },
        "components": {"messages": messages},
    }


_TOPICS = {
    e.DRIFT_TOPIC: "Monitors tell of drift, of its end, and of falling performance.",
    e.DATA_TOPIC: "Pipelines tell that a dataset has new rows; every model whose spec names it hears.",
    e.REQUESTS_TOPIC: "People and systems ask for a retrain.",
    e.DECISIONS_TOPIC: "Ratchet tells what was decided about a model, and what became of each event.",
    e.DEAD_LETTER_TOPIC: "Ratchet tells which records it could not use, each with its reason.",
}
_SENT = (e.DECISIONS_TOPIC, e.DEAD_LETTER_TOPIC)
_DEAD_LETTER_MESSAGE = "DeadLetter"


def _summary(struct: type[msgspec.Struct]) -> str:
    return " ".join((struct.__doc__ or "").replace("``", "").split())


def _subject_of(kind: str) -> str:
    return "The dataset." if kind == "ratchet.data.arrived.v1" else "The model it is about."


def _operation(topic: str) -> str:
    words = topic.partition(".")[2].split("-")
    return ("send" if topic in _SENT else "receive") + "".join(word.capitalize() for word in words)


def _attribute(about: str) -> dict[str, Any]:
    return {
        "type": "string",
        "minLength": 1,
        "maxLength": e.MAX_TEXT,
        "pattern": _STORABLE_TEXT,
        "description": about,
    }


def _instant(about: str) -> dict[str, Any]:
    return {"type": "string", "format": "date-time", "pattern": _INSTANT, "description": about}


def _data_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    (_,), components = msgspec.json.schema_components([struct], ref_template="{name}")
    schema: dict[str, Any] = components[struct.__name__]
    schema.pop("title")
    schema["description"] = _summary(struct)
    moments = {name for name, kind in get_type_hints(struct).items() if kind in (datetime, datetime | None)}
    for name, field in schema["properties"].items():
        for option in field.get("anyOf", [field]):
            if option.get("type") == "string":
                option["pattern"] = _INSTANT if name in moments else _STORABLE_TEXT
    return schema


def _announcement(kind: str) -> e.Announcement:
    subject, data = _EXAMPLES[kind]
    source = "/monitors/weather" if kind in e.INBOUND else f"/ratchet/{subject}"
    return e.new_event(data, id=f"example-of-{kind}", source=source, subject=subject, time=_MOMENT)


def _example(kind: str) -> Any:
    return msgspec.json.decode(e.to_record(_announcement(kind))[1])


def _message_names(kind: str) -> tuple[str, str]:
    struct = e.INBOUND[kind] if kind in e.INBOUND else e.OUTBOUND[kind]
    return struct.__name__, f"{struct.__name__}Binary"


def _headers_schema(headers: Mapping[str, dict[str, Any]], *, required: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": dict(headers)}


def _kafka(kind: str) -> dict[str, Any]:
    key = {"type": "string", "description": f"The subject, in UTF-8. {_subject_of(kind)}"}
    return {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING_VERSION}}


def _structured_message(kind: str) -> dict[str, Any]:
    _, _, headers = e.to_record(_announcement(kind))
    return {
        "name": kind,
        "title": f"{kind}, structured",
        "summary": _summary(e.INBOUND[kind] if kind in e.INBOUND else e.OUTBOUND[kind]),
        "contentType": e.STRUCTURED_CONTENT_TYPE,
        "headers": _headers_schema(
            {"content-type": {"type": "string", "const": e.STRUCTURED_CONTENT_TYPE}}, required=("content-type",)
        ),
        "payload": {"$ref": f"./{kind}.json"},
        "bindings": _kafka(kind),
        "examples": [
            {
                "name": "structured",
                "headers": {name: value.decode() for name, value in headers},
                "payload": _example(kind),
            }
        ],
    }


def _binary_message(kind: str) -> dict[str, Any]:
    _, value, headers = e.to_record(_announcement(kind), mode="binary")
    told = event_schema(kind)["properties"]
    attributes = {f"ce_{name}": told[name] for name in ("specversion", "id", "source", "type", "subject", "time")}
    return {
        "name": kind,
        "title": f"{kind}, binary",
        "summary": _summary(e.INBOUND[kind] if kind in e.INBOUND else e.OUTBOUND[kind]),
        "contentType": e.DATA_CONTENT_TYPE,
        "headers": _headers_schema(
            attributes | {"content-type": {"type": "string", "pattern": _JSON_CONTENT}}, required=tuple(attributes)
        ),
        "payload": {"$ref": f"./{kind}.json#/properties/data"},
        "bindings": _kafka(kind),
        "examples": [
            {
                "name": "binary",
                "headers": {name: text.decode() for name, text in headers},
                "payload": msgspec.json.decode(value),
            }
        ],
    }


def _dead_letter_message() -> dict[str, Any]:
    return {
        "name": "dead-letter",
        "title": "A record that could not be used",
        "summary": "The key, value and headers as they came, and four headers more.",
        "contentType": "application/octet-stream",
        "headers": _headers_schema(
            {
                "ratchet-reason": {"type": "string", "description": "rule: got …; remedy"},
                "ratchet-topic": {"type": "string", "description": "Where it came from."},
                "ratchet-partition": {"type": "string", "pattern": "^[0-9]+$"},
                "ratchet-offset": {"type": "string", "pattern": "^[0-9]+$"},
            },
            required=("ratchet-reason", "ratchet-topic", "ratchet-partition", "ratchet-offset"),
        ),
        "payload": {"description": "The value as it came: any bytes, or none."},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "The key as it came: any bytes, or none."},
                "bindingVersion": KAFKA_BINDING_VERSION,
            }
        },
        "examples": [
            {
                "name": "truncated",
                "headers": {
                    "ratchet-reason": "not_json: got 14 bytes: Input data was truncated; send a JSON object",
                    "ratchet-topic": e.DRIFT_TOPIC,
                    "ratchet-partition": "0",
                    "ratchet-offset": "41",
                },
                "payload": '{"specversion"',
            }
        ],
    }
