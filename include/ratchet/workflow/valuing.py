"""What rows are worth by the spec's payoff: the columns it reads, its formulas, or its hook."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ratchet.domain.artifact import Bools, Floats, numbers
from ratchet.domain.payoff import PayoffMatrix, Valued, Worth, worth
from ratchet.domain.regression import ErrorCosts, Errors, candidates
from ratchet.domain.spec import ModelSpec, Problem, did_you_mean
from ratchet.errors import Refused

Hook = Callable[[pa.Table, NDArray[Any], NDArray[Any]], Any]
"""A payoff in Python: (rows, label, decision) → payoff units per decision, (n_rows,) float64 and finite.

``rows`` has the spec's ``columns`` and no other; ``label`` is (n_rows,) 0/1 and the decision, to act or not, (n_rows,)
bool; of a regression both are (n_rows,) float64, target and prediction. Missing values come as Arrow's nulls. What a
row is worth must depend on its own label and decision alone.
"""

NOT_VALUES = frozenset({"label", "day", "decided_at"})
"""Columns of every snapshot that no payoff may read: the outcome is given anyway, and a moment is no value."""


def payoff_columns(spec: ModelSpec) -> tuple[str, ...]:
    """The columns a table of rows must have for its decisions to be valued."""
    return spec.business.payoff.reads


def valued(spec: ModelSpec, rows: pa.Table, label: NDArray[Any], hook: Hook | None = None) -> Valued:
    """What decisions on the (n_rows,) rows are worth, by their label: to act or not, or a regression's predictions.

    Raises:
        Refused: see :func:`worth_of` and :func:`errors_of`.

    """
    if spec.business.regression:
        return errors_of(spec, rows, label, hook)
    return worth_of(spec, rows, label, hook)


def worth_of(spec: ModelSpec, rows: pa.Table, label: NDArray[Any], hook: Hook | None = None) -> Worth:
    """What acting on each of the (n_rows,) rows and passing it over is worth, by its label.

    ``hook`` is the loaded function of a spec that names one.

    Raises:
        Refused: the rows lack a column that the payoff reads, or it does not hold numbers; the hook fails, answers with
            another shape or type, with NaN or infinity, or makes one row's worth depend on the decision on another.

    """
    payoff = spec.business.payoff
    if payoff.hook is None:
        matrix = PayoffMatrix.from_spec(payoff)
        return worth(matrix, np.asarray(label), numbers(rows, matrix.columns))
    hook, read = _loaded(spec, rows, hook)
    n_rows, truth = rows.num_rows, np.asarray(label, dtype=np.int8)

    def value(act: Bools) -> Floats:
        return _answer(payoff.hook or "", hook, read, truth, act)

    both = Worth(acted=value(np.ones(n_rows, dtype=bool)), passed=value(np.zeros(n_rows, dtype=bool)))
    every_other = np.arange(n_rows) % 2 == 0
    if not np.array_equal(value(every_other), both.of(every_other)):
        raise Refused(
            f"{payoff.hook}: what a row is worth must depend on its own label and decision alone, but changes with the "
            "decisions on other rows. Limits over many rows are business.decision.capacity."
        )
    return both


def errors_of(spec: ModelSpec, rows: pa.Table, label: NDArray[Any], hook: Hook | None = None) -> Errors:
    """What predictions on the (n_rows,) rows of a regression are worth, by their target.

    ``hook`` is the loaded function of a spec that names one.

    Raises:
        Refused: the rows lack a column that the payoff reads, or it does not hold numbers; the hook fails, answers with
            another shape or type, with NaN or infinity, or makes one row's worth depend on the prediction of another.

    """
    payoff, target = spec.business.payoff, np.asarray(label, dtype=np.float64)
    if payoff.hook is None:
        costs = ErrorCosts.from_spec(payoff)
        return costs.on(target, numbers(rows, costs.columns))
    hook, read = _loaded(spec, rows, hook)
    errors = HookedErrors(payoff.hook, hook, read, target)
    every_other = np.arange(target.size) % 2 == 0
    mixed = np.where(every_other, target, target + 1.0)
    if not np.array_equal(errors.of(mixed), np.where(every_other, errors.of(target), errors.of(target + 1.0))):
        raise Refused(
            f"{payoff.hook}: what a row is worth must depend on its own label and prediction alone, but changes with "
            "the predictions of other rows."
        )
    return errors


@dataclass(frozen=True)
class HookedErrors:
    """What predictions are worth by a hook: it is asked each time, because its payoff may be any function of them."""

    name: str
    hook: Hook
    rows: pa.Table
    label: Floats

    def of(self, decision: Any) -> Floats:
        """See ``Errors.of``. The hook is not asked about a prediction that is no finite number: that is worth NaN."""
        prediction = np.asarray(decision, dtype=np.float64)
        known = np.isfinite(prediction)
        answer = _answer(self.name, self.hook, self.rows, self.label, np.where(known, prediction, self.label))
        return np.where(known, answer, np.nan)

    def between(self, start: int, end: int) -> HookedErrors:
        """See ``Errors.between``."""
        return HookedErrors(self.name, self.hook, self.rows.slice(start, end - start), self.label[start:end])

    def best_offset(self, start: Floats) -> float:
        """See ``Errors.best_offset``: the best of at most 101 quantiles of the errors; of equals the smallest."""
        offsets = candidates(self.label - start)
        return float(offsets[int(np.argmax([self.of(start + offset).mean() for offset in offsets]))])


def _loaded(spec: ModelSpec, rows: pa.Table, hook: Hook | None) -> tuple[Hook, pa.Table]:
    """The spec's hook, and what it reads of the rows."""
    payoff = spec.business.payoff
    if hook is None:
        raise Refused(f"{payoff.hook}: the hook must be loaded to value decisions, but was not given.")
    if missing := [name for name in payoff.reads if name not in rows.column_names]:
        raise Refused(f"{payoff.hook}: rows must have the columns {missing}, but got {sorted(rows.column_names)}.")
    if spec.data.hides((*payoff.reads, spec.data.spine.label)):
        hook = _quoting_nothing(hook)
    return hook, rows.select(list(payoff.reads))


class _UntoldError(Exception):
    """A hook failed on values that no message may quote; says of what kind, and where in its file."""


def _quoting_nothing(hook: Hook) -> Hook:
    """The hook, whose own words on a failure may hold a value of a sensitive column and are left out."""

    def quiet(rows: pa.Table, label: NDArray[Any], decision: NDArray[Any]) -> Any:
        try:
            return hook(rows, label, decision)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be told
            at = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}, untold: the rows are sensitive"
        raise _UntoldError(told)

    return quiet


def _answer(name: str, hook: Hook, rows: pa.Table, label: NDArray[Any], decision: NDArray[Any]) -> Floats:
    try:
        answer = hook(rows, label.copy(), decision.copy())
    except Exception as error:
        raise Refused(f"{name}: failed on {rows.num_rows} rows: {type(error).__name__}: {error}") from error
    if not isinstance(answer, np.ndarray) or answer.dtype != np.float64 or answer.shape != label.shape:
        got = f"{answer.dtype} {answer.shape}" if isinstance(answer, np.ndarray) else type(answer).__name__
        raise Refused(f"{name}: must return a NumPy array of float64 with shape {label.shape}, but returned {got}.")
    if not np.isfinite(answer).all():
        bad = int((~np.isfinite(answer)).sum())
        raise Refused(f"{name}: must return finite numbers, but {bad} of {label.size} are NaN or infinite.")
    return answer.copy()


def check_columns(spec: ModelSpec, schema: pa.Schema) -> None:
    """Refuse a snapshot on which the payoff could not be computed, before anything is spent on it.

    Raises:
        Refused: names the column that is unknown or ambiguous, or holds no numbers though an expression reads it.

    """
    usable = [name for name in schema.names if name not in NOT_VALUES]
    for place, name in spec.business.payoff.named:
        where = f"{Problem(('business', 'payoff', *place), '').where}: {name!r}"
        if name not in usable:
            raise Refused(f"{where} is not a column of the snapshot.{did_you_mean(name, tuple(set(usable)))}")
        if usable.count(name) > 1:
            raise Refused(f"{where} is the name of two columns of the snapshot. Rename one of them.")
        if spec.business.payoff.hook is None and not _holds_numbers(schema.field(name).type):
            raise Refused(f"{where} must hold numbers, but holds {schema.field(name).type}.")


def _holds_numbers(kind: pa.DataType) -> bool:
    tests: Iterable[Any] = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)
