"""Thirty models of three groups and five owners at once: limits hold at every claim, and the costs add up."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def bench() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module("bench.fleet_of_models")


@pytest.fixture(scope="module")
def seen(bench: Any) -> Any:
    return bench.lived(days=1, seed=7)


def test_attempts_at_work_are_never_more_than_the_fleet_or_an_incident_may_have(bench: Any, seen: Any) -> None:
    assert seen.breaches == []
    assert seen.most_in_all == bench.IN_ALL, "the limit was met, so it was tried"
    assert max(seen.most_per_incident.values()) == bench.PER_INCIDENT
    assert set(seen.most_per_incident) == set(bench.GROUPS)


def test_no_budget_of_runs_hours_or_money_is_exceeded_and_each_was_met(bench: Any, seen: Any) -> None:
    assert seen.runs_of_a_day == bench.RUNS_PER_DAY
    assert 0.5 * bench.HOURS_PER_DAY < seen.core_hours_of_a_day <= bench.HOURS_PER_DAY
    assert seen.money_of_a_month <= bench.MONEY["amount"]
    assert seen.deferred["core_hours_per_day"] > 0
    of_incidents = seen.attempts - len(seen.lone_claim_ms)
    assert bench.MODELS < of_incidents < 2 * bench.MODELS, "two incidents, and some models were held at the second"


def test_the_cost_report_says_what_the_steps_took_whatever_its_rows_are_of(seen: Any) -> None:
    assert seen.core_hours > 10
    for by in ("owner", "model", "attempt"):
        assert seen.reported[by] == pytest.approx(seen.core_hours)
        assert seen.reported_bytes[by] == seen.stored_bytes
