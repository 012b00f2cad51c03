import numpy as np
import pytest

from ratchet.domain.policies import compare

RNG = np.random.default_rng(11)
DAYS = np.repeat(np.arange(60), 20)
GATE = RNG.normal(size=1200)


def test_totals_and_differences_are_sums_over_the_same_rows() -> None:
    compared = compare({"gate": GATE, "never": GATE - 1}, DAYS)
    assert compared["never"]["total_usd"] == pytest.approx(GATE.sum() - 1200)
    assert compared["never"]["minus_gate"] == pytest.approx(-1200)


def test_gate_differs_from_itself_by_nothing() -> None:
    gate = compare({"gate": GATE}, DAYS)["gate"]
    assert (gate["minus_gate"], gate["lower"], gate["upper"]) == (0, 0, 0)


def test_interval_of_noise_covers_zero_and_of_a_clear_loss_does_not() -> None:
    noise = np.repeat(RNG.normal(size=60), 20)
    compared = compare({"gate": GATE, "same": GATE + noise - noise.mean(), "worse": GATE + noise - 3}, DAYS)
    assert compared["same"]["lower"] < 0 < compared["same"]["upper"]  # type: ignore[operator]
    assert compared["worse"]["upper"] < 0  # type: ignore[operator]


def test_interval_covers_the_true_difference_in_about_ninety_five_of_a_hundred_years() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(400):
        daily = np.repeat(rng.normal(size=40), 5)
        found = compare({"gate": np.zeros(200), "other": 1 + daily}, np.repeat(np.arange(40), 5))["other"]
        covered += found["lower"] < 200 < found["upper"]  # type: ignore[operator]
    assert 0.91 <= covered / 400 <= 0.985


def test_one_day_gives_totals_without_an_interval() -> None:
    compared = compare({"gate": [1.0, 2.0], "never": [0.0, 0.0]}, ["a", "a"])
    assert compared["never"] == {"total_usd": 0, "minus_gate": -3, "lower": None, "upper": None}


def test_nan_payoff_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="policy 'always'"):
        compare({"gate": [1.0], "always": [np.nan]}, ["a"])


def test_policies_without_the_gate_are_refused() -> None:
    with pytest.raises(ValueError, match="baseline 'gate'"):
        compare({"never": [1.0]}, ["a"])


def test_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        compare({"gate": [1.0], "never": [1.0, 2.0]}, ["a"])
