"""What holds for the whole command line: JSON where there is an answer, completion, exit codes without stack traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from command_tree import commands
from typer.testing import CliRunner

import ratchet.cli as command_line
from ratchet.adapters.ledger import SqlLedger
from ratchet.cli import app, audit, operate
from ratchet.cli.tables import write_page
from ratchet.domain.audit import Head
from ratchet.errors import Refused, Unavailable
from ratchet.stack import api
from ratchet.workflow.auditing import AuditState

OPERATIONS = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
RATCHET = Path(sys.executable).parent / "ratchet"


def said(*arguments: str) -> Any:
    return json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)


def test_status_in_json_is_a_row_for_each_unit_and_none_where_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "status", dict)
    assert said("status") == []
    kafka = {"phase": "ready", "pid": 7, "ready_after": 1.5, "exits": 0, "detail": ""}
    monkeypatch.setattr(api, "status", lambda: {"kafka": kafka})
    assert said("status") == [{"unit": "kafka", **kafka}]


def test_the_audit_log_in_json_is_whole_with_its_ends_or_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    state = AuditState(Head(3, "a" * 64), None, ())
    log = SimpleNamespace(verify=lambda _: state)
    monkeypatch.setattr(audit, "wire", lambda: SimpleNamespace(audit_log=log))
    assert said("audit", "verify") == {"whole": True, "head": f"3:{'a' * 64}", "kept": None, "problems": []}
    state = AuditState(None, Head(2, "b" * 64), ("entry 2 is gone",))
    result = CliRunner().invoke(app, ["audit", "verify", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"] == ["entry 2 is gone"]


def test_specs_in_json_are_valid_or_problems_with_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    features = SimpleNamespace(feature_names=lambda *_: {}, tagged=lambda *_: {})
    place = SimpleNamespace(models_dir=tmp_path, feature_repo_dir=tmp_path / "feature_repo")
    parts = SimpleNamespace(settings=place, features=features, sensitive_lines=list)
    monkeypatch.setattr(operate, "wire", lambda: parts)
    assert said("validate") == {"valid": [], "problems": [], "notes": [], "snapshots": []}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.yaml").write_text("model: m\n")
    result = CliRunner().invoke(app, ["validate", "--json"])
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["valid"] == []
    assert all("/m/model.yaml" in problem for problem in answer["problems"])
    assert answer["problems"]


# -- completion --------------------------------------------------------------------------------------------------------


def completed(line: str) -> list[str]:
    words = line.split(" ")
    asked = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_RATCHET_COMPLETE": "complete_bash",
    }
    return CliRunner().invoke(app, [], prog_name="ratchet", env=asked).stdout.split()


def test_commands_options_and_systems_are_completed() -> None:
    assert completed("ratchet ver") == ["verify"]
    assert completed("ratchet publish re") == ["retrain", "report"]
    assert "--json" in completed("ratchet attempts --")
    assert completed("ratchet publish report g") == ["grafana", "great-expectations"]


@pytest.mark.parametrize("words", ["champion init", "events --model", "publish drift", "plan", "audit show --model"])
def test_the_models_of_this_checkout_are_completed(words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("fares", "flight_delay"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").write_text("")
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    assert completed(f"ratchet {words} ") == ["fares", "flight_delay"]
    assert completed(f"ratchet {words} fl") == ["flight_delay"]
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path / "nowhere"))
    assert completed(f"ratchet {words} ") == []


def test_completion_is_installed_for_a_shell_by_one_command(tmp_path: Path) -> None:
    home = {**os.environ, "HOME": str(tmp_path)}
    asked = [
        f"{RATCHET} --install-completion",
        "source ~/.bashrc",
        "complete -p ratchet",
    ]  # from a shell: it is detected
    bash = subprocess.run(["bash", "-c", "; ".join(asked)], env=home, check=True, capture_output=True, text=True)
    assert bash.stdout.strip().endswith("ratchet")


# -- exit codes --------------------------------------------------------------------------------------------------------


def code_of(monkeypatch: pytest.MonkeyPatch, act: Any) -> int:
    monkeypatch.setattr(command_line, "app", act)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_refusal_is_one_line_and_one_and_an_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise Refused("a rule is broken. Mend it")

    def interrupt() -> None:
        raise KeyboardInterrupt

    assert code_of(monkeypatch, refuse) == 1
    assert capsys.readouterr().err == "ratchet: a rule is broken. Mend it\n"
    assert code_of(monkeypatch, interrupt) == 130


def fail() -> None:
    raise KeyError("no such leaf")


def test_an_error_nobody_foresaw_is_one_line_and_seventy_and_its_traceback_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setattr(command_line.sys, "argv", ["ratchet", "costs", "--json"])
    assert code_of(monkeypatch, fail) == 70
    told, kept = capsys.readouterr(), tmp_path / "logs" / "commands.log"
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("ratchet: unexpected KeyError: 'no such leaf'")
    assert f"The traceback is in {kept}; RATCHET_TRACEBACK=1 shows it" in told.err
    assert "ratchet costs --json\nTraceback" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_a_traceback_is_shown_to_whoever_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setenv("RATCHET_TRACEBACK", "1")
    assert code_of(monkeypatch, fail) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_error_is_told_where_its_traceback_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file, no folder")
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "home"))
    assert code_of(monkeypatch, fail) == 70
    assert "own. RATCHET_TRACEBACK=1 shows it" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_refused_with_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"--html: .*/nowhere/page\.html cannot be written: No such file"):
        write_page(tmp_path / "nowhere" / "page.html", "<p>")


def test_a_command_that_does_not_exist_is_two() -> None:
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2
    assert CliRunner().invoke(app, ["attempts", "--nonsense"]).exit_code == 2


def test_every_command_that_ends_with_one_for_its_answer_is_in_the_table_of_exit_codes() -> None:
    table = OPERATIONS.partition("### Exit codes")[2].partition("\n## ")[0]
    assert [code for code in ("0", "1", "2", "70", "130") if f"| {code} |" not in table] == []
    told = {
        words
        for words, command in commands(typer.main.get_command(app))
        if "exit code 1" in (command.help or "") or "nds with 1" in (command.help or "")
    }
    assert told
    assert [words for words in sorted(told) if f"`ratchet {words}`" not in table] == []


def test_a_ledger_that_is_down_is_one_line_with_what_to_do() -> None:
    ledger = SqlLedger("postgresql+psycopg2://nobody@127.0.0.1:9/none")
    with pytest.raises(Unavailable) as raised, ledger.transaction():
        pass
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("refused. Is it up? ratchet status")
