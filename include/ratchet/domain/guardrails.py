"""Guardrails: what a challenger may not break while it earns more, each judged by its own bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from ratchet.domain import fairness, ranking, regression_scorers, scorers
from ratchet.domain.inference import Clusters, Floats, RatioInference, group, jackknife_totals, ratio_inference
from ratchet.domain.metrics import FAIRNESS, METRICS, RANKING, REGRESSION_SCORERS, SCORERS, misfit

Outcome = Literal["holds", "warns", "unjudged", "unproven", "broken"]

_BINS = 15
_LATENCY_QUANTILE = 0.95


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``passed`` is None where it was reported but did not count (a warning, an unjudged slice).

    ``champion`` and ``challenger`` are in the metric's own unit, None where there is none to give.
    """

    metric: str
    slice: str | None
    champion: float | None
    challenger: float | None
    required: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Finding:
    """A check and what it means for the promotion: ``unproven`` holds it back, ``broken`` keeps the champion."""

    check: Check
    outcome: Outcome


@dataclass(frozen=True)
class ScoredRows:
    """One model on the rows of the holdout.

    ``probability``: (n_rows,) of the positive class, None for a constant decision, with which nothing but payoff is
    compared; ``payoff``: (n_rows,) payoff units per decision; ``latency_ms``: (n_samples,) time to score one batch,
    None or empty when not measured; ``act``: (n_rows,) bool, what it decided, None when only payoffs are known;
    ``size_mb``: of its files, in millions of bytes, None when not measured. A regression has neither probability nor
    act: ``prediction`` is (n_rows,) in the target's unit, None for a constant one. A ranking has no probability:
    ``score`` is (n_rows,), to be compared within a cluster only, None for a constant decision.
    """

    probability: npt.ArrayLike | None
    payoff: npt.ArrayLike
    latency_ms: npt.ArrayLike | None = None
    act: npt.ArrayLike | None = None
    size_mb: float | None = None
    prediction: npt.ArrayLike | None = None
    score: npt.ArrayLike | None = None

    @property
    def of_model(self) -> bool:
        """Whether a model scored the rows, rather than one constant decision."""
        return any(scores is not None for scores in (self.probability, self.prediction, self.score))


@dataclass(frozen=True)
class Guardrail:
    """One entry of ``gate.guardrails``.

    ``max_regression`` is relative to the champion, in the metric's unit; ``max`` and ``min`` are absolute. ``slice`` is
    a column (every value of it is judged, jointly) or ``column=value``; ``by`` is the column whose groups a fairness
    metric compares. Raises ``ValueError`` when nothing would be judged.
    """

    metric: str
    slice: str | None = None
    by: str | None = None
    max_regression: float | None = None
    max: float | None = None
    min: float | None = None
    min_rows: int | None = None
    required: bool = False

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(
                f"guardrail metric must be one of {', '.join(METRICS)}, but got {self.metric!r}. Correct the spec."
            )
        if problem := misfit(self.metric, vars(self)):
            raise ValueError(f"guardrail {self!r} cannot be judged as given: {problem}. Correct the spec.")

    @classmethod
    def from_spec(cls, entry: Any) -> Guardrail:
        """From a mapping or any object with these attributes; absent ones take their defaults."""

        def read(name: str) -> Any:
            return entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)

        return cls(
            metric=str(read("metric")),
            slice=read("slice"),
            by=read("by"),
            max_regression=read("max_regression"),
            max=read("max"),
            min=read("min"),
            min_rows=read("min_rows"),
            required=bool(read("required")),
        )


@dataclass(frozen=True)
class Scene:
    """What guardrails are judged on: both models on the same rows, which fall into at least two clusters.

    ``uplift`` and ``label`` are (n_rows,); ``slices``: column -> (n_rows,) values. Each bound is one-sided at
    ``confidence``.
    """

    uplift: Floats
    days: Clusters
    label: Floats
    champion: ScoredRows
    challenger: ScoredRows
    slices: Mapping[str, npt.ArrayLike]
    confidence: float
    ordered: bool


def find(guardrails: Sequence[Guardrail], scene: Scene) -> list[Finding]:
    """Judge the guardrails; a slice or group has a finding of its own. Slices are judged jointly and come last."""
    findings: list[Finding] = []
    for guardrail in guardrails:
        if guardrail.metric != "payoff":
            findings += _FINDERS[guardrail.metric](guardrail, scene)
    return findings + _payoff_by_slice([g for g in guardrails if g.metric == "payoff"], scene)


def calibration_error(probability: npt.ArrayLike, label: npt.ArrayLike) -> tuple[float, Floats]:
    """Expected calibration error over 15 equal bins, and each row's share of it.

    Guo et al. (2017), *On calibration of modern neural networks*. ``probability`` and ``label`` are (n_rows,); the
    error is the mean of the returned (n_rows,) shares, ``sign of the row's bin * (label - probability)``: the
    linearisation from which its clustered interval is taken. NaN in, NaN out.
    """
    p = np.asarray(probability, dtype=np.float64)
    gap = np.asarray(label, dtype=np.float64) - p
    if not np.isfinite(gap).all():
        return float("nan"), np.full(p.shape, np.nan)
    bins = np.clip((p * _BINS).astype(np.intp), 0, _BINS - 1)
    sign = np.sign(np.bincount(bins, weights=gap, minlength=_BINS))
    share = sign[bins] * gap
    return float(share.mean()), share


@dataclass(frozen=True)
class _Measured:
    """A metric on all rows, and what each cluster adds to it: (n_clusters,) totals, in all ``value`` times the rows."""

    value: float
    totals: Floats

    @classmethod
    def mean(cls, values: Floats, days: Clusters) -> _Measured:
        totals = np.bincount(days.codes, weights=values, minlength=days.rows.size)
        return cls(float(values.mean()), totals.astype(np.float64, copy=False))

    @classmethod
    def jackknifed(cls, replicates: tuple[float, Floats], days: Clusters) -> _Measured:
        value, left_out = replicates
        return cls(value, jackknife_totals(value, left_out, days.rows))


def _bounds(inference: RatioInference, confidence: float) -> tuple[float, float]:
    reach = float(stats.t.ppf(confidence, inference.dof)) * inference.std_error
    return inference.estimate - reach, inference.estimate + reach


def _missing(metric: str, required: str, who: str, why: str) -> Finding:
    detail = f"{metric} of the {who} is missing: {why}"
    return Finding(Check(metric, None, None, None, required, passed=False, detail=detail), "broken")


def _by_bounds(lower: float, upper: float, limit: float) -> Outcome:
    """Whether what may not exceed ``limit`` holds, is broken, or is undecided by its bounds."""
    if upper <= limit:
        return "holds"
    return "broken" if lower > limit else "unproven"


def _calibration(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    def measure(model: ScoredRows) -> _Measured:
        value, share = calibration_error(_given(model.probability), scene.label)
        return _Measured(value, _Measured.mean(share, scene.days).totals)

    return _compare(guardrail, scene, measure, ("probability",))


def _scorer(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    """A ranking is measured by its decisions alone, of which the spec has seen to it; its scores must be numbers."""
    read = "probability" if scene.challenger.score is None else "score"

    def measure(model: ScoredRows) -> _Measured:
        replicates = scorers.leave_one_out(
            guardrail.metric, scene.label, _given(getattr(model, read)), _given(model.act), scene.days
        )
        return _Measured.jackknifed(replicates, scene.days)

    return _compare(guardrail, scene, measure, (read, "act"), worse=-1.0)


def _ranked(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    def measure(model: ScoredRows) -> _Measured:
        replicates = ranking.leave_one_out(
            guardrail.metric, scene.label, _given(model.score), _given(model.act), scene.days
        )
        return _Measured.jackknifed(replicates, scene.days)

    return _compare(guardrail, scene, measure, ("score", "act"), worse=-1.0)


def _regression_scorer(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    def measure(model: ScoredRows) -> _Measured:
        replicates = regression_scorers.leave_one_out(
            guardrail.metric, scene.label, _given(model.prediction), scene.days
        )
        return _Measured.jackknifed(replicates, scene.days)

    return _compare(guardrail, scene, measure, ("prediction",), worse=-1.0)


def _fairness(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    """The groups that are large enough are compared; each of the others is reported as unjudged."""
    column = guardrail.by or ""
    if column not in scene.slices:
        return [_without_column(guardrail, column)]
    try:
        groups = group(scene.slices[column])
    except ValueError:
        return [_unjudged(guardrail.metric, column, f"column {column!r} is missing on some rows")]
    found = fairness.comparable(guardrail.metric, scene.label, groups, scene.days, guardrail.min_rows or 1)
    small = [_unjudged(guardrail.metric, f"{column}={name}", why) for name, why in found.small.items()]
    if found.judged.size < 2:
        return [*small, _unjudged(guardrail.metric, column, f"{found.judged.size} groups are too few to differ")]

    def measure(model: ScoredRows) -> _Measured:
        replicates = fairness.difference(guardrail.metric, scene.label, _given(model.act), found, scene.days)
        return _Measured.jackknifed(replicates, scene.days)

    return small + _compare(guardrail, scene, measure, ("act",))


def _flipped(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    before, now = scene.champion.act, scene.challenger.act
    limit = _limit_of(guardrail)
    if now is None:
        return [_missing(guardrail.metric, f"<= {limit:g}", "challenger", "it decided nothing")]
    if before is None or not scene.champion.of_model:
        return [_unjudged(guardrail.metric, None, _NOTHING_TO_COMPARE)]
    flips = (np.asarray(before, dtype=bool) != np.asarray(now, dtype=bool)).astype(np.float64)
    share = _Measured.mean(flips, scene.days)
    inference = ratio_inference(share.totals, scene.days.rows, ordered=scene.ordered)
    return [_limit(guardrail.metric, limit, None, share.value, _bounds(inference, scene.confidence))]


_NOTHING_TO_COMPARE = "the champion is a constant decision: there is nothing to compare with"


def _given(values: npt.ArrayLike | None) -> npt.ArrayLike:
    if values is None:
        raise ValueError("a model's scores or decisions are measured where it has none")
    return values


def _limit_of(guardrail: Guardrail) -> float:
    if guardrail.max is None:
        raise ValueError(f"guardrail {guardrail.metric} must have max. Correct the spec.")
    return guardrail.max


def _compare(
    guardrail: Guardrail,
    scene: Scene,
    measure: Callable[[ScoredRows], _Measured],
    reads: tuple[str, ...],
    worse: float = 1.0,
) -> list[Finding]:
    """A metric of all rows against the champion's (``max_regression``) and against its own limit (``max``, ``min``).

    ``reads`` are the fields of ``ScoredRows`` that it needs; ``worse`` is -1 for a metric of which greater is better.
    """
    metric, column = guardrail.metric, guardrail.by
    if lacking := [name for name in reads if getattr(scene.challenger, name) is None]:
        return [_missing(metric, f"a {lacking[0]} on every row", "challenger", f"it gave no {lacking[0]}")]
    new = measure(scene.challenger)
    comparable = scene.champion.of_model and all(getattr(scene.champion, name) is not None for name in reads)
    old = measure(scene.champion) if comparable else None
    if not np.isfinite(new.value):
        return [_undefined(metric, column, old, reads[0] if reads[0] in {"prediction", "score"} else "probability")]
    findings = []
    if guardrail.max_regression is not None:
        findings.append(_regression(guardrail, scene, old, new, worse))
    limit = guardrail.max if worse > 0 else guardrail.min
    if limit is not None:
        inference = ratio_inference(worse * new.totals, scene.days.rows, ordered=scene.ordered)
        bounds = _bounds(inference, scene.confidence)
        before = None if old is None or not np.isfinite(old.value) else old.value
        findings.append(_limit(metric, limit, before, new.value, bounds, column=column, worse=worse))
    return findings


def _undefined(metric: str, column: str | None, old: _Measured | None, score: str) -> Finding:
    """A metric that the champion lacks as well is the rows' fault, not the challenger's."""
    if old is None or np.isfinite(old.value):
        return _missing(metric, "a finite number", "challenger", f"a {score} is not a number, or it is not defined")
    detail = f"{metric} is not defined on these rows, for champion and challenger alike"
    check = Check(metric, column, None, None, "a finite number", passed=False, detail=detail)
    return Finding(check, "unproven")


def _regression(guardrail: Guardrail, scene: Scene, old: _Measured | None, new: _Measured, worse: float) -> Finding:
    metric, column, limit = guardrail.metric, guardrail.by, guardrail.max_regression or 0.0
    required = f"<= champion + {limit:g}" if worse > 0 else f">= champion - {limit:g}"
    if old is None:
        detail = f"{metric} {new.value:.4f}: {_NOTHING_TO_COMPARE}"
        return Finding(Check(metric, column, None, new.value, required, passed=None, detail=detail), "unjudged")
    if not np.isfinite(old.value):
        score = next((name for name in ("prediction", "score") if getattr(scene.champion, name) is not None), None)
        score = score or "probability"
        return _missing(metric, required, "champion", f"a {score} is not a finite number")
    inference = ratio_inference(worse * (new.totals - old.totals), scene.days.rows, ordered=scene.ordered)
    lower, upper = _bounds(inference, scene.confidence)
    detail = (
        f"{_named(metric, column)} {new.value:.4f} against {old.value:.4f}: regression "
        f"{worse * (new.value - old.value):.4f}, one-sided bounds {lower:.4f} and {upper:.4f}, limit {limit:g}"
    )
    outcome = _by_bounds(lower, upper, limit)
    check = Check(metric, column, old.value, new.value, required, passed=outcome == "holds", detail=detail)
    return Finding(check, outcome)


def _limit(
    metric: str,
    limit: float,
    old: float | None,
    new: float,
    bounds: tuple[float, float],
    *,
    column: str | None = None,
    worse: float = 1.0,
) -> Finding:
    """An absolute limit: one that the champion breaks as well only warns, for keeping it would not help.

    ``bounds`` are those of ``worse`` times the metric, where ``worse`` is -1 for a metric of which greater is better.
    """
    lower, upper = sorted(worse * bound for bound in bounds)
    detail = f"{_named(metric, column)} {new:.4g}, one-sided bounds {lower:.4g} and {upper:.4g}, limit {limit:g}"
    outcome = _by_bounds(*bounds, worse * limit)
    if outcome != "holds" and old is not None and worse * old > worse * limit:
        outcome = "warns"
        detail += f"; the champion breaks it too with {old:.4g}"
    passed = None if outcome == "warns" else outcome == "holds"
    required = f"<= {limit:g}" if worse > 0 else f">= {limit:g}"
    return Finding(Check(metric, column, old, new, required, passed=passed, detail=detail), outcome)


def _named(metric: str, column: str | None) -> str:
    return metric if column is None else f"{metric} by {column}"


def _unjudged(metric: str, name: str | None, why: str) -> Finding:
    detail = f"{metric if name is None else f'{metric} of {name}'}: {why}"
    return Finding(Check(metric, name, None, None, "reported only", passed=None, detail=detail), "unjudged")


def _latency(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    limit, new = _limit_of(guardrail), _samples(scene.challenger.latency_ms)
    if new.size == 0:
        return [_missing(guardrail.metric, f"<= {limit:g}", "challenger", "no batch was timed")]
    if not np.isfinite(new).all():
        return [_missing(guardrail.metric, f"<= {limit:g}", "challenger", "a batch's time is not a finite number")]
    old = _samples(scene.champion.latency_ms)
    before = float(np.quantile(old, _LATENCY_QUANTILE)) if old.size and np.isfinite(old).all() else None
    now = float(np.quantile(new, _LATENCY_QUANTILE))
    bounds = quantile_bounds(new, _LATENCY_QUANTILE, scene.confidence)
    return [_limit(guardrail.metric, limit, before, now, bounds)]


def _size(guardrail: Guardrail, scene: Scene) -> list[Finding]:
    """A size is known, not estimated: its bounds are itself."""
    limit, size = _limit_of(guardrail), scene.challenger.size_mb
    if size is None or not np.isfinite(size):
        return [_missing(guardrail.metric, f"<= {limit:g}", "challenger", "its files were not measured")]
    return [_limit(guardrail.metric, limit, scene.champion.size_mb, size, (size, size))]


def _samples(values: npt.ArrayLike | None) -> Floats:
    return np.zeros(0) if values is None else np.atleast_1d(np.asarray(values, dtype=np.float64))


def quantile_bounds(samples: npt.ArrayLike, quantile: float, confidence: float) -> tuple[float, float]:
    """One-sided bounds of a quantile by order statistics, free of the distribution (David and Nagaraja 2003, §7.1).

    With too few samples for a bound (below 59 for the upper one of a 95 % quantile at 0.95) the smallest or largest
    sample stands in for it. ``samples``: (n,) with n > 0, finite.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = ordered.size
    low = int(stats.binom.ppf(1 - confidence, n, quantile)) - 1
    high = int(stats.binom.ppf(confidence, n, quantile))
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])


def holm_rejected(p_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects at a family-wise ``level`` (Holm 1979)."""
    rejected = [False] * len(p_values)
    for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > level / (len(p_values) - step):
            break
        rejected[i] = True
    return rejected


def _payoff_by_slice(guardrails: Sequence[Guardrail], scene: Scene) -> list[Finding]:
    """Each slice's uplift against ``-max_regression``.

    A slice is broken when Holm's procedure over the judged slices of all guardrails rejects that it lies above; a
    required one must show non-inferiority besides, for which the intersection of all needs no adjustment. Small slices
    are unjudged, or unproven where they are required.
    """
    findings: list[Finding] = []
    judged: list[tuple[Guardrail, str, RatioInference, float]] = []
    for guardrail in guardrails:
        absent, present = _slices(guardrail, scene)
        findings += absent
        limit = guardrail.max_regression or 0.0
        judged += [(guardrail, name, inference, _p_above(inference, -limit)) for name, inference in present]
    rejected = holm_rejected([p for *_, p in judged], 1 - scene.confidence)
    for (guardrail, name, inference, p), broken in zip(judged, rejected, strict=True):
        limit = guardrail.max_regression or 0.0
        lower, upper = _bounds(inference, scene.confidence)
        outcome: Outcome = "broken" if broken else "holds"
        if guardrail.required and not broken and lower <= -limit:
            outcome = "unproven"
        required = f"lower bound > {-limit:g}" if guardrail.required else f"not clearly below {-limit:g}"
        detail = (
            f"payoff of {name}: uplift {inference.estimate:.4g}, one-sided bounds {lower:.4g} and {upper:.4g}, limit "
            f"{-limit:g}, p {p:.3g} (Holm over {len(judged)} slices)"
        )
        check = Check("payoff", name, 0.0, inference.estimate, required, passed=outcome == "holds", detail=detail)
        findings.append(Finding(check, outcome))
    return findings


def _slices(guardrail: Guardrail, scene: Scene) -> tuple[list[Finding], list[tuple[str, RatioInference]]]:
    """The guardrail's slices that cannot be judged, and the uplift of those that can, by name."""
    named, days = guardrail.slice or "", scene.days
    column, _, wanted = named.partition("=")
    if column not in scene.slices:
        return [_without_column(guardrail, column)], []
    try:
        by_value = group(scene.slices[column])
    except ValueError:
        return [_absent(guardrail, named, f"column {column!r} is missing on some rows")], []
    chosen = [i for i, value in enumerate(by_value.labels) if not wanted or str(value) == wanted]
    if not chosen:
        return [_absent(guardrail, named, "no row belongs to it")], []
    n_days = days.rows.size
    cells = by_value.codes * n_days + days.codes
    shape = (len(by_value.labels), n_days)
    totals = np.bincount(cells, weights=scene.uplift, minlength=shape[0] * n_days).reshape(shape)
    rows = np.bincount(cells, minlength=shape[0] * n_days).reshape(shape).astype(np.float64)
    absent: list[Finding] = []
    present: list[tuple[str, RatioInference]] = []
    for i in chosen:
        there = rows[i] > 0
        name, n_rows = f"{column}={by_value.labels[i]}", int(rows[i].sum())
        if n_rows < (guardrail.min_rows or 0) or there.sum() < 2:
            absent.append(_absent(guardrail, name, f"{n_rows} rows on {int(there.sum())} clusters are too few"))
        else:
            present.append((name, ratio_inference(totals[i][there], rows[i][there], ordered=scene.ordered)))
    return absent, present


def _p_above(inference: RatioInference, limit: float) -> float:
    """One-sided p-value of "the mean is at least ``limit``"; small when it clearly lies below."""
    distance = inference.estimate - limit
    if inference.std_error == 0:
        return 0.0 if distance < 0 else 1.0
    return float(stats.t.cdf(distance / inference.std_error, inference.dof))


def _without_column(guardrail: Guardrail, column: str) -> Finding:
    """A guardrail that cannot be looked at is not one that holds, required or not."""
    detail = f"{guardrail.metric} by {column}: the rows have no column {column!r}"
    check = Check(guardrail.metric, column, None, None, "rows with this column", passed=False, detail=detail)
    return Finding(check, "unproven")


def _absent(guardrail: Guardrail, name: str, why: str) -> Finding:
    if not guardrail.required:
        return _unjudged("payoff", name, why)
    detail = f"payoff of {name}: {why}"
    check = Check("payoff", name, None, None, "a required slice must be judged", passed=False, detail=detail)
    return Finding(check, "unproven")


_FINDERS: Mapping[str, Callable[[Guardrail, Scene], list[Finding]]] = {
    "expected_calibration_error": _calibration,
    "latency_p95_ms": _latency,
    "model_size_mb": _size,
    "decisions_flipped": _flipped,
    **dict.fromkeys(SCORERS, _scorer),
    **dict.fromkeys(REGRESSION_SCORERS, _regression_scorer),
    **dict.fromkeys(RANKING, _ranked),
    **dict.fromkeys(FAIRNESS, _fairness),
}
