"""A run pays when waiting has lost what it costs; without evidence nothing is held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.forecasting import Forecast
from ratchet.domain.waiting import Tried, Waiting, pays_at, waiting

SINCE = datetime(2013, 6, 1, tzinfo=UTC)
RUN = Forecast(trials=12, runs=5, median=2.0, upper=9.0)
KEPT, GAINED = Tried(False, 3.0, 1400, 14), Tried(True, 0.4, 1400, 14)


def test_loss_is_the_mean_gain_of_runs_times_the_decisions_of_a_day() -> None:
    told = waiting([GAINED, KEPT, KEPT, KEPT], RUN, 0.5, "USD")
    assert told == Waiting(cost=1.0, loss_per_day=pytest.approx(0.1 * 100), unit="USD", gained=1, tried=4)
    assert told is not None
    assert told.said == "a run costs 1 USD, a day of waiting loses 10 USD (1 of the last 4 runs promoted)"


def test_only_the_newest_ten_verdicts_count() -> None:
    told = waiting([KEPT] * 10 + [GAINED] * 5, RUN, 0.5, "USD")
    assert told is not None
    assert (told.loss_per_day, told.gained, told.tried) == (0.0, 0, 10)


@pytest.mark.parametrize(
    ("tried", "run"),
    [([KEPT, KEPT], RUN), ([KEPT, KEPT, Tried(False, None, 0, 0)], RUN), ([KEPT] * 9, None)],
    ids=["two verdicts", "one that judged no row", "no run to forecast from"],
)
def test_without_evidence_there_is_no_answer(tried, run) -> None:
    assert waiting(tried, run, 0.5, "USD") is None


def test_a_run_pays_when_the_loss_since_the_first_event_is_its_cost() -> None:
    assert pays_at(Waiting(5.0, 2.0, "USD", 1, 4), SINCE) == SINCE + timedelta(days=2.5)
    assert pays_at(Waiting(5.0, 0.0, "USD", 0, 4), SINCE) is None
    assert pays_at(Waiting(5.0, 1e-9, "USD", 1, 4), SINCE) is None, "beyond ten years is never"


@given(st.floats(0.01, 1e6), st.floats(1e-3, 1e6), st.integers(0, 3000))
def test_whenever_it_ends_the_rule_costs_at_most_twice_the_best_in_hindsight(cost, loss, days) -> None:
    """The loss goes on for so many days and stops; the best of hindsight runs at once or never."""
    at = pays_at(Waiting(cost, loss, "USD", 1, 4), SINCE)
    waited = days if at is None else min(days, (at - SINCE) / timedelta(days=1))
    paid = waited * loss + (cost if at is not None and at <= SINCE + timedelta(days=days) else 0.0)
    if at is not None:
        assert paid <= 2 * min(cost, days * loss) * (1 + 1e-6) + 1e-6 * loss
