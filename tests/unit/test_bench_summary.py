"""The table of all benches: what it holds, and what it says of a figure that has moved."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.summary")


def row(name: str = "a", ours: float | None = 10.0, **more: Any) -> dict[str, Any]:
    known = {"peer": "p", "theirs": 50.0, "ratio": 5.0, "unit": "ms", "goal": ">= 2", "met": True}
    return {"name": name, "ours": ours, **known, **more}


def test_rows_of_all_reports_have_the_same_columns_and_say_where_they_are_from(summary: Any) -> None:
    found = summary.rows({"b": {"rows": [row("b") | {"spread": [1, 2]}]}, "a": {"rows": [row("a")]}})
    assert [one["report"] for one in found] == ["a", "b"]
    assert all(set(one) == {*summary.COLUMNS, "report"} for one in found)


@pytest.mark.parametrize(("before", "said"), [(10.5, ""), (20.0, "-50%"), (5.0, "+100%"), (None, ""), (0, "")], ids=str)
def test_only_a_figure_that_moved_by_more_than_a_tenth_is_said_to_have_changed(
    summary: Any, before: float | None, said: str
) -> None:
    assert summary.change(row(), [row(ours=before)]) == said


def test_a_new_row_has_no_change_and_a_missed_goal_stands_out(summary: Any) -> None:
    text = summary.table([row(met=False, ours=1234.5)], [row("other")])
    assert text.splitlines()[-1] == "| a | p | 1,234 ms | 50 ms | 5 | >= 2 | **no** |  |"
