"""Costs by month and by whom: what ran counts once, what is kept counts every month."""

from __future__ import annotations

import pytest

from ratchet.domain.costs import ORPHANS, AttemptCost, Cost, KeptDays, Prices, days_of, months, owners_of, report


def cost(attempt: str, month: str, seconds: float = 0.0, size: int = 0, **more: object) -> AttemptCost:
    model = attempt.partition(".")[0]
    given = {"owner": f"team {model}", "promoted": False} | more
    return AttemptCost(attempt, model, month=month, core_seconds=seconds, stored_bytes=size, **given)  # type: ignore[arg-type]


COSTS = [
    cost("a.1", "2013-01", 3600.0, 1_000_000_000, promoted=True),
    cost("a.2", "2013-03", 1800.0, 500_000_000),
    cost("b.1", "2013-03", 7200.0, 0, owner="team a"),
]


def test_what_ran_counts_in_its_month_and_what_is_kept_in_every_later_one() -> None:
    (january,) = report(COSTS, "2013-01", "model")
    assert january == Cost("2013-01", "a", 1, 1, 3600.0, 1_000_000_000, None)
    (february,) = report(COSTS, "2013-02", "model")
    assert (february.attempts, february.core_seconds, february.stored_bytes) == (0, 0.0, 1_000_000_000)
    b, a = report(COSTS, "2013-03", "model")
    assert (a.attempts, a.promoted, a.core_seconds, a.stored_bytes) == (1, 0, 1800.0, 1_500_000_000)
    assert (b.name, b.core_seconds) == ("b", 7200.0)


@pytest.mark.parametrize(
    ("by", "names"),
    [("owner", ["team a"]), ("model", ["b", "a"]), ("attempt", ["b.1", "a.2", "a.1"])],
)
def test_a_row_is_of_an_owner_a_model_or_an_attempt_the_dearest_first(by, names) -> None:
    rows = report(COSTS, "2013-03", by)
    assert [row.name for row in rows] == names
    assert sum(row.core_seconds for row in rows) == 9000.0
    assert sum(row.stored_bytes for row in rows) == 1_500_000_000


def test_prices_are_of_core_hours_once_and_of_gigabytes_each_month() -> None:
    prices = Prices(per_core_hour=0.1, per_gigabyte_month=0.02, unit="USD")
    assert [row.price for row in report(COSTS, "2013-01", "owner", prices=prices)] == [pytest.approx(0.12)]
    assert [row.price for row in report(COSTS, "2013-02", "owner", prices=prices)] == [pytest.approx(0.02)]
    assert [row.price for row in report(COSTS, "2013-03", "owner", prices=prices)] == [pytest.approx(0.28)]


def test_what_names_no_attempt_stands_last_in_a_row_of_its_own() -> None:
    rows = report(COSTS, "2013-03", "owner", orphaned_bytes=7)
    assert (rows[-1].name, rows[-1].stored_bytes, rows[-1].core_seconds) == (ORPHANS, 7, 0.0)


def test_months_without_an_attempt_are_months_too_over_the_turn_of_a_year() -> None:
    assert months([cost("a.1", "2013-11"), cost("a.2", "2014-02")]) == ("2013-11", "2013-12", "2014-01", "2014-02")
    assert months([]) == ()


def test_an_object_is_its_attempts_by_its_whole_name() -> None:
    objects = {
        "snapshots/m.1/train.parquet": 100,
        "snapshots/m.11/train.parquet": 7,
        "dossiers/m.1.json": 10,
        "dossiers/m.1.verdict.json": 1,
        "evidence/m.1.recalibrated_champion.parquet": 1000,
        "cards/gone.3.html": 5,
        "snapshots/stray": 3,
    }
    assert owners_of(objects, ["m.1", "m.2"]) == ({"m.1": 1111}, 15)


def test_what_a_model_keeps_of_its_days_is_of_their_month_and_of_its_owner() -> None:
    objects = {
        "predictions/b/2013-03-30/1.parquet": 5,
        "predictions/b/2013-04-01/1.parquet": 7,
        "monitor/b/20130401T040000Z-ab.json": 11,
        "predictions/gone/2013-04-01/1.parquet": 13,
    }
    days, stray = days_of(objects, {"a": "team a", "b": "team a"})
    assert days == (KeptDays("b", "team a", "2013-03", 5), KeptDays("b", "team a", "2013-04", 18))
    assert stray == 13
    assert months(days) == ("2013-03", "2013-04")


@pytest.mark.parametrize(("by", "name"), [("owner", "team a"), ("model", "b"), ("attempt", "b (predictions, reports)")])
def test_it_is_kept_in_its_month_and_later_ones_and_is_no_attempt(by, name) -> None:
    days = [KeptDays("b", "team a", "2013-02", 500), KeptDays("b", "team a", "2013-04", 9)]
    sizes = {}
    for month in ("2013-01", "2013-02", "2013-03"):
        before = {row.name: row for row in report(COSTS, month, by)}
        after = {row.name: row for row in report(COSTS, month, by, kept_days=days)}
        sizes[month] = sum(r.stored_bytes for r in after.values()) - sum(r.stored_bytes for r in before.values())
        assert sum(r.attempts for r in after.values()) == sum(r.attempts for r in before.values())
        assert (name in after) == (name in before or month != "2013-01")
    assert sizes == {"2013-01": 0, "2013-02": 500, "2013-03": 500}
