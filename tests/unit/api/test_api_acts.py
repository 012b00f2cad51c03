"""What people do over HTTP: the verbs' own rules hold, and the audit log names them, their id, their reason."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from api_worlds import Client

from ratchet.domain.events import DriftDetected, parse
from ratchet.domain.spec import ModelSpec

APRIL = datetime(2013, 4, 1, 4, tzinfo=UTC)


def awaited(api: Client) -> str:
    """An attempt about which people are asked; returns its id."""
    document = api.world.spec.model_dump(mode="json")
    document["gate"]["approval"] = "always"
    spec = ModelSpec.model_validate(document)
    with api.world.ledger.transaction() as tx:
        tx.publish_spec("flight_delay", spec.digest, spec.model_dump(mode="json"))
    api.world.crown(1)
    api.world.arrive(APRIL)
    attempt = api.world.claim()["attempt"]
    api.world.judge(attempt, "promote")
    assert api.world.promotions.promote("flight_delay")["awaiting_approval"] == attempt
    return str(attempt)


def test_a_retrain_is_asked_for_in_the_persons_own_name(api: Client) -> None:
    answer = api.post("/v1/models/flight_delay/retrain", json={"reason": " new routes "})
    assert answer.status_code == 202
    (entry,) = api.audited("retrain.requested")
    assert (entry["actor"], entry["model"]) == ("ada", "flight_delay")
    assert entry["detail"] == {
        "event": answer.json()["id"],
        "reason": "new routes",
        "user_id": "id of ada",
        "via": "api",
    }
    assert api.published() == [], "the relay tells it: no request waits for Kafka"
    api.world.relay.publish()
    (record,) = api.published()
    event = parse(record.value, record.headers)
    assert (event.id, event.source, event.subject) == (answer.json()["id"], "/ratchet/api", "flight_delay")
    assert (event.data.actor, event.data.reason) == ("ada", "new routes")


def test_a_champion_is_taken_back_by_whoever_the_log_names(api: Client) -> None:
    api.world.crown(1)
    assert api.post("/v1/models/flight_delay/rollback", json={"reason": "worse"}).status_code == 409
    api.world.crown(2)
    answer = api.post("/v1/models/flight_delay/rollback", json={"reason": "worse in the east", "version": 1})
    assert (answer.status_code, answer.json()) == (200, {"model": "flight_delay", "version": 1, "before": 2})
    (entry,) = api.audited("champion.rolledback")
    assert entry["actor"] == "ada"
    assert entry["detail"] == {
        "from": 2,
        "to": 1,
        "reason": "worse in the east",
        "user_id": "id of ada",
        "via": "api",
    }
    assert api.get("/v1/models/flight_delay").json()["champion"]["version"] == 1
    assert api.post("/v1/models/flight_delay/rollback", json={"reason": "r", "version": 77}).status_code == 409


def test_a_request_for_approval_is_shown_answered_and_then_gone(api: Client) -> None:
    attempt = awaited(api)
    (asked,) = api.get("/v1/approvals").json()
    assert (asked["attempt_id"], asked["state"], asked["people"]) == (attempt, "awaiting_approval", 1)
    assert api.get("/v1/models/flight_delay").json()["approvals_waiting"] == [attempt]
    answer = api.post(f"/v1/attempts/{attempt}/approve", json={"reason": "looks right"})
    assert (answer.status_code, answer.json()["state"]) == (200, "concluded")
    (entry,) = api.audited("approval.approved")
    assert (entry["actor"], entry["detail"]["user_id"], entry["detail"]["via"]) == ("ada", "id of ada", "api")
    assert api.get("/v1/approvals").json() == []
    assert api.get("/v1/models/flight_delay").json()["champion"]["version"] == 2
    late = api.post(f"/v1/attempts/{attempt}/reject", json={"reason": "too late"})
    assert late.status_code == 409
    (refused,) = api.audited("approval.refused")
    assert refused["actor"] == "ada"


def test_a_refusal_keeps_the_champion(api: Client) -> None:
    attempt = awaited(api)
    assert api.post(f"/v1/attempts/{attempt}/reject", json={"reason": "not in peak season"}).status_code == 200
    assert api.get("/v1/models/flight_delay").json()["champion"]["version"] == 1
    approval = api.get(f"/v1/attempts/{attempt}").json()["approval"]
    assert [(each["actor"], each["answer"]) for each in approval["answers"]] == [("ada", "reject")]


def test_who_may_see_an_attempt_may_not_therefore_answer_for_it(api: Client) -> None:
    attempt = awaited(api)
    assert api.post(f"/v1/attempts/{attempt}/approve", "vic", json={"reason": "r"}).status_code == 403
    assert api.post(f"/v1/attempts/{attempt}/approve", "nob", json={"reason": "r"}).status_code == 404
    assert api.audited("approval.approved") == []


def test_events_that_ended_get_another_chance_by_the_models_own_name_alone(api: Client) -> None:
    api.world.drift(datetime(2013, 1, 2, tzinfo=UTC), severity=0.01)
    (told,) = api.get("/v1/events").json()["items"]
    assert told["fate"] == "suppressed"
    asked = {"reason": "the bound was wrong", "since": "2020-01-01T00:00:00+02:00", "fates": ["suppressed"]}
    path = "/v1/models/flight_delay/replay"
    assert api.post(path, json=asked | {"dry_run": True}).json() == {"reopened": 1, "too_old": 0, "retired": 0}
    assert api.audited("events.replayed") == []
    assert api.post(path, json=asked).json()["reopened"] == 1
    (entry,) = api.audited("events.replayed")
    assert (entry["actor"], entry["detail"]["user_id"]) == ("ada", "id of ada")
    assert entry["detail"]["models"] == ["flight_delay"]
    fates = api.get("/v1/events/1").json()["fates"]
    assert "replayed by ada: the bound was wrong" in [each["reason"] for each in fates]


def test_a_dead_letter_is_read_again(api: Client) -> None:
    data = DriftDetected(
        check="psi",
        severity=0.7,
        window_start=datetime(2013, 1, 1, tzinfo=UTC),
        window_end=datetime(2013, 1, 2, tzinfo=UTC),
    )
    record = api.world.publish(data, "stranger", datetime(2013, 1, 2, tzinfo=UTC))
    with api.world.ledger.transaction() as tx:
        (held,) = tx.held_records()
        tx.resolve_held(held.pk, "rejected", "unknown_model: stranger")
        spec = api.world.spec.model_copy(update={"model": "stranger"})
        tx.publish_spec("stranger", spec.digest, spec.model_dump(mode="json"))
    spot = f"{record.topic}:{record.partition}:{record.offset}"
    answer = api.post("/v1/dead-letters/replay", json={"reason": "it is deployed now", "record": spot})
    assert (answer.status_code, answer.json()["records"]) == (200, [spot])
    (entry,) = api.audited("events.replayed")
    assert (entry["actor"], entry["detail"]["via"]) == ("ada", "api")
    assert api.post("/v1/dead-letters/replay", json={"reason": "r", "record": "ml.drift:0:999"}).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "  "},
        {"reason": "a\u0000b"},
        {"reason": "x" * 501},
        {"reason": 7},
        {"reason": "r", "also": 1},
        [],
    ],
)
def test_no_act_without_a_reason_and_nothing_besides(api: Client, body: object) -> None:
    model = "/v1/models/flight_delay"
    for path in (*(f"{model}/{act}" for act in ("retrain", "rollback", "snooze", "wake")), "/v1/dead-letters/replay"):
        answer = api.post(path, json=body)
        assert answer.status_code == 422, path
        assert answer.json()["errors"][0]["rule"]
    assert api.audited("retrain") == []


def test_a_retired_model_is_not_retrained(api: Client) -> None:
    api.ratchet.retire("flight_delay", "ann", "replaced")
    answer = api.post("/v1/models/flight_delay/retrain", json={"reason": "r"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:ratchet:problem:refused")


def test_a_model_sleeps_and_wakes_by_the_word_of_whoever_the_log_names(api: Client) -> None:
    path = "/v1/models/flight_delay"
    assert api.get(path).json()["snoozed"] is None
    answer = api.post(f"{path}/snooze", json={"reason": " labels are being mended ", "for": "3d"})
    told = {
        "since": "2013-01-01T00:00:00Z",
        "until": "2013-01-04T00:00:00Z",
        "actor": "ada",
        "reason": "labels are being mended",
    }
    assert (answer.status_code, answer.json()) == (200, told)
    assert api.get(path).json()["snoozed"] == told
    assert [row["snoozed"] for row in api.get("/v1/models").json()["items"]] == [told]
    (entry,) = api.audited("model.snoozed")
    assert (entry["actor"], entry["model"]) == ("ada", "flight_delay")
    assert entry["detail"] == {
        "until": "2013-01-04T00:00:00+00:00",
        "reason": "labels are being mended",
        "user_id": "id of ada",
        "via": "api",
    }
    for woken in (True, False):
        answer = api.post(f"{path}/wake", json={"reason": "they are"})
        assert (answer.status_code, answer.json()) == (200, {"model": "flight_delay", "woken": woken})
    (entry,) = api.audited("model.woken")
    assert (entry["actor"], entry["detail"]["user_id"], entry["detail"]["via"]) == ("ada", "id of ada", "api")
    assert api.get(path).json()["snoozed"] is None


def test_a_snooze_that_ended_by_itself_is_told_no_more(api: Client) -> None:
    path = "/v1/models/flight_delay"
    api.post(f"{path}/snooze", json={"reason": "r", "until": "2013-01-02T00:00:00Z"})
    assert api.get(path).json()["snoozed"]
    with api.world.ledger.transaction() as tx:
        tx.set_clock("replay", datetime(2013, 1, 2, tzinfo=UTC))
    assert api.get(path).json()["snoozed"] is None


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 409),
        ({"for": "3d", "until": "2013-01-03T00:00:00Z"}, 409),
        ({"for": "31d"}, 409),
        ({"for": "99999w"}, 409),
        ({"until": "2012-12-31T00:00:00Z"}, 409),
        ({"until": "2013-02-01T00:00:00Z"}, 409),
        ({"for": "0d"}, 422),
        ({"for": "soon"}, 422),
        ({"length": "3d"}, 422),
        ({"until": "2013-01-03T00:00:00"}, 422),
    ],
)
def test_a_snooze_says_how_long_or_until_when_and_has_an_end_that_is_near(
    api: Client, asked: dict[str, str], status: int
) -> None:
    answer = api.post("/v1/models/flight_delay/snooze", json={"reason": "r"} | asked)
    assert answer.status_code == status, answer.text
    assert api.audited("model.snoozed") == []


def test_how_many_queries_tell_of_models_does_not_depend_on_how_many_sleep(api: Client) -> None:
    counted: list[str] = []
    sa.event.listen(api.world.ledger.engine, "before_cursor_execute", lambda *args: counted.append(args[2]))
    api.get("/v1/models")  # what the specs say is read once
    asked = []
    for name in ("alpha", "beta", "gamma"):
        with api.world.ledger.transaction() as tx:
            spec = api.world.spec.model_copy(update={"model": name})
            tx.publish_spec(name, spec.digest, spec.model_dump(mode="json"))
        api.post(f"/v1/models/{name}/snooze", json={"reason": "r", "for": "1d"})
        counted.clear()
        rows = api.get("/v1/models").json()["items"]
        asked.append(len(counted))
    assert [row["model"] for row in rows if row["snoozed"]] == ["alpha", "beta", "gamma"]
    assert len(set(asked)) == 1
