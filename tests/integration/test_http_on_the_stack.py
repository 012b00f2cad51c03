"""Over HTTP on the running system: Airflow serves it, Kafka stores what is told, the inbox says what became of it."""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest
from running_system import MODEL, System

from ratchet.domain.signing import SignedRequest, sign

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

API = "/ratchet/v1"
SECRET = uuid.uuid4().hex
STRUCTURED = {"Content-Type": "application/cloudevents+json"}


def drift(system: System, source: str) -> dict[str, Any]:
    """An event that is too mild to start anything."""
    now = system.now()
    window = {"window_start": (now - timedelta(days=1)).isoformat(), "window_end": now.isoformat()}
    return {
        "specversion": "1.0",
        "id": f"http-{uuid.uuid4().hex[:12]}",
        "source": source,
        "type": "ratchet.drift.detected.v1",
        "subject": MODEL,
        "time": now.isoformat(),
        "data": {"check": "http", "severity": 0.01} | window,
    }


def became(system: System, client: httpx.Client, event_id: str) -> dict[str, Any]:
    """What the API says of the event, as soon as it was decided on."""

    def look() -> dict[str, Any] | None:
        rows = client.get(f"{API}/events", params={"id": event_id}).json()["items"]
        assert len(rows) <= 1
        return rows[0] if rows and rows[0]["reason"] != "received" else None

    return system.until(f"{event_id} to be decided on", look)


def signed(system: System, body: bytes, timestamp: str, secret: str = SECRET) -> httpx.Response:
    request = SignedRequest(timestamp, "POST", "/v1/events", tuple(STRUCTURED.items()), body)
    headers = {"Ratchet-Key": "grafana", "Ratchet-Timestamp": timestamp, "Ratchet-Signature": sign(secret, request)}
    url = f"{system.ratchet.settings.airflow_url}{API}/events"
    return httpx.post(url, content=body, headers=STRUCTURED | headers, timeout=30)


def test_an_event_by_a_token_reaches_the_inbox_and_has_a_fate(running: System) -> None:
    client = running.airflow("ursula").client
    event = drift(running, "/monitors/http")
    answer = client.post(f"{API}/events", content=json.dumps(event), headers=STRUCTURED)
    assert (answer.status_code, answer.json()) == (202, {"accepted": [event["id"]]}), answer.text
    row = became(running, client, event["id"])
    assert row["fate"] == "suppressed", row
    history = client.get(f"{API}/events/{row['number']}").json()
    assert [fate["fate"] for fate in history["fates"]] == ["pending", "suppressed"]
    assert history["record"].startswith("ml.drift:")
    anonymous = httpx.post(f"{running.ratchet.settings.airflow_url}{API}/events", json=event, timeout=30)
    assert anonymous.status_code == 401


def test_a_key_from_airflows_own_connections_signs_once(running: System) -> None:
    connection = {"connection_id": "ratchet_http_keys", "conn_type": "generic"}
    made = running.airflow().client.post(
        "/api/v2/connections", json=connection | {"extra": json.dumps({"grafana": SECRET})}
    )
    assert made.status_code == 201, made.text
    event = drift(running, "/monitors/grafana")
    body = json.dumps(event).encode()
    # Keys are asked for every half a minute.
    accepted = running.until(
        "the key to be known",
        lambda: answer if (answer := signed(running, body, f"{time.time():.3f}")).status_code != 401 else None,
        every=3.0,
    )
    assert accepted.status_code == 202, accepted.text
    assert became(running, running.airflow().client, event["id"])["source"] == "/monitors/grafana"
    now = f"{time.time():.3f}"
    assert [signed(running, body, now).status_code for _ in range(2)] == [202, 409]
    assert signed(running, body, f"{time.time():.3f}", secret="x" * 32).status_code == 401
    assert signed(running, body, f"{time.time() - 3600:.3f}").status_code == 401


def test_a_viewer_sees_everything_and_takes_no_champion_back(running: System) -> None:
    viewer = running.airflow("vic").client
    assert MODEL in [row["model"] for row in viewer.get(f"{API}/models").json()["items"]]
    assert viewer.get(f"{API}/models/{MODEL}").json()["owner"]["team"]
    for act in ("rollback", "retrain"):
        answer = viewer.post(f"{API}/models/{MODEL}/{act}", json={"reason": "a viewer may not"})
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:ratchet:problem:forbidden"), answer.text
    assert "a viewer may not" not in json.dumps(viewer.get(f"{API}/audit").json())


def test_a_run_that_a_user_starts_by_its_form_is_that_users_run(system: System) -> None:
    system.fresh_days()
    client = system.airflow("ursula").client
    asked = {"reason": "a look over HTTP", "dry_run": True, "trials": 1}
    answer = client.post(f"{API}/models/{MODEL}/runs", json=asked)
    assert answer.status_code == 201, answer.text
    started = answer.json()
    assert system.run_ends(started["dag_id"], started["run_id"]) == "success"
    attempts = client.get(f"{API}/attempts", params={"model": MODEL}).json()["items"]
    (mine,) = [each for each in attempts if each["dag_run_id"] == started["run_id"]]
    assert (mine["actor"], mine["reason"], mine["dry_run"]) == ("ursula", "dry run: a look over HTTP", True)


def test_a_retrain_that_a_user_asks_for_is_an_event_in_that_users_name(running: System) -> None:
    client = running.airflow("ursula").client
    answer = client.post(f"{API}/models/{MODEL}/retrain", json={"reason": "asked for over HTTP"})
    assert answer.status_code == 202, answer.text
    row = became(running, client, answer.json()["id"])
    assert (row["source"], row["data"]["actor"], row["data"]["reason"]) == (
        "/ratchet/api",
        "ursula",
        "asked for over HTTP",
    )
    entries = client.get(f"{API}/audit", params={"action": "retrain.requested"}).json()["items"]
    assert [(entry["actor"], entry["detail"]["via"]) for entry in entries] == [("ursula", "api")]
