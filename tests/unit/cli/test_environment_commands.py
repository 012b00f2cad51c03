"""Environments by hand: what specs name is made, listed with what differs, and removed when nothing names it."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ratchet.cli.environments as commands
from ratchet.adapters import environments
from ratchet.adapters.environments import LOCK, Environments
from ratchet.adapters.ledger import SqlLedger
from ratchet.bootstrap import Elsewhere, Ratchet
from ratchet.cli import app
from ratchet.errors import Refused
from ratchet.settings import load_settings

ROOT = Path(__file__).parents[3]
HASH = f"--hash=sha256:{'0' * 64}"


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ratchet:
    """One model with an environment of its own; making it makes a folder."""
    model = tmp_path / "include" / "models" / "flight_delay"
    shutil.copytree(ROOT / "include" / "models" / "flight_delay", model)
    spec = model / "model.yaml"
    spec.write_text(spec.read_text().replace("runtime: {", "runtime: {environment: requirements.txt, "))
    pins = {environments._name(each): "1.0" for each in environments.needed()}
    pins |= {name: version(name) for name in pins if name != "xgboost"} | {"roman": "5.1"}
    (model / "requirements.txt").write_text("".join(f"{name}=={pin} {HASH}\n" for name, pin in pins.items()))
    (model / "requirements.txt").open("a").write(f"pywin32==311 ; sys_platform == 'win32' {HASH}\n")
    made = Ratchet(
        resolver=None, settings=load_settings({"RATCHET_HOME": str(tmp_path), "RATCHET_ROOT": str(tmp_path)})
    )  # type: ignore[arg-type]
    made.__dict__["ledger"] = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    made.ledger.migrate()

    def install(self: Environments, place: Path, content: bytes) -> None:
        (place / "bin").mkdir(parents=True)
        (place / "pyvenv.cfg").touch()
        (place / LOCK).write_bytes(content)

    monkeypatch.setattr(Environments, "_install", install)
    monkeypatch.setattr(commands, "wire", lambda: made)
    return made


def told(*words: str) -> Any:
    done = CliRunner().invoke(app, ["environment", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_an_environment_is_listed_with_what_differs_and_whether_it_is_here(ratchet: Ratchet) -> None:
    (row,) = told("list")
    assert (row["model"], row["lock"], row["here"]) == ("flight_delay", "requirements.txt", "no")
    assert row["differs"] == f"xgboost 1.0 (here {version('xgboost')}), roman 5.1 (not here)"
    (built,) = told("build", "flight_delay")["built"]
    assert built["environment"] == row["environment"]
    assert told("list")[0]["here"] == "yes"


def test_what_a_spec_names_stays_and_what_nothing_names_any_more_goes(ratchet: Ratchet) -> None:
    before = told("build")["built"][0]["environment"]
    assert told("prune") == {"removed": []}
    lock = ratchet.settings.models_dir / "flight_delay" / "requirements.txt"
    lock.write_text(lock.read_text() + "# another\n")
    after = told("build")["built"][0]["environment"]
    assert told("prune") == {"removed": [before]}
    assert told("list")[0]["environment"] == after
    assert told("list")[0]["here"] == "yes"


def test_what_is_deployed_stays_though_its_folder_has_another_by_now(ratchet: Ratchet) -> None:
    told("build")
    document = commands.load_spec(ratchet.settings.models_dir / "flight_delay").model_dump(mode="json")
    with ratchet.ledger.transaction() as tx:
        tx.publish_spec("flight_delay", "d" * 64, document)
    lock = ratchet.settings.models_dir / "flight_delay" / "requirements.txt"
    lock.write_text(lock.read_text() + "# another\n")
    assert told("prune") == {"removed": []}


def test_a_command_runs_in_the_models_environment_with_its_own_arguments(
    ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *given: seen.extend(given))
    words = ["run", "flight_delay", "reproduce", "flight_delay.1", "--threads", "2"]
    CliRunner().invoke(app, ["environment", *words], catch_exceptions=False)
    python, typed, variables = seen
    assert Path(python).is_relative_to(ratchet.settings.environments_dir)
    assert typed == [python, "-m", "ratchet", "reproduce", "flight_delay.1", "--threads", "2"]
    assert (Path(variables["PYTHONPATH"]) / "ratchet" / "__main__.py").is_file()


def test_a_model_that_is_not_there_is_told(ratchet: Ratchet) -> None:
    with pytest.raises(Refused, match="there is no model 'flight'"):
        CliRunner().invoke(app, ["environment", "build", "flight"], catch_exceptions=False)


# -- who does what where ---------------------------------------------------------------------------------------------


def test_a_verb_is_done_in_the_environment_that_the_deployed_spec_names(
    ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = commands.load_spec(ratchet.settings.models_dir / "flight_delay")
    with ratchet.ledger.transaction() as tx:
        tx.publish_spec("flight_delay", spec.digest, spec.model_dump(mode="json"))
    asked: list[Any] = []
    monkeypatch.setattr(Ratchet, "do_elsewhere", lambda _, *given: asked.append(given) or {"done": True})
    assert ratchet.monitor("flight_delay") == {"done": True}
    place = Elsewhere("flight_delay", "requirements.txt", str(spec.runtime.environment_sha256))
    assert asked == [(place, "monitor", "flight_delay", [None])]
    monkeypatch.setattr(environments, "running", lambda: spec.runtime.environment_sha256)
    assert ratchet.watch("flight_delay")["reason"] == "no watch is open", "there it is done"
    assert len(asked) == 1


def test_a_process_of_another_models_environment_refuses_to_do_it(
    ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "running", lambda: "e" * 64)
    with pytest.raises(Refused, match="runs in the environment eeeeeeeeeeee, but the steps of other are to run in the"):
        ratchet.watch("other")


def test_a_backtest_says_where_it_is_to_be_run(ratchet: Ratchet) -> None:
    spec = commands.load_spec(ratchet.settings.models_dir / "flight_delay")
    with pytest.raises(Refused, match="Run: ratchet environment run flight_delay backtest flight_delay"):
        ratchet.backtest_place(spec, source="", named={}, threads=1, approximate=False)
