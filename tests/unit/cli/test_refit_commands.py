"""trace and reproduce where a refit serves: both versions are one story, and both are made again."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.cli import app, dossiers
from ratchet.domain.spec import ModelSpec

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from in_process import InProcess, new_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = new_world(tmp_path_factory.mktemp("refitted"))
    made.run("2013-03-25", first_champion=True)
    plain = made.spec.model_dump(mode="json") | {"probation": {"for": "28d"}}
    wide = {"mode": "non_inferiority", "min_uplift": 1000.0, "guardrails": []}  # any challenger passes
    plain["gate"] |= wide | {"deploy": "refit"}
    made.spec = ModelSpec.model_validate(plain)
    with made.ledger.transaction() as tx:
        tx.publish_spec(made.model, made.spec.digest, made.spec.model_dump(mode="json"))
    made.second = made.run("2013-04-15")
    yield made
    made.ledger.dispose()


@pytest.fixture
def run(world, monkeypatch):
    monkeypatch.setattr(dossiers, "wire", lambda: InProcess(world))
    return lambda *words: CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.parametrize("version", [2, 3])
def test_a_trace_tells_of_both_versions_whichever_is_asked_for(run, world, version):
    told = run("trace", f"flight_delay@{version}").output
    for part in (
        "flight_delay@2 made by attempt flight_delay.2",
        "Deployed: flight_delay@3",
        "the recipe of version 2, which was judged, fitted again",
        "decisions of the judged rows",
        "champion #2 by promotion since",
        "probation.begun",
        world.second.model_digest,
        world.second.deployed_digest,
    ):
        assert part in told


def test_every_version_is_made_again_in_one_go(run):
    answer = run("reproduce", "--all", "--from-source", "--json")
    assert answer.exit_code == 0
    rows = json.loads(answer.stdout)
    assert [(row["version"], row["different"], row["result"]) for row in rows] == [
        (version, 0, "the same") for version in (1, 2, 3)
    ]
    assert "3 of 3 are the same" in answer.output


def test_a_verdict_is_replayed_once_and_is_that_of_the_judged_version(run):
    rows = json.loads(run("replay", "flight_delay@3", "--json").stdout)
    assert [(row["version"], row["decision"], row["same"]) for row in rows] == [(2, "promote", True)]
