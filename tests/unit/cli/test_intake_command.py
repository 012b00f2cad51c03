"""``ratchet intake``: what it shows, and when it ends with 1."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger import schema as t
from ratchet.cli import app
from ratchet.ports.ledger import PumpRow


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_RATCHET_LEDGER", f"sqlite:////{tmp_path}/ledger.db")
    made = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    made.migrate()
    yield made
    made.dispose()


def beat(ledger, minutes_ago):
    with ledger.transaction() as tx:
        tx.beat(PumpRow("host:1", "g", datetime.now(UTC), {"ml.drift/0": 3, "ml.drift/1": 4}, alarm="offsets 1 to 2"))
        tx._db.execute(sa.update(t.pump).values(beat_at=tx.wall() - timedelta(minutes=minutes_ago)))


def test_a_beating_pump_is_shown_with_its_lag_and_alarm(ledger):
    beat(ledger, 0)
    answer = CliRunner().invoke(app, ["intake", "--json"])
    assert answer.exit_code == 0
    told = json.loads(answer.stdout)
    assert told["alive"]
    assert told["pumps"][0]["lag"] == {"ml.drift/0": 3, "ml.drift/1": 4}
    assert told["pumps"][0]["alarm"] == "offsets 1 to 2"


def test_five_silent_minutes_end_with_one(ledger):
    assert CliRunner().invoke(app, ["intake"]).exit_code == 1
    beat(ledger, 4)
    assert CliRunner().invoke(app, ["intake"]).exit_code == 0
    beat(ledger, 6)
    assert CliRunner().invoke(app, ["intake"]).exit_code == 1
