"""The audit commands, on a ledger and a storage of their own."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger import schema as t
from ratchet.adapters.storage import ObjectStore
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, audit, operate
from ratchet.errors import Refused
from ratchet.settings import load_settings


class InProcess(Ratchet):
    """The verbs on SQLite and a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(resolver=None, settings=load_settings({"RATCHET_HOME": str(folder)}))  # type: ignore[arg-type]
        self.__dict__["ledger"] = SqlLedger(f"sqlite:///{folder}/ledger.db")
        self.__dict__["store"] = ObjectStore(str(folder / "storage"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    ledger.migrate()
    ledger.dispose()
    return path


@pytest.fixture
def ratchet(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    shutil.copy(template, tmp_path / "ledger.db")
    made = InProcess(tmp_path)
    with made.ledger.transaction() as tx:
        tx.audit("ann", "champion.promoted", "m", {"version": 2})
        tx.audit("bob", "champion.rolledback", "m", {"to": 1, "reason": "bookings fell"})
        tx.audit("sweep", "intake.absent", None, {})
    monkeypatch.setattr(audit, "wire", lambda: made)
    return made


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["audit", *words], catch_exceptions=True)


def shown(*words: str) -> list[str]:
    return [row["actor"] for row in json.loads(run("show", *words, "--json").output)]


def test_the_log_is_shown_and_filtered(ratchet: InProcess) -> None:
    assert shown() == ["ann", "bob", "sweep"]
    assert shown("--model", "m", "--actor", "bob") == shown("--action", "champion", "--limit", "1") == ["bob"]
    assert shown("--since", "1h") == shown()
    assert shown("--since", "2100-01-01T00:00Z") == []
    assert '"reason": "bookings fell"' in run("show").output


def test_a_whole_log_is_whole_and_tells_its_head(ratchet: InProcess) -> None:
    result = run("verify")
    assert result.exit_code == 0
    assert "whole: 3 entries" in result.output
    with ratchet.ledger.transaction() as tx:
        assert f"head {tx.audit_head()}" in result.output


def test_a_changed_byte_is_found_by_the_entrys_name_and_ends_with_one(ratchet: InProcess) -> None:
    with ratchet.ledger.engine.begin() as db:
        for name in db.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            db.execute(sa.text(f"DROP TRIGGER {name}"))
        db.execute(sa.update(t.audit).where(t.audit.c.seq == 2).values(detail={"to": 1, "reason": "bookings felt"}))
    result = run("verify")
    assert result.exit_code == 1
    assert "audit entry 2 (champion.rolledback by bob" in result.output
    assert "was edited" in result.output


def test_a_head_that_was_written_down_is_compared(ratchet: InProcess) -> None:
    with ratchet.ledger.transaction() as tx:
        head = str(tx.audit_head())
    assert run("verify", "--head", head).exit_code == 0
    result = run("verify", "--head", f"4:{'0' * 64}")
    assert result.exit_code == 1
    assert "audit entry 4, which --head names, is missing" in result.output
    assert isinstance(run("verify", "--head", "4").exception, Refused)


def test_accepting_is_audited_with_who_and_why(ratchet: InProcess) -> None:
    assert run("accept", "--reason", "restored Monday's backup").exit_code == 0
    with ratchet.ledger.transaction() as tx:
        (entry,) = tx.audit_log(action="audit.accepted")
    assert (entry["actor"], entry["detail"]["reason"]) == (getpass.getuser(), "restored Monday's backup")
    assert "kept outside the ledger: entry 4 in" in run("verify").output


def test_a_configuration_change_is_audited_with_who_and_what(
    ratchet: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operate, "wire", lambda: ratchet)
    said = CliRunner().invoke(app, ["clock", "set", "replay", "2013-04-01T04:00Z", "--reason", "to live through 2013"])
    assert said.exit_code == 0, said.output
    (model,) = ratchet.deploy(actor="ann")
    with ratchet.ledger.transaction() as tx:
        (spec,) = tx.specs()
        tx.publish_spec(model, "0" * 64, spec.document | {"gate": {}})
    ratchet.deploy(actor="bob")
    with ratchet.ledger.transaction() as tx:
        (clock,) = tx.audit_log(action="clock.set")
        first, second = tx.audit_log(action="spec.deployed")
    assert (clock["actor"], clock["detail"]["reason"]) == (getpass.getuser(), "to live through 2013")
    assert (first["actor"], first["detail"]["before"]) == ("ann", None)
    assert (second["actor"], second["detail"]["changed"]) == ("bob", ["gate"])
    assert second["detail"]["before"] == "0" * 64
