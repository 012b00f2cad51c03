"""An attempt's page tells its story, whatever became of it, and harms nobody whatever was written into it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_worlds import Client
from judged_attempts import JudgingWorld

from ratchet.domain import events as cloudevents
from ratchet.pages import story, wording
from ratchet.ports.ledger import ApprovalRequestRow, ApprovalRow, FateChange, ProbationRow
from ratchet.workflow import dossiers

CHAPTERS = [
    "Why it started",
    "What data",
    "What was tried",
    "How it was judged",
    "Who approved",
    "What became of it",
    "Make it again",
]
APRIL = datetime(2013, 4, 18, 4, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script>"
STORY = "/attempts/flight_delay.2"


class Page(HTMLParser):
    """What a browser makes of a page: its headings, links, and every attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[tuple[str, str]] = []
        self.links: dict[str, str] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._open.append(tag)
        if tag in {"h1", "h2", "h3", "h4"}:
            self.headings.append((tag, ""))
        if tag == "a":
            self._href = dict(attrs).get("href") or ""
            self.links[self._href] = ""

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.headings and self.headings[-1][0] in self._open:
            tag, said = self.headings[-1]
            self.headings[-1] = (tag, said + data)
        if "a" in self._open:
            self.links[self._href] += data

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", self.text)


def page(client: Client, path: str, user: str = "ada") -> Page:
    seen = client.get(path, user)
    assert seen.status_code == 200, seen.text[-400:]
    return Page(seen.text)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, empty_ledger: Path) -> Iterator[JudgingWorld]:
    """A first champion, then an attempt that drift gave rise to."""
    world = JudgingWorld(tmp_path_factory.mktemp("story"), empty_ledger)
    world.run("2013-03-25", first_champion=True)
    for day in range(2):
        at = APRIL + timedelta(days=day)
        drift = cloudevents.DriftDetected(
            check="weather_drift",
            severity=0.8,
            window_start=at - timedelta(days=1),
            window_end=at,
            evidence_uri=("javascript:alert(1)", "https://monitor.example.com/weather")[day],
        )
        world.publish(drift, world.model, at)
    world.intake.tick()
    world.run("2013-04-20")
    yield world
    world.ledger.dispose()


@pytest.fixture
def told(judged: JudgingWorld, tmp_path: Path) -> Iterator[Client]:
    """A copy of it with people, to be spoilt at will."""
    world = judged.copy(tmp_path)
    client = Client(world)
    yield client
    client.outgoing.close()
    world.ledger.dispose()


def rewrite(client: Client, attempt: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Store another dossier for the attempt, with its digest."""
    dossier = json.loads(client.world.store.get_bytes(dossiers.key_of(attempt)))
    change(dossier)
    content = json.dumps(dossier).encode()
    client.world.store.put_bytes(dossiers.key_of(attempt), content)
    update(client, attempt, dossier_sha256=hashlib.sha256(content).hexdigest())


def update(client: Client, attempt: str, **values: Any) -> None:
    with client.world.ledger.transaction() as tx:
        tx.update_attempt(attempt, **values)


# -- the story ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", ["flight_delay.1", "flight_delay.2", "flight_delay@2"])
def test_the_chapters_come_in_the_order_of_what_happened(told: Client, attempt: str) -> None:
    seen = page(told, f"/attempts/{attempt}")
    assert [re.sub(r"^\s*\d\s*", "", said) for tag, said in seen.headings if tag == "h2"] == CHAPTERS
    levels = [int(tag[1]) for tag, _ in seen.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for key in ("why", "data", "tried", "judged", "approved", "became", "again"):
        assert f"#{key}" in seen.links


def test_the_verdict_is_a_sentence_a_picture_and_its_reasons(told: Client) -> None:
    row = told.world.attempt("flight_delay.2")
    verdict, seen = row.verdict_record, page(told, STORY)
    assert f"{verdict['n_rows']} decisions of {verdict['n_clusters']} days" in seen.said
    assert "than the champion, version 1" in seen.said
    for reason in verdict["reasons"]:
        assert re.sub(r"\s+", " ", reason) in seen.said
    pictures = [value for tag, name, value in seen.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(pictures) == 5
    assert f"{verdict['estimate']:+.4g}" in str(pictures[1])
    assert {"holds", "uplift_without_best_cluster"} <= set(re.split(r"\s+", seen.said))


def test_what_data_and_what_was_tried_are_told_in_numbers(told: Client) -> None:
    dossier, seen = dossiers.read(told.world.store, told.world.attempt("flight_delay.2")), page(told, STORY)
    assert f"Rows to judge on {dossier['snapshot']['files']['holdout']['rows']:,}" in seen.said
    assert dossier["snapshot_manifest"]["sha256"] in seen.said
    assert f"best is number {dossier['study']['best_trial']}" in seen.said
    assert "Judging: both models on the same fresh rows" in seen.said
    assert "core hours" in seen.said


def test_the_event_that_started_it_comes_first_and_each_leads_to_its_page(told: Client) -> None:
    numbers = {row.type: row.pk for row in told.world.events(attempt_id="flight_delay.2")}
    text = told.get(STORY).text
    first = text.index(f'href="/ratchet/events/{numbers["ratchet.retrain.requested.v1"]}"')
    other = text.index(f'href="/ratchet/events/{numbers["ratchet.drift.detected.v1"]}"')
    assert first < text.index(">started it<") < other
    assert "weather_drift, severity 0.8" in page(told, STORY).said


def test_the_event_that_started_it_is_told_though_hundreds_came_after(told: Client) -> None:
    trigger = told.world.attempt("flight_delay.2").trigger_event_pk
    for hour in range(20):
        told.world.drift(APRIL + timedelta(hours=hour), check=f"c{hour}")
    later = [row.pk for row in told.world.events() if row.attempt_id is None]
    with told.world.ledger.transaction() as tx:
        tx.change_fates([FateChange(pk, "claimed", "taken along", None, "flight_delay.2") for pk in later])
    seen = page(told, STORY)
    assert f"/ratchet/events/{trigger}" in seen.links
    assert "/ratchet/events?attempt=flight_delay.2" in seen.links


def test_events_that_the_ledger_has_forgotten_are_told_from_the_dossier(told: Client) -> None:
    numbers = [row.pk for row in told.world.events(attempt_id="flight_delay.2")]
    with told.world.ledger.transaction() as tx:
        tx.change_fates([FateChange(pk, "pending", "as if it were gone", None, None) for pk in numbers])
    update(told, "flight_delay.2", trigger_event_pk=None)
    seen = page(told, STORY)
    assert "weather_drift, severity 0.8" in seen.said
    assert "retention" in seen.said
    assert seen.said.index("started it ann: to see") < seen.said.index("weather_drift")
    assert not [link for link in seen.links if link.startswith("/ratchet/events/")]


def test_of_an_attempt_of_which_the_ledger_kept_the_first_event_the_others_are_told_from_the_dossier(told) -> None:
    attempt = told.world.attempt("flight_delay.2")
    others = [row.pk for row in told.world.events(attempt_id=attempt.id) if row.pk != attempt.trigger_event_pk]
    assert others
    whole = page(told, STORY).said
    with told.world.ledger.engine.begin() as db:
        for table, column in (("fate", "event_pk"), ("event", "id")):
            db.execute(sa.text(f"DELETE FROM {table} WHERE {column} IN ({','.join(map(str, others))})"))
    update(told, attempt.id, state="concluded")
    seen = page(told, STORY)
    assert f"/ratchet/events/{attempt.trigger_event_pk}" in seen.links
    assert "has forgotten the others" in seen.said
    assert seen.said.count("started it") == whole.count("started it"), "the first is not told twice"
    assert "weather_drift, severity 0.8" in seen.said


def test_every_look_at_a_challenger_is_told_where_more_than_one_was_planned(told: Client) -> None:
    assert "Looks at this challenger" not in page(told, STORY).said

    def change(dossier: dict[str, Any]) -> None:
        first = dossier["looks"]["taken"][0]
        dossier["looks"] = {"plan": [0.4, 0.6], "taken": [first | {"attempt": "flight_delay.0", "alpha_share": 0.4}]}

    rewrite(told, "flight_delay.2", change)
    seen = page(told, STORY).said
    assert "Looks at this challenger" in seen
    assert re.search(r"1 of 2\s+flight_delay\.0\s+14 days .* 0\.4 not enough evidence", seen)


def test_evidence_is_a_link_only_where_a_browser_may_be_led(told: Client) -> None:
    seen = page(told, STORY)
    assert "https://monitor.example.com/weather" in seen.links
    assert "javascript:alert(1)" in seen.said
    assert not any(str(value).lower().startswith("javascript:") for _, _, value in seen.attributes)


def test_a_version_that_was_taken_back_says_by_whom_and_why(told: Client) -> None:
    told.world.crown(2)
    told.world.promotions.rollback("flight_delay", 1, "grace", "it snows")
    seen = page(told, "/attempts/flight_delay.1")
    assert "first champion" in seen.said
    assert "taken back by hand" in seen.said
    assert "it snows" in seen.said
    assert "It is the champion now." in seen.said


def test_a_watched_promotion_says_how_the_watch_stands(told: Client) -> None:
    first = APRIL.date()
    with told.world.ledger.transaction() as tx:
        tx.insert_probation(
            ProbationRow(
                model="flight_delay",
                seq=1,
                version=1,
                predecessor_seq=0,
                predecessor_version=7,
                spec_digest=told.world.spec.digest,
                first_day=first,
                last_day=first + timedelta(days=27),
                since=APRIL,
                until=APRIL,
                state="watching",
                reason="two days so far, nothing against it",
                plan={},
                record={},
                opened_at=APRIL,
            )
        )
    seen = page(told, "/attempts/flight_delay.1")
    assert "against version 7, from 2013-04-18 to 2013-05-15" in seen.said
    assert "two days so far, nothing against it" in seen.said


def test_it_says_how_to_make_it_again_and_hands_the_dossier_out(told: Client) -> None:
    seen = page(told, STORY)
    assert "ratchet reproduce flight_delay.2" in seen.said
    assert "/ratchet/v1/attempts/flight_delay.2/dossier" in seen.links
    assert told.world.attempt("flight_delay.2").dossier_sha256 in seen.said
    assert ("details", "id", "raw") in seen.attributes


def test_a_dossier_that_is_too_large_to_look_at_is_only_handed_out(
    told: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "MOST_RAW", 1_000)
    seen = page(told, STORY)
    assert ("details", "id", "raw") not in seen.attributes
    assert "/ratchet/v1/attempts/flight_delay.2/dossier" in seen.links


# -- before, and when it went otherwise --------------------------------------------------------------------------------


def test_an_attempt_at_work_shows_its_steps_as_they_end_and_is_looked_at_often(told: Client) -> None:
    update(told, "flight_delay.2", state="snapshotted", verdict=None, verdict_record=None, dossier_sha256=None)
    seen = page(told, STORY)
    assert "at work: tuning" in seen.said
    assert "Snapshot: the rows" in seen.said
    assert "There is no dossier yet" in seen.said
    assert ("body", "data-live", "5") in seen.attributes
    assert ("body", "data-live", "30") in page(told, "/attempts/flight_delay.1").attributes


@pytest.mark.parametrize(
    ("state", "remedy"), [("failed", "another chance"), ("abandoned", "went silent"), ("superseded", "came first")]
)
def test_an_attempt_that_ended_without_a_verdict_says_why_and_what_to_do(told: Client, state: str, remedy: str) -> None:
    lost: dict[str, Any] = {"verdict": None, "verdict_record": None, "dossier_sha256": None, "dossier_uri": None}
    update(told, "flight_delay.2", state=state, failure="the disk is full", **lost)
    seen = page(told, STORY)
    assert "the disk is full" in seen.said
    assert remedy in seen.said
    assert f"is {state} and was not judged" in seen.said


def test_a_dossier_whose_bytes_were_changed_is_not_told_from(told: Client) -> None:
    told.world.store.put_bytes(dossiers.key_of("flight_delay.2"), b'{"attempt": "forged"}')
    seen = page(told, STORY)
    assert "There is no dossier:" in seen.said
    assert "forged" not in seen.said
    assert not [tag for tag in seen.tags if tag == "svg"]


@pytest.mark.parametrize(
    "cut", ["explanation", "study", "snapshot", "verdict", "challenger", "evidence", "environment"]
)
def test_a_dossier_of_another_version_of_the_code_takes_no_page_with_it(told: Client, cut: str) -> None:
    def change(dossier: dict[str, Any]) -> None:
        del dossier[cut]

    rewrite(told, "flight_delay.2", change)
    assert len([tag for tag, _ in page(told, STORY).headings if tag == "h2"]) == len(CHAPTERS)


def test_nothing_but_an_attempts_name_as_its_dossier_is_a_page_too(told: Client) -> None:
    rewrite(told, "flight_delay.2", lambda dossier: [dossier.pop(name) for name in list(dossier)])
    assert "in a way that is not read here" in page(told, STORY).said


# -- people ------------------------------------------------------------------------------------------------------------


def ask(client: Client) -> None:
    """Have people asked about the second attempt; one has agreed."""
    bound: dict[str, Any] = {"challenger_version": 2, "champion_seq": 1, "evidence_digest": "e" * 64}
    request = ApprovalRequestRow(
        "flight_delay.2",
        "flight_delay",
        **bound,
        reason="much is at stake",
        people=2,
        value_at_risk=21_300.4,
        asked_at=APRIL,
        expires_at=datetime.now(UTC) + timedelta(days=3),
        runs=[],
    )
    with client.world.ledger.transaction() as tx:
        tx.insert_approval_request(request)
        tx.insert_approval(
            ApprovalRow("flight_delay.2", **bound, actor="grace", answer="approve", reason="flat", via="api", at=APRIL)
        )
        tx.update_attempt("flight_delay.2", state="awaiting_approval", verdict="promote")


def test_who_may_answer_finds_where_and_who_may_not_finds_no_way(told: Client) -> None:
    ask(told)
    ways = {f"/ratchet{STORY}/approve", f"/ratchet{STORY}/reject"}
    assert ways <= page(told, STORY).links.keys()
    assert not ways & page(told, STORY, "vic").links.keys()
    assert ways <= page(told, "/approvals").links.keys()
    assert not ways & page(told, "/approvals", "vic").links.keys()


def test_what_people_were_asked_and_answered_is_told_with_its_reason(told: Client) -> None:
    ask(told)
    for path in (STORY, "/approvals"):
        seen = page(told, path)
        assert "21,300 USD" in seen.said
        assert "grace" in seen.said
        assert "much is at stake" in seen.said
        assert "1 of 2" in seen.said
    assert "flat" in page(told, STORY).said


def test_where_nobody_was_asked_the_page_says_so(told: Client) -> None:
    assert "Nobody had to: the spec asks for no approval" in page(told, "/attempts/flight_delay.1").said
    assert "Nobody had to: there was nothing to approve" in page(told, STORY).said


def test_an_attempt_that_one_may_not_see_is_not_there(told: Client) -> None:
    told.people.only["vic"] = set()
    for path in (STORY, "/run/retrain__flight_delay/run2"):
        assert "Judged on" not in told.get(path, "vic").text
    assert told.get(STORY, "vic").status_code == 404
    assert told.get("/attempts/flight_delay@99").status_code == 404


# -- harm --------------------------------------------------------------------------------------------------------------

PAGES = ("/attempts", STORY, "/run/retrain__flight_delay/run2", "/events", "/approvals", "/audit", "/dead-letters")


def test_what_others_wrote_runs_nowhere(told: Client) -> None:
    def attack(dossier: dict[str, Any]) -> None:
        dossier["actor"] = dossier["reason"] = dossier["model"] = SCRIPT
        dossier["attempt"] = SCRIPT
        dossier["verdict"]["unit"] = SCRIPT
        for check in dossier["verdict"]["checks"]:
            check |= {"metric": SCRIPT, "slice": SCRIPT, "required": SCRIPT, "detail": SCRIPT}
        for cluster in dossier["verdict"]["diagnostics"]["clusters"]:
            cluster["label"] = SCRIPT
        for part in dossier["explanation"]["slices"]:
            part |= {"column": '"><img src=x>', "value": SCRIPT}
        for shift in dossier["explanation"]["data_shift"]:
            shift["feature"] = SCRIPT
        for metric in dossier["explanation"]["metrics"]:
            metric |= {"name": SCRIPT, "unit": SCRIPT}
        for trial in dossier["study"]["trials"]:
            trial |= {"state": SCRIPT, "params": {SCRIPT: SCRIPT}}
        dossier["study"]["params"] = {SCRIPT: SCRIPT}
        dossier["environment"] |= {"commit": SCRIPT, "libraries": {SCRIPT: SCRIPT}}
        dossier["snapshot"]["plan"]["fit_start"] = SCRIPT

    world = told.world
    ask(told)
    rewrite(told, "flight_delay.2", attack)
    update(told, "flight_delay.2", actor=SCRIPT, reason=SCRIPT, failure=SCRIPT)
    requested = cloudevents.RetrainRequested(reason=SCRIPT, actor=SCRIPT)
    world.publish(requested, world.model, APRIL, event_id=SCRIPT)
    world.intake.tick()
    world.intake.store([world.raw(b'{"specversion": "<script>alert(1)</script>"}')])
    with world.ledger.transaction() as tx:
        tx.audit(SCRIPT, "x." + SCRIPT, None, {"reason": SCRIPT, SCRIPT: [SCRIPT], "user_id": SCRIPT, "via": SCRIPT})
    newest = max(row.pk for row in world.events())
    for path in (*PAGES, f"/events/{newest}"):
        seen = page(told, path)
        assert not set(seen.tags) & {"img", "iframe", "object", "style"}, path
        assert seen.tags.count("script") == 3, path
        assert not [each for each in seen.attributes if each[1] == "style" or each[1].startswith("on")], path


def test_every_text_of_an_attack_is_shown_as_what_it_is(told: Client) -> None:
    update(told, "flight_delay.2", reason=SCRIPT)
    assert SCRIPT in page(told, STORY).said
    assert SCRIPT in page(told, "/attempts").said


@pytest.mark.parametrize("path", PAGES)
def test_every_table_is_named_and_every_field_has_a_label(told: Client, path: str) -> None:
    text = told.get(path).text
    for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
        assert re.search(r"<caption[^>]*>\s*\S", table)
        assert "scope" in table
    labels = re.findall(r"<label>.*?</label>", text, flags=re.DOTALL)
    assert len(re.findall(r"<(?:select|input)\b", text)) == len(labels)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


# -- a run -------------------------------------------------------------------------------------------------------------


def test_the_run_that_made_an_attempt_shows_its_story(told: Client) -> None:
    for number in (1, 2):
        shown = page(told, f"/run/retrain__flight_delay/run{number}").headings
        assert shown == page(told, f"/attempts/flight_delay.{number}").headings
        assert f"flight_delay.{number}" in shown[0][1]


def test_a_run_with_colons_and_slashes_in_its_name_is_found(told: Client) -> None:
    name = "manual__2026-01-01T00:00:00+00:00/again"
    update(told, "flight_delay.1", dag_run_id=name)
    assert "flight_delay.1" in page(told, f"/run/retrain__flight_delay/{name.replace('+', '%2B')}").headings[0][1]


def test_a_run_without_an_attempt_says_why_and_where_to_look(told: Client) -> None:
    seen = page(told, "/run/retrain__flight_delay/other")
    assert "no event was due" in seen.said
    assert {"/ratchet/attempts?model=flight_delay", "/ratchet/events?model=flight_delay"} <= seen.links.keys()
    assert "those of retrain__flight_delay do" in page(told, "/run/promote__flight_delay/other").said
    assert "of no model that you may see" in page(told, "/run/something/other").said


def test_a_run_of_a_model_that_one_may_not_see_gives_nothing_away(told: Client) -> None:
    told.people.only["vic"] = set()
    hidden = page(told, "/run/retrain__flight_delay/run2", "vic").said
    absent = page(told, "/run/retrain__nothing/run2", "vic").said
    assert hidden.replace("flight_delay", "nothing") == absent
    assert "of no model that you may see" in hidden


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "led"),
    [
        ("https://x.example/a?b=1", True),
        ("http://x.example", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        (" javascript:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,x", False),
        ("//x.example", False),
        ("https:", False),
        ("https://[", False),
        ("s3://bucket/report", False),
        (None, False),
        ({"href": "https://x"}, False),
    ],
)
def test_a_browser_is_led_to_pages_of_the_web_only(address: Any, *, led: bool) -> None:
    assert (wording.web(address) is not None) is led


@pytest.mark.parametrize("kind", [*wording.TYPES, "ratchet.unknown.v9"])
@pytest.mark.parametrize(
    "data", [{}, {"check": None, "severity": True}, {"check": [1], "window_start": {}, "value": "x", "severity": "x"}]
)
def test_an_event_of_whatever_data_is_said_in_a_line(kind: str, data: dict[str, Any]) -> None:
    assert "\n" not in wording.said(kind, data)


def test_a_duration_is_told_in_two_units() -> None:
    assert [wording.lasted(s) for s in (0.04, 12.2, 60, 95, 3600, 3960, 90_000)] == [
        "0.0 s",
        "12 s",
        "1 min",
        "1 min 35 s",
        "1 h",
        "1 h 6 min",
        "25 h",
    ]
