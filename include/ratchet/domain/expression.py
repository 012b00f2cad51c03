"""Formulas over the columns of a row, as a spec writes them: ``0.2 * fare`` or ``max(30, coalesce(fare, 120) / 4)``.

A formula is parsed into Python's syntax tree and checked against a short white list; it is never compiled, and nothing
of Python is reachable from it. It may hold decimal numbers, column names, ``+ - * /`` with parentheses and signs, and
these functions:

- ``min(a, b, …)``, ``max(a, b, …)``, ``abs(a)``;
- ``where(a < b, x, y)``: ``x`` on rows where the comparison (``< <= > >= == !=``) holds, else ``y``;
- ``coalesce(a, b)``: ``a`` where it is known, else ``b``.

This module imports nothing heavy: specs are read with every parse of the DAG files.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

MOST_CHARACTERS = 200
DEEPEST = 20

_CHARACTERS = re.compile(r"[A-Za-z0-9_ .,+\-*/()<>=!]*")
_NUMBER_INTO_NAME = re.compile(r"(?<![A-Za-z0-9_])[0-9][0-9_.]*+(?:[eE][+-]?[0-9][0-9_]*+)?+[A-Za-z]")
_OPERATORS: Mapping[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply"}
_DIVISION = "true_divide"
_COMPARISONS: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
_ARGUMENTS: Mapping[str, tuple[int, int]] = {
    "min": (2, 8),
    "max": (2, 8),
    "abs": (1, 1),
    "where": (3, 3),
    "coalesce": (2, 2),
}


@dataclass(frozen=True)
class Expression:
    """A checked formula; equal texts are equal formulas. Raises ``ValueError``, with the remedy, on any other text."""

    text: str

    def __post_init__(self) -> None:
        _check(_parse(self.text), self.text)

    def __str__(self) -> str:
        return self.text

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, each once, in the order of the text."""
        names = sorted(_columns(_parse(self.text)), key=lambda node: node.col_offset)
        return tuple(dict.fromkeys(node.id for node in names))

    def __call__(self, columns: Mapping[str, npt.ArrayLike], n_rows: int) -> Floats:
        """Its value on each row: (n_rows,) float64, finite or NaN.

        ``columns`` holds (n_rows,) numbers for every name in :attr:`columns`. NaN spreads as in arithmetic (``where``
        is NaN where its comparison meets one; only ``coalesce`` ends it), and so does what has no finite value: a
        division by zero, an overflow. Raises ``KeyError`` for a column that is not there.
        """
        import numpy as np  # noqa: PLC0415 - half a second that a reader of specs need not wait

        with np.errstate(all="ignore"):
            value = np.asarray(_value(_parse(self.text), columns), dtype=np.float64)
        return np.where(np.isfinite(value), value, np.nan) + np.zeros(n_rows)


def _parse(text: str) -> ast.expr:
    if not text.strip() or len(text) > MOST_CHARACTERS:
        raise ValueError(f"an expression has 1 to {MOST_CHARACTERS} characters, but got {len(text)}")
    if not _CHARACTERS.fullmatch(text):
        raise ValueError(
            f"an expression is made of numbers, column names, + - * / ( ) , and comparisons, but got {text!r}"
        )
    if _NUMBER_INTO_NAME.search(text):
        raise ValueError(f"a number must not run into a name, but got {text!r}")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = error.msg if isinstance(error, SyntaxError) else "too long or too deep"
        raise ValueError(f"cannot read the expression {text!r}: {said}") from None


def _check(node: ast.expr, text: str, depth: int = 1) -> None:
    """Refuse what is not on the list. What is allowed here and what :func:`_value` computes is the same."""
    if depth > DEEPEST:
        raise ValueError(f"an expression nests at most {DEEPEST} deep, but got {text!r}")
    for inner in _operands(node, text):
        _check(inner, text, depth + 1)


def _operands(node: ast.expr, text: str) -> tuple[ast.expr, ...]:
    """The parts of an allowed node; raises ``ValueError`` on any other."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            _refuse_infinite(value, text)
            return ()
        case ast.Name(id=name) if name not in _ARGUMENTS:
            return ()
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return (operand,)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            return (left, right)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _ARGUMENTS:
            return _arguments(name, args, text)
    raise ValueError(f"{_named(node)} is not allowed in an expression; use + - * / and {', '.join(_ARGUMENTS)}")


def _arguments(name: str, args: list[ast.expr], text: str) -> tuple[ast.expr, ...]:
    fewest, most = _ARGUMENTS[name]
    if not fewest <= len(args) <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"{name} takes {wanted} arguments, but got {len(args)} in {text!r}")
    if name != "where":
        return tuple(args)
    match args[0]:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            return (left, right, *args[1:])
    raise ValueError(f"where asks a comparison first, as in where(fare > 100, 5, 3), but got {text!r}")


def _refuse_infinite(value: float, text: str) -> None:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        finite = False
    if not finite:
        raise ValueError(f"numbers must be finite, but got {text!r}")


def _named(node: ast.expr) -> str:
    told: Mapping[type[ast.expr], str] = {
        ast.Compare: "a comparison outside of where",
        ast.Attribute: "a dot after a name",
        ast.BoolOp: "and, or",
        ast.IfExp: "if, else",
        ast.Tuple: "a list",
        ast.Starred: "a star",
    }
    if isinstance(node, ast.Call):
        return f"{node.func.id!r}" if isinstance(node.func, ast.Name) else "a call of what is no function"
    if isinstance(node, ast.Name):
        return f"{node.id!r} without its arguments"
    if isinstance(node, ast.BinOp):
        return {ast.Pow: "**", ast.FloorDiv: "//"}.get(type(node.op), "that operator")
    return told.get(type(node), f"{type(node).__name__}")


def _columns(node: ast.expr) -> Iterator[ast.Name]:
    if isinstance(node, ast.Name):
        yield node
    for inner in _operands(node, ""):
        yield from _columns(inner)


def _value(node: ast.expr, columns: Mapping[str, npt.ArrayLike]) -> Any:
    import numpy as np  # noqa: PLC0415 - half a second that a reader of specs need not wait

    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return np.asarray(columns[name], dtype=np.float64)
        case ast.UnaryOp(op=op, operand=operand):
            return -_value(operand, columns) if isinstance(op, ast.USub) else _value(operand, columns)
        case ast.BinOp(left=left, op=operator, right=right):
            apply: Callable[..., Any] = getattr(np, _OPERATORS.get(type(operator), _DIVISION))
            return apply(_value(left, columns), _value(right, columns))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _called(name, args, columns)
    raise AssertionError(node)  # pragma: no cover - the constructor has refused it


def _called(name: str, args: list[ast.expr], columns: Mapping[str, npt.ArrayLike]) -> Any:
    import numpy as np  # noqa: PLC0415 - half a second that a reader of specs need not wait

    if name == "where":
        compared = args[0]
        assert isinstance(compared, ast.Compare)  # noqa: S101 - the constructor has seen it
        left, right = (_value(side, columns) for side in (compared.left, compared.comparators[0]))
        holds = getattr(np, _COMPARISONS[type(compared.ops[0])])(left, right)
        chosen = np.where(holds, _value(args[1], columns), _value(args[2], columns))
        return np.where(np.isnan(left) | np.isnan(right), np.nan, chosen)
    values = [_value(arg, columns) for arg in args]
    if name == "abs":
        return np.abs(values[0])
    if name == "coalesce":
        return np.where(np.isnan(values[0]), values[1], values[0])
    reduce: Callable[..., Any] = np.minimum if name == "min" else np.maximum
    result = values[0]
    for value in values[1:]:
        result = reduce(result, value)
    return result
