"""The pages by themselves: who gets one, what it goes out with, what an error looks like."""

from __future__ import annotations

import pytest

from ratchet.pages import rendering


def test_who_is_known_sees_the_models(api) -> None:
    api.world.crown(1)
    seen = api.get("/models")
    assert (seen.status_code, seen.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert 'href="/ratchet/models/flight_delay"' in seen.text
    assert "version 1" in seen.text


def test_who_may_see_nothing_is_told_what_to_do(api) -> None:
    assert "ratchet new" in api.get("/models", "nob").text


def test_nobody_known_is_led_to_the_login(api) -> None:
    seen = api.get("/models", None)
    assert seen.status_code == 401
    assert "/auth/login?next=http%3A%2F%2Fairflow.test%2Fratchet%2Fmodels" in seen.text


def test_a_page_may_run_and_load_what_is_ours_only(api) -> None:
    for path, user in (("/models", "ada"), ("/models", None), ("/nowhere", "ada")):
        policy = api.get(path, user).headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'self'" in policy


def test_an_error_of_the_api_stays_a_problem_document(api) -> None:
    assert api.get("/v1/models/none").headers["content-type"] == "application/problem+json"
    assert api.get("/nowhere").headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("name", sorted(path.name for path in rendering.STATIC.iterdir()))
def test_our_files_are_kept_for_good_and_never_sniffed(api, name: str) -> None:
    seen = api.get(f"/static/{name}", None)
    assert seen.status_code == 200
    assert seen.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert seen.headers["x-content-type-options"] == "nosniff"


def test_no_other_file_is_ours(api) -> None:
    assert api.get("/static/..%2Frendering.py", None).status_code == 404
    assert api.get("/static/passwd", None).status_code == 404
