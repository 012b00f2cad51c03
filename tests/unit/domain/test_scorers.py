import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer, get_scorer_names

from ratchet.domain.inference import group, jackknife_totals, ratio_inference
from ratchet.domain.metrics import REGRESSION_SCORERS, SCORERS
from ratchet.domain.scorers import leave_one_out

# What scikit-learn lists besides: of clusterings, of several labels, what is the same for two classes, and of numbers
# what has no smooth value to take an interval of.
OF_SOMETHING_ELSE = {
    *("adjusted_mutual_info_score", "adjusted_rand_score", "completeness_score", "fowlkes_mallows_score"),
    *("homogeneity_score", "mutual_info_score", "normalized_mutual_info_score", "rand_score", "v_measure_score"),
    *("f1_samples", "jaccard_samples", "precision_samples", "recall_samples", "top_k_accuracy"),
    *("roc_auc_ovo", "roc_auc_ovo_weighted", "roc_auc_ovr", "roc_auc_ovr_weighted"),
    *("neg_max_error", "neg_median_absolute_error"),
}


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose rows are its answers: probability and decision."""

    classes_ = np.array([0, 1])

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 1].astype(int)

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return np.column_stack([1 - rows[:, 0], rows[:, 0]])


def world(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Label, probability, decision and day."""
    rng = np.random.default_rng(8)
    p = rng.uniform(size=400)
    label = (rng.uniform(size=400) < p).astype(float)
    days = np.sort(rng.integers(0, 7, 400))
    p = {
        "smooth": p,
        "ties": np.round(p, 1),
        "never": np.full(400, 0.3),
        "always": np.full(400, 0.5),
        "certain": (p > 0.5).astype(float),
        "right": label,
        "wrong": 1 - label,
    }[kind]
    return label, p, p >= 0.4, days


def test_every_scorer_of_a_binary_decision_or_a_number_can_be_named() -> None:
    assert set(get_scorer_names()) == set(SCORERS) | set(REGRESSION_SCORERS) | OF_SOMETHING_ELSE


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("kind", ["smooth", "ties", "never", "always", "certain", "right", "wrong"])
@pytest.mark.parametrize("name", SCORERS)
def test_value_is_that_of_scikit_learn_on_all_rows_and_without_each_day(name: str, kind: str) -> None:
    label, p, act, days = world(kind)
    value, left_out = leave_one_out(name, label, p, act, group(days))
    ask, rows = get_scorer(name), np.column_stack([p, act])
    assert value == pytest.approx(ask(Given(), rows, label), nan_ok=True)
    expected = [ask(Given(), rows[days != day], label[days != day]) for day in range(7)]
    assert left_out == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("name", SCORERS)
def test_nan_probability_makes_every_scorer_nan(name: str) -> None:
    label, p, act, days = world("smooth")
    p[7] = np.nan
    value, left_out = leave_one_out(name, label, p, act, group(days))
    assert np.isnan([value, *left_out]).all()


def test_jackknife_totals_of_a_mean_are_the_sums_of_its_clusters() -> None:
    label, p, act, days = world("smooth")
    clusters = group(days)
    totals = jackknife_totals(*leave_one_out("neg_brier_score", label, p, act, clusters), clusters.rows)
    np.testing.assert_allclose(totals, np.bincount(days, weights=-((p - label) ** 2)))


def test_unordered_jackknife_totals_give_the_jackknifes_own_variance() -> None:
    label, p, act, days = world("smooth")
    clusters = group(days)
    value, left_out = leave_one_out("roc_auc", label, p, act, clusters)
    found = ratio_inference(jackknife_totals(value, left_out, clusters.rows), clusters.rows, ordered=False)
    assert found.estimate == pytest.approx(value)
    # Busing et al. (1999) centre on the mean of the pseudo-values: with days of nearly one size, the deletions' mean.
    jackknife = (6 / 7 * ((left_out - left_out.mean()) ** 2).sum()) ** 0.5
    assert found.std_error == pytest.approx(jackknife, rel=0.05)


def test_interval_of_a_scorer_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(12)
    days = np.repeat(np.arange(28), 60)
    clusters = group(days)
    truth, above, below = 0.5 + 1 / 3, 0, 0  # P(p of a positive > p of a negative) for p uniform: 5/6
    for _ in range(200):
        p = rng.uniform(size=days.size)
        label = (rng.uniform(size=days.size) < p).astype(float)
        value, left_out = leave_one_out("roc_auc", label, p, p > 0.5, clusters)
        found = ratio_inference(jackknife_totals(value, left_out, clusters.rows), clusters.rows, ordered=True)
        reach = 1.86 * found.std_error  # t with 8 degrees of freedom, one-sided 0.95
        above += found.estimate - reach > truth
        below += found.estimate + reach < truth
    noise = 3 * (0.05 * 0.95 / 200) ** 0.5
    assert max(above, below) / 200 <= 0.05 + noise
