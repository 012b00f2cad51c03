"""How well each day's best are ranked: scikit-learn's values, day by day, and what each day adds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, precision_score

from ratchet.domain.capacity import best_of_each
from ratchet.domain.inference import group
from ratchet.domain.metrics import RANKING
from ratchet.domain.ranking import by_day, leave_one_out

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=2, max_size=40)
ROOM = st.integers(1, 8)


def ranked(rows: list, room: int, seed: int = 0) -> tuple:
    """Labels, scores without ties, each day's best, and the days."""
    day, label = (np.array(column) for column in zip(*rows, strict=True))
    score = np.random.default_rng(seed).permutation(label.size) - label.size / 2
    days = group(day)
    return label, score.astype(float), best_of_each(score, days.codes, room), days


@settings(deadline=None, derandomize=True)
@given(ROWS, ROOM)
def test_each_days_value_is_that_of_scikit_learn(rows: list, room: int) -> None:
    label, score, act, days = ranked(rows, room)
    precision, ndcg = (by_day(name, label, score, act, days) for name in ("precision_at_k", "ndcg_at_k"))
    for code in range(days.rows.size):
        mine = days.codes == code
        assert precision[code] == pytest.approx(precision_score(label[mine], act[mine], zero_division=0))
        if mine.sum() > 1:  # scikit-learn ranks no single row
            assert ndcg[code] == pytest.approx(ndcg_score([label[mine]], [score[mine]], k=room))


@settings(deadline=None, derandomize=True)
@given(ROWS, ROOM)
def test_leaving_a_day_out_is_asking_without_its_rows(rows: list, room: int) -> None:
    label, score, act, days = ranked(rows, room)
    for name in RANKING:
        value, without = leave_one_out(name, label, score, act, days)
        assert value == pytest.approx(by_day(name, label, score, act, days).mean())
        for code in range(days.rows.size):
            kept = days.codes != code
            if not kept.any():
                assert np.isnan(without[code])
                continue
            rest = leave_one_out(name, label[kept], score[kept], act[kept], group(days.codes[kept]))[0]
            assert without[code] == pytest.approx(rest)


@settings(deadline=None, derandomize=True)
@given(ROWS, ROOM, st.floats(-1e6, 1e6), st.floats(0.01, 100))
def test_only_the_order_within_a_day_counts(rows: list, room: int, level: float, scale: float) -> None:
    label, score, act, days = ranked(rows, room)
    moved = score * scale + level * days.codes
    for name in RANKING:
        assert by_day(name, label, moved, act, days).tolist() == by_day(name, label, score, act, days).tolist()


def test_of_equal_scores_the_first_row_ranks_higher_as_it_is_the_one_acted_on() -> None:
    days, score = group(np.array([0, 0, 0])), np.zeros(3)
    act = best_of_each(score, days.codes, 1)
    assert act.tolist() == [True, False, False]
    for name in RANKING:
        assert by_day(name, np.array([1, 0, 0]), score, act, days).tolist() == [1.0]
        assert by_day(name, np.array([0, 1, 1]), score, act, days).tolist() == [0.0]


def test_a_day_with_fewer_rows_than_the_capacity_is_taken_whole_and_its_order_still_counts() -> None:
    days, label = group(np.array([0, 0])), np.array([0, 1])
    for score, ndcg in ((np.array([0.0, 1.0]), 1.0), (np.array([1.0, 0.0]), 1 / np.log2(3))):
        act = best_of_each(score, days.codes, 5)
        assert act.all()
        assert by_day("precision_at_k", label, score, act, days).tolist() == [0.5]
        assert by_day("ndcg_at_k", label, score, act, days).tolist() == [pytest.approx(ndcg)]


@pytest.mark.parametrize("name", RANKING)
def test_a_day_without_positives_has_zero_and_a_score_that_is_no_number_has_none(name: str) -> None:
    days, score = group(np.array([0, 0, 1, 1])), np.array([2.0, 1.0, 2.0, 1.0])
    act = best_of_each(score, days.codes, 1)
    assert by_day(name, np.array([0, 0, 1, 0]), score, act, days).tolist() == [0.0, 1.0]
    for bad in (np.nan, np.inf):
        broken = np.array([bad, 1.0, 2.0, 1.0])
        assert np.isnan(by_day(name, np.array([1, 0, 1, 0]), broken, act, days)).all()
        assert np.isnan(leave_one_out(name, np.array([1, 0, 1, 0]), broken, act, days)[0])
