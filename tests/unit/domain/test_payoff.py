import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ratchet.domain.payoff import PayoffMatrix, break_even, payoffs

SHIPPED = PayoffMatrix(tp=180, fp=-60, fn=0, tn=0)
MONEY = st.integers(-1000, 1000)


def test_each_outcome_earns_its_own_cell() -> None:
    matrix = PayoffMatrix(tp=1, fp=2, fn=3, tn=4)
    assert payoffs(matrix, [1, 0, 1, 0], [1, 1, 0, 0]).tolist() == [1, 2, 3, 4]


def test_booleans_and_numbers_mean_the_same() -> None:
    label, act = np.array([True, False, True]), np.array([1.0, 1.0, 0.0])
    assert payoffs(SHIPPED, label, act).tolist() == [180, -60, 0]


def test_nan_label_or_decision_makes_the_payoff_nan() -> None:
    earned = payoffs(SHIPPED, [1, np.nan, 0], [np.nan, 1, 1])
    assert np.isnan(earned).tolist() == [True, True, False]


def test_empty_rows_earn_nothing() -> None:
    assert payoffs(SHIPPED, [], []).shape == (0,)


def test_probability_is_not_a_decision() -> None:
    with pytest.raises(ValueError, match="act must be 0, 1 or NaN, but got"):
        payoffs(SHIPPED, [1, 0], [0.3, 0.7])


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        payoffs(SHIPPED, [1, 0], [1])


def test_infinite_value_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"business\.payoff\.tp"):
        PayoffMatrix(tp=float("inf"), fp=0, fn=0, tn=0)


def test_break_even_of_the_shipped_spec_is_a_quarter() -> None:
    assert break_even(SHIPPED) == 0.25


def test_matrix_in_which_acting_never_pays_more_on_positives_has_no_break_even() -> None:
    with pytest.raises(ValueError, match="Check the signs"):
        break_even(PayoffMatrix(tp=-1, fp=1, fn=0, tn=0))


@settings(deadline=None)
@given(MONEY, MONEY, MONEY, MONEY, st.floats(0, 1))
def test_acting_pays_exactly_above_break_even(tp: int, fp: int, fn: int, tn: int, p: float) -> None:
    assume(tp - fn + tn - fp > 0)
    matrix = PayoffMatrix(tp, fp, fn, tn)
    gain_of_acting = p * (tp - fn) - (1 - p) * (tn - fp)
    assume(abs(gain_of_acting) > 1e-6)
    assert (p >= break_even(matrix)) == (gain_of_acting > 0)
