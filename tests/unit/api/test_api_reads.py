"""What the API shows is what the ledger holds, page by page."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api_worlds import Client

from ratchet.domain.spec import ModelSpec
from ratchet.errors import Unavailable
from ratchet.ports.ledger import ProbationRow
from ratchet.workflow import dossiers, overview

DAY = datetime(2013, 1, 2, tzinfo=UTC)
APRIL = datetime(2013, 4, 1, 4, tzinfo=UTC)


def judged(api: Client, decision: str = "promote") -> str:
    """An attempt with a verdict; returns its id."""
    api.world.crown(1)
    api.world.arrive(APRIL)
    attempt = api.world.claim()["attempt"]
    api.world.judge(attempt, decision)
    return str(attempt)


def test_a_model_at_a_glance(api: Client) -> None:
    attempt = judged(api)
    api.world.drift(APRIL)
    (told,) = api.get("/v1/models").json()["items"]
    assert told["model"] == "flight_delay"
    assert told["owner"]["team"] == api.world.spec.owner.team
    assert (told["champion"]["version"], told["champion"]["seq"]) == (1, 1)
    assert told["age_days"] == pytest.approx(90, abs=1)
    assert (told["last_verdict"]["attempt_id"], told["last_verdict"]["decision"]) == (attempt, "promote")
    assert sum(told["open_events"].values()) >= 1
    assert told["budget"]["runs_today"] == 1
    assert told["budget"]["runs_per_day"] == api.world.spec.retrain.budget.runs_per_day
    assert api.get("/v1/models/flight_delay").json() == told
    assert api.get("/v1/models", params={"owner": "nobody"}).json() == {"items": [], "next": None}
    assert [row["seq"] for row in api.get("/v1/models/flight_delay/champions").json()] == [1]


def test_models_come_in_pages_by_name(api: Client) -> None:
    with api.world.ledger.transaction() as tx:
        for name in ("alpha", "omega"):
            spec = api.world.spec.model_copy(update={"model": name})
            tx.publish_spec(name, spec.digest, spec.model_dump(mode="json"))
    first = api.get("/v1/models", params={"limit": 2}).json()
    second = api.get("/v1/models", params={"limit": 2, "cursor": first["next"]}).json()
    assert [row["model"] for row in (*first["items"], *second["items"])] == ["alpha", "flight_delay", "omega"]
    assert second["next"] is None


def test_a_spec_that_is_deployed_anew_is_told_at_once(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MOST_KNOWN", 2)

    def deployed(name: str, team: str) -> None:
        document = api.world.spec.model_dump(mode="json")
        owner = document["owner"] | {"team": team}
        spec = ModelSpec.model_validate(document | {"model": name, "owner": owner})
        with api.world.ledger.transaction() as tx:
            tx.publish_spec(name, spec.digest, spec.model_dump(mode="json"))

    def owners(**asked: Any) -> dict[str, str]:
        return {row["model"]: row["owner"]["team"] for row in api.get("/v1/models", params=asked).json()["items"]}

    for name in ("alpha", "beta", "gamma"):
        deployed(name, "first")
    before = {"alpha": "first", "beta": "first", "gamma": "first"}
    assert owners() == before | {"flight_delay": api.world.spec.owner.team}
    deployed("beta", "second")
    assert owners(owner="second") == {"beta": "second"}
    assert owners(owner="first") == {"alpha": "first", "gamma": "first"}


def test_each_budget_is_of_the_models_own_day_and_month(api: Client) -> None:
    document = api.world.spec.model_dump(mode="json") | {"model": "tokyo"}
    document["data"]["spine"] |= {"timezone": "Asia/Tokyo"}
    tokyo = ModelSpec.model_validate(document)
    judged(api)
    with api.world.ledger.transaction() as tx:
        tx.publish_spec("tokyo", tokyo.digest, tokyo.model_dump(mode="json"))
        (here,) = tx.attempts(model="flight_delay")
        there = replace(here, id="tokyo.1", model="tokyo", spec_digest=tokyo.digest)
        tx.start_attempt(there, 60)
        for attempt in (here, there):
            # Six in the morning in New York, seven in the evening in Tokyo, of the first of April in both.
            tx.update_attempt(attempt.id, business_at=datetime(2013, 4, 1, 10, tzinfo=UTC))
            tx.save_step(attempt.id, "snapshot", {}, tx.wall() - timedelta(hours=1))
        # Still the first of April in New York, the second in Tokyo.
        tx.set_clock("replay", datetime(2013, 4, 2, 2, tzinfo=UTC))
    budgets = {row["model"]: row["budget"] for row in api.get("/v1/models").json()["items"]}
    assert {model: budget["runs_today"] for model, budget in budgets.items()} == {"flight_delay": 1, "tokyo": 0}
    assert budgets["flight_delay"]["core_hours_today"] > 0
    assert budgets["tokyo"]["core_hours_today"] == 0
    assert budgets["tokyo"]["core_hours_month"] == pytest.approx(budgets["flight_delay"]["core_hours_month"], rel=0.1)


def test_events_come_in_pages_with_their_fates(api: Client) -> None:
    for hours in range(5):
        api.world.drift(DAY + timedelta(hours=hours))
    seen, cursor = [], None
    while True:
        page = api.get("/v1/events", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    assert [row["number"] for row in seen] == [5, 4, 3, 2, 1]
    assert all(row["fate"] and row["reason"] and row["time"].endswith("Z") for row in seen)
    one = api.get(f"/v1/events/{seen[0]['number']}").json()
    assert one["fates"][0]["reason"] == "received"
    assert one["fates"][-1]["fate"] == one["fate"] == seen[0]["fate"]
    assert one["record"].startswith("ml.drift:0:")
    assert api.get("/v1/events", params={"fate": "started"}).json()["items"] == []
    assert len(api.get("/v1/events", params={"fate": [seen[0]["fate"]], "limit": 200}).json()["items"]) >= 1
    assert [row["id"] for row in api.get("/v1/events", params={"id": seen[1]["id"]}).json()["items"]] == [seen[1]["id"]]


def test_an_attempt_in_full_has_the_dossier_to_the_byte(api: Client) -> None:
    attempt = judged(api)
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert (told["dossier"], told["has_dossier"]) == (None, False)
    assert "dossier" in told["dossier_problem"]
    content = b'{"attempt": "x"}'
    api.world.store.put_bytes(dossiers.key_of(attempt), content)
    with api.world.ledger.transaction() as tx:
        tx.update_attempt(attempt, dossier_sha256=hashlib.sha256(content).hexdigest())
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert (told["dossier"], told["dossier_problem"]) == ({"attempt": "x"}, None)
    api.world.store.put_bytes(dossiers.key_of(attempt), b'{"attempt": "y"}')
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert told["dossier"] is None
    assert told["dossier_problem"]
    assert api.get("/v1/attempts/flight_delay@2").json()["id"] == attempt
    assert [row["id"] for row in api.get("/v1/attempts", params={"verdict": "promote"}).json()["items"]] == [attempt]
    assert api.get("/v1/attempts", params={"state": "failed"}).json()["items"] == []


def test_the_dossier_is_a_file_to_the_byte_as_the_ledger_recorded_it(api: Client) -> None:
    attempt = judged(api)
    assert api.get(f"/v1/attempts/{attempt}/dossier").status_code == 409
    content = b'{"attempt":   "x"}'
    digest = hashlib.sha256(content).hexdigest()
    api.world.store.put_bytes(dossiers.key_of(attempt), content)
    with api.world.ledger.transaction() as tx:
        tx.update_attempt(attempt, dossier_sha256=digest)
    sent = api.get(f"/v1/attempts/{attempt}/dossier")
    assert (sent.content, sent.headers["etag"]) == (content, f'"{digest}"')
    assert sent.headers["content-disposition"] == f"attachment; filename*=UTF-8''{attempt}.json"
    api.people.only["vic"] = set()
    assert api.get(f"/v1/attempts/{attempt}/dossier", "vic").status_code == 404
    api.world.store.put_bytes(dossiers.key_of(attempt), b"{}")
    assert api.get(f"/v1/attempts/{attempt}/dossier").status_code == 500


def test_an_attempt_says_what_became_of_its_version(api: Client) -> None:
    attempt = judged(api)
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert (told["served"], told["followed_by"], told["probation"]) == ([], None, None)
    api.world.promotions.promote("flight_delay")
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert [(entry["version"], entry["kind"]) for entry in told["served"]] == [(2, "promotion")]
    assert told["followed_by"] is None
    watched = {"model": "flight_delay", "seq": 2, "version": 2, "predecessor_seq": 1, "predecessor_version": 1}
    days = {"first_day": DAY.date(), "last_day": DAY.date() + timedelta(days=27), "since": DAY, "until": APRIL}
    said = {"state": "watching", "reason": "a watch", "plan": {}, "record": {}, "opened_at": DAY}
    with api.world.ledger.transaction() as tx:
        tx.insert_probation(ProbationRow(**watched, **days, **said, spec_digest=api.world.spec.digest))
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert told["probation"]["state"] == "watching"
    assert (told["probation"]["version"], told["probation"]["predecessor_version"]) == (2, 1)
    api.world.promotions.rollback("flight_delay", 1, "ann", "no good")
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert (told["followed_by"]["version"], told["followed_by"]["kind"]) == (1, "rollback")
    assert told["probation"]["state"] == "superseded"


def test_an_attempt_says_what_its_steps_took(api: Client) -> None:
    attempt = judged(api)
    with api.world.ledger.transaction() as tx:
        tx.save_step(attempt, "snapshot", {}, tx.wall() - timedelta(hours=2))
    told = api.get(f"/v1/attempts/{attempt}").json()
    assert told["core_hours"] == pytest.approx(2 * api.world.spec.runtime.threads, rel=1e-3)


def test_the_attempt_of_a_run_is_found_by_the_run(api: Client) -> None:
    attempt = judged(api)
    run = {"dag_id": "retrain__flight_delay", "dag_run_id": "run1"}
    assert [row["id"] for row in api.get("/v1/attempts", params=run).json()["items"]] == [attempt]
    assert api.get("/v1/attempts", params=run | {"dag_run_id": "run2"}).json()["items"] == []
    assert api.get("/v1/attempts", params=run | {"dag_id": "other"}).json()["items"] == []


def test_the_audit_log_says_who_did_what(api: Client) -> None:
    with api.world.ledger.transaction() as tx:
        tx.audit("ann", "clock.set", None, {"reason": "general"})
        tx.audit("ann", "champion.promoted", "flight_delay", {})
    assert [row["action"] for row in api.get("/v1/audit").json()["items"]] == ["champion.promoted", "clock.set"]
    api.people.only["vic"] = {"flight_delay"}
    assert [row["action"] for row in api.get("/v1/audit", "vic").json()["items"]] == ["champion.promoted"]
    assert api.get("/v1/audit", "nob").json()["items"] == []


def test_dead_letters_say_why_and_not_what(api: Client) -> None:
    api.world.intake.store([api.world.raw(b"secret, no JSON")])
    answer = api.get("/v1/dead-letters")
    (letter,) = answer.json()["items"]
    assert letter["record"] == "ml.drift:0:0"
    assert letter["reason"].startswith("not_")
    assert "secret" not in answer.text.replace(letter["reason"], "")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "MQ",
        base64.urlsafe_b64encode(b'"x"').decode(),
        base64.urlsafe_b64encode(b"-1").decode(),
        base64.urlsafe_b64encode(json.dumps(2**70).encode()).decode(),
        base64.urlsafe_b64encode(b'["0001-01-01T00:00:00Z", "x"]').decode(),
    ],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/attempts", "/v1/audit", "/v1/dead-letters"])
def test_a_cursor_that_is_none_of_ours_is_refused(api: Client, path: str, cursor: str) -> None:
    assert api.get(path, params={"cursor": cursor}).status_code == 400


def test_what_is_not_there_is_a_problem_that_says_so(api: Client) -> None:
    answer = api.get("/v1/models/flight_dely")
    told: dict[str, Any] = answer.json()
    assert answer.status_code == told["status"] == 404
    assert set(told) == {"type", "title", "status", "detail", "instance"}
    assert told["instance"] == "/ratchet/v1/models/flight_dely"
    for path in ("/v1/attempts/x", "/v1/attempts/flight_delay@99", "/v1/events/99", "/v1/nothing", "/v1"):
        assert api.get(path).status_code == 404, path
    assert api.ask("PUT", "/v1/models").status_code == 405


def test_the_ledger_being_away_is_told_as_such(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise Unavailable("the ledger did not answer")

    monkeypatch.setattr(api.world.ledger, "transaction", away)
    answer = api.get("/v1/models")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
