import numpy as np
import pytest

from ratchet.domain.policies import Conclusion, PolicyTotal, compare, conclude, recommend

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


def test_simultaneous_intervals_are_wider_the_more_policies_there_are() -> None:
    noise = np.repeat(RNG.normal(size=60), 20)
    one = compare({"gate": GATE, "a": GATE + noise}, DAYS)["a"]
    alone = compare({"gate": GATE, "a": GATE + noise}, DAYS, simultaneous=True)["a"]
    among = compare({"gate": GATE, "a": GATE + noise, "b": GATE, "c": GATE - noise}, DAYS, simultaneous=True)["a"]
    assert alone == one
    assert among["lower"] < one["lower"] < one["upper"] < among["upper"]  # type: ignore[operator]


def test_simultaneous_intervals_cover_every_difference_in_at_least_ninety_five_of_a_hundred_years() -> None:
    rng, covered = np.random.default_rng(5), 0
    for _ in range(300):
        shared = rng.normal(size=90)
        others = {f"p{i}": np.repeat(shared + rng.normal(size=90), 3) for i in range(6)}
        found = compare({"gate": np.zeros(270)} | others, np.repeat(np.arange(90), 3), simultaneous=True)
        covered += all(f["lower"] <= 0 <= f["upper"] for f in found.values())  # type: ignore[operator]
    assert covered >= 279


def total(minus: float, lower: float | None, upper: float | None) -> PolicyTotal:
    return PolicyTotal(total_usd=0.0, minus_gate=minus, lower=lower, upper=upper)


@pytest.mark.parametrize(
    ("lower", "upper", "superior", "non_inferior"),
    [
        (1, 2, "yes", "yes"),
        (-2, -1, "no", "yes"),
        (-9, -1, "no", "open"),
        (-9, -6, "no", "no"),
        (-9, 9, "open", "open"),
    ],
)
def test_an_interval_answers_both_questions(lower: float, upper: float, superior: str, non_inferior: str) -> None:
    found = conclude(total(0, lower, upper), margin=5)
    assert (found.superior, found.non_inferior) == (superior, non_inferior)


def test_without_an_interval_nothing_is_concluded() -> None:
    assert conclude(total(9, None, None), 0) == Conclusion("open", "open")


def test_what_leads_on_the_choosing_months_is_recommended_only_if_it_also_wins_where_it_was_not_chosen() -> None:
    choosing = {"ratchet": 10.0, "lax": 20.0, "strict": 15.0}
    doubtful = {name: total(1, -1, 3) for name in choosing}
    assert recommend(choosing, doubtful, "ratchet")[0] == "ratchet"
    assert "cannot be told apart" in recommend(choosing, doubtful, "ratchet")[1]
    assert recommend(choosing, doubtful | {"lax": total(3, 1, 5)}, "ratchet")[0] == "lax"
    # The best of the judging months may not be taken: they had a say in it.
    assert recommend(choosing, doubtful | {"strict": total(3, 1, 5)}, "ratchet")[0] == "ratchet"
    assert recommend(choosing | {"ratchet": 20.0}, doubtful, "ratchet")[0] == "ratchet"
