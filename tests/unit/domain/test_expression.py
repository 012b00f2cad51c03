"""What a formula may say, what it may not, and what it is worth on each row."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.expression import DEEPEST, MOST_CHARACTERS, Expression

NAN = float("nan")


def value(text: str, **columns: list[float]) -> list[float]:
    n_rows = len(next(iter(columns.values()))) if columns else 1
    return Expression(text)(columns, n_rows).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2 * fare", [20, -10]),
        ("-fare + 3", [-97, 53]),
        ("+fare / 4 - 1 * 2", [23, -14.5]),
        ("(fare + 10) * 2", [220, -80]),
        ("min(fare, 30, 20)", [20, -50]),
        ("max(fare, 30)", [100, 30]),
        ("abs(fare)", [100, 50]),
        ("where(fare > 0, 5, fare)", [5, -50]),
        ("where(fare != 100, 1, 2)", [2, 1]),
        ("coalesce(fare, 7)", [100, -50]),
        ("  1e2 ", [100, 100]),
        ("1.5e-1 * 1_000 + a1", [151, 151]),
    ],
)
def test_a_formula_is_computed_on_every_row(text: str, expected: list[float]) -> None:
    assert value(text, fare=[100, -50], a1=[1, 1]) == expected


def test_columns_are_told_once_in_the_order_of_the_text() -> None:
    assert Expression("max(fare, tax) + fare * where(age < 2, 0, miles)").columns == ("fare", "tax", "age", "miles")
    assert Expression("180").columns == ()


def test_nan_spreads_to_the_row_and_no_further() -> None:
    assert np.isnan(value("2 * fare + tax", fare=[1, NAN, 3], tax=[1, 1, NAN])).tolist() == [False, True, True]


@pytest.mark.parametrize("text", ["min(fare, 1)", "max(1, fare)", "abs(fare)", "where(fare > 1, 2, 3)", "-fare"])
def test_no_function_hides_a_missing_value(text: str) -> None:
    assert np.isnan(value(text, fare=[NAN])).all()


def test_coalesce_alone_gives_a_missing_value_another() -> None:
    assert value("coalesce(fare, tax * 2) + 1", fare=[NAN, 5], tax=[4, 4]) == [9, 6]


@pytest.mark.parametrize("text", ["1 / fare", "-1 / fare", "fare / fare", "1e308 * 1e308 + fare"])
def test_what_has_no_finite_value_is_nan(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(value(text, fare=[0.0])).all()


def test_the_branch_not_chosen_cannot_spoil_a_row() -> None:
    assert value("where(fare > 0, 10 / fare, 0)", fare=[0.0, 5.0]) == [0, 2]


def test_a_constant_formula_has_a_value_on_every_row() -> None:
    assert Expression("100 + 80")({}, 3).tolist() == [180, 180, 180]


def test_an_absent_column_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="fare"):
        Expression("fare")({}, 1)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__",
        "fare.real",
        "fare.__class__",
        "fare[0]",
        "open(1)",
        "eval(1)",
        "min",
        "min(fare)",
        "where(fare, 1, 2)",
        "where(1 < fare < 2, 1, 2)",
        "where(1, 2)",
        "coalesce(fare, 1, 2)",
        "min(*fare)",
        "min(fare, key=1)",
        "max(fare, default=1)",
        "9 ** 9 ** 9 ** 9",
        "9**999999999",
        "fare // 2",
        "fare % 2",
        "1 << 99",
        "~fare",
        "not fare",
        "fare and 1",
        "1 if fare else 2",
        "fare > 1",
        "lambda: 1",
        "[1 for x in fare]",
        "(1, 2)",
        "(fare := 3)",
        "fare = 3",
        "yield",
        "await fare",
        "True",
        "None",
        "1j",
        "'a'",
        "f'{1}'",
        "ﬁre + 1",  # Python would read the ligature as fi
        "fаre",  # a Cyrillic letter
        "𝐟are",
        "fare\n",
        "fare;fare",
        "fare # comment",
        "1e999",
        "9" * 199 + "e999",
        "",
        "   ",
        "fare +",
        "(" * 100 + ")" * 100,
        "(" * 90 + "1" + ")" * 91,
        "\x00",
        "fare\x00",
        "0777",
        "0x10",
        "1and fare",
        "1e5if fare else 2",
        "-" * 100 + "1",
        "+".join(["a"] * 50),
    ],
)
def test_anything_else_is_refused_before_it_is_computed(text: str) -> None:
    with pytest.raises(ValueError):
        Expression(text)


def test_length_and_depth_are_limited() -> None:
    assert value("+".join(["1"] * DEEPEST)) == [DEEPEST]
    with pytest.raises(ValueError, match="nests at most"):
        Expression("+".join(["1"] * (DEEPEST + 1)))
    with pytest.raises(ValueError, match=f"1 to {MOST_CHARACTERS} characters, but got 201"):
        Expression("a" * 201)


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.text(alphabet="fare01 .,+-*/()<>=!_minx\n'[", max_size=60))
def test_any_text_is_a_formula_or_a_value_error(text: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            formula = Expression(text)
    except ValueError:
        return
    columns = dict.fromkeys(formula.columns, np.array([1.5, NAN]))
    computed = formula(columns, 2)
    assert computed.shape == (2,)
    assert computed.dtype == np.float64
    assert not np.isinf(computed).any()


@settings(deadline=None, derandomize=True)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.1, 1e6))
def test_arithmetic_is_that_of_floats(a: float, b: float, c: float) -> None:
    (got,) = value("a * 2 - b / c + (a - b)", a=[a], b=[b], c=[c])
    assert math.isclose(got, a * 2 - b / c + (a - b), rel_tol=1e-12, abs_tol=1e-9)


def test_reading_a_formula_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ratchet.domain import expression as e; e.Expression('2 * a'); print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
