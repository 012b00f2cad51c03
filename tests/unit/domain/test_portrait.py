import numpy as np
import pytest

from ratchet.domain.gate import Evidence, ScoredRows, judge
from ratchet.domain.portrait import by_slice, calibration, metrics

RANDOM = np.random.default_rng(5)
N = 4000
DAYS = np.repeat([f"2013-01-{day:02d}" for day in range(1, 21)], N // 20)
LABEL = (RANDOM.random(N) < 0.3).astype(float)
PROBABILITY = np.clip(0.3 + 0.2 * (LABEL - 0.3) + RANDOM.normal(0, 0.05, N), 0.01, 0.99)


def evidence(champion_probability=None, **slices) -> Evidence:
    old = np.where(LABEL == 1, 180.0, -60.0)
    new = np.where(PROBABILITY > 0.25, old, 0.0)
    return Evidence(
        uplift=new - old,
        clusters=DAYS,
        label=LABEL,
        champion=ScoredRows(champion_probability, old, act=np.ones(N, dtype=bool)),
        challenger=ScoredRows(PROBABILITY, new, act=PROBABILITY > 0.25),
        slices=slices,
    )


def test_the_difference_in_payoff_has_the_interval_of_the_verdict():
    given = evidence()
    verdict = judge(given.uplift, given.clusters)
    payoff = metrics(given, confidence=0.95, ordered=True)[0]
    assert (payoff.difference.value, payoff.difference.lower, payoff.difference.upper) == pytest.approx(
        (verdict.estimate, verdict.lower, verdict.upper)
    )


def test_a_constant_decision_has_payoff_but_no_probability_to_measure():
    found = {metric.name: metric for metric in metrics(evidence(), confidence=0.95, ordered=True)}
    assert found["payoff"].champion is not None
    assert found["log_loss"].champion is None
    assert found["log_loss"].difference is None
    assert found["brier_score"].challenger.value == pytest.approx(np.mean((PROBABILITY - LABEL) ** 2))


def test_a_nan_in_a_metric_is_told_and_has_no_interval():
    given = evidence(np.full(N, np.nan))
    found = {metric.name: metric for metric in metrics(given, confidence=0.95, ordered=True)}
    assert np.isnan(found["log_loss"].champion.value)
    assert found["log_loss"].champion.lower is None


def test_slices_add_up_to_the_whole():
    carrier = np.where(np.arange(N) % 3 == 0, "UA", "AA")
    given = evidence(carrier=carrier)
    parts = by_slice(given, confidence=0.95, ordered=True)
    assert [part.value for part in parts] == ["AA", "UA"]
    assert sum(part.rows for part in parts) == N
    total = sum(part.rows * part.uplift.value for part in parts)
    assert total == pytest.approx(np.sum(given.uplift))


def test_a_slice_of_one_day_has_an_estimate_and_no_interval():
    place = np.where(DAYS == "2013-01-03", "rare", "usual")
    rare = next(p for p in by_slice(evidence(place=place), confidence=0.95, ordered=True) if p.value == "rare")
    assert (rare.clusters, rare.uplift.lower) == (1, None)


def test_calibration_bins_hold_every_row_once_and_split_no_equal_probabilities():
    bins = calibration(ScoredRows(PROBABILITY, PROBABILITY), LABEL)
    assert len(bins) == 10
    assert sum(each.rows for each in bins) == N
    assert sum(each.rows * each.was for each in bins) == pytest.approx(LABEL.sum())
    constant = calibration(ScoredRows(np.full(N, 0.3), PROBABILITY), LABEL)
    assert [(each.rows, each.said) for each in constant] == [(N, pytest.approx(0.3))]


def test_no_probabilities_no_calibration():
    assert calibration(ScoredRows(None, PROBABILITY), LABEL) == []
    assert calibration(ScoredRows(np.full(N, np.nan), PROBABILITY), LABEL) == []
