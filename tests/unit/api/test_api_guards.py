"""Who may pass: no route without a guard, no anonymous request, no viewer's act, no other site's page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from api_worlds import VALUES, Client, People, filled
from fastapi.routing import APIRoute

from ratchet.api import door
from ratchet.domain.events import DriftDetected

CHANGES = [
    ("/v1/models/flight_delay/retrain", {"reason": "new routes"}),
    ("/v1/models/flight_delay/rollback", {"reason": "worse"}),
    ("/v1/models/flight_delay/snooze", {"reason": "labels are being mended", "for": "3d"}),
    ("/v1/models/flight_delay/wake", {"reason": "mended"}),
    ("/v1/models/flight_delay/replay", {"reason": "mended", "since": "2013-01-01T00:00:00Z"}),
    ("/v1/attempts/flight_delay.1/approve", {"reason": "fine"}),
    ("/v1/attempts/flight_delay.1/reject", {"reason": "not fine"}),
    ("/v1/dead-letters/replay", {"reason": "mended"}),
]
DRIFT = {
    "specversion": "1.0",
    "id": "w-1",
    "source": "/monitors/weather",
    "type": "ratchet.drift.detected.v1",
    "subject": "flight_delay",
    "time": "2013-01-02T00:00:00Z",
    "data": {
        "check": "psi",
        "severity": 0.7,
        "window_start": "2013-01-01T00:00:00Z",
        "window_end": "2013-01-02T00:00:00Z",
    },
}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
PUBLIC = {"/", "/static/{name}"}
"""Where to begin, and our own files: they tell nothing of anybody."""


def depends_on(dependant: Any) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from depends_on(each)


def routes(api: Client) -> list[APIRoute]:
    found = list(api.app.routes)
    assert all(isinstance(route, APIRoute) for route in found), "a route that is none of ours is public"
    return [route for route in found if route.path not in PUBLIC]  # type: ignore[attr-defined]


def test_every_route_asks_who_it_is(api: Client) -> None:
    for route in routes(api):
        guards = set(depends_on(route.dependant)) & {door.person, door.sender, door.scraper}
        assert len(guards) == 1, f"{route.path} has no guard"
        assert route.path.startswith("/v1/") == route.include_in_schema, "described is the API, all of it"


def test_every_route_refuses_whoever_is_not_known(api: Client) -> None:
    for route in routes(api):
        for method in route.methods:
            for user in (None, "stranger"):
                path = filled(route.path, VALUES)
                answer = api.ask(method, path, user, json={"reason": "r", "since": "2013-01-01T00:00:00Z"})
                assert answer.status_code == 401, (method, path)
                shown = "application/problem+json" if path.startswith("/v1/") else "text/html; charset=utf-8"
                assert answer.headers["content-type"] == shown
                assert path.startswith("/v1/") == (answer.headers.get("www-authenticate") == "Bearer")


@pytest.mark.parametrize(("path", "body"), CHANGES)
def test_a_viewer_changes_nothing(api: Client, path: str, body: dict[str, Any]) -> None:
    api.world.crown(1)
    api.world.crown(2)
    api.world.arrive(datetime(2013, 4, 1, 4, tzinfo=UTC))
    claimed = api.world.claim()
    assert claimed["attempt"], claimed
    answer = api.post(path.replace("flight_delay.1", claimed["attempt"]), "vic", json=body)
    assert answer.status_code == 403, answer.text
    assert answer.json()["type"] == "urn:ratchet:problem:forbidden"
    assert api.audited("champion") == api.audited("retrain") == api.audited("approval") == api.audited("events") == []
    assert api.audited("model") == []


def test_a_viewer_tells_no_event(api: Client) -> None:
    assert api.post("/v1/events", "vic", json=DRIFT, headers=STRUCTURED).status_code == 403
    assert api.published() == []


def test_who_may_not_see_a_model_is_told_nothing_of_it(api: Client) -> None:
    api.world.drift(datetime(2013, 1, 2, tzinfo=UTC))
    api.people.only["ada"] = {"another"}
    assert api.get("/v1/models").json()["items"] == []
    assert api.get("/v1/events").json()["items"] == []
    assert api.get("/v1/models/flight_delay").status_code == 403
    assert api.get("/v1/models/nothing").status_code == 403, "nor whether it is there"
    assert api.get("/v1/events/1").status_code == 404
    assert api.get("/v1/dead-letters").status_code == 403
    assert api.post("/v1/models/flight_delay/retrain", json={"reason": "r"}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "https://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://airflow.test"}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Authorization": "Basic YTpi"}, 403),
        ({"Authorization": "Bearer  "}, 403),
    ],
)
def test_a_cookie_changes_something_from_our_own_pages_alone(api: Client, headers: dict[str, str], status: int) -> None:
    cookie = {"Cookie": "_token=ada"}
    answer = api.post("/v1/models/flight_delay/retrain", None, json={"reason": "r"}, headers=cookie | headers)
    assert answer.status_code == status, answer.text
    assert len(api.audited("retrain")) == (status == 202)
    told = api.post("/v1/events", None, json=DRIFT, headers=cookie | headers | STRUCTURED)
    assert told.status_code == status


def test_a_form_of_another_site_is_no_event_even_with_a_token(api: Client) -> None:
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain"):
        assert api.post("/v1/events", json=DRIFT, headers={"Content-Type": kind}).status_code == 415
        body = {"content": b'{"reason": "r"}', "headers": {"Content-Type": kind}}
        assert api.post("/v1/models/flight_delay/retrain", **body).status_code == 422
    assert api.audited("retrain") == []


def test_a_cookie_reads_without_saying_where_it_comes_from(api: Client) -> None:
    assert api.get("/v1/models", None, headers={"Cookie": "_token=vic"}).status_code == 200


def test_script_in_an_event_is_data_that_no_browser_runs(api: Client) -> None:
    evil = "<script>alert(document.cookie)</script>"
    data = DriftDetected(
        check=evil,
        severity=0.7,
        window_start=datetime(2013, 1, 1, tzinfo=UTC),
        window_end=datetime(2013, 1, 2, tzinfo=UTC),
    )
    api.world.publish(data, "flight_delay", datetime(2013, 1, 2, tzinfo=UTC), evil)
    answers = [
        api.get("/v1/events"),
        api.get("/v1/events/1"),
        api.get(f"/v1/models/{evil}/champions"),
        api.get("/v1/events", params={"cursor": evil}),
        api.get("/v1/nothing", params={"x": evil}),
    ]
    assert answers[0].json()["items"][0]["data"]["check"] == evil
    for answer in answers:
        assert answer.headers["content-type"].split(";")[0] in {"application/json", "application/problem+json"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


def test_a_fault_of_ours_says_nothing_of_itself_and_is_guarded_too(api: Client, monkeypatch: Any) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(People, "allowed", broken)
    answer = api.get("/v1/models")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/v1/models/flight_delay/retrain", "/v1/events"])
def test_what_is_too_large_is_not_read(api: Client, path: str) -> None:
    async def endless() -> Any:
        for _ in range(10_000):
            sent.append(1)
            yield b" " * 65_536

    sent: list[int] = []
    answer = api.post(path, content=b" " * 9_000_000, headers=STRUCTURED)
    assert answer.status_code == 413, answer.text
    answer = api.post(path, content=endless(), headers={"Content-Type": "application/json", "ce-id": "1"})
    assert answer.status_code == 413
    assert len(sent) < 200
