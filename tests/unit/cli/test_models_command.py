"""``ratchet models`` tells of each model what the API and the pages tell of it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.cli import app, models

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from worlds import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    ledger = SqlLedger(f"sqlite:///{tmp_path}/template.db")
    ledger.migrate()
    ledger.dispose()
    (tmp_path / "world").mkdir()
    made = World(tmp_path / "world", tmp_path / "template.db")
    monkeypatch.setattr(models, "wire", lambda: SimpleNamespace(ledger=made.ledger))
    yield made
    made.ledger.dispose()


def run(*words: str) -> str:
    return CliRunner().invoke(app, ["models", *words], catch_exceptions=False).stdout


def test_a_model_that_nobody_trained_serves_nobody_and_has_no_verdict(world: Any) -> None:
    told = run()
    assert "nobody" in told
    assert "none yet" in told


def test_a_model_is_told_with_its_champion_verdict_and_what_is_open(world: Any) -> None:
    at = datetime(2013, 4, 1, 4, tzinfo=UTC)
    world.crown(1)
    world.arrive(at)
    attempt = world.claim()["attempt"]
    world.judge(attempt, "keep_champion")
    world.drift(at, severity=0.9)
    told = run()
    assert "flight_delay" in told
    assert "version 1" in told
    assert "keep_champion +1.00 [+0.50, +1.50] USD" in told
    (row,) = json.loads(run("--json"))
    assert (row["champion"]["version"], row["last_verdict"]["attempt"]) == (1, attempt)
    assert sum(row["open_events"].values()) == 1


def test_another_teams_models_are_left_out(world: Any) -> None:
    assert json.loads(run("--owner", "nobody", "--json")) == []
    assert [row["model"] for row in json.loads(run("--owner", "ops-analytics", "--json"))] == ["flight_delay"]
