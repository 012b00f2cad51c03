"""What whoever asks has already is not sent again, and what has changed always is: whatever the change is of."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp

from ratchet.api.conditional import Conditional
from ratchet.pages import rendering

NOW = datetime(2013, 4, 2, 4, tzinfo=UTC)
SHOWN = (
    "/models",
    "/v1/models",
    "/v1/models/flight_delay",
    "/v1/models/flight_delay/champions",
    "/v1/events",
    "/v1/attempts",
    "/v1/audit",
    "/v1/approvals",
    "/v1/dead-letters",
    "/v1/openapi.json",
)


@pytest.fixture
def standing(api, world_with_history, monkeypatch):
    """A world in which no time passes by itself, neither business time nor the pages'."""
    monkeypatch.setattr(rendering, "_now", lambda: NOW)
    with api.world.ledger.transaction() as tx:
        tx.set_clock("replay", NOW)
    return api


def asked(api: Any, path: str, tag: str, user: str = "ada") -> httpx.Response:
    return api.get(path, user, headers={"If-None-Match": tag})


@pytest.mark.parametrize("path", SHOWN)
def test_what_is_still_the_same_is_not_sent_again(standing, path: str) -> None:
    first = standing.get(path)
    again = asked(standing, path, first.headers["etag"])
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert not {"content-length", "content-type"} & set(again.headers)
    for name in ("cache-control", "content-security-policy", "x-content-type-options"):
        assert again.headers[name] == first.headers[name]


def arrives(api: Any) -> None:
    api.world.drift(NOW, severity=0.9)


def is_decided(api: Any) -> None:
    api.world.drift(NOW, severity=0.9)
    api.world.intake.tick()


def is_promoted(api: Any) -> None:
    api.world.crown(2)


def is_retired(api: Any) -> None:
    with api.world.ledger.transaction() as tx:
        tx.retire("flight_delay")


def has_failed(api: Any) -> None:
    with api.world.ledger.transaction() as tx:
        tx.update_attempt(tx.attempts()[0].id, state="failed", failure="why")


def a_day_passes(api: Any) -> None:
    with api.world.ledger.transaction() as tx:
        tx.set_clock("replay", NOW + timedelta(days=1))


def may_no_longer_be_seen(api: Any) -> None:
    api.people.only["ada"] = set()


CHANGES = (arrives, is_decided, is_promoted, is_retired, has_failed, a_day_passes, may_no_longer_be_seen)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_anything_that_is_shown_is_sent(standing, change: Any) -> None:
    paths = [path for path in SHOWN if "{" not in path]
    before = {path: standing.get(path) for path in paths}
    change(standing)
    sent = []
    for path in paths:
        again, now = asked(standing, path, before[path].headers["etag"]), standing.get(path)
        same = now.status_code == 200 and now.content == before[path].content
        assert (again.status_code == 304) is same, path
        assert same or again.content == now.content, path
        sent += [] if same else [path]
    assert sent, "the change must be seen somewhere, or this test proves nothing"
    assert "/v1/openapi.json" not in sent


def test_an_age_in_words_is_sent_when_it_changes_though_nothing_was_written(standing, monkeypatch) -> None:
    environment = rendering.environment()
    template = environment.from_string("{{ at | ago(now) }}")
    told = {"at": NOW - timedelta(hours=3)}
    bodies = iter([template.render(told, now=NOW + timedelta(minutes=minutes)) for minutes in (0, 1, 61)])

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse(next(bodies))(scope, receive, send)

    first = get(Conditional(page))
    tag = {"If-None-Match": first.headers["etag"]}
    # The same page, asked for a minute later and more than an hour later.
    assert get(Conditional(page), tag).status_code == 304
    assert get(Conditional(page), tag).text == "4 hours ago"


def test_what_another_person_sees_is_theirs(standing) -> None:
    mine = standing.get("/v1/models", "ada")
    standing.people.only["vic"] = set()
    assert asked(standing, "/v1/models", mine.headers["etag"], "vic").json() == {"items": [], "next": None}


def test_a_tag_opens_no_door(standing) -> None:
    tag = standing.get("/v1/models").headers["etag"]
    assert standing.get("/v1/models", None, headers={"If-None-Match": tag}).status_code == 401
    assert standing.get("/v1/models/none", headers={"If-None-Match": "*"}).status_code == 404


def test_an_error_and_an_act_have_no_tag(standing) -> None:
    assert "etag" not in standing.get("/v1/models/none").headers
    made = standing.post("/v1/models/flight_delay/retrain", json={"reason": "r"}, headers={"If-None-Match": "*"})
    assert (made.status_code, "etag" in made.headers) == (202, False)


@pytest.mark.parametrize("had", ['"x", {}', '{},"y"', "*", "{}"])
def test_any_of_the_tags_that_are_given_counts(had: str) -> None:
    app = Conditional(PlainTextResponse("a"))
    tag = get(app).headers["etag"]
    assert tag.startswith('W/"')
    for form in (tag, tag.removeprefix("W/")):
        assert get(app, {"If-None-Match": had.format(form)}).status_code == 304
    assert get(app, {"If-None-Match": '"x", W/"y"'}).text == "a"


def test_what_is_streamed_goes_by_and_what_tags_itself_keeps_its_tag() -> None:
    async def parts() -> Any:
        for part in ("a", "b"):
            yield part

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(parts())(scope, receive, send)

    seen = get(Conditional(stream), {"If-None-Match": "*"})
    assert (seen.status_code, seen.text, "etag" in seen.headers) == (200, "ab", False)
    own = Conditional(PlainTextResponse("a", headers={"ETag": '"mine"'}))
    for had, status in (('"mine"', 304), ('"other"', 200)):
        seen = get(own, {"If-None-Match": had})
        assert (seen.status_code, seen.headers["etag"]) == (status, '"mine"')


def get(app: ASGIApp, headers: dict[str, str] | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x.test") as client:
            return await client.get("/", headers=headers)

    return asyncio.run(ask())
