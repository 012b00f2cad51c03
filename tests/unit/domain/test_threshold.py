"""Thresholds by what they earn: every claim is checked against the slow way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.payoff import PayoffMatrix, Worth, break_even, worth
from ratchet.domain.threshold import TunedThreshold, best_in_hindsight, curve, tune

SHIPPED = PayoffMatrix(tp=180, fp=-60, fn=0, tn=0)
RANDOM = np.random.default_rng(3)
N, DAYS = 6_000, 28
P = RANDOM.beta(1, 3, N)
LABEL = (RANDOM.random(N) < P).astype(np.int8)
DAY = np.sort(RANDOM.integers(0, DAYS, N))
WORTH = worth(SHIPPED, LABEL)


def slowly(probability: np.ndarray, valued: Worth, threshold: float) -> float:
    return float(valued.of(probability >= threshold).mean())


SMALL = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.5000001, 0.9, 1.0]), st.integers(-9, 9), st.integers(-9, 9)),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, derandomize=True)
@given(SMALL)
def test_the_curve_is_the_mean_payoff_of_acting_at_or_above_each_threshold(rows: list) -> None:
    p, acted, passed = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    valued, thresholds = Worth(acted, passed), np.array([0.0, 0.1, 0.25, 0.5, 0.9, 0.95, 1.0])
    expected = [slowly(p, valued, t) for t in thresholds]
    assert curve(p, valued, thresholds) == pytest.approx(expected)


@settings(deadline=None, derandomize=True)
@given(SMALL)
def test_no_threshold_beats_the_best_in_hindsight_and_of_equals_it_is_the_highest(rows: list) -> None:
    p, acted, passed = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    valued = Worth(acted, passed)
    threshold, payoff = best_in_hindsight(p, valued)
    every = {t: slowly(p, valued, t) for t in [*p.tolist(), math.inf]}
    assert payoff == pytest.approx(max(every.values()))
    assert threshold == max(t for t, earned in every.items() if earned == pytest.approx(max(every.values())))


def test_one_missing_worth_makes_every_point_of_the_curve_nan() -> None:
    broken = Worth(np.where(np.arange(N) == 7, np.nan, WORTH.acted), WORTH.passed)
    assert np.isnan(curve(P, broken, np.array([0.0, 0.5]))).all()
    assert np.isnan(best_in_hindsight(P, broken)).all()


def test_a_missing_score_is_acted_on_by_no_threshold() -> None:
    p = np.array([np.nan, 0.5])
    valued = Worth(np.array([100.0, 10.0]), np.array([1.0, 0.0]))
    assert curve(p, valued, np.array([0.0, 1.0])).tolist() == [5.5, 0.5]
    assert tune(p, valued, ["a", "b"]).payoff == 5.5


def test_on_calibrated_scores_the_tuned_threshold_is_near_break_even_and_says_how_near() -> None:
    tuned = tune(P, WORTH, DAY)
    low, high = tuned.as_good
    assert low <= tuned.threshold <= high
    assert tuned.threshold == pytest.approx(break_even(SHIPPED), abs=0.05)
    assert tuned.payoff == pytest.approx(slowly(P, WORTH, tuned.threshold))
    assert (tuned.n_rows, tuned.n_clusters) == (N, DAYS)


def test_on_scores_that_are_not_probabilities_the_tuned_threshold_beats_break_even() -> None:
    stretched = np.sqrt(P)
    tuned = tune(stretched, WORTH, DAY)
    assert tuned.threshold == pytest.approx(0.5, abs=0.06)  # the square root of a quarter
    assert tuned.payoff > slowly(stretched, WORTH, break_even(SHIPPED)) + 2


def test_no_candidate_earns_more_than_the_chosen_one() -> None:
    tuned = tune(P, WORTH, DAY)
    candidates = np.quantile(P, np.linspace(0, 1, 100), method="higher")
    assert tuned.payoff == pytest.approx(max(slowly(P, WORTH, t) for t in candidates))


def test_the_standard_error_is_that_of_whole_days() -> None:
    # Days that are good or bad as a whole: row by row the payoff would look four times as well known as it is.
    shock = np.repeat(RANDOM.normal(0, 30, DAYS), np.bincount(DAY, minlength=DAYS))
    shaken = Worth(WORTH.acted + shock, WORTH.passed + shock)
    tuned = tune(P, shaken, DAY)
    row_wise = shaken.of(tuned.threshold <= P).std() / math.sqrt(N)
    assert tuned.std_error > 3 * row_wise


def test_where_acting_pays_nowhere_the_model_never_acts() -> None:
    tuned = tune(P, Worth(np.full(N, -1.0), np.zeros(N)), DAY)
    assert (tuned.threshold, tuned.payoff) == (math.inf, 0.0)


def test_where_acting_always_pays_the_model_acts_on_every_row() -> None:
    tuned = tune(P, Worth(np.full(N, 1.0), np.zeros(N)), DAY)
    assert tuned.threshold == P.min()


def test_rows_of_unknown_worth_have_no_say() -> None:
    wild = np.where(np.arange(N) % 2 == 0, np.nan, WORTH.acted)
    tuned = tune(P, Worth(wild, WORTH.passed), DAY)
    assert tuned == tune(P[1::2], Worth(WORTH.acted[1::2], WORTH.passed[1::2]), DAY[1::2])
    with pytest.raises(ValueError, match="NaN on every row"):
        tune(P, Worth(np.full(N, np.nan), WORTH.passed), DAY)


def test_one_day_has_no_standard_error() -> None:
    tuned = tune(P, WORTH, np.zeros(N, dtype=int))
    assert (tuned.std_error, tuned.as_good) == (None, None)


@pytest.mark.parametrize("gain", [-1.0, 1.0])
def test_a_record_is_json_and_reads_back(gain: float) -> None:
    tuned = tune(P, Worth(np.full(N, gain), np.zeros(N)), DAY)
    assert TunedThreshold.of_record(json.loads(json.dumps(tuned.record(), allow_nan=False))) == tuned


def test_a_row_is_acted_on_exactly_at_the_tuned_threshold() -> None:
    p = np.array([0.2, 0.6, 0.8])
    valued = Worth(np.array([-5.0, 3.0, 3.0]), np.zeros(3))
    assert tune(p, valued, [1, 2, 3]).threshold == 0.6
