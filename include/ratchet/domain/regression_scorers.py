"""scikit-learn's scorers of predicted numbers, with what each is when one cluster of rows is left out.

As :mod:`ratchet.domain.scorers` does for decisions: from sums by cluster, all clusters left out at once. That each
value is scikit-learn's is tested against it. Rows have weight one; "greater is better" holds for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import special

from ratchet.domain.inference import Clusters, Floats
from ratchet.domain.scorers import without_each

_TINY = float(np.finfo(np.float64).eps)
"""Percentages are of at least so much, as scikit-learn's are."""
_ROUNDING = 1e-12
"""A spread below this share of the rows' squares is what rounding left of none."""


def leave_one_out(name: str, label: Floats, prediction: npt.ArrayLike, days: Clusters) -> tuple[float, Floats]:
    """The scorer ``name`` on all rows, and (n_clusters,) without each cluster in turn.

    ``label`` and ``prediction`` are (n_rows,) in the target's unit. NaN where the scorer is not defined (a deviance or
    a logarithm of numbers outside its range, for instance) and when either is not finite.
    """
    p = np.asarray(prediction, dtype=np.float64)
    y = np.asarray(label, dtype=np.float64)
    undefined = float("nan"), np.full(days.rows.size, np.nan)
    if not (np.isfinite(p).all() and np.isfinite(y).all()) or not _DEFINED.get(name, _always)(y, p):
        return undefined
    if name in _LOSSES:
        values = -_mean(_LOSSES[name](y, p), days)
        if name.startswith("neg_root_"):
            values = -np.sqrt(-values)
    else:
        values = _SHARES[name](y, p, days)
    return float(values[0]), values[1:]


def _sums(values: Floats, days: Clusters) -> Floats:
    by_cluster = np.bincount(days.codes, weights=values, minlength=days.rows.size)
    return without_each(by_cluster.astype(np.float64, copy=False))


def _mean(values: Floats, days: Clusters) -> Floats:
    rows = without_each(days.rows)
    mean: Floats = np.divide(_sums(values, days), rows, out=np.full(rows.shape, np.nan), where=rows > 0)
    return mean


def _squared(y: Floats, p: Floats) -> Floats:
    loss: Floats = (y - p) ** 2
    return loss


def _squared_log(y: Floats, p: Floats) -> Floats:
    loss: Floats = (np.log1p(y) - np.log1p(p)) ** 2
    return loss


def _percentage(y: Floats, p: Floats) -> Floats:
    loss: Floats = np.abs(y - p) / np.maximum(np.abs(y), _TINY)
    return loss


def _poisson(y: Floats, p: Floats) -> Floats:
    loss: Floats = 2 * (special.xlogy(y, y / p) - y + p)
    return loss


def _gamma(y: Floats, p: Floats) -> Floats:
    loss: Floats = 2 * (np.log(p / y) + y / p - 1)
    return loss


_LOSSES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "neg_mean_absolute_error": lambda y, p: np.abs(y - p),
    "neg_mean_absolute_percentage_error": _percentage,
    "neg_mean_gamma_deviance": _gamma,
    "neg_mean_poisson_deviance": _poisson,
    "neg_mean_squared_error": _squared,
    "neg_mean_squared_log_error": _squared_log,
    "neg_root_mean_squared_error": _squared,
    "neg_root_mean_squared_log_error": _squared_log,
}


def _always(y: Floats, p: Floats) -> bool:  # noqa: ARG001 - one signature for all
    return True


def _above_minus_one(y: Floats, p: Floats) -> bool:
    return bool((y > -1).all() and (p > -1).all())


_DEFINED: Mapping[str, Callable[[Floats, Floats], bool]] = {
    "neg_mean_gamma_deviance": lambda y, p: bool((y > 0).all() and (p > 0).all()),
    "neg_mean_poisson_deviance": lambda y, p: bool((y >= 0).all() and (p > 0).all()),
    "neg_mean_squared_log_error": _above_minus_one,
    "neg_root_mean_squared_log_error": _above_minus_one,
}


def _explained(lost: Floats, spread: Floats) -> Floats:
    """What of the spread is not lost; as scikit-learn says it, all or nothing where there is no spread."""
    share = np.divide(lost, spread, out=(lost > 0).astype(np.float64), where=spread > 0)
    return 1 - share


def _spread(values: Floats, days: Clusters) -> Floats:
    """The sum of squares about the mean, of all rows and without each cluster."""
    centred = values - values.mean()
    squares = _sums(centred**2, days)
    rows = without_each(days.rows)
    about_mean = squares - np.divide(_sums(centred, days) ** 2, rows, out=np.zeros(rows.shape), where=rows > 0)
    return np.where(about_mean > _ROUNDING * np.abs(_sums(values**2, days)), about_mean, 0.0)


def _r2(y: Floats, p: Floats, days: Clusters) -> Floats:
    return _explained(_sums((y - p) ** 2, days), _spread(y, days))


def _explained_variance(y: Floats, p: Floats, days: Clusters) -> Floats:
    return _explained(_spread(y - p, days), _spread(y, days))


def _d2_absolute(y: Floats, p: Floats, days: Clusters) -> Floats:
    spread = [np.abs(y - np.median(y)).sum()]
    for day in range(days.rows.size):
        kept = y[days.codes != day]
        spread.append(np.abs(kept - np.median(kept)).sum() if kept.size else 0.0)
    return _explained(_sums(np.abs(y - p), days), np.array(spread))


_SHARES: Mapping[str, Callable[[Floats, Floats, Clusters], Floats]] = {
    "d2_absolute_error_score": _d2_absolute,
    "explained_variance": _explained_variance,
    "r2": _r2,
}
