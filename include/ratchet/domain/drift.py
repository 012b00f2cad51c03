"""Whether new rows still look like the rows a model was trained on, with thresholds calibrated on its own days.

Rows of a day rise and fall together and weeks follow each other, so that a row-wise test calls drift in most halves of
one and the same stretch of data. Here the unit is a *block* of whole days (seven: a week holds each weekday once). Were
there no drift, it would be as likely as not that any other blocks were the new ones: what the distances come to when
the new blocks are drawn by lot from all of them is what chance gives, on this model's days. Permuting whole clusters is
exact at any number of them: Pitman (1937); Good (2005), *Permutation, Parametric and Bootstrap Tests of Hypotheses*,
ch. 3; Winkler et al. (2015), *Multi-level block permutation*, NeuroImage 123.

Per feature two distances between the new rows and the reference are looked at, one for shape and one for level:

- the *Jensen-Shannon distance* in base 2 (``scipy.spatial.distance.jensenshannon``) over twentieths of all known
  values, or over the categories; missing values are a bin of their own. It lies in [0, 1]. Lin (1991), *Divergence
  measures based on the Shannon entropy*, IEEE Trans. Information Theory 37(1).
- for numbers the *1-Wasserstein distance* of the known values, in standard deviations of the reference: that of
  ``scipy.stats.wasserstein_distance`` on at most 256 levels, here for all permutations in one product of matrices.

Each is measured against its own mean and standard deviation over the permutations, the larger of a feature's two is the
feature's, and the largest of all decides: the maximum statistic holds the level over the whole family, and the
step-down of Westfall and Young (1993), *Resampling-Based Multiple Testing*, algorithm 2.8, says which features moved.

*Severity* is the Jensen-Shannon distance corrected for chance, ``(d - d0) / (1 - d0)`` with ``d0`` its mean over the
permutations: 0 is what chance gives, 1 is nothing in common. It means the same for a number, a category, a share of
missing values and a score, and it is a size, not a doubt: a tiny shift that is certain is not severe. A shift of
one standard deviation of a normal feature without chance variation has about 0.4, of half of one 0.2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial.distance import jensenshannon

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

BLOCK_DAYS = 7
PERMUTATIONS = 999
BINS = 20
LEVELS = 256
_TIE = 1e-12


@dataclass(frozen=True)
class Profile:
    """One feature's rows by block: all that the distances need of them.

    ``counts``: (n_blocks, n_levels + 1) rows of each value or level of values; the last column counts the missing.
    ``bins``: (n_bins,) first level of each bin, ascending from 0; ``levels``: (n_levels,) mean value of each level,
    ascending, or None for categories, which have no order.
    """

    feature: str
    counts: Floats
    bins: Codes
    levels: Floats | None

    @property
    def binned(self) -> Floats:
        """(n_blocks, n_bins + 1): rows by bin, then the missing."""
        known: Floats = np.add.reduceat(self.counts[:, :-1], self.bins, axis=1)
        return np.concatenate([known, self.counts[:, -1:]], axis=1)


def blocks_of(days: npt.ArrayLike, *, last: str, block_days: int = BLOCK_DAYS) -> Codes:
    """How many blocks before the one that ends on day ``last``, inclusive, each row lies: (n,), 0 for the newest.

    ``days`` are ISO dates (n,); those after ``last`` are -1, of no block.
    """
    behind = (np.datetime64(last, "D") - np.asarray(days, dtype="datetime64[D]")).astype(np.intp)
    return np.where(behind < 0, -1, behind // block_days)


def of_numbers(feature: str, values: npt.ArrayLike, blocks: Codes, n_blocks: int) -> Profile:
    """Numbers (n,) by block (n,) in ``[0, n_blocks)``; NaN and infinities are missing.

    Levels are quantiles of all known values, of both sides together, so that they favour neither; equal values are
    never split.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = np.isfinite(numbers)
    distinct, rows = np.unique(numbers[known], return_counts=True)
    if not distinct.size:
        return _profile(feature, np.zeros(numbers.size, dtype=np.intp), blocks, n_blocks, 0, None)
    before = np.cumsum(rows) - rows
    level = np.unique(before * LEVELS // rows.sum(), return_inverse=True)[1]
    n_levels = int(level[-1]) + 1
    weights = np.bincount(level, weights=rows)
    means = np.bincount(level, weights=rows * distinct) / weights
    first = np.unique(np.floor((np.cumsum(weights) - weights) * BINS / weights.sum()), return_index=True)[1]
    codes = np.full(numbers.size, n_levels, dtype=np.intp)
    codes[known] = level[np.searchsorted(distinct, numbers[known])]
    return _profile(feature, codes, blocks, n_blocks, n_levels, means, first)


def of_categories(feature: str, values: Sequence[Any] | npt.NDArray[Any], blocks: Codes, n_blocks: int) -> Profile:
    """Categories (n,), any hashable values, by block (n,) in ``[0, n_blocks)``; None is missing."""
    known = sorted({value for value in values if value is not None}, key=str)
    place = {value: code for code, value in enumerate(known)} | {None: len(known)}
    codes = np.fromiter(map(place.__getitem__, values), dtype=np.intp, count=len(values))
    return _profile(feature, codes, blocks, n_blocks, len(known), None)


def _profile(
    feature: str, codes: Codes, blocks: Codes, n_blocks: int, n_levels: int, levels: Floats | None, bins: Any = None
) -> Profile:
    n_codes = n_levels + 1
    if n_levels == 0:
        codes, n_codes, n_levels = codes + 1, 2, 1  # nothing is known: one empty level, and all rows missing
    counts = np.bincount(blocks * n_codes + codes, minlength=n_blocks * n_codes).reshape(n_blocks, n_codes)
    first = np.arange(n_levels) if bins is None else bins
    return Profile(feature, counts.astype(np.float64), np.asarray(first, dtype=np.intp), levels)


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature moved.

    ``distance`` is Jensen-Shannon's in [0, 1], ``by_chance`` its mean over the permutations and ``threshold`` what it
    had to exceed for the family to alarm by it alone. ``shift`` is Wasserstein's, in standard deviations of the
    reference's known values, with its own ``shift_threshold``; None for categories, and where nothing is known or
    nothing varies. ``p_value`` is the feature's own, ``adjusted`` that of the family. ``missing_before`` and
    ``missing_after`` are shares of rows.
    """

    feature: str
    distance: float
    by_chance: float
    threshold: float
    shift: float | None
    shift_threshold: float | None
    p_value: float
    adjusted: float
    severity: float
    missing_before: float
    missing_after: float
    drifted: bool


@dataclass(frozen=True)
class Drift:
    """What a family of features came to: the smallest adjusted p-value decides, ``features`` come worst first."""

    level: float
    p_value: float
    reference_blocks: int
    new_blocks: int
    permutations: int
    features: tuple[FeatureDrift, ...]

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """The features that moved, the most severe first."""
        return tuple(sorted((f for f in self.features if f.drifted), key=lambda f: (-f.severity, f.feature)))

    @property
    def severity(self) -> float:
        """That of the worst feature that moved, in [0, 1]; 0 when none did."""
        return max((f.severity for f in self.features if f.drifted), default=0.0)


def arrangements(is_new: npt.ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0) -> sparse.csr_array:
    """Which blocks count as new, (n_permutations + 1, n_blocks) of 0 and 1; the first row is what really happened.

    All ways there are when these are no more than ``permutations``, else a random sample of them. Sparse: the new
    blocks are few, and a product with it starts no threads.
    """
    really = np.asarray(is_new, dtype=bool)
    n_blocks, n_new = really.size, int(really.sum())
    if math.comb(n_blocks, n_new) <= permutations + 1:
        chosen = [set(c) for c in itertools.combinations(range(n_blocks), n_new)]
        rows = [[float(i in c) for i in range(n_blocks)] for c in chosen if c != set(np.flatnonzero(really).tolist())]
        return sparse.csr_array(np.asarray([really.astype(float).tolist(), *rows], dtype=np.float64))
    lots = np.random.default_rng(seed).random((permutations, n_blocks))
    drawn = np.argpartition(lots, n_new - 1, axis=1)[:, :n_new]
    table = np.zeros((permutations + 1, n_blocks))
    table[0] = really
    table[np.arange(1, permutations + 1)[:, None], drawn] = 1.0
    return sparse.csr_array(table)


def least_p_value(reference_blocks: int, new_blocks: int, permutations: int = PERMUTATIONS) -> float:
    """The smallest p-value there can be: an alarm at a smaller level is impossible."""
    return 1.0 / min(math.comb(reference_blocks + new_blocks, new_blocks), permutations + 1)


def distances(profile: Profile, new: sparse.csr_array) -> tuple[Floats, Floats | None]:
    """Jensen-Shannon's and Wasserstein's distance under each arrangement ``new``: (n_arrangements,) each.

    Where one side has no rows, or no known values for Wasserstein's, there is no distance: 0. The latter is in the
    feature's own unit, and None for categories.
    """
    after = new @ profile.binned
    before = profile.binned.sum(axis=0) - after
    # Where a side has no rows scipy's distance is NaN: 0 / 0.
    with np.errstate(invalid="ignore"):
        shape: Floats = np.nan_to_num(jensenshannon(after, before, base=2, axis=1), copy=False)
    if profile.levels is None:
        return shape, None
    up_to = np.cumsum(profile.counts[:, :-1], axis=1)
    rows_after = new @ up_to[:, -1]
    rows_before = up_to[:, -1].sum() - rows_after
    some = (rows_after > 0) & (rows_before > 0)
    weight_after, weight_before = (
        np.where(some, 1.0 / np.maximum(rows, 1.0), 0.0) for rows in (rows_after, rows_before)
    )
    # Both shares of rows up to each level, one less the other, in place: these are the largest arrays here.
    apart = new @ up_to[:, :-1]
    apart *= (weight_after + weight_before)[:, None]
    apart -= weight_before[:, None] * up_to[:, :-1].sum(axis=0)
    return shape, np.einsum("ij,j->i", np.abs(apart, out=apart), np.diff(profile.levels))


def compare(
    profiles: Sequence[Profile],
    is_new: npt.ArrayLike,
    *,
    level: float = 0.05,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Drift:
    """Compare the blocks that ``is_new`` (n_blocks,) with the others, over all features at once.

    The chance that any feature is called drifted when none is, is at most ``level``. The same input and ``seed`` give
    the same answer. A feature that never varies has not moved: p-value 1.

    Raises:
        ValueError: no feature, no block on one side, or so few blocks that no alarm is possible at this level.
    """
    really = np.asarray(is_new, dtype=bool)
    n_new, n_reference = int(really.sum()), int((~really).sum())
    if not profiles or not n_new or not n_reference:
        raise ValueError(
            f"drift needs features and blocks of days on both sides, but got {len(profiles)} features, {n_reference} "
            f"blocks of the reference and {n_new} new ones."
        )
    if least_p_value(n_reference, n_new, permutations) > level:
        raise ValueError(
            f"{n_reference} blocks of the reference and {n_new} new ones can be arranged in "
            f"{math.comb(n_reference + n_new, n_new)} ways: too few for an alarm at level {level:g}. Look at a longer "
            "window, or at shorter blocks."
        )
    new = arrangements(really, permutations, seed)
    measured = [distances(profile, new) for profile in profiles]
    scores = np.stack([score(*pair) for pair in measured])
    own, adjusted = p_values(scores)
    bar = float(np.quantile(scores.max(axis=0), 1 - level, method="higher"))
    found = [
        _told(profile, pair, really, p=float(own[i]), adjusted=float(adjusted[i]), bar=bar, level=level)
        for i, (profile, pair) in enumerate(zip(profiles, measured, strict=True))
    ]
    order = np.argsort(-scores[:, 0], kind="stable")
    return Drift(
        level=level,
        p_value=float(adjusted.min()),
        reference_blocks=n_reference,
        new_blocks=n_new,
        permutations=new.shape[0] - 1,
        features=tuple(found[i] for i in order),
    )


def score(shape: Floats, moved: Floats | None) -> Floats:
    """A feature's statistic under each arrangement: the larger of its distances, in standard deviations of chance.

    From :func:`distances`, (n_arrangements,) each; a distance that never varies scores 0.
    """
    scores = [_standardised(distance) for distance in (shape, moved) if distance is not None]
    largest: Floats = np.max(scores, axis=0)
    return largest


def _standardised(distance: Floats) -> Floats:
    spread = float(distance.std())
    if spread <= _TIE * max(1.0, float(np.abs(distance).max())):
        return np.zeros(distance.size)
    standardised: Floats = (distance - distance.mean()) / spread
    return standardised


def p_values(scores: Floats) -> tuple[Floats, Floats]:
    """Each feature's own p-values and those of the family, (n_features,) each, from (n_features, n_arrangements).

    Its own is the share of arrangements at least as far out as the first. The family's is the step-down's: against the
    maximum of itself and all that moved less, and never below that of one that moved more.
    """
    own: Floats = (scores >= scores[:, :1] - _TIE).mean(axis=1)
    order = np.argsort(scores[:, 0], kind="stable")
    highest = np.maximum.accumulate(scores[order], axis=0)
    stepped = (highest >= scores[order, :1] - _TIE).mean(axis=1)[::-1]
    adjusted = np.empty(stepped.size)
    adjusted[order[::-1]] = np.maximum.accumulate(stepped)
    return own, adjusted


def _told(
    profile: Profile,
    pair: tuple[Floats, Floats | None],
    really: npt.NDArray[np.bool_],
    *,
    p: float,
    adjusted: float,
    bar: float,
    level: float,
) -> FeatureDrift:
    shape, moved = pair
    by_chance, distance = float(shape.mean()), float(shape[0])
    scale = _spread(profile, ~really)
    missing = [
        float(profile.counts[side, -1].sum() / max(profile.counts[side].sum(), 1.0)) for side in (~really, really)
    ]
    return FeatureDrift(
        feature=profile.feature,
        distance=distance,
        by_chance=by_chance,
        threshold=min(1.0, by_chance + bar * float(shape.std())),
        shift=float(moved[0]) / scale if moved is not None and scale else None,
        shift_threshold=float(moved.mean() + bar * moved.std()) / scale if moved is not None and scale else None,
        p_value=p,
        adjusted=adjusted,
        severity=min(1.0, max(0.0, (distance - by_chance) / (1.0 - by_chance))) if by_chance < 1 else 0.0,
        missing_before=missing[0],
        missing_after=missing[1],
        drifted=adjusted <= level,
    )


def _spread(profile: Profile, side: npt.NDArray[np.bool_]) -> float | None:
    """Standard deviation of the known values of these blocks; None where there are none, or where they never vary."""
    if profile.levels is None:
        return None
    rows = profile.counts[side, :-1].sum(axis=0)
    if not rows.sum():
        return None
    mean = float(rows @ profile.levels / rows.sum())
    variance = float(rows @ (profile.levels - mean) ** 2 / rows.sum())
    return math.sqrt(variance) or None
