"""``ratchet snooze`` on a ledger of its own."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.bootstrap import Ratchet
from ratchet.cli import app
from ratchet.cli import snooze as command
from ratchet.settings import load_settings

MODEL = "flight_delay"
NOW = datetime(2013, 5, 1, 4, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ratchet:
    made = Ratchet(resolver=None, settings=load_settings({"RATCHET_HOME": str(tmp_path)}))  # type: ignore[arg-type]
    made.__dict__["ledger"] = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    made.ledger.migrate()
    spec = load_spec(ROOT / "include" / "models" / MODEL)
    with made.ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
        tx.set_clock("replay", NOW)
    monkeypatch.setattr(command, "wire", lambda: made)
    return made


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["snooze", *words])


def told(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.output)


def test_a_model_sleeps_is_listed_and_wakes(ratchet: Ratchet) -> None:
    assert run().output == "nothing yet\n"
    text = run(MODEL, "--for", "3d", "--reason", "labels are being mended").output
    assert f"{MODEL} starts no run by itself until 2013-05-04 04:00Z (business time)" in text
    assert f"ratchet snooze {MODEL} --lift --reason" in text
    (row,) = told()
    assert row == {
        "model": MODEL,
        "since": "2013-05-01 04:00:00+00:00",
        "until": "2013-05-04 04:00:00+00:00",
        "actor": getpass.getuser(),
        "reason": "labels are being mended",
    }
    assert "labels are being mended" in run().output
    with ratchet.ledger.transaction() as tx:
        (entry,) = tx.audit_log(MODEL)
    assert (entry["actor"], entry["action"], entry["detail"]["via"]) == (
        getpass.getuser(),
        "model.snoozed",
        "command line",
    )
    assert "is awake; what waited is decided again" in run(MODEL, "--lift", "--reason", "mended").output
    assert "does not sleep" in run(MODEL, "--lift", "--reason", "mended").output
    assert told() == []


def test_it_is_told_to_programs_too(ratchet: Ratchet) -> None:
    answer = told(MODEL, "--until", "2013-05-02T06:00+02:00", "--reason", "r")
    assert (answer["model"], answer["until"]) == (MODEL, "2013-05-02 04:00:00+00:00")
    assert told(MODEL, "--lift", "--reason", "r") == {"model": MODEL, "woken": True}


def test_whatever_has_ended_by_itself_is_not_listed(ratchet: Ratchet) -> None:
    run(MODEL, "--for", "1h", "--reason", "r")
    with ratchet.ledger.transaction() as tx:
        tx.set_clock("replay", datetime(2013, 5, 1, 5, tzinfo=UTC))
    assert told() == []


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("--for", "3d", "--reason", "r"), "which model"),
        (("--lift",), "which model"),
        ((MODEL, "--for", "3d"), "need a reason"),
        ((MODEL, "--lift"), "need a reason"),
        ((MODEL, "--reason", "r"), "one of the two"),
        ((MODEL, "--for", "3d", "--until", "2013-05-02T04:00Z", "--reason", "r"), "one of the two"),
        ((MODEL, "--for", "31d", "--reason", "r"), "30d at most"),
        ((MODEL, "--for", "a while", "--reason", "r"), "a duration is written like"),
        ((MODEL, "--for", f"{10**20}d", "--reason", "r"), "--for"),
        ((MODEL, "--until", "2013-05-02", "--reason", "r"), "needs its zone"),
        ((MODEL, "--until", "2013-04-30T04:00Z", "--reason", "r"), "later than now"),
        ((MODEL, "--lift", "--for", "3d", "--reason", "r"), "leave --for and --until out"),
        (("nobody", "--for", "3d", "--reason", "r"), "is not deployed"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_rule(ratchet: Ratchet, words: tuple[str, ...], rule: str) -> None:
    assert rule in str(run(*words).exception)
    assert told() == []
