"""What holds for every page, those to come too: no stranger, no other site's form, nothing of others' that runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from api_worlds import VALUES, Client, filled
from fastapi.routing import APIRoute
from judged_attempts import JudgingWorld
from test_api_acts import APRIL, awaited

from ratchet.api.app import PREFIX
from ratchet.domain.events import DriftDetected, PerformanceDegraded, RetrainRequested, new_event, to_record
from ratchet.domain.spec import ModelSpec
from ratchet.records import RunContext

PUBLIC = {"/", "/static/{name}"}
"""Where to begin, and our own files: they tell nothing of anybody."""
SCRIPT = "<script>alert(document.cookie)</script>"
BREAKOUT = f"'\"><img src=x onerror=alert(1)>{SCRIPT}"
ADDRESS = "javascript:alert(document.cookie)"
SCHEMES = {"", "http", "https", "mailto"}
LINKS = {"href", "src", "action", "formaction", "xlink:href", "poster", "data", "hx-get", "hx-post"}
EVENTS = 4
"""Of each world's first event numbers, pages are asked for."""


def routes(api: Client) -> list[APIRoute]:
    found = [route for route in api.app.routes if isinstance(route, APIRoute)]
    assert len(found) == len(api.app.routes), "a route that is none of ours is public"
    return [route for route in found if route.path not in PUBLIC]


def pages(api: Client) -> list[APIRoute]:
    return [route for route in routes(api) if not route.path.startswith("/v1/")]


# -- who -------------------------------------------------------------------------------------------------------------


def test_nobody_unknown_gets_a_page_and_is_led_to_the_login(api: Client) -> None:
    assert pages(api)
    for route in pages(api):
        for method in route.methods:
            for user in (None, "stranger"):
                answer = api.ask(method, filled(route.path, VALUES), user)
                assert answer.status_code == 401, (method, route.path)
                assert "/auth/login?next=" in answer.text, (method, route.path)


def test_reading_changes_nothing_so_that_no_link_can(api: Client) -> None:
    for route in pages(api):
        assert route.methods <= {"GET", "HEAD", "POST"}, route.path


def test_no_change_is_made_for_another_sites_page_with_ones_cookie(api: Client) -> None:
    """Every route that is no reading; of the API, too."""
    api.world.crown(1)
    evil = {"Cookie": "_token=ada", "Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"}
    changing = [(route, method) for route in routes(api) for method in route.methods - {"GET", "HEAD"}]
    assert len(changing) > 10
    for route, method in changing:
        for headers in (evil, {"Cookie": "_token=ada"}, evil | {"Origin": "null"}):
            answer = api.ask(method, filled(route.path, VALUES), None, data={"reason": "r"}, headers=headers)
            assert answer.status_code == 403, (method, route.path, answer.status_code)
    with api.world.ledger.transaction() as tx:
        assert [entry["actor"] for entry in tx.audit_log() if entry["actor"] == "ada"] == []
    assert api.people.started == []
    assert api.published() == []


# -- what others wrote -------------------------------------------------------------------------------------------------


class Seen(HTMLParser):
    """What a browser would run, load or follow."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.harm: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        own = (told.get("src") or "").startswith(f"{PREFIX}/static/")
        if (tag == "script" and not own) or tag in {"style", "iframe", "object", "embed", "base"}:
            self.harm.append(f"<{tag}>")
        for name, value in told.items():
            if name.startswith("on") or name in {"style", "srcdoc"}:
                self.harm.append(f"{tag} {name}")
            if name in LINKS and not harmless(value or ""):
                self.harm.append(f"{tag} {name}={value}")
            if name == "src" and not (value or "").startswith(f"{PREFIX}/"):
                self.harm.append(f"{tag} {name}={value}")


def harmless(address: str) -> bool:
    """Whether an address leads to a page: browsers pass over blanks and control characters before the scheme."""
    return urlsplit(re.sub(r"[\x00-\x20]", "", address)).scheme.lower() in SCHEMES


def poisoned(api: Client) -> str:
    """A world in which each text that somebody outside may write is a script; returns an attempt that waits."""
    world = api.world
    attempt = awaited(api)
    document = world.spec.model_dump(mode="json")
    document["business"]["goal"] = BREAKOUT
    document["owner"] |= {"team": BREAKOUT, "escalation": f"{SCRIPT}@example.com"}
    spec = ModelSpec.model_validate(document)
    start, end = APRIL - timedelta(days=1), APRIL
    told = [
        DriftDetected(
            check=BREAKOUT, severity=0.7, window_start=start, window_end=end, feature=SCRIPT, evidence_uri=ADDRESS
        ),
        PerformanceDegraded(metric=SCRIPT, value=1.0, threshold=2.0, window_end=end, evidence_uri=f" {ADDRESS}"),
        RetrainRequested(reason=BREAKOUT, actor=SCRIPT),
    ]
    for number, data in enumerate(told):
        event = new_event(data, id=f"{SCRIPT}{number}", source=f"/{BREAKOUT}", subject=world.model, time=end)
        _, value, headers = to_record(event)
        world.intake.store([world.raw(value, headers)])
    world.intake.store([world.raw(SCRIPT.encode()), world.raw(f'{{"specversion": "1.0", "id": "{SCRIPT}"}}'.encode())])
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, spec.digest, spec.model_dump(mode="json"))
        tx.audit(SCRIPT, "clock.set", world.model, {"reason": BREAKOUT, SCRIPT: ADDRESS})
        tx.audit(SCRIPT, "champion.rolledback", None, {"reason": BREAKOUT})
        row = tx.attempt(attempt)
        assert row is not None
        record = dict(row.verdict_record or {}) | {"unit": SCRIPT, "reasons": [BREAKOUT], "checks": [check()]}
        tx.update_attempt(attempt, verdict_record=record)
    api.post(f"/v1/models/{world.model}/retrain", json={"reason": BREAKOUT})
    world.relay.publish()
    return attempt


def check() -> dict[str, Any]:
    return {
        "metric": SCRIPT,
        "slice": BREAKOUT,
        "champion": 1.0,
        "challenger": 2.0,
        "required": SCRIPT,
        "passed": True,
        "detail": BREAKOUT,
    }


def addresses(api: Client, attempt: str) -> Iterator[str]:
    """Each page about what there is, about what there is not, and with a script for each word that one may ask with."""
    known = VALUES | {"attempt": attempt}
    for route in pages(api):
        if "GET" not in route.methods:
            continue
        for number in range(1, EVENTS + 1) if "{number}" in route.path else (1,):
            yield filled(route.path, known | {"number": str(number)})
        if "{" in route.path:
            yield filled(route.path, dict.fromkeys(VALUES, BREAKOUT))
        asked = "&".join(f"{each.alias}={quote(BREAKOUT)}" for each in route.dependant.query_params)
        yield f"{filled(route.path, known)}?{asked or f'version={quote(BREAKOUT)}'}"
        yield f"{filled(route.path, known)}?record={quote(BREAKOUT)}&back={quote(ADDRESS)}&next={quote(ADDRESS)}"


def test_what_others_wrote_is_text_on_every_page_and_nothing_that_runs_or_leads_away(api: Client) -> None:
    attempt, told = poisoned(api), 0
    seen = list(addresses(api, attempt))
    assert seen
    for address in seen:
        answer = api.get(address)
        assert answer.status_code != 500, (address, answer.text)
        assert answer.headers["content-type"] in {"text/html; charset=utf-8", "image/svg+xml"}, address
        assert Seen(answer.text).harm == [], address
        assert SCRIPT not in answer.text, address
        told += "&lt;script&gt;" in answer.text
    assert told, "no page shows any of it: nothing was tested"


@pytest.fixture
def judged(tmp_path: Path, empty_ledger: Path) -> Iterator[Client]:
    """An attempt that was really judged, with a dossier, by somebody and by events with scripts for names."""
    world = JudgingWorld(tmp_path, empty_ledger)
    client = Client(world)
    until = datetime(2013, 3, 25, tzinfo=UTC)
    with world.ledger.transaction() as tx:
        for dataset in world.spec.datasets:
            tx.advance_watermark(dataset, until, 1.0)
        tx.set_clock("replay", until)
    event = new_event(
        RetrainRequested(reason=BREAKOUT, actor=SCRIPT), id=SCRIPT, source=SCRIPT, subject=world.model, time=until
    )
    _, value, headers = to_record(event)
    world.intake.store([world.raw(value, headers)])
    asked = {"reason": BREAKOUT, "first_champion": True}
    run = RunContext("retrain__flight_delay", f"run{SCRIPT}", "manual", SCRIPT, asked)
    attempt = str(world.claims.claim(world.model, run)["attempt"])
    world.attempts.snapshot(attempt)
    for worker in world.attempts.plan_tuning(attempt):
        world.attempts.tune(worker["attempt"], worker["worker"])
    world.attempts.judge(attempt)
    world.promotions.promote(world.model)
    assert world.attempt(attempt).dossier_sha256
    yield client
    client.outgoing.close()
    world.ledger.dispose()


def test_what_others_wrote_into_a_dossier_is_text(judged: Client) -> None:
    for address in [*addresses(judged, "flight_delay.1"), *addresses(judged, "flight_delay@1")]:
        answer = judged.get(address)
        assert answer.status_code != 500, (address, answer.text)
        assert Seen(answer.text).harm == [], address
        assert SCRIPT not in answer.text, address


def test_what_was_written_into_a_form_comes_back_as_text(api: Client) -> None:
    attempt = poisoned(api)
    known = VALUES | {"attempt": attempt}
    forms = [route for route in pages(api) if "POST" in route.methods]
    assert forms
    for route in forms:
        names = ("reason", "record", "reason_contains", "trials", "version", "since", "fates", "until", "window_end")
        answer = api.post(filled(route.path, known), data=dict.fromkeys(names, BREAKOUT) | {"reason": f"  {BREAKOUT}"})
        assert Seen(answer.text).harm == [], route.path
        assert SCRIPT not in answer.text, route.path


def test_every_page_says_that_nothing_but_our_own_files_may_run(api: Client) -> None:
    attempt = poisoned(api)
    for address in addresses(api, attempt):
        for user in ("ada", "vic", "nob", None):
            policy = api.get(address, user).headers["content-security-policy"]
            rules = {name: set(rest) for name, *rest in (rule.split() for rule in policy.split(";"))}
            assert rules["default-src"] == {"'none'"}, address
            assert rules["script-src"] == {"'self'"}, address
            assert rules["style-src"] == {"'self'"}, address
            assert rules["form-action"] == {"'self'"}, address
            assert rules["base-uri"] == {"'none'"}, address
            assert "unsafe" not in policy, address


@pytest.mark.parametrize(
    "page", [SCRIPT, f"<p title={BREAKOUT}>", f'<a href="{ADDRESS}">', '<a href=" java\tscript:x">']
)
def test_the_eye_of_these_tests_sees_harm(page: str) -> None:
    assert Seen(page).harm
