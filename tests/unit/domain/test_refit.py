from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.refit import Answers, moved, unfit

JUDGED = Answers(np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, False, True, True]))


def said(*probability: float, at: float = 0.5) -> Answers:
    return Answers(np.array(probability), np.array(probability) >= at)


def test_the_distance_is_that_of_probabilities_and_of_decisions_and_says_that_it_is_in_sample():
    found = moved(JUDGED, said(0.1, 0.5, 0.4, 0.9))
    assert (found.rows, found.flipped, found.in_sample) == (4, 2, True)
    assert found.largest == pytest.approx(0.2)
    assert found.mean == pytest.approx(0.3 / 4)


def test_rows_without_a_number_have_no_distance():
    assert moved(JUDGED, said(np.nan, 0.5, 0.6, np.inf)).largest == pytest.approx(0.1)
    nothing = moved(JUDGED, said(*[np.nan] * 4))
    assert (nothing.largest, nothing.mean, nothing.rows) == (None, None, 4)


def test_a_model_has_no_distance_from_itself_and_may_serve():
    assert asdict(moved(JUDGED, JUDGED)) == {"rows": 4, "largest": 0.0, "mean": 0.0, "flipped": 0, "in_sample": True}
    assert unfit(JUDGED, JUDGED) is None


@pytest.mark.parametrize(
    ("refit", "why"),
    [
        (said(0.1, np.nan, 0.6, 0.9), "1 of its 4 probabilities are not finite numbers"),
        (said(0.1, np.inf, -np.inf, 0.9), "2 of its 4 probabilities"),
        (said(0.7, 0.7, 0.7, 0.7), "gives all 4 rows the probability 0.7"),
        (said(0.6, 0.7, 0.8, 0.9), "acts on every row, the judged model on 2 of 4"),
        (said(0.1, 0.2, 0.3, 0.4), "acts on no row, the judged model on 2 of 4"),
    ],
)
def test_what_is_no_model_any_more_may_not_serve(refit, why):
    assert why in unfit(JUDGED, refit)


def test_what_the_judged_model_does_itself_is_no_reproach():
    always = said(0.6, 0.7, 0.8, 0.9)
    constant = said(0.7, 0.7, 0.7, 0.7)
    assert unfit(always, said(0.9, 0.8, 0.7, 0.6)) is None
    assert unfit(constant, said(0.8, 0.8, 0.8, 0.8)) is None


def test_without_rows_nothing_is_deployed():
    assert unfit(said(), said()) == "there is no row to look at it on"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 19))
def test_a_probability_that_is_no_number_is_never_deployed(probability, where):
    broken = list(probability)
    broken[where % len(broken)] = np.nan
    assert unfit(said(*probability), said(*broken)) is not None
