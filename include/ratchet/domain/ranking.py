"""How well each day's best are ranked: precision and NDCG of the rows that are acted on, averaged over days.

A day is what information retrieval calls a query. The gain of a row is its label, and rank ``i`` (from 1) counts
``1 / log2(i + 1)``; NDCG is what the rows acted on gain, by that discount, over what the best order of the day would
have gained (Järvelin and Kekäläinen 2002, *Cumulated gain-based evaluation of IR techniques*, ACM TOIS 20). The cut is
the number of rows that were acted on: the capacity, or all rows of a day that has fewer. Of equal scores the row that
comes first ranks higher, as it does in the decision. That the values are scikit-learn's, day by day, is tested.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ratchet.domain.capacity import places
from ratchet.domain.inference import Clusters, Floats


def by_day(name: str, label: npt.ArrayLike, score: npt.ArrayLike, act: npt.ArrayLike, days: Clusters) -> Floats:
    """The metric of each day, (n_days,) in [0, 1]; a day without positives, or without a row acted on, has 0.

    Args:
        name: ``precision_at_k`` or ``ndcg_at_k``.
        label: (n_rows,) in {0, 1}.
        score: (n_rows,), compared within a day only.
        act: (n_rows,) bool: each day's best by score.
        days: which day each row belongs to.

    NaN or infinity in a label or a score is NaN on every day.

    """
    truth, ranked = np.asarray(label, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if not (np.isfinite(truth).all() and np.isfinite(ranked).all()):
        return np.full(days.rows.size, np.nan)
    acted = _sums(np.asarray(act, dtype=np.float64), days.codes, days)
    if name == "precision_at_k":
        return _share(_sums(truth * np.asarray(act), days.codes, days), acted)
    order = np.lexsort((-ranked, days.codes))
    code = days.codes[order]
    place = places(code)
    discount = np.where(place < acted[code], 1.0 / np.log2(place + 2.0), 0.0)
    positive = _sums(truth, days.codes, days)
    best = np.where(place < positive[code], discount, 0.0)
    return _share(_sums(truth[order] * discount, code, days), _sums(best, code, days))


def leave_one_out(
    name: str, label: npt.ArrayLike, score: npt.ArrayLike, act: npt.ArrayLike, days: Clusters
) -> tuple[float, Floats]:
    """The mean of :func:`by_day` over all days, and (n_days,) without each day in turn; NaN without any other day."""
    values = by_day(name, label, score, act, days)
    others = values.size - 1
    without = (values.sum() - values) / others if others else np.full(values.size, np.nan)
    return float(values.mean()), without


def _sums(values: Floats, code: npt.NDArray[np.intp], days: Clusters) -> Floats:
    return np.bincount(code, weights=values, minlength=days.rows.size).astype(np.float64, copy=False)


def _share(part: Floats, whole: Floats) -> Floats:
    share: Floats = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return share
