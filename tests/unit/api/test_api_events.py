"""Events over HTTP: in every mode, all or nothing, stored by Kafka before the answer, and by whom they may be."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from api_worlds import SECRET, Client

from ratchet.api import hearing
from ratchet.api.limits import Buckets
from ratchet.api.publishing import MOST_WAITING, Outgoing
from ratchet.domain.events import parse
from ratchet.domain.translations import source_of
from ratchet.errors import Unavailable
from ratchet.ports.bus import InMemoryBus

DATA = {"check": "psi", "severity": 0.7, "window_start": "2013-01-01T00:00:00Z", "window_end": "2013-01-02T00:00:00Z"}
EVENT = {
    "specversion": "1.0",
    "id": "w-1",
    "source": "/monitors/grafana",
    "type": "ratchet.drift.detected.v1",
    "subject": "flight_delay",
    "time": "2013-01-02T00:00:00Z",
    "data": DATA,
}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
BINARY = {"Content-Type": "application/json"} | {f"ce-{k}": v for k, v in EVENT.items() if isinstance(v, str)}
PAYLOADS = Path(__file__).parents[1] / "domain" / "monitoring_payloads"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in EVENT.items() if key != name}


# -- modes -------------------------------------------------------------------------------------------------------------


def test_an_event_is_the_same_in_every_mode(api: Client) -> None:
    answers = [
        api.post("/v1/events", json=EVENT, headers=STRUCTURED),
        api.post("/v1/events", json=DATA, headers=BINARY),
        api.post("/v1/events", json=[EVENT], headers=BATCH),
    ]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(202, {"accepted": ["w-1"]})] * 3
    heard = [parse(record.value, record.headers) for record in api.published()]
    assert len(heard) == 3
    assert len({event.digest for event in heard}) == 1
    api.world.intake.store(api.published())
    assert len(api.get("/v1/events").json()["items"]) == 1, "a repetition changes nothing"


def test_headers_of_the_binary_mode_are_percent_decoded_and_extensions_kept(api: Client) -> None:
    headers = BINARY | {"ce-incident": "Z%C3%BCrich%20%22a%22", "CE-ID": "e%E2%82%AC"}
    headers.pop("ce-id")
    assert api.post("/v1/events", json=DATA, headers=headers).json() == {"accepted": ["e€"]}
    (record,) = api.published()
    assert parse(record.value, record.headers).extensions["incident"] == 'Zürich "a"'


def test_a_batch_keeps_its_order_and_may_be_empty(api: Client) -> None:
    events = [EVENT | {"id": f"w-{n}"} for n in range(50)]
    assert api.post("/v1/events", json=events, headers=BATCH).json()["accepted"] == [f"w-{n}" for n in range(50)]
    assert [parse(r.value, r.headers).id for r in api.published()] == [f"w-{n}" for n in range(50)]
    assert api.post("/v1/events", json=[], headers=BATCH).json() == {"accepted": []}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/cloudevents+json; charset=utf-8", 202),
        ("Application/CloudEvents+JSON", 202),
        ("application/cloudevents+json; charset=latin-1", 415),
        ("application/cloudevents+xml", 415),
        ("application/json", 415),
        ("text/plain", 415),
        ("", 415),
    ],
)
def test_content_types_are_checked(api: Client, kind: str, status: int) -> None:
    answer = api.post("/v1/events", json=EVENT, headers={"Content-Type": kind})
    assert answer.status_code == status
    if status != 202:
        assert answer.json()["type"] == "urn:ratchet:problem:content-type"


@pytest.mark.parametrize(
    ("event", "rule", "pointer"),
    [
        (EVENT | {"data": DATA | {"severity": 2}}, "bad_data", "/data/severity"),
        (EVENT | {"data": DATA | {"window_end": "2012-01-01T00:00:00Z"}}, "bad_data", "/data/window_start"),
        (EVENT | {"data": [1]}, "bad_data", "/data"),
        (without("data"), "bad_data", "/data"),
        (without("subject"), "missing_attribute", "/subject"),
        (EVENT | {"source": 7}, "bad_attribute", "/source"),
        (EVENT | {"time": "yesterday"}, "bad_time", "/time"),
        (EVENT | {"type": "ratchet.drift.detcted.v1"}, "unknown_type", "/type"),
        (EVENT | {"specversion": "0.3"}, "specversion", "/specversion"),
        (EVENT | {"id": "a\u0000b"}, "bad_text", ""),
        ([1], "not_an_event", ""),
    ],
)
def test_what_is_no_event_is_refused_with_its_place(api: Client, event: Any, rule: str, pointer: str) -> None:
    answer = api.post("/v1/events", json=event, headers=STRUCTURED)
    assert answer.status_code == 400, answer.text
    (fault,) = answer.json()["errors"]
    assert (fault["rule"], fault["pointer"]) == (rule, pointer), fault
    if isinstance(event, dict):
        answer = api.post("/v1/events", json=[EVENT, event], headers=BATCH)
        assert answer.json()["errors"][0]["pointer"] == f"/1{pointer}"
        assert answer.status_code == 400
    assert api.published() == [], "all or nothing"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"id": NaN}', b"null"])
def test_what_is_no_json_is_refused(api: Client, body: bytes) -> None:
    for headers in (STRUCTURED, BATCH):
        assert api.post("/v1/events", content=body, headers=headers).status_code == 400


def test_sizes_are_limited(api: Client) -> None:
    large = EVENT | {"data": DATA | {"more": "x" * 1_000_000}}
    assert api.post("/v1/events", json=large, headers=STRUCTURED).status_code == 413
    longer = json.dumps(EVENT)[:-2] + ', "more": [' + ",".join(["1e15"] * 180_000) + "]}}"
    assert len(longer) < 1_000_000, "it is longer only as it is written again"
    assert api.post("/v1/events", content=longer, headers=STRUCTURED).status_code == 413
    many = [EVENT] * (hearing.MOST_EVENTS + 1)
    assert api.post("/v1/events", json=many, headers=BATCH).status_code == 413
    assert api.published() == []


# -- signed ------------------------------------------------------------------------------------------------------------


def test_a_source_signs_what_it_sends(api: Client) -> None:
    body = json.dumps(EVENT).encode()
    answer = api.signed("/v1/events", body, STRUCTURED)
    assert (answer.status_code, answer.json()) == (202, {"accepted": ["w-1"]})
    assert api.signed("/v1/events", json.dumps(DATA).encode(), BINARY).status_code == 202


@pytest.mark.parametrize(
    "forged",
    [
        {"secret": "x" * 32},
        {"key": "evidently"},
        {"key": ""},
        {"signature": "0" * 64},
        {"signature": ""},
        {"body": json.dumps(EVENT | {"subject": "other"}).encode()},
        {"path": "/v1/events?x=1"},
        {"timestamp": "1000000000"},
        {"timestamp": "99999999999"},
        {"timestamp": "now"},
        {"headers": {"Content-Type": "application/cloudevents-batch+json"}},
        {"headers": {"ce-id": "1"}},
    ],
)
def test_a_forged_request_is_refused(api: Client, forged: dict[str, Any]) -> None:
    answer = api.signed("/v1/events", json.dumps(EVENT).encode(), STRUCTURED, **forged)
    assert answer.status_code == 401, answer.text
    assert SECRET not in answer.text
    assert api.published() == []


def test_a_signed_header_of_the_binary_mode_cannot_be_changed(api: Client) -> None:
    answer = api.signed("/v1/events", json.dumps(DATA).encode(), BINARY, headers={"ce-subject": "other"})
    assert answer.status_code == 401


def test_a_request_is_taken_once_whichever_process_it_is_sent_to(api: Client) -> None:
    body, when = json.dumps(EVENT).encode(), f"{time.time():.3f}"
    assert api.signed("/v1/events", body, STRUCTURED, timestamp=when).status_code == 202
    assert api.signed("/v1/events", body, STRUCTURED, timestamp=when).status_code == 409
    other = Client(api.world)
    answer = other.signed("/v1/events", body, STRUCTURED, timestamp=when)
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:ratchet:problem:replayed")
    other.outgoing.close()
    assert len(api.published()) == 1


def test_a_broken_signature_is_not_rescued_by_a_token(api: Client) -> None:
    headers = STRUCTURED | {"Ratchet-Key": "grafana"}
    assert api.post("/v1/events", json=EVENT, headers=headers).status_code == 401


def test_a_key_speaks_for_itself_and_asks_for_no_retrain(api: Client) -> None:
    for source, status in (("/monitors/grafana/eu", 202), ("/monitors/grafana2", 403), ("/monitors/evidently", 403)):
        answer = api.signed("/v1/events", json.dumps(EVENT | {"source": source}).encode(), STRUCTURED)
        assert answer.status_code == status, source
    asked = EVENT | {"type": "ratchet.retrain.requested.v1", "data": {"reason": "r", "actor": "ada"}}
    assert api.signed("/v1/events", json.dumps(asked).encode(), STRUCTURED).status_code == 403


def test_a_person_asks_for_a_retrain_as_nobody_else(api: Client) -> None:
    asked = EVENT | {"type": "ratchet.retrain.requested.v1", "data": {"reason": "r", "actor": "bea"}}
    assert api.post("/v1/events", json=asked, headers=STRUCTURED).status_code == 403
    own = asked | {"data": {"reason": "r", "actor": "ada"}}
    assert api.post("/v1/events", json=own, headers=STRUCTURED).status_code == 202


def test_data_are_announced_by_who_may_retrain_every_model(api: Client) -> None:
    arrived = EVENT | {
        "type": "ratchet.data.arrived.v1",
        "subject": "flights",
        "data": {"dataset": "flights", "complete_until": "2013-02-01T00:00:00Z", "new_rows": 1},
    }
    assert api.post("/v1/events", json=arrived, headers=STRUCTURED).status_code == 202
    api.people.only["ada"] = {"flight_delay"}
    assert api.post("/v1/events", json=EVENT, headers=STRUCTURED).status_code == 202
    assert api.post("/v1/events", json=arrived, headers=STRUCTURED).status_code == 403
    assert api.post("/v1/events", json=EVENT | {"subject": "other"}, headers=STRUCTURED).status_code == 403


def test_a_replaced_key_is_believed_without_a_restart(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(EVENT).encode()
    assert api.signed("/v1/events", body, STRUCTURED).status_code == 202
    api.ratchet.keys = {"grafana": ("n" * 32,)}
    assert api.signed("/v1/events", body, STRUCTURED, secret="n" * 32).status_code == 401
    monkeypatch.setattr(api.app.state.door.keys, "_until", 0.0)
    assert api.signed("/v1/events", body, STRUCTURED, secret="n" * 32).status_code == 202
    assert api.signed("/v1/events", body, STRUCTURED).status_code == 401


# -- how much, and Kafka -----------------------------------------------------------------------------------------------


def test_a_sender_beyond_its_rate_is_told_when_to_come_again(api: Client) -> None:
    api.app.state.door.buckets = Buckets(10)
    events = [EVENT | {"id": f"w-{n}"} for n in range(10)]
    assert api.post("/v1/events", json=events, headers=BATCH).status_code == 202
    answer = api.post("/v1/events", json=EVENT, headers=STRUCTURED)
    assert (answer.status_code, answer.json()["type"]) == (429, "urn:ratchet:problem:too-many")
    assert 1 <= int(answer.headers["retry-after"]) <= 6
    assert api.signed("/v1/events", json.dumps(EVENT).encode(), STRUCTURED).status_code == 202, "another sender may"
    assert len(api.published()) == 11


def test_a_bucket_fills_again_by_the_minute() -> None:
    clock = [0.0]
    buckets = Buckets(60, lambda: clock[0])
    assert buckets.take("a", 60) == 0
    assert buckets.take("a", 1) == 1
    assert buckets.take("a", 30) == 30
    clock[0] = 30.0
    assert buckets.take("a", 30) == 0
    clock[0] = 1_000.0
    assert buckets.take("a", 90) == 0, "a full bucket gives more than it holds once"
    assert buckets.take("a", 1) == 31
    assert Buckets(None).take("a", 10**9) == 0


class Away(InMemoryBus):
    """A broker that stores nothing until it is back."""

    back = False

    def flush(self, timeout_seconds: float = 30.0) -> None:
        if not self.back:
            raise Unavailable("no Kafka broker answers")


def test_without_kafka_nothing_is_accepted_and_the_same_again_is(api: Client) -> None:
    bus = Away()
    api.ratchet.__dict__["bus"] = bus
    answer = api.post("/v1/events", json=EVENT, headers=STRUCTURED)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "no Kafka broker answers"
    assert answer.headers["retry-after"]
    bus.back = True
    assert api.post("/v1/events", json=EVENT, headers=STRUCTURED).status_code == 202


def test_a_slow_kafka_is_not_waited_for_for_ever(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(InMemoryBus):
        def flush(self, timeout_seconds: float = 30.0) -> None:
            goes_on.wait(10)

    goes_on = threading.Event()
    api.ratchet.__dict__["bus"] = Slow()
    monkeypatch.setattr(hearing, "STORED_SECONDS", 0.1)
    assert api.post("/v1/events", json=EVENT, headers=STRUCTURED).status_code == 503
    goes_on.set()


def test_many_requests_share_one_wait_and_each_is_told_of_its_own() -> None:
    class Counting(InMemoryBus):
        flushes = 0

        def flush(self, timeout_seconds: float = 30.0) -> None:
            type(self).flushes += 1
            first.set()
            goes_on.wait(10)

    first, goes_on, bus = threading.Event(), threading.Event(), Counting()
    outgoing = Outgoing(lambda: bus)
    futures = [outgoing.submit([("ml.drift", b"k", b"0", ())])]
    first.wait(10)
    futures += [outgoing.submit([("ml.drift", b"k", str(n).encode(), ())]) for n in range(1, 20)]
    dropped = outgoing.submit([("ml.drift", b"k", b"dropped", ())])
    assert dropped.cancel()
    goes_on.set()
    outgoing.close()
    assert [future.result(0) for future in futures] == [None] * 20
    assert Counting.flushes == 2
    assert [record.value for record in bus.records("ml.drift")] == [str(n).encode() for n in range(20)]
    with pytest.raises(Unavailable):
        outgoing.submit([("ml.drift", b"k", b"late", ())])


def test_no_more_waits_than_there_is_room_for() -> None:
    goes_on = threading.Event()

    class Slow(InMemoryBus):
        def flush(self, timeout_seconds: float = 30.0) -> None:
            goes_on.wait(10)

    outgoing = Outgoing(Slow)
    one = ("ml.drift", b"k", b"v", ())
    outgoing.submit([one] * MOST_WAITING)
    with pytest.raises(Unavailable, match="wait for Kafka"):
        outgoing.submit([one])
    goes_on.set()
    outgoing.close()


# -- monitoring systems ------------------------------------------------------------------------------------------------


def test_a_webhook_is_told_as_the_documentation_says(api: Client) -> None:
    payload = next(PAYLOADS.glob("alertmanager*.json")).read_bytes()
    answer = api.post("/v1/events/alertmanager", content=payload, params={})
    assert answer.status_code == 202, answer.text
    heard = [parse(record.value, record.headers) for record in api.published()]
    assert sorted(answer.json()["accepted"]) == sorted(event.id for event in heard)
    assert heard
    assert {event.source for event in heard} == {source_of("alertmanager")}
    signed = api.signed("/v1/events/alertmanager", payload, {"Content-Type": "application/json"})
    assert signed.status_code == 202
    assert {parse(r.value, r.headers).source for r in api.published()} == {
        "/monitors/alertmanager",
        "/monitors/grafana",
    }


def test_a_payload_that_tells_nothing_readable_is_refused_with_its_place(api: Client) -> None:
    answer = api.post("/v1/events/alertmanager", content=b'{"version": "4", "alerts": [{}]}')
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"].startswith("/alerts/0")
    assert api.post("/v1/events/nagios", content=b"{}").status_code == 404
    assert api.post("/v1/events/evidently", content=b"{}", params={"window_end": "2013-01-01"}).status_code == 422
