"""The gate on the recorded days of the flights: what is asked of them, and that a broken gate is seen."""

from __future__ import annotations

import importlib
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def flight_days(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.flight_days")


def months(flight_days: Any, n_attempts: int, *, n_days: int = 28, shift: float = 0.0) -> list[Any]:
    """Attempts in turn, each with noise by the day and a mean of its own."""
    rng = np.random.default_rng(1)
    found, first = [], date(2013, 1, 7)
    for number in range(n_attempts):
        days = tuple((first + timedelta(days=n_days * number + day)).isoformat() for day in range(n_days))
        rows = tuple(int(count) for count in rng.integers(20, 40, n_days))
        uplift = tuple(float(x) for x in (rng.normal(shift, 1.0, n_days)) * np.asarray(rows))
        found.append(flight_days.Days(f"m.{number}", days, rows, uplift))
    return found


def test_a_pattern_for_every_coin_of_every_week_and_every_day_a_week_may_begin_on(flight_days: Any) -> None:
    (attempt,) = months(flight_days, 1)
    verdicts = flight_days._every_copy(attempt, 0.95)
    assert len(verdicts) == 2**4 + 6 * 2**5, "28 days are four whole weeks, or three and two parts"
    assert 0 < verdicts.count("promote") < len(verdicts) / 2


def test_an_uplift_that_is_there_is_taken_out_before_the_signs_are_flipped(flight_days: Any) -> None:
    plain, shifted = months(flight_days, 1), months(flight_days, 1, shift=50.0)
    assert shifted[0].judge(np.asarray(shifted[0].uplift), 0.95) == "promote"
    assert flight_days._every_copy(shifted[0], 0.95) == flight_days._every_copy(plain[0], 0.95)


def test_a_sound_gate_passes_and_one_that_promotes_half_of_the_copies_is_named(
    flight_days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight_days, "COPIES", 300)
    attempts = months(flight_days, 6)
    found = flight_days.measure(attempts, attempts[:2], seed=1, confidence=0.95)
    assert flight_days.failures(found) == []
    assert found["series"]["copies"] == 300
    assert sum(count for name, count in found["seed_pairs"].items() if name != "pairs") == 2
    ours = flight_days.gate.judge

    def lenient(*rows: Any, **rule: Any) -> Any:
        verdict = ours(*rows, **rule)
        return replace(verdict, decision="promote" if verdict.estimate > 0 else "keep_champion")

    monkeypatch.setattr(flight_days.gate, "judge", lenient)
    broken = flight_days.measure(attempts, attempts[:2], seed=1, confidence=0.95)
    (told,) = flight_days.failures(broken)
    assert told.startswith("real flights, weeks flipped (p must exceed 0.001): ")
    assert "of 300 null copies were promoted" in told
    assert broken["holdouts"]["share"] > 0.3


def test_too_few_weeks_are_no_pass(flight_days: Any) -> None:
    found = flight_days.measure(months(flight_days, 2), [], seed=1, confidence=0.95)
    assert "a self-test needs 112" in flight_days.failures(found)[0]


def test_what_was_recorded_is_the_year_of_the_demo(flight_days: Any) -> None:
    attempts, pairs = flight_days.read()
    assert len(attempts) >= 10
    assert {pair.attempt for pair in pairs} == {attempt.attempt for attempt in attempts}
    for days in (*attempts, *pairs):
        assert len(days.days) == len(days.rows) == len(days.uplift) >= 14
        assert list(days.days) == sorted(set(days.days))
        assert all(day.startswith("2013-") for day in days.days)
