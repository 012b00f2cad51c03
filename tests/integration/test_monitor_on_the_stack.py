"""New rows are looked at when they arrive: sweep, DAG, Feast, MLflow, the store, Kafka and the inbox."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from running_system import System
from small_model import MONITORED

from ratchet.ports.ledger import EventRow, MonitoredRow
from ratchet.workflow.monitoring import FEATURES, SOURCE

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]


def looked_at(system: System, count: int) -> list[MonitoredRow] | None:
    with system.ratchet.ledger.transaction() as tx:
        done = [row for row in tx.monitored(MONITORED) if row.state == "done"]
    return done if len(done) >= count else None


def heard(system: System, window: MonitoredRow) -> list[EventRow]:
    """What of the window has come back through Kafka, about its features."""
    name = f"monitor:{MONITORED}:{FEATURES}:{window.window_end:%Y%m%dT%H%M%SZ}"
    with system.ratchet.ledger.transaction() as tx:
        return tx.events(model=MONITORED, source=SOURCE, event_id=name)


def test_windows_that_arrive_are_looked_at_once_and_what_was_found_comes_back_as_events(system: System) -> None:
    said = system.command("champion", "init", MONITORED, "--reason", "to be monitored")
    assert "concluded, verdict promote" in said
    system.until("a first window", lambda: looked_at(system, 1))
    system.fresh_days(7)
    windows = system.until("a second window", lambda: looked_at(system, 2))
    assert (windows[0].window_end - windows[1].window_end).days == 7
    with system.ratchet.ledger.transaction() as tx:
        champion = tx.current_champion(MONITORED)
    assert champion is not None
    for window in windows:
        assert window.version == champion.version
        (event,) = system.until(f"the events of {window.window_end}", lambda w=window: heard(system, w))
        assert event.data["evidence_uri"] == window.report_uri
        assert hashlib.sha256(Path(str(window.report_uri)).read_bytes()).hexdigest() == window.report_sha256
    shown = system.command("monitor", MONITORED)
    assert "temperature_f" in shown
    assert "score" in shown or "predictions: unjudged" in shown
    assert "less than 7d beyond it" in system.command("monitor", MONITORED, "--run")
    assert [row.window_end for row in looked_at(system, 2) or []] == [row.window_end for row in windows]
