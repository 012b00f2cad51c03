"""`ratchet backtest` on small rows, without anything that must run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ratchet.cli import app, backtest
from ratchet.domain import events as cloudevents
from ratchet.errors import Refused

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from backtested_worlds import FeatureTable, small_spec
from in_process import InProcess, new_world

MONTHS = ("--from", "2013-03", "--to", "2013-05")


@pytest.fixture(scope="module")
def ratchet(tmp_path_factory):
    """A deployment whose ledger knows the model and nothing of its life."""
    world = new_world(tmp_path_factory.mktemp("backtest"))
    made = InProcess(world)
    made.__dict__["features"] = FeatureTable()
    folder = world.folder / "models" / "flight_delay"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(json.dumps(small_spec().model_dump(mode="json")))
    made.settings = replace(made.settings, models_dir=folder.parent)
    yield made
    world.ledger.dispose()


@pytest.fixture
def run(ratchet, monkeypatch):
    monkeypatch.setattr(backtest, "wire", lambda: ratchet)

    def of(*words: str) -> Result:
        return CliRunner().invoke(app, ["backtest", "flight_delay", *words], catch_exceptions=True)

    return of


def test_a_table_of_ten_policies_twice_and_the_split_said_before_anything_is_scored(run) -> None:
    found = run(*MONTHS)
    assert found.exit_code == 0, found.output
    said = found.output
    split = said.index("days before 2013-05-01 may choose")
    assert split < said.index("the world as it was") < said.index("The world as it was")
    assert "Events: derived from the datasets" in said
    first, second = said.index("The world as it was"), said.index("The world 2013-05 corrupted")
    assert first < said.index("… 2013-05 corrupted") < second
    assert said.count("non_inferiority_refit") >= 2
    assert "told apart" in said
    assert Path(said.rsplit("Report", 1)[1].strip()).is_file()
    again = json.loads(run(*MONTHS, "--json").stdout)
    assert again["made"]["made_new"] == 0
    assert len(again["worlds"][0]["policies"]) == 10
    assert again["compared"] == 9
    assert again["worlds"][1]["corruption"]["columns"] == ["wind_f"]


def test_a_variant_is_a_row_and_the_usual_ones_may_be_left_out(run) -> None:
    found = run(*MONTHS, "--no-corrupt", "--only-given", "--variant", "sure:gate.confidence=0.99", "--json")
    rows = [row["policy"] for row in json.loads(found.stdout)["worlds"][0]["policies"]]
    assert rows == ["never", "always", "on_schedule", "on_drift", "ratchet", "sure"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--variant", "nonsense"), "name:key=value"),
        (("--variant", "x:gate.mode=sometimes"), "variant x: gate.mode"),
        (("--variant", "x:business.payoff.tp=1"), "may not change"),
        (("--variant", "never:gate.confidence=0.9"), "name of its own"),
        (("--judge-from", "2014-01"), "judging months must begin within"),
        (("--judge-from", "May"), "takes a month like"),
        (("--corrupt", "2013-05", "--feed", "tides"), "no feature of the view 'tides'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(run, words, said) -> None:
    found = run(*MONTHS, *words)
    assert isinstance(found.exception, Refused)
    assert said in str(found.exception)


def test_events_of_a_file_are_replayed_and_a_bad_line_is_named(run, tmp_path) -> None:
    at = cloudevents.datetime(2013, 5, 1, 4, tzinfo=cloudevents.UTC)
    lines = []
    for name in ("flights", "weather"):
        data = cloudevents.DataArrived(dataset=name, complete_until=at, new_rows=30_000)
        event = cloudevents.new_event(data, id=name, source="/test", subject=name, time=at)
        lines.append(cloudevents.to_record(event)[1].decode())
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(lines) + "\n")
    words = (*MONTHS, "--no-corrupt", "--only-given", "--events", str(file))
    report = json.loads(run(*words, "--json").stdout)
    rows = {row["policy"]: row for row in report["worlds"][0]["policies"]}
    assert report["events"] == "read from events.jsonl"
    assert [run_["at"][:10] for run_ in rows["ratchet"]["runs"]] == ["2013-04-01", "2013-05-01"]
    file.write_text("\n".join([*lines, "{}"]))
    assert "events.jsonl:3: not_an_event" in str(run(*words).exception)


def test_a_model_that_has_lived_is_replayed_by_what_the_ledger_recorded(run, ratchet, tmp_path) -> None:
    world = new_world(tmp_path)
    world.run("2013-03-31", first_champion=True)
    ratchet.__dict__["ledger"], before = world.ledger, ratchet.ledger
    try:
        report = json.loads(run(*MONTHS, "--no-corrupt", "--only-given", "--json").stdout)
        derived = json.loads(run(*MONTHS, "--no-corrupt", "--only-given", "--derive", "--json").stdout)
    finally:
        ratchet.__dict__["ledger"] = before
        world.ledger.dispose()
    assert report["events"].endswith("that the ledger recorded")
    assert derived["events"].startswith("derived")
