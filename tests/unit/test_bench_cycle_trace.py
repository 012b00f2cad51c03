"""Where each second of a cycle went."""

from __future__ import annotations

import importlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = {"snapshot": 2.0, "tuning": 10.0, "fit": 1.0, "evaluation": 2.0, "registering": 0.5}


@pytest.fixture
def cycle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.cycle_trace")


def at(seconds: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def span(start: float, end: float) -> tuple[datetime, datetime]:
    return at(start), at(end)


@pytest.fixture
def moments(cycle: Any) -> Any:
    return cycle.Moments(
        published=at(0),
        stored=at(1),
        rung=at(2),
        heard=at(3),
        claimed=at(5),
        promoted=at(39),
        served=at(40),
        tasks={
            "claim": [span(4, 6)],
            "snapshot": [span(7, 12)],
            "plan": [span(13, 14)],
            "tune": [span(15, 20), span(15, 28)],
            "judge": [span(29, 36)],
            "promote": [span(38, 41)],
        },
        steps={
            "snapshot": [span(8, 11)],
            "tune": [span(16, 19), span(16, 27)],
            "judge": [span(30, 34.5)],
        },
    )


def test_the_parts_are_the_whole_cycle_without_gap_or_overlap(cycle: Any, moments: Any) -> None:
    parts = cycle.trace(moments, SCRIPT)
    assert sum(part.seconds for part in parts) == pytest.approx(moments.seconds)
    assert moments.seconds == 40
    assert sum(cycle.by_owner(parts).values()) == pytest.approx(40)


def test_of_workers_side_by_side_the_last_to_end_is_on_the_path(cycle: Any, moments: Any) -> None:
    tuned = [part for part in cycle.trace(moments, SCRIPT) if part.name.startswith("tune")]
    assert [(part.whose, part.seconds) for part in tuned] == [
        ("start-up", 1.0),
        ("mathematics", 10.0),
        ("Ratchet", 1.0),
        ("Airflow", 1.0),
    ]


def test_what_the_script_does_not_do_in_a_body_is_ours(cycle: Any, moments: Any) -> None:
    judged = {part.name: (part.whose, part.seconds) for part in cycle.trace(moments, SCRIPT) if "judge:" in part.name}
    assert judged["judge: mathematics"] == ("mathematics", 3.5)
    assert judged["judge: around it"] == ("Ratchet", 1.0)
    assert judged["judge: card, news, end"] == ("Ratchet", 1.5)


def test_mathematics_never_take_longer_than_the_body_they_are_in(cycle: Any, moments: Any) -> None:
    parts = cycle.trace(moments, SCRIPT | {"snapshot": 99.0})
    assert next(part for part in parts if part.name == "snapshot: mathematics").seconds == 3.0
    assert sum(part.seconds for part in parts) == pytest.approx(40)


def test_the_table_ends_with_each_owners_sum_and_the_cycle(cycle: Any, moments: Any) -> None:
    lines = cycle.table(cycle.trace(replace(moments, served=at(41)), SCRIPT)).splitlines()
    assert lines[-1] == "| **the cycle** | | **41.00** |"
    assert [line.split("|")[2].strip() for line in lines[-5:-1]] == [f"**{whose}**" for whose in cycle.WHOSE]
