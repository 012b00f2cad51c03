"""An owner's month: promotions by their lower bounds, budgets by the most that was used."""

from __future__ import annotations

from datetime import date

import pytest

from ratchet.domain.costs import Prices
from ratchet.domain.monthly import (
    ModelMonth,
    MonthAttempt,
    OwnerMonth,
    Promotion,
    Use,
    budget_use,
    price_of,
    promotion_of,
    verdicts_of,
)
from ratchet.domain.spec import Budget, Money

PROMOTED = {"decision": "promote", "estimate": 2.0, "lower": 0.5, "n_rows": 1400, "n_clusters": 14, "unit": "USD"}


def attempt(number: int, day: int = 1, hours: float = 1.0, verdict=None, **more) -> MonthAttempt:
    return MonthAttempt(f"m.{number}", date(2013, 6, day), hours, verdict, more.pop("version", None), **more)


def test_a_promotion_is_worth_its_lower_bound_times_thirty_days_of_decisions() -> None:
    told = promotion_of(attempt(1, verdict=PROMOTED, version=4))
    assert told == Promotion(4, "m.1", 2.0, 0.5, 0.5 * 100 * 30, "USD")
    assert promotion_of(attempt(1, verdict=PROMOTED)) is None, "people refused it, or it waits"
    unbound = promotion_of(attempt(1, verdict=PROMOTED | {"lower": None}, version=4))
    assert unbound is not None
    assert (unbound.lower, unbound.worth) == (None, None)


def test_the_most_of_each_limit_counts_by_its_own_period_and_dry_runs_are_no_runs() -> None:
    budget = Budget(
        runs_per_day=2,
        core_hours_per_day=4.0,
        core_hours_per_month=9.0,
        money_per_month=Money(amount=20.0, core_hour=2.0, unit="EUR"),
    )
    spent = [attempt(1, 1), attempt(2, 1, 1.5), attempt(3, 2, 2.0), attempt(4, 1, 1.0, dry_run=True)]
    assert budget_use(budget, spent) == (
        Use("runs_per_day", 2, 2, "runs"),
        Use("core_hours_per_day", 3.5, 4.0, "core hours"),
        Use("core_hours_per_month", 5.5, 9.0, "core hours"),
        Use("money_per_month", 11.0, 20.0, "EUR"),
    )
    assert budget_use(Budget(runs_per_day=2), []) == (Use("runs_per_day", 0, 2, "runs"),)


def test_verdicts_are_counted_and_attempts_without_one_too() -> None:
    kept = {"decision": "keep_champion"}
    assert verdicts_of([attempt(1, verdict=kept), attempt(2, verdict=PROMOTED), attempt(3)]) == (
        {"keep_champion": 1, "promote": 1},
        1,
    )


def test_prices_are_of_hours_and_of_what_is_kept() -> None:
    assert price_of(2.0, 3_000_000_000, Prices(0.5, 0.1, "USD")) == pytest.approx(1.3)
    assert price_of(2.0, 3_000_000_000, None) is None


def test_worth_is_added_up_by_unit() -> None:
    def model(name: str, *promotions: Promotion) -> ModelMonth:
        return ModelMonth(name, False, 1, 1, {}, 0, promotions, 0, 1.5, 10, None, (), ())

    one, two = Promotion(1, "a.1", 1.0, 0.5, 100.0, "USD"), Promotion(2, "b.1", 1.0, 0.5, 7.0, "EUR")
    month = OwnerMonth("ops", "2013-06", (model("a", one, one), model("b", two)), None)
    assert month.worth == {"USD": 200.0, "EUR": 7.0}
    assert (month.core_hours, month.price) == (3.0, None)
