"""What the bench of the API and the pages asks for, and how it counts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "/ratchet/models": '<a href="/ratchet/models/a">a</a> <a href="/ratchet/models/b">b</a> <a href="/dags">all</a>',
    "/ratchet/models/a": '<a href="/ratchet/attempts/a.1">1</a> <a href="/ratchet/events?model=a&amp;x=1">events</a>',
    "/ratchet/attempts/a.1": '<a href="/ratchet/attempts/b.7">7</a> <a href="/ratchet/models/a/retrain">retrain</a>',
    "/ratchet/models/a/retrain": '<link href="/ratchet/static/x.css"> <a href="https://else.test/ratchet/models">x</a>',
    "/ratchet/events": '<a href="/ratchet/events/12">12</a> <a href="/ratchet/events/13">13</a>',
    "/ratchet/events/12": "",
}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.web")


def test_one_of_each_kind_of_page_is_asked_for_and_nothing_else(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if (html := PAGES.get(request.url.path)) is None:
            return httpx.Response(404, html="")
        return httpx.Response(200, html=html)

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://airflow.test") as client:
        assert sorted(web.page_paths(client, ["a", "b"])) == sorted(PAGES)
        monkeypatch.setattr(sys.modules[__name__], "PAGES", {})
        assert web.page_paths(client, ["a", "b"]) == []


def test_every_route_of_the_api_is_asked_for_whatever_is_added_to_it(web: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        items = [{"number": 12, "id": "a.1"}]
        return httpx.Response(200, json={"items": items, "next": "MTI="})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://airflow.test") as client:
        asked = [path.partition("?")[0] for path in web.api_paths(client, "a")]
    routes = [path for path, methods in web.document()["paths"].items() if "get" in methods]
    for path in routes:
        filled = path.replace("{model}", "a").replace("{attempt}", "a.1").replace("{number}", "12")
        assert f"/ratchet{filled}" in asked
    assert not [path for path in asked if "{" in path]


def test_the_95th_percentile_is_a_value_that_was_measured(web: Any) -> None:
    assert web.p95([float(value) for value in range(1, 101)]) == 95.0
    assert web.p95([3.0, 1.0]) == 3.0
    assert web.p95([1.0]) == 1.0


def test_a_row_keeps_to_its_goal(web: Any) -> None:
    assert web.row("a", "b", 99.0, 198.0, "ms", 100.0)["met"] is True
    assert web.row("a", "b", 100.0, None, "ms", 100.0)["met"] is False
    assert web.row("a", "b", 2.0, 3.0, "ms", None)["ratio"] == 1.5
