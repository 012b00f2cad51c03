"""What an auditor is told of an attempt in which two challengers were judged."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.cli import app, dossiers

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from drifted_worlds import DULL, deploy, drift
from in_process import InProcess, new_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = new_world(tmp_path_factory.mktemp("drifted"))
    deploy(made)
    made.first = made.run("2013-03-25", first_champion=True)
    drift(made, -1.5)
    deploy(made, train=DULL)
    made.second = made.run("2013-05-10")
    yield made
    made.ledger.dispose()


@pytest.fixture
def run(world, monkeypatch):
    monkeypatch.setattr(dossiers, "wire", lambda: InProcess(world))
    return lambda *words: CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_trace_shows_both_with_bounds_and_share_and_which_was_chosen(run, world):
    told = run("trace", world.second.id).output
    lines = {line.split()[0]: line.split() for line in told.splitlines() if line.strip()}
    for name, chosen in (("tuned_challenger", "no"), ("recalibrated_champion", "yes")):
        assert lines[name][1] == chosen
        assert lines[name][-1] == "0.5"
    assert "the scorer of flight_delay@1, calibrated anew on" in told
    assert "the recalibrated champion alone may be promoted" in told


def test_a_trace_says_why_the_champion_was_not_recalibrated(run, world):
    assert "no recalibrated champion" in run("trace", world.first.id).output
    assert "there is no champion yet" in run("trace", world.first.id).output


def test_every_verdict_is_replayed_and_every_version_reproduced(run):
    replayed = run("replay", "--all")
    assert (replayed.exit_code, "2 of 2 are the same" in replayed.output) == (0, True)
    reproduced = run("reproduce", "--all", "--json")
    assert reproduced.exit_code == 0
    rows = json.loads(reproduced.stdout)
    assert [(row["different"], row["model_digest_equal"]) for row in rows] == [(0, True)] * 2
