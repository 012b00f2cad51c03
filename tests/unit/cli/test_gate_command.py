"""``ratchet gate selftest`` and what ``ratchet champion show`` says of a gate that failed."""

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.bootstrap import Ratchet
from ratchet.cli import app
from ratchet.ports.ledger import ChampionRow

DETAIL = {"reasons": ["200 of 1000 null copies were promoted"], "weeks": 20, "known_bad": "keep_champion"}
DETAIL |= {"promoted": 200, "copies": 1000, "p_value": 0.0}


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_RATCHET_LEDGER", f"sqlite:////{tmp_path}/ledger.db")
    made = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    made.migrate()
    yield made
    made.dispose()


def outcome(ledger, monkeypatch, name: str) -> None:
    """Let the verb find this of model m, as the workflow would keep it."""

    def selftest(self, model=None, actor="ratchet"):
        with self.ledger.transaction() as tx:
            tx.save_self_test("m", DETAIL, passed=name == "passed")
        return {"m": name}

    monkeypatch.setattr(Ratchet, "selftest", selftest)


@pytest.mark.parametrize(("name", "code"), [("passed", 0), ("failed", 1)])
def test_a_failed_self_test_ends_with_one_and_says_why(ledger, monkeypatch, name, code):
    outcome(ledger, monkeypatch, name)
    answer = CliRunner().invoke(app, ["gate", "selftest", "--json"])
    assert answer.exit_code == code
    (row,) = json.loads(answer.stdout)
    assert (row["model"], row["outcome"], row["why"]) == ("m", name, DETAIL["reasons"][0])


def test_nothing_judged_is_no_failure(ledger):
    answer = CliRunner().invoke(app, ["gate", "selftest"])
    assert (answer.exit_code, answer.stdout.strip()) == (0, "nothing yet")


def test_who_looks_at_the_champion_is_told_that_promotions_are_held(ledger, monkeypatch):
    now = datetime(2013, 4, 1, tzinfo=UTC)
    with ledger.transaction() as tx:
        tx.insert_champion(ChampionRow("m", 1, 1, None, "init", now, None, "first", None, now))
    assert CliRunner().invoke(app, ["champion", "show", "m"]).stderr == ""
    with ledger.transaction() as tx:
        tx.save_self_test("m", DETAIL, passed=False)
    told = CliRunner().invoke(app, ["champion", "show", "m"])
    assert told.exit_code == 0
    assert "promotions are held" in told.stderr
    assert "200 of 1000" in told.stderr
