"""The table of all benches: what it holds, and what it says of a figure that has moved."""

from __future__ import annotations

import importlib
import json
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


def promised(summary: Any, name: str = "first", beside: str = "") -> Any:
    return summary.Promised(name, beside, ">= 2")


def test_promised_rows_come_first_in_their_order_and_the_others_follow(summary: Any) -> None:
    measured = [row("other"), row("second, 1M"), row("first, 1M")]
    found = summary.in_order(measured, [promised(summary, "first"), promised(summary, "second")])
    assert [one["name"] for one in found] == ["first, 1M", "second, 1M", "other"]


def test_what_was_promised_and_is_not_measured_is_shown_as_that(summary: Any) -> None:
    found = summary.in_order([row("first", peer="another")], [promised(summary, "first", beside="whom")])
    assert [(one["name"], one["peer"], one["ours"], one["met"]) for one in found] == [
        ("first", "whom", None, None),
        ("first", "another", 10.0, True),
    ]
    assert summary.table(found[:1], []).splitlines()[-1] == "| first | whom |  |  |  | >= 2 | not measured |  |"


def test_every_promise_is_of_rows_that_the_benches_have_written(summary: Any) -> None:
    written = json.loads((summary.RESULTS / summary.OWN).read_text())
    measured = [row for row in written if row["ours"] is not None]
    assert not [one for one in summary.PROMISED if not any(one.is_met_by(row) for row in measured)]


def test_the_table_names_the_machines_and_what_was_measured_on_each(summary: Any) -> None:
    here = {"cpus": 2, "processor": "EPYC", "python": "3.11.7", "at": "2026-11-26T10:00:00+00:00"}
    there = {"cores": 64, "cpu": "Xeon", "python": "3.12.1"}
    said = summary.machines(
        {
            "a": {"machine": here},
            "b": {"machine": here},
            "c": {"machine": there, "measured_at": "2026-11-25T10"},
            "d": {},
        }
    )
    assert said == (
        "Measured on 2 cores, EPYC, Python 3.11.7 (a 2026-11-26, b 2026-11-26); "
        "64 cores, Xeon, Python 3.12.1 (c 2026-11-25)."
    )
