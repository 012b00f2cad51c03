"""What is an event and what is not, in both Kafka modes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain import events
from ratchet.domain.events import (
    INBOUND,
    OUTBOUND,
    DataArrived,
    DriftDetected,
    EventRejected,
    PerformanceDegraded,
    decision_event,
    new_event,
    parse,
    read_data,
    to_record,
)
from ratchet.settings import load_settings

DATA: dict[str, dict[str, Any]] = {
    "ratchet.drift.detected.v1": {
        "check": "weather_drift",
        "severity": 0.6,
        "window_start": "2013-05-01T00:00:00Z",
        "window_end": "2013-05-08T00:00:00Z",
    },
    "ratchet.drift.cleared.v1": {"check": "weather_drift", "window_end": "2013-05-08T00:00:00Z"},
    "ratchet.performance.degraded.v1": {
        "metric": "payoff",
        "value": 3.1,
        "threshold": 4,
        "window_end": "2013-05-08T00:00:00Z",
    },
    "ratchet.data.arrived.v1": {"dataset": "flights", "complete_until": "2013-05-16T00:00:00Z", "new_rows": 13402},
    "ratchet.retrain.requested.v1": {"reason": "new routes", "actor": "ada"},
}
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=utf-8")]
REMOVED = object()
SEEDED = settings(deadline=None, derandomize=True)


def event_with(kind: str = "ratchet.drift.detected.v1", data: Any = None, **changes: Any) -> dict[str, Any]:
    event = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/monitor",
        "type": kind,
        "subject": "flight_delay",
        "time": "2013-05-08T01:00:00Z",
        "data": DATA[kind] if data is None else data,
    } | changes
    return {name: value for name, value in event.items() if value is not REMOVED}


def structured(event: Any) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    return json.dumps(event).encode(), list(STRUCTURED)


def binary(event: dict[str, Any]) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    headers = [(f"ce_{name}", str(value).encode()) for name, value in event.items() if name != "data"]
    return json.dumps(event["data"]).encode(), [*headers, ("content-type", b"application/json")]


def rejection(value: bytes | None, headers: Any = (), **limits: int) -> EventRejected:
    with pytest.raises(EventRejected) as caught:
        parse(value, headers, **limits)
    assert caught.value.remedy
    assert caught.value.got
    return caught.value


@pytest.mark.parametrize("kind", INBOUND)
def test_every_type_reads_the_same_in_both_modes(kind: str) -> None:
    event = event_with(kind)
    first, second = parse(*structured(event)), parse(*binary(event))
    assert first == second
    assert isinstance(first.data, INBOUND[kind])


def test_a_json_body_with_specversion_needs_no_header() -> None:
    assert parse(json.dumps(event_with()).encode()).id == "e-1"


def test_unknown_fields_and_attributes_are_kept_and_travel_on() -> None:
    sent = event_with(data=DATA["ratchet.drift.detected.v1"] | {"p_value": 0.01}, tenant="eu", sampled=True)
    event = parse(*structured(sent))
    assert event.payload["p_value"] == 0.01
    assert event.extensions == {"tenant": "eu", "sampled": True}
    assert parse(*to_record(event)[1:]).digest == event.digest
    assert parse(*to_record(event, mode="binary")[1:]).digest == event.digest


def test_the_digest_of_content_never_changes_because_the_ledger_keeps_it() -> None:
    data = {"dataset": "flights", "complete_until": "2013-05-08T02:00:00+02:00", "new_rows": 3, "b": [0.1], "a": None}
    sent = {"specversion": "1.0", "id": "é", "source": "/s", "type": "ratchet.data.arrived.v1", "subject": "flights"}
    event = parse(*structured(sent | {"time": "2013-05-08T03:00:00+02:00", "tenant": "eu", "data": data}))
    assert event.digest == "364b6c900ff1add86348fca91e12da883f5945d34486880d991dcae40dfbdc29"


def test_times_are_kept_in_utc_and_their_writing_does_not_change_the_digest() -> None:
    here, there = parse(*structured(event_with())), parse(*structured(event_with(time="2013-05-07T21:00:00-04:00")))
    assert here.time == there.time == datetime(2013, 5, 8, 1, tzinfo=UTC)
    assert there.time.tzinfo is UTC
    assert here.digest == there.digest


def test_tracing_and_partitioning_are_transport_and_do_not_change_the_digest() -> None:
    traced = event_with(traceparent="00-ab-cd-01", partitionkey="7", datacontenttype="application/json")
    assert parse(*structured(traced)).digest == parse(*structured(event_with())).digest


@pytest.mark.parametrize(
    "other",
    [
        {"id": "e-2"},
        {"subject": "other"},
        {"time": "2013-05-08T01:00:01Z"},
        {"tenant": "eu"},
        {"data": DATA["ratchet.drift.detected.v1"] | {"severity": 0.7}},
        {"data": DATA["ratchet.drift.detected.v1"] | {"extra": None}},
    ],
)
def test_other_content_has_another_digest(other: dict[str, Any]) -> None:
    assert parse(*structured(event_with(**other))).digest != parse(*structured(event_with())).digest


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "tombstone"),
        (b"", "not_json"),
        (b"not json", "not_json"),
        (json.dumps(event_with()).encode()[:-1], "not_json"),
        (b'{"specversion": "1.0", "x": "\xff"}', "not_json"),
        (b'{"specversion": "1.0", "x": "\\ud800"}', "not_json"),
        (b"[" * 100_000, "too_deep"),
        (b'{"specversion": "1.0", "x": ' + b"9" * 5000 + b"}", "not_json"),
        (b"[]", "not_an_event"),
        (b"{}", "not_an_event"),
        (b"7", "not_an_event"),
    ],
)
def test_bytes_that_are_no_event_are_rejected_by_rule(value: bytes | None, rule: str) -> None:
    assert rejection(value).rule == rule


def test_nan_is_no_json_and_the_remedy_says_so() -> None:
    value = json.dumps(event_with(data={**DATA["ratchet.drift.detected.v1"], "severity": float("nan")})).encode()
    refused = rejection(value)
    assert refused.rule == "not_json"
    assert "NaN" in refused.remedy


def test_an_oversized_record_is_rejected_unread_headers_included() -> None:
    assert rejection(b"x" * 101, max_bytes=100).rule == "oversized"
    assert rejection(b"{}", [("trace", b"x" * 100)], max_bytes=100).rule == "oversized"


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "time"])
@pytest.mark.parametrize("mode", [structured, binary])
def test_every_required_attribute_is_missed_by_name(name: str, mode: Any) -> None:
    refused = rejection(*mode(event_with(**{name: REMOVED})))
    assert (refused.rule, refused.got) == ("missing_attribute", f"no {name}")


@pytest.mark.parametrize(
    ("changes", "rule", "said"),
    [
        ({"specversion": "0.3"}, "specversion", "'0.3'"),
        ({"id": ""}, "bad_attribute", "id"),
        ({"id": 7}, "bad_attribute", "id = 7"),
        ({"source": "x" * 256}, "bad_attribute", "source"),
        ({"type": "ratchet.drift.detect.v1"}, "unknown_type", "did you mean 'ratchet.drift.detected.v1'?"),
        ({"type": "com.other"}, "unknown_type", "known types are"),
        ({"type": "ratchet.model.promoted.v1"}, "unknown_type", "known types are"),
        ({"time": "2013-05-08T01:00:00"}, "bad_time", "with an offset"),
        ({"time": "yesterday"}, "bad_time", "yesterday"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "bad_time", "between 1970 and 2200"),
        ({"time": "9999-12-31T23:59:59-12:00"}, "bad_time", "between 1970 and 2200"),
        ({"subject": "flight\x00delay"}, "bad_text", "U+0000"),
        ({"tenant": {"deep": ["\x00"]}}, "bad_text", "U+0000"),
        ({"data_base64": "e30="}, "content_type", "data_base64"),
        ({"datacontenttype": "application/xml"}, "content_type", "application/xml"),
        ({"data": REMOVED}, "bad_data", "Expected `object`, got `null`"),
        ({"data": [1]}, "bad_data", "Expected `object`, got `array`"),
    ],
)
def test_a_bad_attribute_is_rejected_with_what_was_got(changes: dict[str, Any], rule: str, said: str) -> None:
    refused = rejection(*structured(event_with(**changes)))
    assert refused.rule == rule
    assert said in str(refused)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("ratchet.drift.detected.v1", {"severity": 1.01}, "$.severity"),
        ("ratchet.drift.detected.v1", {"severity": -0.1}, "$.severity"),
        ("ratchet.drift.detected.v1", {"severity": "0.5"}, "$.severity"),
        ("ratchet.drift.detected.v1", {"severity": True}, "$.severity"),
        ("ratchet.drift.detected.v1", {"check": ""}, "$.check"),
        ("ratchet.drift.detected.v1", {"window_end": "2013-05-08T00:00:00"}, "timezone component"),
        ("ratchet.drift.detected.v1", {"window_start": "2013-05-08T00:00:00Z"}, "must end after it starts"),
        ("ratchet.drift.detected.v1", {"window_start": "1901-01-01T00:00:00Z"}, "between 1970 and 2200"),
        ("ratchet.drift.detected.v1", {"huge": 2**64}, "integers lie within"),
        ("ratchet.data.arrived.v1", {"new_rows": -1}, "$.new_rows"),
        ("ratchet.data.arrived.v1", {"new_rows": 10.5}, "$.new_rows"),
        ("ratchet.data.arrived.v1", {"label_completeness": 2}, "$.label_completeness"),
        ("ratchet.retrain.requested.v1", {"actor": "x\x00"}, "U+0000"),
    ],
)
def test_bad_data_is_rejected_with_its_field(kind: str, changes: dict[str, Any], said: str) -> None:
    assert said in str(rejection(*structured(event_with(kind, DATA[kind] | changes))))


def test_data_may_nest_but_not_without_end() -> None:
    deep: Any = "bottom"
    for _ in range(20):
        deep = [deep]
    assert rejection(*structured(event_with(data=DATA["ratchet.drift.detected.v1"] | {"x": deep}))).rule == "too_deep"


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ([("content-type", b"application/cloudevents-batch+json")], "content_type"),
        ([("content-type", b"application/cloudevents+avro")], "content_type"),
        ([("ce_specversion", b"1.0"), ("content-type", b"text/plain")], "content_type"),
        ([("ce_specversion", b"1.0"), ("ce_specversion", b"1.0")], "bad_attribute"),
        ([("ce_id", b"\xff")], "not_json"),
        ([("ce_id", None)], "specversion"),
    ],
)
def test_headers_that_make_no_event_are_rejected(headers: list[tuple[str, bytes | None]], rule: str) -> None:
    assert rejection(b"{}", headers).rule == rule


@given(
    st.binary(max_size=300), st.lists(st.tuples(st.text(max_size=12), st.none() | st.binary(max_size=30)), max_size=4)
)
def test_nothing_but_a_rejection_comes_out_of_arbitrary_bytes(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(EventRejected):
        parse(value, headers)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@SEEDED
@given(st.dictionaries(st.sampled_from([*event_with(), "tenant"]), json_values), st.sampled_from([*DATA]))
def test_any_change_of_a_valid_event_is_read_or_rejected_and_reads_back(changes: dict[str, Any], kind: str) -> None:
    try:
        event = parse(*structured(event_with(kind, **changes)))
    except EventRejected:
        return
    assert parse(*to_record(event)[1:]) == msgspec.structs.replace(
        event, extensions=event.extensions | {"datacontenttype": "application/json"}
    )
    assert read_data(event.type, json.loads(json.dumps(event.payload))) == event.data


hostile_values = st.recursive(
    json_values | st.integers(-(2**70), 2**70) | st.text(st.sampled_from('\0\\u0"a'), max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=25,
)


@SEEDED
@given(
    st.dictionaries(st.sampled_from([*event_with(), "tenant"]).filter("data".__ne__), hostile_values, max_size=2),
    st.sampled_from([*DATA]),
    hostile_values,
    st.integers(0, 20),
)
def test_reading_fast_and_reading_carefully_come_to_the_same(
    changes: dict[str, Any], kind: str, extra: Any, depth: int
) -> None:
    for _ in range(depth):
        extra = [extra]
    event = event_with(kind, DATA[kind] | {"extra": extra}, **changes)
    for mode in (structured, binary):
        with mock.patch.object(events, "_STORABLE", msgspec.json.Decoder(Literal["takes nothing else"])):
            careful = outcome(*mode(event))
        assert outcome(*mode(event)) == careful


def outcome(value: bytes, headers: list[tuple[str, bytes | None]]) -> Any:
    try:
        return parse(value, headers)
    except EventRejected as refusal:
        return (refusal.rule, refusal.got, refusal.remedy)


def test_a_backslash_before_u0000_is_text_and_no_nul() -> None:
    assert parse(*structured(event_with(tenant="\\u0000"))).extensions["tenant"] == "\\u0000"


@pytest.mark.parametrize(
    "headers",
    [
        [("ce_\0", b"a"), ("ce_\0", b"b")],
        [("ce_\ud800", b"a")],
        [("content-type", b"application/cloudevents-batch\0")],
        [("content-type", b"application/cloudevents+\0json")],
        [("ce_id", b"e"), ("content-type", b"text/\0" + b"x" * 10_000)],
    ],
)
def test_a_reason_is_text_that_a_database_and_a_header_can_keep(headers: list[tuple[str, bytes | None]]) -> None:
    reason = str(rejection(b"{}", headers))
    assert reason.isprintable()
    assert len(reason) < 500


def test_data_kept_as_type_and_payload_reads_back_and_is_checked_again() -> None:
    data = read_data("ratchet.data.arrived.v1", DATA["ratchet.data.arrived.v1"])
    assert data == DataArrived(
        dataset="flights", complete_until=datetime(2013, 5, 16, tzinfo=UTC), new_rows=13402, label_completeness=None
    )
    with pytest.raises(EventRejected, match="bad_data"):
        read_data("ratchet.data.arrived.v1", {})


def test_a_new_event_names_its_type_topic_and_key() -> None:
    window_end = datetime(2013, 5, 8, tzinfo=timezone(timedelta(hours=-4)))
    drift = DriftDetected(check="c", severity=1.0, window_start=window_end - timedelta(days=7), window_end=window_end)
    event = new_event(drift, id="e-1", source="/monitor", subject="flight_delay", time=window_end)
    key, value, headers = to_record(event)
    assert (event.type, event.topic, key) == ("ratchet.drift.detected.v1", "ml.drift", b"flight_delay")
    assert parse(value, headers).data == drift


def test_what_nobody_may_read_nobody_can_publish() -> None:
    moment = datetime(2013, 5, 8, tzinfo=UTC)
    bad = PerformanceDegraded(metric="payoff", value=float("nan"), threshold=1.0, window_end=moment)
    with pytest.raises(EventRejected):
        new_event(bad, id="e-1", source="/monitor", subject="m", time=moment)
    with pytest.raises(EventRejected, match="timezone-aware"):
        new_event(bad, id="e-1", source="/m", subject="m", time=moment.replace(tzinfo=None))


def test_a_decision_published_twice_has_one_id_and_nan_becomes_null() -> None:
    told: dict[str, Any] = {"attempt": "m.3", "decision": "keep_champion", "champion_before": 1, "champion_after": 1}
    moment = datetime(2013, 5, 8, tzinfo=UTC)
    first = decision_event("kept", key="m.3", model="m", time=moment, uplift=float("nan"), **told)
    assert first.id == decision_event("kept", key="m.3", model="m", time=moment, **told).id
    assert first.id != decision_event("promoted", key="m.3", model="m", time=moment, **told).id
    assert first.topic == "ml.decisions"
    body = json.loads(to_record(first)[1])
    assert (body["type"], body["data"]["uplift"]) == ("ratchet.model.kept.v1", None)
    assert set(OUTBOUND) >= {body["type"], "ratchet.event.resolved.v1"}
    with pytest.raises(TypeError):
        decision_event("kept", key="m.3", model="m", time=moment, mood="good", **told)


def test_the_examples_of_the_documentation_are_events() -> None:
    text = (load_settings().root / "docs" / "events.md").read_text()
    examples = re.findall(r"^\{\"specversion\".*\}$", text, flags=re.MULTILINE)
    assert {parse(example.encode()).type for example in examples} == set(INBOUND)
    assert all(f"`{kind}`" in text for kind in (*INBOUND, *OUTBOUND))
    assert all(f"`{rule}`" in text for rule in events.Rule.__args__)  # type: ignore[attr-defined]
