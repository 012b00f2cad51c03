"""New rows are looked at when they arrive: watcher, DAG, Feast, MLflow, the store, Kafka and the inbox."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from running_system import System
from small_model import DRIFTING, FRESH_DAYS, MONITORED
from upsets import ask

from ratchet.cli.year import midnight
from ratchet.ports.bus import DRIFT, Subscription
from ratchet.ports.ledger import AttemptRow, EventRow, MonitoredRow
from ratchet.workflow.monitoring import FEATURES, SOURCE

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]
METRES = 1609.344
Spoil = Callable[[str, Callable[[pa.ChunkedArray], Any]], None]


def looked_at(system: System, count: int) -> list[MonitoredRow] | None:
    with system.ratchet.ledger.transaction() as tx:
        done = [row for row in tx.monitored(MONITORED) if row.state == "done"]
    return done if len(done) >= count else None


def id_of(model: str, window_end: datetime) -> str:
    """The id of the event about the features in the window that ends then."""
    return f"monitor:{model}:{FEATURES}:{window_end:%Y%m%dT%H%M%SZ}"


def heard(system: System, model: str, window_end: datetime) -> list[EventRow]:
    """What of the window has come back through Kafka, about its features."""
    with system.ratchet.ledger.transaction() as tx:
        return tx.events(model=model, source=SOURCE, event_id=id_of(model, window_end))


def window_of(system: System, model: str, window_end: datetime) -> MonitoredRow | None:
    """The window that ends then, once it was looked at."""
    with system.ratchet.ledger.transaction() as tx:
        rows = tx.monitored(model, window_end=window_end)
    return rows[0] if rows and rows[0].state != "due" else None


def attempts_of(system: System, model: str) -> list[AttemptRow]:
    with system.ratchet.ledger.transaction() as tx:
        return tx.attempts(model=model)


def reasons_of(system: System, model: str, check: str) -> list[str]:
    """What the events of a check are told at the moment."""
    with system.ratchet.ledger.transaction() as tx:
        return [row.reason or "" for row in tx.events(model=model) if row.data.get("check") == check]


def published(topic: Subscription, event_id: str) -> dict[str, Any] | None:
    """The whole CloudEvent, once the topic has given it."""
    events = (json.loads(record.value or b"{}") for record in topic.poll(1.0))
    return next((event for event in events if event.get("id") == event_id), None)


@contextmanager
def weather_to_come(system: System) -> Iterator[Spoil]:
    """Changes a column of the weather of the days that have not arrived; afterwards the data are as they were."""
    file = system.ratchet.settings.data_dir / "weather.parquet"
    kept = file.with_suffix(".kept")
    os.link(file, kept)

    def spoil(column: str, change: Callable[[pa.ChunkedArray], Any]) -> None:
        table = pq.read_table(file)
        since = pa.scalar(midnight(system.today, system.spec.data.spine.zone), table.schema.field("observed_hour").type)
        changed = pc.if_else(pc.greater_equal(table["observed_hour"], since), change(table[column]), table[column])
        spoilt = table.set_column(table.column_names.index(column), column, changed)
        pq.write_table(spoilt, scratch := file.with_suffix(".new"))
        scratch.replace(file)

    try:
        yield spoil
    finally:
        kept.replace(file)


def test_planted_drift_is_found_and_retrained_for_and_a_broken_feed_is_told_to_its_owner_alone(system: System) -> None:
    system.command("champion", "init", DRIFTING, "--reason", "to drift")
    zone = system.spec.data.spine.zone
    with system.ratchet.bus.follow(DRIFT, from_beginning=False) as topic, weather_to_come(system) as spoil:
        spoil("wind_mph", lambda wind: pa.scalar(20.0, wind.type))
        told = []
        for days in (FRESH_DAYS - 1, 1):
            system.fresh_days(days)
            end = midnight(system.today, zone)
            told.append(system.until("the drift heard of", lambda: heard(system, DRIFTING, end))[0])  # noqa: B023
        attempt = system.until(
            "an attempt because of the drift",
            lambda: next((a for a in attempts_of(system, DRIFTING) if a.trigger == "drift" and a.verdict), None),
        )
        assert attempt.trigger_event_pk == told[1].pk
        with system.ratchet.ledger.transaction() as tx:
            assert {row.event_id for row in tx.events(attempt_id=attempt.id)} == {row.event_id for row in told}
            reasons = [fate["reason"] for fate in tx.fate_history(told[0].pk)]
        assert any(reason.startswith("unconfirmed: 1 of 2 confirmations") for reason in reasons)

        event = system.until("the event on Kafka", lambda: published(topic, told[1].event_id))
        window = window_of(system, DRIFTING, end)
        assert window is not None
        assert (event["specversion"], event["type"]) == ("1.0", "ratchet.drift.detected.v1")
        assert (event["source"], event["subject"]) == (SOURCE, DRIFTING)
        assert event["data"]["feature"] == "wind_mph"
        assert event["data"]["severity"] >= 0.6
        assert event["data"]["evidence_uri"] == window.report_uri
        assert hashlib.sha256(Path(str(window.report_uri)).read_bytes()).hexdigest() == window.report_sha256

        tried = len(attempts_of(system, DRIFTING))
        spoil("visibility_miles", lambda miles: pc.multiply(miles, METRES))
        system.fresh_days(4)
        end = midnight(system.today, zone)
        broken = system.until("the broken feed found", lambda: window_of(system, DRIFTING, end))
        assert broken.state == "broken"
        log = system.until("the failed task's log", lambda: log_of_failed_look(system))
    remedy = f"ratchet monitor {DRIFTING} --run --window-end {system.today}"
    for said in ("visibility_miles: ", "cannot be believed", system.spec.owner.email, remedy):
        assert said in log
    with system.ratchet.ledger.transaction() as tx:
        audited = tx.audit_log(DRIFTING, action="monitor.broken")
    assert [entry["detail"]["owner"] for entry in audited] == [system.spec.owner.email]
    assert heard(system, DRIFTING, end) == []
    for days in (2, 1):
        until = (end - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S")
        asked = ("--check", "by_hand", "--severity", "0.9", "--window-end", until)
        system.command("publish", "drift", DRIFTING, *asked)
    waiting = partial(reasons_of, system, DRIFTING, "by_hand")
    held = system.until("drift held by broken data", lambda: [r for r in waiting() if r.startswith("broken_data: ")])
    assert len(held) == 2
    assert remedy.removesuffix(f" --window-end {system.today}") in held[0]
    assert len(attempts_of(system, DRIFTING)) == tried

    assert window_of(system, DRIFTING, end) == broken
    system.command("monitor", DRIFTING, "--run", "--window-end", str(system.today))
    mended = window_of(system, DRIFTING, end)
    assert mended is not None
    assert mended.state == "done"
    system.until("the drift decided again", lambda: not any(r.startswith("broken_data: ") for r in waiting()))
    system.command("retire", DRIFTING, "--reason", "its drift was planted")


def log_of_failed_look(system: System) -> str | None:
    """What the newest failed look of the model says; None while none has failed."""
    path = f"/dags/monitor__{DRIFTING}/dagRuns"
    runs = ask(system, "GET", path, params={"state": "failed"})["dag_runs"]
    if not runs:
        return None
    task = f"{path}/{quote(runs[-1]['dag_run_id'], safe='')}/taskInstances/look"
    number = ask(system, "GET", task)["try_number"]
    return str(ask(system, "GET", f"{task}/logs/{number}", params={"full_content": True}))


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
        (event,) = system.until(
            f"the events of {window.window_end}", lambda w=window: heard(system, MONITORED, w.window_end)
        )
        assert event.data["evidence_uri"] == window.report_uri
        assert hashlib.sha256(Path(str(window.report_uri)).read_bytes()).hexdigest() == window.report_sha256
    shown = system.command("monitor", MONITORED)
    assert "temperature_f" in shown
    assert "score" in shown or "predictions: unjudged" in shown
    assert "less than 7d beyond it" in system.command("monitor", MONITORED, "--run")
    assert [row.window_end for row in looked_at(system, 2) or []] == [row.window_end for row in windows]
