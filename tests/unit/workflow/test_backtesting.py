from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from labelled_rows import COLUMNS, FIRST_DAY, rows, spec

from ratchet.adapters import models
from ratchet.domain.artifact import ConstantDecision
from ratchet.domain.payoff import PayoffMatrix, payoffs
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.backtesting import (
    POLICIES,
    Recipe,
    Reign,
    compare_policies,
    fresh_ranges,
    payoff_of,
    refit,
)
from ratchet.workflow.valuing import worth_of

SPEC = spec()
ROWS = rows(20)
VALUED = worth_of(SPEC, ROWS, ROWS.column("label").to_numpy())
MOMENTS = ROWS.column("decided_at").cast(pa.int64()).to_numpy()
ACT = ConstantDecision(act=True, probability=0.5)
PASS = ConstantDecision(act=False, probability=0.5)


def _day(number: int) -> datetime:
    return FIRST_DAY + timedelta(days=number)


def _worth(act: bool) -> np.ndarray:
    label = ROWS.column("label").to_numpy()
    return payoffs(PayoffMatrix.from_spec(SPEC.business.payoff), label, np.full(ROWS.num_rows, act))


def test_a_model_decides_from_its_moment_on_and_not_before() -> None:
    change = _day(30)
    earned = payoff_of(ROWS, [Reign(_day(0), PASS), Reign(change, ACT)], VALUED, MOMENTS)
    later = np.array([moment >= change for moment in ROWS.column("decided_at").to_pylist()])
    assert np.array_equal(earned, np.where(later, _worth(act=True), _worth(act=False)))


def test_of_two_models_of_one_moment_the_later_one_decides() -> None:
    earned = payoff_of(ROWS, [Reign(_day(0), PASS), Reign(_day(0), ACT)], VALUED, MOMENTS)
    assert np.array_equal(earned, _worth(act=True))


def test_rows_before_the_first_model_are_refused() -> None:
    with pytest.raises(ValueError, match="a model for every row"):
        payoff_of(ROWS, [Reign(_day(1), ACT)], VALUED, MOMENTS)


def test_policies_are_compared_on_the_same_rows_and_a_losing_gate_shows_as_losing() -> None:
    better, worse = (ACT, PASS) if _worth(act=True).sum() > 0 else (PASS, ACT)
    found = compare_policies(
        SPEC,
        ROWS,
        champions=[Reign(_day(0), worse)],
        challengers=[Reign(_day(0), worse), Reign(_day(10), better)],
        fresh=[Reign(_day(0), better)],
    )
    assert set(found.policies) == set(POLICIES)
    assert found.rows == ROWS.num_rows
    assert found.policies["gate"]["minus_gate"] == 0
    assert found.policies["never"]["minus_gate"] == 0
    assert found.policies["always"]["minus_gate"] > 0
    assert found.policies["act_never"]["total_usd"] == 0
    assert found.policies["act_always"]["total_usd"] == pytest.approx(_worth(act=True).sum())


def test_what_withholding_costs_is_always_minus_always_fresh() -> None:
    found = compare_policies(
        SPEC,
        ROWS,
        champions=[Reign(_day(0), PASS)],
        challengers=[Reign(_day(0), PASS)],
        fresh=[Reign(_day(0), ACT)],
    )
    assert found.withholding["minus_gate"] == pytest.approx(-_worth(act=True).sum())


def test_fresh_ranges_use_every_mature_local_day_and_no_other() -> None:
    found = fresh_ranges(SPEC, datetime(2013, 4, 1, 4, tzinfo=UTC))
    assert (found.fit_start, found.calibrate_end) == ("2012-10-01", "2013-03-30")
    assert (found.fit_end, found.calibrate_start) == ("2013-02-28", "2013-03-02")


def test_a_refit_reads_no_row_that_was_not_mature_when_it_was_made() -> None:
    as_of = _day(50)
    recipe = Recipe("m.1", as_of, {"max_depth": 3, "learning_rate": 0.2}, COLUMNS)
    learner = models.learner_for(SPEC.train.estimator)
    known = pa.table(ROWS).filter([day < "2013-02-18" for day in ROWS.column("day").to_pylist()])
    today, later = (refit(SPEC, table, recipe, learner).decide(ROWS)[0] for table in (known, ROWS))
    assert np.array_equal(today, later)


def test_under_a_capacity_a_day_is_decided_whole_by_the_model_that_serves_at_its_first_row() -> None:
    plain = SPEC.model_dump(mode="json")
    plain["business"]["decision"]["capacity"] = {"at_most": 3}
    limited = ModelSpec.model_validate(plain)
    shuffled = ROWS.take(np.random.default_rng(2).permutation(ROWS.num_rows))
    noon = _day(30) + timedelta(minutes=610)  # amid the rows of that day
    three = ConstantDecision(act=True, probability=0.5, capacity=3)
    found = compare_policies(
        limited,
        shuffled,
        champions=[Reign(_day(0), PASS), Reign(noon, three)],
        challengers=[Reign(_day(0), three)],
        fresh=[Reign(_day(0), three)],
    )
    day = np.array(ROWS.column("day").to_pylist())
    acted = three.decide(ROWS)[1]
    assert set(np.unique(day[acted], return_counts=True)[1]) == {3}
    assert found.policies["act_always"]["total_usd"] == pytest.approx(_worth(act=True)[acted].sum())
    later = acted & (day > _day(30).date().isoformat())
    assert found.policies["gate"]["total_usd"] == pytest.approx(_worth(act=True)[later].sum())
    assert (found.start, found.end) == (_day(0), max(ROWS.column("decided_at").to_pylist()))
