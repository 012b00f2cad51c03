"""What rows are worth by the spec's payoff: the columns its formulas read, and their values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ratchet.domain.artifact import numbers
from ratchet.domain.payoff import PayoffMatrix, Worth, worth
from ratchet.domain.spec import ModelSpec, did_you_mean
from ratchet.errors import Refused

NOT_VALUES = frozenset({"label", "day", "decided_at"})
"""Columns of every snapshot that no formula may read: the outcome has its own cell, and a moment is no number."""


def payoff_columns(spec: ModelSpec) -> tuple[str, ...]:
    """The columns a table of rows must have for its decisions to be valued."""
    return spec.business.payoff.columns


def worth_of(spec: ModelSpec, rows: pa.Table, label: NDArray[Any]) -> Worth:
    """What acting on each of the (n_rows,) rows and passing it over is worth, by its label.

    Raises:
        Refused: the rows lack a column that the payoff reads, or it does not hold numbers.

    """
    matrix = PayoffMatrix.from_spec(spec.business.payoff)
    return worth(matrix, np.asarray(label), numbers(rows, matrix.columns))


def check_columns(spec: ModelSpec, schema: pa.Schema) -> None:
    """Refuse a snapshot on which the payoff could not be computed, before anything is spent on it.

    Raises:
        Refused: names each expression whose column is unknown, ambiguous or holds no numbers.

    """
    usable = [name for name in schema.names if name not in NOT_VALUES]
    for cell, formula in spec.business.payoff.expressions.items():
        for name in formula.columns:
            where = f"business.payoff.{cell}: {name!r}"
            if name not in usable:
                raise Refused(f"{where} is not a column of the snapshot.{did_you_mean(name, tuple(set(usable)))}")
            if usable.count(name) > 1:
                raise Refused(f"{where} is the name of two columns of the snapshot. Rename one of them.")
            if not _holds_numbers(schema.field(name).type):
                raise Refused(f"{where} must hold numbers, but holds {schema.field(name).type}.")


def _holds_numbers(kind: pa.DataType) -> bool:
    tests: Iterable[Any] = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)
