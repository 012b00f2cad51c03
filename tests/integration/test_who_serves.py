"""The ledger says who serves: an alias moved by hand is put back, a rollback takes seconds, a changed byte is named."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from running_system import MODEL, System

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]
ROLLBACK_SECONDS = 60.0
"""A quiet machine needs a quarter of it, most of it to import MLflow and XGBoost."""


@pytest.fixture
def two_versions(system: System) -> System:
    """A champion, and one before it."""
    with system.ratchet.ledger.transaction() as tx:
        served = {champion.version for champion in tx.champions(MODEL)}
    if len(served) < 2:
        system.fresh_days()
        attempt = system.ended(system.attempt_of(event_id=system.request("a second champion")))
        assert attempt.verdict == "promote", attempt.verdict_record
    system.until("the alias to follow, and nothing left that moves it", lambda: settled(system))
    return system


def settled(system: System) -> bool:
    """Whether the alias follows and no row of the outbox is open that would put it back untold."""
    with system.ratchet.ledger.transaction() as tx:
        return bool(tx.settled_champions(MODEL)) and system.alias_follows()


def incidents(system: System) -> list[dict[str, object]]:
    with system.ratchet.ledger.transaction() as tx:
        return [entry["detail"] for entry in tx.audit_log(MODEL, action="alias.moved_by_hand")]


def verify(*words: str) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("ratchet")
    return subprocess.run([tool, *words], capture_output=True, text=True, check=False, timeout=300)


def test_an_alias_moved_by_hand_is_told_and_put_back_by_the_sweep(two_versions: System) -> None:
    system, before = two_versions, len(incidents(two_versions))
    with system.ratchet.ledger.transaction() as tx:
        serves = system.champion().version
        other = next(c.version for c in tx.champions(MODEL) if c.version != serves)
    system.ratchet.registry.set_alias(MODEL, "champion", other)
    assert system.alias() == other
    system.until("the alias to be put back", system.alias_follows)
    (incident,) = incidents(system)[before:]
    assert (incident["named"], incident["repaired_to"]) == (other, serves)


def test_a_rollback_takes_seconds_and_is_audited(two_versions: System) -> None:
    system, before = two_versions, two_versions.champion()
    began = time.monotonic()
    system.command("rollback", MODEL, "--reason", "complaints from Newark")
    took = time.monotonic() - began
    assert system.champion().seq == before.seq + 1
    assert system.champion().version != before.version
    assert system.alias_follows(), "the alias followed in the same command"
    assert took < ROLLBACK_SECONDS, took
    with system.ratchet.ledger.transaction() as tx:
        entry = tx.audit_log(MODEL, action="champion.rolledback")[-1]
    assert entry["detail"]["reason"] == "complaints from Newark"


def test_a_flipped_byte_in_mlflows_storage_is_named_and_no_rollback_goes_there(two_versions: System) -> None:
    system = two_versions
    whole = verify("verify", MODEL)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    with system.ratchet.ledger.transaction() as tx:
        serves = system.champion().version
        other = next(c.version for c in tx.champions(MODEL)[::-1] if c.version != serves)
    content = (system.ratchet.registry.download(MODEL, other) / "model.ubj").read_bytes()
    folder = system.ratchet.settings.home / "mlflow"
    (stored,) = [file for file in folder.rglob("model.ubj") if file.read_bytes() == content]
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        changed = verify("verify", MODEL)
        assert changed.returncode == 1
        assert f"artifact {MODEL}@{other}: version {other} of {MODEL} cannot be used" in changed.stdout
        for file in (system.ratchet.settings.home / "models").rglob("model.ubj"):
            file.unlink()
        refused = verify("rollback", MODEL, "--to", str(other), "--reason", "try")
        assert refused.returncode == 1
        assert f"version {other} of {MODEL} cannot be used" in refused.stderr
        assert system.champion().version == serves
    finally:
        stored.write_bytes(content)
    assert verify("verify", MODEL).returncode == 0


def test_the_audit_log_of_a_lived_in_system_is_whole_and_its_end_is_kept(two_versions: System) -> None:
    system = two_versions
    system.until("the sweep to keep the log's end", system.ratchet.audit_log.kept)
    said = system.command("audit", "verify")
    assert "whole: " in said
    assert "kept outside the ledger: entry" in said
