"""A backup is whole or not there, and a restore overwrites nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ratchet.stack import backup
from ratchet.stack.config import StackConfig
from ratchet.stack.control import StackError


def config(home: Path) -> StackConfig:
    home.mkdir(exist_ok=True)
    for name in backup.FOLDERS:
        (home / name / "deep").mkdir(parents=True)
        (home / name / "deep" / "file").write_text(name)
    (home / "secrets.json").write_text("{}")
    ports = dict.fromkeys(("airflow", "mlflow", "kafka", "kafka_controller", "postgres"), 1)
    return StackConfig(home, home, ports, {"postgres": "p/w"})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """PostgreSQL's programs, of which only the files that they write are there."""
    ran: list[tuple[str, ...]] = []

    def run(tool: str, address: str, *arguments: str) -> None:
        ran.append((tool, address.rpartition("/")[2]))
        dump(tool, address, *arguments)

    monkeypatch.setattr(backup, "_run", run)
    return ran


def dump(_tool: str, address: str, *arguments: str) -> None:
    """Write what a dump would."""
    for argument in arguments:
        if argument.startswith("--file="):
            Path(argument.removeprefix("--file=")).write_text(address)


def test_the_ledger_goes_before_what_it_names_and_files_go_last(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    told: list[str] = []
    made = backup.back_up(config(tmp_path / "home"), tmp_path / "copy", told.append)
    assert asked == [("pg_dump", name) for name in ("ratchet", "optuna", "mlflow", "airflow")]
    assert [line.split()[0] for line in told] == ["database"] * 4 + ["folder"] * 2
    assert (made.files, made.bytes) == (2, len("storagemlflow"))
    assert (tmp_path / "copy" / "storage" / "deep" / "file").read_text() == "storage"
    assert backup.read(tmp_path / "copy") == made


def test_a_backup_that_broke_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    home = config(tmp_path / "home")
    monkeypatch.setattr(backup, "_run", dump)
    monkeypatch.setattr(backup.shutil, "copy2", broken)
    with pytest.raises(OSError, match="disk full"):
        backup.back_up(home, tmp_path / "copy", print)
    monkeypatch.undo()
    monkeypatch.setattr(backup, "_run", dump)
    assert not (tmp_path / "copy").exists()
    assert backup.back_up(home, tmp_path / "copy", print).files == 2
    with pytest.raises(StackError, match="is there already"):
        backup.back_up(home, tmp_path / "copy", print)


def test_a_dump_that_was_changed_is_refused_before_anything_is_put_back(
    tmp_path: Path, asked: list[tuple[str, ...]]
) -> None:
    backup.back_up(config(tmp_path / "home"), tmp_path / "copy", print)
    (tmp_path / "copy" / "mlflow.dump").write_text("other")
    with pytest.raises(StackError, match="is not the dump that was written"):
        backup.put_files(tmp_path / "new", tmp_path / "copy")
    assert not (tmp_path / "new").exists()


def test_a_home_with_state_is_left_alone(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    backup.back_up(config(tmp_path / "home"), tmp_path / "copy", print)
    with pytest.raises(StackError, match="holds storage, mlflow already"):
        backup.put_files(tmp_path / "home", tmp_path / "copy")
    (tmp_path / "new" / "kafka").mkdir(parents=True)
    backup.put_files(tmp_path / "new", tmp_path / "copy")
    assert (tmp_path / "new" / "mlflow" / "deep" / "file").read_text() == "mlflow"
    assert (tmp_path / "new" / "secrets.json").exists()


def test_what_is_no_backup_is_said_to_be_none(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    with pytest.raises(StackError, match="is no backup"):
        backup.read(tmp_path)
    backup.back_up(config(tmp_path / "home"), tmp_path / "copy", print)
    told = json.loads((tmp_path / "copy" / backup.MANIFEST).read_text()) | {"format": 2}
    (tmp_path / "copy" / backup.MANIFEST).write_text(json.dumps(told))
    with pytest.raises(StackError, match="of format 2"):
        backup.read(tmp_path / "copy")


def test_the_password_is_in_no_programs_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "pg_dump"
    says = [f'echo "$@" > {tmp_path}/arguments', f'echo "$PGPASSWORD" > {tmp_path}/password']
    tool.write_text("\n".join(["#!/bin/sh", *says]))
    tool.chmod(0o755)
    monkeypatch.setattr(backup.postgres, "binaries", lambda: tmp_path)
    backup._run("pg_dump", "postgresql://ann:p%2Fw@127.0.0.1:5432/ratchet?sslmode=disable", "--format=custom")
    assert (tmp_path / "password").read_text() == "p/w\n"
    said = (tmp_path / "arguments").read_text()
    assert said == "--dbname=postgresql://ann@127.0.0.1:5432/ratchet?sslmode=disable --format=custom\n"
