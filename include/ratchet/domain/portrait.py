"""What people ask of a verdict beside its decision: metrics with intervals, payoff by slice, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ratchet.domain import ranking
from ratchet.domain.gate import Evidence, ScoredRows
from ratchet.domain.guardrails import calibration_error
from ratchet.domain.inference import Clusters, Floats, group, jackknife_totals, ratio_inference
from ratchet.domain.metrics import RANKING

CALIBRATION_BINS = 10
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_CLIP = 1e-7


@dataclass(frozen=True)
class Measured:
    """A mean over rows with its bounds, each one-sided at the verdict's confidence; None below two clusters."""

    value: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Metric:
    """A metric of both models on the same rows, and challenger minus champion. None for a model that has it not."""

    name: str
    unit: str
    champion: Measured | None
    challenger: Measured | None
    difference: Measured | None


@dataclass(frozen=True)
class Slice:
    """The payoff per decision on the rows of one value of a slice column, and the uplift there."""

    column: str
    value: str
    rows: int
    clusters: int
    champion: float
    challenger: float
    uplift: Measured


@dataclass(frozen=True)
class CalibrationBin:
    """Rows of similar probability: what was said on average, and the share that was so."""

    rows: int
    said: float
    was: float


@dataclass(frozen=True)
class ErrorBin:
    """Rows of similar prediction, from ``low`` to ``high``; and three quantiles of target minus prediction there."""

    rows: int
    low: float
    high: float
    q10: float
    q50: float
    q90: float


@dataclass(frozen=True)
class Residuals:
    """Target minus prediction, in the target's unit: above zero the prediction was too low.

    ``quantiles`` are pairs of level and value; ``bins`` ten of equally many rows, by prediction.
    """

    rows: int
    quantiles: tuple[tuple[float, float], ...]
    bins: tuple[ErrorBin, ...]


def metrics(evidence: Evidence, *, confidence: float, ordered: bool) -> list[Metric]:
    """Payoff, share acted on, log loss (nats), Brier score and expected calibration error, by clustered intervals.

    Of a regression: payoff, mean absolute, mean squared and mean error (target minus prediction, in the target's unit),
    and the share of rows predicted too low. Of a ranking: payoff, share acted on, and the means over days of its best
    rows' precision and NDCG (:mod:`ratchet.domain.ranking`), by the jackknife.

    Each is a mean over rows (the calibration error by its linearisation, see ``calibration_error``), so the interval
    is that of the verdict: ``ratchet.domain.inference.ratio_inference``. NaN in, NaN out; no rows have no metrics.
    """
    label = np.asarray(evidence.label, dtype=np.float64)
    if not label.size:
        return []
    days = group(evidence.clusters)

    def of(name: str, unit: str, rows: Any) -> Metric:
        old, new = (rows(side) for side in (evidence.champion, evidence.challenger))
        difference = None if old is None or new is None else new - old
        values = (old, new, difference)
        found = [None if v is None else _measure(v, days, confidence, ordered=ordered) for v in values]
        return Metric(name, unit, *found)

    def of_probability(value: Any) -> Any:
        return lambda side: None if side.probability is None else value(np.asarray(side.probability, dtype=np.float64))

    def of_error(value: Any) -> Any:
        return lambda side: None if side.prediction is None else value(label - np.asarray(side.prediction, np.float64))

    payoff = of("payoff", f"{evidence.unit} per decision", lambda side: np.asarray(side.payoff, dtype=np.float64))
    if evidence.challenger.prediction is not None:
        return [
            payoff,
            of("mean_absolute_error", "", of_error(np.abs)),
            of("mean_squared_error", "", of_error(np.square)),
            of("mean_error", "", of_error(np.asarray)),
            of("predicted_too_low", "share of rows", of_error(lambda e: np.where(np.isnan(e), np.nan, e > 0))),
        ]
    acted = of(
        "acted", "share of rows", lambda side: None if side.act is None else np.asarray(side.act, dtype=np.float64)
    )
    if evidence.challenger.score is not None:
        return [payoff, acted, *(_of_ranks(name, evidence, days, confidence, ordered=ordered) for name in RANKING)]
    return [
        payoff,
        acted,
        of("log_loss", "nats", of_probability(lambda p: _log_losses(p, label))),
        of("brier_score", "", of_probability(lambda p: (p - label) ** 2)),
        of("expected_calibration_error", "", of_probability(lambda p: calibration_error(p, label)[1])),
    ]


def _of_ranks(name: str, evidence: Evidence, days: Clusters, confidence: float, *, ordered: bool) -> Metric:
    """A metric of both rankings and its difference, with bounds by the jackknife over days."""

    def totals(side: ScoredRows) -> tuple[float, Floats] | None:
        if side.score is None or side.act is None:
            return None
        value, without = ranking.leave_one_out(name, evidence.label, side.score, side.act, days)
        return value, jackknife_totals(value, without, days.rows)

    old, new = totals(evidence.champion), totals(evidence.challenger)
    change = None if old is None or new is None else (new[0] - old[0], new[1] - old[1])
    found = [
        None if given is None else _bounded(*given, days, confidence, ordered=ordered) for given in (old, new, change)
    ]
    return Metric(name, "mean over days", *found)


def by_slice(evidence: Evidence, *, confidence: float, ordered: bool) -> list[Slice]:
    """Every value of every slice column, the largest first; what is joint inference is the guardrails' business."""
    found = []
    champion, challenger = (np.asarray(s.payoff, dtype=np.float64) for s in (evidence.champion, evidence.challenger))
    clusters = np.asarray(evidence.clusters)
    for column, values in evidence.slices.items():
        by_value = group(values)
        for code, name in enumerate(by_value.labels):
            inside = by_value.codes == code
            days = group(clusters[inside])
            old, new = champion[inside], challenger[inside]
            uplift = _measure(new - old, days, confidence, ordered=ordered)
            found.append(
                Slice(
                    column, str(name), int(inside.sum()), len(days.labels), float(old.mean()), float(new.mean()), uplift
                )
            )
    return sorted(found, key=lambda part: (part.column, -part.rows, part.value))


def calibration(model: ScoredRows, label: npt.ArrayLike) -> list[CalibrationBin]:
    """Ten bins of equally many rows, by probability: a reliability diagram. None of a model without probabilities.

    Quantile bins after Naeini, Cooper and Hauskrecht (2015), *Obtaining well calibrated probabilities using Bayesian
    binning*; equal probabilities are never split. Rows with a NaN are left out.
    """
    if model.probability is None:
        return []
    p, truth = np.asarray(model.probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    known = np.isfinite(p) & np.isfinite(truth)
    p, truth = p[known], truth[known]
    if not p.size:
        return []
    codes, n_bins = _tenths(p)
    rows = np.bincount(codes, minlength=n_bins)
    said, was = (np.bincount(codes, weights=v, minlength=n_bins) for v in (p, truth))
    return [
        CalibrationBin(int(n), float(s / n), float(w / n)) for n, s, w in zip(rows, said, was, strict=True) if n > 0
    ]


def residuals(model: ScoredRows, label: npt.ArrayLike) -> Residuals | None:
    """How far a regression's predictions lie from the target. None of a constant one, and where no row has a number.

    The quantiles show what the payoff asked for: with constant costs the residual at ``under / (under + over)`` should
    lie at zero, over all rows and in each bin. Rows with a NaN are left out.
    """
    if model.prediction is None:
        return None
    p, truth = np.asarray(model.prediction, dtype=np.float64), np.asarray(label, dtype=np.float64)
    known = np.isfinite(p) & np.isfinite(truth)
    p, error = p[known], (truth - p)[known]
    if not p.size:
        return None
    codes, n_bins = _tenths(p)
    bins = []
    for code in range(n_bins):
        inside = codes == code
        if inside.any():
            low, high = float(p[inside].min()), float(p[inside].max())
            bins.append(ErrorBin(int(inside.sum()), low, high, *np.quantile(error[inside], (0.1, 0.5, 0.9)).tolist()))
    quantiles = zip(QUANTILES, np.quantile(error, QUANTILES).tolist(), strict=True)
    return Residuals(int(p.size), tuple(quantiles), tuple(bins))


def _tenths(values: Floats) -> tuple[npt.NDArray[np.intp], int]:
    """Which of at most ten bins of equally many rows each value lies in, from 0, and how many bins there are."""
    edges = np.unique(np.quantile(values, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS, method="lower"))
    return np.searchsorted(edges, values, side="left"), edges.size + 1


def _measure(values: Floats, days: Clusters, confidence: float, *, ordered: bool) -> Measured:
    totals = np.bincount(days.codes, weights=values, minlength=len(days.labels)).astype(np.float64, copy=False)
    return _bounded(float(values.mean()), totals, days, confidence, ordered=ordered)


def _bounded(value: float, totals: Floats, days: Clusters, confidence: float, *, ordered: bool) -> Measured:
    if len(days.labels) < 2 or not np.isfinite(value):
        return Measured(value, None, None)
    inference = ratio_inference(totals, days.rows, ordered=ordered)
    reach = float(stats.t.ppf(confidence, inference.dof)) * inference.std_error
    return Measured(inference.estimate, inference.estimate - reach, inference.estimate + reach)


def _log_losses(probability: Floats, label: Floats) -> Floats:
    clipped = np.clip(probability, _CLIP, 1 - _CLIP)
    loss: Floats = -np.where(label == 1, np.log(clipped), np.log1p(-clipped))
    return loss
