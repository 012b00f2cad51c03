import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ratchet.domain.expression import Expression
from ratchet.domain.payoff import PayoffMatrix, break_even, expected, expected_gain, payoffs, worth

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


BY_FARE = PayoffMatrix(tp=Expression("0.2 * fare"), fp=-10, fn=Expression("-tax"), tn=0)
ROWS = {"fare": np.array([100.0, 400.0, 100.0, 400.0]), "tax": np.array([1.0, 2.0, 3.0, 4.0])}


def test_a_formula_gives_each_row_its_own_cell() -> None:
    assert payoffs(BY_FARE, [1, 1, 0, 1], [1, 0, 1, 1], ROWS).tolist() == [20, -2, -10, 80]


def test_a_row_with_a_missing_column_has_no_payoff_whatever_was_decided() -> None:
    rows = ROWS | {"tax": np.array([np.nan, 2.0, 3.0, np.nan])}
    assert np.isnan(payoffs(BY_FARE, [1, 1, 0, 0], [1, 0, 1, 0], rows)).tolist() == [True, False, False, True]


def test_numbers_written_as_formulas_earn_the_same() -> None:
    written = PayoffMatrix(tp=Expression("180"), fp=Expression("-60"), fn=Expression("0"), tn=Expression("0"))
    label, act = np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])
    assert payoffs(written, label, act).tolist() == payoffs(SHIPPED, label, act).tolist()


def test_the_columns_of_a_matrix_are_those_of_its_formulas() -> None:
    assert (SHIPPED.columns, SHIPPED.by_row) == ((), False)
    assert (BY_FARE.columns, BY_FARE.by_row) == (("fare", "tax"), True)


def test_formulas_have_no_single_break_even() -> None:
    with pytest.raises(ValueError, match="a break-even of its own"):
        break_even(BY_FARE)


@settings(deadline=None)
@given(MONEY, MONEY, MONEY, MONEY, st.floats(0, 1))
def test_the_rule_by_row_agrees_with_break_even_where_every_row_is_worth_the_same(
    tp: int, fp: int, fn: int, tn: int, p: float
) -> None:
    assume(tp - fn + tn - fp > 0)
    matrix = PayoffMatrix(tp, fp, fn, tn)
    (gain,) = expected_gain(matrix, np.array([p]))
    assume(abs(gain) > 1e-6)
    assert (gain >= 0) == (p >= break_even(matrix))


def test_acting_pays_by_the_rows_own_values() -> None:
    probability = np.array([0.2, 0.2])
    gain = expected_gain(PayoffMatrix(Expression("fare"), -10, 0, 0), probability, {"fare": np.array([30.0, 50.0])})
    assert gain == pytest.approx([0.2 * 30 - 0.8 * 10, 0.2 * 50 - 0.8 * 10])
    assert (gain >= 0).tolist() == [False, True]


def test_a_row_on_which_acting_never_pays_is_not_acted_on() -> None:
    matrix = PayoffMatrix(Expression("fare"), -10, 0, 0)
    assert (expected_gain(matrix, np.array([0.99]), {"fare": np.array([-5.0])}) < 0).all()


def test_the_gain_of_acting_is_the_difference_of_the_two_worths() -> None:
    valued = worth(SHIPPED, [1, 0, np.nan])
    assert valued.gain[:2].tolist() == [180, -60]
    assert np.isnan(valued.gain[2])


def test_what_is_expected_is_the_mean_over_the_labels_there_may_be() -> None:
    positive, negative = worth(SHIPPED, np.ones(3)), worth(SHIPPED, np.zeros(3))
    found = expected([0.25, 0.5, np.nan], positive, negative, [1, 1, 0])
    assert found[:2].tolist() == [0.0, 60.0]
    assert np.isnan(found[2])
    assert expected([0.9], worth(SHIPPED, [1]), worth(SHIPPED, [0]), [0]).tolist() == [0.0]
