"""The value of one decision on one row, for binary decisions.

Whatever a spec writes (numbers, formulas over a row's columns, a hook), it comes down to two vectors over the same
rows: what each row is worth when acted on, and when passed over (:class:`Worth`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ratchet.domain.expression import Expression

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, npt.ArrayLike]
Value = float | Expression

CELLS = ("tp", "fp", "fn", "tn")


class Valued(Protocol):
    """What decisions on the same (n_rows,) rows are worth, whatever a decision is."""

    def of(self, decision: npt.ArrayLike) -> Floats:
        """The payoff of each decision, (n_rows,)."""
        ...

    def between(self, start: int, end: int) -> Valued:
        """That of the rows ``[start, end)``."""
        ...


@dataclass(frozen=True)
class PayoffMatrix:
    """Value of each outcome of a binary decision, in ``unit`` per decision: a number, or a formula over the row.

    ``tp``: acted on a positive row; ``fp``: acted on a negative one; ``fn``: let a positive one pass; ``tn``: let a
    negative one pass. Numbers must be finite.
    """

    tp: Value
    fp: Value
    fn: Value
    tn: Value
    unit: str = "USD"

    def __post_init__(self) -> None:
        for name in CELLS:
            value = getattr(self, name)
            if not isinstance(value, Expression) and not math.isfinite(value):
                raise ValueError(
                    f"business.payoff.{name} must be a finite number, but got {value!r}. Give the value of that "
                    f"outcome in {self.unit} per decision."
                )

    @classmethod
    def from_spec(cls, spec: Any) -> PayoffMatrix:
        """From any object with the attributes ``tp``, ``fp``, ``fn``, ``tn`` (text is a formula) and ``unit``."""
        tp, fp, fn, tn = (
            Expression(value) if isinstance(value, str) else float(value)
            for value in (getattr(spec, name) for name in CELLS)
        )
        return cls(tp, fp, fn, tn, str(spec.unit))

    @property
    def by_row(self) -> bool:
        """Whether any outcome is worth something else on another row."""
        return any(isinstance(getattr(self, name), Expression) for name in CELLS)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns its formulas read, each once."""
        formulas = (getattr(self, name) for name in CELLS)
        return tuple(dict.fromkeys(c for f in formulas if isinstance(f, Expression) for c in f.columns))

    def cells(self, columns: Columns, n_rows: int) -> tuple[Floats, Floats, Floats, Floats]:
        """``tp``, ``fp``, ``fn`` and ``tn`` of each row, (n_rows,) each; NaN in one of a row is NaN in all four.

        ``columns`` holds (n_rows,) numbers for each of :attr:`columns`. Raises ``KeyError`` when one is absent.
        """
        values = [getattr(self, name) for name in CELLS]
        table = np.stack(
            [v(columns, n_rows) if isinstance(v, Expression) else np.full(n_rows, float(v)) for v in values]
        )
        table[:, np.isnan(table).any(axis=0)] = np.nan
        return table[0], table[1], table[2], table[3]


@dataclass(frozen=True)
class Worth:
    """What each row is worth when acted on and when passed over: (n_rows,) payoff units each; NaN where unknown."""

    acted: Floats
    passed: Floats

    @property
    def gain(self) -> Floats:
        """What acting adds on each row, (n_rows,); NaN where either is unknown."""
        return self.acted - self.passed

    def between(self, start: int, end: int) -> Worth:
        """That of the rows ``[start, end)``."""
        return Worth(self.acted[start:end], self.passed[start:end])

    def limited(self, among: npt.NDArray[np.bool_]) -> Worth:
        """That of rows of which only those ``among``, (n_rows,) bool, can be acted on."""
        return Worth(np.where(among, self.acted, self.passed), self.passed)

    def of(self, decision: npt.ArrayLike) -> Floats:
        """The payoff of each decision to act, (n_rows,) bool or 0/1; NaN in it is NaN in the payoff.

        Raises ``ValueError`` on unequal lengths and on any other value: a probability is not a decision.
        """
        acting, known = _binary("act", decision)
        if acting.shape != self.acted.shape:
            raise ValueError(
                f"label and act must be one-dimensional and of one length, but got {self.acted.shape} and "
                f"{acting.shape}. Score both on the same rows."
            )
        return np.where(known, np.where(acting, self.acted, self.passed), np.nan)


def worth(matrix: PayoffMatrix, label: npt.ArrayLike, columns: Columns | None = None) -> Worth:
    """What acting on each row, and passing it over, is worth by its label.

    ``label`` is (n_rows,) bool or 0/1; NaN makes the row's worth NaN, and so does a formula without a finite value on
    the row. ``columns`` holds (n_rows,) numbers for ``matrix.columns``. Raises ``ValueError`` on any other label.
    """
    positive, known = _binary("label", label)
    tp, fp, fn, tn = matrix.cells(columns or {}, positive.size)
    return Worth(
        acted=np.where(known, np.where(positive, tp, fp), np.nan),
        passed=np.where(known, np.where(positive, fn, tn), np.nan),
    )


def payoffs(
    matrix: PayoffMatrix, label: npt.ArrayLike, act: npt.ArrayLike, columns: Columns | None = None
) -> npt.NDArray[np.float64]:
    """The payoff of each decision: ``(n_rows,)`` float64 in ``matrix.unit``.

    ``label`` and ``act`` are ``(n_rows,)`` of 0/1 or bool. NaN in either makes that row's payoff NaN, which no gate
    promotes; so does a formula without a finite value. Raises ``ValueError`` on unequal lengths and on any other value:
    a probability is not a decision.
    """
    return worth(matrix, label, columns).of(act)


def break_even(matrix: PayoffMatrix) -> float:
    """The calibrated probability from which on acting pays, where every row is worth the same.

    Elkan (2001), *The foundations of cost-sensitive learning*, eq. 2. It may lie outside [0, 1]: then one constant
    decision is always right. Valid for calibrated probabilities only. Raises ``ValueError`` when acting gains nothing
    on positive rows over negative ones, so that no threshold on the score can be right, and when an outcome is a
    formula: then each row has its own (:func:`expected_gain`).
    """
    tp, fp, fn, tn = (getattr(matrix, name) for name in CELLS)
    if matrix.by_row:
        raise ValueError("business.payoff: with formulas every row has a break-even of its own; use expected_gain.")
    loss_when_negative = tn - fp
    gain_when_positive = tp - fn
    if loss_when_negative + gain_when_positive <= 0:
        raise ValueError(
            f"business.payoff: acting must gain more on a positive row than on a negative one, but got tp - fn = "
            f"{gain_when_positive:g} and fp - tn = {-loss_when_negative:g}. Check the signs: costs are negative."
        )
    return float(loss_when_negative / (loss_when_negative + gain_when_positive))


def expected_gain(matrix: PayoffMatrix, probability: Floats, columns: Columns | None = None) -> Floats:
    """What acting is expected to add on each row: ``p * (tp - fn) + (1 - p) * (fp - tn)``, (n_rows,) payoff units.

    Acting pays where it is not below zero: the break-even rule with the row's own costs. Elkan (2001), *The foundations
    of cost-sensitive learning*, section 2; Zadrozny and Elkan (2001) for costs that differ between rows.
    ``probability`` is (n_rows,) calibrated; NaN in it or in a formula is NaN in the gain.
    """
    tp, fp, fn, tn = matrix.cells(columns or {}, probability.size)
    gain: Floats = probability * (tp - fn) + (1.0 - probability) * (fp - tn)
    return gain


def _binary(name: str, values: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """``values`` as (n_rows,) truths, and where they are known."""
    given = np.asarray(values)
    if given.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, but got shape {given.shape}.")
    if given.dtype == bool:
        return given, np.ones(given.shape, dtype=bool)
    numbers = given.astype(np.float64, copy=False)
    missing = np.isnan(numbers)
    binary = (numbers == 0) | (numbers == 1) | missing
    if not binary.all():
        raise ValueError(f"{name} must be 0, 1 or NaN, but got {numbers[~binary][0]!r}. Apply the threshold first.")
    return numbers == 1, ~missing


def expected(probability: npt.ArrayLike, positive: Worth, negative: Worth, act: npt.ArrayLike) -> Floats:
    """What decisions are expected to be worth before their labels are known, (n_rows,).

    ``probability`` (n_rows,) is the calibrated one of the positive label, ``positive`` and ``negative`` what the rows
    are worth with either label, ``act`` (n_rows,) bool or 0/1; NaN in any of them is NaN. It is as good as the
    calibration, and blind to a change of it: confidence-based performance estimation (CBPE) with a business value, as
    in NannyML. Kivimäki, Białek, Kuberski and Nurminen (2024), *Confidence-based estimators for predictive performance
    in model monitoring*, arXiv 2407.08649.
    """
    chance = np.asarray(probability, dtype=np.float64)
    worth_of_rows: Floats = chance * positive.of(act) + (1.0 - chance) * negative.of(act)
    return worth_of_rows
