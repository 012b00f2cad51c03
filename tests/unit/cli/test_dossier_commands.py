"""trace, replay, reproduce and card on a world in which attempts are really judged."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.cli import app, dossiers
from ratchet.domain.events import RetrainRequested
from ratchet.errors import Refused

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from in_process import InProcess, new_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = new_world(tmp_path_factory.mktemp("judged"))
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    until = datetime(2013, 5, 10, 4, tzinfo=UTC)
    made.published = made.publish(RetrainRequested(reason="new routes", actor="ann"), made.model, until, "routes-1")
    with made.ledger.transaction() as tx:
        tx.set_clock("replay", until)
    made.arrive(until)
    made.asked = made.claim("asked", "asset_triggered")["attempt"]
    yield made
    made.ledger.dispose()


@pytest.fixture
def run(world, monkeypatch):
    monkeypatch.setattr(dossiers, "wire", lambda: InProcess(world))
    return lambda *words: CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_version_is_traced_from_its_events_to_what_became_of_it(run, world):
    told = run("trace", "flight_delay@1").output
    for part in (
        "made by attempt flight_delay.1",
        "to see",
        "Verdict: promote",
        "holds",
        "champion #1 by init since",
        "nobody was asked",
    ):
        assert part in told
    assert world.first.dossier_sha256 in told
    assert world.first.evidence_digest in told
    assert "champion.promoted" in told


def test_an_event_is_traced_from_its_record_over_its_fates_to_its_attempt(run, world):
    told = run("trace", "routes-1").output
    record = world.published
    for part in (
        "routes-1 of monitor, for flight_delay",
        f"from {record.topic}:{record.partition}:{record.offset}; attempt {world.asked}",
        "pending: received",
        f"claimed: claimed by {world.asked}",
        "not judged",
        f"all of it: ratchet trace {world.asked}",
    ):
        assert part in told
    (journey,) = json.loads(run("trace", "routes-1", "--json").output)["journeys"]
    assert [journey["fates"][i]["fate"] for i in (0, -1)] == ["pending", "claimed"]
    assert (journey["attempt"]["id"], journey["champions"]) == (world.asked, [])


def test_the_journey_of_an_event_ends_with_who_agreed_and_since_when_its_model_serves(run, world):
    with world.ledger.transaction() as tx:
        (row,) = tx.events(event_id="routes-1")
        journeys = dossiers.journeys_of(tx, [replace(row, attempt_id=world.first.id, fate="started")])
    answer = {"actor": "ursula", "answer": "approve", "reason": "seen", "via": "airflow"}
    told = "\n".join(dossiers.journey_lines([journeys[0] | {"approvals": {"answers": [answer]}}]))
    assert f"attempt {world.first.id}, " in told
    assert f"verdict promote: {world.first.verdict_record['reasons'][0]}" in told
    assert "ursula by airflow: approve, seen" in told
    assert "champion #1, version 1, since" in told


def test_what_is_neither_attempt_nor_version_nor_event_is_refused(run):
    with pytest.raises(Refused, match="there is no attempt 'nobody', and no event of this id"):
        run("trace", "nobody")


def test_a_trace_names_who_agreed_and_to_which_evidence(world, capsys):
    answer = {"actor": "ursula", "answer": "approve", "reason": "seen", "via": "airflow", "at": "2013-04-20"}
    asked = dict.fromkeys(("asked_at", "expires_at", "reason"), "2013-04-19") | {"people": 1, "answers": [answer]}
    story = dossiers.story_of(InProcess(world), "flight_delay@1")
    dossiers.show(replace(story, approvals=asked | {"evidence_digest": world.first.evidence_digest}))
    told = capsys.readouterr().out
    assert "1 to agree until 2013-04-19" in told
    assert "ursula by airflow: approve, seen" in told


def test_the_trace_as_json_is_the_whole_dossier(run, world):
    told = json.loads(run("trace", world.second.id, "--json").output)
    assert told["dossier"]["attempt"] == world.second.id
    assert len(told["dossier"]["study"]["trials"]) == world.spec.train.trials
    assert {entry["action"] for entry in told["after"]["audit"]} >= {"attempt.opened", "attempt.judged"}


def test_every_verdict_of_a_ledger_is_replayed_in_one_go(run):
    answer = run("replay", "--all")
    assert answer.exit_code == 0
    assert "2 of 2 are the same" in answer.output


def test_every_version_is_reproduced_in_one_go_with_other_threads(run):
    answer = run("reproduce", "--all", "--threads", "3", "--from-source", "--json")
    assert answer.exit_code == 0
    rows = json.loads(answer.stdout)
    assert [(row["different"], row["largest"], row["model_digest_equal"]) for row in rows] == [(0, 0.0, True)] * 2


def test_a_problem_of_one_attempt_is_told_with_exit_code_one_and_hides_no_other(run, world):
    path = world.folder / "store" / "evidence" / f"{world.first.id}.parquet"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    answer = run("replay", "--all")
    path.write_bytes(kept)
    assert answer.exit_code == 1
    assert "1 of 2 are the same" in answer.output
    assert "sha256 must be" in answer.output


def test_the_card_is_written_where_the_command_says(run, world):
    path = Path(run("card", "flight_delay@2").output.strip())
    assert path == world.folder / "store" / "cards" / f"{world.second.id}.html"
    assert path.read_text().startswith("<!doctype html>")


def test_one_attempt_or_all_but_not_both(run):
    for words in (("replay",), ("replay", "flight_delay@1", "--all")):
        with pytest.raises(Refused, match="not both"):
            run(*words)
