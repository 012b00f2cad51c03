import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.learning_curve import least_end


@given(
    start=st.floats(0.1, 2.0),
    gain=st.floats(0.0, 1.0),
    speed=st.floats(0.1, 20.0),
    rise=st.floats(0.0, 0.5),
    share=st.floats(0.2, 0.8),
)
def test_no_convex_curve_ends_below_the_bound(start, gain, speed, rise, share):
    def loss(at: float) -> float:
        return start - gain * (1 - math.exp(-speed * at)) + rise * at**2

    points = [(share / 2, loss(share / 2)), (share, loss(share))]
    assert least_end(points) <= loss(1.0) + 1e-9


def test_a_curve_that_rises_is_bound_by_where_it_is():
    assert least_end([(0.25, 0.40), (0.5, 0.45)]) == 0.45


def test_the_last_two_points_say_how_fast_it_still_falls():
    assert least_end([(0.1, 0.9), (0.25, 0.5), (0.5, 0.4)]) == pytest.approx(0.2)


@pytest.mark.parametrize("curve", [[], [(0.5, 0.4)]])
def test_one_point_bounds_nothing(curve):
    assert least_end(curve) == -math.inf


def test_a_loss_that_is_no_number_stops_nothing():
    assert not least_end([(0.25, math.nan), (0.5, 0.4)]) > 0.0
