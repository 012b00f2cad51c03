"""A model with packages of its own: an older XGBoost and a payoff that needs a package which the deployment has not."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xgboost
from running_system import System, Waiting
from small_model import PACKAGED
from upsets import request

from ratchet.ports.ledger import AttemptRow, ChampionRow
from ratchet.workflow import dossiers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

OLDER = "3.1.2"


@pytest.fixture
def lock(system: System) -> Path:
    return system.ratchet.settings.models_dir / PACKAGED / "requirements.txt"


@pytest.fixture
def serving(system: System) -> ChampionRow:
    """The model's champion, made where there is none yet."""
    if (found := champion(system)) is None:
        assert "concluded, verdict promote" in system.command("champion", "init", PACKAGED, "--reason", "own packages")
        found = champion(system)
    assert found is not None
    return found


def champion(system: System) -> ChampionRow | None:
    with system.ratchet.ledger.transaction() as tx:
        return tx.current_champion(PACKAGED)


def attempt_of(system: System, serving: ChampionRow) -> AttemptRow:
    with system.ratchet.ledger.transaction() as tx:
        found = tx.attempt(str(serving.attempt_id))
    assert found is not None
    return found


def dossier_of(system: System, serving: ChampionRow) -> dict[str, Any]:
    return dossiers.read(system.ratchet.store, attempt_of(system, serving))


def test_the_models_steps_ran_in_its_environment_and_the_dossier_says_in_which(
    system: System, serving: ChampionRow, lock: Path
) -> None:
    told = dossier_of(system, serving)
    assert xgboost.__version__ != OLDER
    assert told["environment"]["libraries"]["xgboost"] == OLDER
    assert told["environment"]["libraries"]["apache-airflow"] is None
    assert told["environment"]["lock_sha256"] == hashlib.sha256(lock.read_bytes()).hexdigest()
    assert told["spec"]["document"]["runtime"]["environment_sha256"] == told["environment"]["lock_sha256"]
    requirements = system.ratchet.registry.download(PACKAGED, serving.version).parent / "requirements.txt"
    assert f"xgboost=={OLDER}" in requirements.read_text()
    system.until("the alias to follow", lambda: alias(system) == serving.version)


def test_a_trial_of_the_spec_runs_there_too(system: System, serving: ChampionRow) -> None:
    assert serving.version
    said = system.command("validate", PACKAGED)
    assert f"{PACKAGED}: a snapshot of " in said
    assert "none lost" in said


def alias(system: System) -> int | None:
    return system.ratchet.registry.alias_version(PACKAGED, "champion")


def test_the_model_is_made_again_to_the_bit_in_its_environment_and_refused_elsewhere(
    system: System, serving: ChampionRow
) -> None:
    name = f"{PACKAGED}@{serving.version}"
    system.command("replay", name)
    elsewhere = subprocess.run(
        [Path(sys.executable).with_name("ratchet"), "reproduce", name], capture_output=True, text=True, check=False
    )
    assert elsewhere.returncode == 1
    assert f"ratchet environment run {PACKAGED} reproduce" in elsewhere.stdout
    assert "same" in system.command("environment", "run", PACKAGED, "reproduce", name)


def test_a_step_ends_with_the_task_that_asked_for_it_and_is_taken_up_by_the_next_try(
    system: System, serving: ChampionRow
) -> None:
    assert serving.version
    system.fresh_days()
    system.arm("tuning")
    asked = request(system, PACKAGED)
    (waiting,) = system.arrival_at("tuning")
    assert words(waiting)[1:4] == ["-m", "ratchet.run", "tune"]
    task = parent(waiting)
    os.kill(task, signal.SIGKILL)
    system.until("the step to end with its task", lambda: not waiting.alive)
    attempt = asked.answered()
    assert (attempt.state, attempt.verdict) == ("concluded", "promote")


def words(waiting: Waiting) -> list[str]:
    return Path(f"/proc/{waiting.pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")


def parent(waiting: Waiting) -> int:
    return int(Path(f"/proc/{waiting.pid}/stat").read_text().rpartition(")")[2].split()[1])
