"""What `ratchet validate` and `ratchet deploy` say of sensitive columns."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, operate
from ratchet.errors import Refused
from ratchet.settings import load_settings

INCLUDE = Path(__file__).parents[3] / "include"
REASON = "a flight is no person, but the rule is asked for"


class InProcess(Ratchet):
    """The verbs on SQLite and a copy of the shipped folders, in which flights are sensitive."""

    def __init__(self, folder: Path) -> None:
        paths = {"RATCHET_HOME": str(folder), "RATCHET_MODELS_DIR": str(folder / "include" / "models")}
        paths |= {"RATCHET_FEATURE_REPO_DIR": str(folder / "include" / "feature_repo")}
        super().__init__(resolver=None, settings=load_settings(paths))  # type: ignore[arg-type]
        self.__dict__["ledger"] = SqlLedger(f"sqlite:///{folder}/ledger.db")
        self.ledger.migrate()


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    for part in ("models", "feature_repo"):
        shutil.copytree(INCLUDE / part, tmp_path / "include" / part, ignore=shutil.ignore_patterns("__pycache__"))
    listed = tmp_path / "include" / "feature_repo" / "datasets.yaml"
    listed.write_text(
        listed.read_text().replace("keys: [flight_id]", "keys: [flight_id]\n    sensitive: {flight_id: pii}", 1)
    )
    made = InProcess(tmp_path)
    monkeypatch.setattr(operate, "wire", lambda: made)
    return made


def allow(ratchet: InProcess) -> None:
    file = ratchet.settings.models_dir / "flight_delay" / "model.yaml"
    entry = f"  allow_sensitive: [{{column: flight_id, reason: '{REASON}'}}]\n"
    file.write_text(file.read_text().replace("  window: 180d\n", f"  window: 180d\n{entry}"))


def test_what_is_not_allowed_is_neither_valid_nor_deployed(ratchet: InProcess) -> None:
    said = CliRunner().invoke(app, ["validate"])
    assert said.exit_code == 1
    assert "data.spine.entity[0]: 'flight_id' is tagged pii in dataset 'flights' of datasets.yaml" in said.output
    with pytest.raises(Refused, match="'flight_id' is tagged pii"):
        ratchet.deploy()
    with ratchet.ledger.transaction() as tx:
        assert tx.specs() == []


def test_what_is_allowed_is_told_with_its_reason_and_audited(ratchet: InProcess) -> None:
    allow(ratchet)
    line = (
        f"flight_delay: sensitive column flight_id (pii in dataset 'flights' of datasets.yaml) is held as key: {REASON}"
    )
    said = CliRunner().invoke(app, ["validate"])
    assert (said.exit_code, line in said.output.splitlines()) == (0, True), said.output
    said = CliRunner().invoke(app, ["deploy"])
    assert (said.exit_code, line in said.output.splitlines()) == (0, True), said.output
    with ratchet.ledger.transaction() as tx:
        (entry,) = tx.audit_log(action="spec.deployed")
    (held,) = entry["detail"]["sensitive"]
    assert (held["column"], held["reason"]) == ("flight_id", REASON)
    assert CliRunner().invoke(app, ["deploy"]).output == "every spec is deployed already\n"
