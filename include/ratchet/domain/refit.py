"""How the refit of a judged model answers on the rows that judged it, and whether it may take the judged one's place.

Those rows taught the refit, so the comparison is in sample: it tells how far the answers moved, never how good they
are, and nothing is decided on it but that the refit is a model at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """What one model said on the rows: ``probability`` (n_rows,) calibrated, and ``act`` (n_rows,).

    Of a regression both are its predictions: each one that differs is a decision that differs.
    """

    probability: Floats
    act: Bools | Floats


@dataclass(frozen=True)
class Moved:
    """How far the refit's answers lie from the judged model's, on ``rows`` that the refit was fitted on.

    ``largest`` and ``mean`` are of the absolute differences of probability, None where no row has both; ``flipped``
    counts the rows on which the two decide differently.
    """

    rows: int
    largest: float | None
    mean: float | None
    flipped: int
    in_sample: bool = True


def moved(judged: Answers, refit: Answers) -> Moved:
    """The distance between two models' answers; rows on which either probability is not a number have no distance."""
    gaps = np.abs(refit.probability - judged.probability)
    known = gaps[np.isfinite(gaps)]
    return Moved(
        rows=int(gaps.size),
        largest=float(known.max()) if known.size else None,
        mean=float(known.mean()) if known.size else None,
        flipped=int((refit.act != judged.act).sum()),
    )


def unfit(judged: Answers, refit: Answers) -> str | None:
    """Why the refit is not to serve; None when it may.

    It may not with a probability that is not a finite number, nor when it has one probability or one decision for all
    rows where the judged model has more. What the judged model does itself has passed the gate and is no reproach.
    """
    rows = int(refit.probability.size)
    if not rows:
        return "there is no row to look at it on"
    if broken := int((~np.isfinite(refit.probability)).sum()):
        return f"{broken:,} of its {rows:,} probabilities are not finite numbers"
    if _constant(refit.probability) and not _constant(judged.probability):
        return f"it gives all {rows:,} rows the probability {refit.probability[0]:.4g}, the judged model does not"
    if _constant(refit.act) and not _constant(judged.act):
        acts = "every row" if refit.act[0] else "no row"
        return f"it acts on {acts}, the judged model on {int(judged.act.sum()):,} of {rows:,}"
    return None


def _constant(values: npt.NDArray[Any]) -> bool:
    return bool((values == values[0]).all())
