"""``ratchet notifications``: every message with how it stands and why; what was given up is tried again when asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.cli import app
from ratchet.domain.notifications import GIVEN_UP

AT = datetime(2026, 7, 1, tzinfo=UTC)
NOTICE = {"title": "m: version 2 serves", "said": ["why: [red]x[/red]"], "todo": "Nothing"}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_RATCHET_LEDGER", f"sqlite:////{tmp_path}/ledger.db")
    made = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    made.migrate()
    with made.transaction() as tx:
        for channel in ("sent", "tried", "given_up", "needless", "later"):
            posts = [(channel, "owner", ["ops@a.org"], AT)]
            tx.insert_notification("promoted", channel, "m" if channel != "later" else None, AT, NOTICE, posts)
        for channel in ("sent", "tried", "given_up", "needless"):
            post = tx.take_post(channel)
            assert post is not None
            tx.try_post(post.id, timedelta(hours=1))
            tx.finish_post(post.id, error=None if channel == "sent" else "ConnectionError: away")
            if channel in {"given_up", "needless"}:
                tx.drop_posts([post.id], GIVEN_UP if channel == "given_up" else "it waits for no answer any more")
    yield made
    made.dispose()


def run(*arguments: str) -> list[dict[str, Any]]:
    answer = CliRunner().invoke(app, ["notifications", *arguments, "--json"])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def test_each_message_says_how_it_stands(ledger: SqlLedger) -> None:
    assert [(row["channel"], row["state"], row["tries"]) for row in run()] == [
        ("later", "waits", 0),
        ("needless", "dropped", 1),
        ("given_up", "failed", 1),
        ("tried", "failed", 1),
        ("sent", "sent", 1),
    ]
    tried = run()[3]
    assert (tried["last_error"], tried["to"]) == ("ConnectionError: away", "ops@a.org")
    assert tried["told"] == "m: version 2 serves (ConnectionError: away)"


def test_they_are_asked_for_by_state_and_by_model_and_the_newest_come_first(ledger: SqlLedger) -> None:
    assert [row["channel"] for row in run("--state", "failed")] == ["given_up", "tried"]
    assert [row["channel"] for row in run("--state", "failed", "--limit", "1")] == ["given_up"]
    assert len(run("--model", "m")) == 4
    assert [row["channel"] for row in run("--limit", "2")] == ["later", "needless"]


def test_what_failed_is_tried_again_when_asked_for_and_what_was_needless_is_not(ledger: SqlLedger) -> None:
    run("--retry")
    with ledger.transaction() as tx:
        assert tx.waiting_channels() == ["given_up", "later", "tried"]


def test_the_table_is_for_people(ledger: SqlLedger) -> None:
    answer = CliRunner().invoke(app, ["notifications"])
    assert answer.exit_code == 0
    assert "m: version 2 serves (given up after 72 tries)" in answer.stdout
