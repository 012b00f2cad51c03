"""Guardrails: what a challenger may not break while it earns more, each judged by its own bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from ratchet.domain.inference import Clusters, Floats, RatioInference, group, ratio_inference

Outcome = Literal["holds", "warns", "unjudged", "unproven", "broken"]

METRICS = ("expected_calibration_error", "payoff", "latency_p95_ms")
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

    ``probability``: (n_rows,) of the positive class, None for a decision without one; ``payoff``: (n_rows,) payoff
    units per decision; ``latency_ms``: (n_samples,) time to score one batch, None or empty when not measured.
    """

    probability: npt.ArrayLike | None
    payoff: npt.ArrayLike
    latency_ms: npt.ArrayLike | None = None


@dataclass(frozen=True)
class Guardrail:
    """One entry of ``gate.guardrails``.

    ``max_regression`` is relative to the champion, in the metric's unit; ``max`` is absolute. ``slice`` is a column
    (every value of it is judged, jointly) or ``column=value``. Raises ``ValueError`` when nothing would be judged.
    """

    metric: str
    slice: str | None = None
    max_regression: float | None = None
    max: float | None = None
    min_rows: int = 0
    required: bool = False

    def __post_init__(self) -> None:
        wants = {
            "expected_calibration_error": self.slice is None and (self.max_regression, self.max) != (None, None),
            "payoff": self.slice is not None and self.max_regression is not None and self.max is None,
            "latency_p95_ms": self.slice is None and self.max is not None and self.max_regression is None,
        }
        if self.metric not in wants:
            raise ValueError(
                f"guardrail metric must be one of {', '.join(METRICS)}, but got {self.metric!r}. Correct the spec."
            )
        if not wants[self.metric]:
            raise ValueError(
                f"guardrail {self.metric} cannot be judged as given: {self!r}. Calibration takes max_regression or "
                "max, payoff takes a slice and max_regression, latency takes max."
            )

    @classmethod
    def from_spec(cls, entry: Any) -> Guardrail:
        """From a mapping or any object with these attributes; absent ones take their defaults."""

        def read(name: str) -> Any:
            return entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)

        return cls(
            metric=str(read("metric")),
            slice=read("slice"),
            max_regression=read("max_regression"),
            max=read("max"),
            min_rows=int(read("min_rows") or 0),
            required=bool(read("required")),
        )


def find(
    guardrail: Guardrail,
    *,
    uplift: Floats,
    days: Clusters,
    label: Floats,
    champion: ScoredRows,
    challenger: ScoredRows,
    slices: Mapping[str, npt.ArrayLike],
    confidence: float,
    ordered: bool,
) -> list[Finding]:
    """Judge one guardrail on at least two clusters; slices give one finding per value."""
    if guardrail.metric == "payoff":
        return _payoff_by_slice(guardrail, uplift, days, slices, confidence, ordered=ordered)
    if guardrail.metric == "latency_p95_ms":
        return [_latency(guardrail, champion, challenger, confidence)]
    return _calibration(guardrail, days, label, champion, challenger, confidence=confidence, ordered=ordered)


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


def _infer(values: Floats, days: Clusters, *, ordered: bool) -> RatioInference:
    totals = np.bincount(days.codes, weights=values, minlength=days.rows.size)
    return ratio_inference(totals, days.rows, ordered=ordered)


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


def _calibration(
    guardrail: Guardrail,
    days: Clusters,
    label: Floats,
    champion: ScoredRows,
    challenger: ScoredRows,
    *,
    confidence: float,
    ordered: bool,
) -> list[Finding]:
    metric = guardrail.metric
    if challenger.probability is None:
        return [_missing(metric, "a probability on every row", "challenger", "it gave no probabilities")]
    new, new_share = calibration_error(challenger.probability, label)
    if not np.isfinite(new):
        return [_missing(metric, "a finite error", "challenger", "a probability or label is not a finite number")]
    old = old_share = None
    if champion.probability is not None:
        old, old_share = calibration_error(champion.probability, label)
    findings = []
    if guardrail.max_regression is not None:
        both = ((old, old_share), (new, new_share))
        findings.append(_calibration_regression(guardrail.max_regression, days, *both, confidence, ordered=ordered))
    if guardrail.max is not None:
        bounds = _bounds(_infer(new_share, days, ordered=ordered), confidence)
        findings.append(_limit(metric, guardrail.max, old, new, bounds))
    return findings


def _calibration_regression(
    limit: float,
    days: Clusters,
    old: tuple[float | None, Floats | None],
    new: tuple[float, Floats],
    confidence: float,
    *,
    ordered: bool,
) -> Finding:
    metric, required = "expected_calibration_error", f"<= champion + {limit:g}"
    if old[0] is None or old[1] is None:
        detail = f"{metric} {new[0]:.4f}: the champion has no probabilities to compare with"
        return Finding(Check(metric, None, None, new[0], required, passed=None, detail=detail), "unjudged")
    if not np.isfinite(old[0]):
        return _missing(metric, required, "champion", "a probability is not a finite number")
    lower, upper = _bounds(_infer(new[1] - old[1], days, ordered=ordered), confidence)
    detail = (
        f"{metric} {new[0]:.4f} against {old[0]:.4f}: regression {new[0] - old[0]:.4f}, one-sided bounds {lower:.4f} "
        f"and {upper:.4f}, limit {limit:g}"
    )
    outcome = _by_bounds(lower, upper, limit)
    return Finding(Check(metric, None, old[0], new[0], required, passed=outcome == "holds", detail=detail), outcome)


def _limit(metric: str, limit: float, old: float | None, new: float, bounds: tuple[float, float]) -> Finding:
    """An absolute limit: one that the champion breaks as well only warns, for keeping it would not help."""
    lower, upper = bounds
    detail = f"{metric} {new:.4g}, one-sided bounds {lower:.4g} and {upper:.4g}, limit {limit:g}"
    outcome = _by_bounds(lower, upper, limit)
    if outcome != "holds" and old is not None and old > limit:
        outcome = "warns"
        detail += f"; the champion breaks it too with {old:.4g}"
    passed = None if outcome == "warns" else outcome == "holds"
    return Finding(Check(metric, None, old, new, f"<= {limit:g}", passed=passed, detail=detail), outcome)


def _latency(guardrail: Guardrail, champion: ScoredRows, challenger: ScoredRows, confidence: float) -> Finding:
    limit = guardrail.max
    if limit is None:
        raise ValueError("guardrail latency_p95_ms must have max. Correct the spec.")
    new = _samples(challenger.latency_ms)
    if new.size == 0:
        return _missing(guardrail.metric, f"<= {limit:g}", "challenger", "no batch was timed")
    if not np.isfinite(new).all():
        return _missing(guardrail.metric, f"<= {limit:g}", "challenger", "a batch's time is not a finite number")
    old = _samples(champion.latency_ms)
    before = float(np.quantile(old, _LATENCY_QUANTILE)) if old.size and np.isfinite(old).all() else None
    now = float(np.quantile(new, _LATENCY_QUANTILE))
    return _limit(guardrail.metric, limit, before, now, quantile_bounds(new, _LATENCY_QUANTILE, confidence))


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


def _payoff_by_slice(
    guardrail: Guardrail,
    uplift: Floats,
    days: Clusters,
    slices: Mapping[str, npt.ArrayLike],
    confidence: float,
    *,
    ordered: bool,
) -> list[Finding]:
    """Each slice's uplift against ``-max_regression``.

    A slice is broken when Holm's procedure over the judged slices rejects that it lies above; a required one must show
    non-inferiority besides, for which the intersection of all needs no adjustment. Small slices are unjudged, or
    unproven where they are required.
    """
    limit, named = guardrail.max_regression or 0.0, guardrail.slice or ""
    column, _, wanted = named.partition("=")
    if column not in slices:
        return [_absent(guardrail, named, f"the rows have no column {column!r}")]
    try:
        by_value = group(slices[column])
    except ValueError:
        return [_absent(guardrail, named, f"column {column!r} is missing on some rows")]
    chosen = [i for i, value in enumerate(by_value.labels) if not wanted or str(value) == wanted]
    if not chosen:
        return [_absent(guardrail, named, "no row belongs to it")]
    n_days = days.rows.size
    cells = by_value.codes * n_days + days.codes
    shape = (len(by_value.labels), n_days)
    totals = np.bincount(cells, weights=uplift, minlength=shape[0] * n_days).reshape(shape)
    rows = np.bincount(cells, minlength=shape[0] * n_days).reshape(shape).astype(np.float64)

    findings: list[Finding] = []
    judged: list[tuple[str, RatioInference, float]] = []
    for i in chosen:
        present = rows[i] > 0
        name, n_rows = f"{column}={by_value.labels[i]}", int(rows[i].sum())
        if n_rows < guardrail.min_rows or present.sum() < 2:
            findings.append(_absent(guardrail, name, f"{n_rows} rows on {int(present.sum())} clusters are too few"))
            continue
        inference = ratio_inference(totals[i][present], rows[i][present], ordered=ordered)
        judged.append((name, inference, _p_above(inference, -limit)))
    rejected = holm_rejected([p for _, _, p in judged], 1 - confidence)
    for (name, inference, p), broken in zip(judged, rejected, strict=True):
        lower, upper = _bounds(inference, confidence)
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


def _p_above(inference: RatioInference, limit: float) -> float:
    """One-sided p-value of "the mean is at least ``limit``"; small when it clearly lies below."""
    distance = inference.estimate - limit
    if inference.std_error == 0:
        return 0.0 if distance < 0 else 1.0
    return float(stats.t.cdf(distance / inference.std_error, inference.dof))


def _absent(guardrail: Guardrail, name: str, why: str) -> Finding:
    detail = f"payoff of {name}: {why}"
    if guardrail.required:
        check = Check("payoff", name, None, None, "a required slice must be judged", passed=False, detail=detail)
        return Finding(check, "unproven")
    return Finding(Check("payoff", name, None, None, "reported only", passed=None, detail=detail), "unjudged")
