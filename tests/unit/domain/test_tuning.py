import math
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.spec import Dimension
from ratchet.domain.tuning import (
    FEWEST_ROWS,
    Plan,
    distinct,
    earlier_days,
    edges,
    exhausted,
    grown,
    kept_of,
    lags,
    newcomer_leads,
    next_step,
    overspent,
    possible_gain,
    previous_best,
    seconds_of,
    stride_of,
)

SPACE = {
    "max_depth": Dimension(int=(2, 6)),
    "n_estimators": Dimension(int=(50, 300)),
    "min_child_weight": Dimension(float=(1.0, 50.0), log=True),
    "subsample": Dimension(float=(0.5, 1.0)),
    "grow_policy": Dimension(categorical=("depthwise", "lossguide")),
}
PARAMS = {"max_depth": 3, "n_estimators": 100, "min_child_weight": 9.0, "subsample": 0.7, "grow_policy": "depthwise"}


@dataclass(frozen=True)
class Ended:
    number: int
    value: float
    params: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    state: str = "finished"


def study(*values: float, **params: Any) -> list[Ended]:
    return [Ended(number, value, {"of": number} | params) for number, value in enumerate(values)]


@given(trials=st.integers(1, 200), previous=st.integers(0, 3))
def test_no_plan_spends_more_than_the_trials_and_each_fits_something_on_all_rows(trials, previous):
    plan = Plan.of(trials, previous)
    parts = (plan.previous, plan.proposed, plan.kept, plan.steps)
    assert min(parts) >= 0
    assert sum(parts) <= trials
    assert plan.previous + plan.kept >= 1


def test_a_retune_of_three_trials_repeats_what_was_best_and_explores_with_what_is_left():
    assert Plan.of(3, 3) == Plan(3, 0, 0, 0)
    assert Plan.of(6, 3) == Plan(3, 1, 2, 0)


def test_a_cold_start_of_few_trials_fits_a_third_of_them_on_all_rows():
    assert Plan.of(12, 0) == Plan(0, 8, 4, 0)
    assert Plan.of(1, 0) == Plan(0, 0, 1, 0)


@given(rows=st.integers(1, 100_000))
def test_fewer_rows_are_enough_rows_and_never_one_weekday_only(rows):
    stride = stride_of(rows)
    assert stride % 7 != 0
    assert stride == 1 or rows / stride >= FEWEST_ROWS


def days_of(count: int, rows: int = 100) -> dict[str, int]:
    return {(date(2013, 1, 1) + timedelta(days=i)).isoformat(): rows for i in range(count)}


def test_proposals_are_judged_within_a_on_later_days_after_the_gap():
    found = earlier_days(days_of(60), 28, 2)
    assert found.judge == tuple(sorted(days_of(60)))[-28:]
    assert found.fit == tuple(sorted(days_of(60)))[:30]


def test_of_many_rows_days_of_every_weekday_are_fitted_on_with_the_newest_among_them():
    found = earlier_days(days_of(118, rows=400), 28, 2)
    assert found.fit[-1] == sorted(days_of(118))[87]
    assert len(found.fit) == 22
    assert {date.fromisoformat(day).weekday() for day in found.fit} == set(range(7))
    assert len(found.judge) == 28


def test_where_a_is_too_short_there_is_no_hold_out_within_it():
    assert earlier_days(days_of(43), 28, 2) is None
    assert earlier_days(days_of(44), 28, 2) is not None


def test_days_that_have_no_rows_leave_the_gap_as_long():
    gone = {day: rows for day, rows in days_of(60).items() if not "2013-01-25" <= day <= "2013-01-31"}
    found = earlier_days(gone, 28, 2)
    assert max(found.fit) < "2013-01-25"
    assert min(found.judge) == "2013-02-02"


def test_what_was_best_before_is_the_champion_and_then_each_studys_best_in_turn():
    one, other = study(0.3, 0.1, 0.2, at=1), study(0.9, 0.8, at=2)
    champion = {"of": 1, "at": 1}
    found = previous_best(champion, [one, other], most=4)
    assert found == [champion, {"of": 1, "at": 2}, {"of": 2, "at": 1}, {"of": 0, "at": 2}]


def test_trials_that_did_not_finish_were_never_best():
    stopped = [Ended(0, 0.1, {"of": 0}, state="stopped"), Ended(1, math.nan, {"of": 1}, state="refused")]
    assert previous_best(None, [stopped]) == []


def test_a_grown_model_holds_more_and_stays_within_the_space():
    assert grown(PARAMS, SPACE) == PARAMS | {"max_depth": 4, "n_estimators": 150, "min_child_weight": 6.0}
    largest = PARAMS | {"max_depth": 6, "n_estimators": 300, "min_child_weight": 1.0}
    assert grown(largest, SPACE) == largest


def test_what_shrinks_a_model_undoes_what_grew_it():
    assert grown(grown(PARAMS, SPACE), SPACE, by=-1) == PARAMS


def test_after_fewer_rows_a_larger_model_than_won_there_is_fitted_on_all():
    trials = [Ended(0, 0.3, PARAMS | {"max_depth": 5}), Ended(1, 0.2, PARAMS), Ended(2, 0.4, PARAMS | {"max_depth": 2})]
    kept = kept_of(trials, SPACE, 3, {}, warm=False)
    assert kept == [PARAMS, grown(PARAMS, SPACE), PARAMS | {"max_depth": 5}]
    assert kept_of([], SPACE, 3, PARAMS, warm=False) == [PARAMS, grown(PARAMS, SPACE)]


def test_from_the_best_the_next_step_is_a_larger_model_then_a_smaller_one_and_then_none():
    best, worse = Ended(0, 0.2, PARAMS), Ended(1, 0.3, PARAMS | {"max_depth": 5})
    assert next_step([best, worse], SPACE) == grown(PARAMS, SPACE)
    tried = [best, Ended(2, math.nan, grown(PARAMS, SPACE), state="stopped")]
    assert next_step(tried, SPACE) == grown(PARAMS, SPACE, by=-1)
    assert next_step([*tried, Ended(3, 0.4, grown(PARAMS, SPACE, by=-1))], SPACE) is None
    assert next_step([], SPACE) is None


def test_a_retune_grows_what_was_best_before_and_keeps_a_proposal_only_if_it_won_on_fewer_rows():
    other = PARAMS | {"max_depth": 2}
    won, lost = [Ended(0, 0.3, PARAMS), Ended(1, 0.2, other)], [Ended(0, 0.3, PARAMS), Ended(1, 0.4, other)]
    assert kept_of(won, SPACE, 2, PARAMS, warm=True) == [grown(PARAMS, SPACE), other]
    assert kept_of(lost, SPACE, 2, PARAMS, warm=True) == [grown(PARAMS, SPACE)]


def test_a_retune_goes_on_only_where_something_new_is_clearly_better():
    known = [{"of": 0}, {"of": 1}]
    assert newcomer_leads(study(0.300, 0.310, 0.299), known)
    assert not newcomer_leads(study(0.300, 0.310, 0.2999), known)
    assert not newcomer_leads(study(0.300, 0.310), known)
    assert not newcomer_leads([], known)


def test_each_parameter_set_is_tried_once():
    assert distinct([{"a": 1}, {"a": 2}, {"a": 1}]) == [{"a": 1}, {"a": 2}]


def test_a_trial_lags_behind_the_median_at_the_same_share_of_its_rounds():
    others = [[(1 / 3, 0.50), (1 / 2, 0.40)], [(0.34, 0.52), (1 / 2, 0.45)], [(1 / 3, 0.54), (0.51, 0.50)]]
    assert lags([(0.33, 0.53)], others)
    assert not lags([(0.33, 0.51)], others)
    assert not lags([(0.33, 0.53), (1 / 2, 0.44)], others)
    assert not lags([(0.33, 0.99)], others[:2])
    assert not lags([], others)


def test_of_few_trials_any_gain_is_possible():
    assert possible_gain([1.0] * 7, 10) == math.inf
    assert possible_gain([1.0] * 7 + [math.nan], 10) == math.inf


def test_trials_that_are_all_worth_the_same_promise_nothing():
    assert possible_gain([2.0] * 12, 30) == 0.0


def test_the_more_trials_are_left_the_more_they_can_gain():
    payoffs = list(np.random.default_rng(1).normal(size=20))
    gains = [possible_gain(payoffs, left) for left in (1, 5, 25)]
    assert 0 < gains[0] < gains[1] < gains[2]


@pytest.mark.parametrize("tail", ["exponential", "normal", "uniform"])
def test_what_more_draws_gain_on_average_is_no_more_than_was_held_possible(tail):
    random = np.random.default_rng(7)
    draws = getattr(random, tail)(size=(2_000, 16 + 24))
    known, more = draws[:, :16], draws[:, 16:]
    gained = np.maximum(more.max(axis=1) - known.max(axis=1), 0).mean()
    held_possible = np.mean([possible_gain(list(row), 24) for row in known])
    assert gained <= held_possible <= 20 * gained


def valued(*payoffs: float) -> list[Ended]:
    return [Ended(i, 0.3, attributes={"payoff_per_decision": p}) for i, p in enumerate(payoffs)]


def test_a_study_stops_when_the_gain_still_possible_is_less_than_the_gate_counts():
    near = valued(*np.linspace(10.0, 10.01, 16))
    assert "the gate counts no less than 0.05" in str(exhausted(near, 24, 0.05))
    assert exhausted(near, 24, 0.0001) is None
    assert exhausted(valued(*np.linspace(9.0, 12.0, 16)), 24, 0.05) is None


def test_where_any_gain_counts_no_study_stops_for_want_of_one():
    assert exhausted(valued(*[10.0] * 16), 24, 0.0) is None


def test_a_payoff_that_is_not_known_is_no_evidence():
    assert exhausted([Ended(i, 0.3, attributes={"payoff_per_decision": None}) for i in range(16)], 24, 0.05) is None


def test_a_stopped_trial_took_its_share_of_what_the_others_took():
    trials = [
        Ended(0, 0.3, attributes={"seconds": 4.0}),
        Ended(1, 0.3, attributes={"seconds": 8.0}),
        Ended(2, 0.5, attributes={"share": 0.5}, state="stopped"),
        Ended(3, math.nan, state="refused"),
    ]
    assert seconds_of(trials) == pytest.approx(15.0)
    assert overspent(trials, 30.0, threads=2) == "30 of 30 core seconds are spent"
    assert overspent(trials, 31.0, threads=2) is None
    assert overspent(trials, None, threads=2) is None


def test_a_winner_on_a_bound_that_could_be_moved_is_told_with_the_bound():
    winner = PARAMS | {"max_depth": 6, "min_child_weight": 1.01, "subsample": 1.0}
    assert edges(winner, SPACE) == {"max_depth": 6, "min_child_weight": 1.0}


def test_where_a_parameter_ends_by_its_nature_is_no_edge():
    space = {"subsample": Dimension(float=(0.5, 1.0)), "gamma": Dimension(float=(0.0, 5.0))}
    assert edges({"subsample": 1.0, "gamma": 0.0}, space) == {}
    assert edges({"subsample": 0.5, "gamma": 5.0}, space) == {"subsample": 0.5, "gamma": 5.0}


def test_a_parameter_without_a_range_has_no_edge():
    space = {"max_depth": Dimension(int=(4, 4)), "grow_policy": Dimension(categorical=("depthwise", "lossguide"))}
    assert edges({"max_depth": 4, "grow_policy": "lossguide"}, space) == {}
