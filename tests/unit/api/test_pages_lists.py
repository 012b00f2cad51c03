"""The pages that list: narrowed by a plain form, page by page, and saying what to do where there is nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from api_worlds import Client

from ratchet.domain.spec import ModelSpec
from ratchet.pages import wording
from ratchet.ports.ledger import OPEN_FATES, TERMINAL_FATES

DAY = datetime(2013, 1, 2, tzinfo=UTC)
LISTS = ("/attempts", "/events", "/approvals", "/audit", "/dead-letters")


def said(client: Client, path: str, user: str = "ada", status: int = 200) -> str:
    """The words of a page's main part."""
    seen = client.get(path, user)
    assert seen.status_code == status, seen.text[-400:]
    main = seen.text[seen.text.index("<main") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", main))


def links(client: Client, path: str, user: str = "ada") -> list[str]:
    return [each.replace("&amp;", "&") for each in re.findall(r'href="([^"]*)"', client.get(path, user).text)]


def older(client: Client, path: str) -> str | None:
    """Where the next page is."""
    found = re.search(r'href="([^"]*)" rel="next"', client.get(path).text)
    return found.group(1).replace("&amp;", "&").removeprefix("/ratchet") if found else None


def drifts(client: Client, count: int) -> None:
    for hour in range(count):
        client.world.drift(DAY + timedelta(hours=hour), check=f"c{hour}", severity=0.01 if hour % 2 else 0.8)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("/attempts", "Nothing was tried yet"),
        ("/events", "ratchet publish drift"),
        ("/approvals", "Nothing waits for people"),
        ("/audit", "no entry that you may see"),
        ("/dead-letters", "Nothing is to be done"),
    ],
)
def test_an_empty_list_says_what_it_would_hold(api: Client, path: str, remedy: str) -> None:
    assert remedy in said(api, path)


@pytest.mark.parametrize(
    "path", ["/attempts?state=none", "/events?fate=none", "/audit?actor=none", "/dead-letters?reason=none"]
)
def test_a_list_narrowed_to_nothing_leads_back_to_all(api: Client, path: str) -> None:
    assert "Show all" in said(api, path)
    assert links(api, path).count(f"/ratchet{path.partition('?')[0]}") == 3


@pytest.mark.parametrize("path", LISTS)
def test_what_nobody_wrote_into_a_form_narrows_nothing(api: Client, path: str, world_with_history: None) -> None:
    empty = "model=&state=&verdict=&fate=&type=&source=&attempt=&actor=&action=&reason="
    text = api.get(f"{path}?{empty}").text
    assert "<tr id=" in text or path == "/approvals"
    assert "Show all" not in text


@pytest.mark.parametrize(
    "path", ["/attempts?model=%00", "/events?source=a%00", "/audit?actor=%00", "/dead-letters?reason=%00"]
)
def test_what_no_database_can_look_for_is_refused_as_a_page(api: Client, path: str) -> None:
    seen = api.get(path)
    assert seen.status_code == 422
    assert seen.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/attempts", "/events", "/audit", "/dead-letters"])
def test_a_cursor_that_is_none_of_ours_is_a_page_that_says_so(api: Client, path: str) -> None:
    assert "cursor" in said(api, f"{path}?cursor=x", status=400)


def test_events_come_in_pages_that_keep_what_was_asked_for(api: Client) -> None:
    drifts(api, 104)
    first = "/events?model=flight_delay&type=ratchet.drift.detected.v1"
    numbers: list[str] = []
    path: str | None = first
    while path is not None:
        numbers += re.findall(r'id="event-(\d+)"', api.get(path).text)
        path = older(api, path)
        assert path is None or path.startswith("/events?cursor=")
        assert path is None or "type=ratchet.drift.detected.v1" in path
    assert numbers == [str(number) for number in range(104, 0, -1)]
    assert "/ratchet/events?model=flight_delay&type=ratchet.drift.detected.v1" in links(api, older(api, first) or "")


def test_events_are_narrowed_by_fate_type_source_and_attempt(api: Client) -> None:
    drifts(api, 4)
    fates = {row.pk: row.fate for row in api.world.events()}
    for fate in set(fates.values()):
        shown = re.findall(r'id="event-(\d+)"', api.get(f"/events?fate={fate}").text)
        assert {int(number) for number in shown} == {number for number, its in fates.items() if its == fate}
    for nothing in ("type=x", "source=x", "attempt=x"):
        assert "No event is like this" in said(api, f"/events?{nothing}")
    assert 'value="suppressed" selected' in api.get("/events?fate=suppressed").text
    assert 'name="source" value="mon&#34;itor"' in api.get("/events?source=mon%22itor").text


def test_an_event_says_why_until_when_and_each_fate_it_had(api: Client) -> None:
    drifts(api, 3)
    waiting = api.world.events(fates=("deferred",))[0]
    told, text = said(api, f"/events/{waiting.pk}"), api.get(f"/events/{waiting.pk}").text
    assert waiting.until is not None
    assert f'datetime="{waiting.until.isoformat()}"' in text
    assert "It is decided again at" in told
    assert waiting.reason in told
    assert "received" in told
    assert "ml.drift:0:0" in told
    assert "&#34;severity&#34;: 0.8" in text
    assert text.index("received") < text.rindex(waiting.reason)


def test_an_event_that_ended_without_a_verdict_leads_to_another_chance_for_whoever_may_give_one(api: Client) -> None:
    api.world.drift(DAY, severity=0.01)
    (row,) = api.world.events(fates=("suppressed",))
    assert "/ratchet/models/flight_delay/replay" in links(api, f"/events/{row.pk}")
    assert "/ratchet/models/flight_delay/replay" not in links(api, f"/events/{row.pk}", "vic")


def test_an_event_that_one_may_not_see_is_not_there(api: Client) -> None:
    drifts(api, 1)
    api.people.only["vic"] = set()
    assert api.get("/events/1", "vic").status_code == 404
    assert api.get("/events/999").status_code == 404
    assert api.get("/events/0").status_code == 422
    assert "c0" not in said(api, "/events", "vic")


def test_every_fate_is_explained_in_words() -> None:
    assert set(wording.FATES) == {*OPEN_FATES, *TERMINAL_FATES}


def test_the_glossary_of_fates_is_at_hand_where_events_are_listed(api: Client) -> None:
    told = said(api, "/events")
    for _, meaning in wording.FATES.values():
        assert meaning.replace("'", "&#39;") in told


def test_attempts_come_newest_first_and_are_narrowed(api: Client, world_with_history: None) -> None:
    told = said(api, "/attempts?model=flight_delay&state=concluded&verdict=keep_champion")
    assert "flight_delay.1" in told
    assert "+1.00 USD +0.50 to +1.50" in told
    assert "No attempt is like this" in said(api, "/attempts?state=failed")
    assert "No attempt is like this" in said(api, "/attempts?verdict=promote")
    api.people.only["vic"] = set()
    assert "flight_delay.1" not in said(api, "/attempts", "vic")
    assert api.get("/attempts?model=flight_delay", "vic").status_code == 403


def test_attempts_come_in_pages(api: Client, world_with_history: None) -> None:
    world = api.world
    with world.ledger.transaction() as tx:
        known = tx.attempt("flight_delay.1")
        for epoch in range(2, 56):
            tx.start_attempt(replace(known, id=f"flight_delay.{epoch}", epoch=epoch, dag_run_id=f"run{epoch}"), 60)
            tx.update_attempt(f"flight_delay.{epoch}", state="concluded")
            tx.release_lease(f"flight_delay.{epoch}")
    shown = re.findall(r'<tr id="([^"]*)"', api.get("/attempts").text)
    rest = re.findall(r'<tr id="([^"]*)"', api.get(older(api, "/attempts") or "").text)
    assert (len(shown), len(rest)) == (50, 5)
    assert len({*shown, *rest}) == 55
    assert older(api, older(api, "/attempts") or "") is None


def test_the_audit_log_says_who_what_and_why(api: Client) -> None:
    detail = {"reason": "it snows", "user_id": "17", "via": "api", "before": 2}
    with api.world.ledger.transaction() as tx:
        tx.audit("ann", "champion.rolledback", "flight_delay", detail)
        tx.audit("ratchet", "clock.set", None, {"why": "general"})
        tx.audit("ratchet", "attempt.judged", "flight_delay", {"reason": ["one", "two"]})
        digest = tx.audit_log(action="champion")[0]["hash"]
    told, text = said(api, "/audit"), api.get("/audit").text
    for part in ("ann", "user 17 by api", "it snows", "general", "one; two", digest[:10]):
        assert part in told
    assert digest[:11] not in told
    assert "&#34;before&#34;: 2" in text
    assert text.index("attempt.judged") < text.index("clock.set") < text.index("champion.rolledback")
    assert "general" not in said(api, "/audit?action=champion")
    assert "it snows" in said(api, "/audit?actor=ann&model=flight_delay&action=champion")
    api.people.only["vic"] = {"flight_delay"}
    assert "general" not in said(api, "/audit", "vic")


def test_dead_letters_are_for_those_who_may_see_everything(api: Client) -> None:
    api.world.intake.store([api.world.raw(b"no JSON")])
    assert "not_json" in said(api, "/dead-letters")
    assert "/ratchet/dead-letters/replay?record=ml.drift%3A0%3A0" in links(api, "/dead-letters")
    assert "not_json" in said(api, "/dead-letters", "vic")
    assert not [link for link in links(api, "/dead-letters", "vic") if "replay" in link]
    api.people.only["vic"] = {"flight_delay"}
    refused = said(api, "/dead-letters", "vic", status=403)
    assert "only those who may see every model" in refused
    assert "not_json" not in refused


def test_dead_letters_are_narrowed_by_their_reason(api: Client) -> None:
    api.world.intake.store([api.world.raw(b"no JSON"), api.world.raw(None)])
    told = said(api, "/dead-letters?reason=tombstone")
    assert "ml.drift:0:1" in told
    assert "ml.drift:0:0" not in told


def test_a_list_of_models_to_choose_from_holds_those_that_one_may_see(api: Client) -> None:
    spec: ModelSpec = api.world.spec.model_copy(update={"model": "other"})
    with api.world.ledger.transaction() as tx:
        tx.publish_spec("other", spec.digest, spec.model_dump(mode="json"))
    api.people.only["vic"] = {"flight_delay"}
    for path in ("/attempts", "/events", "/audit"):
        assert "<option>other</option>" in api.get(path).text
        assert "<option>other</option>" not in api.get(path, "vic").text
