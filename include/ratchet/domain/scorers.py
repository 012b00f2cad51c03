"""scikit-learn's scorers of binary decisions, with what each is when one cluster of rows is left out.

A scorer is rarely a mean of rows, so its interval comes from the jackknife by cluster
(:func:`ratchet.domain.inference.jackknife_totals`). Asking scikit-learn once per cluster takes a second for few
scorers; here all clusters are left out at once, from sums by cluster and one sort. That each value is scikit-learn's is
tested against it. Rows have weight one; "greater is better" holds for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.domain.inference import Clusters, Floats

_CLIP = float(np.finfo(np.float64).eps)
"""Log loss keeps probabilities this far from 0 and 1, as scikit-learn does."""


@dataclass(frozen=True)
class _Counts:
    """The confusion matrix of each replicate: (n_clusters + 1,) each, the first of all rows."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats

    def of_negatives(self) -> _Counts:
        return _Counts(self.tn, self.fn, self.fp, self.tp)


def leave_one_out(
    name: str, label: Floats, probability: npt.ArrayLike, act: npt.ArrayLike, days: Clusters
) -> tuple[float, Floats]:
    """The scorer ``name`` on all rows, and (n_clusters,) without each cluster in turn.

    ``label`` (n_rows,) in {0, 1}; ``probability`` (n_rows,) in [0, 1]; ``act`` (n_rows,) bool. NaN where the scorer is
    not defined (ROC of one label, for instance) and when a probability is NaN.
    """
    p = np.asarray(probability, dtype=np.float64)
    truth = np.asarray(label, dtype=np.float64)
    if not (np.isfinite(p).all() and np.isfinite(truth).all()):
        return float("nan"), np.full(days.rows.size, np.nan)
    if name in _RANKED:
        values = _ranked(_RANKED[name], truth, p, days)
    elif name in _COUNTED:
        values = _COUNTED[name](_counts(truth, np.asarray(act, dtype=np.float64), days))
    else:
        values = _averaged_loss(name, truth, p, days)
    return float(values[0]), values[1:]


def without_each(by_cluster: Floats) -> Floats:
    """(n_clusters + 1,): the sum over all clusters, then without each."""
    total = by_cluster.sum()
    return np.concatenate([[total], total - by_cluster])


def _sums(values: Floats, days: Clusters) -> Floats:
    by_cluster = np.bincount(days.codes, weights=values, minlength=days.rows.size)
    return without_each(by_cluster.astype(np.float64, copy=False))


def _counts(label: Floats, act: Floats, days: Clusters) -> _Counts:
    both, acted, positive = _sums(label * act, days), _sums(act, days), _sums(label, days)
    rows = without_each(days.rows)
    return _Counts(both, acted - both, positive - both, rows - acted - positive + both)


def _share(part: Floats, whole: Floats, otherwise: float = 0.0) -> Floats:
    """``part / whole``, and scikit-learn's answer where there is nothing to divide by."""
    answer: Floats = np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)
    return answer


def _precision(c: _Counts) -> Floats:
    return _share(c.tp, c.tp + c.fp)


def _recall(c: _Counts) -> Floats:
    return _share(c.tp, c.tp + c.fn)


def _f1(c: _Counts) -> Floats:
    return _share(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def _jaccard(c: _Counts) -> Floats:
    return _share(c.tp, c.tp + c.fp + c.fn)


def _accuracy(c: _Counts) -> Floats:
    return _share(c.tp + c.tn, c.tp + c.fp + c.fn + c.tn, np.nan)


def _macro(one: Callable[[_Counts], Floats], c: _Counts) -> Floats:
    """The mean over the classes that occur among labels or decisions."""
    other = c.of_negatives()
    occurs, other_occurs = ((k.tp + k.fp + k.fn > 0).astype(np.float64) for k in (c, other))
    return _share(one(c) * occurs + one(other) * other_occurs, occurs + other_occurs)


def _weighted(one: Callable[[_Counts], Floats], c: _Counts) -> Floats:
    """The mean over the classes, weighted by how often each is the label."""
    other = c.of_negatives()
    return _share(one(c) * (c.tp + c.fn) + one(other) * (other.tp + other.fn), c.tp + c.fp + c.fn + c.tn)


def _micro(one: Callable[[_Counts], Floats], c: _Counts) -> Floats:
    """Of the classes' counts added up."""
    right, wrong = c.tp + c.tn, c.fp + c.fn
    return one(_Counts(right, wrong, wrong, right))


def _balanced_accuracy(c: _Counts) -> Floats:
    there = [(k.tp + k.fn > 0).astype(np.float64) for k in (c, c.of_negatives())]
    return _share(_recall(c) + _recall(c.of_negatives()), there[0] + there[1], np.nan)


def _matthews(c: _Counts) -> Floats:
    margins = (c.tp + c.fp) * (c.tp + c.fn) * (c.tn + c.fp) * (c.tn + c.fn)
    return _share(c.tp * c.tn - c.fp * c.fn, np.sqrt(margins))


def _positive_likelihood(c: _Counts) -> Floats:
    return _share(c.tp * (c.fp + c.tn), c.fp * (c.tp + c.fn), 1.0)


def _negative_likelihood(c: _Counts) -> Floats:
    return -_share(c.fn * (c.fp + c.tn), c.tn * (c.tp + c.fn), 1.0)


def _families() -> dict[str, Callable[[_Counts], Floats]]:
    found: dict[str, Callable[[_Counts], Floats]] = {}
    for name, one in {"precision": _precision, "recall": _recall, "f1": _f1, "jaccard": _jaccard}.items():
        found[name] = one
        for suffix, average in {"macro": _macro, "micro": _micro, "weighted": _weighted}.items():
            found[f"{name}_{suffix}"] = partial(average, one)
    return found


_COUNTED: Mapping[str, Callable[[_Counts], Floats]] = {
    **_families(),
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "matthews_corrcoef": _matthews,
    "positive_likelihood_ratio": _positive_likelihood,
    "neg_negative_likelihood_ratio": _negative_likelihood,
}


def _averaged_loss(name: str, label: Floats, p: Floats, days: Clusters) -> Floats:
    """A mean loss, negated; or the share of it that the base rate would lose and the model does not (D²)."""
    rows, rate = without_each(days.rows), _share(_sums(label, days), without_each(days.rows), np.nan)
    if name in {"neg_brier_score", "d2_brier_score"}:
        loss = _share(_sums((p - label) ** 2, days), rows, np.nan)
        null = rate * (1 - rate)
    else:
        clipped = np.clip(p, _CLIP, 1 - _CLIP)
        loss = _share(_sums(-np.where(label == 1, np.log(clipped), np.log1p(-clipped)), days), rows, np.nan)
        sure = np.clip(rate, _CLIP, 1 - _CLIP)
        null = -(rate * np.log(sure) + (1 - rate) * np.log1p(-sure))
    if name.startswith("neg_"):
        return -loss
    return 1 - _share(loss, np.where((rate > 0) & (rate < 1), null, 0.0), np.nan)


def _roc_auc(hits: Floats, misses: Floats) -> float:
    positives, negatives = hits[-1], misses[-1]
    if positives == 0 or negatives == 0:
        return float("nan")
    steps = np.diff(misses, prepend=0.0)
    before = np.concatenate([[0.0], hits[:-1]])
    return float((steps * (hits + before)).sum() / (2 * positives * negatives))


def _average_precision(hits: Floats, misses: Floats) -> float:
    positives = hits[-1]
    if positives == 0:
        return 0.0
    return float((np.diff(hits, prepend=0.0) * _share(hits, hits + misses)).sum() / positives)


_RANKED: Mapping[str, Callable[[Floats, Floats], float]] = {
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
}


def _ranked(score: Callable[[Floats, Floats], float], label: Floats, p: Floats, days: Clusters) -> Floats:
    """Scores of hits and misses above each distinct probability, from the highest down."""
    order = np.argsort(-p, kind="stable")
    ranked, truth, code = p[order], label[order], days.codes[order]
    ends = np.concatenate([np.flatnonzero(np.diff(ranked)), [ranked.size - 1]])

    def above(kept: npt.NDArray[Any] | None) -> tuple[Floats, Floats]:
        hit = truth if kept is None else truth * kept
        miss = 1 - truth if kept is None else (1 - truth) * kept
        return np.cumsum(hit)[ends], np.cumsum(miss)[ends]

    values = [score(*above(None))]
    values += [score(*above(code != day)) for day in range(days.rows.size)]
    return np.array(values)
