"""One event in, a champion out, on real Kafka, PostgreSQL, Airflow, Feast, Optuna and MLflow.

The small model's gate lets every challenger through (see ``small_model``): these tests show the path.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from running_system import PROMOTE, RETRAIN, FirstChampion, System
from small_model import FRESH_DAYS

from ratchet.adapters.connections import EnvResolver, kafka_config
from ratchet.domain import events as cloudevents
from ratchet.ports.bus import DEAD_LETTER, DRIFT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

EVENTS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "events.md"
VERDICTS = {"promote", "keep_champion", "not_enough_evidence"}


def test_data_waits_for_the_first_champion_which_a_person_asks_for(
    system: System, first_champion: FirstChampion | None
) -> None:
    if first_champion is None:
        pytest.skip("this stack had a champion before the session")
    assert all(
        "no_champion: make the first with 'ratchet champion init" in row.reason for row in first_champion.waiting
    )
    assert all(row.until is not None for row in first_champion.waiting)
    assert "concluded, verdict promote" in first_champion.said
    first = system.attempt(str(first_champion.answered[0].attempt_id))
    assert (first.trigger, first.actor, first.reason) == ("init", "admin", "the first champion of the tests")
    system.until("the alias of the first champion", system.alias_follows)


def test_data_that_arrives_becomes_a_better_champion_and_the_world_is_told(system: System) -> None:
    before = system.champion()
    ids = system.fresh_days(2 * FRESH_DAYS)
    attempt = system.ended(system.attempt_of(event_id=ids[0]))
    assert (attempt.state, attempt.verdict, attempt.trigger) == ("concluded", "promote", "data")

    champion = system.champion()
    assert (champion.seq, champion.version) == (before.seq + 1, attempt.challenger_version)
    system.until("the alias to follow the ledger", system.alias_follows)

    told = system.until("the decision on ml.decisions", lambda: system.decisions_on(attempt))
    assert {event["type"] for event in told} == {"ratchet.model.promoted.v1"}
    assert told[0]["data"]["champion_before"] == before.version
    assert told[0]["data"]["champion_after"] == champion.version
    assert set(ids) <= set(told[0]["data"]["events"])

    dossier = system.dossier(attempt)
    assert set(ids) <= {event["id"] for event in dossier["events"]}
    assert dossier["verdict"]["decision"] == "promote"
    assert dossier["evidence_digest"] == champion.evidence_digest
    for event_id in ids:
        row = system.event(event_id)
        assert row is not None
        assert system.terminal_fates(row) in (["started"], ["merged"])
    assert system.unsettled() == []
    system.until(
        f"the run of {PROMOTE} to say so in Airflow",
        lambda: [t for t in system.tasks(PROMOTE, state="success") if t["task_id"] == "champion"],
    )


def test_a_run_by_hand_ends_in_a_verdict_and_its_dossier_names_the_user_and_the_reason(system: System) -> None:
    system.fresh_days()
    reason = "the routes of the new season"
    run_id = system.airflow("ursula").trigger(RETRAIN, {"reason": reason, "trials": 1})
    attempt = system.ended(system.attempt_of(run_id=run_id))
    assert attempt.verdict in VERDICTS
    dossier = system.dossier(attempt)
    assert (dossier["actor"], dossier["reason"], dossier["trigger"]) == ("ursula", reason, "manual")
    assert (dossier["options"]["trials"], dossier["run"]["id"]) == (1, run_id)
    (asked,) = [event for event in dossier["events"] if event["trigger"]]
    assert asked["data"] == {"reason": reason, "actor": "ursula"}


def test_an_unknown_key_of_the_form_is_refused_by_the_first_task(system: System) -> None:
    known = len(system.attempts())
    run_id = system.airflow().trigger(RETRAIN, {"reason": "a try", "trails": 3})
    assert system.run_ends(RETRAIN, run_id) == "failed"
    (claim,) = [task for task in system.tasks(RETRAIN, run_id) if task["task_id"] == "claim"]
    assert (claim["state"], claim["try_number"]) == ("failed", 1)
    assert len(system.attempts()) == known


NO_NEWS = ("observation:monitor:", "trace:", "lineage:")
"""What another model's monitor finds in the days that arrive, told whenever it has looked; and what whoever watches the
system is told of any run."""


def test_a_dry_run_gives_a_verdict_and_claims_promotes_and_publishes_nothing(system: System) -> None:
    ids = system.fresh_days()
    champion, outbox = system.champion(), system.outbox()
    run_id = system.airflow("ursula").trigger(RETRAIN, {"reason": "what if", "dry_run": True, "trials": 1})
    attempt = system.ended(system.attempt_of(run_id=run_id))
    assert (attempt.state, attempt.verdict) == ("concluded", "promote")
    assert system.run_ends(RETRAIN, run_id) == "success"
    assert system.champion() == champion
    assert system.alias() == champion.version
    assert not [name for name in system.outbox() if name not in outbox and not name.startswith(NO_NEWS)]
    assert system.decisions_on(attempt) == []
    assert system.dossier(attempt)["events"] == []
    assert all(row.attempt_id is None for row in system.events() if row.event_id in ids)


def test_what_is_no_event_or_of_no_model_goes_to_dead_letter_with_its_reason_and_the_intake_goes_on(
    system: System,
) -> None:
    malformed, stranger = b"malformed", b"no_such_model"
    drift = cloudevents.DriftDetected(
        check="too mild to count",
        severity=0.1,
        window_start=system.now() - timedelta(days=1),
        window_end=system.now(),
    )
    with system.ratchet.bus.follow(DEAD_LETTER, from_beginning=False) as letters:
        system.ratchet.bus.publish(DRIFT, malformed, b'{"specversion": "1.0", "id":', [("trace", b"t-1")])
        system.publish(drift, stranger.decode())
        good = system.publish(drift)
        found: dict[bytes | None, dict[str, bytes]] = {}

        def both() -> bool:
            found.update({record.key: dict(record.headers) for record in letters.poll(0.5)})
            return {malformed, stranger} <= set(found)

        system.until("both records on ml.dead-letter", both)
    assert found[malformed]["ratchet-reason"].startswith(b"not_json")
    assert found[malformed]["ratchet-topic"] == DRIFT.encode()
    assert found[malformed]["trace"] == b"t-1"
    assert b"no_such_model" in found[stranger]["ratchet-reason"]
    assert "min_severity" in system.fate(good, "suppressed").reason


def test_two_confirming_drift_events_of_a_foreign_client_start_a_run_and_the_first_alone_waits(system: System) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed; it is the Kafka client that is not ours")
    system.fresh_days()
    command, first, second = _documented_drift(system)
    first_id, second_id = (re.findall(r'"id": "([^"]+)"', line)[0] for line in (first, second))

    subprocess.run(command, input=first, text=True, check=True, timeout=60)
    assert "unconfirmed: 1 of 2 confirmations" in system.fate(first_id, "deferred").reason

    subprocess.run(command, input=second, text=True, check=True, timeout=60)
    attempt = system.ended(system.attempt_of(event_id=second_id))
    assert (attempt.trigger, attempt.state) == ("drift", "concluded")
    assert system.fate(second_id, "started").attempt_id == attempt.id
    assert system.fate(first_id, "merged").attempt_id == attempt.id


def _documented_drift(system: System) -> tuple[list[str], str, str]:
    """The example of docs/events.md: its command for this broker, its two lines moved to today's business time."""
    page = EVENTS_PAGE.read_text()
    found = re.search(r"^(kcat .*) <<'END'\n(.*)\n(.*)\nEND$", page, re.MULTILINE)
    assert found, f"{EVENTS_PAGE} shows how kcat publishes two drift events"
    command = shlex.split(found[1])
    config = kafka_config(EnvResolver(system.ratchet.settings.connections).resolve("ratchet_kafka"))
    command[command.index("-b") + 1] = ",".join(config["bootstrap_servers"])
    lines = [found[2], found[3]]
    moved = system.now() - _instant(re.findall(r'"time": "([^"]+)"', lines[0])[0])
    days = timedelta(days=moved.days)
    return command, *(
        re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", lambda m: f"{_instant(m[0]) + days:%Y-%m-%dT%H:%M:%SZ}", line)
        for line in lines
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
