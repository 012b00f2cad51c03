"""A feed that begins to report in other units: the fault that no schema notices. Pure.

A feature's unit is read off the end of its name; what it becomes is the metric unit that the same instrument is sold
with. The values stay plausible, so that nothing refuses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class UnitError:
    """``metric = (value - zero) * factor``."""

    unit: str
    metric: str
    zero: float
    factor: float


BY_ENDING = {
    "_f": UnitError("degrees Fahrenheit", "degrees Celsius", 32.0, 5 / 9),
    "_mph": UnitError("miles per hour", "kilometres per hour", 0.0, 1.609344),
    "_inches": UnitError("inches", "millimetres", 0.0, 25.4),
    "_miles": UnitError("miles", "kilometres", 0.0, 1.609344),
}


@dataclass(frozen=True)
class Corruption:
    """The values of ``columns`` are in other units on the local days of ``month`` (its first day)."""

    month: date
    columns: tuple[str, ...]

    @property
    def end(self) -> date:
        """The first day after the month."""
        return date(self.month.year + self.month.month // 12, self.month.month % 12 + 1, 1)

    def touches(self, start: str | date, end: str | date) -> bool:
        """Whether any local day of ``[start, end)`` is corrupted."""
        return str(start) < self.end.isoformat() and self.month.isoformat() < str(end)

    @property
    def tag(self) -> str:
        """What tells this corruption from any other."""
        return f"{self.month:%Y-%m}:{','.join(self.columns)}"


def error_of(column: str) -> UnitError | None:
    """What becomes of a column in a metric feed; None where its name tells no unit."""
    return next((error for ending, error in BY_ENDING.items() if column.endswith(ending)), None)


def in_other_units(column: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The column's values, (n,) with NaN for missing, as the faulty feed reports them."""
    error = error_of(column)
    if error is None:
        raise ValueError(f"{column!r} must tell its unit by its ending, one of {', '.join(BY_ENDING)}.")
    return (np.asarray(values, dtype=np.float64) - error.zero) * error.factor


def with_units(columns: Sequence[str]) -> tuple[str, ...]:
    """Those columns whose names tell a unit."""
    return tuple(name for name in columns if error_of(name) is not None)
