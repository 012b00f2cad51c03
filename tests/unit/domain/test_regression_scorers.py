"""Scorers of predicted numbers are scikit-learn's, on all rows and without each day; and how a gate uses them."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import get_scorer

from ratchet.domain.gate import Evidence, GatePolicy, decide_promotion
from ratchet.domain.guardrails import Guardrail, Scene, ScoredRows, find
from ratchet.domain.inference import group, jackknife_totals
from ratchet.domain.metrics import METRICS, REGRESSION_SCORERS, Kind, unfit
from ratchet.domain.portrait import by_slice, metrics, residuals
from ratchet.domain.regression import ErrorCosts
from ratchet.domain.regression_scorers import leave_one_out

N, DAYS = 2800, 28
DAY = np.repeat(np.arange(DAYS), N // DAYS)
COSTS = ErrorCosts(under=-3, over=-1)


class Given(RegressorMixin, BaseEstimator):
    """A regressor whose rows are its answers."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 0]


def world(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, prediction and day; all above zero."""
    rng = np.random.default_rng(8)
    signal = rng.gamma(3.0, 10.0, 400)
    target = signal * rng.gamma(5.0, 0.2, 400) + 0.1
    days = np.sort(rng.integers(0, 7, 400))
    predicted = {
        "good": signal + 0.1,
        "constant": np.full(400, 20.0),
        "right": target.copy(),
        "far off": 1e4 - signal,
        "constant target": signal + 0.1,
    }[kind]
    return np.full(400, 5.0) if kind == "constant target" else target, predicted, days


@pytest.mark.parametrize("kind", ["good", "constant", "right", "far off", "constant target"])
@pytest.mark.parametrize("name", REGRESSION_SCORERS)
def test_value_is_that_of_scikit_learn_on_all_rows_and_without_each_day(name: str, kind: str) -> None:
    target, predicted, days = world(kind)
    value, left_out = leave_one_out(name, target, predicted, group(days))
    ask, rows = get_scorer(name), predicted[:, None]
    assert value == pytest.approx(ask(Given(), rows, target), rel=1e-9, abs=1e-9)
    expected = [ask(Given(), rows[days != day], target[days != day]) for day in range(7)]
    assert left_out == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", REGRESSION_SCORERS)
def test_a_prediction_that_is_no_number_makes_every_scorer_nan(name: str) -> None:
    target, predicted, days = world("good")
    predicted[7] = np.nan
    value, left_out = leave_one_out(name, target, predicted, group(days))
    assert np.isnan([value, *left_out]).all()


@pytest.mark.parametrize(
    ("name", "at_zero"),
    [
        ("neg_mean_gamma_deviance", False),
        ("neg_mean_poisson_deviance", True),
        ("neg_mean_squared_log_error", True),
        ("neg_root_mean_squared_log_error", True),
    ],
)
def test_a_scorer_outside_its_range_is_not_defined(name: str, at_zero: bool) -> None:
    target, predicted, days = world("good")
    target[3] = 0.0
    assert np.isfinite(leave_one_out(name, target, predicted, group(days))[0]) == at_zero
    target[3] = -2.0
    assert np.isnan(leave_one_out(name, target, predicted, group(days))[0])


def test_jackknife_totals_of_a_mean_loss_are_the_sums_of_its_clusters() -> None:
    target, predicted, days = world("good")
    clusters = group(days)
    found = jackknife_totals(*leave_one_out("neg_mean_absolute_error", target, predicted, clusters), clusters.rows)
    np.testing.assert_allclose(found, np.bincount(days, weights=-np.abs(target - predicted)))


# -- in the gate -----------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(1)
SIGNAL = RNG.gamma(3.0, 10.0, N)
TARGET = SIGNAL + RNG.normal(0, 5, N)
GOOD, BAD, CONSTANT = SIGNAL + 3.4, np.full(N, 40.0) + RNG.normal(0, 0.1, N), np.full(N, 38.0)


def scored(prediction: np.ndarray, *, constant: bool = False) -> ScoredRows:
    payoff = COSTS.on(TARGET).of(prediction)
    return ScoredRows(None, payoff, np.full(100, 2.0), prediction=None if constant else prediction)


def evidence(champion: ScoredRows, challenger: ScoredRows) -> Evidence:
    uplift = np.asarray(challenger.payoff) - np.asarray(champion.payoff)
    return Evidence(uplift, DAY, TARGET, champion, challenger, {"carrier": np.resize(["AA", "UA"], N)}, "EUR")


def looked(guardrail: Guardrail, champion: ScoredRows, challenger: ScoredRows) -> str:
    scene = Scene(np.zeros(N), group(DAY), TARGET, champion, challenger, {}, confidence=0.95, ordered=True)
    (finding,) = find([guardrail], scene)
    return finding.outcome


R2 = Guardrail("r2", max_regression=0.05)


def test_a_scorer_is_judged_against_the_champions_and_against_its_own_limit() -> None:
    assert looked(R2, scored(GOOD), scored(GOOD)) == "holds"
    assert looked(R2, scored(GOOD), scored(BAD)) == "broken"
    assert looked(Guardrail("r2", min=0.5), scored(GOOD), scored(GOOD)) == "holds"
    assert looked(Guardrail("r2", min=0.5), scored(GOOD), scored(BAD)) == "broken"
    assert looked(Guardrail("neg_mean_absolute_error", min=-6), scored(BAD), scored(GOOD)) == "holds"


def test_nothing_but_payoff_is_compared_with_a_constant_prediction() -> None:
    assert looked(R2, scored(CONSTANT, constant=True), scored(GOOD)) == "unjudged"


def test_a_better_regression_is_promoted_and_an_equal_one_is_not() -> None:
    policy = GatePolicy(guardrails=(R2, Guardrail("payoff", slice="carrier", max_regression=0.5)))
    assert decide_promotion(evidence(scored(CONSTANT, constant=True), scored(GOOD)), policy).decision == "promote"
    equal = decide_promotion(evidence(scored(GOOD), scored(GOOD)), policy)
    assert (equal.decision, equal.reasons[0]) == (
        "keep_champion",
        "the models are identical in value: uplift is zero on every row",
    )


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_a_prediction_that_is_no_number_is_named_and_never_promoted(nothing: float) -> None:
    holed = GOOD.copy()
    holed[:3] = nothing
    verdict = decide_promotion(evidence(scored(CONSTANT, constant=True), scored(holed)), GatePolicy())
    assert verdict.decision == "keep_champion"
    assert "the challenger's prediction is NaN or infinite on 3 rows" in verdict.reasons
    assert "prediction_is_finite" in [check.metric for check in verdict.checks]


def test_a_champion_whose_predictions_are_no_numbers_keeps_its_place() -> None:
    holed = scored(np.where(DAY == 3, np.nan, GOOD))
    verdict = decide_promotion(evidence(holed, scored(GOOD)), GatePolicy())
    assert verdict.decision == "keep_champion"
    assert "the champion's prediction is NaN or infinite on 100 rows" in verdict.reasons


def test_a_prediction_for_other_rows_is_refused() -> None:
    other = replace(scored(GOOD), prediction=GOOD[1:])
    with pytest.raises(ValueError, match=r"evidence\.challenger\.prediction must have one value per row"):
        decide_promotion(evidence(scored(BAD), other), GatePolicy())


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_fits_one_kind_of_model_or_more(metric: str) -> None:
    misses = [unfit(metric, kind) for kind in get_args(Kind)]
    assert not all(misses)
    assert (misses == [None, None, None]) == (METRICS[metric].of is None)


@pytest.mark.parametrize("metric", [n for n, takes in METRICS.items() if takes.of not in {"predictions", None}])
def test_a_metric_of_decisions_finds_none_in_a_regression(metric: str) -> None:
    limits = {"by": "carrier"} if METRICS[metric].split == "by" else {}
    limits |= {"max": 0.5} if "max" in METRICS[metric].limits else {"min": 0.5}
    scene = Scene(
        np.zeros(N),
        group(DAY),
        (TARGET > 30).astype(float),
        scored(GOOD),
        scored(GOOD),
        {"carrier": np.resize(["AA", "UA"], N)},
        confidence=0.95,
        ordered=True,
    )
    assert {finding.outcome for finding in find([Guardrail(metric, **limits)], scene)} <= {"broken", "unjudged"}


# -- for people ------------------------------------------------------------------------------------------------------


def test_the_metrics_of_a_regression_are_its_errors() -> None:
    given = evidence(scored(CONSTANT, constant=True), scored(GOOD))
    found = {metric.name: metric for metric in metrics(given, confidence=0.95, ordered=True)}
    assert set(found) == {
        *("payoff", "mean_absolute_error", "mean_squared_error", "mean_error", "predicted_too_low"),
    }
    assert found["payoff"].champion is not None
    assert found["mean_error"].champion is None
    assert found["mean_error"].challenger.value == pytest.approx((TARGET - GOOD).mean())
    assert found["predicted_too_low"].challenger.value == pytest.approx((TARGET > GOOD).mean())
    assert sum(part.rows for part in by_slice(given, confidence=0.95, ordered=True)) == N


def test_residuals_are_told_by_quantile_and_by_prediction() -> None:
    found = residuals(scored(GOOD), TARGET)
    assert dict(found.quantiles)[0.5] == pytest.approx(np.median(TARGET - GOOD))
    assert sum(part.rows for part in found.bins) == N
    assert len(found.bins) == 10
    assert all(part.q10 <= part.q50 <= part.q90 for part in found.bins)
    assert [part.low for part in found.bins] == sorted(part.low for part in found.bins)


def test_residuals_leave_out_what_is_no_number_and_a_constant_has_none() -> None:
    holed = GOOD.copy()
    holed[:100] = np.nan
    assert residuals(scored(holed), TARGET).rows == N - 100
    assert residuals(scored(np.full(N, np.nan)), TARGET) is None
    assert residuals(scored(CONSTANT, constant=True), TARGET) is None
