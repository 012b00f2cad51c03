"""What a run will take: the median and an order statistic of past runs, and how much stands behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.forecasting import FEW_RUNS, MOST_RUNS, Forecast, RunCost, forecast, trials_within

HOURS = st.floats(0, 100)
RUNS = st.lists(st.builds(RunCost, HOURS, HOURS), max_size=2 * MOST_RUNS)


def test_each_past_run_is_taken_to_the_trials_of_the_next_one() -> None:
    assert forecast([RunCost(1.0, 0.5)], 4) == Forecast(4, 1, 3.0, 3.0)
    assert forecast([RunCost(1.0, 0.5)], 8) == Forecast(8, 1, 5.0, 5.0)
    assert forecast([], 4) is None


def test_upper_is_what_four_of_five_runs_do_not_exceed_and_one_that_went_wrong_moves_nothing() -> None:
    told = forecast([RunCost(hours, 0.0) for hours in (3.0, 1.0, 99.0, 2.0, 4.0)], 4)
    assert told == Forecast(4, 5, 3.0, 4.0)


def test_only_the_newest_runs_count() -> None:
    told = forecast([RunCost(1.0, 0.0)] * MOST_RUNS + [RunCost(50.0, 0.0)] * 90, 4)
    assert told == Forecast(4, MOST_RUNS, 1.0, 1.0)


@pytest.mark.parametrize(("runs", "said"), [(1, "by one run only"), (2, "by 2 runs only"), (FEW_RUNS, "by 3 runs")])
def test_too_few_runs_are_said_to_be(runs: int, said: str) -> None:
    told = forecast([RunCost(1.0, 0.0)] * runs, 4)
    assert told is not None
    assert told.basis == said


@given(RUNS, st.integers(1, 60), st.integers(0, 40))
def test_a_forecast_lies_among_the_runs_and_grows_with_the_trials(past, trials, more) -> None:
    told, later = forecast(past, trials), forecast(past, trials + more)
    if told is None or later is None:
        assert not past
        return
    whole = sorted(run.whole(trials) for run in past[:MOST_RUNS])
    assert whole[0] <= told.median <= told.upper <= whole[-1]
    assert sum(value <= told.upper for value in whole) >= 0.8 * len(whole)
    assert later.upper >= told.upper


@given(RUNS, HOURS, st.integers(1, 60))
def test_the_trials_that_fit_fit_and_one_more_does_not(past, hours, most) -> None:
    fit = trials_within(past, hours, most)
    assert 0 <= fit <= most
    if fit:
        assert forecast(past, fit).upper <= hours
    if past and fit < most:
        assert forecast(past, fit + 1).upper > hours
