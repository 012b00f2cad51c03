"""Days that arrive are scored by the DAG that the sweep rings for, in shadow too; ``kill -9`` leaves no day twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running_system import System
from small_model import SCORED
from upsets import ask, crown, request

from ratchet.adapters.features_feast import FeastFeatures
from ratchet.ports.ledger import ScoredDay
from ratchet.workflow.scoring import predictions

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

DAG = f"score__{SCORED}"


def scored(system: System, role: str) -> list[ScoredDay]:
    with system.ratchet.ledger.transaction() as tx:
        return tx.scored_days(SCORED, role=role)


def folder(system: System) -> Path:
    return Path(system.ratchet.store.uri(f"predictions/{SCORED}"))


def flights_of(system: System) -> FeastFeatures:
    """The data themselves, to count in."""
    settings = system.ratchet.settings
    return FeastFeatures(settings.feature_repo_dir, settings.data_dir)


def test_arriving_days_are_scored_by_champion_and_challenger_and_a_killed_run_is_completed(system: System) -> None:
    crown(system, SCORED)
    attempt = request(system, SCORED).answered()
    assert (attempt.verdict, attempt.failure) == ("promote", "shadow mode")
    began = system.today

    system.fresh_days(5)
    days = [began + timedelta(days=i) for i in range(1, 5)]
    champion = system.until("days of the champion", lambda: r if len(r := scored(system, "champion")) >= 4 else None)
    shadow = system.until("days of the challenger", lambda: r if len(r := scored(system, "shadow")) >= 4 else None)
    assert [row.day for row in champion] == [row.day for row in shadow] == days
    with system.ratchet.ledger.transaction() as tx:
        serving = tx.current_champion(SCORED)
    assert serving is not None
    assert {row.version for row in champion} == {serving.version}
    assert {(row.version, row.attempt_id) for row in shadow} == {(attempt.challenger_version, attempt.id)}
    for row in champion:
        flights = flights_of(system).count_rows("flights", row.day, row.day + timedelta(days=1))
        table = predictions(system.ratchet.store, row)
        assert table is not None
        assert table.num_rows == row.rows == flights > 100
        assert set(table["version"].to_pylist()) == {serving.version}
        assert 0.0 < min(table["score"].to_pylist()) <= max(table["score"].to_pylist()) < 1.0
    system.until(f"{DAG} to succeed", lambda: system.tasks(DAG, state="success"))
    with system.ratchet.ledger.transaction() as tx:
        assert not tx.used_days(SCORED, serving.version) & set(days), "scoring uses no day up"

    ask(system, "PATCH", f"/dags/{DAG}", json={"is_paused": True})
    system.fresh_days(5)
    tool = Path(sys.executable).with_name("ratchet")
    with subprocess.Popen([tool, "score", SCORED], stdout=subprocess.PIPE) as run:
        system.until("a file of the run", (folder(system) / f"{began + timedelta(days=6)}").exists, every=0.01)
        run.send_signal(signal.SIGKILL)
    left = {file.parent.name for file in folder(system).glob("*/*.parquet")}
    assert f"{began + timedelta(days=9)}" not in left, "the run was killed too late to show anything"
    said = system.command("score", SCORED)
    assert f"to {began + timedelta(days=9)}, by version {serving.version}" in said
    whole = [began + timedelta(days=i) for i in range(1, 10)]
    assert [row.day for row in scored(system, "champion")] == [row.day for row in scored(system, "shadow")] == whole
    assert "nothing scored: every complete day up to" in system.command("score", SCORED)

    table = pq.read_table(folder(system))
    flights = flights_of(system).count_rows("flights", whole[0], whole[-1] + timedelta(days=1))
    assert table.num_rows == 2 * flights
    assert table.group_by(["flight_id", "role"]).aggregate([]).num_rows == table.num_rows, "a row was scored twice"
    found = system.ratchet.verifier.verify(SCORED)
    assert found.looked_at["predictions"] == 2 * len(whole)
    assert [finding for finding in found.findings if finding.kind == "predictions"] == []
    assert f"{whole[0]}" in system.command("predictions", SCORED)
