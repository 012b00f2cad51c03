"""Publishing as a monitoring job does it: checked before it is sent, stored when the call returns."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from ratchet import events
from ratchet.cli import app
from ratchet.domain.events import parse
from ratchet.ports.bus import DATA_ARRIVAL, DRIFT, InMemoryBus

MOMENT = datetime(2013, 6, 14, 4, tzinfo=UTC)
DRIFTED = events.DriftDetected(check="c", severity=0.6, window_start=MOMENT - timedelta(days=1), window_end=MOMENT)
ARRIVED = events.DataArrived(dataset="flights", complete_until=MOMENT, new_rows=3)


def observed(data: Any = DRIFTED, **changes: Any) -> events.Observation:
    return events.Observation(data, **{"subject": "m", "id": "e-1", "source": "/monitor", "time": MOMENT} | changes)


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_what_is_published_is_read_as_it_was_told(mode: events.Mode) -> None:
    bus = InMemoryBus()
    assert events.Publisher(mode=mode, bus=bus).publish([observed(), observed(id="e-2")]) == ["e-1", "e-2"]
    first, second = (parse(record.value, record.headers) for record in bus.records(DRIFT))
    assert (first.id, first.source, first.subject, first.time, first.data) == ("e-1", "/monitor", "m", MOMENT, DRIFTED)
    assert second.id == "e-2"
    assert {record.key for record in bus.records(DRIFT)} == {b"m"}


def test_nothing_is_sent_when_one_of_many_breaks_a_rule() -> None:
    bus = InMemoryBus()
    bad = events.PerformanceDegraded(metric="payoff", value=float("nan"), threshold=1.0, window_end=MOMENT)
    with pytest.raises(events.EventRejected, match="value"):
        events.Publisher(bus=bus).publish([observed(), observed(bad)])
    assert bus.records(DRIFT) == []


def test_data_is_about_its_dataset_and_about_no_other_subject() -> None:
    bus = InMemoryBus()
    events.Publisher(bus=bus).publish([observed(ARRIVED, subject=None)])
    (record,) = bus.records(DATA_ARRIVAL)
    assert record.key == b"flights"
    with pytest.raises(events.EventRejected, match="subject = 'm'"):
        observed(ARRIVED).checked()


def test_an_event_about_nobody_is_refused_with_what_to_give() -> None:
    with pytest.raises(events.EventRejected, match="subject="):
        observed(subject=None).checked()


def test_several_brokers_may_be_named() -> None:
    with pytest.raises(events.Unavailable, match=r"127\.0\.0\.1:1"):
        events.publish(DRIFTED, subject="m", broker="127.0.0.1:1,127.0.0.1:2")


def test_a_broker_that_is_away_is_said_by_address() -> None:
    with pytest.raises(events.Unavailable, match=r"127\.0\.0\.1:1"):
        events.publish(DRIFTED, subject="m", broker="127.0.0.1:1")


def test_a_monitoring_job_imports_neither_the_ledger_nor_airflow_nor_the_driver_before_it_needs_it() -> None:
    heavy = "{'airflow', 'sqlalchemy', 'mlflow', 'pandas', 'kafka'}"
    code = f"import sys, ratchet.events; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


COMMANDS = {
    "drift": ["m", "--check", "c", "--severity", "0.6", "--window-end", "2013-06-14T04:00:00"],
    "cleared": ["m", "--check", "c", "--window-end", "2013-06-14T04:00:00"],
    "data": ["flights", "--complete-until", "2013-06-14T04:00:00", "--new-rows", "3"],
    "performance": ["m", "--metric", "p", "--value", "1", "--threshold", "2", "--window-end", "2013-06-14T04:00:00"],
    "retrain": ["m", "--reason", "r", "--actor", "ada"],
}
TOPIC_OF = {"data": "data-arrival", "retrain": "retrain-requests"}
NAMED = ["--id", "e-1", "--source", "/monitor", "--time", "2013-06-14T05:00:00", "--dry-run"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_prints_the_record_that_would_be_sent(command: str) -> None:
    said = CliRunner().invoke(app, ["publish", command, *COMMANDS[command], *NAMED], catch_exceptions=False).output
    value = said.rpartition("\n\n")[2]
    event = parse(value.encode())
    assert (event.id, event.source, event.time) == ("e-1", "/monitor", datetime(2013, 6, 14, 5, tzinfo=UTC))
    assert said.startswith(f"topic ml.{TOPIC_OF.get(command, 'drift')}, key {COMMANDS[command][0]}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_binary_dry_run_prints_attributes_as_headers_and_the_data_as_the_value(command: str) -> None:
    arguments = ["publish", command, *COMMANDS[command], *NAMED, "--binary"]
    head, _, value = CliRunner().invoke(app, arguments, catch_exceptions=False).output.rpartition("\n\n")
    headers = [tuple(line.split(": ", 1)) for line in head.splitlines()[1:]]
    assert parse(value.encode(), [(name, text.encode()) for name, text in headers]).id == "e-1"
    assert "specversion" not in json.loads(value)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_kind_has_an_example(command: str) -> None:
    said = CliRunner().invoke(app, ["publish", command, "--help"]).output
    assert f"ratchet publish {command} {'flights' if command == 'data' else 'flight_delay'}" in said
