"""Decisions under a capacity: of each batch of rows (a local day) at most so many are acted on.

Batches are whole clusters of the holdout, never the holdout as a whole: taking the best k of four weeks would let one
day's decisions depend on another day's rows, which no one can do who decides day by day.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]


def best_of_each(score: npt.NDArray[np.float64], batch: Codes, at_most: int) -> Bools:
    """The ``at_most`` highest scores of each batch, (n_rows,); of equal scores the row that comes first.

    ``batch`` is (n_rows,) from 0. Rows must be in their total order, so that ties fall the same way for everyone. A NaN
    score comes last.
    """
    order = np.lexsort((-score, batch))
    return _scattered(order, places(batch[order]) < at_most)


def evenly(batch: Codes, at_most: int) -> Bools:
    """``at_most`` rows of each batch, evenly spread over its rows in their order: a choice that knows nothing of them.

    Systematic sampling (Cochran 1977, *Sampling Techniques*, ch. 8): the same rows each time, and no more of one key
    than of another. A batch of fewer rows is taken whole.
    """
    order = np.argsort(batch, kind="stable")
    place = places(batch[order])
    size = np.bincount(batch)[batch[order]]
    taken = np.minimum(at_most, size)
    return _scattered(order, (place + 1) * taken // size > place * taken // size)


def places(ordered: Codes) -> Codes:
    """Each row's place within its batch, from 0, of (n_rows,) codes in the order of their batches."""
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    return np.arange(ordered.size) - np.repeat(starts, np.diff(starts, append=ordered.size))


def _scattered(order: Codes, chosen: Bools) -> Bools:
    back = np.empty(chosen.size, dtype=bool)
    back[order] = chosen
    return back
