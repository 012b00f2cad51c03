"""What a prediction is worth: a payoff for each unit by which it falls short of the target, or goes beyond it.

The payoff of a row is ``under * max(target - prediction, 0) + over * max(prediction - target, 0)``, with both below
zero. Where they are the same on every row, this is (negated, up to scale) the pinball loss of the quantile at
``under / (under + over)``: that quantile is the prediction which costs least (Koenker and Bassett 1978, *Regression
quantiles*, Econometrica 46), and no other forecast is rewarded (Gneiting 2011, *Making and evaluating point forecasts*,
JASA 106). So the payoff itself is a sound objective, and no proxy of it is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ratchet.domain.expression import Expression
from ratchet.domain.payoff import Columns, Floats, Value

SIDES = ("under", "over")


class Errors(Protocol):
    """What predictions on the same (n_rows,) rows are worth."""

    def of(self, decision: npt.ArrayLike) -> Floats:
        """The payoff of each prediction, (n_rows,) payoff units; NaN where the prediction or the worth is unknown."""
        ...

    def between(self, start: int, end: int) -> Errors:
        """That of the rows ``[start, end)``."""
        ...

    def best_offset(self, start: Floats) -> float:
        """The number which, added to every one of the (n_rows,) predictions ``start``, earns most.

        Raises ``ValueError`` when no row has a known worth.
        """
        ...


@dataclass(frozen=True)
class ErrorCosts:
    """Payoff per unit of error: ``under`` where the prediction was too low, ``over`` where it was too high.

    Each is in ``unit`` per unit of the target, a number below 0 or a formula over the row.
    """

    under: Value
    over: Value
    unit: str = "USD"

    def __post_init__(self) -> None:
        for name in SIDES:
            value = getattr(self, name)
            if not isinstance(value, Expression) and not (math.isfinite(value) and value < 0):
                raise ValueError(
                    f"business.payoff.{name} must be a finite number below 0, but got {value!r}. Give what a unit of "
                    f"error costs, in {self.unit}."
                )

    @classmethod
    def from_spec(cls, spec: Any) -> ErrorCosts:
        """From any object with the attributes ``under``, ``over`` (text is a formula) and ``unit``."""
        under, over = (Expression(v) if isinstance(v, str) else float(v) for v in (spec.under, spec.over))
        return cls(under, over, str(spec.unit))

    @property
    def quantile(self) -> float:
        """Which quantile of the target costs least, in (0, 1). Raises ``ValueError`` where each row has its own."""
        numbers = [value for value in (self.under, self.over) if not isinstance(value, Expression)]
        if len(numbers) < len(SIDES):
            raise ValueError("business.payoff: with formulas every row has a quantile of its own.")
        return numbers[0] / sum(numbers)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns its formulas read, each once."""
        formulas = (value for value in (self.under, self.over) if isinstance(value, Expression))
        return tuple(dict.fromkeys(name for formula in formulas for name in formula.columns))

    def on(self, label: npt.ArrayLike, columns: Columns | None = None) -> ErrorWorth:
        """What errors cost on rows with this target, (n_rows,) numbers.

        ``columns`` holds (n_rows,) numbers for each of :attr:`columns`. NaN in one cost of a row is NaN in both, as it
        is in a target. Raises ``KeyError`` when a column is absent.
        """
        target = np.asarray(label, dtype=np.float64)
        table = np.stack(
            [
                value(columns or {}, target.size)
                if isinstance(value, Expression)
                else np.full(target.size, float(value))
                for value in (self.under, self.over)
            ]
        )
        table[:, np.isnan(table).any(axis=0)] = np.nan
        return ErrorWorth(target, table[0], table[1])


@dataclass(frozen=True)
class ErrorWorth:
    """The target of each row, and what a unit of error costs there: (n_rows,) each; NaN where unknown."""

    label: Floats
    under: Floats
    over: Floats

    def of(self, decision: npt.ArrayLike) -> Floats:
        """See ``Errors.of``; raises ``ValueError`` on unequal lengths."""
        prediction = np.asarray(decision, dtype=np.float64)
        if prediction.shape != self.label.shape:
            raise ValueError(
                f"label and prediction must be one-dimensional and of one length, but got {self.label.shape} and "
                f"{prediction.shape}. Score both on the same rows."
            )
        error = self.label - prediction
        # Adding 0.0 turns the negative zero of no error into the positive one.
        payoff: Floats = self.under * np.maximum(error, 0.0) + self.over * np.maximum(-error, 0.0) + 0.0
        return payoff

    def between(self, start: int, end: int) -> ErrorWorth:
        """See ``Errors.between``."""
        return ErrorWorth(self.label[start:end], self.under[start:end], self.over[start:end])

    def best_offset(self, start: Floats) -> float:
        """See ``Errors.best_offset``. Exact: what offsets earn bends only at the rows' errors, so those are compared.

        Of equals the smallest. Where formulas let errors pay none need be best: then it is the best of these.
        """
        error = self.label - start
        known = np.isfinite(error) & ~np.isnan(self.under)
        if not known.any():
            raise ValueError("no offset can be chosen: the payoff is NaN on every row.")
        order = np.argsort(error[known], kind="stable")
        ranked, under, over = (values[known][order] for values in (error, self.under, self.over))
        offsets, ranked = ranked, ranked - ranked[ranked.size // 2]
        # Rows from each place on are predicted too low by what they lie above it, those before it too high.
        left_under, left_weighted = (v[::-1].cumsum()[::-1] for v in (under, under * ranked))
        past_over, past_weighted = over.cumsum(), (over * ranked).cumsum()
        earned = left_weighted - ranked * left_under + ranked * past_over - past_weighted
        return float(offsets[int(np.argmax(earned))])


MOST_CANDIDATES = 101


def candidates(error: Floats) -> Floats:
    """Offsets worth trying where their payoff can only be asked for: at most 101 quantiles of the (n,) errors, rising.

    Raises ``ValueError`` when no error is finite.
    """
    finite = error[np.isfinite(error)]
    if not finite.size:
        raise ValueError("no offset can be chosen: no row has a finite error.")
    shares = np.linspace(0.0, 1.0, min(MOST_CANDIDATES, finite.size))
    return np.unique(np.quantile(finite, shares, method="higher"))
