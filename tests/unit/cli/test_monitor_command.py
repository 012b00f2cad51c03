"""What ``ratchet monitor`` shows and runs, on a ledger of its own."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.cli import app, monitor
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.workflow import evaluation

sys.path.append(str(Path(__file__).parents[1] / "workflow"))
from in_process import InProcess, new_world
from labelled_rows import spec

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def ratchet(tmp_path_factory):
    """A champion of March whose spec has a monitor; the data reach the first of May."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "LATENCY_SAMPLES", 5)
        world = new_world(tmp_path_factory.mktemp("monitored"))
        world.run("2013-03-25", first_champion=True)
        plain = world.spec.model_dump(mode="json") | {"monitor": {"min_rows": 100, "block": "2d"}}
        watched = ModelSpec.model_validate(plain)
        with world.ledger.transaction() as tx:
            tx.publish_spec(watched.model, watched.digest, watched.model_dump(mode="json"))
            for dataset in watched.datasets:
                tx.advance_watermark(dataset, MAY, 1.0)
        made = InProcess(world)
        made.__dict__["bus"] = world.bus
        patch.setattr(monitor, "wire", lambda: made)
        yield made
        world.ledger.dispose()


def shown(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["monitor", *arguments], env={"COLUMNS": "200"})
    assert found.exit_code == 0, found.output
    return found.output


def test_nothing_is_shown_before_anything_was_looked_at_and_showing_looks_at_nothing(ratchet):
    assert "nothing yet" in shown()
    assert "nothing yet" in shown("flight_delay")


def test_a_run_shows_what_it_found_and_a_second_looks_at_nothing(ratchet):
    first = shown("flight_delay", "--run")
    assert "nothing moved" in first
    assert "features: cleared. no drift" in first
    assert "2013-05-01" in first
    for feature in ("wind", "rate", "night", "carrier", "score"):
        assert feature in first
    assert "less than 7d beyond it" in shown("flight_delay", "--run")
    assert [row["window_end"] for row in json.loads(shown("--json"))].count("2013-05-01") == 1


def test_everything_of_a_window_comes_as_json(ratchet):
    shown("flight_delay", "--run")
    shown("flight_delay", "--run", "--window-end", "2013-04-24")
    (window,) = json.loads(shown("flight_delay", "--window-end", "2013-04-24", "--json"))
    assert window["report"]["window"]["end"] == window["window_end"] == "2013-04-24"
    assert window["report"]["features"]["drift"]["features"]
    assert [row["window_end"] for row in json.loads(shown("--json"))] == ["2013-05-01", "2013-04-24"]


@pytest.mark.parametrize(
    ("last", "said"), [("28d", "scores can alarm"), ("14d", "scores can never alarm and are reported as unjudged")]
)
def test_validate_says_whether_scores_could_ever_alarm(last, said):
    plain = spec().model_dump(mode="json") | {"monitor": {}}
    plain["data"]["holdout"] |= {"last": last}
    (line,) = monitor.validate_lines(ModelSpec.model_validate(plain))
    assert line.startswith(f"monitor of flight_delay: {said} at level 0.05: 4 new blocks")
    assert list(monitor.validate_lines(spec())) == []


def test_a_window_without_its_model_is_refused(ratchet):
    found = CliRunner().invoke(app, ["monitor", "--window-end", "2013-04-24"])
    assert isinstance(found.exception, Refused)
