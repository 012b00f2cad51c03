"""Differences between groups in how often a model acts: Fairlearn's metrics, with one cluster left out at a time.

Definitions as in Fairlearn (Bird et al. 2020; Weerts et al. 2023, *Fairlearn: assessing and improving fairness of AI
systems*, JMLR 24), of the decision to act:

- ``demographic_parity_difference``: largest less smallest selection rate over the groups;
- ``equal_opportunity_difference``: largest less smallest true positive rate (Hardt, Price and Srebro 2016);
- ``equalized_odds_difference``: the greater of the differences in true positive and in false positive rate.

The largest difference among many groups is biased upwards, for both models alike: with small groups judge the
regression, or give ``min_rows``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.domain.inference import Clusters, Floats

# Of each rate, the label of the rows that it is taken over; None: all rows.
_RATES: dict[str, tuple[int | None, ...]] = {
    "demographic_parity_difference": (None,),
    "equal_opportunity_difference": (1,),
    "equalized_odds_difference": (1, 0),
}


@dataclass(frozen=True)
class Groups:
    """The groups of a column that can be compared, and why others cannot.

    ``judged`` index ``groups.labels``; ``small`` names each of the others with what it lacks.
    """

    groups: Clusters
    judged: npt.NDArray[np.intp]
    small: dict[str, str]


def comparable(metric: str, label: Floats, groups: Clusters, days: Clusters, min_rows: int) -> Groups:
    """Groups with at least ``min_rows`` rows, on two clusters or more, under each rate that the metric compares."""
    small: dict[int, str] = {}
    for wanted in _RATES[metric]:
        rows = _table(_weights(label, wanted), groups, days)
        for i in range(len(groups.labels)):
            n_rows, n_days = int(rows[i].sum()), int((rows[i] > 0).sum())
            if n_rows < min_rows or n_days < 2:
                what = {None: "", 1: " with label 1", 0: " with label 0"}[wanted]
                small.setdefault(i, f"{n_rows} rows{what} on {n_days} clusters are too few")
    judged = np.array([i for i in range(len(groups.labels)) if i not in small], dtype=np.intp)
    return Groups(groups, judged, {str(groups.labels[i]): why for i, why in small.items()})


def difference(metric: str, label: Floats, act: npt.ArrayLike, found: Groups, days: Clusters) -> tuple[float, Floats]:
    """The metric on all rows, and (n_clusters,) without each cluster in turn; needs two comparable groups.

    ``label`` (n_rows,) in {0, 1}; ``act`` (n_rows,) bool: NaN counts as not acted on, and is for the caller to refuse.
    """
    values: list[Floats] = []
    for wanted in _RATES[metric]:
        of_rate = _weights(label, wanted)
        rows = _table(of_rate, found.groups, days)[found.judged]
        acts = _table(of_rate * np.asarray(act, dtype=bool), found.groups, days)[found.judged]
        all_rows, all_acts = rows.sum(axis=1, keepdims=True), acts.sum(axis=1, keepdims=True)
        rates = np.concatenate([all_acts / all_rows, (all_acts - acts) / (all_rows - rows)], axis=1)
        values.append(rates.max(axis=0) - rates.min(axis=0))
    widest = np.max(values, axis=0)
    return float(widest[0]), widest[1:]


def _weights(label: Floats, wanted: int | None) -> Floats:
    return np.ones(label.shape) if wanted is None else (label == wanted).astype(np.float64)


def _table(weights: npt.NDArray[Any], groups: Clusters, days: Clusters) -> Floats:
    """(n_groups, n_clusters) sums."""
    shape = (len(groups.labels), days.rows.size)
    cells = groups.codes * shape[1] + days.codes
    sums = np.bincount(cells, weights=weights, minlength=shape[0] * shape[1])
    return sums.reshape(shape).astype(np.float64, copy=False)
