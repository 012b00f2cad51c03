import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.artifact import Platt, log_loss, logit, sigmoid
from ratchet.errors import Refused


def world(n: int, slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    raw = random.beta(1.5, 4.0, n)
    label = (random.random(n) < sigmoid(slope * logit(raw) + intercept)).astype(np.int8)
    return raw, label


def test_calibration_finds_the_line_that_made_the_labels():
    raw, label = world(200_000, 0.6, -0.4)
    fitted = Platt.fit(raw, label)
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.6, -0.4), abs=0.02)


def test_calibrated_scores_have_the_mean_of_the_labels():
    raw, label = world(5_000, 2.0, 1.0)
    assert Platt.fit(raw, label)(raw).mean() == pytest.approx(label.mean(), abs=1e-3)


def test_calibration_never_worsens_the_log_loss_of_its_own_rows():
    raw, label = world(5_000, 0.5, 0.5)
    assert log_loss(Platt.fit(raw, label)(raw), label) <= log_loss(raw, label)


def test_separable_rows_keep_finite_weights():
    fitted = Platt.fit(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert fitted.slope > 0


def test_rows_of_equal_scores_are_calibrated_to_their_rate():
    fitted = Platt.fit(np.full(1000, 0.5), (np.arange(1000) < 300).astype(np.int8))
    assert fitted(np.array([0.5]))[0] == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("label", [np.zeros(3), np.ones(3)])
def test_one_class_alone_cannot_calibrate(label: np.ndarray):
    with pytest.raises(Refused, match="both labels"):
        Platt.fit(np.array([0.1, 0.5, 0.9]), label)


def test_a_nan_score_cannot_calibrate():
    with pytest.raises(Refused, match="finite, but 1 are not"):
        Platt.fit(np.array([0.1, np.nan]), np.array([0, 1]))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0.01, 5), st.floats(-5, 5))
def test_a_rising_line_keeps_the_order_of_scores(scores: list[float], slope: float, intercept: float):
    ordered = Platt(slope, intercept)(np.sort(np.asarray(scores)))
    assert (np.diff(ordered) >= 0).all()
    assert ((ordered >= 0) & (ordered <= 1)).all()
