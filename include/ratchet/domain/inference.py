"""Inference on a ratio of totals, robust to rows that move together and to clusters that follow each other.

The estimand is ``sum of values / number of rows``. Its variance is that of the linearised ratio, by cluster:

- *ordered* clusters (days): equally weighted cosines (EWC) of the cluster residuals with Student's t quantiles.
  Lazarus, Lewis, Stock and Watson (2018), *HAR Inference: Recommendations for Practice*, J. Business & Economic
  Statistics 36(4). The number of cosines is measured rather than taken from their rule, see `cosine_terms`.
- *unordered* clusters: the jackknife (CR3) with Satterthwaite degrees of freedom. Bell and McCaffrey (2002), Survey
  Methodology 28(2); Hansen (2025), *Jackknife standard errors for clustered regression*.

What is not a ratio enters through its jackknife pseudo-values by cluster, see `jackknife_totals`.

The measured levels and powers are in ``docs/decisions/0003-gate-interval.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

WORKING_CORRELATION = 0.125
"""Lag-one correlation of days in the working model that removes the smoothing bias of the cosines."""

_WORKING_LAGS = 7  # 0.125 ** 8 < 1e-7
_COSINES_PER_CLUSTER = 0.28
_MOST_COSINES = 64
_MOST_CELLS = 4_000_000
_MOST_KEPT = 1_000


@dataclass(frozen=True)
class RatioInference:
    """``estimate`` = total / rows, its standard error, and the degrees of freedom of its Student's t."""

    estimate: float
    std_error: float
    dof: float


@dataclass(frozen=True)
class Clusters:
    """Rows grouped by label: ``codes`` (n_rows,) index ``labels`` (n_clusters,), which are sorted and all in use."""

    codes: npt.NDArray[np.intp]
    labels: list[Any]
    rows: Floats


def group(labels: npt.ArrayLike | Sequence[Any]) -> Clusters:
    """Factorise integers, dates, datetime64 or strings, sorted, without sorting the rows where that can be helped.

    Raises ``ValueError`` when a label is missing (None, NaN, NaT) or the labels are not one-dimensional.
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(f"clusters must be one-dimensional, but got shape {values.shape}. Give one label per row.")
    if values.size == 0:
        return Clusters(np.zeros(0, dtype=np.intp), [], np.zeros(0))
    if values.dtype.kind == "b":
        values = values.astype(np.int8)
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            raise ValueError(_MISSING)
        dense = _dense(values.view(np.int64))
        return _named(dense[0], [str(day) for day in dense[1].view(values.dtype)])
    if values.dtype.kind in "iu":
        codes, distinct = _dense(values.astype(np.int64, copy=False))
        return _named(codes, [int(v) for v in distinct])
    if values.dtype.kind == "U":
        return _group_strings(values)
    if values.dtype.kind == "f":
        if np.isnan(values).any():
            raise ValueError(_MISSING)
        distinct_floats, inverse = np.unique(values, return_inverse=True)
        return _named(inverse, distinct_floats.tolist())
    return _group_objects(values.astype(object, copy=False))


_MISSING = "clusters must have a label on every row, but got a missing one. Drop rows whose day is unknown."


def _named(codes: npt.NDArray[np.intp], labels: list[Any]) -> Clusters:
    return Clusters(codes, labels, np.bincount(codes, minlength=len(labels)).astype(np.float64))


def _dense(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    low, high = int(values.min()), int(values.max())
    if high - low > max(1_000_000, 4 * values.size):
        distinct, inverse = np.unique(values, return_inverse=True)
        return inverse, distinct
    shifted = values - low
    used = np.flatnonzero(np.bincount(shifted))
    place = np.zeros(high - low + 1, dtype=np.intp)
    place[used] = np.arange(used.size)
    return place[shifted], used + low


def _group_strings(values: npt.NDArray[np.str_]) -> Clusters:
    # Each character is a digit of a mixed radix number: exact, in lexicographic order, and for ISO days small enough
    # to count instead of sort.
    width = values.dtype.itemsize // 4
    points = np.ascontiguousarray(values).view(np.uint32).reshape(values.size, width) if width else None
    if points is None:
        return _named(np.zeros(values.size, dtype=np.intp), [""])
    key = np.zeros(values.size, dtype=np.int64)
    size = 1
    for column in range(width):
        digit = points[:, column]
        low, high = int(digit.min()), int(digit.max())
        if low == high:
            continue
        size *= high - low + 1
        if size > 2**62:
            distinct, inverse = np.unique(values, return_inverse=True)
            return _named(inverse, distinct.tolist())
        key *= high - low + 1
        key += digit.astype(np.int64) - low
    codes, distinct_keys = _dense(key)
    example = np.zeros(distinct_keys.size, dtype=np.intp)
    example[codes] = np.arange(values.size)
    return _named(codes, values[example].tolist())


def _group_objects(values: npt.NDArray[np.object_]) -> Clusters:
    rows = values.tolist()
    distinct = set(rows)
    if any(label is None or label != label for label in distinct):  # noqa: PLR0124 - NaN and NaT differ from themselves
        raise ValueError(_MISSING)
    try:
        ordered = sorted(distinct)
    except TypeError:
        ordered = sorted(distinct, key=str)
    place = {label: i for i, label in enumerate(ordered)}
    codes = np.fromiter(map(place.__getitem__, rows), dtype=np.intp, count=len(rows))
    plain = [label if isinstance(label, int | float | str) else str(label) for label in ordered]
    return _named(codes, plain)


def cosine_terms(n_clusters: int) -> int:
    """Number of cosines for ``n_clusters`` ordered clusters: the smaller of 0.28 G and G^(2/3), from 1 to 64.

    More cosines mean more degrees of freedom (power) and more smoothing bias when clusters are correlated (level).
    """
    rate = min(_COSINES_PER_CLUSTER * n_clusters, math.pow(n_clusters, 2 / 3))
    return max(1, min(round(rate), _MOST_COSINES))


def ratio_inference(totals: npt.ArrayLike, rows: npt.ArrayLike, *, ordered: bool) -> RatioInference:
    """Inference on ``sum(totals) / sum(rows)``.

    ``totals`` and ``rows`` are ``(n_clusters,)``: sum of values and number of rows (above 0) per cluster, in time order
    when ``ordered``. NaN passes through to the estimate. Raises ``ValueError`` below two clusters.
    """
    total, count = np.asarray(totals, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    n_clusters = total.size
    if n_clusters < 2:
        raise ValueError(f"an interval needs at least two clusters, but got {n_clusters}. Wait for more days.")
    all_rows = float(count.sum())
    estimate = float(total.sum()) / all_rows
    weight = count / all_rows
    residual = total / all_rows - weight * estimate
    variance, dof = (_ewc if ordered else _cr3)(residual, weight)
    return RatioInference(estimate, float(np.sqrt(variance)), dof)


def jackknife_totals(value: float, left_out: npt.ArrayLike, rows: npt.ArrayLike) -> Floats:
    """What each cluster contributes to a statistic: (n_clusters,) totals for `ratio_inference`, about ``value``.

    ``value`` is the statistic on all rows, ``left_out`` (n_clusters,) without each cluster, ``rows`` (n_clusters,)
    above 0. These are the pseudo-values of the delete-m(j) jackknife times the rows of their cluster, less its bias:
    for a mean they are the clusters' sums, and unordered they give the jackknife's variance. Busing, Meijer and van der
    Leeden (1999), *Delete-m jackknife for unequal m*, Statistics and Computing 9. The statistic must be smooth in the
    clusters' weights; NaN passes through.
    """
    count, without = np.asarray(rows, dtype=np.float64), np.asarray(left_out, dtype=np.float64)
    all_rows = float(count.sum())
    totals = all_rows * value - (all_rows - count) * without
    centred: Floats = totals - count * (totals.sum() / all_rows - value)
    return centred


@lru_cache(maxsize=64)
def _cosines(n_clusters: int, first: int, last: int) -> Floats:
    terms = np.arange(first + 1, last + 1)[:, None]
    middle = (np.arange(n_clusters) + 0.5)[None, :]
    table: Floats = np.sqrt(2.0) * np.cos(np.pi * terms * middle / n_clusters)
    table.setflags(write=False)
    return table


def _working_variance(columns: Floats) -> float:
    """Sum over the rows of ``columns`` of their variance when cluster means are AR(1) with unit variance."""
    total = float(np.einsum("ij,ij->", columns, columns))
    for lag in range(1, min(_WORKING_LAGS, columns.shape[1] - 1) + 1):
        pairs = float(np.einsum("ij,ij->", columns[:, lag:], columns[:, :-lag]))
        total += 2 * WORKING_CORRELATION**lag * pairs
    return total


def _ewc(residual: Floats, weight: Floats) -> tuple[float, float]:
    n_clusters, terms = residual.size, cosine_terms(residual.size)
    block = max(1, _MOST_CELLS // n_clusters)
    raw = expected = 0.0
    for first in range(0, terms, block):
        last = min(first + block, terms)
        cosines = (_cosines if n_clusters <= _MOST_KEPT else _cosines.__wrapped__)(n_clusters, first, last)
        raw += float(((cosines @ residual) ** 2).sum())
        # What the cosines of the residuals would be expected to sum to, were cluster means exchangeable but for a small
        # AR(1) correlation: its ratio to the true variance undoes the bias from uneven sizes and from smoothing.
        load = cosines * weight
        expected += _working_variance(load - load.sum(axis=1, keepdims=True) * weight)
    if expected <= 0:
        return 0.0, float(terms)
    return raw * _working_variance(weight[None, :]) / expected, float(terms)


def _cr3(residual: Floats, weight: Floats) -> tuple[float, float]:
    n_clusters = residual.size
    left_out = residual / (1 - weight)
    variance = float((left_out**2).sum()) * (n_clusters - 1) / n_clusters
    # Satterthwaite under independent rows: traces of K and of its square, K = D (diag(1/w) - 1 1') D, D = w / (1 - w).
    square = (weight / (1 - weight)) ** 2
    trace = float((square * (1 / weight - 1)).sum())
    trace_squared = float((square**2 * (1 / weight**2 - 2 / weight)).sum() + square.sum() ** 2)
    return variance, trace**2 / trace_squared
