"""What it costs to read one event: CPU microseconds of ours and of named validators, side by side in one run.

Every candidate gets the same bytes, a drift event of 1.3 KB, and must accept it and refuse its broken twin. Rounds are
interleaved, so that whatever else the machine does falls on all alike. Two jobs are compared, each with peers that do
the same: *event parse and validate* is the structs of ``domain.events`` alone, decoded and checked and nothing kept;
*read one event for the inbox* is ``domain.events.parse`` in full: also the rules no schema can say, times in UTC,
unknown fields kept as they came, and the digest. Its peers, named "and digest", keep the data as JSON values too, and
make SHA-256 over the content in sorted order.

    python -m bench.events            # the rows go to bench/results/events.json

Candidates that are not installed are left out and named (fastjsonschema, jsonschema-rs).
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from jsonschema import Draft202012Validator
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bench.reports import machine, write
from ratchet.domain import events
from ratchet.domain.event_schemas import event_schema

ROUNDS = 15
ROUND_SECONDS = 0.15
KIND = "ratchet.drift.detected.v1"
HEADERS = [("content-type", b"application/cloudevents+json")]
GOAL_US = 15.0
STRUCTS = "the structs of domain.events"
GOALS = {"json + jsonschema, validator reused": 50.0, "pydantic model_validate_json": 1.8}


def event() -> dict[str, Any]:
    """A drift event as a monitoring system sends it: ours, and as much again of its own."""
    return {
        "specversion": "1.0",
        "id": "8f14e45f-ceea-467f-9b5a-0a1b2c3d4e5f",
        "source": "/monitors/evidently/prod-eu-1",
        "type": KIND,
        "subject": "flight_delay",
        "time": "2013-05-08T01:00:00Z",
        "datacontenttype": "application/json",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tenant": "eu",
        "data": {
            "check": "weather_drift",
            "severity": 0.6,
            "window_start": "2013-05-01T00:00:00Z",
            "window_end": "2013-05-08T00:00:00Z",
            "feature": "wind_speed",
            "evidence_uri": "s3://monitoring/evidence/2013-05-08/weather_drift.json",
            "p_value": 0.01234567890123456,
            "statistic": 0.2345,
            "n_reference": 100_000,
            "n_current": 13_402,
            "histogram": [0.1, 0.2, 0.15, 0.05, 0.5] * 6,
            "labels": {"region": "eu", "team": "ops", "severity": "high"},
            "note": "Wind at the three airports shifted against the reference window of last year. " * 5,
        },
    }


class DriftData(BaseModel):
    """The data as pydantic checks it."""

    model_config = ConfigDict(extra="allow", strict=False)
    check: str = Field(min_length=1, max_length=255)
    severity: float = Field(ge=0, le=1)
    window_start: AwareDatetime
    window_end: AwareDatetime
    feature: str | None = Field(None, min_length=1, max_length=255)
    evidence_uri: str | None = Field(None, min_length=1, max_length=2000)


class DriftEvent(BaseModel):
    """The envelope as pydantic checks it."""

    model_config = ConfigDict(extra="allow")
    specversion: Literal["1.0"]
    id: str = Field(min_length=1, max_length=255)
    source: str = Field(min_length=1, max_length=255)
    type: Literal["ratchet.drift.detected.v1"]
    subject: str = Field(min_length=1, max_length=255)
    time: AwareDatetime
    data: DriftData


class Envelope(msgspec.Struct):
    """The envelope as ``parse`` checks it, but unknown fields are skipped, not kept."""

    specversion: Literal["1.0"]
    id: events.Text
    source: events.Text
    type: Literal["ratchet.drift.detected.v1"]
    subject: events.Text
    time: events.Instant
    data: events.DriftDetected


def candidates() -> tuple[dict[str, Callable[[bytes], Any]], list[str]]:
    """Readers by name, each raising for a bad event, and the names of those that are not installed."""
    schema = event_schema(KIND)
    checker = Draft202012Validator(schema)
    bare = {name: value for name, value in schema.items() if name not in {"$schema", "$id", "examples"}}
    msgspec_decoder = msgspec.json.Decoder(Envelope)
    readers: dict[str, Callable[[bytes], Any]] = {
        "ratchet.domain.events.parse": lambda value: events.parse(value, HEADERS),
        STRUCTS: msgspec_decoder.decode,
        "pydantic model_validate_json": DriftEvent.model_validate_json,
        "json + pydantic model_validate": lambda value: DriftEvent.model_validate(json.loads(value)),
        "json + jsonschema, validator reused": lambda value: checker.validate(json.loads(value)),
    }
    missing = []
    try:
        compiled = importlib.import_module("fastjsonschema").compile(bare | {"$schema": DRAFT_7})
        readers["json + fastjsonschema"] = lambda value: compiled(json.loads(value))
    except ImportError:
        missing.append("fastjsonschema")
    try:
        rust = importlib.import_module("jsonschema_rs").validator_for(schema)
        readers["json + jsonschema-rs"] = lambda value: rust.validate(json.loads(value))
    except ImportError:
        missing.append("jsonschema-rs")
    readers["pydantic model_validate_json, and digest"] = lambda value: _digest(
        DriftEvent.model_validate_json(value).model_dump(mode="json")
    )
    readers["json + jsonschema, and digest"] = lambda value: (
        checker.validate(json.loads(value)),
        _digest(json.loads(value)),
    )
    return readers, missing


def _digest(content: Any) -> str:
    written = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()


DRAFT_7 = "http://json-schema.org/draft-07/schema"


def measure(readers: dict[str, Callable[[bytes], Any]], value: bytes) -> dict[str, list[float]]:
    """CPU microseconds per event of every reader, one figure per round, rounds interleaved."""
    spent: dict[str, list[float]] = {name: [] for name in readers}
    calls = {name: _calls(read, value) for name, read in readers.items()}
    for number in range(ROUNDS):
        print(f"\rround {number + 1} of {ROUNDS}", end="", file=sys.stderr, flush=True)
        for name, read in readers.items():
            gc.collect()
            began = time.process_time()
            for _ in range(calls[name]):
                read(value)
            spent[name].append((time.process_time() - began) / calls[name] * 1e6)
    print(file=sys.stderr)
    return spent


def _calls(read: Callable[[bytes], Any], value: bytes) -> int:
    began, calls = time.process_time(), 0
    while time.process_time() - began < 0.05:
        read(value)
        calls += 1
    return max(20, int(calls * ROUND_SECONDS / 0.05))


def check(readers: dict[str, Callable[[bytes], Any]], value: bytes, broken: bytes) -> None:
    """Every reader takes the good event and refuses the bad one, else the comparison is none."""
    for name, read in readers.items():
        read(value)
        try:
            read(broken)
        except Exception:  # noqa: BLE001 - each library has an error of its own
            continue
        raise SystemExit(f"{name} accepts an event that breaks the schema")


def main() -> None:
    """Measure, print a table, write the rows."""
    good = event()
    value = json.dumps(good).encode()
    broken = json.dumps(good | {"data": good["data"] | {"severity": 1.5}}).encode()
    readers, missing = candidates()
    check(readers, value, broken)
    spent = measure(readers, value)
    ours_name = next(iter(readers))
    ours = statistics.median(spent[ours_name])
    structs = statistics.median(spent[STRUCTS])
    rows: list[dict[str, Any]] = [
        {
            "name": "read one event for the inbox",
            "peer": f"the goal of {GOAL_US:g} us",
            "ours": round(ours, 2),
            "theirs": GOAL_US,
            "ratio": round(GOAL_US / ours, 2),
            "unit": "CPU us/event",
            "goal": f"<= {GOAL_US:g}",
            "met": ours <= GOAL_US,
            "spread": _spread(spent[ours_name]),
        }
    ]
    for name, figures in spent.items():
        if name in {ours_name, STRUCTS}:
            continue
        theirs = statistics.median(figures)
        whole = name.endswith("and digest")
        mine, goal = (ours, 1.5) if whole else (structs, GOALS.get(name))
        rows.append(
            {
                "name": "read one event for the inbox" if whole else "event parse and validate",
                "peer": name,
                "ours": round(mine, 2),
                "theirs": round(theirs, 2),
                "ratio": round(theirs / mine, 2),
                "unit": "CPU us/event",
                "goal": None if goal is None else f">= {goal:g}",
                "met": None if goal is None else theirs >= goal * mine,
                "spread": _spread(figures),
            }
        )
    for row in rows:
        low, high = row["spread"]
        print(f"{row['peer']:<44} {row['theirs']:>8.2f} us {row['ratio']:>7.2f}x  [{low}-{high}]")
    print(f"structs {structs:.2f} us; in full {ours:.2f} us, {1e6 / ours:,.0f} events/s per core; {len(value):,} bytes")
    write("events", rows, machine(ROUNDS, "jsonschema", "msgspec", "pydantic"), missing=missing)


def _spread(figures: list[float]) -> list[float]:
    return [round(min(figures), 2), round(max(figures), 2)]


if __name__ == "__main__":
    main()
