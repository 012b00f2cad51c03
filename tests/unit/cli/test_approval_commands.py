"""The commands of those who answer without Airflow's page, on a ledger of their own."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, approvals
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.bus import InMemoryBus
from ratchet.ports.ledger import AttemptRow, ChampionRow
from ratchet.ports.registry import InMemoryRegistry
from ratchet.settings import load_settings

ROOT = Path(__file__).resolve().parents[3]
MODEL = "flight_delay"
NOW = datetime(2013, 5, 1, 4, tzinfo=UTC)
RECORD = {"estimate": 0.9, "lower": 0.4, "upper": 1.4, "unit": "USD", "n_rows": 20_000, "n_clusters": 28}


class InProcess(Ratchet):
    """The verbs on SQLite, a bus and a registry in memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(resolver=None, settings=load_settings({"RATCHET_HOME": str(folder)}))  # type: ignore[arg-type]
        self.__dict__["ledger"] = SqlLedger(f"sqlite:///{folder}/ledger.db")
        self.__dict__["bus"] = InMemoryBus()
        self.__dict__["registry"] = InMemoryRegistry(folder / "registry")
        self.__dict__["models"] = self

    def load(self, folder: Path, *, expected: str | None = None) -> Path:
        """The fillers of this registry are no models."""
        return folder


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Two people must agree to version 2, which was judged to be worth 18,000 USD."""
    made = InProcess(tmp_path)
    made.ledger.migrate()
    document = load_spec(ROOT / "include" / "models" / MODEL).model_dump(mode="json")
    document["gate"]["approval"] = {"two_people_above": 17_000}
    spec = ModelSpec.model_validate(document)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "ratchet.json").write_text("{}")
    for number in (1, 2):
        made.registry.register(str(number), MODEL, artifact, metrics={}, params={}, tags={})
    with made.ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
        tx.set_clock("replay", NOW)
        tx.insert_champion(ChampionRow(MODEL, 1, 1, None, "init", NOW, None, "r", None, NOW))
        values = dict.fromkeys(AttemptRow.__dataclass_fields__) | {
            "id": f"{MODEL}.1",
            "model": MODEL,
            "epoch": 1,
            "state": "judged",
            "dag_id": f"retrain__{MODEL}",
            "dag_run_id": "run1",
            "trigger": "manual",
            "actor": "ann",
            "reason": "look",
            "options": {},
            "business_at": NOW,
            "as_of": NOW,
            "spec_digest": spec.digest,
            "code_digest": "c" * 64,
            "champion_seq": 1,
            "champion_version": 1,
            "challenger_version": 2,
            "verdict": "promote",
            "verdict_record": RECORD,
            "evidence_digest": "e" * 64,
            "created_at": NOW,
            "judged_at": NOW,
        }
        tx.start_attempt(AttemptRow(**values), 60)
        tx.release_lease(f"{MODEL}.1")
    made.promote(MODEL)
    monkeypatch.setattr(approvals, "wire", lambda: made)
    return made


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def as_user(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: name)


@pytest.mark.usefixtures("ratchet")
def test_approvals_says_what_waits_until_when_and_what_is_at_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, "bea")
    run("approve", "flight_delay.1", "--reason", "looks right")
    table = run("approvals", "--model", MODEL)
    for said in ("flight_delay.1", "1 of 2: bea", "18,000 USD", "two people must agree"):
        assert said in table
    (row,) = json.loads(run("approvals", "--json"))
    waits = datetime.fromisoformat(row["expires_at"]) - datetime.fromisoformat(row["asked_at"])
    assert waits == timedelta(days=3)
    assert [(a["actor"], a["reason"]) for a in row["answers"]] == [("bea", "looks right")]
    assert run("approvals", "--model", "another").strip() == "nothing yet"


def test_the_operating_systems_user_is_who_agreed(ratchet: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, "bea")
    said = run("approve", "flight_delay.1", "--reason", "looks right")
    assert said.strip() == "flight_delay.1: awaiting_approval, 1 of 2 approvals (bea); another person must agree"
    assert "you had agreed already" in run("approve", "flight_delay.1", "--reason", "sure")
    as_user(monkeypatch, "cy")
    said = run("approve", "flight_delay.1", "--reason", "agreed")
    assert said.strip() == "flight_delay.1: concluded, 2 of 2 approvals (bea, cy)"
    with ratchet.ledger.transaction() as tx:
        champion = tx.current_champion(MODEL)
    assert champion is not None
    assert (champion.version, champion.actor) == (2, "cy")
    assert run("approvals").strip() == "nothing yet"


def test_one_rejection_keeps_the_champion(ratchet: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, "bea")
    said = run("reject", "flight_delay.1", "--reason", "not before Christmas")
    assert said.strip() == "flight_delay.1: concluded, rejected by bea: not before Christmas"
    with pytest.raises(Refused, match="waits for no answer"):
        run("approve", "flight_delay.1", "--reason", "but why")
    with ratchet.ledger.transaction() as tx:
        assert [c.version for c in tx.champions(MODEL)] == [1]


@pytest.mark.usefixtures("ratchet")
@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_an_answer_needs_a_reason(verb: str) -> None:
    assert CliRunner().invoke(app, [verb, "flight_delay.1"]).exit_code == 2
