"""Specs read by libyaml say what they say to the reader that knows lines, or are left to it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratchet.adapters import specs
from ratchet.adapters.ordinary_yaml import read_ordinary
from ratchet.settings import load_settings

SHIPPED = load_settings().models_dir / "flight_delay" / "model.yaml"
LINES = SHIPPED.read_text().splitlines(keepends=True)
SCALARS = [
    *("on", "off", "yes", "no", "y", "N", "true", "False", "tRUE", "~", "null", "", "=", "<<"),
    *("0", "-0", "+12", "012", "0777", "0o17", "0x1F", "0b11", "1_000", "12:30", "190:20:30", "9" * 5000),
    *("1.5", "-0.25", "1.", ".5", "1e3", "1.5e3", "1.5e+3", "1_0.5", ".inf", ".nan", "1.2.3", "-", "--", "- 1"),
    *("2027-06-30", "2027-13-30", "2027-6-3", "2001-12-14 21:59:43", "2001-12-14t21:59:43.10-05:00"),
    *("2d", "1d12h", "0 4 * * 1", "*/5 1-3 * * *", "score >= threshold", "a:b", "payoff.py:value", "-a", "it's", "#"),
    *("'on'", '"12"', "'a''b'", '"a\\tb"', "!!str 1", "&a b", "*a", "|", "> x", "%a", "@a", "`a", "é €", "\u2028"),
]
TOKENS = [
    *(":", " ", ": ", " :", "#", " #", "- ", "\n", "\n  ", "\n- ", "\n  - ", "{", "}", "[", "]", ",", ", ", "?", "? "),
    *(
        "'",
        '"',
        "|",
        ">-",
        "&a ",
        "*a",
        "!t ",
        "<<: ",
        "%",
        "---\n",
        "...\n",
        "~",
        "\t",
        "\\",
        "\r\n",
        "\x85",
        "\ufeff",
    ),
    *("a", "a: ", "[a]: b", "a: {b: [c, {d: e}]}\n", "  a:\n    b: c\n", "'a'", '"b"', *SCALARS),
]


def careful(text: str) -> Any:
    """The plain values by the careful reader; None where it refuses them."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.yaml"
        file.write_bytes(text.encode())
        try:
            return specs._plain(specs._read(file, "m"), file, "m")
        except specs.SpecRefused as refused:
            # It also refuses some comments, which another reader need not.
            return read_ordinary(text) if "cannot keep" in str(refused) else None


def agrees(text: str) -> bool:
    """Whether the fast reader says the same, type by type and in the same order, or nothing."""
    ordinary = read_ordinary(text)
    return ordinary is None or repr(ordinary) == repr(careful(text))


def test_the_shipped_spec_is_ordinary_and_says_the_same() -> None:
    assert read_ordinary(SHIPPED.read_text()) == careful(SHIPPED.read_text())


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize(
    "form", ["a: {}\n", "{}: a\n", "a: [b, {}, c]\n", "a: {{b: {}}}\n", "a: {} # c\n", "a:\n- {}\n"]
)
def test_a_scalar_means_what_yaml_1_2_says_or_is_left_to_the_careful_reader(scalar: str, form: str) -> None:
    assert agrees(form.format(scalar))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("on: {drift: no}\n", {"on": {"drift": "no"}}),
        ("a: 1\nb: -2.50\nc: 2027-06-30\n", None),
        ("a: 0 4 * * 1\nb: 2d\n", {"a": "0 4 * * 1", "b": "2d"}),
        ("a:\nb: ~\nc: 'null'\n", {"a": None, "b": None, "c": "null"}),
    ],
)
def test_what_specs_are_made_of_is_ordinary(text: str, said: dict[str, Any] | None) -> None:
    found = read_ordinary(text)
    assert found is not None
    assert repr(found) == repr(careful(text) if said is None else said)


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2\n", "a: {b: 1, b: 2}\n", "- a\n", "", "a: b\n---\nc: d\n", "1: a\n", "a: ["]
)
def test_what_is_wrong_or_rare_is_left_to_the_careful_reader(text: str) -> None:
    assert read_ordinary(text) is None


@settings(max_examples=300, deadline=None)
@given(
    first=st.integers(0, len(LINES) - 1),
    count=st.integers(0, 6),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), st.sampled_from(TOKENS)), max_size=5),
)
@example(first=0, count=2, changes=[(0, 0, "a: |\n \n  b\n    \n  c\n")])
def test_a_changed_spec_never_says_anything_else(first: int, count: int, changes: list[tuple[int, int, str]]) -> None:
    text = "".join(LINES[first : first + count])
    for at, removed, token in changes:
        place = min(at, len(text))
        text = text[:place] + token + text[place + removed :]
    assert agrees(text)
