"""What holds for every command, those to come too: an example that can be typed, JSON, and no silence."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from command_tree import commands, examples
from typer.testing import CliRunner

import ratchet.cli as command_line
from ratchet.adapters.examples import Taken
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, progress
from ratchet.errors import RatchetError, Refused
from ratchet.ports.bus import InMemoryBus
from ratchet.settings import load_settings
from ratchet.stack import api

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from in_process import InProcess, new_world

ROOT = Path(__file__).parents[3]
TREE = dict(commands(typer.main.get_command(app)))
MODULES = [
    importlib.import_module(f"{command_line.__name__}.{found.name}")
    for found in pkgutil.iter_modules(command_line.__path__)
]
WIRED = [module for module in MODULES if hasattr(module, "wire")]
LIVES_A_YEAR = "demo"
"""Not called here: it takes minutes on a whole stack. Its JSON is the report that it keeps."""
TOLD_ELSEWHERE = {LIVES_A_YEAR, "backtest", "events follow"}
"""Tested with their own worlds: test_backtest_command.py, test_event_commands.py."""
QUICK = {"status", "up"}
"""Asks the supervisor next door; tells of each component as it gets ready."""
SLOW_SECONDS = 0.2
REFUSED = {"backup", "champion init", "events show", "ledger grant", "monitor", "publish report", "restore", "score"}
REFUSED |= {"environment lock", "environment run"}
"""What this small world refuses: no Airflow answers, no such event or file, no monitor, no day that could be scored; a
stack without a database has no state, and one that runs is not restored; SQLite has no roles; no packages are wanted.
"""


@pytest.mark.parametrize("words", TREE)
def test_a_command_says_what_it_does_and_how_it_is_typed(words: str) -> None:
    command = TREE[words]
    assert (command.help or "").strip(), f"ratchet {words} has no help"
    shown = examples(words, command)
    assert shown, f"the help of ratchet {words} shows no example: a paragraph 'ratchet {words} …'"
    for typed in shown:
        command.make_context(words, typed[len(words.split()) :])  # refuses options and arguments that there are not


@pytest.mark.parametrize("words", TREE)
def test_each_argument_and_option_is_told_of(words: str) -> None:
    assert [each.name for each in TREE[words].params if not each.hidden and not each.help] == []


@pytest.mark.parametrize("words", TREE)
def test_a_command_answers_a_program(words: str) -> None:
    assert any("--json" in parameter.opts for parameter in TREE[words].params), f"ratchet {words} has no --json"


@pytest.mark.parametrize("words", sorted(TREE.keys() - {"new"}))
def test_a_model_is_completed_by_its_name(words: str) -> None:
    """``new`` names one that is not there yet."""
    for each in TREE[words].params:
        if each.name in {"model", "models"}:
            completed = [item.value for item in each.shell_complete(None, "flight_d")]
            assert completed == ["flight_delay"], f"ratchet {words}: autocompletion=known_models"


# -- what is printed with --json is JSON, on a world in which an attempt was judged ------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = new_world(tmp_path_factory.mktemp("judged"))
    made.run("2013-03-25", first_champion=True)
    yield made
    made.ledger.dispose()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own: what is made there harms nobody."""
    made = tmp_path_factory.mktemp("checkout")
    for name in ("models", "examples", "feature_repo"):
        shutil.copytree(ROOT / "include" / name, made / "include" / name, ignore=shutil.ignore_patterns("data"))
    return made


@pytest.fixture
def ratchet(world: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ratchet:
    """The judged world, copied, in its own checkout. The stack, makers of data and rollback only answer."""
    paths = {"RATCHET_HOME": str(tmp_path / "home"), "RATCHET_ROOT": str(place)}
    monkeypatch.setenv("RATCHET_HOME", paths["RATCHET_HOME"])
    made: Any = InProcess(world.copy(tmp_path))
    made.settings = load_settings(paths)
    made.__dict__["bus"] = InMemoryBus()
    counted = {"stands": "1 of 1 agreed", "counted": True, "decision": "approved", "state": "judged"}
    monkeypatch.setattr(InProcess, "respond", lambda *_, **__: counted)
    monkeypatch.setattr(InProcess, "rollback", lambda *_: {"version": 1, "before": 2})
    taken = Taken(place / "model.yaml", "standby_crew", 30_000, datetime(2013, 4, 1, tzinfo=UTC))
    monkeypatch.setattr("ratchet.adapters.examples.take", lambda *_, **__: taken)
    monkeypatch.setattr("ratchet.adapters.flights.build", lambda *_: None)
    for module in WIRED:
        monkeypatch.setattr(module, "wire", lambda: made)
    stack = SimpleNamespace(airflow_url="http://a", mlflow_url="http://m", bootstrap="k", secrets={"admin": "s"})
    row = {"phase": "ready", "pid": 7, "ready_after": 1.5, "exits": 0, "detail": ""}

    def up(_: Any, *, on_ready: Any) -> Any:
        on_ready("api-server", row)
        return SimpleNamespace(home=tmp_path, **vars(stack))

    monkeypatch.setattr(api, "up", up)
    monkeypatch.setattr(api, "down", lambda: True)
    monkeypatch.setattr(api, "status", lambda: dict.fromkeys(("api-server", "mlflow", "kafka"), row))
    return made


def typed(words: str) -> list[str]:
    """The command's first example, about what the small world has."""
    return [re.sub(r"^flight_delay([.@])\d+$", r"flight_delay\g<1>1", word) for word in examples(words, TREE[words])[0]]


@pytest.mark.parametrize("words", sorted(TREE.keys() - TOLD_ELSEWHERE))
def test_what_a_command_prints_with_json_is_json_and_nothing_else(ratchet: Ratchet, words: str) -> None:
    result = CliRunner().invoke(app, [*typed(words), "--json"])
    if isinstance(result.exception, RatchetError):
        assert words in REFUSED, result.exception
        assert result.stdout == ""
        return
    assert words not in REFUSED, "no longer refused here: take it out of REFUSED"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    json.loads(result.stdout)


# -- what takes long says so -------------------------------------------------------------------------------------------


class Answered(RatchetError):
    """Something that was slow has answered."""


class Slow:
    """Whatever is asked of it takes its time and then ends the command. The ledger alone is quick."""

    def __init__(self, settings: Any, name: str = "") -> None:
        self.settings = settings
        self._name = name

    def __getattr__(self, name: str) -> Slow:
        return Slow(self.settings, name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        if self._name == "transaction":
            raise Refused("the ledger was asked")
        time.sleep(SLOW_SECONDS)
        raise Answered


@pytest.mark.parametrize("words", sorted(TREE.keys() - {LIVES_A_YEAR}))
def test_nothing_that_is_waited_for_is_waited_for_in_silence(
    words: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow: Any = Slow(load_settings({"RATCHET_HOME": str(tmp_path), "RATCHET_ROOT": str(place)}))
    for module in WIRED:
        monkeypatch.setattr(module, "wire", lambda: slow)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", SLOW_SECONDS / 4)
    for name in ("up", "down", "status"):
        monkeypatch.setattr(api, name, slow)
    for name in ("flights.build", "scaffold.scaffold", "examples.take", "specs.validate_all"):
        monkeypatch.setattr(f"ratchet.adapters.{name}", slow)
    result = CliRunner().invoke(app, typed(words))
    if isinstance(result.exception, Answered):
        assert "…" in result.output or words in QUICK, (
            f"ratchet {words} was slow and told nothing: cli.progress.working"
        )
