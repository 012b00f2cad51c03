"""The schemas in docs/events are the structs' own, and say what ``parse`` enforces."""

from __future__ import annotations

import copy
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ratchet.domain import events
from ratchet.domain.event_schemas import ASYNCAPI_FILE, asyncapi, documents, event_schema, render
from ratchet.domain.events import INBOUND, OUTBOUND, EventRejected, decision_event, parse, to_record
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, INBOUND_TOPICS
from ratchet.settings import load_settings

FOLDER = load_settings().root / "docs" / "events"
HEADERS = [("content-type", b"application/cloudevents+json")]
VALIDATORS = {kind: Draft202012Validator(event_schema(kind)) for kind in (*INBOUND, *OUTBOUND)}
SEEDED = settings(deadline=None, derandomize=True, max_examples=100)


def test_the_files_are_as_the_structs_are_now() -> None:
    wanted = {name: render(document) for name, document in documents().items()}
    found = {file.name: file.read_text() for file in FOLDER.glob("*.json")}
    assert found == wanted, "docs/events is stale. Run: make schemas"


@pytest.mark.parametrize("kind", VALIDATORS)
def test_every_schema_is_one_and_its_examples_satisfy_it(kind: str) -> None:
    schema = event_schema(kind)
    Draft202012Validator.check_schema(schema)
    for example in schema["examples"]:
        VALIDATORS[kind].validate(example)


@pytest.mark.parametrize("kind", VALIDATORS)
def test_every_field_is_described(kind: str) -> None:
    told = event_schema(kind)["properties"]
    fields = [*told["data"]["properties"].values(), told["id"], told["source"], told["subject"], told["time"]]
    assert all(field["description"] for field in fields)


# -- what the schema says is what parse enforces -----------------------------------------------------------------------


def offsets() -> st.SearchStrategy[timezone]:
    return st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def moments(first: datetime = datetime(1971, 1, 2), last: datetime = datetime(2198, 12, 30)) -> st.SearchStrategy[str]:  # noqa: DTZ001
    return st.datetimes(first, last, timezones=offsets()).map(datetime.isoformat)


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that satisfy one field's schema, its bounds included."""
    if "anyOf" in schema:
        return st.one_of(*map(of_schema, schema["anyOf"]))
    match schema["type"]:
        case "null":
            return st.none()
        case "string" if schema.get("format") == "date-time":
            return moments()
        case "string":
            alphabet = st.characters(codec="utf-8", exclude_characters="\0")
            longest = "é" * schema["maxLength"]
            return st.text(alphabet, min_size=schema["minLength"], max_size=12) | st.just(longest)
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.floats(schema["minimum"], schema["maximum"]) | st.sampled_from([schema["minimum"]])
    raise AssertionError(schema)


@st.composite
def valid_events(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from([*INBOUND]))
    told = event_schema(kind)["properties"]
    data = {
        name: draw(of_schema(field))
        for name, field in told["data"]["properties"].items()
        if name in told["data"]["required"] or draw(st.booleans())
    }
    if "window_start" in data:
        end = datetime.fromisoformat(data["window_end"])
        data["window_start"] = (end - draw(st.timedeltas(timedelta(microseconds=1), timedelta(days=1)))).isoformat()
    event = {name: draw(of_schema(told[name])) for name in ("id", "source", "subject", "time")}
    return event | {"specversion": "1.0", "type": kind, "data": data}


def parsed(event: Any) -> events.InboundEvent:
    return parse(json.dumps(event).encode(), HEADERS)


@SEEDED
@given(valid_events())
def test_what_a_schema_allows_is_an_event_in_both_modes(event: dict[str, Any]) -> None:
    VALIDATORS[event["type"]].validate(event)
    heard = parsed(event)
    assert parse(*to_record(heard, mode="binary")[1:]).digest == heard.digest


TIMES = ["2013-05-08", "2013-05-08T00:00:00", "2013-05-08T25:00:00Z", "1969-05-08T00:00:00Z", "2300-05-08T00:00:00Z"]
TEXTS = ["", "x" * 2001, "\0", "text", "0.3", "application/xml", "ratchet.drift.detect.v1"]
NUMBERS = [-1, 0.5, 1.5, 2**53 + 1, -1e301]
ANY = st.sampled_from([*TIMES, *TEXTS, *NUMBERS, None, True, False, [], {}, [1], {"a": 1}])


@SEEDED
@given(valid_events(), st.data())
def test_what_a_schema_forbids_both_refuse_and_nothing_else(event: dict[str, Any], data: st.DataObject) -> None:
    """One field is replaced or left out. Both agree, whichever way it goes; the window's order is parse's own rule."""
    changed = copy.deepcopy(event)
    inside = data.draw(st.booleans())
    target = changed["data"] if inside else changed
    name = data.draw(st.sampled_from([*target, "datacontenttype", "data_base64"] if not inside else [*target]))
    if data.draw(st.integers(0, 3)):
        target[name] = data.draw(ANY)
    else:
        target.pop(name, None)
    allowed = VALIDATORS[event["type"]].is_valid(changed)
    refused = ""
    try:
        parsed(changed)
    except EventRejected as refusal:
        refused = str(refusal)
    if (name, changed.get(name, "absent")) == ("datacontenttype", None) or "must end after it starts" in refused:
        return
    assert allowed == (not refused), refused


@pytest.mark.parametrize("kind", INBOUND)
@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "subject", "time", "data"])
def test_every_required_attribute_is_required_by_both(kind: str, name: str) -> None:
    event = event_schema(kind)["examples"][0]
    del event[name]
    assert not VALIDATORS[kind].is_valid(event)
    with pytest.raises(EventRejected):
        parsed(event)


@pytest.mark.parametrize("kind", INBOUND)
def test_every_required_field_is_required_by_both(kind: str) -> None:
    for name in event_schema(kind)["properties"]["data"]["required"]:
        event = event_schema(kind)["examples"][0]
        del event["data"][name]
        assert not VALIDATORS[kind].is_valid(event)
        with pytest.raises(EventRejected, match=name):
            parsed(event)


def test_what_is_told_satisfies_its_schema() -> None:
    moment = datetime(2013, 6, 1, tzinfo=UTC)
    verdict: dict[str, Any] = {"attempt": "m.3", "decision": "promote", "champion_before": None, "champion_after": 1}
    told = [
        decision_event("promoted", key="m.3", model="m", time=moment, as_of=moment, uplift=math.nan, **verdict),
        decision_event("kept", key="m.3", model="m", time=moment, reasons=("because",), **verdict),
        decision_event("undecided", key="m.3", model="m", time=moment, needed_clusters=9, **verdict),
    ]
    for announcement in told:
        VALIDATORS[announcement.type].validate(msgspec.json.decode(to_record(announcement)[1]))


# -- the AsyncAPI document: checked by hand against its reference parser; here, that it stays whole --------------------


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [r for inner in value.values() for r in references(inner)]
    return [r for inner in value for r in references(inner)] if isinstance(value, list) else []


def resolved(reference: str) -> Any:
    file, _, pointer = reference.partition("#")
    value = json.loads((FOLDER / (file or ASYNCAPI_FILE)).read_text())
    for step in pointer.strip("/").split("/") if pointer else ():
        value = value[step]
    return value


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    found = references(asyncapi())
    assert found
    assert all(resolved(reference) for reference in found)


def test_every_type_is_a_message_of_its_topic_in_both_modes_and_keyed_by_its_subject() -> None:
    document = asyncapi()
    for kind in (*INBOUND, *OUTBOUND):
        channel = document["channels"][events.TOPICS.get(kind, events.DECISIONS_TOPIC)]
        carried = [document["components"]["messages"][name] for name in channel["messages"]]
        own = [message for message in carried if message["name"] == kind]
        assert {message["contentType"] for message in own} == {"application/cloudevents+json", "application/json"}
        assert all(message["bindings"]["kafka"]["key"]["type"] == "string" for message in own)
        assert channel["address"] == channel["bindings"]["kafka"]["topic"]


def test_ratchet_receives_what_is_heard_and_sends_what_is_told() -> None:
    operations = asyncapi()["operations"].values()
    does = {operation["channel"]["$ref"].rpartition("/")[2]: operation["action"] for operation in operations}
    assert does == dict.fromkeys(INBOUND_TOPICS, "receive") | {DECISIONS: "send", DEAD_LETTER: "send"}


def test_the_examples_of_inbound_messages_are_records_that_are_read() -> None:
    for message in asyncapi()["components"]["messages"].values():
        if message["name"] not in INBOUND:
            continue
        (example,) = message["examples"]
        Draft202012Validator(message["headers"]).validate(example["headers"])
        headers = [(name, text.encode()) for name, text in example["headers"].items()]
        assert parse(json.dumps(example["payload"]).encode(), headers).type == message["name"]
