"""The shipped examples on their real data and real parts: taken by one command, a first champion, one more verdict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from example_worlds import EXAMPLES, ExampleWorld
from worlds import ROOT

from ratchet.adapters import flights
from ratchet.adapters.examples import names, take
from ratchet.adapters.specs import load_all, load_spec, validate_all
from ratchet.errors import Refused
from ratchet.workflow import dossiers, evaluation
from ratchet.workflow.repeating import Repeats

SHORT = {
    "standby_crew": {"n_estimators": 20, "tree_method": "hist", "max_bin": 64, "lambdarank_pair_method": "mean"},
    "ground_crews": {"max_iter": 20},
}
"""Fewer rounds than the examples' own, so that their attempts take seconds; the gate asks for what it always does."""


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("example_data")
    flights.build(made)
    return made


def test_the_examples_are_no_models_until_they_are_taken():
    assert names(EXAMPLES) == ("ground_crews", "standby_crew")
    assert set(load_all(ROOT / "include" / "models")) == {"flight_delay"}
    assert load_spec(EXAMPLES / "standby_crew").business.kind == "ranking"
    assert load_spec(EXAMPLES / "ground_crews").business.kind == "regression"


@pytest.mark.parametrize("name", SHORT)
def test_no_arrival_of_the_flights_own_data_starts_an_example(name: str):
    listed = {"flights", "schedule", "weather", "carrier_days", "origin_days", "dest_days", "route_planes"}
    spec = load_spec(EXAMPLES / name)
    assert not listed & set(spec.datasets)
    assert spec.retrain.schedule is None


def test_an_example_is_refused_where_something_of_it_is_there_or_there_is_none_of_that_name(tmp_path, data_dir):
    repo = ROOT / "include" / "feature_repo"
    places = {"models_dir": tmp_path / "models", "repo_dir": repo, "data_dir": data_dir}
    with pytest.raises(Refused, match=r"'standby' is not an example. Did you mean 'standby_crew'\?"):
        take("standby", examples_dir=EXAMPLES, **places)
    (tmp_path / "models" / "ground_crews").mkdir(parents=True)
    with pytest.raises(Refused, match="is there already and is not overwritten"):
        take("ground_crews", examples_dir=EXAMPLES, **places)
    assert not (data_dir / "ground_crews.parquet").exists()


@pytest.fixture(scope="module", params=SHORT)
def example(request, tmp_path_factory, migrated, data_dir):
    """A first champion on short windows, and one attempt to replace it."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    spec = load_spec(EXAMPLES / name).model_dump(mode="json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a tracking database without a server keeps artifacts below the working directory
        patch.setattr(evaluation, "LATENCY_SAMPLES", 20)
        made = ExampleWorld(
            folder,
            migrated,
            name,
            data_dir,
            tmp_path_factory.getbasetemp() / "mlflow.db",
            data={"window": "75d", "holdout": spec["data"]["holdout"] | {"last": "14d"}},
            train={"fixed": SHORT[name], "trials": 1, "workers": 1},
        )
        made.first = made.run("2013-07-15", first_champion=True)
        made.second = made.run("2013-08-20")
        yield made
    made.ledger.dispose()


def test_its_folder_is_made_and_valid(example):
    folder = example.folder
    assert validate_all(folder / "models", None, None) == []
    assert set(load_all(folder / "models")) == {example.model}
    for name in ("model.yaml", "datasets.yaml"):
        taken = (folder / "models" / example.model / name).read_bytes()
        assert taken == (EXAMPLES / example.model / name).read_bytes()
    assert example.taken.complete_until == datetime(2014, 1, 1, 5, tzinfo=UTC)


def test_a_first_champion_is_promoted_and_the_next_attempt_is_judged_against_it(example):
    assert (example.first.state, example.first.verdict) == ("concluded", "promote")
    assert example.second.state == "concluded"
    assert example.second.verdict in {"promote", "keep_champion", "not_enough_evidence"}
    assert dossiers.read(example.store, example.second)["champion"]["version"] == example.first.challenger_version


def test_its_verdicts_are_replayed_and_its_model_reproduced_to_the_bit(example):
    repeats = Repeats(example.parts)
    for attempt in (example.first, example.second):
        assert repeats.replay(attempt, "ann").same
    answer = repeats.reproduce(example.second, "ann")
    assert (answer.different, answer.differences, answer.model_digest_equal) == (0, (), True)


# -- what was known when -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return flights.select(
        {file.stem: file.read_text() for folder in EXAMPLES.iterdir() for file in sorted(folder.glob("*.sql"))}
    )


@pytest.mark.parametrize(("name", "event"), [("standby_crew", "scheduled_departure"), ("ground_crews", "hour_at")])
def test_all_decisions_of_a_local_day_are_made_at_six_in_the_evening_before(tables, name: str, event: str):
    table = tables[name]
    zone = pa.timestamp("us", "America/New_York")
    local = [pc.local_timestamp(table[c].cast(zone)) for c in (event, "roster_closes_at")]
    day, evening = pc.floor_temporal(local[0], unit="day"), local[1]
    assert set(pc.subtract(day, evening).unique().to_pylist()) == {timedelta(hours=6)}


def test_features_of_the_crews_change_nothing_when_what_was_not_published_yet_is_another(monkeypatch):
    """Whatever happens from four days before a day on is unknown when it is decided: it is published two days later."""
    query = {"features": (EXAMPLES / "ground_crews" / "ground_crews_features.sql").read_text()}
    until = "2013-03-06"
    before = flights.select(query)["features"]
    own = flights._FLIGHTS
    changed = f"""
        UPDATE flown SET dep_delay = CASE WHEN flight % 2 = 0 THEN NULL ELSE 600 END WHERE day >= '{until}'
    """
    monkeypatch.setattr(flights, "_FLIGHTS", f"{own.rstrip()};{changed}")
    monkeypatch.setattr(flights, "_check", lambda db: None)
    after = flights.select(query)["features"]
    days = pc.utf8_slice_codeunits(before["slot"], 4, 14)
    decided_before = pc.less_equal(days, "2013-03-09")
    assert after.filter(decided_before).equals(before.filter(decided_before))
    assert not after.filter(pc.equal(days, "2013-03-10")).equals(before.filter(pc.equal(days, "2013-03-10")))
