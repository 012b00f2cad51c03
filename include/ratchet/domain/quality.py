"""Whether new rows can be believed at all: what would make a retrain learn from garbage.

Drift asks whether the world has moved; this asks whether the data have broken. A *break* stops the monitor, for what
is measured on broken rows says nothing of the world: a feature is gone or has become another kind, or more than half of
its rows are missing, unseen or out of range where they were not before. A smaller loss is told and does not stop it.
Shares are told and never a value, which may be sensitive.
Breck, Polyzotis, Roy, Whang and Zinkevich (2019), *Data validation for machine learning*, MLSys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Rule = Literal["gone", "kind", "missing", "unseen", "range", "rows", "days"]

TOLD, BREAKS = 0.05, 0.5
"""Shares of rows, beyond what they were in the reference, from which on they are told, and above which they break."""
FEWEST = 0.5
"""Rows of a day, as a share of the reference's median day, below which the day is told."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was: ``share`` of rows (or of days, for the rules ``rows`` and ``days``)."""

    feature: str | None
    rule: Rule
    share: float
    breaks: bool
    said: str


def of_features(
    before: Mapping[str, npt.NDArray[Any]],
    after: Mapping[str, npt.NDArray[Any]],
    *,
    moving: Collection[str] = (),
) -> list[Finding]:
    """Compare features of the reference with those of the new rows, in the reference's order.

    A feature is (n,) float64, NaN for missing, or (n,) of objects, None for missing. Those that are ``moving`` with
    the seasons may leave the range they were seen in.
    """
    return [found for name in before for found in _of_feature(name, before[name], after.get(name), name in moving)]


def _of_feature(name: str, before: npt.NDArray[Any], after: npt.NDArray[Any] | None, moving: bool) -> list[Finding]:
    if after is None:
        return [Finding(name, "gone", 1.0, breaks=True, said="the feature is gone from the new rows")]
    if (before.dtype == object) != (after.dtype == object):
        was, now = ("categories" if side.dtype == object else "numbers" for side in (before, after))
        return [Finding(name, "kind", 1.0, breaks=True, said=f"the feature held {was} and holds {now}")]
    if not after.size:
        return []
    known_before, known_after = _known(before), _known(after)
    lost = float((~known_after).mean()) - float((~known_before).mean() if before.size else 0.0)
    found = [_judged(name, "missing", lost, f"{lost:.1%} more rows are missing than were")]
    seen, new = before[known_before], after[known_after]
    if seen.size and new.size:
        if before.dtype == object:
            strange = np.isin(new.astype(str), np.unique(seen.astype(str)), invert=True)
            share = float(strange.mean())
            found.append(_judged(name, "unseen", share, f"{share:.1%} of rows have a value that was never seen"))
        elif not moving:
            low, high = float(seen.min()), float(seen.max())
            share = float(((new < low) | (new > high)).mean())
            found.append(_judged(name, "range", share, f"{share:.1%} of rows lie outside the range that was seen"))
    return [finding for finding in found if finding is not None]


def _known(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if values.dtype == object:
        return np.array([value is not None for value in values], dtype=bool)
    return np.asarray(np.isfinite(values), dtype=bool)


def _judged(name: str, rule: Rule, share: float, said: str) -> Finding | None:
    return Finding(name, rule, share, breaks=share > BREAKS, said=said) if share > TOLD else None


def of_days(before: Mapping[str, int], after: Mapping[str, int], days: Sequence[str]) -> list[Finding]:
    """Whether the new ``days`` (ISO dates) have rows as the reference's had, both by day; no row at all breaks."""
    counts = [after.get(day, 0) for day in days]
    if not sum(counts):
        return [Finding(None, "rows", 1.0, breaks=True, said=f"none of the {len(days)} days has a row")]
    usual = float(np.median(list(before.values()))) if before else 0.0
    few = [day for day, count in zip(days, counts, strict=True) if count < FEWEST * usual]
    if not few:
        return []
    said = f"{len(few)} of {len(days)} days have less than half the rows of the usual {usual:g}, the first {few[0]}"
    return [Finding(None, "days", len(few) / len(days), breaks=False, said=said)]
