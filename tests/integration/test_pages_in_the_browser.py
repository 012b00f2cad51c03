"""What people see and do in a browser: logged in by Airflow's own page, in its frame, light, dark, on a telephone.

A story is followed on pages that stay open: an event arrives, an attempt answers it, a person approves, the champion
changes, another person takes it back, and the audit log has both. Everything is awaited by what the pages show.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from browser import MODES, PICTURES, Visitor, launch
from playwright.sync_api import Browser, FrameLocator, Locator, Page, expect, sync_playwright
from running_system import PATIENCE_SECONDS, FirstChampion, System
from small_model import SHOWN
from upsets import crown

from ratchet.domain.events import DriftDetected, RetrainRequested
from ratchet.pages.app import PAGES
from ratchet.ports.ledger import AWAITING_APPROVAL, AttemptRow, EventRow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

VIEWER, OPERATOR, ADMIN = "vic", "olga", "admin"
WHILE_IT_WORKS = PATIENCE_SECONDS * 1000
"""Bounds, in milliseconds, what an attempt takes, and the first act of an api-server, which loads what it needs."""
FRAME = "iframe[title=Models]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Without one these tests are skipped; where ``CI`` is set they fail."""
    for old in PICTURES.glob("*.png"):
        old.unlink()
    with sync_playwright() as playwright:
        try:
            yield launch(playwright)
        except LookupError as missing:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))


@pytest.fixture(scope="module")
def people(running: System, browser: Browser) -> dict[str, Visitor]:
    """Everybody, logged in."""
    url, passwords = running.ratchet.settings.airflow_url, running.ratchet.settings.home / "secrets.json"
    known = json.loads(passwords.read_text())
    return {name: Visitor.of(browser, url, name, known[name]) for name in (VIEWER, OPERATOR, ADMIN)}


@pytest.fixture
def viewer(people: dict[str, Visitor]) -> Visitor:
    return people[VIEWER]


@pytest.fixture
def operator(people: dict[str, Visitor]) -> Visitor:
    return people[OPERATOR]


@pytest.fixture
def admin(people: dict[str, Visitor]) -> Visitor:
    return people[ADMIN]


@pytest.fixture(autouse=True)
def complaints(request: pytest.FixtureRequest, people: dict[str, Visitor]) -> Iterator[None]:
    """No page writes an error to the console, breaks its own policy or fails to load; a failure is pictured."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for name, visitor in people.items():
            visitor.picture(f"failed-{request.node.name}-{name}")
    told = {name: visitor.complaints[:] for name, visitor in people.items() if visitor.complaints}
    for visitor in people.values():
        visitor.complaints.clear()
    assert not told


@pytest.fixture(scope="module")
def shown(running: System, first_champion: FirstChampion | None) -> System:
    """A model with a champion, and days that no verdict has taken."""
    del first_champion
    running.rest()
    running.fresh_days()
    crown(running, SHOWN)
    return running


def framed(visitor: Visitor, path: str) -> FrameLocator:
    """One of our pages as Airflow shows it."""
    visitor.page.goto(f"/plugin/ratchet/ratchet{path}")
    inside = visitor.page.frame_locator(FRAME)
    expect(inside.get_by_role("heading", level=1)).to_be_visible()
    return inside


def events_of(system: System) -> list[EventRow]:
    with system.ratchet.ledger.transaction() as tx:
        return tx.events(model=SHOWN)


def version_serving(system: System) -> int:
    with system.ratchet.ledger.transaction() as tx:
        champion = tx.current_champion(SHOWN)
    assert champion is not None
    return champion.version


# -- in Airflow --------------------------------------------------------------------------------------------------------


def test_airflow_leads_to_the_models(shown: System, viewer: Visitor) -> None:
    viewer.page.goto("/")
    viewer.page.get_by_role("link", name="Models", exact=True).click()
    expect(viewer.page).to_have_url(f"{viewer.url}/plugin/ratchet/ratchet/models")
    inside = viewer.page.frame_locator(FRAME)
    expect(inside.get_by_role("heading", level=1)).to_have_text("Models")
    inside.get_by_role("link", name=SHOWN, exact=True).click()
    expect(inside.get_by_role("heading", level=1)).to_have_text(SHOWN)


@pytest.mark.parametrize("mode", MODES)
def test_the_pages_are_light_or_dark_as_airflow_is(shown: System, viewer: Visitor, mode: str) -> None:
    inside = framed(viewer, "/models")
    viewer.page.get_by_role("button", name="User").click()
    viewer.page.get_by_role("menuitem", name="Appearance").click()
    viewer.page.get_by_role("menuitemradio", name=f"{mode} Mode").click()
    expect(viewer.page.locator("html")).to_have_class(mode)
    expect(inside.locator("html")).to_have_css("color-scheme", mode)
    viewer.picture(f"airflow-models-{mode}")
    viewer.page.emulate_media(color_scheme="dark" if mode == "light" else "light")
    viewer.page.reload()
    expect(inside.locator("html")).to_have_css("color-scheme", mode)
    viewer.page.emulate_media(color_scheme="light")


def test_a_dag_leads_to_its_model(shown: System, viewer: Visitor) -> None:
    viewer.page.goto(f"/dags/retrain__{SHOWN}")
    viewer.page.get_by_role("link", name="Model", exact=True).click()
    inside = viewer.page.frame_locator("iframe[title=Model]")
    expect(inside.get_by_role("heading", level=1)).to_have_text(SHOWN)
    viewer.picture("airflow-dag")


def test_what_lies_elsewhere_opens_beside_airflow(shown: System, viewer: Visitor) -> None:
    day, there = shown.now(), "https://monitor.example/report"
    told = DriftDetected(
        check="psi", severity=0.01, window_start=day - timedelta(days=1), window_end=day, evidence_uri=there
    )
    event_id = shown.publish(told, SHOWN)
    event = shown.until("the event", lambda: next((e for e in events_of(shown) if e.event_id == event_id), None))
    viewer.page.context.route(f"{there}**", lambda route: route.fulfill(body="a report"))
    inside = framed(viewer, f"/events/{event.pk}")
    with viewer.page.context.expect_page() as opened:
        inside.get_by_role("link", name=there).click()
    assert opened.value.url == there
    opened.value.close()


# -- a story -----------------------------------------------------------------------------------------------------------

_ONCE = uuid.uuid4().hex[:6]
ASKED, AGREED, UNDONE = (f"{said} ({_ONCE})" for said in ("look at it in a browser", "the summer looks right", "undo"))
"""Reasons that no earlier run on this stack has given."""


@dataclass(frozen=True)
class Story:
    """What became of one event: the version that served, the attempt that answered it, its candidate."""

    event: EventRow
    attempt: AttemptRow
    before: int
    candidate: int


@pytest.fixture(scope="module")
def story(shown: System, people: dict[str, Visitor]) -> Story:
    """An event is followed by a viewer from its arrival until people are asked; no page is loaded anew."""
    viewer, before = people[VIEWER], version_serving(shown)
    page = viewer.visit(f"/events?model={SHOWN}")
    keep(page)
    event_id = shown.publish(RetrainRequested(reason=ASKED, actor="another system"), SHOWN)
    arrived = page.get_by_role("row").filter(has_text=ASKED)
    expect(arrived).to_be_visible(timeout=WHILE_IT_WORKS)
    assert_kept(page)
    viewer.picture("story-1-arrived")
    arrived.get_by_role("rowheader").get_by_role("link").click()

    expect(page.get_by_role("heading", level=1)).to_contain_text("Retrain requested")
    keep(page)
    led = page.get_by_role("main").get_by_role("link", name=re.compile(rf"^{SHOWN}\."))
    expect(led.first).to_be_visible(timeout=WHILE_IT_WORKS)
    assert_kept(page)
    viewer.picture("story-2-claimed")
    led.first.click()

    expect(page.get_by_text(re.compile("^People are asked whether version"))).to_be_visible(timeout=WHILE_IT_WORKS)
    viewer.picture("story-3-asked")
    (event,) = (row for row in events_of(shown) if row.event_id == event_id)
    with shown.ratchet.ledger.transaction() as tx:
        attempt = next(row for row in tx.attempts(model=SHOWN) if row.id == event.attempt_id)
    assert attempt.state == AWAITING_APPROVAL
    assert attempt.challenger_version is not None
    return Story(event, attempt, before, attempt.challenger_version)


def test_an_attempt_leads_to_its_run_in_airflow_and_the_run_to_its_attempt(story: Story, viewer: Visitor) -> None:
    inside = framed(viewer, f"/attempts/{story.attempt.id}")
    inside.get_by_role("link", name=story.attempt.dag_run_id).click()
    expect(viewer.page).to_have_url(re.compile(rf"/dags/{story.attempt.dag_id}/runs/"))
    viewer.page.get_by_role("link", name="Attempt", exact=True).click()
    shown_there = viewer.page.frame_locator("iframe[title=Attempt]").get_by_role("heading", level=1)
    expect(shown_there).to_contain_text(story.attempt.id)
    viewer.picture("airflow-run")


def test_a_viewer_sees_everything_and_can_do_nothing(story: Story, viewer: Visitor) -> None:
    acts = re.compile(
        "^(approve|refuse|reject|roll .*back|retrain now|give |let |snooze|wake|read .*again)", re.IGNORECASE
    )
    for path in (f"/models/{SHOWN}", f"/attempts/{story.attempt.id}", "/approvals", "/dead-letters"):
        page = viewer.visit(path)
        for role in ("link", "button"):
            expect(page.get_by_role("main").get_by_role(role, name=acts)).to_have_count(0)
    for path in (f"/attempts/{story.attempt.id}/approve", f"/models/{SHOWN}/rollback", f"/models/{SHOWN}/retrain"):
        page = viewer.visit(path, status=403)
        expect(page.get_by_role("textbox")).to_have_count(0)
    viewer.picture("refused")


# -- every page --------------------------------------------------------------------------------------------------------


def test_no_page_hinders_anybody(shown: System, admin: Visitor, story: Story) -> None:
    paths = {
        "models": "/models",
        "model": f"/models/{SHOWN}",
        "retrain": f"/models/{SHOWN}/retrain",
        "rollback": f"/models/{SHOWN}/rollback",
        "replay": f"/models/{SHOWN}/replay",
        "snooze": f"/models/{SHOWN}/snooze",
        "wake": f"/models/{SHOWN}/wake",
        "attempts": "/attempts",
        "attempt": f"/attempts/{story.attempt.id}",
        "approve": f"/attempts/{story.attempt.id}/approve",
        "reject": f"/attempts/{story.attempt.id}/reject",
        "events": "/events",
        "event": f"/events/{story.event.pk}",
        "approvals": "/approvals",
        "audit": "/audit",
        "dead-letters": "/dead-letters",
        "letters": "/dead-letters/replay",
        "dag": f"/dag/retrain__{SHOWN}",
        "run": f"/run/{story.attempt.dag_id}/{story.attempt.dag_run_id}",
    }
    for name, path in paths.items():
        admin.visit(path)
        admin.examine(name)
    examined = [path.removeprefix("/ratchet") for path in admin.examined]
    left_out = [
        route.path
        for router in PAGES
        for route in router.routes
        if "GET" in route.methods and not any(re.fullmatch(route.path_regex, path) for path in examined)
    ]
    assert not left_out, f"pages that nobody looked at: {left_out}"


# -- and its end -------------------------------------------------------------------------------------------------------


def test_an_operator_approves_in_airflow_and_the_champion_changes_on_an_open_page(
    shown: System, story: Story, operator: Visitor, admin: Visitor
) -> None:
    watched = admin.visit(f"/models/{SHOWN}")
    expect(serving(watched)).to_contain_text(f"version {story.before}")
    keep(watched)

    inside = framed(operator, f"/models/{SHOWN}")
    inside.get_by_role("link", name="Approve", exact=True).click()
    inside.get_by_role("button", name="Approve").click()
    expect(inside.get_by_label("Reason")).to_be_focused()
    inside.get_by_label("Reason").fill(AGREED)
    operator.picture("story-4-approve")
    inside.get_by_role("button", name="Approve").click()
    expect(inside.get_by_role("heading", level=1)).to_contain_text(story.attempt.id, timeout=WHILE_IT_WORKS)
    expect(inside.get_by_role("listitem").filter(has_text=AGREED).first).to_contain_text(OPERATOR)

    expect(serving(watched)).to_contain_text(f"version {story.candidate}")
    assert_kept(watched)
    admin.picture("story-5-promoted")


def test_an_administrator_takes_it_back_and_the_audit_log_has_everybody(
    shown: System, story: Story, viewer: Visitor, admin: Visitor
) -> None:
    page = admin.visit(f"/models/{SHOWN}")
    expect(serving(page)).to_contain_text(f"version {story.candidate}")
    page.get_by_role("link", name=re.compile("^roll back", re.IGNORECASE)).first.click()
    page.get_by_label("Reason").fill(UNDONE)
    page.get_by_role("button", name="Roll back").click()
    expect(serving(page)).to_contain_text(f"version {story.before}")
    assert version_serving(shown) == story.before

    log = viewer.visit(f"/audit?model={SHOWN}")
    for action, actor, reason in (
        ("approval.approved", OPERATOR, AGREED),
        ("champion.promoted", OPERATOR, AGREED),
        ("champion.rolledback", ADMIN, UNDONE),
    ):
        entry = log.get_by_role("row").filter(has_text=action).first
        expect(entry).to_contain_text(actor)
        expect(entry).to_contain_text(reason)
    viewer.picture("story-6-audited")


def test_the_keyboard_is_enough_to_open_a_model_and_to_ask_for_a_retrain(shown: System, operator: Visitor) -> None:
    page = operator.visit("/models")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    tab_to(page, page.get_by_role("link", name=SHOWN, exact=True))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(SHOWN)
    tab_to(page, page.get_by_role("link", name="Retrain now"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Retrain {SHOWN} now")
    tab_to(page, page.get_by_label("Reason"))
    page.keyboard.type("asked for by keys alone")
    tab_to(page, page.get_by_label("Dry run"))
    page.keyboard.press("Space")
    tab_to(page, page.get_by_role("button", name="Start the run"))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"/run/retrain__{SHOWN}/manual__"))


UNSEEN_FOCUS = """() => {
  const at = document.activeElement;
  return at === document.body || getComputedStyle(at).outlineStyle !== 'none' ? null : at.outerHTML.slice(0, 200);
}"""


MOST_STOPS = 200
"""Of a page that lists all models of the suite, each with three links."""


def tab_to(page: Page, wanted: Locator) -> None:
    """Press the tabulator until it is there, as one does; each stop on the way is to be seen."""
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        assert not (unseen := page.evaluate(UNSEEN_FOCUS)), f"nobody sees that the focus is at {unseen}"
        if wanted.evaluate("each => each === document.activeElement"):
            return
    pytest.fail(f"{wanted} is not reached by the keyboard")


def serving(page: Page) -> Locator:
    """What the page of the model says of who serves."""
    return page.get_by_role("region", name="Champion history").get_by_role("rowheader").filter(has_text="serves")


def keep(page: Page) -> None:
    """Mark the page, so that a reload would be noticed."""
    page.evaluate("window.stayed = true")


def assert_kept(page: Page) -> None:
    assert page.evaluate("window.stayed === true"), "the page was loaded anew"
