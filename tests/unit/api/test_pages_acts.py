"""Acts on the pages: a form asks, the API's own function does it, and what is wrong stands beside what was written."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from api_worlds import Client
from test_api_acts import APRIL, awaited

FORMS = {
    "/models/flight_delay/retrain": "retrain",
    "/models/flight_delay/rollback": "rollback",
    "/models/flight_delay/snooze": "retrain",
    "/models/flight_delay/wake": "retrain",
    "/models/flight_delay/replay": "retrain",
    "/dead-letters/replay": "retrain",
}


def fill(api: Client, path: str, user: str = "ada", **fields: Any) -> Any:
    return api.post(path, user, data=fields)


def text(answer: Any) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", answer.text)))


@pytest.mark.parametrize("path", FORMS)
def test_who_may_not_gets_no_form_and_does_nothing(api: Client, path: str) -> None:
    api.world.crown(1)
    assert api.get(path, "vic").status_code == 403
    assert fill(api, path, "vic", reason="r").status_code == 403
    assert api.get(path).status_code == 200


@pytest.mark.parametrize("path", FORMS)
def test_without_a_reason_nothing_is_done_and_what_was_written_stays(api: Client, path: str) -> None:
    api.world.crown(1)
    api.world.crown(2)
    answer = fill(api, path, reason="  ", record="ml.drift:0:7", trials="12", version="1", **{"for": "3d"})
    assert answer.status_code == 422
    assert 'id="fault-reason"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    kept = ('value="ml.drift:0:7"', 'value="12"', 'value="1" selected', "datetime", 'value="3d"')
    assert path.endswith("/wake") or any(each in answer.text for each in kept)
    assert api.people.started == []
    assert api.audited("champion") == api.audited("model") == []


def test_a_run_is_started_with_the_form_as_airflow_knows_it(api: Client) -> None:
    api.world.crown(1)
    answer = fill(api, "/models/flight_delay/retrain", reason="new routes", trials="12", dry_run="on", window_end="")
    assert answer.status_code == 303, text(answer)
    assert answer.headers["location"] == "/ratchet/run/retrain__flight_delay/manual__1"
    (started,) = api.people.started
    assert started[:2] == ("ada", "flight_delay")
    asked = {"reason": "new routes", "trials": 12, "dry_run": True, "window_end": None}
    assert started[2] == asked | {"override_budget": False, "first_champion": False}


def test_what_airflow_refuses_is_said_beside_the_form(api: Client) -> None:
    api.world.crown(1)
    api.people.refusal = "Airflow started no run for ada: the DAG has import errors"
    answer = fill(api, "/models/flight_delay/retrain", reason="<b>now</b>")
    assert answer.status_code == 409
    assert "the DAG has import errors" in text(answer)
    assert "&lt;b&gt;now&lt;/b&gt;</textarea>" in answer.text


def test_a_value_beyond_its_limits_is_said_beside_its_field(api: Client) -> None:
    api.world.crown(1)
    answer = fill(api, "/models/flight_delay/retrain", reason="r", trials="5000")
    assert answer.status_code == 422
    assert "less than or equal to 1000" in re.search(r'id="fault-trials">([^<]*)', answer.text).group(1)


def test_a_champion_is_taken_back_and_the_page_says_who_serves(api: Client) -> None:
    api.world.crown(1)
    api.world.crown(2)
    asked = api.get("/models/flight_delay/rollback?version=1")
    assert '<option value="1" selected>' in asked.text
    assert "version 2" in text(asked)
    answer = fill(api, "/models/flight_delay/rollback", reason="worse in the east", version="1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ratchet/models/flight_delay")
    (entry,) = api.audited("champion.rolledback")
    assert (entry["actor"], entry["detail"]["user_id"], entry["detail"]["to"]) == ("ada", "id of ada", 1)


def test_a_rule_that_says_no_is_told_beside_the_form(api: Client) -> None:
    api.world.crown(1)
    answer = fill(api, "/models/flight_delay/rollback", reason="r")
    assert answer.status_code == 409
    assert 'role="alert"' in answer.text


def test_a_model_is_let_sleep_and_woken_knowing_who_had_let_it(api: Client) -> None:
    path = "/models/flight_delay"
    assert "Sleeps now no" in text(api.get(f"{path}/snooze"))
    wrong = fill(api, f"{path}/snooze", reason="r", **{"for": "soon"})
    assert (wrong.status_code, 'id="fault-for"' in wrong.text) == (422, True)
    assert "30d at most" in text(fill(api, f"{path}/snooze", reason="r", **{"for": "31d"}))
    answer = fill(api, f"{path}/snooze", reason="labels are being mended", until="2013-01-04T00:00", **{"for": ""})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ratchet/models/flight_delay")
    (entry,) = api.audited("model.snoozed")
    assert (entry["actor"], entry["detail"]["until"]) == ("ada", "2013-01-04T00:00:00+00:00")
    asked = text(api.get(f"{path}/wake"))
    assert "Sleeps until 2013-01-04 00:00 UTC By ada labels are being mended" in asked
    assert fill(api, f"{path}/wake", reason="mended").status_code == 303
    assert [entry["detail"]["reason"] for entry in api.audited("model.woken")] == ["mended"]


@pytest.mark.parametrize(("verb", "action"), [("approve", "approval.approved"), ("reject", "approval.rejected")])
def test_people_answer_knowing_what_is_at_stake(api: Client, verb: str, action: str) -> None:
    attempt = awaited(api)
    asked = text(api.get(f"/attempts/{attempt}/{verb}"))
    for word in ("Uplift", "Agreed", "0 of 1", "Open until", "Challenger", "version 2"):
        assert word in asked
    assert api.get(f"/attempts/{attempt}/{verb}", "vic").status_code == 403
    assert api.get(f"/attempts/{attempt}/{verb}", "nob").status_code == 404
    answer = fill(api, f"/attempts/{attempt}/{verb}", reason="looks right")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/ratchet/attempts/{attempt}")
    (entry,) = api.audited(action)
    assert (entry["actor"], entry["detail"]["reason"]) == ("ada", "looks right")
    late = fill(api, f"/attempts/{attempt}/{verb}", reason="again")
    assert late.status_code == 409


def test_events_get_another_chance(api: Client) -> None:
    api.world.drift(APRIL, severity=0.01)
    answer = fill(
        api, "/models/flight_delay/replay", reason="the bound was wrong", since="2020-01-01T00:00", fates="suppressed"
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/ratchet/events?model=flight_delay")
    (entry,) = api.audited("events.replayed")
    assert entry["detail"]["fates"] == ["suppressed"]


def test_a_dead_letter_is_read_again(api: Client) -> None:
    api.world.intake.store([api.world.raw(b"no JSON")])
    asked = api.get("/dead-letters/replay?record=ml.drift:0:0")
    assert 'value="ml.drift:0:0"' in asked.text
    answer = fill(api, "/dead-letters/replay", reason="the registry was mended", record="")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ratchet/dead-letters")
    (entry,) = api.audited("events.replayed")
    assert (entry["actor"], entry["detail"]["reason"]) == ("ada", "the registry was mended")


@pytest.mark.parametrize("path", FORMS)
def test_a_form_from_another_site_is_refused(api: Client, path: str) -> None:
    api.world.crown(1)
    evil = {"Cookie": "_token=ada", "Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"}
    answer = api.post(path, None, data={"reason": "r"}, headers=evil)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert api.people.started == []
    own = evil | {"Origin": "http://airflow.test", "Sec-Fetch-Site": "same-origin"}
    assert api.post(path, None, data={"reason": "r"}, headers=own).status_code in {303, 409, 422}
