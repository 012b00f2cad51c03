"""What a prediction is worth, and which constant or shift earns most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ratchet.domain.artifact import ConstantPrediction, Shift
from ratchet.domain.expression import Expression
from ratchet.domain.regression import MOST_CANDIDATES, ErrorCosts, ErrorWorth, candidates
from ratchet.errors import Refused

COSTS = ErrorCosts(under=-3, over=-1, unit="EUR")
NUMBERS = st.floats(-1e6, 1e6)
COST = st.floats(-1e3, -1e-3)


def columns(size: int = 6):
    return arrays(np.float64, size, elements=NUMBERS)


@settings(deadline=None, derandomize=True)
@given(COST, COST, columns(), columns())
def test_a_prediction_never_earns_and_costs_nothing_where_it_is_right(under, over, target, predicted) -> None:
    worth = ErrorCosts(under, over).on(target)
    assert (worth.of(predicted) <= 0).all()
    assert (worth.of(predicted) < 0).tolist() == (predicted != target).tolist()
    assert worth.of(target).tolist() == [0.0] * target.size


@settings(deadline=None, derandomize=True)
@given(COST, COST, columns(), st.floats(1e-3, 1e3))
def test_a_payoff_is_linear_in_the_error_on_each_side(under, over, target, error) -> None:
    worth = ErrorCosts(under, over).on(target)
    assert worth.of(target - error) == pytest.approx(np.full(6, under * error), rel=1e-6, abs=1e-6)
    assert worth.of(target + error) == pytest.approx(np.full(6, over * error), rel=1e-6, abs=1e-6)
    assert worth.of(target + 2 * error) == pytest.approx(2 * worth.of(target + error), rel=1e-6, abs=1e-6)


def test_nan_and_infinity_never_earn() -> None:
    earned = COSTS.on([1.0, 1.0, 1.0, np.nan]).of([np.nan, np.inf, -np.inf, 1.0])
    assert np.isnan(earned).tolist() == [True, False, False, True]
    assert earned[1:3].tolist() == [-np.inf, -np.inf]


def test_a_prediction_for_other_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        COSTS.on([1.0, 2.0]).of([1.0])


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("-inf")])
def test_a_cost_that_is_none_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=r"business\.payoff\.over must be a finite number below 0"):
        ErrorCosts(under=-1, over=value)


BY_ROW = ErrorCosts(under=Expression("-fare"), over=-1)


def test_a_formula_gives_each_row_its_own_cost() -> None:
    worth = BY_ROW.on([10.0, 10.0, 10.0], {"fare": np.array([1.0, 5.0, np.nan])})
    assert worth.of([8.0, 8.0, 8.0])[:2].tolist() == [-2.0, -10.0]
    assert np.isnan(worth.of([8.0, 8.0, 12.0])[2])
    assert BY_ROW.columns == ("fare",)


def test_formulas_name_no_quantile() -> None:
    with pytest.raises(ValueError, match="a quantile of its own"):
        _ = BY_ROW.quantile
    assert COSTS.quantile == 0.75


@settings(deadline=None, derandomize=True)
@given(COST, COST, arrays(np.float64, st.integers(1, 40), elements=NUMBERS))
def test_the_best_constant_is_the_quantile_that_the_costs_name(under, over, target) -> None:
    costs = ErrorCosts(under, over)
    worth = costs.on(target)
    found = worth.best_offset(np.zeros(target.size))
    quantile = np.quantile(target, costs.quantile, method="inverted_cdf")
    scale = 1e-9 * (1 + np.abs(target).sum()) * (abs(under) + abs(over))
    assert worth.of(np.full(target.size, found)).sum() == pytest.approx(
        worth.of(np.full(target.size, quantile)).sum(), abs=scale
    )


def test_no_constant_of_a_fine_grid_earns_more_than_the_best_one() -> None:
    target = np.random.default_rng(3).exponential(20.0, 2001)
    worth = COSTS.on(target)
    found = worth.best_offset(np.zeros(target.size))
    assert found == np.quantile(target, 0.75, method="inverted_cdf")
    grid = np.linspace(target.min(), target.max(), 5001)
    earned = [worth.of(np.full(target.size, value)).sum() for value in grid]
    assert worth.of(np.full(target.size, found)).sum() >= max(earned)


def test_the_best_constant_under_costs_by_row_is_found_exactly() -> None:
    random = np.random.default_rng(4)
    target, fare = random.normal(100, 30, 501), random.uniform(0.5, 8, 501)
    worth = BY_ROW.on(target, {"fare": fare})
    found = worth.best_offset(np.zeros(501))
    earned = {value: worth.of(np.full(501, value)).sum() for value in target.tolist()}
    assert earned[found] == pytest.approx(max(earned.values()))
    assert found > np.quantile(target, 0.5)


def test_the_best_shift_is_the_quantile_of_the_residuals() -> None:
    random = np.random.default_rng(5)
    raw = random.normal(0, 10, 1001)
    worth = COSTS.on(raw + random.normal(7, 2, 1001))
    shift = Shift.fit(raw, worth)
    assert shift.offset == np.quantile(worth.label - raw, 0.75, method="inverted_cdf")
    assert worth.of(shift(raw)).sum() > worth.of(raw).sum()


def test_rows_of_unknown_worth_have_no_say_in_a_shift() -> None:
    label, cost = np.array([1.0, 2.0, 3.0, 900.0]), np.array([-1.0, -1.0, -1.0, np.nan])
    assert ErrorWorth(label, cost, cost).best_offset(np.zeros(4)) == 2.0
    with pytest.raises(Refused, match="NaN on every row"):
        Shift.fit(np.zeros(1), ErrorWorth(label[3:], cost[3:], cost[3:]))


def test_a_shift_of_predictions_that_are_no_numbers_is_refused() -> None:
    with pytest.raises(Refused, match="every raw prediction must be finite, but 1 are not"):
        Shift.fit(np.array([1.0, np.nan]), COSTS.on([1.0, 2.0]))


def test_candidates_are_quantiles_and_few() -> None:
    errors = np.random.default_rng(6).normal(size=5000)
    found = candidates(errors)
    assert found.size == MOST_CANDIDATES
    assert (found[0], found[-1]) == (errors.min(), errors.max())
    assert candidates(np.array([2.0, np.nan, 1.0])).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="no row has a finite error"):
        candidates(np.array([np.nan]))


def test_a_constant_prediction_is_the_same_for_every_row() -> None:
    class Three:
        num_rows = 3

    score, decision = ConstantPrediction(4.5).decide(Three())  # type: ignore[arg-type]
    assert score.tolist() == decision.tolist() == [4.5, 4.5, 4.5]
