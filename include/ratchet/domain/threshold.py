"""Thresholds by what they earn: one chosen on later rows, and the curve of what every threshold would have earned.

Rows are sorted by score once; what acting from any score on earns is then a cumulative sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.domain.inference import group, ratio_inference
from ratchet.domain.payoff import Worth

Floats = npt.NDArray[np.float64]

MOST_CANDIDATES = 101
NEVER = "never"
"""How the threshold that no score reaches is written: JSON has no infinity."""


@dataclass(frozen=True)
class TunedThreshold:
    """A threshold and how well it is known.

    ``threshold`` is a calibrated probability, infinite when acting pays nowhere. ``payoff`` is what it earned on the
    rows it was chosen on, in payoff units per decision: a selected number, so too high by nature. ``std_error`` is its
    standard error by cluster; ``as_good`` is the range of candidates whose payoff lies within one standard error of
    the difference. Both are None below two clusters.
    """

    threshold: float
    payoff: float
    std_error: float | None
    as_good: tuple[float, float] | None
    n_rows: int
    n_clusters: int

    def record(self) -> dict[str, Any]:
        """JSON-able; :meth:`of_record` reads it back to an equal one."""
        return {
            "threshold": written(self.threshold),
            "payoff": self.payoff,
            "std_error": self.std_error,
            "as_good": None if self.as_good is None else [written(bound) for bound in self.as_good],
            "n_rows": self.n_rows,
            "n_clusters": self.n_clusters,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> TunedThreshold:
        """From what :meth:`record` gave."""
        plateau = record["as_good"]
        return cls(
            threshold=_read(record["threshold"]),
            payoff=record["payoff"],
            std_error=record["std_error"],
            as_good=None if plateau is None else (_read(plateau[0]), _read(plateau[1])),
            n_rows=record["n_rows"],
            n_clusters=record["n_clusters"],
        )


def written(threshold: float) -> float | str:
    """The threshold as JSON takes it."""
    return NEVER if math.isinf(threshold) else threshold


def _read(threshold: float | str) -> float:
    return math.inf if threshold == NEVER else float(threshold)


def tune(probability: Floats, worth: Worth, clusters: npt.ArrayLike | Sequence[Any]) -> TunedThreshold:
    """The candidate that earns most; of equals the highest, which acts on fewest rows.

    ``probability``, ``worth`` and ``clusters`` are of (n_rows,) rows later than those the scorer was fitted on;
    ``clusters`` sort in time. Candidates are at most 100 quantiles of the scores, and *never*: steps of about one row
    in a hundred, so that no threshold is chosen for a handful of rows. The best cut of a ranked list is where its
    isotonic fit crosses zero (Ayer et al. 1955), so taking the best candidate smooths the curve already. Rows of
    unknown worth (NaN) have no say; a NaN score is acted on by no threshold.

    Raises ``ValueError`` when no row has a known worth.
    """
    known = ~np.isnan(worth.gain)
    if not known.any():
        raise ValueError("a threshold cannot be tuned: the payoff is NaN on every row of the calibration range.")
    score, gain, passed = probability[known], worth.gain[known], worth.passed[known]
    days = group(np.asarray(clusters)[known])
    candidates = _candidates(score)
    size = candidates.size + 1
    # How many candidates a row's score reaches: it is acted on by the first so many.
    reached = np.where(np.isnan(score), 0, np.searchsorted(candidates, score, side="right"))
    table = np.bincount(days.codes * size + reached, weights=gain, minlength=len(days.labels) * size)
    acted = table.reshape(-1, size)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    totals = acted + np.bincount(days.codes, weights=passed, minlength=len(days.labels))[:, None]
    earned = totals.sum(axis=0)
    best = candidates.size - 1 - int(np.argmax(earned[::-1]))
    std_error = as_good = None
    if len(days.labels) >= 2:
        std_error = ratio_inference(totals[:, best], days.rows, ordered=True).std_error
        within = [i for i in range(candidates.size) if _no_worse(totals[:, best] - totals[:, i], days.rows)]
        as_good = (float(candidates[within[0]]), float(candidates[within[-1]]))
    return TunedThreshold(
        threshold=float(candidates[best]),
        payoff=float(earned[best]) / score.size,
        std_error=std_error,
        as_good=as_good,
        n_rows=int(score.size),
        n_clusters=len(days.labels),
    )


def _candidates(score: Floats) -> Floats:
    """At most 101, rising; the last is infinite."""
    finite = score[np.isfinite(score)]
    if not finite.size:
        return np.array([np.inf])
    shares = np.linspace(0.0, 1.0, min(MOST_CANDIDATES - 1, finite.size))
    return np.append(np.unique(np.quantile(finite, shares, method="higher")), np.inf)


def _no_worse(lost: npt.ArrayLike, rows: Floats) -> bool:
    inference = ratio_inference(lost, rows, ordered=True)
    return inference.estimate <= inference.std_error


def curve(probability: Floats, worth: Worth, thresholds: Floats) -> Floats:
    """What acting from each threshold on earns: (n_thresholds,) payoff units per decision.

    ``probability`` and ``worth`` are of the same (n_rows,) rows, at least one. NaN in the worth of any row makes the
    whole curve NaN; a NaN score is acted on by no threshold.
    """
    if np.isnan(worth.gain).any():
        return np.full(thresholds.shape, np.nan)
    ascending, from_here_on = _ranked(probability, worth)
    start = np.searchsorted(ascending, thresholds, side="left")
    value: Floats = (worth.passed.sum() + from_here_on[start]) / worth.passed.size
    return value


def best_in_hindsight(probability: Floats, worth: Worth) -> tuple[float, float]:
    """The threshold that would have earned most on these very rows, and what: (probability, payoff per decision).

    The threshold is infinite when acting on nothing was best; of equals the highest. NaN in any worth: (NaN, NaN).
    """
    if np.isnan(worth.gain).any():
        return math.nan, math.nan
    ascending, from_here_on = _ranked(probability, worth)
    cuts = np.append(np.flatnonzero(np.diff(ascending, prepend=-np.inf)), ascending.size)
    best = int(cuts[::-1][np.argmax(from_here_on[cuts[::-1]])])
    threshold = math.inf if best == ascending.size else float(ascending[best])
    return threshold, float(worth.passed.sum() + from_here_on[best]) / worth.passed.size


def _ranked(probability: Floats, worth: Worth) -> tuple[Floats, Floats]:
    """The scores rising, (n,), and the total gain of acting from each place on, (n + 1,): the last acts on nothing."""
    gain = worth.gain
    scored = ~np.isnan(probability)
    order = np.argsort(probability[scored], kind="stable")
    ranked = gain[scored][order]
    return probability[scored][order], np.append(ranked[::-1].cumsum()[::-1], 0.0)
