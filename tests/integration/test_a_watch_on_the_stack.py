"""A bad model that came to serve is taken back by the days that follow: sweep, DAG, Feast, MLflow and the ledger."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from running_system import System
from small_model import WATCHED

from ratchet.ports.ledger import ChampionRow, ProbationRow
from ratchet.workflow.probation import begin_probation
from ratchet.workflow.telling import champion_moved

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

DAG = f"probation__{WATCHED}"


def promote_one_that_acts_on_every_row(system: System) -> tuple[ChampionRow, ChampionRow]:
    """By hand in the ledger: the champion's own artifact with threshold zero; returns it and the one it displaced."""
    ratchet = system.ratchet
    with ratchet.ledger.transaction() as tx:
        good = tx.current_champion(WATCHED)
        assert good is not None
        attempt = tx.attempt(str(good.attempt_id))
        assert attempt is not None
    eager = replace(ratchet.artifacts.load(WATCHED, good.version), threshold=0.0)
    with tempfile.TemporaryDirectory() as scratch:
        digest = ratchet.models.save(eager, Path(scratch) / "model")
        version = ratchet.registry.register("by hand", WATCHED, Path(scratch) / "model", metrics={}, params={}, tags={})
    with ratchet.ledger.transaction() as tx:
        tx.lock_lease(WATCHED)
        bad = replace(
            good,
            seq=good.seq + 1,
            version=version,
            kind="promotion",
            reason="by hand",
            promoted_at=tx.wall(),
            model_digest=digest,
        )
        tx.insert_champion(bad)
        begin_probation(tx, attempt, bad, good)
        champion_moved(tx, WATCHED, bad.seq)
    return bad, good


def newest(system: System) -> ProbationRow:
    with system.ratchet.ledger.transaction() as tx:
        return tx.probations(model=WATCHED)[0]


def test_a_champion_that_loses_more_than_its_limit_is_taken_back_when_its_first_days_are_mature(
    system: System,
) -> None:
    said = system.command("champion", "init", WATCHED, "--reason", "to be displaced")
    assert "concluded, verdict promote" in said
    bad, good = promote_one_that_acts_on_every_row(system)
    assert newest(system).state == "watching"
    assert "watching" in system.command("probation", WATCHED)

    system.fresh_days(5)
    probation = system.until(
        f"the end of {WATCHED}'s probation", lambda: found if (found := newest(system)).state != "watching" else None
    )
    assert probation.state == "reverted"
    assert "more than the limit of 1,000 USD" in probation.reason
    with system.ratchet.ledger.transaction() as tx:
        champion, days = tx.current_champion(WATCHED), tx.probation_days(WATCHED, bad.seq)
        audited = [entry for entry in tx.audit_log(WATCHED) if entry["action"] == "champion.rolledback"]
        assert {day.day for day in days} <= tx.used_days(WATCHED, good.version)
    assert champion is not None
    assert (champion.version, champion.kind, champion.actor) == (good.version, "revert", "ratchet (probation)")
    assert [entry["detail"]["from"] for entry in audited] == [bad.version]
    assert all(day.rows > 100 for day in days)
    registry = system.ratchet.registry
    system.until("the alias to follow", lambda: registry.alias_version(WATCHED, "champion") == good.version)
    system.until(
        f"{DAG} to tell of it in Airflow",
        lambda: [t for t in system.tasks(DAG, state="success") if t["task_id"] == "champion"],
    )
    assert "reverted" in system.command("probation", WATCHED)
