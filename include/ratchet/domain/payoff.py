"""The value of one decision on one row, for binary decisions with a cost matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PayoffMatrix:
    """Value of each outcome of a binary decision, in ``unit`` per decision.

    ``tp``: acted on a positive row; ``fp``: acted on a negative one; ``fn``: let a positive one pass; ``tn``: let a
    negative one pass. All must be finite.
    """

    tp: float
    fp: float
    fn: float
    tn: float
    unit: str = "USD"

    def __post_init__(self) -> None:
        for name in ("tp", "fp", "fn", "tn"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ValueError(
                    f"business.payoff.{name} must be a finite number, but got {value!r}. Give the value of that "
                    f"outcome in {self.unit} per decision."
                )

    @classmethod
    def from_spec(cls, spec: Any) -> PayoffMatrix:
        """From any object with the attributes ``tp``, ``fp``, ``fn``, ``tn`` and ``unit``."""
        return cls(float(spec.tp), float(spec.fp), float(spec.fn), float(spec.tn), str(spec.unit))


def payoffs(matrix: PayoffMatrix, label: npt.ArrayLike, act: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The payoff of each decision: ``(n_rows,)`` float64 in ``matrix.unit``.

    ``label`` and ``act`` are ``(n_rows,)`` of 0/1 or bool. NaN in either makes that row's payoff NaN, which no gate
    promotes. Raises ``ValueError`` on unequal lengths and on any other value: a probability is not a decision.
    """
    truth, decided = np.asarray(label), np.asarray(act)
    if truth.ndim != 1 or truth.shape != decided.shape:
        raise ValueError(
            f"label and act must be one-dimensional and of one length, but got {truth.shape} and {decided.shape}. "
            "Score both on the same rows."
        )
    known = np.ones(truth.shape, dtype=bool)
    codes = []
    for name, values in (("label", truth), ("act", decided)):
        if values.dtype == bool:
            codes.append(values.astype(np.intp))
            continue
        numbers = values.astype(np.float64, copy=False)
        missing = np.isnan(numbers)
        binary = (numbers == 0) | (numbers == 1) | missing
        if not binary.all():
            got = numbers[~binary][0]
            raise ValueError(f"{name} must be 0, 1 or NaN, but got {got!r}. Apply the threshold first.")
        known &= ~missing
        codes.append(np.where(missing, 0, numbers).astype(np.intp))
    table = np.array([matrix.tn, matrix.fp, matrix.fn, matrix.tp], dtype=np.float64)
    value: npt.NDArray[np.float64] = table[2 * codes[0] + codes[1]]
    value[~known] = np.nan
    return value


def break_even(matrix: PayoffMatrix) -> float:
    """The calibrated probability from which on acting pays.

    Elkan (2001), *The foundations of cost-sensitive learning*, eq. 2. It may lie outside [0, 1]: then one constant
    decision is always right. Valid for calibrated probabilities only. Raises ``ValueError`` when acting gains nothing
    on positive rows over negative ones, so that no threshold on the score can be right.
    """
    loss_when_negative = matrix.tn - matrix.fp
    gain_when_positive = matrix.tp - matrix.fn
    if loss_when_negative + gain_when_positive <= 0:
        raise ValueError(
            f"business.payoff: acting must gain more on a positive row than on a negative one, but got tp - fn = "
            f"{gain_when_positive:g} and fp - tn = {-loss_when_negative:g}. Check the signs: costs are negative."
        )
    return loss_when_negative / (loss_when_negative + gain_when_positive)
