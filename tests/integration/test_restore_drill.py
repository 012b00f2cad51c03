"""The restore drill: everything but Kafka is lost, and champions, dossiers, audit chain and events are there again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from running_system import MODEL, RETRAIN, System

from ratchet.bootstrap import wire
from ratchet.workflow.leases import ENDED_STATES

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1800)]


def standing(system: System) -> dict[str, Any]:
    """What must be the same afterwards."""
    with system.ratchet.ledger.transaction() as tx:
        names = [row.model for row in tx.specs()]
        ended = [row for name in names for row in tx.attempts(model=name) if row.state in ENDED_STATES]
        entries = tx.audit_log()
        return {
            "champions": {name: [(row.seq, row.version, row.kind) for row in tx.champions(name)] for name in names},
            "dossiers": {row.id: row.dossier_sha256 for row in ended},
            "audit": [(entry["seq"], entry["hash"]) for entry in entries],
        }


def lose_everything_but_kafka(home: Path) -> None:
    """As a machine dies: every process at once, then the disk with databases, files and secrets."""
    for process in psutil.process_iter(["pid", "environ"]):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RATCHET_HOME") == str(home) and process.pid not in {os.getpid(), os.getppid()}:
                mine = {parent.pid for parent in psutil.Process().parents()}
                if process.pid not in mine:
                    os.kill(process.pid, signal.SIGKILL)
    for name in ("postgres", "storage", "mlflow", "airflow", "run", "secrets.json", "stack.env"):
        path = home / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def test_what_was_backed_up_is_back_and_what_came_later_is_read_again_from_kafka(
    system: System, tmp_path: Path
) -> None:
    home = system.ratchet.settings.home
    system.fresh_days()
    first = system.ended(system.attempt_of(event_id=system.request("before the backup")))
    system.rest()
    assert first.state == "concluded"
    before = standing(system)

    told = system.command("backup", str(tmp_path / "backup"))
    assert "holds the state of" in told
    system.fresh_days()
    later = system.request("after the backup")
    system.ended(system.attempt_of(event_id=later))
    system.close()

    lose_everything_but_kafka(home)
    told = system.command("restore", str(tmp_path / "backup"))
    since = told.split("--since ")[1].split()[0]
    system.command("up")
    system.command("audit", "accept", "--reason", f"restored the backup of {since}")
    system.ratchet = wire()
    system.logins.clear()
    again = standing(system)
    assert again["champions"] == before["champions"]
    assert again["dossiers"] == before["dossiers"]
    assert again["audit"][: len(before["audit"])] == before["audit"]
    assert "as recorded" in system.command("verify")
    assert system.alias_follows()

    assert system.event(later) is None, "it came after the backup"
    system.command("events", "replay", "--since", since, "--reason", "the drill")
    row = system.until("the later event to be stored again", lambda: system.event(later))
    assert row.fate in {"pending", "claimed", "deferred", "started", "merged"}
    answered = system.ended(system.attempt_of(event_id=later))
    assert (answered.model, answered.dag_id) == (MODEL, RETRAIN)
    assert system.unsettled() == []
