"""A model with packages of its own: an older XGBoost and a payoff that needs a package which the deployment has not."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import xgboost
from running_system import System, Waiting
from small_model import PACKAGED

from ratchet.ports.ledger import AttemptRow, ChampionRow
from ratchet.workflow import dossiers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

OLDER = "3.1.2"
RATCHET = [str(Path(sys.executable).with_name("ratchet"))]


@dataclass(frozen=True)
class Made:
    """The model's first champion, and how the step had been started whose task was killed while it was made."""

    champion: ChampionRow
    killed: list[str] | None


@pytest.fixture(scope="module")
def made(running: System, first_champion: object) -> Made:
    """The champion, made where there is none yet; the task that asks for its tuning is killed while that goes on."""
    del first_champion  # there are rows now
    if (found := champion(running)) is not None:
        return Made(found, None)
    running.disarm()
    running.rest()
    running.arm("tuning")
    words = [*RATCHET, "champion", "init", PACKAGED, "--reason", "own packages"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as asking:
        (waiting,) = running.arrival_at("tuning")
        started = Path(f"/proc/{waiting.pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        os.kill(parent(waiting), signal.SIGKILL)
        running.until("the step to end with its task", lambda: not waiting.alive)
        said, _ = asking.communicate(timeout=600)
    assert "concluded, verdict promote" in said
    found = champion(running)
    assert found is not None
    return Made(found, started)


@pytest.fixture
def serving(made: Made) -> ChampionRow:
    return made.champion


def champion(system: System) -> ChampionRow | None:
    with system.ratchet.ledger.transaction() as tx:
        return tx.current_champion(PACKAGED)


def parent(waiting: Waiting) -> int:
    return int(Path(f"/proc/{waiting.pid}/stat").read_text().rpartition(")")[2].split()[1])


def attempt_of(system: System, serving: ChampionRow) -> AttemptRow:
    with system.ratchet.ledger.transaction() as tx:
        found = tx.attempt(str(serving.attempt_id))
    assert found is not None
    return found


def dossier_of(system: System, serving: ChampionRow) -> dict[str, Any]:
    return dossiers.read(system.ratchet.store, attempt_of(system, serving))


def test_the_models_steps_ran_in_its_environment_and_the_dossier_says_in_which(
    system: System, serving: ChampionRow
) -> None:
    lock = system.ratchet.settings.models_dir / PACKAGED / "requirements.txt"
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
    elsewhere = subprocess.run([*RATCHET, "reproduce", name], capture_output=True, text=True, check=False)
    assert elsewhere.returncode == 1
    assert f"ratchet environment run {PACKAGED} reproduce" in elsewhere.stdout
    assert "same" in system.command("environment", "run", PACKAGED, "reproduce", name)


def test_a_step_that_ended_with_its_task_is_taken_up_by_the_next_try(system: System, made: Made) -> None:
    if made.killed is None:
        pytest.skip("this stack had the champion before the session")
    assert made.killed[1:5] == ["-m", "ratchet.run", "tune", str(made.champion.attempt_id)]
    with system.ratchet.ledger.transaction() as tx:
        assert len(tx.attempts(model=PACKAGED)) == 1, "the same attempt went on"
