import numpy as np
import pytest

from ratchet.domain.fairness import comparable, difference
from ratchet.domain.inference import group, jackknife_totals, ratio_inference

# Two groups of eight rows on two days each: who is acted on, and who should have been.
LABEL = np.array([1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0], dtype=float)
ACT = np.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], dtype=bool)
GROUP = np.repeat(["a", "b"], 8)
DAY = group(np.tile(np.repeat([0, 1], 4), 2))


@pytest.mark.parametrize(
    ("metric", "expected", "without_first", "without_second"),
    [
        ("demographic_parity_difference", 5 / 8 - 2 / 8, 2 / 4 - 1 / 4, 3 / 4 - 1 / 4),
        ("equal_opportunity_difference", 1 - 2 / 4, 1 - 1 / 2, 1 - 1 / 2),
        ("equalized_odds_difference", 1 - 2 / 4, 1 - 1 / 2, 1 - 1 / 2),
    ],
)
def test_difference_is_that_of_the_largest_and_the_smallest_rate(
    metric: str, expected: float, without_first: float, without_second: float
) -> None:
    value, left_out = difference(metric, LABEL, ACT, comparable(metric, LABEL, group(GROUP), DAY, 1), DAY)
    assert value == pytest.approx(expected)
    assert left_out == pytest.approx([without_first, without_second])


def test_equalized_odds_is_the_greater_of_both_differences() -> None:
    false_alarms = ACT | ((GROUP == "a") & (LABEL == 0))
    found = comparable("equalized_odds_difference", LABEL, group(GROUP), DAY, 1)
    assert difference("equalized_odds_difference", LABEL, false_alarms, found, DAY)[0] == 1.0
    assert difference("equal_opportunity_difference", LABEL, false_alarms, found, DAY)[0] == 0.5


def test_group_is_small_by_the_rows_that_its_rate_is_taken_over() -> None:
    assert comparable("demographic_parity_difference", LABEL, group(GROUP), DAY, 8).judged.size == 2
    found = comparable("equal_opportunity_difference", LABEL, group(GROUP), DAY, 8)
    assert found.judged.size == 0
    assert found.small["a"] == "4 rows with label 1 on 2 clusters are too few"


def test_group_of_one_day_is_small() -> None:
    groups = group(np.where(np.arange(16) < 4, "c", GROUP))
    assert list(comparable("demographic_parity_difference", LABEL, groups, DAY, 1).small) == ["a", "c"]


def test_interval_of_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    days, groups = np.repeat(np.arange(28), 90), group(np.tile(["a", "b", "c"], 28 * 30))
    clusters = group(days)
    rates = np.array([0.3, 0.4, 0.55])
    above = below = 0
    for _ in range(200):
        shift = rng.normal(0, 0.05, (28, 1)) + np.zeros((28, 90))
        act = rng.uniform(size=days.size) < rates[groups.codes] + shift.ravel()
        found = comparable("demographic_parity_difference", days * 0.0, groups, clusters, 100)
        value, left_out = difference("demographic_parity_difference", days * 0.0, act, found, clusters)
        inference = ratio_inference(jackknife_totals(value, left_out, clusters.rows), clusters.rows, ordered=True)
        reach = 1.86 * inference.std_error  # t with 8 degrees of freedom, one-sided 0.95
        above += inference.estimate - reach > 0.25
        below += inference.estimate + reach < 0.25
    assert max(above, below) / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
