"""What the pages of models tell, to whom, and what they do with texts of others."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from html import unescape
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from api_worlds import Client

from ratchet.api import schemas as s
from ratchet.pages import attention, figures
from ratchet.ports.ledger import (
    AWAITING_APPROVAL,
    ApprovalRequestRow,
    ApprovalRow,
    ChampionRow,
    MonitoredRow,
    ProbationDay,
    ProbationRow,
)

APRIL = datetime(2013, 4, 1, 4, tzinfo=UTC)
EVIL = "<script>alert(1)</script>"
CLUSTERS = [{"label": f"2013-03-{day:02d}", "rows": 100, "total_uplift": 100.0 * (-1) ** day} for day in range(1, 15)]


def seen(api: Client, path: str, user: str = "ada", **query: Any) -> str:
    """The words of a page, without its tags."""
    answer = api.get(path, user, **({"params": query} if query else {}))
    assert answer.status_code == 200, answer.text
    main = re.sub(r"</?(?:a|b|code|span|time|meter)(?: [^>]*)?>", "", answer.text.partition("<main")[2])
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", main)).split())


def add(api: Client, name: str, **changes: Any) -> None:
    """Deploy another model, whose document differs by these keys."""
    plain = api.world.spec.model_dump(mode="json") | {"model": name} | changes
    digest = name.encode().hex().ljust(64, "0")[:64]
    with api.world.ledger.transaction() as tx:
        tx.publish_spec(name, digest, plain)


def judged(api: Client, decision: str = "promote", **record: Any) -> str:
    """An attempt against champion 1 with a verdict and what its step keeps; returns its id."""
    api.world.crown(1)
    api.world.arrive(APRIL)
    attempt = str(api.world.claim()["attempt"])
    api.world.judge(attempt, decision)
    measured = {"estimate": 1.0, "lower": 0.5, "upper": 1.5, "unit": "USD", "reasons": ["the lower bound exceeds 0.05"]}
    known = {"n_rows": 1400, "n_clusters": 14, "diagnostics": {"clusters": CLUSTERS}, "checks": []}
    sides = {"champion": {"value": 7.0, "lower": 6.0, "upper": 8.0}, "challenger": {"value": 8.0} | _bounds(7.5, 8.5)}
    with api.world.ledger.transaction() as tx:
        tx.update_attempt(attempt, verdict_record=measured | known | record)
        holdout = {day["label"]: day["rows"] for day in CLUSTERS}
        tx.save_step(attempt, "evaluate", {"payoff": sides, "used_days": {"holdout": holdout}}, tx.wall())
    return attempt


def _bounds(lower: float, upper: float) -> dict[str, float]:
    return {"lower": lower, "upper": upper}


def promoted(api: Client) -> str:
    """The same, promoted and watched since."""
    attempt = judged(api)
    with api.world.ledger.transaction() as tx:
        row = tx.attempt(attempt)
        tx.update_attempt(attempt, state="concluded")
        tx.insert_champion(
            ChampionRow(row.model, 2, 2, attempt, "promotion", APRIL, "ann", "it earned more", "e" * 64, tx.wall())
        )
        first = date(2013, 4, 2)
        record = {"estimate": 0.8, "lower": -0.2, "upper": 1.8, "n_rows": 200, "n_days": 2}
        watch = ProbationRow(
            row.model,
            2,
            2,
            1,
            1,
            row.spec_digest,
            first,
            date(2013, 4, 29),
            APRIL,
            APRIL,
            "watching",
            "",
            {},
            record,
            APRIL,
        )
        tx.insert_probation(watch)
        tx.save_probation_days(
            row.model, 2, [ProbationDay(first, 90, 100.0), ProbationDay(date(2013, 4, 3), 110, 60.0)]
        )
    return attempt


def asked(api: Client, reason: str = "the lower bound lies below 0.2") -> str:
    """An attempt about which two people are asked; one has agreed."""
    attempt = judged(api)
    with api.world.ledger.transaction() as tx:
        now = tx.wall()
        tx.update_attempt(attempt, state=AWAITING_APPROVAL)
        ends = now + timedelta(hours=49)
        tx.insert_approval_request(
            ApprovalRequestRow(attempt, api.world.model, 2, 1, "e" * 64, reason, 2, 12345.0, now, ends, [])
        )
        tx.insert_approval(ApprovalRow(attempt, 2, 1, "e" * 64, "Ann", "approve", "plausible", "page", now))
    return attempt


# -- all models --------------------------------------------------------------------------------------------------------


def test_a_row_tells_a_model_at_a_glance(api: Client) -> None:
    attempt = asked(api)
    api.world.drift(APRIL)
    told = seen(api, "/models")
    assert "version 1 first champion, 90 days old" in told
    assert "promote +1.00 USD +0.50 to +1.50" in told
    assert "approval 2 claimed, 1 deferred" in told
    assert "1 of 4" in told
    assert f"{api.world.spec.owner.team}" in told
    assert f'href="/ratchet/attempts/{attempt}"' in api.get("/models").text


def test_the_summary_counts_what_needs_people_and_narrows_to_it(api: Client) -> None:
    asked(api)
    add(api, "alpha")
    add(api, "omega")
    page = api.get("/models").text
    assert "1 approval waits" in page
    assert "2 models have no champion" in page
    for link in re.findall(r'class="chip[^"]*" href="([^"]+)"', page):
        assert api.get(unescape(link).removeprefix("/ratchet")).status_code == 200
    assert "alpha" not in seen(api, "/models", show="approvals")
    assert "flight_delay" not in seen(api, "/models", show="champion").partition("Show all")[2]
    assert "3 models" in seen(api, "/models", show="attention")


def test_a_model_that_waits_for_its_turn_is_found_but_not_urgent(api: Client) -> None:
    api.world.crown(1)
    with api.world.ledger.transaction() as tx:
        tx.set_due(api.world.model, tx.wall(), "due")
        tx.hold(api.world.model, "the pool is full")
    told = seen(api, "/models", show="held")
    assert "1 model waits its turn" in told
    assert "1 model." in told
    assert "Nothing waits for people." in told


def test_a_model_that_sleeps_says_until_when_and_by_whose_word(api: Client) -> None:
    api.world.crown(1)
    api.post("/v1/models/flight_delay/snooze", json={"for": "3d", "reason": "the fares are wrong"})
    told = seen(api, "/models", show="snoozed")
    assert "1 model sleeps" in told
    assert "sleeps until 2013-01-04 00:00" in told
    told = seen(api, "/models/flight_delay")
    assert "starts no run by itself until 2013-01-04 00:00 in 3 days, by ada: the fares are wrong" in told
    assert 'href="/ratchet/models/flight_delay/wake"' in api.get("/models/flight_delay").text
    assert 'href="/ratchet/models/flight_delay/snooze"' not in api.get("/models/flight_delay").text


def test_a_spent_budget_needs_people(api: Client) -> None:
    (told,) = s.Page[s.Model].model_validate(api.get("/v1/models").json()).items
    assert "budget" not in attention.matters(told)
    told.budget.runs_today = told.budget.runs_per_day
    assert "budget" in attention.matters(told)
    told.budget = None
    assert attention.matters(told) == ["champion", "spec"]


def test_models_are_found_by_name_goal_and_owner(api: Client) -> None:
    add(api, "alpha", owner={"team": "growth", "email": "g@example.com"})
    assert "flight_delay" not in seen(api, "/models", q="ALPH")
    assert "flight_delay" in seen(api, "/models", q="rebook")
    assert "flight_delay" not in seen(api, "/models", owner="growth")
    assert "No model is like this" in seen(api, "/models", q="nothing of this name")


def test_retired_models_are_behind_a_link(api: Client) -> None:
    add(api, "gone")
    with api.world.ledger.transaction() as tx:
        tx.retire("gone")
    told = seen(api, "/models")
    assert "gone" not in told
    assert "Retired (1)" in told
    assert "gone" in seen(api, "/models", retired="true")
    assert "flight_delay" not in seen(api, "/models", retired="true")


def test_many_models_come_in_pages_and_cost_no_more_queries(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost() -> int:
        count = 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        sa.event.listen(api.world.ledger.engine, "before_cursor_execute", counted)
        assert api.get("/models").status_code == 200
        sa.event.remove(api.world.ledger.engine, "before_cursor_execute", counted)
        return count

    api.world.crown(1)
    few = cost()
    for number in range(30):
        add(api, f"m{number:02d}")
    assert cost() == few
    monkeypatch.setattr("ratchet.pages.models.MOST_SHOWN", 20)
    shown = seen(api, "/models")
    assert "m05" in shown
    assert "m25" not in shown
    (next_page,) = re.findall(r'href="/ratchet(/models\?after=[^"]+)"', api.get("/models").text)
    assert "m25" in seen(api, next_page)


# -- one model ---------------------------------------------------------------------------------------------------------


def test_the_page_of_a_model_tells_what_it_has_been_worth_with_promotions_marked(api: Client) -> None:
    promoted(api)
    page = api.get("/models/flight_delay").text
    told = seen(api, "/models/flight_delay")
    assert "On probation version 2 has earned 160 USD more than version 1 would have on 2 days" in told
    assert "version 2 was promoted on 2013-04-01" in page
    assert page.count('class="mark"') == 2
    assert "2013-03-01 to 2013-03-14 payoff, judged 2 +8.00 +7.50 +8.50 1,400" in told
    assert "2013-04-02 to 2013-04-03 uplift, watched 2 over 1 +0.80 −0.20 +1.80 200 probation" in told


def test_what_was_realised_is_a_line_of_its_own_per_version(api: Client) -> None:
    api.world.crown(1)
    with api.world.ledger.transaction() as tx:
        for week, version in enumerate((1, 1, 2)):
            start = date(2013, 4, 1) + timedelta(days=7 * week)
            end = start + timedelta(days=7)
            realised = {"estimate": 7.0 + week, "lower": 6.0, "upper": 9.0, "rows": 700, "days": 7}
            realised |= {"first_day": start.isoformat(), "last_day": (end - timedelta(days=1)).isoformat()}
            found = {"payoff": {"outcome": "held", "said": "fine", "realised": realised}, "cause": "nothing moved"}
            window = {"window": {"start": start.isoformat(), "end": end.isoformat()}}
            at = datetime.combine(end, datetime.min.time(), tzinfo=UTC)
            tx.save_monitored(MonitoredRow(api.world.model, at, "done", api.world.spec.digest, version, found | window))
    page = api.get("/models/flight_delay").text
    assert page.count('class="realised-line"') == 2
    assert page.count('class="realised"') == 3
    assert "Version 2 earned +9.00 USD +6.00 to +9.00 per decision on the 7 days" in seen(api, "/models/flight_delay")
    assert "held payoff: fine" in seen(api, "/models/flight_delay")


def test_the_last_verdict_is_a_picture_and_a_sentence(api: Client) -> None:
    judged(api, "keep_champion", estimate=-0.32, lower=-2.31, upper=1.66)
    told = seen(api, "/models/flight_delay")
    assert "keep the champion On 1,400 decisions of 14 days version 2 earned 0.320 USD per decision less" in told
    assert "less than version 1: −448 USD in all" in told
    assert "at least −2.31 and at most +1.66, each one-sided" in told
    drawn = api.get("/models/flight_delay").text
    assert drawn.count('class="good"') == drawn.count('class="bad"') == 7
    assert 'class="band"' in drawn


def test_an_approval_tells_what_is_at_risk_and_until_when(api: Client) -> None:
    asked(api)
    told = seen(api, "/models/flight_delay")
    assert "Version 2 waits for approval Asked because the lower bound lies below 0.2." in told
    assert "12,345 USD are at risk. 1 of 2 people agreed." in told
    assert "in 2 days" in told
    assert "Ann: approve" in told


def test_open_events_say_what_they_wait_for_and_until_when(api: Client) -> None:
    api.world.crown(1)
    api.world.drift(datetime(2013, 1, 1, tzinfo=UTC))
    told = seen(api, "/models/flight_delay")
    (row,) = api.get("/v1/events").json()["items"]
    says = "psi, severity 0.8, window 2012-12-31 00:00 to 2013-01-01 00:00"
    assert f"drift detected2013-01-01 00:00{says} deferred {row['reason']} {row['until'][:10]}" in told
    assert re.search(r"in \d+ days All events", told)


@pytest.mark.parametrize(
    ("user", "shown", "hidden"),
    [
        ("ada", ("retrain", "rollback?version=1", "snooze", "replay", "approve", "reject"), ("wake",)),
        ("vic", (), ("retrain", "rollback", "snooze", "wake", "replay", "approve", "reject")),
    ],
)
def test_acts_are_shown_to_whoever_may(api: Client, user: str, shown: tuple, hidden: tuple) -> None:
    asked(api)
    with api.world.ledger.transaction() as tx:
        tx.insert_champion(ChampionRow("flight_delay", 2, 3, None, "promotion", APRIL, None, "r", None, tx.wall()))
    links = re.findall(
        r'href="(/ratchet/(?:models|attempts)/[^"]+/[a-z]+(?:\?[^"]+)?)"', api.get("/models/flight_delay", user).text
    )
    for act in shown:
        assert any(link.endswith(f"/{act}") for link in links), act
    for act in hidden:
        assert not any(f"/{act}" in link for link in links), act


def test_a_model_without_anything_says_what_to_do(api: Client) -> None:
    told = seen(api, "/models/flight_delay")
    assert "ratchet champion init flight_delay" in told
    assert "monitor: {}" in told
    for empty in ("No attempt has been judged yet", "Nothing waits", "Nothing was tried yet", "Nobody has served yet"):
        assert empty in told
    assert "<svg" not in api.get("/models/flight_delay").text


def test_nobody_sees_a_model_that_is_not_for_them(api: Client) -> None:
    assert api.get("/models/flight_delay", "nob").status_code == 403
    assert api.get("/models/none").status_code == 404


# -- the tab of a DAG --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retrain", "promote", "rollback", "monitor", "score"])
def test_the_tab_of_a_models_dag_is_the_models_page_without_our_navigation(api: Client, verb: str) -> None:
    page = api.get(f"/dag/{verb}__flight_delay").text
    assert "<h1>flight_delay</h1>" in page
    assert "<nav" not in page
    assert 'data-airflow href="/plugin/ratchet/ratchet/models/flight_delay"' in page


def test_the_tab_of_any_other_dag_says_what_ratchet_is(api: Client) -> None:
    for dag in ("etl", "ratchet__sweep", "retrain__none", "etl__flight_delay"):
        told = api.get(f"/dag/{dag}")
        assert told.status_code == 200
        assert "This DAG is of no model" in told.text
        assert 'href="/plugin/ratchet"' in told.text
    assert "works for all models" in api.get("/dag/ratchet__sweep").text
    assert "flight_delay</h1>" not in api.get("/dag/retrain__flight_delay", "nob").text


# -- texts of others, and those who do not see -------------------------------------------------------------------------


def test_texts_of_others_are_texts(api: Client) -> None:
    clusters = [day | {"label": f"{EVIL}{i}"} for i, day in enumerate(CLUSTERS)]
    check = {"metric": EVIL, "slice": EVIL, "required": EVIL, "passed": False, "detail": EVIL}
    attempt = asked(api, EVIL)
    api.world.drift(APRIL, check=EVIL)
    plain = api.world.spec.model_dump(mode="json")
    payoff = plain["business"] | {"goal": EVIL, "payoff": plain["business"]["payoff"] | {"unit": EVIL}}
    add(api, "flight_delay", business=payoff, owner={"team": EVIL, "email": EVIL, "escalation": EVIL})
    found = {"quality": {"outcome": EVIL, "said": EVIL}, "cause": EVIL}
    with api.world.ledger.transaction() as tx:
        record = tx.attempt(attempt).verdict_record | {"unit": EVIL, "reasons": [EVIL], "checks": [check]}
        record |= {"diagnostics": {"clusters": clusters}}
        tx.update_attempt(attempt, verdict_record=record, actor=EVIL, reason=EVIL, failure=EVIL)
        tx.insert_champion(ChampionRow("flight_delay", 2, 2, attempt, EVIL[:10], APRIL, EVIL, EVIL, None, tx.wall()))
        tx.set_due("flight_delay", tx.wall(), "due")
        tx.hold("flight_delay", EVIL)
        tx.save_monitored(MonitoredRow("flight_delay", APRIL, "done", api.world.spec.digest, 1, found))
    for path in (
        "/models",
        "/models/flight_delay",
        f"/models?q={EVIL}&owner={EVIL}&show={EVIL}",
        f"/dag/{EVIL[1:7]}{EVIL[:8]}",
    ):
        page = api.get(path).text
        assert "script&gt;" in page, path
        assert "<script>" not in page, path


def test_the_pages_say_to_everybody_what_they_show(api: Client) -> None:
    promoted(api)
    api.world.drift(APRIL)
    add(api, "alpha")
    for path in ("/models", "/models/flight_delay", "/models/alpha", "/dag/retrain__flight_delay", "/dag/etl"):
        page = api.get(path).text
        assert page.count("<h1") == 1, path
        assert not re.search(r'\sstyle="|<style|\son[a-z]+="', page), path
        headings = [int(level) for level in re.findall(r"<h([1-6])", page)]
        assert all(after - before <= 1 for before, after in pairwise(headings)), path
        for svg in re.findall(r"<svg[^>]*>", page):
            assert 'role="img"' in svg, path
            assert re.search(r'aria-label="[^"]{20,}"', svg), path
        assert len(re.findall(r"<table", page)) == len(re.findall(r"<caption", page)), path
        assert "<th>" not in page, path
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids)), path
        named = re.findall(r'role="region" aria-label="([^"]+)"', page)
        assert len(named) == len(set(named)), path


def test_no_picture_is_drawn_of_nothing() -> None:
    assert figures.payoff_over_time(s.Earnings(unit=None, estimates=[], champions=[])) is None
