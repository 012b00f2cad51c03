"""What changed in the data: how the rows that judge differ from the rows that trained, feature by feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

BINS = 10
LARGE, MODERATE = 0.25, 0.1

Size = Literal["small", "moderate", "large", "unknown"]


@dataclass(frozen=True)
class Shift:
    """One feature's change; the shares are of missing values among all rows, in [0, 1].

    The index is None where one side has no known value.
    """

    feature: str
    stability_index: float | None
    size: Size
    missing_before: float
    missing_after: float


def of_numbers(feature: str, before: npt.ArrayLike, after: npt.ArrayLike) -> Shift:
    """Compare a number on training rows, ``before`` (n,), with the same on judged rows, ``after`` (m,); NaN is missing.

    The bins are tenths of the known training values; equal values are never split, so there may be fewer.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    known_old, known_new = old[np.isfinite(old)], new[np.isfinite(new)]
    counts: tuple[npt.ArrayLike, npt.ArrayLike] = ((), ())
    if known_old.size:
        edges = np.unique(np.quantile(known_old, np.arange(1, BINS) / BINS, method="lower"))
        codes = (np.searchsorted(edges, values, side="left") for values in (known_old, known_new))
        counts = tuple(np.bincount(c, minlength=edges.size + 1) for c in codes)  # type: ignore[assignment]
    return _shift(feature, *counts, (old.size - known_old.size, old.size), (new.size - known_new.size, new.size))


def of_categories(feature: str, before: Mapping[str | None, int], after: Mapping[str | None, int]) -> Shift:
    """Compare rows per value on training rows with those on judged rows; None is missing."""
    values = sorted({value for value in (*before, *after) if value is not None})
    old, new = ([side.get(value, 0) for value in values] for side in (before, after))
    missing_old, missing_new = ((side.get(None, 0), sum(side.values())) for side in (before, after))
    return _shift(feature, old, new, missing_old, missing_new)


def _shift(
    feature: str,
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    missing_before: tuple[int, int],
    missing_after: tuple[int, int],
) -> Shift:
    index = stability_index(before, after) if np.sum(before) and np.sum(after) else None
    shares = (missing / rows if rows else 1.0 for missing, rows in (missing_before, missing_after))
    return Shift(feature, index, _size(index), *shares)


def stability_index(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """The population stability index of two (n_bins,) counts: sum of ``(q - p) * ln(q / p)`` over the bins.

    Below 0.1 a change is usually called small, above 0.25 large (Siddiqi 2006, *Credit Risk Scorecards*); it is the
    symmetrised Kullback-Leibler divergence, and its distribution is in Yurdakul and Naranjo (2020), *Statistical
    properties of the population stability index*, J. Risk Model Validation 14(4). An empty bin counts as half a row.
    """
    p, q = (np.maximum(np.asarray(counts, dtype=np.float64), 0.5) for counts in (before, after))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _size(index: float | None) -> Size:
    if index is None:
        return "unknown"
    return "large" if index > LARGE else "moderate" if index > MODERATE else "small"
